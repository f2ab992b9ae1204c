//! The form in which functions and operators are told to the analyzer.
//!
//! Tables of pairs, PostgreSQL's signature and SQLite's expression:
//!
//! ```text
//! ("length(text) -> int4", "length({0})")
//! ("concat(variadic any) -> text", "rung_concat({*})")
//! ("array_agg(anyelement) -> anyarray", "rung_array_agg({*})")
//! ("+(int4, int4) -> int4", "rung_add_int4({0}, {1})")
//! ("-(int4) -> int4", "rung_negate_int4({0})")
//! ```
//!
//! `{0}` is the first argument, `{*}` all of them with commas, `{t0}` the name of the
//! first argument's type as a string literal (`'int4'`), `{*t}` all arguments, each
//! followed by the name of its type. Types have their internal
//! names (`int4`, `timestamptz`, `_text` for an array), or are `any` (each argument of
//! its own type), `anyelement` and `anyarray` (all bound to one element type),
//! `anynonarray`. `record` as result is a table function's with several columns:
//! `-> record(key text, value jsonb)`, whose types may be generic too. An argument of
//! `any` whose type is unknown becomes text.

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::PgType;

/// Pairs of signature and SQLite expression.
pub(crate) type Lines = &'static [(&'static str, &'static str)];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FunctionKind {
    Scalar,
    Aggregate,
    /// Only with OVER.
    Window,
    /// In FROM, or in a select list, where several columns are one record; the SQLite
    /// expression is a table-valued function whose columns have the names in the
    /// signature, or `value`.
    Table,
    Operator,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SignatureType {
    Is(PgType),
    Any,
    AnyElement,
    AnyNonArray,
    AnyArray,
    Record(Vec<(String, SignatureType)>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Signature {
    pub name: &'static str,
    pub kind: FunctionKind,
    pub arguments: Vec<SignatureType>,
    /// The last argument may be given any number of times, also not at all.
    pub variadic: bool,
    pub result: SignatureType,
    /// SQLite's expression.
    pub template: &'static str,
}

/// All signatures by name.
#[derive(Debug, Default)]
pub(crate) struct Signatures(HashMap<&'static str, Vec<Signature>>);

impl Signatures {
    /// Those that this crate has.
    pub fn get() -> &'static Self {
        static SIGNATURES: OnceLock<Signatures> = OnceLock::new();
        SIGNATURES.get_or_init(|| {
            let windows = (FunctionKind::Window, crate::analyze::window_functions::FUNCTIONS);
            Self::from_tables(crate::functions::TABLES.iter().chain([&windows]))
        })
    }

    fn from_tables<'t>(tables: impl Iterator<Item = &'t (FunctionKind, Lines)>) -> Self {
        let mut all = Self::default();
        for (kind, lines) in tables {
            for (text, template) in *lines {
                let signature = Signature::parse(*kind, text, template);
                all.0.entry(signature.name).or_default().push(signature);
            }
        }
        all
    }

    pub fn named(&self, name: &str) -> &[Signature] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn all(&self) -> impl Iterator<Item = &Signature> {
        self.0.values().flatten()
    }
}

impl Signature {
    /// The tables are part of the program: a line that cannot be read is a bug, which
    /// the first query of any test shows.
    fn parse(kind: FunctionKind, text: &'static str, template: &'static str) -> Self {
        let (head, result) = text.rsplit_once("->").expect("a signature has a result");
        let (name, arguments) = head.split_once('(').expect("a signature has arguments");
        let arguments = arguments.trim_end().strip_suffix(')').expect("arguments are closed");
        let mut variadic = false;
        let arguments = arguments
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| {
                variadic = part.starts_with("variadic ");
                SignatureType::parse(part.trim_start_matches("variadic ").trim())
            })
            .collect();
        let result = SignatureType::parse(result.trim());
        Self { name: name.trim(), kind, arguments, variadic, result, template }
    }
}

impl SignatureType {
    fn parse(text: &str) -> Self {
        match text {
            "any" => Self::Any,
            "anyelement" => Self::AnyElement,
            "anynonarray" => Self::AnyNonArray,
            "anyarray" => Self::AnyArray,
            _ => match text.strip_prefix("record(") {
                Some(columns) => Self::Record(Self::record(columns.trim_end_matches(')'))),
                None => Self::Is(Self::named(text)),
            },
        }
    }

    fn record(columns: &str) -> Vec<(String, Self)> {
        let pairs = columns.split(',').filter_map(|column| column.trim().split_once(' '));
        pairs.map(|(name, data_type)| (name.to_owned(), Self::parse(data_type.trim()))).collect()
    }

    fn named(name: &str) -> PgType {
        match name.strip_prefix('_') {
            Some(element) => PgType::Array(Box::new(Self::named(element))),
            None => PgType::from_name(name)
                .unwrap_or_else(|| panic!("a signature has the unknown type {name}")),
        }
    }
}

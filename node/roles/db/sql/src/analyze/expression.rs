//! An expression that has been understood: SQLite's text and PostgreSQL's type.

use rusqlite::types::Value;

use crate::statement::LiteralKind;
use crate::{PgType, TypeUse};

/// A column of the catalog that a value comes from unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub table_oid: u32,
    pub column_number: i16,
}

/// What an expression is as long as its type may still be decided by its context.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Form {
    /// SQLite's text; it can stand anywhere without parentheses around it.
    Sql(String),
    /// A string literal of type unknown, or the digits of a number.
    Literal(String),
    /// A literal whose value is given when the statement is executed, as that of a
    /// parameter is, but which has the type of a literal until its place decides.
    Lifted(Lifted),
    Null,
    /// By its number, from 1.
    Parameter(usize),
}

/// A literal that was taken out of the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lifted {
    /// Its number, from 0.
    pub number: usize,
    /// A minus stood before it.
    pub is_negative: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Expression {
    pub form: Form,
    pub data_type: TypeUse,
    pub origin: Option<Origin>,
    pub not_null: bool,
}

impl Expression {
    pub fn sql(text: impl Into<String>, base: PgType) -> Self {
        Self::typed(text, TypeUse { base, modifier: -1 })
    }

    pub fn typed(text: impl Into<String>, data_type: TypeUse) -> Self {
        Self { form: Form::Sql(text.into()), data_type, origin: None, not_null: false }
    }

    pub fn literal(text: impl Into<String>, base: PgType) -> Self {
        let data_type = TypeUse { base, modifier: -1 };
        Self { form: Form::Literal(text.into()), data_type, origin: None, not_null: true }
    }

    pub fn lifted(number: usize, kind: LiteralKind, is_negative: bool) -> Self {
        let base = match kind {
            LiteralKind::Text => PgType::Unknown,
            LiteralKind::Int4 => PgType::Int4,
            LiteralKind::Int8 => PgType::Int8,
            LiteralKind::Numeric => PgType::Numeric,
        };
        let data_type = TypeUse { base, modifier: -1 };
        let form = Form::Lifted(Lifted { number, is_negative });
        Self { form, data_type, origin: None, not_null: true }
    }

    pub fn null() -> Self {
        let data_type = TypeUse { base: PgType::Unknown, modifier: -1 };
        Self { form: Form::Null, data_type, origin: None, not_null: false }
    }

    pub fn base(&self) -> &PgType {
        &self.data_type.base
    }

    pub fn is_unknown(&self) -> bool {
        self.data_type.base == PgType::Unknown
    }

    #[must_use]
    pub fn with_type(mut self, data_type: TypeUse) -> Self {
        self.data_type = data_type;
        self
    }
}

/// The collation that compares values of a type as PostgreSQL does, if it is not
/// that of their stored form.
pub(crate) fn collation(base: &PgType) -> Option<&'static str> {
    match base {
        PgType::Numeric => Some("rung_numeric"),
        PgType::Interval => Some("rung_interval"),
        PgType::Char => Some("RTRIM"),
        _ => None,
    }
}

/// With the collation of its type, where SQLite would not know it.
pub(crate) fn collated(sql: &str, base: &PgType) -> String {
    match collation(base) {
        Some(collation) => format!("({sql} COLLATE {collation})"),
        None if names_collation(sql) => format!("({sql} COLLATE BINARY)"),
        None => sql.to_owned(),
    }
}

/// Whether a collation is named within an expression, perhaps. SQLite compares the
/// whole by it, although it may belong to something of another type, such as to the
/// numbers that a CASE compares to choose between strings.
pub(crate) fn names_collation(sql: &str) -> bool {
    sql.contains("COLLATE")
}

/// A name as SQLite reads it.
pub(crate) fn quoted(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for character in name.chars() {
        if character == '"' {
            text.push('"');
        }
        text.push(character);
    }
    text.push('"');
    text
}

pub(crate) fn quoted_string(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A stored value as SQLite's literal.
pub(crate) fn value_literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        // The smallest has no literal of its own.
        Value::Integer(i64::MIN) => "(-9223372036854775807 - 1)".to_owned(),
        Value::Integer(number) if *number < 0 => format!("({number})"),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) if number.is_infinite() => {
            if *number > 0.0 { "9e999" } else { "(-9e999)" }.to_owned()
        }
        Value::Real(number) => format!("({number:?})"),
        Value::Text(text) => quoted_string(text),
        Value::Blob(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("X'{hex}'")
        }
    }
}

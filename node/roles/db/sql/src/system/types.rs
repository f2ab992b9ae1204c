//! Types, functions, operators and what belongs to them.

use rusqlite::types::Value;

use super::rows::{Rows, row};
use super::{BTREE, HEAP, INFORMATION_SCHEMA, OWNER, PG_CATALOG};
use crate::PgType;
use crate::signature::{FunctionKind, Signature, SignatureType, Signatures};

/// How PostgreSQL holds values of a type, which its clients never need but may read.
pub(super) struct Traits {
    pub by_value: bool,
    pub align: char,
    pub storage: char,
    pub collation: u32,
}

pub(super) fn traits(data_type: &PgType) -> Traits {
    let length = data_type.length();
    let align = match length {
        1 => 'c',
        2 => 's',
        8 | 16 if *data_type != PgType::Uuid => 'd',
        _ if matches!(data_type, PgType::Uuid | PgType::Name) => 'c',
        _ if matches!(data_type, PgType::Record(_)) => 'd',
        _ => 'i',
    };
    let storage = match data_type {
        PgType::Numeric => 'm',
        _ if length == -1 => 'x',
        _ => 'p',
    };
    let collation = match data_type {
        PgType::Text | PgType::Varchar | PgType::Char => 100,
        PgType::Name => 950,
        PgType::Array(element) => traits(element).collation,
        _ => 0,
    };
    Traits { by_value: matches!(length, 1 | 2 | 4 | 8), align, storage, collation }
}

/// The operator class by which a btree orders a type, 0 if it does not.
pub(super) fn operator_class(data_type: &PgType) -> u32 {
    let wanted = match data_type {
        PgType::Varchar => PgType::Text,
        PgType::Array(_) => return 10_000,
        other => other.clone(),
    };
    OPERATOR_CLASSES.iter().find(|class| class.3 == wanted).map_or(0, |class| class.1)
}

/// Name, oid, family, type.
const OPERATOR_CLASSES: &[(&str, u32, u32, PgType)] = &[
    ("bool_ops", 10_003, 424, PgType::Bool),
    ("bytea_ops", 10_006, 428, PgType::Bytea),
    ("char_ops", 10_007, 429, PgType::InternalChar),
    ("name_ops", 10_028, 1994, PgType::Name),
    ("int8_ops", 3124, 1976, PgType::Int8),
    ("int2_ops", 1979, 1976, PgType::Int2),
    ("int4_ops", 1978, 1976, PgType::Int4),
    ("text_ops", 3126, 1994, PgType::Text),
    ("oid_ops", 1981, 1989, PgType::Oid),
    ("float4_ops", 10_012, 1970, PgType::Float4),
    ("float8_ops", 3123, 1970, PgType::Float8),
    ("bpchar_ops", 10_004, 426, PgType::Char),
    ("date_ops", 3122, 434, PgType::Date),
    ("time_ops", 10_038, 1996, PgType::Time),
    ("timestamp_ops", 3128, 434, PgType::Timestamp),
    ("timestamptz_ops", 3127, 434, PgType::Timestamptz),
    ("interval_ops", 10_022, 1982, PgType::Interval),
    ("numeric_ops", 3125, 1988, PgType::Numeric),
    ("uuid_ops", 10_065, 2968, PgType::Uuid),
    ("jsonb_ops", 10_088, 4033, PgType::Jsonb),
];

pub(super) fn operator_classes(rows: &mut Rows<'_>) {
    for (name, oid, family, data_type) in OPERATOR_CLASSES {
        row!(rows,
            oid: *oid, opcmethod: BTREE, opcname: *name, opcnamespace: PG_CATALOG,
            opcowner: OWNER, opcfamily: *family, opcintype: data_type.oid(), opcdefault: true,
        );
    }
}

const TYPES: &[PgType] = &[
    PgType::Bool,
    PgType::Int2,
    PgType::Int4,
    PgType::Int8,
    PgType::Oid,
    PgType::Float4,
    PgType::Float8,
    PgType::Numeric,
    PgType::Text,
    PgType::Varchar,
    PgType::Char,
    PgType::Name,
    PgType::InternalChar,
    PgType::Bytea,
    PgType::Date,
    PgType::Time,
    PgType::Timestamp,
    PgType::Timestamptz,
    PgType::Interval,
    PgType::Json,
    PgType::Jsonb,
    PgType::Uuid,
    PgType::Regclass,
    PgType::Regtype,
    PgType::Void,
    PgType::Unknown,
    PgType::Record(Vec::new()),
];

pub(super) fn types(rows: &mut Rows<'_>) {
    for data_type in TYPES {
        one_type(rows, data_type);
        if data_type.array_oid() != 0 {
            one_type(rows, &PgType::Array(Box::new(data_type.clone())));
        }
    }
}

fn one_type(rows: &mut Rows<'_>, data_type: &PgType) {
    let Traits { by_value, align, storage, collation } = traits(data_type);
    let name = data_type.sql_name();
    let element = match data_type {
        PgType::Array(element) => element.oid(),
        _ => 0,
    };
    let is_pseudo = data_type.is_pseudo();
    let separator = match data_type {
        PgType::Date
        | PgType::Time
        | PgType::Timestamp
        | PgType::Timestamptz
        | PgType::Interval
        | PgType::Numeric
        | PgType::Uuid
        | PgType::Json
        | PgType::Jsonb
        | PgType::Void
        | PgType::Record(_) => "_",
        _ => "",
    };
    let stem = if element != 0 { "array_".to_owned() } else { format!("{name}{separator}") };
    row!(rows,
        oid: data_type.oid(), typname: name, typnamespace: PG_CATALOG, typowner: OWNER,
        typlen: data_type.length(), typbyval: by_value,
        typtype: if is_pseudo { 'p' } else { 'b' }, typcategory: data_type.category(),
        typispreferred: data_type.is_preferred(), typisdefined: true, typdelim: ',',
        typelem: element,
        typarray: if element != 0 { 0 } else { data_type.array_oid() },
        typinput: format!("{stem}in"), typoutput: format!("{stem}out"),
        typreceive: format!("{stem}recv"), typsend: format!("{stem}send"), typmodin: "-",
        typmodout: "-", typanalyze: "-", typsubscript: "-", typalign: align,
        typstorage: storage, typtypmod: -1, typcollation: collation,
    );
}

pub(super) fn access_methods(rows: &mut Rows<'_>) {
    row!(rows, oid: HEAP, amname: "heap", amhandler: "heap_tableam_handler", amtype: 't');
    row!(rows, oid: BTREE, amname: "btree", amhandler: "bthandler", amtype: 'i');
}

/// Text is compared by its bytes, whatever the collation's name.
pub(super) fn collations(rows: &mut Rows<'_>) {
    for (oid, name, provider) in [(100u32, "default", 'd'), (950, "C", 'c'), (951, "POSIX", 'c')] {
        row!(rows,
            oid: oid, collname: name, collnamespace: PG_CATALOG, collowner: OWNER,
            collprovider: provider, collisdeterministic: true, collencoding: -1,
        );
    }
}

pub(super) fn languages(rows: &mut Rows<'_>) {
    for (oid, name, trusted) in [(12u32, "internal", false), (14, "sql", true)] {
        row!(rows, oid: oid, lanname: name, lanowner: OWNER, lanpltrusted: trusted);
    }
}

/// Oids of functions and operators are counted from here, in the order of their names.
const FIRST_FUNCTION: u32 = 20_000_000;

fn sorted(operators: bool) -> Vec<&'static Signature> {
    let mut all: Vec<&Signature> = Signatures::get()
        .all()
        .filter(|signature| (signature.kind == FunctionKind::Operator) == operators)
        .collect();
    all.sort_by_key(|signature| (signature.name, format!("{:?}", signature.arguments)));
    all
}

fn type_oid(data_type: &SignatureType) -> u32 {
    match data_type {
        SignatureType::Is(data_type) => data_type.oid(),
        SignatureType::Any => 2276,
        SignatureType::AnyElement => 2283,
        SignatureType::AnyNonArray => 2776,
        SignatureType::AnyArray => 2277,
        SignatureType::Record(_) => 2249,
    }
}

pub(super) fn functions(rows: &mut Rows<'_>) {
    for (oid, function) in (FIRST_FUNCTION..).zip(sorted(false)) {
        let kind = match function.kind {
            FunctionKind::Aggregate => 'a',
            FunctionKind::Window => 'w',
            _ => 'f',
        };
        let arguments: Vec<u32> = function.arguments.iter().map(type_oid).collect();
        // What only the views of the information schema call is there.
        let schema =
            if function.name.starts_with("_pg_") { INFORMATION_SCHEMA } else { PG_CATALOG };
        row!(rows,
            oid: oid, proname: function.name, pronamespace: schema, proowner: OWNER,
            prolang: 12u32, procost: 1.0, prorows: 0.0,
            provariadic: if function.variadic { 2276u32 } else { 0 },
            prokind: kind, proleakproof: false, proisstrict: true,
            proretset: function.kind == FunctionKind::Table, provolatile: 's',
            proparallel: 's', pronargs: arguments.len() as i32,
            prorettype: type_oid(&function.result), proargtypes: arguments,
            prosrc: function.name,
        );
    }
}

pub(super) fn operators(rows: &mut Rows<'_>) {
    let first = FIRST_FUNCTION + 1_000_000;
    for (oid, operator) in (first..).zip(sorted(true)) {
        let mut arguments = operator.arguments.iter().rev().map(type_oid);
        let right = arguments.next().unwrap_or(0);
        let left = arguments.next().unwrap_or(0);
        row!(rows,
            oid: oid, oprname: operator.name, oprnamespace: PG_CATALOG, oprowner: OWNER,
            oprkind: if left == 0 { 'l' } else { 'b' }, oprleft: left, oprright: right,
            oprresult: type_oid(&operator.result),
        );
    }
}

/// The arguments or the result of a function of `pg_proc`, as its definition has them.
pub(super) fn function_text(oid: Option<i64>, arguments: bool) -> Value {
    let index = oid.and_then(|oid| usize::try_from(oid - i64::from(FIRST_FUNCTION)).ok());
    let functions = sorted(false);
    let Some(function) = index.and_then(|index| functions.get(index)) else {
        return Value::Null;
    };
    let name = |data_type: &SignatureType| -> String {
        match data_type {
            SignatureType::Is(data_type) => data_type.name().to_string(),
            SignatureType::Any => "\"any\"".to_owned(),
            SignatureType::AnyElement => "anyelement".to_owned(),
            SignatureType::AnyNonArray => "anynonarray".to_owned(),
            SignatureType::AnyArray => "anyarray".to_owned(),
            SignatureType::Record(_) => "record".to_owned(),
        }
    };
    if !arguments {
        let set = if function.kind == FunctionKind::Table { "SETOF " } else { "" };
        return Value::Text(format!("{set}{}", name(&function.result)));
    }
    let last = function.arguments.len().saturating_sub(1);
    let texts = function.arguments.iter().enumerate().map(|(place, data_type)| {
        let word = if function.variadic && place == last { "VARIADIC " } else { "" };
        format!("{word}{}", name(data_type))
    });
    Value::Text(texts.collect::<Vec<_>>().join(", "))
}

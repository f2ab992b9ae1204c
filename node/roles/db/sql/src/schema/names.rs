//! Names: how they are read, and how PostgreSQL chooses those that were not given.

use sqlparser::ast::{Ident, ObjectName};

use crate::{Catalog, SqlError, SqlState};

/// Bytes of a name; longer ones are cut, as in PostgreSQL.
const MAXIMUM_BYTES: usize = 63;

/// An identifier as the catalog has it: lower case unless quoted.
pub(super) fn ident(ident: &Ident) -> String {
    let name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    };
    cut(&name, MAXIMUM_BYTES).to_owned()
}

pub(super) fn idents(all: &[Ident]) -> Vec<String> {
    all.iter().map(ident).collect()
}

/// The name of a table, view, index or sequence, which is in the schema `public`.
pub(super) fn object(name: &ObjectName) -> Result<String, SqlError> {
    let parts = parts(name)?;
    let (schema, last) = match parts.as_slice() {
        [last] => ("public", last),
        [schema, last] | [_, schema, last] => (schema.as_str(), last),
        _ => return Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("improper name: {name}"))),
    };
    match schema {
        "public" => Ok(last.clone()),
        "pg_catalog" | "information_schema" => Err(SqlError::new(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied: \"{schema}.{last}\" belongs to the system"),
        )),
        _ => Err(SqlError::new(
            SqlState::INVALID_SCHEMA_NAME,
            format!("schema \"{schema}\" does not exist"),
        )
        .hint("A database has one schema, public.")),
    }
}

/// Every part of a name with dots.
pub(super) fn parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    name.0
        .iter()
        .map(|part| part.as_ident().map(ident))
        .collect::<Option<Vec<_>>>()
        .filter(|parts| parts.iter().all(|part| !part.is_empty()))
        .ok_or_else(|| SqlError::new(SqlState::SYNTAX_ERROR, format!("improper name: {name}")))
}

/// Refuses a name that the schema has already, or that SQLite or Rung keeps.
/// SQLite does not tell names by case, so two that differ by it alone are refused.
pub(super) fn check_new(catalog: &Catalog, name: &str) -> Result<(), SqlError> {
    let lower = name.to_lowercase();
    if lower.starts_with("sqlite_") || lower.starts_with("_rung_") {
        return Err(SqlError::not_supported(
            format!("the name \"{name}\""),
            "Names that begin with sqlite_ or _rung_ are the database's own.",
        ));
    }
    match taken(catalog, name) {
        None => Ok(()),
        Some(other) if other == name => Err(SqlError::new(
            SqlState::DUPLICATE_TABLE,
            format!("relation \"{name}\" already exists"),
        )),
        Some(other) => Err(SqlError::not_supported(
            format!("the name \"{name}\" beside \"{other}\""),
            "Names must differ by more than the case of letters.",
        )),
    }
}

/// The name in the schema that is the same when case is ignored.
pub(super) fn taken<'a>(catalog: &'a Catalog, name: &str) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let relations = catalog.relations.values().flat_map(|relation| {
        std::iter::once(relation.name.as_str())
            .chain(relation.indexes.iter().map(|index| index.name.as_str()))
            .chain(relation.keys().map(|key| key.name.as_str()))
    });
    relations
        .chain(catalog.sequences.keys().map(String::as_str))
        .find(|other| other.to_lowercase() == lower)
}

/// `first_second_label`, cut so that it fits, and with a number if that is taken.
pub(super) fn choose(
    first: &str,
    second: &str,
    label: &str,
    is_taken: impl Fn(&str) -> bool,
) -> String {
    let mut suffix = String::new();
    let mut number = 0;
    loop {
        let name = compose(first, second, &format!("{label}{suffix}"));
        if !is_taken(&name) {
            return name;
        }
        number += 1;
        suffix = number.to_string();
    }
}

/// The longer of the two is cut first, as PostgreSQL's makeObjectName does.
fn compose(first: &str, second: &str, label: &str) -> String {
    let joints = if second.is_empty() { 1 } else { 2 };
    let available = MAXIMUM_BYTES.saturating_sub(label.len() + joints);
    let (mut a, mut b) = (first.len(), second.len());
    while a + b > available {
        if a > b {
            a -= 1;
        } else {
            b -= 1;
        }
    }
    let first = cut(first, a);
    match second {
        "" => format!("{first}_{label}"),
        _ => format!("{first}_{}_{label}", cut(second, b)),
    }
}

fn cut(name: &str, bytes: usize) -> &str {
    let mut end = bytes.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// A name in double quotes, for SQLite and where PostgreSQL needs them.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A name as PostgreSQL prints it: quoted only if it must be.
pub(crate) fn quote_if_needed(name: &str) -> String {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if starts && plain && !RESERVED.contains(&name) { name.to_owned() } else { quote(name) }
}

/// PostgreSQL's reserved words, which cannot be names without quotes.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

#[cfg(test)]
mod tests {
    use super::{choose, quote_if_needed};

    #[test]
    fn names_are_chosen_as_postgresql_chooses_them() {
        assert_eq!(choose("t", "a", "key", |_| false), "t_a_key");
        assert_eq!(choose("t", "", "pkey", |name| name == "t_pkey"), "t_pkey1");
        let long = choose(&"x".repeat(70), "column", "seq", |_| false);
        assert_eq!(long.len(), 63);
        assert!(long.ends_with("_column_seq"), "{long}");
    }

    #[test]
    fn names_are_quoted_where_postgresql_needs_it() {
        assert_eq!(quote_if_needed("orders_2"), "orders_2");
        assert_eq!(quote_if_needed("Order"), "\"Order\"");
        assert_eq!(quote_if_needed("order"), "\"order\"");
    }
}

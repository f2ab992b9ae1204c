//! The statements that make SQLite's tables and indexes of the catalog's.
//!
//! What SQLite has is a function of the catalog. Column types are those of the stored
//! forms (see [`PgType`]); tables are STRICT, so that a value of another form is an
//! error rather than a row that compares wrongly. Unique constraints are indexes with
//! the constraint's name. A primary key of one integer is the row's number; a nullable
//! value for it is refused by the analyzer, since SQLite would choose a number.

use sqlparser::ast::Expr;

use super::names::{self, quote};
use super::translate;
use crate::analyze;
use crate::parse::{parse_expression, parse_query};
use crate::{
    Catalog, Column, Constraint, ConstraintKind, Context, Index, PgType, Relation, SqlError,
};

/// How the rows of a table lie in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// By a number that is the column of this name too.
    Numbered(String),
    /// By the columns of the primary key.
    Keyed(Vec<String>),
    /// By a number that nobody sees.
    Hidden,
}

/// SQLite's type and collation for values of a type.
pub(crate) fn storage(data_type: &PgType) -> (&'static str, Option<&'static str>) {
    match data_type {
        PgType::Bool
        | PgType::Int2
        | PgType::Int4
        | PgType::Int8
        | PgType::Oid
        | PgType::Regclass
        | PgType::Regtype
        | PgType::Date
        | PgType::Time
        | PgType::Timestamp
        | PgType::Timestamptz => ("INTEGER", None),
        PgType::Float4 | PgType::Float8 => ("REAL", None),
        PgType::Bytea => ("BLOB", None),
        PgType::Numeric => ("TEXT", Some("rung_numeric")),
        PgType::Interval => ("TEXT", Some("rung_interval")),
        PgType::Char => ("TEXT", Some("RTRIM")),
        PgType::Text
        | PgType::Varchar
        | PgType::Name
        | PgType::InternalChar
        | PgType::Json
        | PgType::Jsonb
        | PgType::Uuid
        | PgType::Void
        | PgType::Unknown
        | PgType::Array(_)
        | PgType::Record(_) => ("TEXT", None),
    }
}

/// A key of short rows holds them itself, which saves a second tree.
pub(super) fn layout(relation: &Relation) -> Layout {
    let Some(key) = relation.primary_key() else {
        return Layout::Hidden;
    };
    let column = |name: &String| relation.column(name).map(|column| &column.data_type.base);
    if let [only] = key.columns.as_slice()
        && matches!(column(only), Some(PgType::Int2 | PgType::Int4 | PgType::Int8))
    {
        return Layout::Numbered(only.clone());
    }
    let is_short = |column: &Column| {
        storage(&column.data_type.base).0 == "INTEGER" || key.columns.contains(&column.name)
    };
    if relation.columns.len() <= 8 && relation.columns.iter().all(is_short) {
        return Layout::Keyed(key.columns.clone());
    }
    Layout::Hidden
}

/// `CREATE TABLE` for a table under a name of its own.
pub(super) fn table(
    relation: &Relation,
    name: &str,
    with_foreign_keys: bool,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let layout = layout(relation);
    let mut parts = Vec::with_capacity(relation.columns.len() + relation.constraints.len());
    for column in &relation.columns {
        parts.push(self::column(column, &layout, relation, catalog, context)?);
    }
    for constraint in &relation.constraints {
        match &constraint.kind {
            ConstraintKind::PrimaryKey => {
                if let Layout::Keyed(columns) = &layout {
                    parts.push(format!("PRIMARY KEY ({})", quote_all(columns)));
                }
            }
            ConstraintKind::Unique => {}
            ConstraintKind::Check { expression } => {
                let expression = parse_expression(expression)?;
                let condition = translate::condition(&expression, relation, catalog, context)?;
                parts.push(format!("CONSTRAINT {} CHECK ({condition})", quote(&constraint.name)));
            }
            ConstraintKind::ForeignKey { .. } if with_foreign_keys => {
                parts.push(foreign_key(constraint));
            }
            ConstraintKind::ForeignKey { .. } => {}
        }
    }
    if parts.is_empty() {
        // PostgreSQL has tables without columns, SQLite has not.
        parts.push("\"_rung_none\" INTEGER".to_owned());
    }
    let rowid = if matches!(layout, Layout::Keyed(_)) { ", WITHOUT ROWID" } else { "" };
    Ok(format!("CREATE TABLE {} ({}) STRICT{rowid}", quote(name), parts.join(", ")))
}

fn column(
    column: &Column,
    layout: &Layout,
    relation: &Relation,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let (storage, collation) = storage(&column.data_type.base);
    let mut text = format!("{} {storage}", quote(&column.name));
    if matches!(layout, Layout::Numbered(name) if *name == column.name) {
        text.push_str(" PRIMARY KEY");
    }
    if column.not_null {
        text.push_str(" NOT NULL");
    }
    if let Some(collation) = collation {
        text.push_str(" COLLATE ");
        text.push_str(collation);
    }
    if column.generated
        && let Some(expression) = &column.default
    {
        let value = translate::assignment(
            &parse_expression(expression)?,
            &column.data_type,
            Some(relation),
            catalog,
            context,
        )?;
        text.push_str(&format!(" GENERATED ALWAYS AS ({value}) STORED"));
    }
    Ok(text)
}

fn foreign_key(constraint: &Constraint) -> String {
    let ConstraintKind::ForeignKey {
        table,
        columns,
        on_update,
        on_delete,
        deferrable,
        initially_deferred,
    } = &constraint.kind
    else {
        return String::new();
    };
    let deferral = match (deferrable, initially_deferred) {
        (_, true) => " DEFERRABLE INITIALLY DEFERRED",
        (true, false) => " DEFERRABLE INITIALLY IMMEDIATE",
        (false, false) => "",
    };
    format!(
        "CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) ON UPDATE {on_update} \
         ON DELETE {on_delete}{deferral}",
        quote(&constraint.name),
        quote_all(&constraint.columns),
        quote(table),
        quote_all(columns),
    )
}

/// `CREATE UNIQUE INDEX` for a primary key or unique constraint; None if the table
/// itself is ordered by it.
pub(super) fn key_index(relation: &Relation, constraint: &Constraint) -> Option<String> {
    if constraint.kind == ConstraintKind::PrimaryKey && layout(relation) != Layout::Hidden {
        return None;
    }
    Some(format!(
        "CREATE UNIQUE INDEX {} ON {} ({})",
        quote(&constraint.name),
        quote(&relation.name),
        quote_all(&constraint.columns)
    ))
}

/// `CREATE INDEX` for an index that no constraint owns.
pub(super) fn index(
    relation: &Relation,
    index: &Index,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let translate = |text: &str| match parse_expression(text)? {
        Expr::Identifier(column) => Ok(quote(&names::ident(&column))),
        expression => translate::expression(&expression, relation, catalog, context),
    };
    let mut keys = Vec::with_capacity(index.keys.len());
    for key in &index.keys {
        let (expression, descending) = split_key(key);
        let direction = if descending { " DESC" } else { "" };
        keys.push(format!("{}{direction}", translate(expression)?));
    }
    let condition = match &index.predicate {
        Some(predicate) => {
            let predicate = parse_expression(predicate)?;
            format!(" WHERE {}", translate::condition(&predicate, relation, catalog, context)?)
        }
        None => String::new(),
    };
    Ok(format!(
        "CREATE {}INDEX {} ON {} ({}){condition}",
        if index.unique { "UNIQUE " } else { "" },
        quote(&index.name),
        quote(&relation.name),
        keys.join(", ")
    ))
}

/// An index key's expression, and whether it descends. Where nulls stand in an index
/// does not show in SQLite: it sorts those of a query as the query says.
pub(crate) fn split_key(key: &str) -> (&str, bool) {
    let key = key.strip_suffix(" NULLS FIRST").or(key.strip_suffix(" NULLS LAST")).unwrap_or(key);
    match key.strip_suffix(" DESC") {
        Some(expression) => (expression, true),
        None => (key, false),
    }
}

/// `CREATE VIEW`.
pub(super) fn view(
    relation: &Relation,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let query = parse_query(relation.definition.as_deref().unwrap_or_default())?;
    let translated = analyze::translate_query(&query, catalog, context)?;
    let columns: Vec<String> = relation.columns.iter().map(|c| c.name.clone()).collect();
    Ok(format!(
        "CREATE VIEW {} ({}) AS {}",
        quote(&relation.name),
        quote_all(&columns),
        translated.text
    ))
}

pub(super) fn quote_all(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

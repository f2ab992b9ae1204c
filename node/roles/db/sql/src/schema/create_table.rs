//! `CREATE TABLE`, also from a query.

use sqlparser::ast::{
    CreateTable, CreateTableLike, CreateTableLikeDefaults, CreateTableLikeKind, CreateTableOptions,
    Expr, Ident, ObjectName, Query, SqlOption,
};

use super::change::Change;
use super::{columns, constraints, names};
use crate::analyze;
use crate::{Column, Relation, RelationKind, SqlError, SqlState};

/// Rows to be put into a table once it is there: SQLite's query.
pub(super) struct Rows {
    pub table: String,
    pub query: String,
}

pub(super) fn create(
    change: &mut Change<'_>,
    statement: &CreateTable,
) -> Result<Option<Rows>, SqlError> {
    refuse_clauses(statement)?;
    let name = names::object(&statement.name)?;
    if statement.if_not_exists && names::taken(&change.after, &name) == Some(name.as_str()) {
        return Ok(None);
    }
    names::check_new(&change.after, &name)?;
    if let Some(query) = &statement.query {
        return from_query(change, name, query, statement).map(Some);
    }
    let mut table = empty(change, name)?;
    if let Some(CreateTableLikeKind::Parenthesized(like) | CreateTableLikeKind::Plain(like)) =
        &statement.like
    {
        copy_columns(change, &mut table, like)?;
    }
    let mut declared = Vec::new();
    for column in &statement.columns {
        declared.extend(columns::add(change, &mut table, column)?);
    }
    for constraint in declared.iter().chain(&statement.constraints) {
        constraints::add(change, &mut table, constraint)?;
    }
    change.put(table);
    Ok(None)
}

fn empty(change: &Change<'_>, name: String) -> Result<Relation, SqlError> {
    Ok(Relation {
        oid: change.oid()?,
        name,
        kind: RelationKind::Table,
        columns: Vec::new(),
        constraints: Vec::new(),
        indexes: Vec::new(),
        definition: None,
        comment: None,
        next_column: 1,
    })
}

fn refuse_clauses(statement: &CreateTable) -> Result<(), SqlError> {
    let refusals = [
        (statement.temporary, "a temporary table", "Use an ordinary table and drop it, or WITH."),
        (statement.partition_by.is_some(), "PARTITION BY", "Use one table; shards split it."),
        (statement.partition_of.is_some(), "PARTITION OF", "Use one table; shards split it."),
        (statement.inherits.is_some(), "INHERITS", "Repeat the columns, or use LIKE."),
        (statement.on_commit.is_some(), "ON COMMIT", "Delete the rows in the transaction."),
        (statement.external || statement.location.is_some(), "an external table", "Use COPY."),
        (statement.or_replace, "CREATE OR REPLACE TABLE", "Use DROP TABLE IF EXISTS before."),
        (
            statement.without_rowid || statement.strict,
            "SQLite's table options",
            "Leave them out: the database chooses how rows are stored.",
        ),
    ];
    if let Some((_, what, hint)) = refusals.into_iter().find(|(present, ..)| *present) {
        return Err(SqlError::not_supported(what, hint));
    }
    match &statement.table_options {
        CreateTableOptions::None => Ok(()),
        CreateTableOptions::With(options) => options.iter().try_for_each(check_option),
        other => Err(SqlError::not_supported(format!("{other}"), "Leave the clause out.")),
    }
}

/// Storage parameters are advice to PostgreSQL's storage, which this database has not;
/// the well-known ones are accepted.
pub(super) fn check_option(option: &SqlOption) -> Result<(), SqlError> {
    let text = option.to_string().to_ascii_lowercase();
    let name = text.split(['=', ' ']).next().unwrap_or_default();
    if name == "fillfactor" || name.starts_with("autovacuum_") || name.starts_with("toast") {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("unrecognized parameter \"{name}\""),
    ))
}

/// `LIKE other [INCLUDING DEFAULTS]`: names, types and NOT NULL.
fn copy_columns(
    change: &Change<'_>,
    table: &mut Relation,
    like: &CreateTableLike,
) -> Result<(), SqlError> {
    let other = change.relation(&like.name)?;
    let with_defaults = matches!(like.defaults, Some(CreateTableLikeDefaults::Including));
    for (number, column) in (1..).zip(&other.columns) {
        let default = column.default.clone().filter(|_| with_defaults && !column.generated);
        table.columns.push(Column {
            number,
            default,
            identity: None,
            generated: false,
            sequence: None,
            comment: None,
            ..column.clone()
        });
    }
    table.next_column = table.columns.len() as i16 + 1;
    Ok(())
}

fn from_query(
    change: &mut Change<'_>,
    name: String,
    query: &Query,
    statement: &CreateTable,
) -> Result<Rows, SqlError> {
    let names: Vec<String> =
        statement.columns.iter().map(|column| names::ident(&column.name)).collect();
    let with_data = statement.with_data.as_ref().is_none_or(|with| with.data);
    let rows = new_from_query(change, name, query, &names)?;
    let nothing = format!("SELECT * FROM ({}) LIMIT 0", rows.query);
    Ok(if with_data { rows } else { Rows { query: nothing, ..rows } })
}

/// A table with the columns of a query; the first ones may be given other names.
fn new_from_query(
    change: &mut Change<'_>,
    name: String,
    query: &Query,
    column_names: &[String],
) -> Result<Rows, SqlError> {
    let translated = analyze::translate_query(query, &change.after, change.context)?;
    if column_names.len() > translated.columns.len() {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "too many column names were specified"));
    }
    let mut table = empty(change, name)?;
    for (index, column) in translated.columns.iter().enumerate() {
        let name = column_names.get(index).unwrap_or(&column.name).clone();
        if table.columns.iter().any(|other| other.name.to_lowercase() == name.to_lowercase()) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        columns::check_storable(&name, &column.data_type)?;
        table.columns.push(Column {
            name,
            number: index as i16 + 1,
            data_type: column.data_type.clone(),
            not_null: false,
            default: None,
            identity: None,
            generated: false,
            sequence: None,
            comment: None,
        });
    }
    table.next_column = table.columns.len() as i16 + 1;
    let rows = Rows { table: table.name.clone(), query: translated.text };
    change.put(table);
    Ok(rows)
}

/// `SELECT ... INTO name`, with the INTO taken out of the query.
pub(super) fn select_into(
    change: &mut Change<'_>,
    targets: &[Expr],
    query: &Query,
) -> Result<Rows, SqlError> {
    let parts: Vec<Ident> = match targets {
        [Expr::Identifier(name)] => vec![name.clone()],
        [Expr::CompoundIdentifier(parts)] => parts.clone(),
        _ => return Err(SqlError::new(SqlState::SYNTAX_ERROR, "INTO takes the name of a table")),
    };
    let name = names::object(&ObjectName::from(parts))?;
    names::check_new(&change.after, &name)?;
    new_from_query(change, name, query, &[])
}

/// Puts the rows in; gives their number.
pub(super) fn insert(change: &Change<'_>, rows: &Rows) -> Result<usize, SqlError> {
    let text = format!("INSERT INTO {} {}", names::quote(&rows.table), rows.query);
    change.connection.execute(&text, []).map_err(super::errors::recognised)
}

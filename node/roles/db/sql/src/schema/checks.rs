//! Whether the rows that exist satisfy constraints that are new.

use super::change::Change;
use super::names::quote;
use super::translate;
use crate::catalog_store::store_error;
use crate::parse::parse_expression;
use crate::{Constraint, ConstraintKind, Relation, SqlError, SqlState};

/// Columns that become NOT NULL. To be asked before SQLite knows it, since from then on
/// it does not look. Rows that are written anew are checked as they are written.
pub(super) fn nulls(
    change: &Change<'_>,
    before: &Relation,
    after: &Relation,
) -> Result<(), SqlError> {
    for column in after.columns.iter().filter(|column| column.not_null && !column.generated) {
        if change.values.contains_key(&(after.oid, column.number)) {
            continue;
        }
        let condition = match before.columns.iter().find(|old| old.number == column.number) {
            Some(old) if old.not_null => continue,
            Some(old) => format!("{} IS NULL", quote(&old.name)),
            None => "true".to_owned(),
        };
        if any_row(change, &quote(&before.name), &condition)? {
            return Err(contains_null(&column.name, &after.name));
        }
    }
    Ok(())
}

/// Checks and foreign keys that are new.
pub(super) fn new_constraints(
    change: &Change<'_>,
    before: &Relation,
    after: &Relation,
) -> Result<(), SqlError> {
    for constraint in &after.constraints {
        if before.constraints.iter().any(|old| old.oid == constraint.oid) {
            continue;
        }
        match &constraint.kind {
            ConstraintKind::Check { expression } => check(change, after, constraint, expression)?,
            ConstraintKind::ForeignKey { table, columns, .. } => {
                foreign_key(change, after, constraint, table, columns)?;
            }
            ConstraintKind::PrimaryKey | ConstraintKind::Unique => {}
        }
    }
    Ok(())
}

pub(super) fn contains_null(column: &str, table: &str) -> SqlError {
    let mut error = SqlError::new(
        SqlState::NOT_NULL_VIOLATION,
        format!("column \"{column}\" of relation \"{table}\" contains null values"),
    );
    error.table = Some(table.to_owned());
    error.column = Some(column.to_owned());
    error
}

fn any_row(change: &Change<'_>, table: &str, condition: &str) -> Result<bool, SqlError> {
    change
        .connection
        .prepare(&format!("SELECT 1 FROM {table} WHERE {condition} LIMIT 1"))
        .and_then(|mut statement| statement.exists([]))
        .map_err(store_error)
}

fn check(
    change: &Change<'_>,
    table: &Relation,
    constraint: &Constraint,
    expression: &str,
) -> Result<(), SqlError> {
    let expression = parse_expression(expression)?;
    let condition = translate::condition(&expression, table, &change.after, change.context)?;
    if any_row(change, &quote(&table.name), &format!("NOT ({condition})"))? {
        return Err(violated_check(&constraint.name, &table.name));
    }
    Ok(())
}

pub(super) fn violated_check(constraint: &str, table: &str) -> SqlError {
    let mut error = SqlError::new(
        SqlState::CHECK_VIOLATION,
        format!(
            "check constraint \"{constraint}\" of relation \"{table}\" is violated by some row"
        ),
    );
    error.table = Some(table.to_owned());
    error.constraint = Some(constraint.to_owned());
    error
}

fn foreign_key(
    change: &Change<'_>,
    child: &Relation,
    constraint: &Constraint,
    parent: &str,
    referred: &[String],
) -> Result<(), SqlError> {
    let present: Vec<String> =
        constraint.columns.iter().map(|own| format!("c.{} IS NOT NULL", quote(own))).collect();
    let equal: Vec<String> = constraint
        .columns
        .iter()
        .zip(referred)
        .map(|(own, other)| format!("p.{} = c.{}", quote(other), quote(own)))
        .collect();
    let condition = format!(
        "{} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {})",
        present.join(" AND "),
        quote(parent),
        equal.join(" AND ")
    );
    if any_row(change, &format!("{} AS c", quote(&child.name)), &condition)? {
        let mut error = SqlError::new(
            SqlState::FOREIGN_KEY_VIOLATION,
            format!(
                "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
                child.name, constraint.name
            ),
        )
        .detail(format!("A row refers to a key that is not present in table \"{parent}\"."));
        error.table = Some(child.name.clone());
        error.constraint = Some(constraint.name.clone());
        return Err(error);
    }
    Ok(())
}

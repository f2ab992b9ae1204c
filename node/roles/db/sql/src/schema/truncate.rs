//! `TRUNCATE`.

use std::collections::BTreeSet;

use sqlparser::ast::{CascadeOption, Truncate, TruncateIdentityOption};

use super::change::Change;
use super::{errors, names, sequences};
use crate::{ConstraintKind, SqlError, SqlState};

pub(super) fn truncate(change: &Change<'_>, statement: &Truncate) -> Result<(), SqlError> {
    let mut tables = BTreeSet::new();
    for target in &statement.table_names {
        tables.insert(change.table(&target.name)?.name.clone());
    }
    let cascade = statement.cascade == Some(CascadeOption::Cascade);
    add_referring(change, &mut tables, cascade)?;
    // All rows that refer to each other go, so what holds afterwards is what counts.
    // The flag lasts until the transaction ends, where nothing is left to violate.
    change
        .connection
        .execute_batch("PRAGMA defer_foreign_keys = ON")
        .map_err(crate::catalog_store::store_error)?;
    for name in &tables {
        let text = format!("DELETE FROM {}", names::quote(name));
        let done = change.connection.execute_batch(&text);
        if let (Err(error), Some(table)) = (done, change.after.relations.get(name)) {
            return Err(errors::of_rows(error, table));
        }
        if statement.identity == Some(TruncateIdentityOption::Restart) {
            for sequence in change.after.sequences.values() {
                if sequence.owned_by.as_ref().is_some_and(|(table, _)| table == name) {
                    sequences::set_value(change, sequence.oid, sequence.start)?;
                }
            }
        }
    }
    Ok(())
}

/// Tables with foreign keys to those that are emptied: emptied too, or a reason to
/// refuse, even if they have no rows.
fn add_referring(
    change: &Change<'_>,
    tables: &mut BTreeSet<String>,
    cascade: bool,
) -> Result<(), SqlError> {
    loop {
        let mut found = None;
        for child in change.after.relations.values() {
            if tables.contains(&child.name) {
                continue;
            }
            for constraint in &child.constraints {
                if let ConstraintKind::ForeignKey { table, .. } = &constraint.kind
                    && tables.contains(table)
                {
                    found = Some((child.name.clone(), table.clone()));
                }
            }
        }
        let Some((child, parent)) = found else { return Ok(()) };
        if !cascade {
            return Err(SqlError::new(
                SqlState::NOT_SUPPORTED,
                "cannot truncate a table referenced in a foreign key constraint",
            )
            .detail(format!("Table \"{child}\" references \"{parent}\"."))
            .hint(format!(
                "Truncate table \"{child}\" at the same time, or use TRUNCATE ... CASCADE."
            )));
        }
        tables.insert(child);
    }
}

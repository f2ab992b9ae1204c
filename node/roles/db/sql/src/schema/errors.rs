//! What SQLite says when rows do not fit a change, as PostgreSQL says it.

use rusqlite::ffi;

use super::checks;
use crate::catalog_store::store_error;
use crate::{Relation, SqlError, SqlState};

/// An error while rows were written for a table's new form.
pub(super) fn of_rows(error: rusqlite::Error, table: &Relation) -> SqlError {
    let text = error.to_string();
    let named = |prefix: &str| text.split_once(prefix).map(|(_, rest)| rest.trim().to_owned());
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_NOTNULL) => {
            let place = named("NOT NULL constraint failed:").unwrap_or_default();
            let column = place.rsplit('.').next().unwrap_or_default();
            checks::contains_null(column, &table.name)
        }
        Some(ffi::SQLITE_CONSTRAINT_CHECK) => {
            let constraint = named("CHECK constraint failed:").unwrap_or_default();
            checks::violated_check(&constraint, &table.name)
        }
        Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID) => {
            not_unique(table.primary_key().map_or("", |key| &key.name))
        }
        _ => recognised(error),
    }
}

/// An error while a unique index was made.
pub(super) fn of_new_index(error: rusqlite::Error, index: &str) -> SqlError {
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(ffi::SQLITE_CONSTRAINT_UNIQUE) => not_unique(index),
        _ => recognised(error),
    }
}

fn not_unique(index: &str) -> SqlError {
    let mut error = SqlError::new(
        SqlState::UNIQUE_VIOLATION,
        format!("could not create unique index \"{index}\""),
    )
    .detail("A key is duplicated.");
    error.constraint = Some(index.to_owned());
    error
}

/// An error that a function raised, or SQLite's own.
pub(super) fn recognised(error: rusqlite::Error) -> SqlError {
    crate::functions::recognise(&error).unwrap_or_else(|| store_error(error))
}

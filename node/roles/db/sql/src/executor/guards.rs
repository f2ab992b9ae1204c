//! Functions that raise errors where SQLite would go on with something else.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::functions::{Context as Call, FunctionFlags};
use rusqlite::types::{Value, ValueRef};

use crate::functions::raise;
use crate::{SqlError, SqlState};

/// Rows that one statement may note.
const MAXIMUM_ROWS: usize = 4_000_000;

/// The rows that a statement has inserted or updated, by hashes of their keys.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Mutex<HashSet<u128>>>);

impl Noted {
    fn lock(&self) -> MutexGuard<'_, HashSet<u128>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another statement begins.
    pub fn clear(&self) {
        *self.lock() = HashSet::new();
    }

    fn note(&self, row: u128) -> Result<(), SqlError> {
        let mut rows = self.lock();
        if rows.len() >= MAXIMUM_ROWS {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!("ON CONFLICT DO UPDATE of more than {MAXIMUM_ROWS} rows"),
            )
            .hint("Insert them in several statements."));
        }
        rows.insert(row);
        Ok(())
    }

    fn check(&self, row: u128) -> Result<(), SqlError> {
        if !self.lock().contains(&row) {
            return Ok(());
        }
        Err(SqlError::new(
            SqlState::CARDINALITY_VIOLATION,
            "ON CONFLICT DO UPDATE command cannot affect row a second time",
        )
        .hint(
            "Ensure that no rows proposed for insertion within the same command have duplicate \
             constrained values.",
        ))
    }
}

/// A hash of a row's key.
fn hash_of(call: &Call<'_>) -> u128 {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        seed.hash(&mut hasher);
        for index in 0..call.len() {
            match call.get_raw(index) {
                ValueRef::Null => 0u8.hash(&mut hasher),
                ValueRef::Integer(number) => (1u8, number).hash(&mut hasher),
                ValueRef::Real(number) => (2u8, number.to_bits()).hash(&mut hasher),
                ValueRef::Text(bytes) => (3u8, bytes).hash(&mut hasher),
                ValueRef::Blob(bytes) => (4u8, bytes).hash(&mut hasher),
            }
        }
        hasher.finish()
    };
    u128::from(half(0)) << 64 | u128::from(half(1))
}

/// Functions for statements that must not touch a row twice.
fn register_notes(connection: &Connection, noted: &Noted) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8;
    let own = noted.clone();
    connection.create_scalar_function("rung_note_row", -1, flags, move |call| {
        own.note(hash_of(call)).map(|()| true).map_err(raise)
    })?;
    let own = noted.clone();
    connection.create_scalar_function("rung_new_row", -1, flags, move |call| {
        own.check(hash_of(call)).map(|()| true).map_err(raise)
    })
}

pub(super) fn register(connection: &Connection) -> rusqlite::Result<Noted> {
    let noted = Noted::default();
    register_notes(connection, &noted)?;
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    // The value of a subquery: how many rows it has, and the value of one.
    connection.create_scalar_function("rung_single", 2, flags, |call| {
        if call.get::<i64>(0)? > 1 {
            return Err(raise(SqlError::new(
                SqlState::CARDINALITY_VIOLATION,
                "more than one row returned by a subquery used as an expression",
            )));
        }
        call.get::<Value>(1)
    })?;
    // Null for a column that numbers the rows: SQLite would choose a number.
    let flags = FunctionFlags::SQLITE_UTF8;
    connection.create_scalar_function("rung_no_null", 2, flags, |call| {
        let (table, column): (String, String) = (call.get(0)?, call.get(1)?);
        Err::<Value, _>(raise(null_violation(&table, &column)))
    })?;
    Ok(noted)
}

pub(super) fn null_violation(table: &str, column: &str) -> SqlError {
    let message = format!(
        "null value in column \"{column}\" of relation \"{table}\" violates not-null constraint"
    );
    let mut error = SqlError::new(SqlState::NOT_NULL_VIOLATION, message);
    error.table = Some(table.to_owned());
    error.column = Some(column.to_owned());
    error
}

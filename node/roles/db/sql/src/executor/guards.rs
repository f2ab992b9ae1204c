//! Functions that raise errors where SQLite would go on with something else.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;

use crate::functions::raise;
use crate::{SqlError, SqlState};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
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
    })
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

//! Deferred foreign keys that are not satisfied.
#![allow(unsafe_code)]

use rusqlite::{Connection, ffi};

use crate::{SqlError, SqlState};

/// SQLite counts violations while a transaction runs; looking at the count is cheap,
/// unlike checking all rows.
pub(super) fn violation(connection: &Connection) -> Option<SqlError> {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: the handle is that of an open connection which this thread has borrowed,
    // and SQLite writes to the two integers only during the call.
    let result = unsafe {
        ffi::sqlite3_db_status(
            connection.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut current,
            &raw mut highest,
            0,
        )
    };
    if result != ffi::SQLITE_OK || current == 0 {
        return None;
    }
    Some(
        SqlError::new(
            SqlState::FOREIGN_KEY_VIOLATION,
            "the transaction violates a deferred foreign key constraint",
        )
        .hint("Insert the rows that are referred to before COMMIT."),
    )
}

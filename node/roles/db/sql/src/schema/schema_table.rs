//! Texts in SQLite's own schema table.
//!
//! SQLite documents writing them for changes that ALTER TABLE does not know and that
//! leave the rows as they are. The schema is read again in the same transaction, so a
//! text that SQLite does not accept is an error here and undone with the statement.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use crate::catalog_store::store_error;
use crate::{SqlError, SqlState};

/// A table or index that gets a text, and perhaps another name.
pub(super) struct Entry {
    pub kind: &'static str,
    pub old_name: String,
    pub name: String,
    /// The table that it belongs to; itself for a table.
    pub table: String,
    pub text: String,
}

/// Writes all entries that differ. Names may be exchanged among them.
pub(super) fn rewrite(connection: &Connection, entries: &[Entry]) -> Result<(), SqlError> {
    let mut changes = Vec::new();
    for entry in entries {
        let (row, text): (i64, String) = connection
            .prepare_cached("SELECT rowid, sql FROM sqlite_schema WHERE type = ?1 AND name = ?2")
            .and_then(|mut statement| {
                statement.query_row(params![entry.kind, entry.old_name], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
            })
            .map_err(|error| {
                let name = &entry.old_name;
                SqlError::new(
                    SqlState::DATA_CORRUPTED,
                    format!("\"{name}\" of the catalog is not in the database: {error}"),
                )
            })?;
        if text != entry.text || entry.name != entry.old_name {
            changes.push((row, entry));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let _writable = Writable::new(connection)?;
    for (row, entry) in changes {
        connection
            .prepare_cached(
                "UPDATE sqlite_schema SET name = ?2, tbl_name = ?3, sql = ?4 WHERE rowid = ?1",
            )
            .and_then(|mut statement| {
                statement.execute(params![row, entry.name, entry.table, entry.text])
            })
            .map_err(store_error)?;
    }
    let version: i64 = connection
        .pragma_query_value(None, "schema_version", |row| row.get(0))
        .map_err(store_error)?;
    connection.pragma_update(None, "schema_version", version + 1).map_err(store_error)?;
    connection.execute_batch("PRAGMA writable_schema = RESET").map_err(store_error)?;
    // Reads the schema again, with whatever SQLite has against it.
    connection.execute_batch("SELECT 1 FROM sqlite_schema LIMIT 1").map_err(store_error)
}

/// While it lives, the schema table can be written.
struct Writable<'a> {
    connection: &'a Connection,
    was_defensive: bool,
}

impl<'a> Writable<'a> {
    fn new(connection: &'a Connection) -> Result<Self, SqlError> {
        let was_defensive =
            connection.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).map_err(store_error)?;
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)
            .map_err(store_error)?;
        let writable = Self { connection, was_defensive };
        connection.execute_batch("PRAGMA writable_schema = ON").map_err(store_error)?;
        Ok(writable)
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        // Neither can fail: both set a flag of the connection in memory.
        let _ = self.connection.execute_batch("PRAGMA writable_schema = RESET");
        let _ =
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, self.was_defensive);
    }
}

//! The catalog as rows of the database that it describes.
//!
//! Four tables: `_rung_meta` (the version and the next oid), `_rung_relations` (a
//! JSON text each), `_rung_sequences` (with their values). They change in the same
//! transaction as what they describe.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Catalog, PgType, Relation, Sequence, SqlError, SqlState};

/// Oids below belong to the system, as in PostgreSQL.
const FIRST_OID: u32 = 16_384;

const TABLES: &str = "
    CREATE TABLE _rung_meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE _rung_relations (name TEXT PRIMARY KEY, body TEXT NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE _rung_sequences (
        oid INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        data_type TEXT NOT NULL,
        start INTEGER NOT NULL,
        increment INTEGER NOT NULL,
        minimum INTEGER NOT NULL,
        maximum INTEGER NOT NULL,
        cycle INTEGER NOT NULL,
        owner_table TEXT,
        owner_column TEXT,
        last_value INTEGER NOT NULL,
        is_called INTEGER NOT NULL) STRICT;";

/// Makes the tables of the catalog, if the database has none yet.
pub fn install(connection: &Connection) -> Result<(), SqlError> {
    if is_installed(connection)? {
        return Ok(());
    }
    connection.execute_batch(TABLES).map_err(store_error)?;
    let insert = "INSERT INTO _rung_meta (key, value) VALUES (?1, ?2)";
    connection.execute(insert, params!["version", 1]).map_err(store_error)?;
    connection.execute(insert, params!["next_oid", FIRST_OID]).map_err(store_error)?;
    Ok(())
}

fn is_installed(connection: &Connection) -> Result<bool, SqlError> {
    connection
        .prepare_cached("SELECT 1 FROM sqlite_schema WHERE name = '_rung_meta'")
        .and_then(|mut statement| statement.exists([]))
        .map_err(store_error)
}

/// The version of the catalog; 0 for a database without one.
pub fn load_version(connection: &Connection) -> Result<u64, SqlError> {
    let read = connection
        .prepare_cached("SELECT value FROM _rung_meta WHERE key = 'version'")
        .and_then(|mut statement| statement.query_row([], |row| row.get::<_, i64>(0)).optional());
    match read {
        Ok(version) => Ok(version.unwrap_or(0).unsigned_abs()),
        Err(_) if !is_installed(connection)? => Ok(0),
        Err(error) => Err(store_error(error)),
    }
}

/// Reads the whole catalog. A database without one has an empty catalog.
///
/// # Errors
/// XX001 if a row is not what this version of the program writes.
pub fn load_catalog(connection: &Connection) -> Result<Catalog, SqlError> {
    let version = load_version(connection)?;
    let mut catalog = Catalog { version, ..Catalog::default() };
    if version == 0 {
        return Ok(catalog);
    }
    let mut statement =
        connection.prepare_cached("SELECT name, body FROM _rung_relations").map_err(store_error)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
        .map_err(store_error)?;
    for row in rows {
        let (name, body) = row.map_err(store_error)?;
        let relation: Relation =
            serde_json::from_str(&body).map_err(|error| damaged(&name, &error))?;
        catalog.relations.insert(name, Arc::new(relation));
    }
    let mut statement =
        connection.prepare_cached("SELECT * FROM _rung_sequences").map_err(store_error)?;
    let rows = statement.query_map([], read_sequence).map_err(store_error)?;
    for row in rows {
        let (data_type, mut sequence) = row.map_err(store_error)?;
        sequence.data_type =
            serde_json::from_str(&data_type).map_err(|error| damaged(&sequence.name, &error))?;
        catalog.sequences.insert(sequence.name.clone(), Arc::new(sequence));
    }
    Ok(catalog)
}

fn read_sequence(row: &Row<'_>) -> rusqlite::Result<(String, Sequence)> {
    let owner_table: Option<String> = row.get("owner_table")?;
    let owner_column: Option<String> = row.get("owner_column")?;
    Ok((
        row.get("data_type")?,
        Sequence {
            oid: row.get("oid")?,
            name: row.get("name")?,
            data_type: PgType::Int8,
            start: row.get("start")?,
            increment: row.get("increment")?,
            minimum: row.get("minimum")?,
            maximum: row.get("maximum")?,
            cycle: row.get("cycle")?,
            owned_by: owner_table.zip(owner_column),
        },
    ))
}

/// Takes an oid that no object of the database has or had.
pub(crate) fn next_oid(connection: &Connection) -> Result<u32, SqlError> {
    connection
        .prepare_cached(
            "UPDATE _rung_meta SET value = value + 1 WHERE key = 'next_oid' RETURNING value - 1",
        )
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(store_error)
}

/// Writes what differs between two states of the catalog, and the next version.
/// The values of sequences that are in both stay as they are.
pub(crate) fn save(
    connection: &Connection,
    before: &Catalog,
    after: &Catalog,
) -> Result<(), SqlError> {
    for name in before.relations.keys() {
        if !after.relations.contains_key(name) {
            run(connection, "DELETE FROM _rung_relations WHERE name = ?1", params![name])?;
        }
    }
    for (name, relation) in &after.relations {
        if before.relations.get(name).is_some_and(|old| old == relation) {
            continue;
        }
        let body = serde_json::to_string(&**relation)
            .map_err(|error| SqlError::new(SqlState::INTERNAL, error.to_string()))?;
        run(
            connection,
            "INSERT INTO _rung_relations (name, body) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            params![name, body],
        )?;
    }
    save_sequences(connection, before, after)?;
    run(connection, "UPDATE _rung_meta SET value = value + 1 WHERE key = 'version'", params![])
}

fn save_sequences(
    connection: &Connection,
    before: &Catalog,
    after: &Catalog,
) -> Result<(), SqlError> {
    let remains = |oid: u32| after.sequences.values().any(|sequence| sequence.oid == oid);
    for sequence in before.sequences.values().filter(|sequence| !remains(sequence.oid)) {
        run(connection, "DELETE FROM _rung_sequences WHERE oid = ?1", params![sequence.oid])?;
    }
    for (name, sequence) in &after.sequences {
        if before.sequences.get(name).is_some_and(|old| old == sequence) {
            continue;
        }
        let data_type = serde_json::to_string(&sequence.data_type)
            .map_err(|error| SqlError::new(SqlState::INTERNAL, error.to_string()))?;
        let (table, column) = sequence.owned_by.clone().unzip();
        let is_new = !before.sequences.values().any(|known| known.oid == sequence.oid);
        if is_new {
            // One with this oid may have been undone.
            let restarted = connection.prepare_cached("SELECT rung_restarted(?1)");
            let restarted = restarted.and_then(|mut s| s.query_row([sequence.oid], |_| Ok(())));
            restarted.map_err(store_error)?;
        }
        run(
            connection,
            "INSERT INTO _rung_sequences VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?4, 0)
             ON CONFLICT (oid) DO UPDATE SET name = excluded.name,
                data_type = excluded.data_type, start = excluded.start,
                increment = excluded.increment, minimum = excluded.minimum,
                maximum = excluded.maximum, cycle = excluded.cycle,
                owner_table = excluded.owner_table, owner_column = excluded.owner_column",
            params![
                sequence.oid,
                name,
                data_type,
                sequence.start,
                sequence.increment,
                sequence.minimum,
                sequence.maximum,
                sequence.cycle,
                table,
                column,
            ],
        )?;
    }
    Ok(())
}

fn run(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<(), SqlError> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map(|_| ())
        .map_err(store_error)
}

fn damaged(name: &str, error: &serde_json::Error) -> SqlError {
    SqlError::new(
        SqlState::DATA_CORRUPTED,
        format!("the catalog's entry of \"{name}\" cannot be read: {error}"),
    )
    .hint("Was this database written by a newer version? Restore a backup otherwise.")
}

/// What SQLite said about a statement of this module or of the schema.
pub(crate) fn store_error(error: rusqlite::Error) -> SqlError {
    use rusqlite::ErrorCode;
    let state = match error.sqlite_error_code() {
        Some(ErrorCode::ReadOnly) => SqlState::READ_ONLY_TRANSACTION,
        Some(ErrorCode::DiskFull) => SqlState::DISK_FULL,
        Some(ErrorCode::OutOfMemory) => SqlState::OUT_OF_MEMORY,
        Some(ErrorCode::OperationInterrupted) => SqlState::QUERY_CANCELED,
        Some(ErrorCode::SystemIoFailure) => SqlState::IO_ERROR,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SqlState::DATA_CORRUPTED,
        Some(ErrorCode::TooBig) => SqlState::LIMIT_EXCEEDED,
        _ => SqlState::INTERNAL,
    };
    SqlError::new(state, error.to_string())
}

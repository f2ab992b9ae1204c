//! How many bytes a table or the database takes.
//!
//! Asks the calling connection, which is the one reason for `unsafe` here.
#![allow(unsafe_code)]

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Value;

use super::System;
use super::functions::integer;
use super::objects::indexes_of;
use crate::RelationKind;

pub(super) fn register(connection: &Connection, system: &System) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("rung_database_size", 0, flags, |call| {
        // SAFETY: used for queries only, on the calling thread, until the return.
        let connection = unsafe { call.get_connection()? };
        bytes(&connection).map(Value::Integer)
    })?;
    let own = system.clone();
    connection.create_scalar_function("rung_relation_size", 2, flags, move |call| {
        let names = trees(&own, integer(call, 0), integer(call, 1));
        // SAFETY: used for queries only, on the calling thread, until the return.
        let connection = unsafe { call.get_connection()? };
        let mut sum = 0;
        for name in names {
            sum += tree_bytes(&connection, &name)?;
        }
        Ok(Value::Integer(sum))
    })
}

/// SQLite's names of what is counted: the table (0), its indexes (1), all (2).
fn trees(system: &System, oid: Option<i64>, what: Option<i64>) -> Vec<String> {
    let catalog = system.catalog();
    let same = |other: u32| Some(i64::from(other)) == oid;
    for table in catalog.relations.values().filter(|r| r.kind == RelationKind::Table) {
        let indexes = indexes_of(table);
        if same(table.oid) {
            let own = (what != Some(1)).then(|| table.name.clone());
            let others = indexes.iter().filter(|_| what != Some(0));
            return own.into_iter().chain(others.map(|index| index.name.to_owned())).collect();
        }
        if let Some(index) = indexes.iter().find(|index| same(index.oid)) {
            return vec![index.name.to_owned()];
        }
    }
    Vec::new()
}

/// 0 if the name is no tree of its own, such as a key that orders its table.
fn tree_bytes(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name = ?1 AND aggregate = TRUE",
        [name],
        |row| row.get(0),
    )
}

fn bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
        [],
        |row| row.get(0),
    )
}

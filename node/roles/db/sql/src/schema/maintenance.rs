//! `VACUUM` and `ANALYZE`.

use rusqlite::Connection;

use super::change::missing_relation;
use super::names;
use crate::catalog_store::store_error;
use crate::statement::Vacuum;
use crate::{Catalog, Complete, RelationKind, SqlError};

/// Rows that ANALYZE looks at of each index, so that it takes a bounded time.
const ANALYSIS_LIMIT: u32 = 1000;

/// Carries out VACUUM or ANALYZE.
///
/// SQLite reuses the room of deleted rows by itself, so a plain VACUUM has nothing
/// to do; VACUUM FULL rewrites the file, alone and outside of transactions.
pub(crate) fn maintain(
    connection: &Connection,
    catalog: &Catalog,
    vacuum: &Vacuum,
    is_vacuum: bool,
) -> Result<Complete, SqlError> {
    for table in &vacuum.tables {
        let relation = catalog.relations.get(table).ok_or_else(|| missing_relation(table))?;
        if relation.kind == RelationKind::View && vacuum.tables.len() == 1 {
            // PostgreSQL warns and skips it.
            continue;
        }
    }
    if vacuum.full {
        connection.execute_batch("VACUUM").map_err(store_error)?;
    }
    if vacuum.analyze {
        analyze(connection, catalog, &vacuum.tables)?;
    }
    let tag = if is_vacuum { "VACUUM" } else { "ANALYZE" };
    Ok(Complete { tag: tag.to_owned(), ..Complete::default() })
}

fn analyze(connection: &Connection, catalog: &Catalog, tables: &[String]) -> Result<(), SqlError> {
    connection.pragma_update(None, "analysis_limit", ANALYSIS_LIMIT).map_err(store_error)?;
    let all = catalog.relations.values().filter(|relation| {
        relation.kind == RelationKind::Table
            && (tables.is_empty() || tables.contains(&relation.name))
    });
    for table in all {
        let text = format!("ANALYZE {}", names::quote(&table.name));
        connection.execute_batch(&text).map_err(store_error)?;
    }
    Ok(())
}

//! Changes of the schema: CREATE, ALTER, DROP, TRUNCATE, COMMENT.
//!
//! A statement changes a copy of the catalog; then SQLite's schema and the rows are
//! made to follow what differs. Both are part of the caller's transaction, so a
//! change of the schema can be rolled back, as in PostgreSQL.

mod alter_table;
mod apply;
mod change;
mod checks;
mod columns;
mod commands;
mod comments;
mod constraints;
mod create_table;
mod drop;
mod errors;
mod indexes;
mod maintenance;
pub(crate) mod names;
mod objects;
mod rename;
mod schema_table;
mod sequences;
pub(crate) mod sqlite_text;
#[cfg(test)]
mod tests;
mod translate;
mod truncate;
mod views;

use rusqlite::Connection;
use sqlparser::ast::{Query, Select, SelectInto, SetExpr, Statement};

pub(crate) use commands::{ColumnChange, Renamed, SchemaCommand};
pub(crate) use maintenance::maintain;
pub(crate) use sequences::Options as SequenceOptions;

use crate::catalog_store::{self, store_error};
use crate::{Catalog, Complete, Context, SqlError, SqlState};
use change::Change;
use create_table::Rows;

/// Executes a statement that changes the schema. If it fails, nothing has changed.
/// The caller's catalog is old afterwards.
pub(crate) fn execute_schema(
    connection: &Connection,
    catalog: &Catalog,
    statement: &Statement,
    context: &Context,
) -> Result<Complete, SqlError> {
    atomically(connection, || {
        let mut change = Change::new(connection, catalog, context);
        let (tag, rows) = dispatch(&mut change, statement)?;
        finish(&change)?;
        match rows {
            None => Ok(complete(tag)),
            Some(rows) => {
                let count = create_table::insert(&change, &rows)?;
                Ok(complete(&format!("SELECT {count}")))
            }
        }
    })
}

/// As [`execute_schema`], for what sqlparser does not parse.
pub(crate) fn execute_command(
    connection: &Connection,
    catalog: &Catalog,
    command: &SchemaCommand,
    context: &Context,
) -> Result<Complete, SqlError> {
    atomically(connection, || {
        let mut change = Change::new(connection, catalog, context);
        commands::run(&mut change, command)?;
        finish(&change)?;
        Ok(complete(command.tag()))
    })
}

fn complete(tag: &str) -> Complete {
    Complete { tag: tag.to_owned(), ..Complete::default() }
}

/// Sequences are saved before rows are filled, which may take their values.
fn finish(change: &Change<'_>) -> Result<(), SqlError> {
    let same = change.before.relations == change.after.relations
        && change.before.sequences == change.after.sequences;
    if same {
        return Ok(());
    }
    catalog_store::save(change.connection, change.before, &change.after)?;
    apply::apply(change)
}

/// Everything that `work` does, or nothing.
fn atomically<T>(
    connection: &Connection,
    work: impl FnOnce() -> Result<T, SqlError>,
) -> Result<T, SqlError> {
    connection.execute_batch("SAVEPOINT _rung_schema").map_err(store_error)?;
    let result = work();
    let end = match result {
        Ok(_) => "RELEASE _rung_schema",
        Err(_) => "ROLLBACK TO _rung_schema; RELEASE _rung_schema",
    };
    let ended = connection.execute_batch(end).map_err(store_error);
    let value = result?;
    ended.map(|()| value)
}

fn dispatch(
    change: &mut Change<'_>,
    statement: &Statement,
) -> Result<(&'static str, Option<Rows>), SqlError> {
    let tag = match statement {
        Statement::CreateTable(table) => {
            return Ok(("CREATE TABLE", create_table::create(change, table)?));
        }
        Statement::Query(query) => return select_into(change, query),
        Statement::CreateIndex(index) => {
            indexes::create(change, index)?;
            "CREATE INDEX"
        }
        Statement::CreateView(view) => {
            views::create(change, view)?;
            "CREATE VIEW"
        }
        Statement::AlterTable(table) => {
            alter_table::alter(change, table)?;
            "ALTER TABLE"
        }
        Statement::AlterIndex { name, operation } => {
            let sqlparser::ast::AlterIndexOperation::RenameIndex { index_name } = operation;
            indexes::rename(change, name, index_name)?;
            "ALTER INDEX"
        }
        Statement::Drop { object_type, if_exists, names, cascade, .. } => {
            return objects::drop(change, *object_type, names, *if_exists, *cascade)
                .map(|tag| (tag, None));
        }
        Statement::Truncate(truncate) => {
            truncate::truncate(change, truncate)?;
            "TRUNCATE TABLE"
        }
        Statement::Comment { object_type, object_name, comment, .. } => {
            comments::comment(change, *object_type, object_name, comment.as_ref())?;
            "COMMENT"
        }
        other => return objects::other(other).map(|tag| (tag, None)),
    };
    Ok((tag, None))
}

/// `SELECT ... INTO table`
fn select_into(
    change: &mut Change<'_>,
    query: &Query,
) -> Result<(&'static str, Option<Rows>), SqlError> {
    let mut query = query.clone();
    let into = take_into(&mut query.body).ok_or_else(|| {
        SqlError::new(SqlState::INTERNAL, "a query without INTO came as a change of the schema")
    })?;
    if into.temporary {
        let hint = "Use an ordinary table and drop it, or WITH.";
        return Err(SqlError::not_supported("a temporary table", hint));
    }
    let rows = create_table::select_into(change, &into.targets, &query)?;
    Ok(("SELECT", Some(rows)))
}

fn take_into(body: &mut SetExpr) -> Option<SelectInto> {
    match body {
        SetExpr::Select(select) => {
            let select: &mut Select = select;
            select.into.take()
        }
        SetExpr::Query(query) => take_into(&mut query.body),
        SetExpr::SetOperation { left, .. } => take_into(left),
        _ => None,
    }
}

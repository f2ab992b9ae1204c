//! SQLite's errors as PostgreSQL's.

use rusqlite::ErrorCode;
use rusqlite::ffi;

use super::guards::null_violation;
use crate::functions::recognise;
use crate::{Catalog, Constraint, ConstraintKind, Relation, SqlError, SqlState};

/// A violated constraint, as far as SQLite names it.
pub(super) enum Violation<'c> {
    /// Of a unique index or primary key with these columns.
    Unique {
        relation: &'c Relation,
        name: String,
        columns: Vec<String>,
    },
    ForeignKey,
    Other(SqlError),
}

/// An error that is not about a constraint of a known table.
pub(super) fn plain(error: &rusqlite::Error) -> SqlError {
    if let Some(raised) = recognise(error) {
        return raised;
    }
    let message = message_of(error);
    let Some(code) = error.sqlite_error_code() else {
        return SqlError::new(SqlState::INTERNAL, message);
    };
    match code {
        ErrorCode::OperationInterrupted => {
            SqlError::new(SqlState::QUERY_CANCELED, "canceling statement due to user request")
        }
        ErrorCode::ReadOnly => SqlError::new(
            SqlState::READ_ONLY_TRANSACTION,
            "cannot execute this statement in a read-only transaction",
        ),
        ErrorCode::DiskFull => {
            SqlError::new(SqlState::DISK_FULL, "the disk is full").hint("Free space on the node.")
        }
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => {
            SqlError::new(SqlState::IO_ERROR, format!("the database's file failed: {message}"))
        }
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
            SqlError::new(SqlState::DATA_CORRUPTED, format!("the database is damaged: {message}"))
        }
        ErrorCode::OutOfMemory => SqlError::new(SqlState::OUT_OF_MEMORY, "out of memory"),
        ErrorCode::TooBig => SqlError::new(
            SqlState::LIMIT_EXCEEDED,
            "a value or statement is larger than the database can hold",
        ),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => SqlError::new(
            SqlState::LOCK_NOT_AVAILABLE,
            format!("could not obtain a lock: {message}"),
        ),
        ErrorCode::ConstraintViolation => {
            SqlError::new(SqlState("23000"), format!("a constraint is violated: {message}"))
        }
        _ => general(&message),
    }
}

/// SQLite's errors of no class of their own, by what they say.
fn general(message: &str) -> SqlError {
    let is = |part: &str| message.contains(part);
    if is("too many") || is("too large") || is("at most ") || is("parser stack overflow") {
        return SqlError::new(
            SqlState::LIMIT_EXCEEDED,
            format!("statement too complex: {message}"),
        );
    }
    if is("ON CONFLICT clause does not match") {
        return SqlError::new(
            SqlState("42P10"),
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        );
    }
    if is("integer overflow") {
        return SqlError::new(SqlState::OUT_OF_RANGE, "bigint out of range");
    }
    SqlError::new(SqlState::INTERNAL, format!("the statement could not be executed: {message}"))
        .hint("This is a limit or a defect of the translation; write the statement differently.")
}

fn message_of(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// Which constraint of the catalog an error is about; None if it is about none.
pub(super) fn violation<'c>(
    error: &rusqlite::Error,
    catalog: &'c Catalog,
) -> Option<Violation<'c>> {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return None };
    let message = message_of(error);
    let subject = message.split_once(": ").map_or("", |(_, subject)| subject);
    match failure.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => unique(subject, catalog),
        ffi::SQLITE_CONSTRAINT_NOTNULL => {
            let (table, column) = subject.split_once('.')?;
            Some(Violation::Other(null_violation(table, column)))
        }
        ffi::SQLITE_CONSTRAINT_CHECK => Some(Violation::Other(check(subject, catalog))),
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Some(Violation::ForeignKey),
        _ => None,
    }
}

/// `table.a, table.b`, or `index 'name'` for one of expressions.
fn unique<'c>(subject: &str, catalog: &'c Catalog) -> Option<Violation<'c>> {
    if let Some(name) = subject.strip_prefix("index '") {
        let name = name.trim_end_matches('\'');
        let owns = |relation: &&std::sync::Arc<Relation>| {
            relation.indexes.iter().any(|index| index.name == name)
        };
        let relation = catalog.relations.values().find(owns)?;
        return Some(Violation::Unique { relation, name: name.to_owned(), columns: Vec::new() });
    }
    let mut columns: Vec<String> = Vec::new();
    let mut table = "";
    for part in subject.split(", ") {
        let (owner, column) = part.split_once('.')?;
        table = owner;
        columns.push(column.to_owned());
    }
    let relation = catalog.relations.get(table)?;
    let key = |constraint: &&Constraint| {
        matches!(constraint.kind, ConstraintKind::PrimaryKey | ConstraintKind::Unique)
            && constraint.columns == columns
    };
    let name = match relation.constraints.iter().find(key) {
        Some(constraint) => constraint.name.clone(),
        None => {
            let wanted = |key: &String| key.trim_matches('"').to_owned();
            let mut indexes = relation.indexes.iter();
            let index = indexes.find(|index| {
                index.unique && index.keys.iter().map(wanted).eq(columns.iter().cloned())
            });
            index.map_or_else(|| format!("{table}_key"), |index| index.name.clone())
        }
    };
    Some(Violation::Unique { relation, name, columns })
}

fn check(name: &str, catalog: &Catalog) -> SqlError {
    let owns = |relation: &&std::sync::Arc<Relation>| {
        relation.constraints.iter().any(|constraint| {
            constraint.name == name && matches!(constraint.kind, ConstraintKind::Check { .. })
        })
    };
    let table = catalog.relations.values().find(owns).map(|relation| relation.name.clone());
    let message = format!(
        "new row for relation \"{}\" violates check constraint \"{name}\"",
        table.as_deref().unwrap_or_default()
    );
    let mut error = SqlError::new(SqlState::CHECK_VIOLATION, message);
    error.table = table;
    error.constraint = Some(name.to_owned());
    error
}

//! Whether the catalog that was read is still the one that the connection sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rusqlite::Connection;

/// Nothing is known: a transaction has ended, after which others may have changed it.
const UNKNOWN: u8 = 0;
/// It was looked at in the transaction that is open.
const CURRENT: u8 = 1;
/// It was changed in the transaction that is open, and any savepoint may undo that.
const CHANGED: u8 = 2;

/// What is known of the catalog. SQLite tells it of the end of each transaction, but
/// of COMMIT only if something was or could be written.
#[derive(Clone, Default)]
pub(super) struct CatalogState(Arc<AtomicU8>);

impl CatalogState {
    /// What is known of the catalog that this connection sees.
    pub fn of(connection: &mut Connection) -> rusqlite::Result<Self> {
        let state = Self::default();
        let (committed, rolled_back) = (state.clone(), state.clone());
        connection.commit_hook(Some(move || {
            committed.set(UNKNOWN);
            false
        }))?;
        connection.rollback_hook(Some(move || rolled_back.set(UNKNOWN)))?;
        Ok(state)
    }

    // The connection and its hooks are used by one thread at a time.
    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    /// Whether the catalog need not be looked at.
    pub fn is_current(&self, connection: &Connection) -> bool {
        self.0.load(Ordering::Relaxed) == CURRENT && !connection.is_autocommit()
    }

    /// It was looked at.
    pub fn looked_at(&self, connection: &Connection) {
        // Without a transaction others may change it after each statement.
        if !connection.is_autocommit() && self.0.load(Ordering::Relaxed) == UNKNOWN {
            self.set(CURRENT);
        }
    }

    /// It is being changed.
    pub fn changes(&self) {
        self.set(CHANGED);
    }
}

/// Before a connection is closed: SQLite frees what hooks need before it rolls back what
/// is open, and calls them then.
pub(super) fn forget(connection: &mut Connection) {
    // Whatever these answer, the hooks are not called any more.
    let _ = connection.commit_hook(None::<fn() -> bool>);
    let _ = connection.rollback_hook(None::<fn()>);
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::Executor;
    use crate::{Context, Formats, Parameters, ResultColumn, RowSink, SqlError, parse};

    struct Ignore;

    impl RowSink for Ignore {
        fn columns(&mut self, _: &[ResultColumn]) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }

        fn row(&mut self, _: &[u8], _: usize) -> ControlFlow<()> {
            ControlFlow::Continue(())
        }
    }

    fn execute(executor: &mut Executor, text: &str) -> Result<(), SqlError> {
        let (parameters, formats) = (Parameters::default(), Formats::default());
        let context = Context::new("", "");
        for statement in parse(text)? {
            executor.execute(&statement, &[], &parameters, &formats, &context, &mut Ignore)?;
        }
        Ok(())
    }

    fn control(executor: &Executor, text: &str) {
        executor.connection().execute_batch(text).expect(text);
    }

    #[test]
    fn what_others_change_is_seen_in_the_next_transaction() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || {
            let connection = rusqlite::Connection::open(folder.path().join("db")).expect("a file");
            connection.pragma_update(None, "journal_mode", "WAL").expect("WAL mode");
            Executor::new(connection).expect("an executor")
        };
        let (mut writer, mut reader) = (open(), open());
        writer.install().expect("its tables");
        control(&reader, "BEGIN");
        assert!(reader.catalog().expect("a catalog").relations.is_empty());
        control(&writer, "BEGIN IMMEDIATE");
        execute(&mut writer, "CREATE TABLE t (a integer); SELECT a FROM t").expect("its own");
        assert!(execute(&mut reader, "SELECT a FROM t").is_err());
        control(&writer, "COMMIT");
        assert!(execute(&mut reader, "SELECT a FROM t").is_err());
        control(&reader, "ROLLBACK; BEGIN");
        execute(&mut reader, "SELECT a FROM t").expect("the new table");
        control(&reader, "ROLLBACK");
        control(&writer, "BEGIN IMMEDIATE");
        execute(&mut writer, "DROP TABLE t").expect("to be dropped");
        control(&writer, "COMMIT");
        assert!(execute(&mut reader, "SELECT a FROM t").is_err());
    }

    #[test]
    fn a_change_that_is_undone_is_not_seen_any_more() {
        let connection = rusqlite::Connection::open_in_memory().expect("a database");
        let mut executor = Executor::new(connection).expect("an executor");
        executor.install().expect("its tables");
        control(&executor, "BEGIN IMMEDIATE; SAVEPOINT s");
        execute(&mut executor, "CREATE TABLE t (a integer); SELECT a FROM t").expect("its own");
        control(&executor, "ROLLBACK TO s");
        assert!(execute(&mut executor, "SELECT a FROM t").is_err());
        execute(&mut executor, "CREATE TABLE t (b integer); SELECT b FROM t").expect("another");
        control(&executor, "ROLLBACK; BEGIN IMMEDIATE");
        assert!(execute(&mut executor, "SELECT b FROM t").is_err());
    }
}

//! Which rows a connection changes, as SQLite's update hook tells it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::Action;

/// A row of a table, by a hash of both. Two that are the same by chance cost somebody a
/// wait.
pub(crate) type Row = u64;

/// So many rows are remembered at most.
const MOST: usize = 1024;
/// What the translation of SQL keeps for itself.
const OWN: &str = "_rung_";
/// Where sequences are, which transactions do not wait for each other at.
const SEQUENCES: &str = "_rung_sequences";

/// Which rows were changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Changed {
    Rows(Vec<Row>),
    /// Perhaps all: many were, or the schema.
    Unknown,
}

/// What a connection has done.
#[derive(Debug)]
pub(crate) struct Changes {
    /// Rows that were changed or deleted.
    pub changed: Changed,
    /// Rows that were inserted.
    pub inserted: Vec<Row>,
    /// There are more, of which SQLite tells nobody: in a table without numbers of rows, or
    /// in one that was emptied at once.
    pub misses: bool,
}

impl Changes {
    /// All rows that are not what they were.
    pub fn all(self) -> Changed {
        let mut all = self.changed;
        all.add(Changed::Rows(self.inserted));
        all
    }
}

impl Changed {
    pub fn nothing() -> Self {
        Changed::Rows(Vec::new())
    }

    /// Adds to it what was changed after it.
    pub fn add(&mut self, later: Changed) {
        match (&mut *self, later) {
            (Changed::Rows(rows), Changed::Rows(more)) if rows.len() + more.len() <= MOST => {
                rows.extend(more);
            }
            _ => *self = Changed::Unknown,
        }
    }
}

/// Notes what a connection changes. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct ChangeLog(Arc<Mutex<Noted>>);

#[derive(Default)]
struct Noted {
    changed: Vec<Row>,
    inserted: Vec<Row>,
    is_unknown: bool,
    /// How often SQLite has called.
    calls: u64,
    /// How many changes SQLite had counted before.
    counted: u64,
}

impl Noted {
    fn note(&mut self, action: Action, table: &str, rowid: i64) {
        self.calls += 1;
        if table.starts_with(OWN) {
            self.is_unknown |= table != SEQUENCES;
            return;
        }
        let rows = match action {
            Action::SQLITE_INSERT => &mut self.inserted,
            _ => &mut self.changed,
        };
        if rows.len() < MOST {
            rows.push(row(table, rowid));
        } else {
            self.is_unknown = true;
        }
    }
}

fn row(table: &str, rowid: i64) -> Row {
    let mut hasher = DefaultHasher::new();
    (table, rowid).hash(&mut hasher);
    hasher.finish()
}

impl ChangeLog {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes from now on what this connection changes.
    pub fn install(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let log = self.clone();
        let note =
            move |action, _: &str, table: &str, rowid| log.noted().note(action, table, rowid);
        connection.update_hook(Some(note))?;
        // It may have noted what another connection has changed.
        self.take(connection);
        Ok(())
    }

    /// What was changed since this was last asked.
    pub fn take(&self, connection: &Connection) -> Changes {
        let mut noted = self.noted();
        let total = connection.total_changes();
        // Fewer are counted where a statement has failed in between.
        let misses = total > noted.counted + noted.calls;
        let changed = std::mem::take(&mut noted.changed);
        let changes = Changes {
            changed: if noted.is_unknown { Changed::Unknown } else { Changed::Rows(changed) },
            inserted: std::mem::take(&mut noted.inserted),
            misses,
        };
        (noted.is_unknown, noted.calls, noted.counted) = (false, 0, total);
        changes
    }

    /// A place in what was noted since it was last taken.
    pub fn mark(&self) -> usize {
        self.noted().changed.len()
    }

    /// The rows that were changed since a mark and were not inserted before, in order;
    /// nothing if that is unknown.
    pub fn since(&self, mark: usize) -> Option<Vec<Row>> {
        let noted = self.noted();
        if noted.is_unknown {
            return None;
        }
        let rows = noted.changed.get(mark..)?.iter().copied();
        let mut rows: Vec<Row> = rows.filter(|row| !noted.inserted.contains(row)).collect();
        rows.sort_unstable();
        Some(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "PRAGMA foreign_keys = ON;
         CREATE TABLE t(id INTEGER PRIMARY KEY, x UNIQUE);
         CREATE TABLE child(id INTEGER PRIMARY KEY, t REFERENCES t ON DELETE CASCADE);
         CREATE TABLE plain(x);
         CREATE TABLE keyed(k PRIMARY KEY) WITHOUT ROWID;
         INSERT INTO plain VALUES (1);
         CREATE TABLE _rung_sequences(oid INTEGER PRIMARY KEY, value);
         CREATE TABLE _rung_tables(oid INTEGER PRIMARY KEY);
         INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);
         INSERT INTO child VALUES (5, 3), (6, 3);
         INSERT INTO _rung_sequences VALUES (1, 1);";

    fn changes_of(statement: &str) -> Changes {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        let log = ChangeLog::default();
        log.install(&mut connection).unwrap();
        connection.execute_batch(statement).unwrap();
        log.take(&connection)
    }

    fn rows_of(statement: &str) -> Changed {
        let Changes { mut changed, misses, .. } = changes_of(statement);
        assert!(!misses, "{statement}");
        if let Changed::Rows(rows) = &mut changed {
            rows.sort_unstable();
        }
        changed
    }

    fn rows(of: &[(&str, i64)]) -> Changed {
        let mut rows: Vec<Row> = of.iter().map(|(table, rowid)| row(table, *rowid)).collect();
        rows.sort_unstable();
        Changed::Rows(rows)
    }

    #[test]
    fn rows_that_were_there_are_noted() {
        assert_eq!(rows_of("SELECT 1"), Changed::nothing());
        assert_eq!(rows_of("INSERT INTO t VALUES (4, 4)"), Changed::nothing());
        assert_eq!(rows_of("UPDATE t SET x = x + 7 WHERE id < 3"), rows(&[("t", 1), ("t", 2)]));
        assert_eq!(rows_of("UPDATE t SET x = 9 WHERE x = 8"), Changed::nothing());
        assert_eq!(
            rows_of("DELETE FROM t WHERE id = 3"),
            rows(&[("t", 3), ("child", 5), ("child", 6)])
        );
        let upsert = "INSERT INTO t VALUES (2, 2) ON CONFLICT (id) DO UPDATE SET x = 8";
        assert_eq!(rows_of(upsert), rows(&[("t", 2)]));
        assert_eq!(rows_of("UPDATE _rung_sequences SET value = 2"), Changed::nothing());
    }

    #[test]
    fn what_sqlite_tells_nobody_is_missed() {
        for statement in ["DELETE FROM plain", "INSERT INTO keyed VALUES (1)"] {
            assert!(changes_of(statement).misses, "{statement}");
        }
    }

    #[test]
    fn the_schema_and_many_rows_are_not_told_apart() {
        for statement in [
            "INSERT INTO _rung_tables VALUES (1)",
            "WITH RECURSIVE n(i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO t SELECT i, i FROM n",
        ] {
            assert_eq!(rows_of(statement), Changed::Unknown, "{statement}");
        }
    }

    #[test]
    fn new_rows_are_told_by_themselves() {
        let Changes { changed, inserted, misses } =
            changes_of("INSERT INTO t(x) VALUES (7), (8); UPDATE t SET x = 0 WHERE id = 5");
        assert_eq!((&changed, misses), (&rows(&[("t", 5)]), false));
        assert_eq!(inserted, [row("t", 4), row("t", 5)]);
        let all = Changes { changed, inserted, misses }.all();
        assert_eq!(all, Changed::Rows(vec![row("t", 5), row("t", 4), row("t", 5)]));
    }

    #[test]
    fn it_is_told_since_a_mark_and_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLES).unwrap();
        let log = ChangeLog::default();
        log.install(&mut connection).unwrap();
        connection.execute_batch("UPDATE t SET x = 10 WHERE id = 1").unwrap();
        let mark = log.mark();
        connection.execute_batch("UPDATE t SET x = 20 WHERE id = 2").unwrap();
        assert_eq!(log.since(mark), Some(vec![row("t", 2)]));
        assert_eq!(log.since(0).map(|rows| rows.len()), Some(2));
        let change = "INSERT INTO t VALUES (9, 9); UPDATE t SET x = 8 WHERE id = 9";
        connection.execute_batch(change).unwrap();
        assert_eq!(log.since(mark), Some(vec![row("t", 2)]), "9 is new");
        assert_ne!(log.take(&connection).changed, Changed::nothing());
        assert_eq!(log.take(&connection).changed, Changed::nothing());
        connection.execute_batch("INSERT INTO _rung_tables VALUES (7)").unwrap();
        assert_eq!(log.since(0), None);
    }

    #[test]
    fn what_is_too_much_together_is_unknown() {
        let mut all = Changed::Rows(vec![1]);
        all.add(Changed::Rows(vec![2, 3]));
        assert_eq!(all, Changed::Rows(vec![1, 2, 3]));
        all.add(Changed::Rows(vec![0; MOST]));
        assert_eq!(all, Changed::Unknown);
        all.add(Changed::nothing());
        assert_eq!(all, Changed::Unknown);
    }
}

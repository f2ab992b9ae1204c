//! A primary and its replicas over a log that is a list.

use std::path::{Path, PathBuf};

use rung_pages::{Checkpoint, Options, Outcome, PageStore, Position, Writer};
use tempfile::TempDir;

const SERIES: &str = "CREATE TEMP VIEW series AS WITH RECURSIVE s(value) AS \
    (SELECT 1 UNION ALL SELECT value + 1 FROM s WHERE value < 20000) SELECT value FROM s";

/// One copy, and how far it is in the log.
pub struct Copy {
    pub dir: PathBuf,
    pub store: PageStore,
}

/// Copies and the log that they share.
pub struct Group {
    pub copies: Vec<Copy>,
    /// Index 1 is the first.
    pub log: Vec<Vec<u8>>,
    pub options: Options,
    _dir: TempDir,
}

/// A copy that executes.
pub struct Primary {
    pub copy: usize,
    pub epoch: u64,
    pub writer: Writer,
}

impl Group {
    pub fn new(copies: usize, options: Options) -> Group {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let open = |at: usize| {
            let dir = dir.path().join(at.to_string());
            Copy { store: PageStore::open(&dir, options.clone()).expect("opens"), dir }
        };
        let copies = (0..copies).map(open).collect();
        Group { copies, log: Vec::new(), options, _dir: dir }
    }

    pub fn store(&mut self, copy: usize) -> &mut PageStore {
        &mut self.copies[copy].store
    }

    /// Commits entries and applies them everywhere.
    pub fn commit(&mut self, entries: impl IntoIterator<Item = Vec<u8>>) -> Vec<Outcome> {
        self.log.extend(entries);
        let mut outcomes = Vec::new();
        for copy in 0..self.copies.len() {
            outcomes = self.catch_up(copy);
        }
        outcomes
    }

    /// Applies to a copy what it has not applied.
    pub fn catch_up(&mut self, copy: usize) -> Vec<Outcome> {
        let store = &mut self.copies[copy].store;
        let from = store.applied_index() as usize;
        let log = self.log.iter().enumerate().skip(from);
        let entries: Vec<(u64, &[u8])> =
            log.map(|(at, bytes)| (at as u64 + 1, bytes.as_slice())).collect();
        store.apply(&entries).expect("applies")
    }

    /// Makes a copy the primary of the epoch.
    pub fn promote(&mut self, copy: usize, epoch: u64) -> Primary {
        let barrier = self.store(copy).barrier(epoch);
        self.commit([barrier]);
        let writer = self.store(copy).writer().expect("a writer");
        writer.connection.execute_batch(SERIES).expect("a temporary view");
        Primary { copy, epoch, writer }
    }

    /// Executes statements and captures them; nothing is committed by the log.
    pub fn execute(&mut self, primary: &Primary, sql: &str) -> Vec<Vec<u8>> {
        primary.writer.connection.execute_batch(sql).expect(sql);
        self.capture(primary)
    }

    pub fn capture(&mut self, primary: &Primary) -> Vec<Vec<u8>> {
        let store = self.store(primary.copy);
        let captured = store.capture(primary.writer.ticket, primary.epoch).expect("captures");
        captured.map_or(Vec::new(), |captured| captured.parts.map(|part| part.unwrap()).collect())
    }

    /// Executes, commits and applies everywhere.
    pub fn run(&mut self, primary: &Primary, sql: &str) {
        let entries = self.execute(primary, sql);
        self.commit(entries);
        self.assert_equal();
    }

    pub fn assert_equal(&mut self) {
        let first = self.fingerprint(0);
        for copy in 1..self.copies.len() {
            assert_eq!(self.fingerprint(copy), first, "copy {copy} differs from copy 0");
        }
    }

    pub fn fingerprint(&self, copy: usize) -> (Position, [u8; 32]) {
        let store = &self.copies[copy].store;
        (store.position(), store.scrub().expect("scrubs"))
    }

    /// Closes a copy and opens it again.
    pub fn reopen(&mut self, copy: usize) {
        let dir = self.copies[copy].dir.clone();
        let closed = self.copies.remove(copy);
        drop(closed);
        let store = PageStore::open(&dir, self.options.clone()).expect("opens again");
        self.copies.insert(copy, Copy { dir, store });
    }

    pub fn checkpoint(&mut self, copy: usize) -> Checkpoint {
        self.store(copy).checkpoint().expect("a checkpoint")
    }
}

/// What a reader sees.
pub fn read<T: rusqlite::types::FromSql>(store: &PageStore, sql: &str) -> T {
    let gate = store.gate();
    let reader = gate.connect().expect("connects");
    let reading = gate.begin(&reader.connection, reader.ticket).expect("begins");
    let value = reader.connection.query_row(sql, [], |row| row.get(0)).expect(sql);
    reading.end(&reader.connection).expect("ends");
    value
}

/// Checks the structure of the database at the settled position.
pub fn assert_sound(store: &PageStore) {
    assert_eq!(read::<String>(store, "PRAGMA integrity_check"), "ok");
}

pub fn wal_bytes(dir: &Path) -> u64 {
    let wal = dir.join("pages-1.db-wal");
    std::fs::metadata(wal).map_or(0, |file| file.len())
}

//! Random SQL, and groups of copies under it.

use std::io::Read;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_pages::{
    Arrival, Checkpoint, Gate, Options, PageStore, Position, Reader, Reading, Snapshot,
};

use crate::group::{Group, Primary, assert_sound};

/// A transaction. It may fail because of what is there or not.
pub fn statement(random: &mut StdRng) -> String {
    let table = random.random_range(0..3);
    let (id, rows) = (random.random_range(0..500), random.random_range(1..40));
    let series = format!(
        "WITH RECURSIVE s(n) AS (SELECT {id} UNION ALL SELECT n + 1 FROM s WHERE n < {id} + {rows})"
    );
    match random.random_range(0..20) {
        0..4 => format!("CREATE TABLE IF NOT EXISTS t{table}(id INTEGER PRIMARY KEY, v, w)"),
        4..9 => {
            format!("{series} INSERT OR REPLACE INTO t{table} SELECT n, randomblob(90), n FROM s")
        }
        9..12 => {
            format!("UPDATE t{table} SET v = randomblob(200) WHERE id BETWEEN {id} AND {id} + 9")
        }
        12..14 => format!("DELETE FROM t{table} WHERE id % 7 = {rows} % 7"),
        14 => format!("CREATE INDEX IF NOT EXISTS i{table} ON t{table}(w)"),
        15 => format!("DROP INDEX IF EXISTS i{table}"),
        16 => format!("DROP TABLE IF EXISTS t{table}"),
        17 => "VACUUM".to_owned(),
        18 => format!(
            "BEGIN; {series} INSERT INTO t{table}(v) SELECT randomblob(4000) FROM s, s AS u; COMMIT"
        ),
        _ => format!("ALTER TABLE t{table} ADD COLUMN c{id} DEFAULT {id}"),
    }
}

/// A reading that stays, and what it saw first.
struct Watch {
    reader: Reader,
    reading: Reading,
    seen: Vec<String>,
}

impl Watch {
    fn begin(gate: &Gate) -> Watch {
        let reader = gate.connect().expect("connects");
        let reading = gate.begin(&reader.connection, reader.ticket).expect("begins");
        let seen = content(&reader.connection);
        Watch { reader, reading, seen }
    }

    fn end(self) {
        assert_eq!(content(&self.reader.connection), self.seen, "a reading has changed its view");
        self.reading.end(&self.reader.connection).expect("ends");
    }
}

/// A copy that is made while the database goes on, and what it was when it began.
struct Copying {
    snapshot: Snapshot,
    arrival: Arrival,
    fingerprint: (Position, [u8; 32]),
    /// Where it lands.
    store: PageStore,
    _dir: tempfile::TempDir,
}

impl Copying {
    fn begin(group: &mut Group, from: usize) -> Copying {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = PageStore::open(dir.path(), Options::default()).expect("opens");
        let arrival = store.landing().begin().expect("begins to receive");
        let fingerprint = group.fingerprint(from);
        let snapshot = group.store(from).snapshot().expect("a snapshot");
        Copying { snapshot, arrival, fingerprint, store, _dir: dir }
    }

    /// Hands on up to so many bytes; whether that was all.
    fn go_on(&mut self, bytes: usize) -> bool {
        let mut piece = vec![0; bytes];
        let read = self.snapshot.read(&mut piece).expect("reads");
        self.arrival.write(&piece[..read]).expect("takes what comes");
        read == 0
    }

    fn end(mut self) {
        while !self.go_on(100_000) {}
        let landed = self.arrival.finish().expect("lands");
        self.store.take_over(landed).expect("is taken over");
        assert_sound(&self.store);
        let found = (self.store.position(), self.store.scrub().expect("scrubs"));
        assert_eq!(found, self.fingerprint, "a copy is not what was settled when it began");
    }
}

/// What a connection sees, in short.
pub fn content(connection: &rusqlite::Connection) -> Vec<String> {
    let mut found = Vec::new();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";
    let mut select = connection.prepare(tables).expect("the schema");
    let names = select.query_map([], |row| row.get::<_, String>(0)).expect("the schema");
    for name in names {
        let name = name.expect("a name");
        let sum =
            format!("SELECT '{name} ' || count(*) || ' ' || coalesce(hex(max(v)), '') FROM {name}");
        found.push(connection.query_row(&sum, [], |row| row.get(0)).expect("a table"));
    }
    found
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut group = Group::new(3, Options { checkpoint_bytes: 256 << 10, ..Options::default() });
    let mut epoch = 1;
    let mut primary = group.promote(0, epoch);
    let mut watches: Vec<Watch> = Vec::new();
    let mut copying: Vec<Copying> = Vec::new();
    for _ in 0..30 {
        for copy in &mut copying {
            copy.go_on(random.random_range(1..200_000));
        }
        match random.random_range(0..23) {
            0 => {
                // The primary is replaced while something of it is in flight.
                let _lost = execute(&mut group, &primary, &mut random);
                epoch += 1;
                primary = group.promote(random.random_range(0..3), epoch);
                group.assert_equal();
            }
            1 => {
                let settled = group.fingerprint(primary.copy);
                for _ in 0..3 {
                    execute(&mut group, &primary, &mut random);
                }
                group.store(primary.copy).undo().expect("undoes");
                assert_eq!(group.fingerprint(primary.copy), settled);
                epoch += 1;
                primary = group.promote(primary.copy, epoch);
            }
            2..5 => {
                let copy = random.random_range(0..3);
                let done = group.store(copy).checkpoint_if_due().expect("a checkpoint");
                assert!(done != Checkpoint::InFlight);
            }
            5 | 6 => watches.push(Watch::begin(&group.store(random.random_range(0..3)).gate())),
            20 => copying.push(Copying::begin(&mut group, random.random_range(0..3))),
            21 => {
                // With something in flight, which is no part of it.
                let entries = execute(&mut group, &primary, &mut random);
                copying.push(Copying::begin(&mut group, primary.copy));
                group.commit(entries);
            }
            22 if !copying.is_empty() => {
                copying.swap_remove(random.random_range(0..copying.len())).end();
            }
            7 if !watches.is_empty() => {
                watches.swap_remove(random.random_range(0..watches.len())).end();
            }
            _ => {
                let entries = execute(&mut group, &primary, &mut random);
                let more = execute(&mut group, &primary, &mut random);
                group.commit(entries);
                group.assert_equal();
                group.commit(more);
                group.assert_equal();
            }
        }
    }
    watches.into_iter().for_each(Watch::end);
    copying.into_iter().for_each(Copying::end);
    (0..3).for_each(|copy| assert_sound(group.store(copy)));
}

fn execute(group: &mut Group, primary: &Primary, random: &mut StdRng) -> Vec<Vec<u8>> {
    let connection = &primary.writer.connection;
    if connection.execute_batch(&statement(random)).is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").expect("rolls back");
    }
    group.capture(primary)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn copies_are_equal_after_every_settled_entry_and_an_undo_gives_back_the_old_one(seed: u64) {
        run(seed);
    }
}

//! Drafts: transactions that nobody else sees and nothing is left of.

use crate::group::{Group, assert_sound, read};
use crate::workload::{content, statement};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_pages::{Checkpoint, Gate, Options, Reader, Reading};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
const ALL: &str = "SELECT group_concat(id || ':' || v) FROM (SELECT * FROM t ORDER BY id)";

struct Draft {
    pin: Reader,
    reading: Reading,
    reader: Reader,
}

impl Draft {
    fn begin(gate: &Gate) -> Draft {
        let pin = gate.connect().unwrap();
        let reading = gate.begin(&pin.connection, pin.ticket).unwrap();
        let reader = gate.connect_draft(&reading).unwrap().expect("nobody makes a checkpoint");
        assert!(gate.begin_draft(&reader.connection, reader.ticket, &reading).unwrap());
        Draft { pin, reading, reader }
    }

    /// Ends it and begins another one on the same connections.
    fn begin_again(self, gate: &Gate) -> Draft {
        let Draft { pin, reading, reader } = self;
        reader.connection.execute_batch("ROLLBACK").unwrap();
        reading.end(&pin.connection).unwrap();
        let reading = gate.begin(&pin.connection, pin.ticket).unwrap();
        assert!(gate.begin_draft(&reader.connection, reader.ticket, &reading).unwrap());
        Draft { pin, reading, reader }
    }

    fn run(&self, sql: &str) {
        self.reader.connection.execute_batch(sql).unwrap();
    }

    fn all(&self) -> String {
        self.get(ALL)
    }

    fn get<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.reader.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn a_draft_changes_nothing_for_others_and_sees_nothing_of_them() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t VALUES (1, 'one')");
    let unsettled = group.execute(&primary, "INSERT INTO t VALUES (2, 'unsettled')");
    let gate = group.store(0).gate();
    let (first, second) = (Draft::begin(&gate), Draft::begin(&gate));
    first.run("INSERT INTO t VALUES (3, 'first'); UPDATE t SET v = 'mine' WHERE id = 1");
    second.run("INSERT INTO t VALUES (3, 'second')");
    assert_eq!(first.all(), "1:mine,3:first");
    assert_eq!(second.all(), "1:one,3:second");
    group.commit(unsettled);
    group.run(&primary, "INSERT INTO t VALUES (4, 'four')");
    assert_eq!(first.all(), "1:mine,3:first");
    assert_eq!(read::<String>(group.store(0), ALL), "1:one,2:unsettled,4:four");
    let first = first.begin_again(&gate);
    assert_eq!(first.all(), "1:one,2:unsettled,4:four");
    drop((first, second));
    assert_eq!(read::<String>(group.store(0), ALL), "1:one,2:unsettled,4:four");
    assert_sound(group.store(0));
    group.assert_equal();
}

#[test]
fn what_it_changes_stays_in_its_memory_however_much_it_is() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let gate = group.store(0).gate();
    let draft = Draft::begin(&gate);
    let before = group.fingerprint(0);
    draft.run(
        "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 50000)
               INSERT INTO t SELECT i, hex(randomblob(100)) FROM s",
    );
    draft.run("SAVEPOINT a; DELETE FROM t WHERE id > 10; ROLLBACK TO a; RELEASE a");
    assert_eq!(draft.get::<i64>("SELECT count(*) FROM t"), 50_000);
    group.run(&primary, "INSERT INTO t VALUES (1, 'committed meanwhile')");
    let draft = draft.begin_again(&gate);
    assert_eq!(draft.all(), "1:committed meanwhile");
    let committed = draft.reader.connection.execute_batch("UPDATE t SET v = 0; COMMIT");
    assert!(committed.is_err(), "a draft could be committed");
    drop(draft);
    assert_ne!(group.fingerprint(0), before);
    assert_eq!(read::<String>(group.store(0), ALL), "1:committed meanwhile");
    assert_sound(group.store(0));
}

#[test]
fn a_draft_holds_a_checkpoint_back_for_as_long_as_its_reading() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t VALUES (1, 'one')");
    let gate = group.store(0).gate();
    let draft = Draft::begin(&gate);
    draft.run("UPDATE t SET v = 'draft'");
    group.run(&primary, "INSERT INTO t VALUES (2, 'two')");
    assert!(matches!(group.checkpoint(0), Checkpoint::Blocked { .. }));
    assert_eq!(draft.all(), "1:draft");
    drop(draft);
    assert_eq!(group.checkpoint(0), Checkpoint::Done);
    // With an empty log of SQLite, all of it is in the main file.
    let draft = Draft::begin(&gate);
    draft.run("UPDATE t SET v = 'draft' WHERE id = 1");
    assert_eq!(draft.all(), "1:draft,2:two");
    drop(draft);
    assert_sound(group.store(0));
}

/// Drafts of any statements, beside commits, checkpoints and undos, see what a connection
/// sees that reads at the same snapshot; and whatever they do, the copies stay equal.
#[test]
fn drafts_beside_everything_else_see_their_snapshots_and_harm_nobody() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut group = Group::new(2, Options::default());
        let mut epoch = 1;
        let mut primary = group.promote(0, epoch);
        let gate = group.store(0).gate();
        let mut drafts: Vec<Draft> = Vec::new();
        for _ in 0..150 {
            match random.random_range(0..12) {
                0..5 => {
                    let _ = primary.writer.connection.execute_batch(&statement(&mut random));
                    let entries = group.capture(&primary);
                    group.commit(entries);
                }
                5..7 if drafts.len() < 6 => {
                    let draft = Draft::begin(&gate);
                    assert_eq!(content(&draft.reader.connection), content(&draft.pin.connection));
                    drafts.push(draft);
                }
                7 | 8 if !drafts.is_empty() => {
                    let at = random.random_range(0..drafts.len());
                    let draft = drafts.swap_remove(at);
                    if !draft.reader.connection.is_autocommit() {
                        let draft = draft.begin_again(&gate);
                        let of_pin = content(&draft.pin.connection);
                        assert_eq!(content(&draft.reader.connection), of_pin, "seed {seed}");
                        drafts.push(draft);
                    }
                }
                9 => drafts.clear(),
                10 => drop(group.checkpoint(0)),
                11 if random.random_ratio(1, 3) => {
                    let _ = primary.writer.connection.execute_batch(&statement(&mut random));
                    group.capture(&primary);
                    group.store(0).undo().unwrap();
                    epoch += 1;
                    primary = group.promote(0, epoch);
                }
                _ => {
                    for draft in &drafts {
                        // Some of them fail, as they would anywhere.
                        let _ = draft.reader.connection.execute_batch(&statement(&mut random));
                    }
                }
            }
        }
        drop(drafts);
        assert_sound(group.store(0));
        group.assert_equal();
    }
}

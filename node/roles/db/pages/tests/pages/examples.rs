//! One behaviour each.

use rung_pages::{Checkpoint, Options, Outcome, PageStore, PagesError, check_snapshot};

use crate::group::{Group, assert_sound, read, wal_bytes};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

#[test]
fn what_the_primary_commits_is_on_every_copy_once_the_log_has_it() {
    let mut group = Group::new(3, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t(v) VALUES (random()), (datetime('now'))");
    group.run(&primary, "ALTER TABLE t ADD COLUMN w DEFAULT 7");
    for copy in 0..3 {
        assert_eq!(read::<i64>(group.store(copy), "SELECT count(*) FROM t WHERE w = 7"), 2);
        assert_sound(group.store(copy));
    }
}

#[test]
fn readers_see_a_commit_only_when_it_is_settled() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let first = group.execute(&primary, "INSERT INTO t VALUES (1, 'first')");
    let second = group.execute(&primary, "INSERT INTO t VALUES (2, 'second')");
    let count = "SELECT count(*) FROM t";
    assert_eq!(read::<i64>(group.store(0), count), 0);
    group.commit(first);
    assert_eq!(read::<i64>(group.store(0), count), 1);
    assert_eq!(read::<i64>(group.store(1), count), 1);
    group.commit(second);
    assert_eq!(read::<i64>(group.store(0), count), 2);
    group.assert_equal();
}

#[test]
fn deferred_commits_become_one_entry_beside_an_open_transaction() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let first = group.execute(&primary, "INSERT INTO t VALUES (1, 'first')");
    for id in 2..4 {
        let sql = format!("INSERT INTO t VALUES ({id}, 'deferred')");
        primary.writer.connection.execute_batch(&sql).unwrap();
        assert!(group.store(0).defer().unwrap());
    }
    let open = "BEGIN IMMEDIATE; INSERT INTO t SELECT value, hex(randomblob(99)) FROM series \
                WHERE value > 10";
    primary.writer.connection.execute_batch(open).unwrap();
    // What is settled meanwhile is not in the way.
    group.commit(first);
    let together = group.capture(&primary);
    assert_eq!(together.len(), 1);
    primary.writer.connection.execute_batch("ROLLBACK").unwrap();
    group.commit(together);
    group.assert_equal();
    assert_eq!(read::<i64>(group.store(1), "SELECT count(*) FROM t"), 3);
    // Much is not deferred.
    let much = "INSERT INTO t SELECT value, hex(randomblob(99)) FROM series WHERE value > 10";
    primary.writer.connection.execute_batch(much).unwrap();
    assert!(!group.store(0).defer().unwrap());
    let much = group.capture(&primary);
    group.commit(much);
    group.assert_equal();
}

#[test]
fn what_was_deferred_is_undone_by_what_takes_its_place_and_holds_back_checkpoints() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let before = group.fingerprint(0).1;
    primary.writer.connection.execute_batch("INSERT INTO t VALUES (1, 'lost')").unwrap();
    assert!(group.store(0).defer().unwrap());
    assert_eq!(group.checkpoint(0), Checkpoint::InFlight);
    group.promote(1, 2);
    group.assert_equal();
    assert_eq!(group.fingerprint(0).1, before);
    assert_eq!(group.checkpoint(0), Checkpoint::Done);
}

#[test]
fn an_undo_gives_back_exactly_what_was_under_readers_that_notice_nothing() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(
        &primary,
        "INSERT INTO t SELECT value, hex(randomblob(50)) FROM series WHERE value <= 3000",
    );
    let before = group.fingerprint(0);
    let gate = group.store(0).gate();
    let reader = gate.connect().unwrap();
    let reading = gate.begin(&reader.connection, reader.ticket).unwrap();
    group.execute(&primary, "DELETE FROM t WHERE id > 100; VACUUM");
    group.execute(&primary, "CREATE TABLE u AS SELECT * FROM t");
    group.execute(&primary, "UPDATE t SET v = 'unsettled'");
    assert_eq!(group.store(0).undo().unwrap(), 3);
    assert_eq!(group.fingerprint(0), before);
    let sum = "SELECT count(*) FROM t WHERE v <> 'unsettled'";
    let seen: i64 = reader.connection.query_row(sum, [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 3000);
    reading.end(&reader.connection).unwrap();
    assert_sound(group.store(0));
    group.assert_equal();
}

#[test]
fn a_writer_from_before_an_undo_cannot_be_captured() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.execute(&primary, "CREATE TABLE undone(x)");
    group.store(0).undo().unwrap();
    primary.writer.connection.execute_batch("INSERT INTO t(v) VALUES (1)").unwrap();
    let captured = group.store(0).capture(primary.writer.ticket, 1);
    assert!(matches!(captured.err(), Some(PagesError::Stale)));
    assert_eq!(group.store(0).undo().unwrap(), 1);
    let primary = group.promote(0, 2);
    group.run(&primary, "CREATE TABLE other(y); INSERT INTO other VALUES (1)");
    assert_sound(group.store(0));
}

#[test]
fn an_entry_with_another_parent_is_skipped_everywhere_and_a_new_primary_undoes() {
    let mut group = Group::new(3, Options::default());
    let old = group.promote(0, 1);
    group.run(&old, TABLE);
    let lost = group.execute(&old, "INSERT INTO t VALUES (1, 'lost')");
    let new = group.promote(1, 2);
    group.run(&new, "INSERT INTO t VALUES (1, 'kept')");
    // The old primary's proposal arrives late.
    let outcomes = group.commit(lost);
    assert_eq!(outcomes, [Outcome::Skipped]);
    group.assert_equal();
    for copy in 0..3 {
        assert_eq!(read::<String>(group.store(copy), "SELECT v FROM t"), "kept");
    }
    assert_eq!(group.store(0).load().in_flight, 0);
}

#[test]
fn an_undone_entry_that_the_log_commits_after_all_is_applied() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let entries = group.execute(&primary, "INSERT INTO t VALUES (1, 'late')");
    group.store(0).undo().unwrap();
    assert_eq!(read::<i64>(group.store(0), "SELECT count(*) FROM t"), 0);
    group.commit(entries);
    group.assert_equal();
    assert_eq!(read::<i64>(group.store(0), "SELECT count(*) FROM t"), 1);
}

#[test]
fn a_large_transaction_travels_in_parts_and_shrinks_away_by_vacuum() {
    let mut group = Group::new(2, Options { checkpoint_bytes: 1 << 30, ..Options::default() });
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let rows = "INSERT INTO t(v) SELECT randomblob(3000) FROM series WHERE value <= 6000";
    let parts = group.execute(&primary, rows);
    assert!(parts.len() > 20, "{} parts", parts.len());
    assert!(parts.iter().all(|part| part.len() <= rung_pages::MAX_PART_BYTES));
    let last = parts.last().cloned().unwrap();
    group.commit(parts[..parts.len() - 1].to_vec());
    assert_eq!(read::<i64>(group.store(1), "SELECT count(*) FROM t"), 0);
    group.commit([last]);
    assert_eq!(read::<i64>(group.store(1), "SELECT count(*) FROM t"), 6000);
    group.assert_equal();
    group.run(&primary, "DELETE FROM t WHERE id % 10 > 0");
    group.run(&primary, "VACUUM");
    group.run(&primary, "INSERT INTO t(v) SELECT randomblob(30) FROM series WHERE value <= 3000");
    assert_sound(group.store(1));
    assert_eq!(group.checkpoint(1), Checkpoint::Done);
    group.assert_equal();
}

#[test]
fn after_a_start_it_is_the_last_checkpoint_and_the_log_repeats_the_rest() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    assert_eq!(group.checkpoint(0), Checkpoint::Done);
    let durable = group.fingerprint(0);
    group.run(&primary, "INSERT INTO t(v) VALUES (1)");
    let unsettled = group.execute(&primary, "INSERT INTO t(v) VALUES (2)");
    drop((primary, unsettled));
    group.reopen(0);
    assert_eq!(group.fingerprint(0), durable);
    group.catch_up(0);
    group.assert_equal();
    assert_eq!(group.store(0).tip(), group.store(0).position());
}

#[test]
fn a_reading_that_stays_blocks_the_checkpoint_and_keeps_its_view() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let gate = group.store(0).gate();
    let reader = gate.connect().unwrap();
    let reading = gate.begin(&reader.connection, reader.ticket).unwrap();
    group.run(&primary, "INSERT INTO t(v) VALUES (1)");
    assert_eq!(group.checkpoint(0), Checkpoint::Blocked { readers: 1 });
    let durable = group.store(0).durable_index();
    assert_eq!(durable, group.store(0).applied_index(), "durable though the -wal is still needed");
    group.run(&primary, "INSERT INTO t(v) VALUES (2)");
    let seen: i64 =
        reader.connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 0);
    reading.end(&reader.connection).unwrap();
    assert_eq!(group.checkpoint(0), Checkpoint::Done);
    assert!(wal_bytes(&group.copies[0].dir) < 5000, "one page begins it anew");
    assert_eq!(read::<i64>(group.store(0), "SELECT count(*) FROM t"), 2);
}

#[test]
fn readers_that_begin_on_the_emptied_wal_keep_their_view_under_new_commits() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    assert_eq!(group.checkpoint(0), Checkpoint::Done);
    let gate = group.store(0).gate();
    let reader = gate.connect().unwrap();
    let begun_before = gate.begin(&reader.connection, reader.ticket).unwrap();
    let unsettled = group.execute(&primary, "INSERT INTO t(v) VALUES (1)");
    let count = "SELECT count(*) FROM t";
    assert_eq!(read::<i64>(group.store(0), count), 0, "begun after the commit");
    let seen: i64 = reader.connection.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 0, "begun before the commit");
    begun_before.end(&reader.connection).unwrap();
    group.commit(unsettled);
    assert_eq!(read::<i64>(group.store(0), count), 1);
}

#[test]
fn a_snapshot_is_taken_while_serving_and_restored_with_half_a_commit_in_it() {
    let mut group = Group::new(3, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t(v) SELECT randomblob(500) FROM series WHERE value <= 500");
    let parts = group.execute(
        &primary,
        "INSERT INTO t(v) SELECT randomblob(3000) FROM series WHERE value <= 600",
    );
    assert!(parts.len() > 2);
    group.commit(parts[..2].to_vec());
    let mut snapshot = group.store(1).snapshot().unwrap();
    group.commit(parts[2..].to_vec());
    group.run(&primary, "DELETE FROM t WHERE id < 100");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut snapshot, &mut bytes).unwrap();
    drop(snapshot);
    check_snapshot(&mut bytes.as_slice()).unwrap();
    let before = group.fingerprint(2);
    let cut = group.store(2).restore(&mut &bytes[..bytes.len() - 1]);
    assert!(matches!(cut, Err(PagesError::Snapshot(_))));
    assert_eq!(group.fingerprint(2), before);

    let gate = group.store(2).gate();
    let reader = gate.connect().unwrap();
    group.store(2).restore(&mut bytes.as_slice()).unwrap();
    assert!(matches!(gate.begin(&reader.connection, reader.ticket), Err(PagesError::Stale)));
    group.reopen(2);
    group.catch_up(2);
    group.assert_equal();
    assert_sound(group.store(2));
}

#[test]
fn a_copy_that_differs_is_told_by_the_next_entry_on_the_page() {
    let mut group = Group::new(2, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t VALUES (1, 'a')");
    let position = group.store(1).position();
    // Somebody changed the replica's file behind its back.
    let writer = group.store(1).writer().unwrap();
    writer.connection.execute_batch("UPDATE t SET v = 'b'").unwrap();
    group.store(1).capture(writer.ticket, 1).unwrap();
    assert_eq!(group.store(1).position(), position);
    let entries = group.execute(&primary, "INSERT INTO t VALUES (2, 'c')");
    let bytes = entries[0].clone();
    let index = group.log.len() as u64 + 1;
    // It is undone before the entry is applied, so nothing differs after all.
    group.store(1).apply(&[(index, &bytes)]).unwrap();
    let mut wrong = entries[0].clone();
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let diverged = group.store(0).undo().and_then(|_| group.store(0).apply(&[(index, &wrong)]));
    assert!(matches!(diverged, Err(PagesError::Divergence { .. })), "{diverged:?}");
    assert!(matches!(group.store(0).apply(&[]), Err(PagesError::Broken(_))));
}

#[test]
fn an_open_transaction_of_the_writer_is_busy_and_changes_nothing() {
    let mut group = Group::new(2, Options::default());
    let old = group.promote(0, 1);
    group.run(&old, TABLE);
    let new_barrier = group.store(1).barrier(2);
    group.execute(&old, "INSERT INTO t VALUES (1, 'unsettled')");
    old.writer
        .connection
        .execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2, 'open')")
        .unwrap();
    group.log.push(new_barrier.clone());
    let index = group.log.len() as u64;
    let busy = group.store(0).apply(&[(index, &new_barrier)]);
    assert!(matches!(busy, Err(PagesError::WriterBusy)));
    assert_eq!(group.store(0).load().in_flight, 1);
    old.writer.connection.execute_batch("ROLLBACK").unwrap();
    group.catch_up(0);
    group.catch_up(1);
    group.assert_equal();
}

#[test]
fn a_commit_that_changes_nothing_or_too_much_is_no_entry() {
    let options = Options { max_transaction_pages: 100, ..Options::default() };
    let mut group = Group::new(1, options);
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    group.run(&primary, "INSERT INTO t VALUES (1, 'same')");
    assert!(group.execute(&primary, "UPDATE t SET v = 'same'").is_empty());
    let before = group.fingerprint(0);
    let rows = "INSERT INTO t(v) SELECT randomblob(3000) FROM series WHERE value <= 500";
    primary.writer.connection.execute_batch(rows).unwrap();
    let captured = group.store(0).capture(primary.writer.ticket, 1);
    assert!(matches!(captured.err(), Some(PagesError::TooLarge { .. })));
    let again = group.store(0).capture(primary.writer.ticket, 1);
    assert!(matches!(again.err(), Some(PagesError::Uncaptured)));
    group.store(0).undo().unwrap();
    assert_eq!(group.fingerprint(0), before);
}

#[test]
fn a_damaged_wal_below_the_marker_is_an_error_that_names_it() {
    let mut group = Group::new(1, Options::default());
    let primary = group.promote(0, 1);
    group.run(&primary, TABLE);
    let gate = group.store(0).gate();
    let reader = gate.connect().unwrap();
    let reading = gate.begin(&reader.connection, reader.ticket).unwrap();
    group.run(&primary, "INSERT INTO t(v) VALUES (1)");
    assert!(matches!(group.checkpoint(0), Checkpoint::Blocked { .. }));
    drop(reading);
    drop((primary, reader));
    let dir = group.copies.remove(0).dir;
    let wal = dir.join("pages-1.db-wal");
    let mut bytes = std::fs::read(&wal).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&wal, bytes).unwrap();
    let opened = PageStore::open(&dir, Options::default());
    assert!(matches!(opened.err(), Some(PagesError::Damaged { .. })));
}

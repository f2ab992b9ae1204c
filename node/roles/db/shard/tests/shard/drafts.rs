//! Transactions that are executed on snapshots before they are committed.

use std::time::Duration;

use rung_shard::{
    Cancel, Length, Part, ReadLevel, Shard, ShardConfig, ShardError, Trial, WriteTransaction,
};
use rung_sql::{Executor, SqlError, SqlState};

use crate::support::{Cluster, PATIENCE, eventually, id, read, write, write_until};

const COUNT: &str = "SELECT count(*) FROM t";
pub const SUM: &str = "SELECT sum(x) FROM t";
const SHORT: Duration = Duration::from_millis(300);

pub type Got = Result<i64, Box<SqlError>>;

/// The first column of the last row, or how many rows were changed.
pub fn execute(executor: &mut Executor, sql: &str) -> Got {
    let connection = executor.connection();
    let failed =
        |error: rusqlite::Error| Box::new(SqlError::new(SqlState::INTERNAL, error.to_string()));
    let mut statement = connection.prepare(sql).map_err(failed)?;
    if statement.column_count() == 0 {
        return statement.execute([]).map(|changed| changed as i64).map_err(failed);
    }
    let mut last = 0;
    let mut rows = statement.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        last = row.get(0).map_err(failed)?;
    }
    Ok(last)
}

fn outcome(got: &Got) -> Result<u64, Box<SqlError>> {
    got.clone().map(|number| number as u64)
}

fn key(sql: &str) -> u64 {
    sql.bytes().fold(7, |key, byte| key.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

pub fn trial_of(part: Part, sql: &str) -> Trial<Got> {
    Trial::Kept { key: key(sql), outcome, part }
}

pub async fn begin(shard: &Shard) -> WriteTransaction {
    shard.begin_draft(PATIENCE, &Cancel::new()).await.unwrap()
}

async fn run(transaction: &mut WriteTransaction, sql: &'static str) -> Result<i64, ShardError> {
    run_as(transaction, Length::Short, sql).await
}

async fn run_as(
    transaction: &mut WriteTransaction,
    length: Length,
    sql: &'static str,
) -> Result<i64, ShardError> {
    let part = if sql.starts_with("SELECT") { Part::RepeatableRead } else { Part::Write };
    run_part(transaction, (part, length), sql).await
}

pub async fn run_part(
    transaction: &mut WriteTransaction,
    (part, length): (Part, Length),
    sql: &'static str,
) -> Result<i64, ShardError> {
    let trial = trial_of(part, sql);
    let work = move |executor: &mut Executor, _: &_| execute(executor, sql);
    let got = transaction.try_short(PATIENCE, &Cancel::new(), trial, move |_| length, work).await?;
    got.map_err(ShardError::Refused)
}

pub async fn with_table(copies: u64) -> (Cluster, u64, Shard) {
    // Longer than a test takes.
    with_config(copies, |config| config.limits.contention = 4 * PATIENCE).await
}

pub async fn with_config(copies: u64, change: fn(&mut ShardConfig)) -> (Cluster, u64, Shard) {
    let cluster = Cluster::start_with(copies, change).await;
    let (node, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)").await.unwrap();
    write(&shard, "INSERT INTO t VALUES (1, 10), (2, 20)").await.unwrap();
    (cluster, node, shard)
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_run_beside_each_other_and_nobody_waits_for_them() {
    let (cluster, _, shard) = with_table(3).await;
    let (mut first, mut second) = (begin(&shard).await, begin(&shard).await);
    assert_eq!(run(&mut first, "UPDATE t SET x = x + 1 WHERE id = 1").await, Ok(1));
    assert_eq!(run(&mut second, "UPDATE t SET x = x + 2 WHERE id = 1").await, Ok(1));
    assert_eq!(run(&mut first, "INSERT INTO t(x) VALUES (5)").await, Ok(1));
    write(&shard, "UPDATE t SET x = x + 100 WHERE id = 1").await.unwrap();
    assert_eq!(run(&mut first, "SELECT x FROM t WHERE id = 2").await, Ok(20));
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(130));
    let token = second.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Session(token), SUM).await, Ok(132));
    first.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(138));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_share_entries_of_the_log() {
    const CLIENTS: i64 = 8;
    const EACH: i64 = 25;
    let (cluster, _, shard) = with_table(3).await;
    let before = shard.status().batches;
    let clients = (0..CLIENTS).map(|_| {
        let shard = shard.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                let mut draft = begin(&shard).await;
                run(&mut draft, "INSERT INTO t(x) VALUES (0)").await.unwrap();
                tokio::task::yield_now().await;
                run(&mut draft, "UPDATE t SET x = x + 1 WHERE id = 1").await.unwrap();
                let token = draft.commit(PATIENCE).await.unwrap();
                assert!(shard.position().sequence >= token.sequence);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let all = CLIENTS * EACH;
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(30 + all));
    let entries = shard.status().batches - before;
    // How many fewer is a matter of the machine.
    assert!(entries < all as u64, "{all} transactions became {entries} entries");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_or_dropped_leaves_nothing() {
    let (cluster, _, shard) = with_table(1).await;
    let (mut first, mut second) = (begin(&shard).await, begin(&shard).await);
    run(&mut first, "DELETE FROM t").await.unwrap();
    run(&mut second, "DELETE FROM t").await.unwrap();
    first.rollback().await;
    drop(second);
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(30));
    let unused = begin(&shard).await;
    assert_eq!(unused.commit(PATIENCE).await, Ok(shard.position()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_and_is_not_so_any_more_ends_it_and_is_held_for_the_next_time() {
    let (cluster, _, shard) = with_table(1).await;
    const READS: &str = "SELECT x FROM t WHERE id = 1";
    let mut told = begin(&shard).await;
    assert_eq!(run(&mut told, "INSERT INTO t(x) VALUES (1)").await, Ok(1));
    assert_eq!(run(&mut told, READS).await, Ok(10));
    write(&shard, "UPDATE t SET x = 11 WHERE id = 1").await.unwrap();
    assert_eq!(shard.status().drafts, 1);
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    assert_eq!((shard.status().drafts, shard.status().conflicts), (0, 1));
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(2));
    // Now it has the writer when it asks, so that nobody changes it.
    let mut again = begin(&shard).await;
    assert_eq!(run(&mut again, "INSERT INTO t(x) VALUES (1)").await, Ok(1));
    assert_eq!(run(&mut again, READS).await, Ok(11));
    let waited = write_until(&shard, "UPDATE t SET x = 12 WHERE id = 1", SHORT).await;
    assert!(matches!(waited, Err(ShardError::TimedOut(_))), "{waited:?}");
    again.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_others_have_brought_about_is_told_at_the_end() {
    let (cluster, _, shard) = with_table(1).await;
    let mut draft = begin(&shard).await;
    assert_eq!(run(&mut draft, "INSERT INTO t VALUES (3, 1)").await, Ok(1));
    write(&shard, "INSERT INTO t VALUES (3, 2)").await.unwrap();
    let Err(ShardError::Refused(error)) = draft.commit(PATIENCE).await else {
        panic!("the key is there twice");
    };
    assert!(error.message.contains("UNIQUE"), "{error}");
    // An error that its client knows of is part of what it was told.
    let mut draft = begin(&shard).await;
    run(&mut draft, "INSERT INTO t VALUES (4, 1)").await.unwrap();
    run(&mut draft, "INSERT INTO t VALUES (3, 5)").await.unwrap_err();
    write(&shard, "DELETE FROM t WHERE id = 3").await.unwrap();
    assert_eq!(draft.commit(PATIENCE).await, Err(ShardError::Changed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chance_gives_the_same_the_second_time() {
    let (cluster, _, shard) = with_table(1).await;
    let mut draft = begin(&shard).await;
    const RANDOM: &str = "INSERT INTO t(x) VALUES (CAST(rung_random() * 1e15 AS INTEGER)) \
                          RETURNING x";
    let first = run(&mut draft, RANDOM).await.unwrap();
    let second = run(&mut draft, RANDOM).await.unwrap();
    draft.commit(PATIENCE).await.unwrap();
    let third = "SELECT x FROM t WHERE id = 3";
    assert_eq!(read(&shard, ReadLevel::Linearizable, third).await, Ok(first));
    let fourth = "SELECT x FROM t WHERE id = 4";
    assert_eq!(read(&shard, ReadLevel::Linearizable, fourth).await, Ok(second));
    assert_ne!(first, second);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_drafted_takes_the_writer_with_what_was() {
    let (cluster, _, shard) = with_table(1).await;
    let mut draft = begin(&shard).await;
    assert_eq!(run(&mut draft, "UPDATE t SET x = x + 1 WHERE id = 1").await, Ok(1));
    write(&shard, "UPDATE t SET x = x * 10").await.unwrap();
    let sum = run_as(&mut draft, Length::Long, "SELECT sum(x) FROM t").await;
    assert_eq!(sum, Ok(301), "it sees what others have committed, and its own");
    let waited = write_until(&shard, "DELETE FROM t", SHORT).await;
    assert!(matches!(waited, Err(ShardError::TimedOut(_))), "{waited:?}");
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(301));
    // And with what is not so any more it is over.
    let mut draft = begin(&shard).await;
    assert_eq!(run(&mut draft, "SELECT x FROM t WHERE id = 2").await, Ok(200));
    write(&shard, "UPDATE t SET x = 0").await.unwrap();
    let sum = run_as(&mut draft, Length::Long, "SELECT sum(x) FROM t").await;
    assert_eq!(sum, Err(ShardError::Changed));
    assert_eq!(draft.commit(PATIENCE).await, Err(ShardError::Changed));
    write(&shard, "DELETE FROM t").await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_had_to_go_is_no_loss() {
    let cluster = Cluster::start_with(1, |config| {
        config.limits.snapshot_age = Duration::ZERO;
        config.limits.checkpoint_bytes = 64 << 10;
    })
    .await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)").await.unwrap();
    let mut draft = begin(&shard).await;
    run(&mut draft, "INSERT INTO t(x) VALUES (1)").await.unwrap();
    for _ in 0..40 {
        write(&shard, "INSERT INTO t(x) VALUES (0)").await.unwrap();
    }
    eventually("a checkpoint is made beside the draft", || shard.status().wal_bytes < 64 << 10)
        .await;
    assert_eq!(run(&mut draft, "UPDATE t SET x = x + 1 WHERE x = 1").await, Ok(1));
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_may_be_wait_for_the_writer() {
    let cluster = Cluster::start_with(1, |config| config.limits.drafts = 2).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut drafts = vec![begin(&shard).await, begin(&shard).await];
    let mut third = begin(&shard).await;
    run(&mut third, "INSERT INTO t VALUES (3)").await.unwrap();
    let fourth = shard.begin_draft(SHORT, &Cancel::new()).await.err();
    assert!(matches!(fourth, Some(ShardError::TimedOut(_))), "{fourth:?}");
    third.commit(PATIENCE).await.unwrap();
    for draft in &mut drafts {
        run(draft, "INSERT INTO t VALUES (1)").await.unwrap();
    }
    for draft in drafts {
        draft.commit(PATIENCE).await.unwrap();
    }
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(5));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_changes_much_takes_the_writer() {
    let cluster = Cluster::start_with(1, |config| config.limits.draft_bytes = 1 << 20).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut draft = begin(&shard).await;
    run(&mut draft, "INSERT INTO t VALUES (zeroblob(2000000))").await.unwrap();
    write(&shard, "INSERT INTO t VALUES (1)").await.unwrap();
    run(&mut draft, "INSERT INTO t VALUES (2)").await.unwrap();
    let waited = write_until(&shard, "INSERT INTO t VALUES (3)", SHORT).await;
    assert!(matches!(waited, Err(ShardError::TimedOut(_))), "{waited:?}");
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_waits_for_drafts_that_end_soon_and_for_no_others() {
    // Long for a draft to end, and short for a hand-over to wait.
    let cluster = Cluster::start_with(3, |config| {
        config.limits.hand_over_patience = Duration::from_millis(600);
    });
    let cluster = cluster.await;
    let (node, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)").await.unwrap();
    let to = cluster.nodes.keys().copied().find(|other| *other != node).unwrap();
    let mut open = begin(&shard).await;
    let mut forgotten = begin(&shard).await;
    run(&mut open, "INSERT INTO t(x) VALUES (1)").await.unwrap();
    run(&mut forgotten, "INSERT INTO t(x) VALUES (2)").await.unwrap();
    let handed_over = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.hand_over(id(to), PATIENCE).await })
    };
    // While it is being handed over.
    run(&mut open, "INSERT INTO t(x) VALUES (3)").await.unwrap();
    open.commit(PATIENCE).await.unwrap();
    handed_over.await.unwrap().unwrap();
    assert_eq!(run(&mut forgotten, "SELECT 1").await, Err(ShardError::Lost));
    assert_eq!(forgotten.commit(PATIENCE).await, Err(ShardError::Lost));
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(4));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_loses_its_drafts() {
    let (cluster, node, shard) = with_table(3).await;
    let mut draft = begin(&shard).await;
    run(&mut draft, "INSERT INTO t(x) VALUES (1)").await.unwrap();
    cluster.depose(node).await;
    assert_eq!(draft.commit(PATIENCE).await, Err(ShardError::Lost));
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_only_reads_sees_one_snapshot_and_is_in_nobodys_way() {
    let (cluster, _, shard) = with_table(1).await;
    const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < \
                        300000) SELECT count(*) FROM n";
    let position = shard.position();
    let mut draft = begin(&shard).await;
    for _ in 0..2 {
        assert_eq!(run_as(&mut draft, Length::Interruptible, SUM).await, Ok(30));
        assert_eq!(run_as(&mut draft, Length::Interruptible, LONG).await, Ok(300_000));
        write_until(&shard, "UPDATE t SET x = x + 1", PATIENCE).await.unwrap();
    }
    assert_eq!(draft.commit(PATIENCE).await, Ok(position));
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(34));
    // With something changed, what it has read must be so when it is committed.
    let mut draft = begin(&shard).await;
    assert_eq!(run_as(&mut draft, Length::Interruptible, SUM).await, Ok(34));
    assert_eq!(run(&mut draft, "INSERT INTO t(x) VALUES (1)").await, Ok(1));
    write(&shard, "UPDATE t SET x = 0 WHERE id = 1").await.unwrap();
    assert_eq!(draft.commit(PATIENCE).await, Err(ShardError::Changed));
    cluster.stop().await;
}

//! What is executed on the thread of whoever asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

use rung_shard::{
    Cancel, CopyState, Length, ReadLevel, Shard, ShardError, Turn, Verdict, WriteTransaction,
};
use rung_sql::Executor;

use crate::support::{Cluster, PATIENCE, eventually, id, number, read, write};

const COUNT: &str = "SELECT count(*) FROM t";
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < \
                    300000) SELECT count(*) FROM n";

/// Executes a statement of a transaction, and says on which thread that was.
async fn run(
    transaction: &mut WriteTransaction,
    length: Length,
    sql: &'static str,
) -> Result<ThreadId, ShardError> {
    let work = move |executor: &mut Executor, _: &Turn| {
        let done = executor.connection().execute_batch(sql);
        (done.map_err(|error| error.to_string()), std::thread::current().id())
    };
    let done = transaction.run_short(PATIENCE, &Cancel::new(), move |_| length, work).await;
    let (done, thread) = done?;
    done.map(|()| thread).map_err(ShardError::Failed)
}

/// Executes an autocommit write, and says on which thread that was.
async fn write_short(shard: &Shard, length: Length, sql: &'static str) -> ThreadId {
    let work = move |executor: &mut Executor| {
        executor.connection().execute_batch(sql).unwrap();
        Verdict::Keep(std::thread::current().id())
    };
    let written = shard.write_short(PATIENCE, &Cancel::new(), move |_| length, work).await;
    written.unwrap().0
}

async fn with_table(copies: u64) -> (Cluster, u64, Shard) {
    let cluster = Cluster::start(copies).await;
    let (node, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    (cluster, node, shard)
}

// These run on one thread, so that a task never moves to another.
#[tokio::test]
async fn short_statements_and_writes_stay_on_the_thread_of_their_client() {
    let (cluster, _, shard) = with_table(1).await;
    let here = std::thread::current().id();
    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    assert_eq!(run(&mut transaction, Length::Short, insert).await, Ok(here));
    assert_ne!(run(&mut transaction, Length::Long, insert).await, Ok(here));
    assert_eq!(run(&mut transaction, Length::Interruptible, "SELECT 1").await, Ok(here));
    let token = transaction.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Session(token), COUNT).await, Ok(2));
    // The settling of a write is told before the writer is at the desk again, maybe.
    eventually("nothing is under way", || shard.status().in_flight == 0).await;
    assert_eq!(write_short(&shard, Length::Short, insert).await, here);
    assert_ne!(write_short(&shard, Length::Long, insert).await, here);
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(4));
    cluster.stop().await;
}

#[tokio::test]
async fn a_long_read_in_a_transaction_is_begun_anew_on_the_writers_thread() {
    let (cluster, _, shard) = with_table(1).await;
    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    run(&mut transaction, Length::Short, "INSERT INTO t VALUES (1)").await.unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let work = move |executor: &mut Executor, turn: &Turn| {
        counted.fetch_add(1, Ordering::Relaxed);
        (number(executor, LONG), turn.may_block())
    };
    let cancel = Cancel::new();
    let done = transaction.run_short(PATIENCE, &cancel, |_| Length::Interruptible, work).await;
    assert_eq!(done, Ok((300_000, true)));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let own = move |executor: &mut Executor, _: &Turn| number(executor, COUNT);
    let own = transaction.run_short(PATIENCE, &Cancel::new(), |_| Length::Short, own).await;
    assert_eq!(own, Ok(1));
    transaction.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_panics_or_is_canceled_leaves_nothing() {
    let (cluster, _, shard) = with_table(1).await;
    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    run(&mut transaction, Length::Short, "INSERT INTO t VALUES (1)").await.unwrap();
    let work = |_: &mut Executor, _: &Turn| panic!("on purpose");
    let done: Result<(), _> =
        transaction.run_short(PATIENCE, &Cancel::new(), |_| Length::Short, work).await;
    assert!(matches!(done, Err(ShardError::Failed(_))), "{done:?}");
    assert!(run(&mut transaction, Length::Short, "SELECT 1").await.is_err());
    drop(transaction);

    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    run(&mut transaction, Length::Short, "INSERT INTO t VALUES (1)").await.unwrap();
    let cancel = Cancel::new();
    let cancels = cancel.clone();
    let endless = |executor: &mut Executor, _: &Turn| number(executor, ENDLESS);
    let running = tokio::spawn(async move {
        let done = transaction.run_short(PATIENCE, &cancels, |_| Length::Short, endless).await;
        (transaction, done)
    });
    tokio::task::spawn_blocking(move || cancel.cancel()).await.unwrap();
    let (transaction, done) = running.await.unwrap();
    assert_eq!(done, Err(ShardError::Canceled));
    transaction.rollback().await;
    write(&shard, "INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x) FROM t").await, Ok(2));
    cluster.stop().await;
}

/// Adds 1 to a number in a transaction of short statements; the number before.
async fn add_one(shard: &Shard) -> Result<i64, ShardError> {
    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await?;
    run(&mut transaction, Length::Short, "SAVEPOINT s").await?;
    let before = |executor: &mut Executor, _: &Turn| number(executor, "SELECT x FROM t");
    let before =
        transaction.run_short(PATIENCE, &Cancel::new(), |_| Length::Interruptible, before).await?;
    tokio::task::yield_now().await;
    run(&mut transaction, Length::Short, "UPDATE t SET x = x + 1; RELEASE s").await?;
    transaction.commit(PATIENCE).await?;
    Ok(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_writes_of_many_follow_each_other() {
    let (cluster, _, shard) = with_table(1).await;
    write(&shard, "INSERT INTO t VALUES (0)").await.unwrap();
    let clients = (0..16).map(|client| {
        let shard = shard.clone();
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..20 {
                if client % 4 == 0 {
                    write_short(&shard, Length::Short, "UPDATE t SET x = x + 1").await;
                } else {
                    seen.push(add_one(&shard).await.unwrap());
                }
            }
            seen
        })
    });
    let clients: Vec<_> = clients.collect();
    let mut seen = Vec::new();
    for client in clients {
        seen.extend(client.await.unwrap());
    }
    let transactions = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((transactions, seen.len()), (12 * 20, 12 * 20), "each saw what nobody else saw");
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT x FROM t").await, Ok(16 * 20));
    let status = shard.status();
    assert_eq!((status.queued, status.in_transaction), (0, false));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_waits_for_short_transactions_and_loses_none() {
    let (cluster, node, shard) = with_table(3).await;
    write(&shard, "INSERT INTO t VALUES (0)").await.unwrap();
    let shards: Vec<_> = cluster.nodes.values().map(|node| node.shard.clone()).collect();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let client = tokio::spawn(async move {
        let mut added = 0_i64;
        while !*stopped.borrow() {
            for shard in &shards {
                match add_one(shard).await {
                    Ok(before) => {
                        assert_eq!(before, added);
                        added += 1;
                    }
                    Err(ShardError::NotPrimary { .. } | ShardError::Lost) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            tokio::task::yield_now().await;
        }
        added
    });
    let to = cluster.nodes.keys().copied().find(|other| *other != node).unwrap();
    let settled = |shard: &Shard| shard.position().sequence;
    let start = settled(&shard);
    eventually("some were committed", || settled(&shard) > start + 20).await;
    shard.hand_over(id(to), PATIENCE).await.unwrap();
    let new = cluster.shard(to).clone();
    eventually("the other is the primary", || new.state().borrow().is_primary()).await;
    let start = settled(&new);
    eventually("some were committed by it", || settled(&new) > start + 20).await;
    stop.send_replace(true);
    let added = client.await.unwrap();
    assert_eq!(read(&new, ReadLevel::Linearizable, "SELECT x FROM t").await, Ok(added));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_answers_no_short_statement() {
    let (cluster, node, shard) = with_table(3).await;
    cluster.isolate(node);
    // Nobody settles it.
    let unsettled = tokio::spawn({
        let shard = shard.clone();
        async move { write_short_until(&shard, Duration::from_millis(300)).await }
    });
    let written = unsettled.await.unwrap();
    let unknown = matches!(
        written,
        Err(ShardError::OutcomeUnknown
            | ShardError::Lost
            | ShardError::NoQuorum
            | ShardError::NotPrimary { .. })
    );
    assert!(unknown, "{written:?}");
    if let Ok(mut transaction) = shard.begin(Duration::from_millis(100), &Cancel::new()).await {
        let count = |executor: &mut Executor, _: &Turn| number(executor, COUNT);
        let short = Duration::from_millis(300);
        let seen = transaction.run_short(short, &Cancel::new(), |_| Length::Short, count).await;
        assert!(seen.is_err(), "what is on no quorum was shown: {seen:?}");
    }
    cluster.mend();
    eventually("all agree on a primary", || {
        let primaries = cluster
            .nodes
            .values()
            .filter(|it| matches!(*it.shard.state().borrow(), CopyState::Primary { .. }));
        primaries.count() == 1
    })
    .await;
    cluster.stop().await;
}

async fn write_short_until(shard: &Shard, deadline: Duration) -> Result<(), ShardError> {
    let work = |executor: &mut Executor| {
        executor.connection().execute_batch("INSERT INTO t VALUES (1)").unwrap();
        Verdict::Keep(())
    };
    shard.write_short(deadline, &Cancel::new(), |_| Length::Short, work).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_closed_ends_what_is_open_and_what_runs() {
    let (mut cluster, node, shard) = with_table(1).await;
    let mut transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    run(&mut transaction, Length::Short, "INSERT INTO t VALUES (1)").await.unwrap();
    let begun = Arc::new(AtomicU64::new(0));
    let begins = Arc::clone(&begun);
    let endless = move |executor: &mut Executor, _: &Turn| {
        begins.fetch_add(1, Ordering::Relaxed);
        number(executor, ENDLESS)
    };
    let runs = tokio::spawn(async move {
        let cancel = Cancel::new();
        let done = transaction.run_short(PATIENCE, &cancel, |_| Length::Short, endless).await;
        (done, transaction.commit(PATIENCE).await)
    });
    eventually("it runs", || begun.load(Ordering::Relaxed) > 0).await;
    cluster.kill(node).await;
    let (done, committed) = runs.await.unwrap();
    assert!(done.is_err() && committed.is_err(), "{done:?} {committed:?}");
    cluster.restart(node).await;
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(0));
    cluster.stop().await;
}

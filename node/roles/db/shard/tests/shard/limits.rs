//! Work that takes too long, or that nobody wants any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rung_shard::{Cancel, ReadLevel, ShardError, Turn, Verdict};
use rung_sql::Executor;

use crate::support::{Cluster, PATIENCE, eventually, number, read, write};

const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const LONG: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < \
                    300000) SELECT count(*) FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_is_begun_anew_on_a_thread_of_its_own() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let work = move |executor: &mut Executor, turn: &Turn| {
        counted.fetch_add(1, Ordering::Relaxed);
        (number(executor, LONG), turn.may_block())
    };
    let (result, _) = shard.read(ReadLevel::Any, PATIENCE, &Cancel::new(), work).await.unwrap();
    assert_eq!(result, (300_000, true));
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let asks = |_: &mut Executor, turn: &Turn| {
        turn.move_to_thread();
        turn.may_block()
    };
    let (moved, _) = shard.read(ReadLevel::Any, PATIENCE, &Cancel::new(), asks).await.unwrap();
    assert!(moved);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_read_ends_at_its_deadline_or_when_it_is_canceled() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    let endless = |executor: &mut Executor, _: &Turn| number(executor, ENDLESS);
    let short = Duration::from_millis(200);
    let late = shard.read(ReadLevel::Any, short, &Cancel::new(), endless).await;
    assert!(matches!(late, Err(ShardError::TimedOut(_))), "{late:?}");
    let cancel = Cancel::new();
    let cancels = cancel.clone();
    let reading = shard.clone();
    let canceled =
        tokio::spawn(
            async move { reading.read(ReadLevel::Any, PATIENCE, &cancels, endless).await },
        );
    eventually("it is being read", || shard.status().reading > 0).await;
    cancel.cancel();
    assert_eq!(canceled.await.unwrap().err(), Some(ShardError::Canceled));
    eventually("nothing is being read", || shard.status().reading == 0).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_write_is_interrupted_and_others_are_done() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let cancel = Cancel::new();
    let (cancels, writing) = (cancel.clone(), shard.clone());
    let canceled = tokio::spawn(async move {
        let work = |executor: &mut Executor| {
            let insert = "INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 \
                          FROM n) SELECT i FROM n";
            match executor.connection().execute_batch(insert) {
                Ok(()) => Verdict::Keep(()),
                Err(_) => Verdict::Undo(()),
            }
        };
        writing.write(PATIENCE, &cancels, work).await
    });
    let others = (0..20).map(|n| {
        let shard = shard.clone();
        tokio::spawn(async move { write(&shard, format!("INSERT INTO t VALUES ({n})")).await })
    });
    let others: Vec<_> = others.collect();
    eventually("it is executed", || shard.status().queued < 20).await;
    cancel.cancel();
    assert_eq!(canceled.await.unwrap().err(), Some(ShardError::Canceled));
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT count(*) FROM t").await, Ok(20));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_held_too_long_makes_room_for_a_checkpoint() {
    let cluster = Cluster::start_with(1, |config| {
        config.limits.checkpoint_bytes = 128 << 10;
        config.limits.snapshot_age = Duration::from_millis(100);
    })
    .await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut held = shard.begin_read(ReadLevel::Any, PATIENCE).await.unwrap();
    let count = |executor: &mut Executor, _: &Turn| number(executor, "SELECT count(*) FROM t");
    assert_eq!(held.run(PATIENCE, &Cancel::new(), count).await, Ok(0));
    for _ in 0..400 {
        write(&shard, "INSERT INTO t VALUES (randomblob(3000))").await.unwrap();
    }
    let mut ended = None;
    eventually("the snapshot was ended", || {
        ended = Some(shard.status().wal_bytes);
        shard.status().reading == 0
    })
    .await;
    let late = held.run(PATIENCE, &Cancel::new(), count).await;
    assert_eq!(late, Err(ShardError::SnapshotTooOld));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_kept_for_the_next_read_holds_no_checkpoint_back() {
    let cluster = Cluster::start_with(1, |config| {
        config.limits.checkpoint_bytes = 128 << 10;
        config.limits.snapshot_age = PATIENCE;
    })
    .await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    // Of these two connections, the reads that follow need one.
    let one = shard.begin_read(ReadLevel::Any, PATIENCE).await.unwrap();
    drop((one, shard.begin_read(ReadLevel::Any, PATIENCE).await.unwrap()));
    for count in 0..400 {
        assert_eq!(read(&shard, ReadLevel::Any, "SELECT count(*) FROM t").await, Ok(count));
        write(&shard, "INSERT INTO t VALUES (randomblob(3000))").await.unwrap();
    }
    assert!(shard.status().wal_bytes < 1 << 20, "{:?}", shard.status());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_refuses() {
    let cluster = Cluster::start_with(1, |config| config.limits.queue = 4).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let transaction = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    let writes = (0..10).map(|n| {
        let shard = shard.clone();
        tokio::spawn(async move { write(&shard, format!("INSERT INTO t VALUES ({n})")).await })
    });
    let writes: Vec<_> = writes.collect();
    eventually("some were refused", || {
        writes.iter().filter(|write| write.is_finished()).count() == 6
    })
    .await;
    drop(transaction);
    let mut refused = 0;
    for written in writes {
        match written.await.unwrap() {
            Ok(_) => {}
            Err(ShardError::Overloaded(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 6);
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT count(*) FROM t").await, Ok(4));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_closed_around_a_read_can_be_opened_at_once() {
    let mut cluster = Cluster::start(1).await;
    let (node, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let work = move |executor: &mut Executor, _: &Turn| {
        counted.fetch_add(1, Ordering::Relaxed);
        let read = number(executor, ENDLESS);
        // It is interrupted, and has the file open for a moment longer.
        std::thread::sleep(Duration::from_millis(200));
        read
    };
    let reading =
        tokio::spawn(
            async move { shard.read(ReadLevel::Any, PATIENCE, &Cancel::new(), work).await },
        );
    eventually("a thread reads", || calls.load(Ordering::Relaxed) == 2).await;
    cluster.kill(node).await;
    cluster.restart(node).await;
    assert!(reading.await.unwrap().is_err());
    let (_, shard) = cluster.primary().await;
    write(&shard, "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT count(*) FROM t").await, Ok(1));
    cluster.stop().await;
}

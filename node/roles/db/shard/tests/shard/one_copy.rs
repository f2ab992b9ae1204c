//! A shard with a single voter.

use std::time::Duration;

use rung_shard::{Cancel, ReadLevel, ShardError, Token, Verdict};
use rung_sql::Executor;

use crate::support::{Cluster, PATIENCE, eventually, fill, number, read, write};

const COUNT: &str = "SELECT count(*) FROM t";

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_is_read_and_survives_a_restart() {
    let mut cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let token = write(&shard, "INSERT INTO t VALUES (1), (2)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(2));
    cluster.kill(1).await;
    cluster.restart(1).await;
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Session(token), COUNT).await, Ok(2));
    write(&shard, "INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_come_together_share_batches() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let writes = (0..400).map(|n| {
        let shard = shard.clone();
        tokio::spawn(async move { write(&shard, format!("INSERT INTO t VALUES ({n})")).await })
    });
    for written in writes.collect::<Vec<_>>() {
        written.await.unwrap().unwrap();
    }
    let status = shard.status();
    assert_eq!(status.writes, 401);
    assert!(status.batches < 300, "{status:?}");
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT count(DISTINCT x) FROM t").await, Ok(400));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_undone_leaves_nothing_and_harms_nobody() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x PRIMARY KEY)").await.unwrap();
    let writes = (0..100).map(|n| {
        let shard = shard.clone();
        // Every second one fails after it has inserted something.
        let sql = match n % 2 {
            0 => format!("INSERT INTO t VALUES ({n})"),
            _ => format!("INSERT INTO t VALUES ({n}), ({n})"),
        };
        tokio::spawn(async move { (n, write(&shard, sql).await) })
    });
    for written in writes.collect::<Vec<_>>() {
        let (n, written) = written.await.unwrap();
        assert_eq!(written.is_ok(), n % 2 == 0, "{n}: {written:?}");
    }
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(50));
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x % 2) FROM t").await, Ok(0));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_rolls_everything_back_harms_nobody_else() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x PRIMARY KEY); INSERT INTO t VALUES (-1)").await.unwrap();
    let writes = (0..100).map(|n| {
        let shard = shard.clone();
        let sql = match n % 10 {
            9 => "INSERT OR ROLLBACK INTO t VALUES (-1)".to_owned(),
            _ => format!("INSERT INTO t VALUES ({n})"),
        };
        tokio::spawn(async move { (n, write(&shard, sql).await) })
    });
    for written in writes.collect::<Vec<_>>() {
        let (n, written) = written.await.unwrap();
        assert_eq!(written.is_ok(), n % 10 != 9, "{n}: {written:?}");
    }
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(91));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_foreign_key_fails_its_own_write_only() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    let tables = "CREATE TABLE a(x PRIMARY KEY); \
                  CREATE TABLE t(x REFERENCES a DEFERRABLE INITIALLY DEFERRED)";
    write(&shard, tables).await.unwrap();
    let writes = (0..40).map(|n| {
        let shard = shard.clone();
        let sql = match n % 4 {
            3 => format!("INSERT INTO t VALUES ({n})"),
            _ => format!("INSERT INTO t VALUES ({n}); INSERT INTO a VALUES ({n})"),
        };
        tokio::spawn(async move { (n, write(&shard, sql).await) })
    });
    for written in writes.collect::<Vec<_>>() {
        let (n, written) = written.await.unwrap();
        match written {
            Err(ShardError::Refused(_)) => assert_eq!(n % 4, 3),
            other => assert!(other.is_ok() && n % 4 != 3, "{n}: {other:?}"),
        }
    }
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(30));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_panics_is_rolled_back_and_the_writer_goes_on() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let work = |executor: &mut Executor| -> Verdict<()> {
        executor.connection().execute_batch("INSERT INTO t VALUES (1)").unwrap();
        panic!("on purpose")
    };
    let panicked = shard.write(PATIENCE, &Cancel::new(), work).await;
    assert!(matches!(panicked, Err(ShardError::Failed(_))), "{panicked:?}");
    write(&shard, "INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x) FROM t").await, Ok(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vacuum_runs_alone_and_is_replicated_as_pages() {
    let mut cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    let fill = "CREATE TABLE t(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                WHERE i < 20000) INSERT INTO t SELECT randomblob(100) FROM n";
    write(&shard, fill).await.unwrap();
    write(&shard, "DELETE FROM t WHERE rowid % 4 <> 0").await.unwrap();
    let pages = "SELECT * FROM pragma_page_count";
    let before = read(&shard, ReadLevel::Any, pages).await.unwrap();
    let vacuum = |executor: &mut Executor| executor.connection().execute_batch("VACUUM");
    let (done, _) = shard.alone(PATIENCE, &Cancel::new(), vacuum).await.unwrap();
    done.unwrap();
    let after = read(&shard, ReadLevel::Any, pages).await.unwrap();
    assert!(after < before / 2, "{before} pages became {after}");
    cluster.kill(1).await;
    cluster.restart(1).await;
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(5000));
    assert_eq!(read(&shard, ReadLevel::Any, pages).await, Ok(after));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_read_many_times_shows_the_same_and_the_next_what_came() {
    let cluster = Cluster::start_with(1, |config| config.limits.checkpoint_bytes = 64 << 10).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let bytes = "SELECT coalesce(sum(length(x)), 0) FROM t";
    for round in 1..=5 {
        for _ in 0..20 {
            write(&shard, "INSERT INTO t VALUES (zeroblob(5000))").await.unwrap();
        }
        for _ in 0..200 {
            assert_eq!(read(&shard, ReadLevel::Any, bytes).await, Ok(round * 100_000));
        }
    }
    // The file becomes shorter than it was when it was read.
    write(&shard, "DELETE FROM t WHERE rowid > 1").await.unwrap();
    let vacuum = |executor: &mut Executor| executor.connection().execute_batch("VACUUM");
    shard.alone(PATIENCE, &Cancel::new(), vacuum).await.unwrap().0.unwrap();
    for round in 1..=200 {
        assert_eq!(read(&shard, ReadLevel::Any, bytes).await, Ok(5000), "{round}");
    }
    for _ in 0..100 {
        write(&shard, "INSERT INTO t VALUES (zeroblob(5000))").await.unwrap();
        assert_eq!(read(&shard, ReadLevel::Any, "SELECT min(length(x)) FROM t").await, Ok(5000));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_purged_after_checkpoints_and_no_snapshot_is_written() {
    let (mut cluster, shard) = Cluster::start_purging().await;
    fill(&shard, 300).await;
    let status = shard.group().status();
    eventually("the log was purged", || {
        status.borrow().purged.is_some_and(|purged| purged.index > 100)
    })
    .await;
    let files = std::fs::read_dir(cluster.dir(1).join("groups").join("5"));
    let files: Vec<_> = files.unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(files.is_empty(), "{files:?}");
    cluster.kill(1).await;
    cluster.restart(1).await;
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(300));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_future_or_elsewhere_is_not_served() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    let token = write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let future = Token { sequence: token.sequence + 1, ..token };
    let level = ReadLevel::Session(future);
    assert_eq!(read(&shard, level, COUNT).await, Err(ShardError::TooFarBehind));
    let level = ReadLevel::Session(Token { generation: rung_proto::Generation(2), ..token });
    let refused = read(&shard, level, COUNT).await;
    assert!(matches!(refused, Err(ShardError::WrongGeneration { .. })), "{refused:?}");
    let level = ReadLevel::Session(Token { shard: 1, ..token });
    let refused = read(&shard, level, COUNT).await;
    assert!(matches!(refused, Err(ShardError::WrongShard { .. })), "{refused:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_only_reads_sees_one_snapshot() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut reads = shard.begin_read(ReadLevel::Any, PATIENCE).await.unwrap();
    let deadline = Duration::from_secs(5);
    let count = |executor: &mut Executor, _: &rung_shard::Turn| number(executor, COUNT);
    assert_eq!(reads.run(deadline, &Cancel::new(), count).await, Ok(0));
    write(&shard, "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(reads.run(deadline, &Cancel::new(), count).await, Ok(0));
    drop(reads);
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(1));
    cluster.stop().await;
}

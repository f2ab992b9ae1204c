//! Interactive transactions.

use std::time::Duration;

use rung_shard::{Cancel, ReadLevel, Shard, ShardError, WriteTransaction};
use rung_sql::Executor;

use crate::support::{Cluster, PATIENCE, number, read, write, write_until};

const COUNT: &str = "SELECT count(*) FROM t";
const SHORT: Duration = Duration::from_millis(200);

async fn begin(shard: &Shard) -> WriteTransaction {
    shard.begin(PATIENCE, &Cancel::new()).await.unwrap()
}

async fn run(transaction: &mut WriteTransaction, sql: &'static str) -> Result<(), ShardError> {
    let work = move |executor: &mut Executor| executor.connection().execute_batch(sql);
    transaction
        .run(PATIENCE, &Cancel::new(), work)
        .await?
        .map_err(|error| ShardError::Failed(error.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_seen_by_others_when_it_is_committed() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut transaction = begin(&shard).await;
    run(&mut transaction, "INSERT INTO t VALUES (1)").await.unwrap();
    let own = transaction.run(PATIENCE, &Cancel::new(), |executor| number(executor, COUNT)).await;
    assert_eq!(own, Ok(1));
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(0));
    let token = transaction.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Session(token), COUNT).await, Ok(1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rolled_back_or_dropped_leaves_nothing() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut transaction = begin(&shard).await;
    run(&mut transaction, "INSERT INTO t VALUES (1)").await.unwrap();
    transaction.rollback().await;
    let mut transaction = begin(&shard).await;
    run(&mut transaction, "INSERT INTO t VALUES (2)").await.unwrap();
    drop(transaction);
    write(&shard, "INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x) FROM t").await, Ok(3));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_wait_for_the_writer_as_long_as_they_want_to() {
    let cluster = Cluster::start(1).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let transaction = begin(&shard).await;
    let waited = write_until(&shard, "INSERT INTO t VALUES (1)", SHORT).await;
    assert!(matches!(waited, Err(ShardError::TimedOut(_))), "{waited:?}");
    let waited = shard.begin(SHORT, &Cancel::new()).await.err();
    assert!(matches!(waited, Some(ShardError::TimedOut(_))), "{waited:?}");
    drop(transaction);
    write(&shard, "INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x) FROM t").await, Ok(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_idles_is_ended_when_somebody_waits() {
    let cluster = Cluster::start_with(1, |config| config.limits.transaction_idle = SHORT).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut transaction = begin(&shard).await;
    run(&mut transaction, "INSERT INTO t VALUES (1)").await.unwrap();
    write(&shard, "INSERT INTO t VALUES (2)").await.unwrap();
    let ended = run(&mut transaction, "INSERT INTO t VALUES (3)").await;
    assert_eq!(ended, Err(ShardError::TransactionTooLong(SHORT)));
    assert_eq!(read(&shard, ReadLevel::Any, "SELECT sum(x) FROM t").await, Ok(2));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_cut_off_loses_its_open_transaction() {
    let cluster = Cluster::start(3).await;
    let (node, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let mut transaction = begin(&shard).await;
    run(&mut transaction, "INSERT INTO t VALUES (1)").await.unwrap();
    cluster.depose(node).await;
    let ended = run(&mut transaction, "INSERT INTO t VALUES (2)").await;
    assert_eq!(ended, Err(ShardError::Lost));
    let (_, shard) = cluster.primary().await;
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(0));
    cluster.stop().await;
}

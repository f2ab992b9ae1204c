//! Commits that wait for transactions that are under way, to become one entry with them.

use std::time::Duration;

use rung_shard::{Length, Part, ReadLevel, Shard, ShardConfig, ShardError, WriteTransaction};
use tokio::time::timeout;

use crate::drafts::{SUM, begin, run_part, with_config};
use crate::support::{PATIENCE, read};

const FIRST: &str = "SELECT x FROM t WHERE id = 1";
const CHANGE_FIRST: &str = "UPDATE t SET x = x + 1 WHERE id = 1";
const CHANGE_SECOND: &str = "UPDATE t SET x = x + 1 WHERE id = 2";
/// For so long it is seen that somebody waits.
const WHILE: Duration = Duration::from_millis(100);

/// Whoever has executed something is waited for, for longer than a test takes.
fn waits_long(config: &mut ShardConfig) {
    (config.limits.gather, config.limits.active) = (4 * PATIENCE, 4 * PATIENCE);
}

async fn run(draft: &mut WriteTransaction, sql: &'static str) -> Result<i64, ShardError> {
    let part = if sql.starts_with("SELECT") { Part::CommittedRead } else { Part::RowWrite };
    run_part(draft, (part, Length::Short), sql).await
}

/// Two that have changed different rows.
async fn two(shard: &Shard) -> (WriteTransaction, WriteTransaction) {
    let (mut first, mut second) = (begin(shard).await, begin(shard).await);
    assert_eq!(run(&mut first, CHANGE_FIRST).await, Ok(1));
    assert_eq!(run(&mut second, CHANGE_SECOND).await, Ok(1));
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_who_is_under_way_and_shares_an_entry() {
    let (cluster, _, shard) = with_config(3, waits_long).await;
    let before = shard.status().batches;
    let (first, second) = two(&shard).await;
    let mut first = tokio::spawn(first.commit(PATIENCE));
    assert!(timeout(WHILE, &mut first).await.is_err(), "it did not wait");
    second.commit(PATIENCE).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(shard.status().batches - before, 1);
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(32));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_who_has_done_nothing_for_a_while() {
    let idle = |config: &mut ShardConfig| {
        waits_long(config);
        config.limits.active = Duration::ZERO;
    };
    let (cluster, _, shard) = with_config(3, idle).await;
    let (first, second) = two(&shard).await;
    first.commit(PATIENCE).await.unwrap();
    second.commit(PATIENCE).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_who_waits_for_him() {
    let (cluster, _, shard) = with_config(3, waits_long).await;
    let (mut first, mut second) = (begin(&shard).await, begin(&shard).await);
    assert_eq!(run(&mut first, CHANGE_FIRST).await, Ok(1));
    assert_eq!(run(&mut first, FIRST).await, Ok(11));
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    let mut second = tokio::spawn(async move {
        assert_eq!(run(&mut second, FIRST).await, Ok(12));
        second.commit(PATIENCE).await
    });
    assert!(timeout(WHILE, &mut second).await.is_err(), "it did not wait");
    first.commit(PATIENCE).await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, FIRST).await, Ok(12));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_no_longer_than_it_may() {
    let short = |config: &mut ShardConfig| {
        waits_long(config);
        config.limits.gather = WHILE;
    };
    let (cluster, _, shard) = with_config(3, short).await;
    let (first, second) = two(&shard).await;
    first.commit(PATIENCE).await.unwrap();
    second.rollback().await;
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(31));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changed_no_page_waits_for_nobody_and_nobody_for_it() {
    let (cluster, _, shard) = with_config(1, waits_long).await;
    let (mut first, mut second) = (begin(&shard).await, begin(&shard).await);
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    assert_eq!(run(&mut first, "UPDATE t SET x = x WHERE id = 1").await, Ok(1));
    first.commit(PATIENCE).await.unwrap();
    assert_eq!(run(&mut second, FIRST).await, Ok(11));
    second.commit(PATIENCE).await.unwrap();
    cluster.stop().await;
}

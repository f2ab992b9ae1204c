//! Drafts at READ COMMITTED: what they have read need not be so at the end, but for the rows
//! that they have changed, which others wait for.

use std::time::Duration;

use rung_shard::{
    Cancel, Length, Part, ReadLevel, Shard, ShardError, Turn, Verdict, WriteTransaction,
};
use rung_sql::Executor;
use tokio::task::JoinHandle;

use crate::drafts::{SUM, begin, execute, run_part, trial_of, with_config};
use crate::support::{Cluster, PATIENCE, read, write, write_until};

const FIRST: &str = "SELECT x FROM t WHERE id = 1";
const SECOND: &str = "SELECT x FROM t WHERE id = 2";
const CHANGE_FIRST: &str = "UPDATE t SET x = x + 1 WHERE id = 1";
const CHANGE_SECOND: &str = "UPDATE t SET x = x + 1 WHERE id = 2";
/// For so long it is seen that somebody waits.
const WHILE: Duration = Duration::from_millis(100);

async fn with_table(copies: u64) -> (Cluster, u64, Shard) {
    with_config(copies, |config| config.limits.contention = Duration::ZERO).await
}

/// Executes a statement as one of a transaction at READ COMMITTED.
async fn run(draft: &mut WriteTransaction, sql: &'static str) -> Result<i64, ShardError> {
    let part = if sql.starts_with("SELECT") { Part::CommittedRead } else { Part::RowWrite };
    run_part(draft, (part, Length::Short), sql).await
}

/// A draft that has changed a row and read it back.
async fn claims(
    shard: &Shard,
    change: &'static str,
    told: (&'static str, i64),
) -> WriteTransaction {
    let mut draft = begin(shard).await;
    assert_eq!(run(&mut draft, change).await, Ok(1));
    assert_eq!(run(&mut draft, told.0).await, Ok(told.1));
    draft
}

/// Writes, at the same time.
fn writes(shard: &Shard, sql: &'static str) -> JoinHandle<()> {
    let shard = shard.clone();
    tokio::spawn(async move {
        write(&shard, sql).await.unwrap();
    })
}

async fn waits<T>(task: &mut JoinHandle<T>) {
    assert!(tokio::time::timeout(WHILE, task).await.is_err(), "it did not wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_row_that_two_have_changed_waits_for_the_first() {
    let (cluster, _, shard) = with_table(3).await;
    let first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let mut second = begin(&shard).await;
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    let mut second = tokio::spawn(async move {
        assert_eq!(run(&mut second, FIRST).await, Ok(12));
        second.commit(PATIENCE).await
    });
    waits(&mut second).await;
    first.commit(PATIENCE).await.unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, FIRST).await, Ok(12));
    assert_eq!(shard.status().conflicts, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_and_commits_wait_for_what_others_have_changed_and_read() {
    let (cluster, _, shard) = with_table(1).await;
    let first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    // It has read nothing back, so nobody waits for it.
    let mut second = begin(&shard).await;
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    let mut second = tokio::spawn(second.commit(PATIENCE));
    let mut third = writes(&shard, "UPDATE t SET x = x * 2 WHERE id = 1");
    waits(&mut second).await;
    waits(&mut third).await;
    write(&shard, "UPDATE t SET x = 5 WHERE id = 2").await.unwrap();
    first.commit(PATIENCE).await.unwrap();
    second.await.unwrap().unwrap();
    third.await.unwrap();
    let ended = read(&shard, ReadLevel::Linearizable, FIRST).await.unwrap();
    assert!(ended == 24 || ended == 23, "{ended}");
    assert_eq!(shard.status().conflicts, 0);
    // Whoever is rolled back is waited for no more either.
    let first = claims(&shard, CHANGE_SECOND, (SECOND, 6)).await;
    let mut second = writes(&shard, CHANGE_SECOND);
    waits(&mut second).await;
    first.rollback().await;
    second.await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_sees_what_is_committed_and_that_may_change_again() {
    let (cluster, _, shard) = with_table(3).await;
    let mut draft = claims(&shard, CHANGE_FIRST, (SUM, 31)).await;
    write(&shard, "UPDATE t SET x = 100 WHERE id = 2").await.unwrap();
    assert_eq!(run(&mut draft, SUM).await, Ok(111));
    write(&shard, "UPDATE t SET x = 200 WHERE id = 2").await.unwrap();
    assert_eq!(run(&mut draft, CHANGE_SECOND).await, Ok(1));
    assert_eq!(run(&mut draft, SECOND).await, Ok(201));
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(212));
    assert_eq!(shard.status().conflicts, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_wait_for_each_other_do_not_wait_for_ever() {
    let (cluster, _, shard) = with_table(1).await;
    let mut first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let mut second = claims(&shard, CHANGE_SECOND, (SECOND, 21)).await;
    assert_eq!(run(&mut first, CHANGE_SECOND).await, Ok(1));
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    let mut first = tokio::spawn(async move {
        // Nobody waits for it any more, so it is too late whatever it reads.
        run(&mut first, SECOND).await.unwrap();
        first.commit(PATIENCE).await
    });
    waits(&mut first).await;
    second.commit(PATIENCE).await.unwrap();
    assert_eq!(first.await.unwrap(), Err(ShardError::Changed));
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(32));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_waited_for_longer_than_a_transaction_may_be_idle() {
    let (cluster, _, shard) = with_config(1, |config| {
        config.limits.contention = Duration::ZERO;
        config.limits.transaction_idle = Duration::from_secs(1);
    })
    .await;
    let first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let mut second = writes(&shard, "UPDATE t SET x = 50 WHERE id = 1");
    waits(&mut second).await;
    second.await.unwrap();
    // What it was told is not so any more.
    assert_eq!(first.commit(PATIENCE).await, Err(ShardError::Changed));
    let mut first = claims(&shard, CHANGE_FIRST, (FIRST, 51)).await;
    let second = begin(&shard).await;
    let mut second = tokio::spawn(async move {
        let mut second = second;
        run(&mut second, CHANGE_FIRST).await.unwrap();
        (run(&mut second, FIRST).await, second.commit(PATIENCE).await.map(drop))
    });
    waits(&mut second).await;
    assert_eq!(second.await.unwrap(), (Ok(51), Ok(())));
    run(&mut first, SECOND).await.unwrap();
    assert_eq!(first.commit(PATIENCE).await, Err(ShardError::Changed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_may_be_canceled_and_has_a_deadline() {
    let (cluster, _, shard) = with_table(1).await;
    let first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let waited = write_until(&shard, CHANGE_FIRST, WHILE).await;
    assert!(matches!(waited, Err(ShardError::TimedOut(_))), "{waited:?}");
    let cancel = Cancel::new();
    let second = {
        let (shard, cancel) = (shard.clone(), cancel.clone());
        tokio::spawn(async move {
            let work = |executor: &mut Executor| {
                executor.connection().execute(CHANGE_FIRST, []).unwrap();
                Verdict::Keep(())
            };
            shard.write(PATIENCE, &cancel, work).await.map(drop)
        })
    };
    let mut second = second;
    waits(&mut second).await;
    cancel.cancel();
    assert_eq!(second.await.unwrap(), Err(ShardError::Canceled));
    first.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, FIRST).await, Ok(11));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_nobody_is_noticed() {
    let (cluster, _, shard) = with_table(1).await;
    // The writer cannot wait for one that comes after it.
    let told = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let other = claims(&shard, CHANGE_SECOND, (SECOND, 21)).await;
    let mut held = shard.begin(PATIENCE, &Cancel::new()).await.unwrap();
    let change = |executor: &mut Executor| {
        executor.connection().execute("UPDATE t SET x = 1 WHERE id = 1", []).unwrap()
    };
    held.run(PATIENCE, &Cancel::new(), change).await.unwrap();
    held.commit(PATIENCE).await.unwrap();
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    other.commit(PATIENCE).await.unwrap();
    // What SQLite tells nobody, and what was not there to be claimed.
    let mut told = begin(&shard).await;
    const ADD: &str = "INSERT INTO t VALUES (5, 1) ON CONFLICT (id) DO UPDATE SET x = x + 1";
    assert_eq!(run(&mut told, ADD).await, Ok(1));
    assert_eq!(run(&mut told, "SELECT x FROM t WHERE id = 5").await, Ok(1));
    write(&shard, "INSERT INTO t VALUES (5, 100)").await.unwrap();
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    // One that was emptied at once, and filled again.
    let told = claims(&shard, CHANGE_SECOND, (SECOND, 22)).await;
    write(&shard, "DELETE FROM t").await.unwrap();
    let mut other = writes(&shard, "INSERT INTO t VALUES (2, 0)");
    waits(&mut other).await;
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    other.await.unwrap();
    // What was changed is not there any more, and would be inserted.
    let mut told = begin(&shard).await;
    const ADD_SECOND: &str = "INSERT INTO t VALUES (2, 7) ON CONFLICT (id) DO UPDATE SET x = x + 1";
    assert_eq!(run(&mut told, ADD_SECOND).await, Ok(1));
    assert_eq!(run(&mut told, SECOND).await, Ok(1));
    write(&shard, "DELETE FROM t").await.unwrap();
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_other_rows_must_be_read_again() {
    let (cluster, _, shard) = with_table(1).await;
    let mut told = begin(&shard).await;
    const COPY: &str = "UPDATE t SET x = (SELECT x FROM t WHERE id = 2) WHERE id = 1";
    let part = (Part::Write, Length::Short);
    assert_eq!(run_part(&mut told, part, COPY).await, Ok(1));
    assert_eq!(run(&mut told, FIRST).await, Ok(20));
    write(&shard, CHANGE_SECOND).await.unwrap();
    assert_eq!(told.commit(PATIENCE).await, Err(ShardError::Changed));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_the_writer_keeps_its_claims() {
    let (cluster, _, shard) = with_table(1).await;
    let mut first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let mut second = begin(&shard).await;
    assert_eq!(run(&mut second, CHANGE_FIRST).await, Ok(1));
    let long = (Part::RowWrite, Length::Long);
    assert_eq!(run_part(&mut first, long, CHANGE_FIRST).await, Ok(1));
    let mut second = tokio::spawn(async move {
        let read = run(&mut second, FIRST).await;
        (read, second.commit(PATIENCE).await.map(drop))
    });
    waits(&mut second).await;
    first.commit(PATIENCE).await.unwrap();
    assert_eq!(second.await.unwrap(), (Ok(13), Ok(())));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_condition_has_found_stays_so_and_what_it_has_not_found_need_not() {
    let (cluster, _, shard) = with_table(3).await;
    const TAKE: &str = "UPDATE t SET x = x - 10 WHERE id = 1 AND x >= 10";
    let conditional = (Part::ConditionalWrite, Length::Short);
    let mut first = begin(&shard).await;
    let mut second = begin(&shard).await;
    assert_eq!(run_part(&mut first, conditional, TAKE).await, Ok(1));
    assert_eq!(run(&mut second, CHANGE_SECOND).await, Ok(1));
    let mut waiting = tokio::spawn(async move {
        let taken = run_part(&mut second, conditional, TAKE).await;
        (taken, second)
    });
    waits(&mut waiting).await;
    first.commit(PATIENCE).await.unwrap();
    let (taken, mut second) = waiting.await.unwrap();
    assert_eq!(taken, Ok(0), "there is nothing left");
    // That it had failed does not count any more.
    write(&shard, "UPDATE t SET x = 70 WHERE id = 1").await.unwrap();
    assert_eq!(run(&mut second, FIRST).await, Ok(70));
    second.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(91));
    assert_eq!(shard.status().conflicts, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_to_count_leaves_nothing_behind() {
    let (cluster, _, shard) = with_table(1).await;
    let conditional = (Part::ConditionalWrite, Length::Short);
    const TAKE: &str = "UPDATE t SET x = x + 1 WHERE id = 1 AND x > 0";
    let first = claims(&shard, CHANGE_FIRST, (FIRST, 11)).await;
    let mut second = begin(&shard).await;
    assert_eq!(run(&mut second, CHANGE_SECOND).await, Ok(1));
    let trial = trial_of(Part::ConditionalWrite, TAKE);
    let work = |executor: &mut Executor, _: &Turn| execute(executor, TAKE);
    let tried = second.try_short(WHILE, &Cancel::new(), trial, |_| Length::Short, work).await;
    assert!(matches!(tried, Err(ShardError::TimedOut(_))), "{tried:?}");
    assert_eq!(run_part(&mut second, (Part::RepeatableRead, Length::Short), FIRST).await, Ok(10));
    first.commit(PATIENCE).await.unwrap();
    // On a snapshot in which what it had read is not so.
    assert_eq!(run_part(&mut second, conditional, TAKE).await, Err(ShardError::Changed));
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(31));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_rows_that_only_a_transaction_knows() {
    let (cluster, _, shard) = with_table(1).await;
    write(&shard, "CREATE TABLE hidden(k TEXT UNIQUE, x)").await.unwrap();
    let mut draft = begin(&shard).await;
    assert_eq!(run(&mut draft, "INSERT INTO hidden VALUES ('a', 1)").await, Ok(1));
    const CHANGE: &str = "UPDATE hidden SET x = 2 WHERE k = 'a' AND x = 1";
    let conditional = (Part::ConditionalWrite, Length::Short);
    assert_eq!(run_part(&mut draft, conditional, CHANGE).await, Ok(1));
    // It gets the number that the draft has given to its own row.
    write_until(&shard, "INSERT INTO hidden VALUES ('b', 7)", Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!(run(&mut draft, "SELECT sum(x) FROM hidden").await, Ok(9));
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(shard.status().conflicts, 0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_changed_no_page_is_not_waited_for() {
    let (cluster, _, shard) = with_table(1).await;
    write(&shard, "UPDATE t SET x = 10 WHERE id = 1").await.unwrap();
    let draft = claims(&shard, CHANGE_FIRST, (SUM, 31)).await;
    // What it has read was let go, as it would not be after it had waited in vain.
    write(&shard, CHANGE_SECOND).await.unwrap();
    draft.commit(PATIENCE).await.unwrap();
    assert_eq!(read(&shard, ReadLevel::Linearizable, SUM).await, Ok(32));
    cluster.stop().await;
}

//! Three voters, and what becomes of them.

use std::time::{Duration, Instant};

use rung_consensus::OpenError;
use rung_proto::NodeId;
use rung_shard::{CopyState, First, HandOverError, ReadLevel, Shard, ShardError, Stop};

use crate::support::{Cluster, PATIENCE, eventually, fill, read, write, write_until};

const COUNT: &str = "SELECT count(*) FROM t";

#[tokio::test(flavor = "multi_thread")]
async fn every_copy_reads_what_its_session_or_the_clock_asks_for() {
    let cluster = Cluster::start(3).await;
    let (_, shard) = cluster.primary().await;
    let mut token = write(&shard, "CREATE TABLE t(x)").await.unwrap();
    for n in 1..=20 {
        for node in cluster.nodes.values() {
            let level = ReadLevel::Session(token);
            assert_eq!(read(&node.shard, level, COUNT).await, Ok(n - 1));
        }
        token = write(&shard, format!("INSERT INTO t VALUES ({n})")).await.unwrap();
        for node in cluster.nodes.values() {
            assert_eq!(read(&node.shard, ReadLevel::Linearizable, COUNT).await, Ok(n));
            let level = ReadLevel::Bounded(Duration::from_secs(60));
            assert!(read(&node.shard, level, COUNT).await.is_ok());
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_primary_takes_writes_and_the_others_say_who_it_is() {
    let cluster = Cluster::start(3).await;
    let (primary, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    for (node, it) in &cluster.nodes {
        if *node != primary {
            let refused = write(&it.shard, "INSERT INTO t VALUES (1)").await;
            let expected = ShardError::NotPrimary { primary: Some(NodeId(primary)) };
            assert_eq!(refused, Err(expected));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_without_a_quorum_acknowledges_nothing_and_another_takes_over() {
    let cluster = Cluster::start(3).await;
    let (old, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    cluster.isolate(old);
    let short = Duration::from_millis(300);
    let unknown = write_until(&shard, "INSERT INTO t VALUES (1)", short).await;
    assert_eq!(unknown, Err(ShardError::OutcomeUnknown));
    // What it has executed is not seen, and neither is its error.
    assert_eq!(read(&shard, ReadLevel::Any, COUNT).await, Ok(0));
    eventually("it takes no more writes", || shard.status().in_flight < 16).await;
    let new = another_primary(&cluster, old).await;
    write(&new, "INSERT INTO t VALUES (2)").await.unwrap();
    let stale = read(&shard, ReadLevel::Linearizable, COUNT);
    let stale = tokio::time::timeout(Duration::from_secs(2), stale).await;
    assert!(!matches!(stale, Ok(Ok(_))), "{stale:?}");
    let level = ReadLevel::Bounded(Duration::from_millis(1));
    let stale = tokio::time::timeout(Duration::from_secs(2), read(&shard, level, COUNT)).await;
    assert!(!matches!(stale, Ok(Ok(_))), "{stale:?}");
    cluster.mend();
    eventually("the old one follows", || shard.position() == new.position()).await;
    assert_eq!(read(&shard, ReadLevel::Linearizable, "SELECT sum(x) FROM t").await, Ok(2));
    cluster.stop().await;
}

/// The test above would notice it: the old primary cannot go on from what it did.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_is_left_out_is_caught() {
    let cluster = Cluster::start_with(3, |config| config.faults.pages.skip_undo = true).await;
    let (old, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    cluster.isolate(old);
    let short = Duration::from_millis(300);
    let unknown = write_until(&shard, "INSERT INTO t VALUES (1)", short).await;
    assert_eq!(unknown, Err(ShardError::OutcomeUnknown));
    let new = another_primary(&cluster, old).await;
    write(&new, "INSERT INTO t VALUES (2)").await.unwrap();
    cluster.mend();
    let state = shard.state();
    eventually("the old one stopped, as it differs", || {
        matches!(&*state.borrow(), CopyState::Stopped(Stop::Damaged(_)))
    })
    .await;
    cluster.stop().await;
}

async fn another_primary(cluster: &Cluster, than: u64) -> Shard {
    let others = cluster.nodes.iter().filter(|(node, _)| **node != than);
    let others: Vec<Shard> = others.map(|(_, it)| it.shard.clone()).collect();
    let mut found = None;
    eventually("another copy is the primary", || {
        found = others.iter().find(|shard| shard.state().borrow().is_primary()).cloned();
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_loses_nothing_and_stalls_for_a_moment() {
    const SOME: i64 = 50;
    let cluster = Cluster::start(3).await;
    let (from, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    let nobody = shard.hand_over(NodeId(9), PATIENCE).await;
    assert_eq!(nobody, Err(HandOverError::NotAVoter(NodeId(9))));
    let to = cluster.nodes.keys().copied().find(|node| *node != from).unwrap();
    let shards: Vec<_> = cluster.nodes.values().map(|node| node.shard.clone()).collect();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let (counter, mut count) = tokio::sync::watch::channel(0_i64);
    let writer = tokio::spawn(async move {
        let (mut written, mut longest) = (0_i64, Duration::ZERO);
        while !*stopped.borrow_and_update() {
            let began = Instant::now();
            'again: loop {
                assert!(began.elapsed() < PATIENCE, "no copy took the write");
                for shard in &shards {
                    match write(shard, format!("INSERT INTO t VALUES ({written})")).await {
                        Ok(_) => break 'again,
                        Err(ShardError::NotPrimary { .. } | ShardError::Lost) => {}
                        Err(other) => panic!("a client noticed: {other}"),
                    }
                }
                tokio::task::yield_now().await;
            }
            written += 1;
            counter.send_replace(written);
            longest = longest.max(began.elapsed());
        }
        (written, longest)
    });
    count.wait_for(|written| *written >= SOME).await.unwrap();
    let began = Instant::now();
    shard.hand_over(NodeId(to), PATIENCE).await.unwrap();
    let took = began.elapsed();
    eventually("the other is the primary", || cluster.shard(to).state().borrow().is_primary())
        .await;
    let before = *count.borrow();
    count.wait_for(|written| *written >= before + SOME).await.unwrap();
    stop.send_replace(true);
    let (written, longest) = writer.await.unwrap();
    println!("handed over in {took:?}; the longest of {written} writes took {longest:?}");
    let new = cluster.shard(to);
    assert_eq!(
        read(new, ReadLevel::Linearizable, "SELECT count(DISTINCT x) FROM t").await,
        Ok(written)
    );
    assert_eq!(read(new, ReadLevel::Linearizable, COUNT).await, Ok(written));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_copy_is_sent_the_state_that_the_log_no_longer_has() {
    let (mut cluster, shard) = Cluster::start_purging().await;
    fill(&shard, 200).await;
    let status = shard.group().status();
    eventually("the log was purged", || status.borrow().purged.is_some()).await;
    cluster.open(2, First::Open).await;
    shard.group().add_learner(NodeId(2), PATIENCE).await.unwrap();
    shard.group().wait_until_caught_up(NodeId(2), PATIENCE).await.unwrap();
    let copy = cluster.shard(2).clone();
    eventually("the copies are equal", || copy.position() == shard.position()).await;
    let token = write(&shard, "INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(read(&copy, ReadLevel::Session(token), COUNT).await, Ok(201));
    // What it received survives its restart.
    drop(copy);
    cluster.kill(2).await;
    cluster.restart(2).await;
    assert_eq!(read(cluster.shard(2), ReadLevel::Linearizable, COUNT).await, Ok(201));
    cluster.stop().await;
}

/// Of a large database it arrives long after the log could have been purged beyond it,
/// and would have to be sent again for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_keeps_what_follows_a_state_that_is_being_sent() {
    let (mut cluster, shard) = Cluster::start_purging().await;
    fill(&shard, 200).await;
    let status = shard.group().status();
    let purged = || status.borrow().purged.map_or(0, |purged| purged.index);
    eventually("the log was purged", || purged() > 0).await;
    cluster.hold_streams(true);
    cluster.open(2, First::Open).await;
    shard.group().add_learner(NodeId(2), PATIENCE).await.unwrap();
    eventually("the state is being sent", || cluster.streams() == 1).await;
    fill(&shard, 300).await;
    cluster.hold_streams(false);
    shard.group().wait_until_caught_up(NodeId(2), PATIENCE).await.unwrap();
    let copy = cluster.shard(2).clone();
    eventually("the copies are equal", || copy.position() == shard.position()).await;
    assert_eq!(cluster.streams(), 1, "it was sent again");
    // It is not kept for longer than that.
    let before = purged();
    fill(&shard, 200).await;
    eventually("the log is purged again", || purged() > before + 300).await;
    drop(copy);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_differs_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start_with(3, |config| {
        config.limits.checkpoint_bytes = 64 << 10;
    })
    .await;
    let (primary, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE t(x)").await.unwrap();
    fill(&shard, 60).await;
    let other = cluster.nodes.keys().copied().find(|node| *node != primary).unwrap();
    eventually("it has it all", || cluster.shard(other).position() == shard.position()).await;
    cluster.kill(other).await;
    spoil(&cluster.dir(other).join("shard"));
    let update = "UPDATE t SET x = randomblob(3000)";
    match cluster.try_open(other, First::Open).await {
        // The log, applied again, has shown it.
        Err(OpenError::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
        Ok(()) => {
            write(&shard, update).await.unwrap();
            let copy = cluster.shard(other);
            let state = copy.state();
            eventually("the copy stopped", || matches!(&*state.borrow(), CopyState::Stopped(_)))
                .await;
            let why = state.borrow().clone();
            assert!(matches!(&why, CopyState::Stopped(Stop::Damaged(_))), "{why:?}");
            let refused = read(copy, ReadLevel::Any, COUNT).await;
            assert!(matches!(refused, Err(ShardError::Stopped(_))), "{refused:?}");
        }
    }
    write(&shard, update).await.unwrap();
    cluster.stop().await;
}

/// What the simulation must notice, without its luck.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_before_a_quorum_has_it_is_lost() {
    let early = |config: &mut rung_shard::ShardConfig| config.faults.acknowledge_early = true;
    let cluster = Cluster::start_with(3, early).await;
    let (former, shard) = cluster.primary().await;
    let token = write(&shard, "CREATE TABLE t(x)").await.unwrap();
    eventually("all have the table", || {
        cluster.nodes.values().all(|it| it.shard.position().sequence >= token.sequence)
    })
    .await;
    cluster.isolate(former);
    write(&shard, "INSERT INTO t VALUES (1)").await.expect("the acknowledgement that is wrong");
    let (primary, shard) = cluster.primary().await;
    assert_ne!(primary, former);
    assert_eq!(read(&shard, ReadLevel::Linearizable, COUNT).await, Ok(0));
    cluster.stop().await;
}

/// Flips a byte in every page but the first of a database.
fn spoil(dir: &std::path::Path) {
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|end| end == "db") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.chunks_mut(4096).skip(1).for_each(|page| page[4000] ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

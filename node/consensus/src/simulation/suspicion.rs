//! Hints that a leader's process has ended, right and wrong ones.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rung_proto::NodeId;
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Life, config};
use super::faulty_log::Bug;
use super::run::block_on;

const SEEDS: std::ops::Range<u64> = 0..40;
/// Of simulated time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The leader that all follow, and the lives of the others.
pub(super) async fn led(cluster: &Arc<Cluster>, seed: u64) -> (NodeId, Vec<Life>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let running = cluster.running();
        let leaders: BTreeSet<Option<NodeId>> =
            running.iter().map(|(_, life)| life.group.status().borrow().leader).collect();
        let leader = leaders.first().copied().flatten().filter(|_| leaders.len() == 1);
        if let Some(leader) = leader
            && running.iter().all(|(id, life)| {
                *id == leader || life.group.silent_leader().is_some_and(|(who, _)| who == leader)
            })
        {
            let others = running.into_iter().filter(|(id, _)| *id != leader);
            return (leader, others.map(|(_, life)| life).collect());
        }
        assert!(Instant::now() < end, "seed {seed}: they agree on no leader: {leaders:?}");
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn voters_who_know_that_the_leader_died_do_not_wait_for_their_timeouts() {
    let mut took = Vec::new();
    for seed in SEEDS {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config());
            cluster.found(3).await.expect("a group that is made");
            let (leader, others) = led(&cluster, seed).await;
            let died = Instant::now();
            cluster.crash(leader, true);
            for (stands, life) in [true, false].into_iter().zip(&others) {
                life.group.suspect_leader(leader, stands).await;
            }
            while cluster.leader().is_none() {
                // A question that came before the hint was in vain.
                others[0].group.suspect_leader(leader, true).await;
                assert!(died.elapsed() < PATIENCE, "seed {seed}: nobody leads");
                sleep(Duration::from_millis(10)).await;
            }
            took.push(died.elapsed());
        });
    }
    took.sort();
    // The lease alone is 300 ms. One disk in ten takes up to 60 ms for a vote.
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    assert!(median < Duration::from_millis(50), "{took:?}");
    assert!(longest < Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_hint_that_is_wrong_costs_no_leader_that_a_majority_hears() {
    for seed in SEEDS {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config());
            cluster.found(3).await.expect("a group that is made");
            let (leader, others) = led(&cluster, seed).await;
            let term = others[0].group.status().borrow().term;
            for _ in 0..20 {
                others[0].group.suspect_leader(leader, true).await;
                sleep(Duration::from_millis(10)).await;
            }
            let (still, others) = led(&cluster, seed).await;
            assert_eq!((still, others[0].group.status().borrow().term), (leader, term));
        });
    }
}

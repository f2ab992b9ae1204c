//! Groups that lose voters in the first moments of their life, or all but one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rung_proto::{NodeId, encoding};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, Life, config};
use super::faulty_log::Bug;
use super::machine::Command;
use super::run::block_on;
use crate::error::ProposeError;

const SEEDS: std::ops::Range<u64> = 0..40;
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);
/// Of simulated time.
const PATIENCE: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(1);

async fn until<T>(what: &str, seed: u64, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "seed {seed}: waited in vain until {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn lives(cluster: &Cluster, ids: &[NodeId]) -> Vec<Life> {
    ids.iter().map(|id| cluster.life(*id).expect("a node that runs")).collect()
}

/// Waits until one of these nodes leads and a quorum takes what it proposes.
async fn works(cluster: &Arc<Cluster>, seed: u64, ids: &[NodeId]) {
    let payload = Bytes::from(encoding::encode(&Command { key: 0, id: 1 }));
    until("one of those who are left leads", seed, async || {
        for life in lives(cluster, ids) {
            match life.group.propose(payload.clone(), PATIENCE).await {
                Ok(_) => return Some(()),
                // A new leader knows its quorum a moment later.
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum { .. }) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        None
    })
    .await;
    let ledger = cluster.ledger.lock().unwrap();
    assert!(ledger.violations.is_empty(), "seed {seed}: {:#?}", ledger.violations);
}

#[test]
fn a_group_that_was_made_on_all_its_voters_outlives_any_of_them_at_once() {
    for seed in SEEDS {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config());
            for id in cluster.ids() {
                cluster.start(id).await;
            }
            let made = join_all(cluster.ids().into_iter().map(|id| cluster.initialize(id, 3)));
            made.await.into_iter().for_each(|made| made.expect("a group that is made"));
            let dies = NodeId(seed % 3 + 1);
            sleep(Duration::from_millis(seed * 10)).await;
            cluster.crash(dies, true);
            let left: Vec<NodeId> = cluster.ids().into_iter().filter(|id| *id != dies).collect();
            works(&cluster, seed, &left).await;
        });
    }
}

/// They know who votes from their log alone.
#[test]
fn who_has_only_been_told_of_a_group_leads_it_when_its_maker_dies() {
    let mut applied_nothing = 0;
    for seed in SEEDS {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 3, Bug::None, config());
            cluster.found(3).await.expect("a group that is made");
            let others = lives(&cluster, &[SECOND, THIRD]);
            until("the others have been told", seed, async || {
                let told = |life: &Life| life.group.status().borrow().last.is_some();
                others.iter().all(told).then_some(())
            })
            .await;
            let nothing = |life: &Life| life.group.status().borrow().applied.is_none();
            applied_nothing += usize::from(others.iter().all(nothing));
            cluster.crash(FIRST, true);
            works(&cluster, seed, &[SECOND, THIRD]).await;
        });
    }
    assert!(applied_nothing > 0, "in no run was the maker dead before anything was applied");
}

/// Its last vote was for the other one.
#[test]
fn who_is_left_alone_in_a_group_leads_it_after_a_restart() {
    for seed in SEEDS {
        block_on(seed, async {
            let cluster = Cluster::new(seed, 2, Bug::None, config());
            cluster.found(2).await.expect("a group that is made");
            let (leaves, stays) = until("one of the two leaves", seed, async || {
                let (leader, life) = cluster.leader()?;
                let status = life.group.status().borrow().clone();
                if status.voters.len() == 1 && !status.changing {
                    // The change was made, and its answer lost with the old leader.
                    return Some(if leader == FIRST { (SECOND, FIRST) } else { (FIRST, SECOND) });
                }
                let stays = if leader == FIRST { SECOND } else { FIRST };
                let alone = BTreeSet::from([stays]);
                let changed = life.group.change_voters(&alone, ANSWER).await;
                changed.is_ok().then_some((leader, stays))
            })
            .await;
            cluster.crash(stays, true);
            cluster.crash(leaves, true);
            cluster.start(stays).await;
            works(&cluster, seed, &[stays]).await;
        });
    }
}

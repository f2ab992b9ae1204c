//! Who takes part in a group, and who leads it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rung_consensus::{ChangeError, Group, GroupConfig, GroupRole, ProposeError};
use rung_proto::NodeId;

use crate::support::{Cluster, List, PATIENCE, leader, propose, quick, wait_for};

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().map(|id| NodeId(*id)).collect()
}

async fn retry_change<F>(groups: &[(Group, List)], mut change: impl FnMut(Group) -> F)
where
    F: Future<Output = Result<(), ChangeError>>,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (group, _) = leader(groups).await;
        match change(group.clone()).await {
            Ok(()) => return,
            Err(error) => {
                assert!(tokio::time::Instant::now() < until, "the change failed: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_catches_up_by_a_snapshot_and_replaces_a_lost_voter() {
    let mut cluster = Cluster::start(4);
    let config = GroupConfig { keep_entries: 2, ..quick(1) };
    let mut groups = cluster.create(&config, &[1, 2, 3]).await;
    let (first, _) = leader(&groups).await;
    let first = first.clone();
    for number in 0..40_u32 {
        propose(&groups, Bytes::from(vec![number as u8; 20_000])).await;
    }
    first.snapshot_now(PATIENCE).await.unwrap();
    wait_for(&first, "purged", |status| status.purged.is_some_and(|purged| purged.index > 30))
        .await;

    let list = List::default();
    let learner = cluster.node(4).consensus.open(config.clone(), list.clone()).await.unwrap();
    first.add_learner(NodeId(4), PATIENCE).await.unwrap();
    first.wait_until_caught_up(NodeId(4), PATIENCE).await.unwrap();
    learner.read_barrier(Duration::from_secs(5)).await.unwrap();
    assert_eq!(list.items(), groups[0].1.items());
    assert!(learner.status().borrow().snapshot.is_some(), "it came by a snapshot");
    assert_eq!(learner.status().borrow().role, GroupRole::Learner);

    // One voter is lost for good; the learner takes its place.
    let lost =
        [1, 2, 3].into_iter().find(|id| NodeId(*id) != first.status().borrow().leader.unwrap());
    let lost = lost.unwrap();
    cluster.stop_node(lost).await;
    let stay: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != lost).collect();
    first.change_voters(&ids(&stay), PATIENCE).await.unwrap();
    let status = wait_for(&learner, "voted", |status| {
        status.role == GroupRole::Follower && !status.changing
    })
    .await;
    assert_eq!(status.voters, ids(&stay));
    groups.push((learner, list));
    propose(&groups, "after").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_and_the_group_goes_on() {
    let cluster = Cluster::start(3);
    let config = quick(1);
    let groups = cluster.create(&config, &[1, 2, 3]).await;
    propose(&groups, "before").await;
    let (old, _) = leader(&groups).await;
    let old = old.clone();
    let me = old.status().borrow().leader.unwrap();
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| NodeId(*id) != me).collect();
    old.change_voters(&ids(&others), PATIENCE).await.unwrap();
    // The groups are in the order of their nodes.
    let rest: Vec<_> = others.iter().map(|id| groups[*id as usize - 1].clone()).collect();
    propose(&rest, "after").await;
    let (new, list) = leader(&rest).await;
    new.read_barrier(Duration::from_secs(5)).await.unwrap();
    assert_eq!(list.items().last().unwrap(), "after");
    assert_eq!(new.status().borrow().voters, ids(&others));
    cluster.node(me.0).consensus.remove(config.group).await.unwrap();
    propose(&rest, "after its removal").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proposal_fails_while_the_leadership_is_handed_round() {
    let cluster = Cluster::start(3);
    let groups = cluster.create(&quick(1), &[1, 2, 3]).await;
    leader(&groups).await;
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4_u32)
        .map(|client| {
            let (groups, done) = (groups.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut made = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let payload = Bytes::from(format!("{client}-{}", made.len()));
                    // Any error but "another leads" fails the test in there.
                    propose(&groups, payload.clone()).await;
                    made.push(payload);
                }
                made
            })
        })
        .collect();
    let mut handed = BTreeSet::new();
    for round in 0..6_u64 {
        let to = NodeId(round % 3 + 1);
        retry_change(&groups, |group| async move {
            group.transfer_leader(to, Duration::from_secs(3)).await
        })
        .await;
        handed.insert(leader(&groups).await.0.status().borrow().leader.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    let mut made = Vec::new();
    for client in clients {
        made.extend(client.await.unwrap());
    }
    assert!(handed.len() >= 2, "the leadership stayed with {handed:?}");
    let (group, list) = leader(&groups).await;
    group.read_barrier(Duration::from_secs(5)).await.unwrap();
    let mut applied = list.items();
    applied.sort();
    made.sort();
    assert_eq!(applied, made);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_makes_no_sense_is_refused() {
    let cluster = Cluster::start(2);
    let groups = cluster.create(&quick(1), &[1]).await;
    let (group, _) = leader(&groups).await;
    let unknown = group.change_voters(&ids(&[1, 2]), PATIENCE).await;
    assert!(matches!(unknown, Err(ChangeError::Invalid(_))), "{unknown:?}");
    let empty = group.change_voters(&ids(&[]), PATIENCE).await;
    assert!(matches!(empty, Err(ChangeError::Invalid(_))), "{empty:?}");
    let nobody = group.transfer_leader(NodeId(9), PATIENCE).await;
    assert!(matches!(nobody, Err(ChangeError::Invalid(_))), "{nobody:?}");
    let too_large = group.propose(Bytes::from(vec![0; 4 << 20]), PATIENCE).await;
    assert!(matches!(too_large, Err(ProposeError::TooLarge { .. })));
}

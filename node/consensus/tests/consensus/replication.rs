//! Proposals, reads and restarts.

use std::time::Duration;

use bytes::Bytes;
use rung_consensus::{GroupRole, OpenError, ProposeError};
use rung_proto::NodeId;

use crate::support::{Cluster, List, PATIENCE, leader, propose, quick, wait_for};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_and_every_one_of_them_reads_the_last_write() {
    let cluster = Cluster::start(3);
    let groups = cluster.create(&quick(1), &[1, 2, 3]).await;
    leader(&groups).await;
    let mut wanted = Vec::new();
    for number in 0..50_u32 {
        let payload = Bytes::copy_from_slice(&number.to_be_bytes());
        propose(&groups, payload.clone()).await;
        wanted.push(payload);
        if number % 10 == 0 {
            for (group, list) in &groups {
                group.read_barrier(Duration::from_secs(5)).await.unwrap();
                assert_eq!(list.items(), wanted);
            }
        }
    }
    let (leader, _) = leader(&groups).await;
    let status = leader.status().borrow().clone();
    assert_eq!(status.voters.len(), 3);
    assert!(status.millis_since_quorum().unwrap() < 2000);
    for (group, _) in &groups {
        if group.status().borrow().role == GroupRole::Follower {
            let refused = group.propose(Bytes::new(), Duration::from_secs(1)).await;
            assert!(
                matches!(refused, Err(ProposeError::NotLeader { leader: Some(_) })),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_at_once_are_applied_once_each() {
    let cluster = Cluster::start(3);
    let groups = cluster.create(&quick(1), &[1, 2, 3]).await;
    let (group, list) = leader(&groups).await;
    let tasks: Vec<_> = (0..2000_u32)
        .map(|number| {
            let group = group.clone();
            tokio::spawn(async move {
                let payload = Bytes::copy_from_slice(&number.to_be_bytes());
                group.propose(payload, Duration::from_secs(10)).await.unwrap()
            })
        })
        .collect();
    let mut indices = Vec::new();
    for task in tasks {
        indices.push(task.await.unwrap().index);
    }
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), 2000);
    let mut items = list.items();
    items.sort();
    items.dedup();
    assert_eq!(items.len(), 2000);
    for (group, other) in &groups {
        group.read_barrier(Duration::from_secs(5)).await.unwrap();
        assert_eq!(other.items(), list.items());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_nodes_keeps_everything_with_and_without_a_snapshot() {
    let mut cluster = Cluster::start(3);
    let config = quick(1);
    let mut wanted = Vec::new();
    let groups = cluster.create(&config, &[1, 2, 3]).await;
    for round in 0..3_u32 {
        let groups = match round {
            0 => groups.clone(),
            _ => {
                let mut opened = Vec::new();
                for id in 1..=3 {
                    let list = List::default();
                    let consensus = &cluster.node(id).consensus;
                    let group = consensus.open(config.clone(), list.clone()).await.unwrap();
                    opened.push((group, list));
                }
                opened
            }
        };
        let (leader, _) = leader(&groups).await;
        leader.read_barrier(Duration::from_secs(5)).await.unwrap();
        for number in 0..20_u32 {
            let payload = Bytes::from(format!("{round}-{number}"));
            propose(&groups, payload.clone()).await;
            wanted.push(payload);
        }
        for (group, list) in &groups {
            group.read_barrier(Duration::from_secs(5)).await.unwrap();
            assert_eq!(list.items(), wanted, "in round {round}");
            if round == 1 {
                group.snapshot_now(Duration::from_secs(5)).await.unwrap();
            }
        }
        drop(groups);
        cluster.stop_all().await;
        (1..=3).for_each(|id| cluster.start_node(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_is_a_group_and_leads_at_once_after_a_restart() {
    let mut cluster = Cluster::start(1);
    // Far more than a start takes, also on a busy machine.
    let election = (Duration::from_secs(8), Duration::from_secs(16));
    let config = rung_consensus::GroupConfig { election, ..quick(1) };
    let groups = cluster.create(&config, &[1]).await;
    propose(&groups, "first").await;
    drop(groups);
    cluster.stop_all().await;
    cluster.start_node(1);
    let list = List::default();
    let group = cluster.node(1).consensus.open(config.clone(), list.clone()).await.unwrap();
    let begun = std::time::Instant::now();
    wait_for(&group, "led", |status| status.is_leader()).await;
    assert!(begun.elapsed() < config.election.0, "it waited for others");
    group.read_barrier(Duration::from_secs(5)).await.unwrap();
    assert_eq!(list.items(), [Bytes::from("first")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_does_not_answer_and_then_refuses() {
    let mut cluster = Cluster::start(3);
    let groups = cluster.create(&quick(1), &[1, 2, 3]).await;
    let (group, _) = leader(&groups).await;
    let group = group.clone();
    let me = group.status().borrow().leader.unwrap();
    for id in [1, 2, 3] {
        if NodeId(id) != me {
            cluster.stop_node(id).await;
        }
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match group.propose(Bytes::from("no"), Duration::from_millis(200)).await {
            Err(ProposeError::NoQuorum { .. }) => break,
            Err(ProposeError::OutcomeUnknown) => {}
            other => panic!("{other:?}"),
        }
        assert!(tokio::time::Instant::now() < until);
    }
    assert!(group.read_barrier(Duration::from_millis(300)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_and_too_many_proposals_are_refused_before_they_are_made() {
    let cluster = Cluster::start(1);
    let config =
        rung_consensus::GroupConfig { max_payload: 100, max_waiting_bytes: 150, ..quick(1) };
    let groups = cluster.create(&config, &[1]).await;
    let (group, _) = leader(&groups).await;
    let second = Duration::from_secs(1);
    let refused = group.propose(Bytes::from(vec![0; 101]), second).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes: 101, limit: 100 }));
    let (first, second) = tokio::join!(
        group.propose(Bytes::from(vec![1; 100]), second),
        group.propose(Bytes::from(vec![2; 100]), second),
    );
    first.unwrap();
    assert_eq!(second, Err(ProposeError::Overloaded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_an_error_that_names_the_file() {
    let mut cluster = Cluster::start(1);
    let config = quick(1);
    let groups = cluster.create(&config, &[1]).await;
    propose(&groups, "content that is long enough to be found in the file").await;
    groups[0].0.snapshot_now(Duration::from_secs(5)).await.unwrap();
    drop(groups);
    cluster.stop_all().await;
    let dir = cluster.dir(1).join("groups").join("1");
    let file = std::fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(7).position(|window| window == b"content").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    cluster.start_node(1);
    let consensus = &cluster.node(1).consensus;
    let error = consensus.open(config.clone(), List::default()).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error}");
    assert!(error.to_string().contains("chunk 0"), "{error}");
    consensus.remove(config.group).await.unwrap();
    let group = consensus.open(config, List::default()).await.unwrap();
    assert_eq!(group.status().borrow().role, GroupRole::Learner);
}

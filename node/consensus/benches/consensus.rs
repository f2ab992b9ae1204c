//! Proposals a second of a group of three nodes over real meshes and real
//! files, and what idle groups cost: `cargo bench -p rung-consensus`. It takes
//! about fifteen seconds.

#[path = "../tests/consensus/support.rs"]
#[allow(dead_code)]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_consensus::{Group, GroupConfig};
use rung_proto::GroupId;
use support::{Cluster, leader};

const PHASE: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(10);
const PAYLOAD: usize = 256;
const IDLE_GROUPS: u64 = 100;

/// Proposes one after the other until the time is over; how long each took.
async fn propose_for(group: Group, time: Duration) -> Vec<Duration> {
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let until = Instant::now() + time;
    let mut took = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        group.propose(payload.clone(), DEADLINE).await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

/// Reads one after the other until the time is over; how long each took.
async fn read_for(group: Group, time: Duration) -> Vec<Duration> {
    let until = Instant::now() + time;
    let mut took = Vec::new();
    while Instant::now() < until {
        let begun = Instant::now();
        group.read_barrier(DEADLINE).await.unwrap();
        took.push(begun.elapsed());
    }
    took
}

fn report(what: &str, mut took: Vec<Duration>, time: Duration) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    println!(
        "{what}: {:.0}/s, p50 {} us, p99 {} us",
        took.len() as f64 / time.as_secs_f64(),
        at(0.5),
        at(0.99)
    );
}

async fn in_flight(group: &Group, count: usize) -> Vec<Duration> {
    let tasks: Vec<_> =
        (0..count).map(|_| tokio::spawn(propose_for(group.clone(), PHASE))).collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    took
}

/// Seconds of both cores together that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

async fn run() {
    let cluster = Cluster::start(3);
    // The state machine of the tests copies its whole list for a snapshot, which
    // is not what is measured here.
    let config = GroupConfig {
        snapshot_entries: u64::MAX,
        snapshot_bytes: u64::MAX,
        ..GroupConfig::new(GroupId(1), "bench")
    };
    let groups = cluster.create(&config, &[1, 2, 3]).await;
    let (group, _) = leader(&groups).await;
    let group = group.clone();
    propose_for(group.clone(), Duration::from_millis(300)).await;
    report("proposals, 1 in flight", propose_for(group.clone(), PHASE).await, PHASE);
    report("proposals, 500 in flight", in_flight(&group, 500).await, PHASE);
    let follower = groups.iter().find(|(group, _)| !group.status().borrow().is_leader()).unwrap();
    let second = Duration::from_secs(1);
    report("linearizable reads on the leader", read_for(group, second).await, second);
    report("linearizable reads on a follower", read_for(follower.0.clone(), second).await, second);

    for number in 0..IDLE_GROUPS {
        let config = GroupConfig::new(GroupId(100 + number), format!("idle-{number}"));
        let idle = cluster.create(&config, &[1, 2, 3]).await;
        if number + 1 == IDLE_GROUPS {
            leader(&idle).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (used, begun) = (cpu_seconds(), Instant::now());
    tokio::time::sleep(PHASE).await;
    let share = (cpu_seconds() - used) / begun.elapsed().as_secs_f64() * 100.0;
    println!(
        "{} idle groups on each of three nodes: {share:.1}% of one core, {:.1}% for a node",
        IDLE_GROUPS + 1,
        share / 3.0
    );
    std::process::exit(0);
}

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::spawn(run()).await.unwrap() });
}

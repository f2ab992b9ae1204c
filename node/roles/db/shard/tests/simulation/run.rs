//! One run: clients, troubles, recovery and the verdict.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rung_consensus::simulation::Weather;
use rung_proto::NodeId;
use rung_shard::{Cancel, Faults, ReadLevel, Shard, Turn, Verdict};
use rung_sql::Executor;
use tokio::time::{Instant, sleep};

use crate::clients::{Client, TABLES, World, append, look, take_place};
use crate::cluster::Cluster;
use crate::history::{Kind, Outcome, Seen, check};
use crate::troubles::Troubles;

const CLIENTS: u64 = 5;
/// After all troubles have ended. A busy machine takes its time.
const RECOVERY: Duration = Duration::from_secs(40);
/// With a bug it may never come.
const RECOVERY_OF_BROKEN: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_millis(1_500);

/// What is left out on purpose, to see that it is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    AcknowledgeBeforeQuorum,
    SkipUndo,
    SkipLogSync,
    SkipCheckpointSync,
    SkipValidation,
    IgnoreClaims,
}

impl Bug {
    pub fn put_into(self, faults: &mut Faults) {
        match self {
            Bug::None | Bug::SkipLogSync => {}
            Bug::AcknowledgeBeforeQuorum => faults.acknowledge_early = true,
            Bug::SkipUndo => faults.pages.skip_undo = true,
            Bug::SkipValidation => faults.skip_validation = true,
            Bug::IgnoreClaims => faults.ignore_claims = true,
            Bug::SkipCheckpointSync => faults.pages.skip_marker_sync = true,
        }
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Verdicts {
    pub wrong: Vec<String>,
    /// What befell the nodes.
    pub events: Vec<String>,
    pub writes: usize,
    pub reads: usize,
}

/// Runs one seed on this thread.
pub fn run(seed: u64, bug: Bug, time: Duration) -> Verdicts {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    rung_consensus::seed_this_thread(seed);
    runtime.block_on(simulate(seed, bug, time))
}

async fn simulate(seed: u64, bug: Bug, time: Duration) -> Verdicts {
    let cluster = Cluster::new(seed, bug);
    let world = World::new(Arc::clone(&cluster));
    cluster.found().await;
    make_tables(&cluster).await;
    let clients: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(Client::new(&world, seed, n).work())).collect();
    let rng = StdRng::seed_from_u64(seed ^ 0x7472_6f75_626c_6531);
    let mut troubles = Troubles { cluster: Arc::clone(&cluster), rng };
    let until = Instant::now() + time;
    while Instant::now() < until && cluster.all_wrong().is_empty() {
        troubles.next().await;
    }
    world.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // What is broken already need not recover.
    let mut wrong = cluster.all_wrong();
    if wrong.is_empty() {
        let patience = if bug == Bug::None { RECOVERY } else { RECOVERY_OF_BROKEN };
        match recover(&world, patience).await {
            Some(end) => wrong = check(&world.operations(), &end),
            None => wrong.push(format!("the shard did not recover: {}", states(&cluster))),
        }
        wrong.extend(cluster.all_wrong());
    }
    cluster.stop().await;
    let operations = world.operations();
    let done = |outcome: &Outcome| matches!(outcome, Outcome::Done { .. });
    let is_write = |kind: &Kind| matches!(kind, Kind::Write { outcome, .. } if done(outcome));
    let is_read = |kind: &Kind| matches!(kind, Kind::Read { .. });
    Verdicts {
        wrong,
        events: cluster.events(),
        writes: operations.iter().filter(|one| is_write(&one.kind)).count(),
        reads: operations.iter().filter(|one| is_read(&one.kind)).count(),
    }
}

async fn make_tables(cluster: &Arc<Cluster>) {
    let until = Instant::now() + RECOVERY;
    loop {
        if let Some((_, life)) = cluster.primary() {
            let work = |executor: &mut Executor| match executor.connection().execute_batch(TABLES) {
                Ok(()) => Verdict::Keep(true),
                Err(_) => Verdict::Undo(false),
            };
            let made = life.shard.write(ANSWER, &Cancel::new(), work).await;
            // Of an attempt whose outcome was unknown the tables are there already.
            if made.is_ok() {
                return;
            }
        }
        assert!(Instant::now() < until, "the shard could not be made: {}", states(cluster));
        sleep(Duration::from_millis(10)).await;
    }
}

fn states(cluster: &Cluster) -> String {
    let state = |(id, shard): (NodeId, Shard)| {
        let group = shard.group().status().borrow().clone();
        format!("{id}: {:?} {group:?}", *shard.state().borrow())
    };
    cluster.shards().into_iter().map(state).collect::<Vec<_>>().join("; ")
}

async fn all(shard: &Shard) -> Option<Seen> {
    let work = |executor: &mut Executor, _: &Turn| look(executor.connection());
    let read = shard.read(ReadLevel::Any, ANSWER, &Cancel::new(), work).await;
    read.ok()?.0.ok()
}

/// Ends all troubles, and waits until the shard works and all copies are equal.
async fn recover(world: &World, patience: Duration) -> Option<Seen> {
    let cluster = &world.cluster;
    let until = Instant::now() + patience;
    while Instant::now() < until && cluster.all_wrong().is_empty() {
        cluster.links.mend();
        cluster.links.set_weather(Weather::FAIR);
        for id in cluster.ids() {
            cluster.with_node(id, |node| node.fail_nothing_more()).await;
            cluster.start(id).await;
        }
        if let Some(end) = works(world).await {
            return Some(end);
        }
        sleep(Duration::from_millis(20)).await;
    }
    None
}

/// What all copies hold, if all vote and are equal.
async fn works(world: &World) -> Option<Seen> {
    let cluster = &world.cluster;
    let voters: BTreeSet<NodeId> = cluster.ids().into_iter().collect();
    for id in &voters {
        if !cluster.joined(*id, &voters, ANSWER).await {
            return None;
        }
    }
    let (_, life) = cluster.primary()?;
    let id = world.transaction(vec![0]);
    let work = move |executor: &mut Executor| {
        let connection = executor.connection();
        let written = take_place(connection, id).and_then(|place| {
            append(connection, 0, id)?;
            Ok(place)
        });
        written.map_or(Verdict::Undo(None), |place| Verdict::Keep(Some(place)))
    };
    let (_, token) = life.shard.write(ANSWER, &Cancel::new(), work).await.ok()?;
    let end = all(&life.shard).await?;
    world.check("the state at the end", &end);
    for (id, shard) in cluster.shards() {
        let mut settled = shard.settled();
        let reached = settled.wait_for(|settled| settled.sequence >= token.sequence);
        tokio::time::timeout(ANSWER, reached).await.ok()?.ok()?;
        if shard.position() == life.shard.position() && all(&shard).await? != end {
            cluster.wrong(format!("the copy of node {id} has other rows at {token}"));
        }
    }
    Some(end)
}

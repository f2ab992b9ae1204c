//! Clients write and read while copies are killed, cut off and handed over.
//!
//! `RUNG_SEEDS=50 cargo test -p rung-shard chaos` runs more; a seed chooses the
//! troubles, not the moments at which threads run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_proto::NodeId;
use rung_shard::{
    Cancel, CopyState, Length, ReadLevel, Shard, ShardConfig, ShardError, Stop, Token, Turn,
    Verdict,
};
use rung_sql::Executor;

use crate::checker::{Kind, Operation, Witness, check};
use crate::support::{Cluster, PATIENCE, eventually, number, write};

const CLIENTS: u64 = 6;
const REGISTERS: i64 = 3;
const TIME: Duration = Duration::from_secs(3);

/// What the clients share.
#[derive(Default)]
struct World {
    shards: Mutex<BTreeMap<u64, Shard>>,
    ids: AtomicI64,
    operations: Mutex<Vec<Operation>>,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl World {
    fn shard(&self, rng: &mut StdRng) -> Option<Shard> {
        let shards = self.shards.lock().unwrap();
        let primary = shards.values().find(|shard| shard.state().borrow().is_primary());
        if rng.random_bool(0.7) && primary.is_some() {
            return primary.cloned();
        }
        let at = rng.random_range(0..shards.len().max(1));
        shards.values().nth(at).cloned()
    }

    fn see(&self, register: i64, kind: Kind, began: Instant) {
        let ended = Instant::now();
        self.operations.lock().unwrap().push(Operation { register, kind, began, ended });
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

async fn client(world: Arc<World>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut session: Option<Token> = None;
    while !world.over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..4_000))).await;
        let Some(shard) = world.shard(&mut rng) else { continue };
        let register = rng.random_range(0..REGISTERS);
        let deadline = Duration::from_millis(rng.random_range(50..1_000));
        match rng.random_range(0..4) {
            0 | 1 => append(&world, &shard, register, deadline, &mut session).await,
            2 => look(&world, &shard, register, deadline).await,
            _ => follow_session(&world, &shard, deadline, &mut session).await,
        }
    }
}

async fn append(
    world: &World,
    shard: &Shard,
    register: i64,
    deadline: Duration,
    session: &mut Option<Token>,
) {
    let id = world.ids.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let insert = move |executor: &mut Executor| {
        let sql = "INSERT INTO history SELECT ?1, coalesce(max(version), 0) + 1, ?2 FROM history \
                   WHERE register = ?1 RETURNING version";
        let connection = executor.connection();
        connection.query_row(sql, [register, id], |row| row.get::<_, i64>(0)).ok()
    };
    let work = move |executor: &mut Executor| match insert(executor) {
        Some(version) => Verdict::Keep(Some(version)),
        None => Verdict::Undo(None),
    };
    let cancel = Cancel::new();
    let written = match id % 3 {
        0 => shard.write(deadline, &cancel, work).await,
        1 => shard.write_short(deadline, &cancel, |_| Length::Short, work).await,
        _ => in_transaction(shard, deadline, insert).await,
    };
    let kind = match written {
        Ok((Some(version), token)) => {
            *session = session.filter(|seen| seen.sequence > token.sequence).or(Some(token));
            Kind::Written { id, version }
        }
        Err(ShardError::OutcomeUnknown) => Kind::Unknown { id },
        Ok((None, _)) | Err(_) => Kind::Refused { id },
    };
    world.see(register, kind, began);
}

/// The same in a transaction of its own. Nothing but its COMMIT has an outcome that
/// may be unknown.
async fn in_transaction(
    shard: &Shard,
    deadline: Duration,
    insert: impl Fn(&mut Executor) -> Option<i64> + Copy + Send + 'static,
) -> Result<(Option<i64>, Token), ShardError> {
    let cancel = Cancel::new();
    let mut transaction = shard.begin(deadline, &cancel).await?;
    let insert = move |executor: &mut Executor, _: &Turn| insert(executor);
    let version = transaction.run_short(deadline, &cancel, |_| Length::Short, insert).await;
    match version {
        Ok(Some(version)) => Ok((Some(version), transaction.commit(deadline).await?)),
        _ => Err(ShardError::Lost),
    }
}

async fn look(world: &World, shard: &Shard, register: i64, deadline: Duration) {
    let began = Instant::now();
    let sql = format!("SELECT coalesce(max(version), 0) FROM history WHERE register = {register}");
    let work = move |executor: &mut Executor, _: &Turn| number(executor, &sql);
    let read = shard.read(ReadLevel::Linearizable, deadline, &Cancel::new(), work).await;
    if let Ok((version, _)) = read
        && version >= 0
    {
        world.see(register, Kind::Read { version }, began);
    }
}

/// What a session reads never goes back, on whatever copy.
async fn follow_session(
    world: &World,
    shard: &Shard,
    deadline: Duration,
    session: &mut Option<Token>,
) {
    let level = session.map_or(ReadLevel::Any, ReadLevel::Session);
    let work = |executor: &mut Executor, _: &Turn| number(executor, "SELECT count(*) FROM history");
    let read = shard.read(level, deadline, &Cancel::new(), work).await;
    let Ok((_, token)) = read else { return };
    match session {
        Some(seen) if seen.sequence > token.sequence => {
            world.wrong(format!("a session saw {seen} and then {token}"));
        }
        _ => *session = Some(token),
    }
}

async fn trouble(cluster: &mut Cluster, world: &World, rng: &mut StdRng) {
    let node = rng.random_range(1..=3);
    let time = Duration::from_millis(rng.random_range(50..900));
    match rng.random_range(0..3) {
        0 => {
            world.shards.lock().unwrap().remove(&node);
            cluster.kill(node).await;
            tokio::time::sleep(time).await;
            cluster.restart(node).await;
            world.shards.lock().unwrap().insert(node, cluster.shard(node).clone());
        }
        1 => {
            let primary =
                cluster.nodes.iter().find(|(_, it)| it.shard.state().borrow().is_primary());
            let primary = primary.map(|(node, _)| *node);
            // Long enough for another to be elected, half of the time.
            let (node, time) = match primary.filter(|_| rng.random_bool(0.5)) {
                Some(primary) => (primary, time + Duration::from_millis(600)),
                None => (node, time),
            };
            cluster.isolate(node);
            tokio::time::sleep(time).await;
            cluster.mend();
        }
        _ => {
            let primary = cluster.nodes.values().find(|it| it.shard.state().borrow().is_primary());
            if let Some(it) = primary {
                // It may fail for many reasons; what must hold is checked elsewhere.
                let _ = it.shard.hand_over(NodeId(node), Duration::from_millis(500)).await;
            }
        }
    }
}

async fn histories(shard: &Shard) -> Witness {
    let work = |executor: &mut Executor, _: &Turn| {
        let sql = "SELECT register, version, id FROM history ORDER BY register, version, id";
        let mut rows = executor.connection().prepare(sql).unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        rows.query_map([], row).and_then(Iterator::collect).unwrap_or_default()
    };
    shard.read(ReadLevel::Any, PATIENCE, &Cancel::new(), work).await.unwrap().0
}

/// Runs one seed, and says what is wrong and how much was acknowledged.
async fn run(seed: u64, change: fn(&mut ShardConfig)) -> (Vec<String>, usize) {
    let mut cluster = Cluster::start_with(3, change).await;
    let (_, shard) = cluster.primary().await;
    write(&shard, "CREATE TABLE history(register, version, id)").await.unwrap();
    drop(shard);
    let world = Arc::new(World::default());
    for (node, it) in &cluster.nodes {
        world.shards.lock().unwrap().insert(*node, it.shard.clone());
    }
    let clients = (0..CLIENTS).map(|n| tokio::spawn(client(Arc::clone(&world), seed * 100 + n)));
    let clients: Vec<_> = clients.collect();
    let mut rng = StdRng::seed_from_u64(seed);
    let until = Instant::now() + TIME;
    while Instant::now() < until {
        trouble(&mut cluster, &world, &mut rng).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
    }
    world.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let stopped = cluster.nodes.iter().filter_map(|(node, it)| match &*it.shard.state().borrow() {
        CopyState::Stopped(Stop::Closed) => None,
        CopyState::Stopped(why) => Some(format!("the copy of node {node} stopped: {why}")),
        _ => None,
    });
    let mut wrong: Vec<String> = stopped.collect();
    wrong.append(&mut world.wrong.lock().unwrap());
    if !wrong.is_empty() {
        return (wrong, 0);
    }
    let (_, primary) = cluster.primary().await;
    write(&primary, "CREATE TABLE last(x)").await.unwrap();
    eventually("all copies are equal", || {
        cluster.nodes.values().all(|it| it.shard.position() == primary.position())
    })
    .await;
    let witness = histories(&primary).await;
    for (node, it) in &cluster.nodes {
        if histories(&it.shard).await != witness {
            wrong.push(format!("node {node} has other rows"));
        }
    }
    let operations = world.operations.lock().unwrap().clone();
    wrong.extend(check(&operations, &witness));
    let written = |operation: &&Operation| matches!(operation.kind, Kind::Written { .. });
    let acknowledged = operations.iter().filter(written).count();
    cluster.stop().await;
    (wrong, acknowledged)
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match (number("RUNG_SEED"), number("RUNG_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (0..count).collect(),
        (None, None) => vec![0, 1],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_seed_breaks_a_promise() {
    for seed in seeds() {
        let (wrong, acknowledged) = run(seed, |_| {}).await;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
        println!("seed {seed}: {acknowledged} writes");
        // A run in which nothing happens proves nothing.
        assert!(acknowledged > 20, "seed {seed}: only {acknowledged} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_before_a_quorum_is_caught() {
    for seed in 0..4 {
        let (wrong, _) = run(seed, |config| config.faults.acknowledge_early = true).await;
        if let Some(first) = wrong.first() {
            println!("seed {seed}: {first}");
            return;
        }
    }
    panic!("no seed noticed it");
}

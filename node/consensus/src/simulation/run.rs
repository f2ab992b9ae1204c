//! One run: clients, faults, recovery and the verdict.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt, SeedableRng};
use rung_proto::{NodeId, encoding};
use tokio::time::{Instant, sleep, timeout};

use super::checker::{self, Operation};
use super::cluster::{self, Cluster, Life};
use super::faulty_log::Bug;
use super::links::Weather;
use super::machine::Command;
use crate::config::GroupConfig;
use crate::error::ProposeError;

const NODES: u64 = 5;
const CLIENTS: u64 = 5;
const KEYS: u64 = 4;
/// Of simulated time.
const RECOVERY: Duration = Duration::from_secs(60);

/// What a run was and what it found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub violations: Vec<String>,
    pub acknowledged: usize,
    pub reads: usize,
    pub terms: usize,
    /// The last index and the digest of everything applied.
    pub last: Option<(u64, u64)>,
}

/// Which faults a run has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub seed: u64,
    pub time: Duration,
    pub bug: Bug,
    pub kind: Kind,
}

/// Which troubles a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// All of them, but that replicas keep their logs.
    All,
    /// Nothing but crashes and bad weather, often.
    Crashes,
    /// Nodes leave the voters, drop their replicas and come back, the one that made
    /// the group alone among them. No snapshot spares them the memberships of the
    /// past.
    Drops,
    /// All of them, with state machines that keep their states by themselves.
    OwnCopies,
}

impl Kind {
    /// How many voters the group has in the beginning.
    fn founders(self) -> u64 {
        if self == Kind::Drops { 1 } else { 3 }
    }

    fn config(self) -> GroupConfig {
        let config = cluster::config();
        match self {
            Kind::Drops => GroupConfig { snapshot_entries: 1 << 30, ..config },
            Kind::All | Kind::Crashes | Kind::OwnCopies => config,
        }
    }
}

/// Runs a plan on a runtime of its own.
pub(super) fn run(plan: Plan) -> Outcome {
    block_on(plan.seed, simulate(plan))
}

/// Runs one simulation, whose every choice follows from the seed.
pub(super) fn block_on<T>(seed: u64, simulation: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    crate::runtime::seed_this_thread(seed);
    runtime.block_on(simulation)
}

async fn simulate(plan: Plan) -> Outcome {
    let founders = plan.kind.founders();
    let cluster = Cluster::new(plan.seed, NODES, plan.bug, plan.kind.config());
    if plan.kind == Kind::OwnCopies {
        cluster.keep_states();
    }
    if let Err(what) = cluster.found(founders).await {
        cluster.violation(what);
    }
    let ids = Arc::new(AtomicU64::new(1));
    let until = Instant::now() + plan.time;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let rng = SmallRng::seed_from_u64(plan.seed.wrapping_mul(97).wrapping_add(number));
            let client = Client { cluster: Arc::clone(&cluster), ids: Arc::clone(&ids), rng };
            tokio::spawn(client.work(until))
        })
        .collect();
    let mut faults = Trouble {
        cluster: Arc::clone(&cluster),
        rng: SmallRng::seed_from_u64(plan.seed ^ 0x7472_6f75_626c_6531),
        kind: plan.kind,
    };
    while Instant::now() < until {
        faults.next().await;
    }
    for client in clients {
        client.await.unwrap();
    }
    // What is broken already need not recover.
    if cluster.ledger.lock().unwrap().violations.is_empty()
        && let Err(what) = recover(&cluster, &ids, founders).await
    {
        cluster.violation(what);
    }
    let mut ledger = cluster.ledger.lock().unwrap();
    ledger.check();
    Outcome {
        violations: ledger.violations.clone(),
        acknowledged: ledger.acknowledged(),
        reads: ledger.reads(),
        terms: ledger.terms(),
        last: ledger.last(),
    }
}

struct Client {
    cluster: Arc<Cluster>,
    ids: Arc<AtomicU64>,
    rng: SmallRng,
}

impl Client {
    async fn work(mut self, until: Instant) {
        while Instant::now() < until {
            let pause = Duration::from_micros(self.rng.random_range(0..20_000));
            sleep(pause).await;
            let Some(life) = self.choose() else { continue };
            let key = self.rng.random_range(0..KEYS);
            let deadline = Duration::from_millis(self.rng.random_range(50..1500));
            if self.rng.random_bool(0.6) {
                let id = self.ids.fetch_add(1, Ordering::Relaxed);
                write(&self.cluster, &life, Command { key, id }, deadline).await;
            } else {
                read(&self.cluster, &life, key, deadline).await;
            }
        }
    }

    fn choose(&mut self) -> Option<Life> {
        if self.rng.random_bool(0.7)
            && let Some((_, life)) = self.cluster.leader()
        {
            return Some(life);
        }
        let running = self.cluster.running();
        if running.is_empty() {
            return None;
        }
        let at = self.rng.random_range(0..running.len());
        Some(running[at].1.clone())
    }
}

async fn write(cluster: &Cluster, life: &Life, command: Command, deadline: Duration) {
    let Command { key, id } = command;
    let payload = Bytes::from(encoding::encode(&command));
    let began = Instant::now();
    let proposed = tokio::select! {
        biased;
        () = life.crash() => Err(ProposeError::OutcomeUnknown),
        proposed = life.group.propose(payload, deadline) => proposed,
    };
    let mut ledger = cluster.ledger.lock().unwrap();
    match proposed {
        Ok(applied) => {
            if encoding::decode::<u64>(&applied.answer).ok() != Some(id) {
                ledger.violations.push(format!("{id} got the answer of another"));
            }
            let kind = checker::Kind::Write { id, index: Some(applied.index) };
            ledger.observed(Operation { key, kind, began, ended: Some(Instant::now()) });
        }
        Err(ProposeError::OutcomeUnknown) => {
            let kind = checker::Kind::Write { id, index: None };
            ledger.observed(Operation { key, kind, began, ended: None });
        }
        Err(_) => ledger.refused(id),
    }
}

async fn read(cluster: &Cluster, life: &Life, key: u64, deadline: Duration) {
    let began = Instant::now();
    let confirmed = tokio::select! {
        biased;
        () = life.crash() => return,
        confirmed = life.group.read_barrier(deadline) => confirmed,
    };
    if confirmed.is_ok() {
        let seen = life.registers.lock().unwrap().last.get(&key).copied();
        let ended = Some(Instant::now());
        let operation = Operation { key, kind: checker::Kind::Read { seen }, began, ended };
        cluster.ledger.lock().unwrap().observed(operation);
    }
}

struct Trouble {
    cluster: Arc<Cluster>,
    rng: SmallRng,
    kind: Kind,
}

impl Trouble {
    fn time(&mut self, longest_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(10..longest_ms))
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.rng.random_range(1..=NODES))
    }

    /// Cuts and pauses end after a while, all at once.
    fn mend_later(&mut self) {
        let time = self.time(2000);
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            sleep(time).await;
            cluster.links.mend();
        });
    }

    async fn next(&mut self) {
        match self.kind {
            Kind::All | Kind::OwnCopies => self.any().await,
            Kind::Crashes => self.crash_or_weather().await,
            Kind::Drops => self.change_or_disturb().await,
        }
    }

    async fn crash_or_weather(&mut self) {
        sleep(self.time(150)).await;
        match self.rng.random_range(0..8) {
            0 | 1 => self.bad_weather(),
            // A power cut takes many at once.
            2 => (0..NODES).for_each(|_| self.crash(400)),
            _ => self.crash(400),
        }
    }

    async fn change_or_disturb(&mut self) {
        sleep(self.time(250)).await;
        match self.rng.random_range(0..12) {
            0 => self.crash(800),
            1 => self.split(),
            2 => self.cut_one_way(),
            3 => self.cluster.links.set_weather(Weather::FAIR),
            4 => self.transfer().await,
            _ => self.change_voters_and_drop().await,
        }
    }

    async fn any(&mut self) {
        sleep(self.time(1200)).await;
        match self.rng.random_range(0..13) {
            0 | 1 => self.crash(3000),
            2 => {
                for _ in 0..NODES {
                    self.crash(1500);
                }
            }
            3 => self.split(),
            4 => self.cut_one_way(),
            5 => {
                let (node, time) = (self.node(), self.time(2000));
                self.cluster.links.pause(node, time);
            }
            6 => self.cluster.links.set_weather(Weather::FAIR),
            7 => self.bad_weather(),
            8 => self.fail_sync(),
            9 => self.transfer().await,
            10 => self.replace_voter().await,
            11 => self.suspect().await,
            _ => self.snapshot().await,
        }
    }

    /// Ends a life; another begins after a while.
    fn crash(&mut self, longest_ms: u64) {
        let (node, time) = (self.node(), self.time(longest_ms));
        self.cluster.crash(node, self.rng.random_bool(0.7));
        self.restart_later(node, time);
    }

    fn restart_later(&self, node: NodeId, time: Duration) {
        let cluster = Arc::clone(&self.cluster);
        tokio::spawn(async move {
            sleep(time).await;
            cluster.start(node).await;
        });
    }

    fn fail_sync(&mut self) {
        let node = self.node();
        self.cluster.fail_sync(node, self.rng.random_range(0..4));
        let time = self.time(3000);
        self.restart_later(node, Duration::from_secs(1) + time);
    }

    fn split(&mut self) {
        let side: Vec<bool> = (0..NODES).map(|_| self.rng.random_bool(0.5)).collect();
        for (from, a) in (1..).zip(&side) {
            for (to, b) in (1..).zip(&side) {
                if a != b {
                    self.cluster.links.cut(NodeId(from), NodeId(to));
                }
            }
        }
        self.mend_later();
    }

    fn cut_one_way(&mut self) {
        let (node, outwards) = (self.node(), self.rng.random_bool(0.5));
        for other in self.cluster.ids() {
            let (from, to) = if outwards { (node, other) } else { (other, node) };
            self.cluster.links.cut(from, to);
        }
        self.mend_later();
    }

    fn bad_weather(&mut self) {
        let longest = self.time(120);
        let weather = Weather {
            loss: self.rng.random_range(0.0..0.2),
            doubling: self.rng.random_range(0.0..0.2),
            delay: (Duration::from_micros(self.rng.random_range(100..3000)), longest),
        };
        self.cluster.links.set_weather(weather);
    }

    async fn transfer(&mut self) {
        let to = self.node();
        if let Some((_, life)) = self.cluster.leader() {
            // It may fail for many reasons; what must hold is checked elsewhere.
            let _ = life.group.transfer_leader(to, Duration::from_millis(500)).await;
        }
    }

    /// Some believe that their leader's process has ended, rightly or not.
    async fn suspect(&mut self) {
        for (_, life) in self.cluster.running() {
            let stands = self.rng.random_bool(0.5);
            if let Some((leader, _)) = life.group.silent_leader()
                && self.rng.random_bool(0.6)
            {
                life.group.suspect_leader(leader, stands).await;
            }
        }
    }

    async fn snapshot(&mut self) {
        let node = self.node();
        if let Some(life) = self.cluster.life(node) {
            // As above.
            let _ = life.group.snapshot_now(Duration::from_millis(500)).await;
        }
    }

    async fn replace_voter(&mut self) {
        let joins = self.node();
        let Some((_, life)) = self.cluster.leader() else { return };
        let mut voters = life.group.status().borrow().voters.clone();
        let leave: Vec<NodeId> = voters.iter().copied().collect();
        if voters.contains(&joins) || leave.is_empty() {
            return;
        }
        let leaves = leave[self.rng.random_range(0..leave.len())];
        let deadline = Duration::from_millis(700);
        let added = life.group.add_learner(joins, deadline).await;
        let caught_up = life.group.wait_until_caught_up(joins, deadline).await;
        if added.is_ok() && caught_up.is_ok() {
            voters.remove(&leaves);
            voters.insert(joins);
            // An interrupted change leaves a joint membership, which must work too.
            let _ = life.group.change_voters(&voters, deadline).await;
        }
    }

    /// Any one or three become the voters. Those who left the group drop their
    /// replicas once that is known to be committed.
    async fn change_voters_and_drop(&mut self) {
        let Some((_, life)) = self.cluster.leader() else { return };
        let mut voters = self.cluster.ids();
        voters.shuffle(&mut self.rng);
        voters.truncate(if self.rng.random_bool(0.3) { 1 } else { 3 });
        let voters: BTreeSet<NodeId> = voters.into_iter().collect();
        let deadline = Duration::from_millis(1000);
        let before = life.group.status().borrow().voters.clone();
        for joins in voters.difference(&before) {
            let added = life.group.add_learner(*joins, deadline).await;
            if added.is_err() {
                return;
            }
            if self.rng.random_bool(0.4) {
                self.leave_half_way(*joins).await;
                return;
            }
            let caught_up = life.group.wait_until_caught_up(*joins, deadline).await;
            if caught_up.is_err() {
                return;
            }
        }
        if life.group.change_voters(&voters, deadline).await.is_ok() {
            for left in before.difference(&voters) {
                self.cluster.drop_replica(*left).await;
            }
        }
    }

    /// A node that is sent the log has a part of it only, for a while.
    async fn leave_half_way(&mut self, node: NodeId) {
        let millis = self.rng.random_range(0..25);
        sleep(Duration::from_millis(millis)).await;
        if self.rng.random_bool(0.3) {
            let power = self.rng.random_bool(0.5);
            self.cluster.crash(node, power);
            self.restart_later(node, Duration::from_millis(millis));
        }
        for other in self.cluster.ids() {
            self.cluster.links.cut(other, node);
            self.cluster.links.cut(node, other);
        }
        self.mend_later();
        sleep(Duration::from_millis(500)).await;
    }
}

/// Mends everything and waits until all members are equal and the group works.
async fn recover(cluster: &Arc<Cluster>, ids: &AtomicU64, founders: u64) -> Result<(), String> {
    cluster.links.mend();
    cluster.links.set_weather(Weather::FAIR);
    let recovered = timeout(RECOVERY, async {
        loop {
            for id in cluster.ids() {
                cluster.start(id).await;
            }
            cluster.found_if_lost(founders).await;
            if works(cluster, ids).await {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    recovered.await.map_err(|_| {
        let states: Vec<_> = cluster
            .running()
            .into_iter()
            .map(|(id, life)| (id, life.group.status().borrow().clone()))
            .collect();
        format!("the group did not recover: {states:?}")
    })
}

async fn works(cluster: &Arc<Cluster>, ids: &AtomicU64) -> bool {
    let Some((_, life)) = cluster.leader() else { return false };
    let status = life.group.status().borrow().clone();
    let deadline = Duration::from_secs(1);
    if status.changing {
        // Finishes a change that was interrupted.
        let voters: BTreeSet<NodeId> = status.voters.iter().copied().take(3).collect();
        // Whether it worked is seen at the next look.
        let _ = life.group.change_voters(&voters, deadline).await;
        return false;
    }
    let id = ids.fetch_add(1, Ordering::Relaxed);
    write(cluster, &life, Command { key: 0, id }, deadline).await;
    let Some((index, digest)) = cluster.ledger.lock().unwrap().last() else { return false };
    for member in status.voters.union(&status.learners) {
        let Some(life) = cluster.life(*member) else { return false };
        if life.group.read_barrier(deadline).await.is_err() {
            return false;
        }
        let state = life.registers.lock().unwrap();
        if state.index != index {
            return false;
        }
        if state.digest != digest {
            cluster.violation(format!("node {member} is at {index} with another digest"));
        }
    }
    true
}

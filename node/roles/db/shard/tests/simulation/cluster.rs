//! All nodes, and whoever brings them back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_consensus::simulation::Links;
use rung_proto::NodeId;
use rung_shard::{CopyState, First, Shard, Stop};
use tokio::time::{Instant, sleep};

use crate::node::{Life, Node};
use crate::run::Bug;

pub const NODES: u64 = 3;

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Kill,
    PowerLoss,
}

/// A simulated cluster of one shard.
pub struct Cluster {
    pub links: Arc<Links>,
    lives: Mutex<BTreeMap<NodeId, Life>>,
    /// A node is taken while it starts or ends.
    nodes: BTreeMap<NodeId, tokio::sync::Mutex<Node>>,
    wrong: Arc<Mutex<Vec<String>>>,
    /// What befell the nodes, and when.
    events: Mutex<Vec<String>>,
    began: Instant,
    rng: Mutex<StdRng>,
    _root: tempfile::TempDir,
}

/// In memory, if the machine has a file system for that.
fn root() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

impl Cluster {
    pub fn new(seed: u64, bug: Bug) -> Arc<Self> {
        let root = root();
        let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
        let nodes = (1..=NODES).map(NodeId).map(|id| {
            let node = Node::new(id, root.path().join(id.0.to_string()), seed, bug);
            (id, tokio::sync::Mutex::new(node))
        });
        let (leaders, hears) = (Mutex::new(BTreeMap::new()), Arc::clone(&wrong));
        let heard = move |term: u64, node: NodeId| {
            let first = *leaders.lock().unwrap().entry(term).or_insert(node);
            if first != node {
                let what = format!("nodes {first} and {node} both led in term {term}");
                hears.lock().unwrap().push(what);
            }
        };
        Arc::new(Self {
            links: Links::new(seed ^ 0x6c69_6e6b, heard),
            lives: Mutex::default(),
            nodes: nodes.collect(),
            wrong,
            events: Mutex::default(),
            began: Instant::now(),
            rng: Mutex::new(StdRng::seed_from_u64(seed ^ 0x6e6f_6465)),
            _root: root,
        })
    }

    fn lives(&self) -> MutexGuard<'_, BTreeMap<NodeId, Life>> {
        self.lives.lock().unwrap()
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn running(&self) -> Vec<(NodeId, Life)> {
        self.lives().iter().map(|(id, life)| (*id, life.clone())).collect()
    }

    pub fn life(&self, id: NodeId) -> Option<Life> {
        self.lives().get(&id).cloned()
    }

    /// Who takes writes in the highest epoch, if anybody says so.
    pub fn primary(&self) -> Option<(NodeId, Life)> {
        let epoch = |life: &Life| match *life.shard.state().borrow() {
            CopyState::Primary { epoch } => Some(epoch),
            _ => None,
        };
        let running = self.running();
        let primaries = running.into_iter().filter(|(_, life)| epoch(life).is_some());
        primaries.max_by_key(|(_, life)| epoch(life))
    }

    /// Notes what must not happen.
    pub fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Remembers what befell the nodes, to be printed beside what was wrong.
    pub fn note(&self, what: String) {
        let millis = self.began.elapsed().as_millis();
        self.events.lock().unwrap().push(format!("{millis} ms: {what}"));
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }

    pub fn all_wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    /// Starts all nodes and makes the shard.
    pub async fn found(self: &Arc<Self>) {
        let voters: BTreeSet<NodeId> = self.nodes.keys().copied().collect();
        for id in voters.iter().rev() {
            let first = match *id == NodeId(1) {
                true => First::Create { voters: voters.clone() },
                false => First::Open,
            };
            self.start_as(*id, first).await;
        }
    }

    /// Starts a node unless it runs.
    pub async fn start(self: &Arc<Self>, id: NodeId) {
        self.start_as(id, First::Open).await;
    }

    async fn start_as(self: &Arc<Self>, id: NodeId, first: First) {
        let mut node = self.nodes[&id].lock().await;
        if self.lives().contains_key(&id) {
            return;
        }
        let delay = {
            let mut rng = self.rng.lock().unwrap();
            // One disk in ten is slow.
            let longest = if rng.random_bool(0.1) { 30_000 } else { 2_000 };
            Duration::from_micros(rng.random_range(50..longest))
        };
        loop {
            match node.start(&self.links, first.clone(), delay).await {
                Ok(life) => {
                    self.note(format!("node {} started", id.0));
                    self.lives().insert(id, life.clone());
                    drop(node);
                    tokio::spawn(Arc::clone(self).watch(id, life));
                    return;
                }
                // A start can lose power, too.
                Err(_) if node.files_have_failed() => {
                    node.lose_power();
                    node.powerless();
                }
                Err(what) => {
                    self.wrong(format!("node {id} did not start: {what}"));
                    return;
                }
            }
        }
    }

    /// Ends a life at once, and returns when its node can begin another.
    pub async fn crash(&self, id: NodeId, end: End) {
        let mut node = self.nodes[&id].lock().await;
        let Some(life) = self.lives().remove(&id) else { return };
        self.note(format!("{end:?} of node {}", id.0));
        self.links.unplug(id);
        match end {
            End::Kill => node.kill(),
            End::PowerLoss => node.lose_power(),
        }
        life.end().await;
        match end {
            End::Kill => node.killed(),
            End::PowerLoss => node.powerless(),
        }
    }

    /// Ends a life whose disk or log has failed; another begins after a while.
    fn watch(self: Arc<Self>, id: NodeId, life: Life) -> BoxFuture<'static, ()> {
        self.bring_back(id, life).boxed()
    }

    /// Waits until SQLite's files have lost their power, which the copy need not notice:
    /// it can go on without a snapshot that lands.
    async fn power_is_gone(&self, id: NodeId) {
        while !self.nodes[&id].lock().await.files_are_dead() {
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn bring_back(self: Arc<Self>, id: NodeId, life: Life) {
        let mut state = life.shard.state();
        let mut failed = life.wal.failed();
        let stop = tokio::select! {
            biased;
            () = life.crash() => return,
            _ = failed.wait_for(Option::is_some) => None,
            () = self.power_is_gone(id) => None,
            stopped = state.wait_for(|state| matches!(state, CopyState::Stopped(_))) => {
                match stopped.as_deref() {
                    Ok(CopyState::Stopped(stop)) => Some(stop.clone()),
                    _ => None,
                }
            }
        };
        if stop == Some(Stop::Closed) {
            return;
        }
        let log_failed = failed.borrow().is_some();
        drop(life);
        // A sync that the log's disk was made to refuse may be one for what stands beside
        // the log.
        let refused = |stop: &Stop| stop.to_string().contains("simulated failure of a sync");
        let expected = log_failed
            || stop.as_ref().is_some_and(refused)
            || self.nodes[&id].lock().await.files_have_failed();
        if let Some(stop) = stop
            && !expected
        {
            self.wrong(format!("the copy of node {id} stopped: {stop}"));
        }
        let (end, pause) = {
            let mut rng = self.rng.lock().unwrap();
            let end = if rng.random_bool(0.6) { End::PowerLoss } else { End::Kill };
            (end, Duration::from_millis(rng.random_range(5..400)))
        };
        self.crash(id, end).await;
        sleep(pause).await;
        self.start(id).await;
    }

    /// Works on a node's disks.
    pub async fn with_node<T>(&self, id: NodeId, work: impl FnOnce(&mut Node) -> T) -> T {
        work(&mut *self.nodes[&id].lock().await)
    }

    /// Takes a node out of the shard and lets it fetch the copy anew.
    pub async fn replace_copy(self: &Arc<Self>, id: NodeId, deadline: Duration) {
        let Some((primary, leader)) = self.primary() else { return };
        if primary == id {
            return;
        }
        let group = leader.shard.group().clone();
        let mut voters = group.status().borrow().voters.clone();
        voters.remove(&id);
        if voters.len() + 1 < self.nodes.len()
            || group.change_voters(&voters, deadline).await.is_err()
        {
            return;
        }
        self.note(format!("node {} is no member any more", id.0));
        self.crash(id, End::Kill).await;
        self.start_empty(id).await;
        voters.insert(id);
        let until = Instant::now() + deadline;
        while Instant::now() < until && !self.joined(id, &voters, deadline).await {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Drops what a node has of the shard, and opens it anew.
    async fn start_empty(self: &Arc<Self>, id: NodeId) {
        self.start(id).await;
        let Some(life) = self.life(id) else { return };
        life.shard.close().await;
        let removed = life.consensus.remove(crate::node::GROUP).await;
        if let Err(error) = removed
            && life.wal.failed().borrow().is_none()
        {
            self.wrong(format!("node {id} could not drop its copy: {error}"));
        }
        drop(life);
        self.crash(id, End::Kill).await;
        self.with_node(id, Node::forget_files).await;
        self.start(id).await;
    }

    /// Lets a node vote again, once it has what the others have.
    pub async fn joined(&self, id: NodeId, voters: &BTreeSet<NodeId>, deadline: Duration) -> bool {
        let Some((_, leader)) = self.primary() else { return false };
        let group = leader.shard.group();
        if group.status().borrow().voters.contains(&id) {
            return true;
        }
        let ready = async {
            group.add_learner(id, deadline).await?;
            group.wait_until_caught_up(id, deadline).await?;
            group.change_voters(voters, deadline).await
        };
        ready.await.is_ok()
    }

    /// The copies that run, to be compared.
    pub fn shards(&self) -> Vec<(NodeId, Shard)> {
        self.lives().iter().map(|(id, life)| (*id, life.shard.clone())).collect()
    }

    /// Ends all nodes.
    pub async fn stop(&self) {
        for id in self.ids() {
            self.crash(id, End::Kill).await;
        }
    }
}

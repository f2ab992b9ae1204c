//! The nodes of a simulated cluster: their disks, their lives and deaths.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rung_proto::{Generation, GroupId, NodeId};
use rung_wal::disk::{Faults, SimDisk};
use rung_wal::{Driver, Wal, WalConfig, Write};
use tokio::sync::Notify;

use super::checker::Ledger;
use super::disk::LifeDisk;
use super::faulty_log::{Bug, FaultyLog};
use super::links::Links;
use super::machine::{Machine, Own, Saved, Shared};
use crate::config::GroupConfig;
use crate::consensus::{Consensus, ConsensusConfig};
use crate::error::OpenError;
use crate::group::Group;
use crate::status::GroupRole;

pub(super) const GROUP: GroupId = GroupId(7);

/// One life of a node.
#[derive(Clone)]
pub(super) struct Life {
    pub group: Group,
    pub registers: Shared,
    consensus: Consensus,
    wal: Wal,
    alive: Arc<AtomicBool>,
    /// Its replica is being dropped, which ends the group.
    drops: Arc<AtomicBool>,
    crashed: Arc<Notify>,
}

impl Life {
    /// Returns when the node crashes.
    pub(super) async fn crash(&self) {
        let mut crashed = pin!(self.crashed.notified());
        crashed.as_mut().enable();
        if self.alive.load(Ordering::Relaxed) {
            crashed.await;
        }
    }
}

struct Node {
    disk: SimDisk,
    lives: u64,
    life: Option<Life>,
    /// What its state machine keeps by itself, if it does.
    saved: Option<Saved>,
    /// Between its beginning and `life` there are moments of starting.
    starting: bool,
}

/// A simulated cluster of one group.
pub(super) struct Cluster {
    pub links: Arc<Links>,
    pub ledger: Arc<Mutex<Ledger>>,
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    rng: Mutex<SmallRng>,
    bug: Bug,
    config: GroupConfig,
}

pub(super) fn config() -> GroupConfig {
    GroupConfig {
        heartbeat: Duration::from_millis(50),
        election: (Duration::from_millis(150), Duration::from_millis(300)),
        snapshot_entries: 60,
        keep_entries: 10,
        append_bytes: 400,
        append_window: 4,
        max_waiting: 64,
        snapshot_deadline: Duration::from_secs(3),
        ..GroupConfig::new(GROUP, "simulated")
    }
}

impl Cluster {
    pub(super) fn new(seed: u64, size: u64, bug: Bug, config: GroupConfig) -> Arc<Self> {
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let nodes = (1..=size).map(|id| {
            let disk = SimDisk::new(seed.wrapping_mul(31).wrapping_add(id));
            (NodeId(id), Node { disk, lives: 0, life: None, saved: None, starting: false })
        });
        let hears = Arc::clone(&ledger);
        let heard = move |term, node: NodeId| hears.lock().unwrap().leads(term, node.0);
        Arc::new(Self {
            links: Links::new(seed ^ 0x6c69_6e6b, heard),
            ledger,
            nodes: Mutex::new(nodes.collect()),
            rng: Mutex::new(SmallRng::seed_from_u64(seed ^ 0x6e6f_6465)),
            bug,
            config,
        })
    }

    /// From the beginning the state machines keep their states by themselves.
    pub(super) fn keep_states(&self) {
        self.nodes().values_mut().for_each(|node| node.saved = Some(Saved::default()));
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap()
    }

    pub(super) fn violation(&self, what: String) {
        self.ledger.lock().unwrap().violation(what);
    }

    pub(super) fn ids(&self) -> Vec<NodeId> {
        self.nodes().keys().copied().collect()
    }

    pub(super) fn running(&self) -> Vec<(NodeId, Life)> {
        let nodes = self.nodes();
        nodes.iter().filter_map(|(id, node)| Some((*id, node.life.clone()?))).collect()
    }

    pub(super) fn life(&self, id: NodeId) -> Option<Life> {
        self.nodes().get(&id)?.life.clone()
    }

    /// Starts a node unless it runs.
    pub(super) async fn start(self: &Arc<Self>, id: NodeId) {
        let (disk, number) = {
            let mut nodes = self.nodes();
            let node = nodes.get_mut(&id).unwrap();
            if node.life.is_some() || node.starting {
                return;
            }
            node.starting = true;
            node.lives += 1;
            node.disk.set_faults(Faults::default());
            (node.disk.clone(), node.lives)
        };
        let started = self.start_life(id, disk, number).await;
        let mut nodes = self.nodes();
        let node = nodes.get_mut(&id).unwrap();
        node.starting = false;
        match started {
            Ok(life) => {
                node.life = Some(life.clone());
                tokio::spawn(Arc::clone(self).watch_life(id, life));
            }
            Err(what) => {
                drop(nodes);
                self.violation(format!("node {id} did not start: {what}"));
            }
        }
    }

    async fn start_life(
        self: &Arc<Self>,
        id: NodeId,
        disk: SimDisk,
        number: u64,
    ) -> Result<Life, String> {
        let delay = {
            let mut rng = self.rng.lock().unwrap();
            // One disk in ten is slow.
            let longest = if rng.random_bool(0.1) { 60_000 } else { 3_000 };
            Duration::from_micros(rng.random_range(50..longest))
        };
        let alive = Arc::new(AtomicBool::new(true));
        let life_disk = |for_snapshots| {
            Arc::new(LifeDisk { disk: disk.clone(), alive: Arc::clone(&alive), for_snapshots })
        };
        let wal_config = WalConfig {
            segment_bytes: 64 << 10,
            max_record_bytes: 8 << 10,
            max_queue_bytes: 1 << 20,
            cache_bytes: 8 << 10,
            driver: Driver::Task { delay },
            ..WalConfig::new("/data/wal")
        };
        let (wal, _) =
            Wal::open(life_disk(false), wal_config).map_err(|error| error.to_string())?;
        let consensus = Consensus::start(ConsensusConfig {
            node: id,
            generation: Generation(1),
            dir: "/data/groups".into(),
            disk: life_disk(true),
            wal: wal.clone(),
            network: Arc::new(self.links.link(id, number)),
        });
        let bug = self.bug;
        let saved = self.nodes()[&id].saved.clone();
        let state = saved.as_ref().map(|saved| saved.lock().unwrap().0.clone());
        let registers = Shared::new(Mutex::new(state.unwrap_or_default()));
        let lies = bug == Bug::CallAppliedDurable;
        let own = saved.map(|saved| Own::new(saved, Arc::clone(&alive), lies));
        let ledger = Arc::clone(&self.ledger);
        let machine = Machine { state: Arc::clone(&registers), ledger, own };
        let wrap = |log| FaultyLog { log, bug };
        let opened = consensus.open_with(self.config.clone(), Box::new(machine), wrap).await;
        let group = opened.map_err(|error: OpenError| error.to_string())?;
        self.links.plug(id, number, consensus.clone());
        let (drops, crashed) = (Arc::default(), Arc::default());
        Ok(Life { group, registers, consensus, wal, alive, drops, crashed })
    }

    /// Ends a life: the node stops at once, or its power fails.
    pub(super) fn crash(&self, id: NodeId, power: bool) {
        let mut nodes = self.nodes();
        let node = nodes.get_mut(&id).unwrap();
        let Some(life) = node.life.take() else { return };
        self.links.unplug(id);
        life.alive.store(false, Ordering::Relaxed);
        if power {
            node.disk.lose_power();
        } else {
            node.disk.kill_process();
        }
        life.crashed.notify_waiters();
        // Its tasks end here, cut off from its disk and from everybody.
        tokio::spawn(async move { life.consensus.shutdown().await });
    }

    /// Notes what must not happen in a life, and ends it when its log died.
    async fn watch_life(self: Arc<Self>, id: NodeId, life: Life) {
        let mut status = life.group.status();
        let mut failed = life.wal.failed();
        loop {
            let now = status.borrow_and_update().clone();
            match now.role {
                GroupRole::Leader => self.ledger.lock().unwrap().leads(now.term, id.0),
                GroupRole::Stopped(_) if life.drops.load(Ordering::Relaxed) => return,
                // A snapshot that could not be synced; the process ends as well.
                GroupRole::Stopped(why) if why.contains("simulated failure") => {
                    self.crash(id, true);
                    return;
                }
                GroupRole::Stopped(why) if failed.borrow().is_none() => {
                    self.violation(format!("node {id} stopped: {why}"));
                    return;
                }
                _ => {}
            }
            tokio::select! {
                biased;
                () = life.crash() => return,
                _ = failed.wait_for(Option::is_some) => {
                    let power = self.rng.lock().unwrap().random_bool(0.5);
                    self.crash(id, power);
                    return;
                }
                changed = status.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Lets a node that votes no more drop its replica and begin a new life.
    pub(super) async fn drop_replica(self: &Arc<Self>, id: NodeId) {
        let Some(life) = self.life(id) else { return };
        life.drops.store(true, Ordering::Relaxed);
        let dropped = async {
            life.consensus.remove(GROUP).await.map_err(|error| error.to_string())?;
            if self.bug == Bug::DropWithoutTrace {
                let written = life.wal.write(GROUP, vec![Write::DropGroup]).await;
                written.map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let dropped: Result<(), String> = tokio::select! {
            biased;
            () = life.crash() => return,
            dropped = dropped => dropped,
        };
        if let Err(what) = dropped {
            self.violation(format!("node {id} could not drop its replica: {what}"));
        }
        let power = self.rng.lock().unwrap().random_bool(0.5);
        self.crash(id, power);
        self.start(id).await;
    }

    /// The disk of a node will fail one of its next syncs.
    pub(super) fn fail_sync(&self, id: NodeId, after: u64) {
        let nodes = self.nodes();
        let faults = Faults { fail_sync_after: Some(after), ..Faults::default() };
        nodes[&id].disk.set_faults(faults);
    }

    /// Who leads with the highest term, if anybody says so.
    pub(super) fn leader(&self) -> Option<(NodeId, Life)> {
        let mut leading: Vec<_> = self
            .running()
            .into_iter()
            .filter(|(_, life)| life.group.status().borrow().is_leader())
            .collect();
        leading.sort_by_key(|(_, life)| life.group.status().borrow().term);
        leading.pop()
    }

    /// Starts all nodes and makes the group on the first of them.
    pub(super) async fn found(self: &Arc<Self>, voters: u64) -> Result<(), String> {
        for id in self.ids() {
            self.start(id).await;
        }
        self.initialize(NodeId(1), voters).await
    }

    /// Makes the group on one of its first voters.
    pub(super) async fn initialize(&self, on: NodeId, voters: u64) -> Result<(), String> {
        let voters: BTreeSet<NodeId> = (1..=voters).map(NodeId).collect();
        let life = self.life(on).ok_or_else(|| format!("node {on} does not run"))?;
        life.consensus.initialize(&life.group, &voters).await
    }

    /// Makes the group again if all nodes crashed before it was durable anywhere.
    pub(super) async fn found_if_lost(&self, voters: u64) {
        let running = self.running();
        let no_log = |life: &Life| life.group.status().borrow().last.is_none();
        if running.len() == self.ids().len()
            && running.iter().all(|(_, life)| no_log(life))
            && let Err(what) = self.initialize(NodeId(1), voters).await
        {
            self.violation(what);
        }
    }
}

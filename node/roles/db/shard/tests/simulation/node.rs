//! A node: its disks, its lives and deaths.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rung_consensus::simulation::Links;
use rung_consensus::{Consensus, ConsensusConfig, GroupConfig};
use rung_pages::Disk;
use rung_pages::simulation::{Failure, Power};
use rung_proto::{Generation, GroupId, NodeId};
use rung_shard::{First, Limits, Shard, ShardConfig};
use rung_wal::disk::{Faults as LogFaults, SimDisk};
use rung_wal::{Driver, Wal, WalConfig};
use tokio::sync::Notify;

use crate::run::Bug;
use crate::snapshot_disk::SnapshotDisk;

pub const GROUP: GroupId = GroupId(5);

/// One life of a node. Clones are the same life.
#[derive(Clone)]
pub struct Life {
    pub shard: Shard,
    pub consensus: Consensus,
    pub wal: Wal,
    alive: Arc<AtomicBool>,
    crashed: Arc<Notify>,
}

impl Life {
    /// Returns when the node has crashed.
    pub async fn crash(&self) {
        let mut crashed = pin!(self.crashed.notified());
        crashed.as_mut().enable();
        if self.alive.load(Ordering::Relaxed) {
            crashed.await;
        }
    }

    /// Stops everything that this life still does, and returns when nobody uses its
    /// files any more.
    pub async fn end(self) {
        self.alive.store(false, Ordering::Relaxed);
        self.crashed.notify_waiters();
        self.shard.close().await;
        self.consensus.shutdown().await;
        while self.shard.status().reading > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// What of a node outlives its crashes.
pub struct Node {
    pub id: NodeId,
    dir: PathBuf,
    log: SimDisk,
    power: Arc<Power>,
    seed: u64,
    lives: u64,
    bug: Bug,
}

impl Node {
    pub fn new(id: NodeId, dir: PathBuf, seed: u64, bug: Bug) -> Self {
        std::fs::create_dir_all(&dir).expect("a directory of a node");
        let seed = seed.wrapping_mul(31).wrapping_add(id.0);
        let (log, power) = (SimDisk::new(seed), Power::on(&dir, seed | 1));
        Self { id, dir, log, power, seed, lives: 0, bug }
    }

    /// Starts the node, whose former life has ended.
    pub async fn start(
        &mut self,
        links: &Arc<Links>,
        first: First,
        delay: Duration,
    ) -> Result<Life, String> {
        self.lives += 1;
        self.log.set_faults(LogFaults {
            lying_syncs: self.bug == Bug::SkipLogSync,
            ..LogFaults::default()
        });
        let disk = self.log.for_process();
        let wal_config = WalConfig {
            segment_bytes: 1 << 20,
            max_record_bytes: 256 << 10,
            max_queue_bytes: 4 << 20,
            cache_bytes: 256 << 10,
            driver: Driver::Task { delay },
            ..WalConfig::new("/data/wal")
        };
        let opened = Wal::open(Arc::new(disk.clone()), wal_config);
        let (wal, _) = opened.map_err(|error| error.to_string())?;
        let consensus = Consensus::start(ConsensusConfig {
            node: self.id,
            generation: Generation(1),
            dir: "/data/groups".into(),
            disk: Arc::new(SnapshotDisk(disk)),
            wal: wal.clone(),
            network: Arc::new(links.link(self.id, self.lives)),
        });
        // From here on the node hears the others, as it does while a real one starts.
        links.plug(self.id, self.lives, consensus.clone());
        match Shard::open(self.config(), &consensus, first).await {
            Ok(shard) => {
                let (alive, crashed) = (Arc::new(AtomicBool::new(true)), Arc::default());
                Ok(Life { shard, consensus, wal, alive, crashed })
            }
            Err(error) => {
                links.unplug(self.id);
                consensus.shutdown().await;
                Err(error.to_string())
            }
        }
    }

    fn config(&self) -> ShardConfig {
        let group = GroupConfig {
            heartbeat: Duration::from_millis(25),
            election: (Duration::from_millis(60), Duration::from_millis(110)),
            keep_entries: 10,
            snapshot_deadline: Duration::from_secs(3),
            ..GroupConfig::new(GROUP, format!("db/simulated/{}", self.id))
        };
        let mut config = ShardConfig::new(self.dir.clone(), group, self.id);
        config.limits = Limits {
            in_flight: 4,
            propose: Duration::from_secs(2),
            transaction_idle: Duration::from_millis(300),
            transaction_time: Duration::from_secs(2),
            session_wait: Duration::from_millis(150),
            snapshot_age: Duration::from_millis(300),
            checkpoint_bytes: 128 << 10,
            threads: 1,
            readers: 16,
            ..Limits::default()
        };
        config.disk = Disk::simulated(Arc::clone(&self.power));
        let slow = [0, 0, 20, 150][usize::try_from(self.seed % 4).unwrap_or(0)];
        config.faults.slow_proposals = Duration::from_millis(slow);
        self.bug.put_into(&mut config.faults);
        config
    }

    /// The process ends: whatever it still tries to do with its disks fails.
    pub fn kill(&self) {
        self.power.kill_process();
        self.log.kill_process();
    }

    /// The power fails, and all that was not durable may be gone, or torn.
    pub fn lose_power(&self) {
        self.power.kill_process();
        self.log.lose_power();
    }

    /// After a kill: nobody uses the files any more, and another process may.
    pub fn killed(&self) {
        self.power.restart_process();
    }

    /// After a loss of power: nobody uses the files any more.
    pub fn powerless(&mut self) {
        self.power.cut();
        self.power = Power::on(&self.dir, self.seed.wrapping_add(self.lives << 8) | 1);
    }

    /// One of the next operations on SQLite's files goes wrong.
    pub fn fail_files(&self, after: u64, failure: Failure) {
        self.power.fail_after(after, failure);
    }

    /// What was to go wrong, and has not yet, does not.
    pub fn fail_nothing_more(&self) {
        if !self.power.has_failed() {
            self.power.fail_after(u64::MAX / 2, Failure::PowerCut);
        }
        let faults = LogFaults { fail_sync_after: None, ..self.log.faults() };
        self.log.set_faults(faults);
    }

    /// One of the next syncs of the log fails.
    pub fn fail_log_sync(&self, after: u64) {
        let faults = LogFaults { fail_sync_after: Some(after), ..self.log.faults() };
        self.log.set_faults(faults);
    }

    /// Whether something was made to go wrong with SQLite's files, and has.
    pub fn files_have_failed(&self) -> bool {
        self.power.has_failed()
    }

    /// Whether SQLite's files have lost their power.
    pub fn files_are_dead(&self) -> bool {
        self.power.is_dead()
    }

    /// Forgets the copy's files, whose group has dropped this node.
    pub fn forget_files(&mut self) {
        std::fs::remove_dir_all(&self.dir).expect("the directory of a node");
        std::fs::create_dir_all(&self.dir).expect("a directory of a node");
        self.power = Power::on(&self.dir, self.seed.wrapping_add(self.lives << 8) | 1);
    }
}

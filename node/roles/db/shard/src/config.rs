//! How a copy of a shard behaves.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rung_consensus::GroupConfig;
use rung_proto::{Generation, NodeId};

/// Which copy, and how it behaves.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The copy's own directory; made if there is none.
    pub dir: PathBuf,
    /// Its Raft group. All copies should use the same timeouts.
    pub group: GroupConfig,
    /// This node.
    pub node: NodeId,
    /// The life of the cluster's logs.
    pub generation: Generation,
    /// The number of the shard in its database.
    pub number: u16,
    /// What is bounded, and by how much.
    pub limits: Limits,
    /// The disk under `dir`.
    #[cfg(feature = "simulation")]
    pub disk: rung_pages::Disk,
    /// Steps to leave out, to see that tests notice.
    #[cfg(feature = "simulation")]
    pub faults: Faults,
}

impl ShardConfig {
    /// The first shard of a database in its first generation, with default limits.
    pub fn new(dir: PathBuf, group: GroupConfig, node: NodeId) -> Self {
        Self {
            dir,
            group,
            node,
            generation: Generation(1),
            number: 0,
            limits: Limits::default(),
            #[cfg(feature = "simulation")]
            disk: rung_pages::Disk::system(),
            #[cfg(feature = "simulation")]
            faults: Faults::default(),
        }
    }
}

/// Steps that tests leave out on purpose, and delays that they bring about.
#[cfg(feature = "simulation")]
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Those of the pages.
    pub pages: rung_pages::Faults,
    /// Writes are answered before a quorum has them.
    pub acknowledge_early: bool,
    /// What a draft came to is not looked at when it is committed.
    pub skip_validation: bool,
    /// What a draft has changed and read again, others may change.
    pub ignore_claims: bool,
    /// Entries count in whatever term they reached the log.
    pub ignore_epoch: bool,
    /// One entry in five is proposed so much later than it was executed.
    pub slow_proposals: Duration,
}

impl ShardConfig {
    /// Whether tests want drafts to be kept whatever they come to.
    pub(crate) fn skips_validation(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.faults.skip_validation;
        #[cfg(not(feature = "simulation"))]
        false
    }

    /// Whether tests want nothing to be claimed.
    pub(crate) fn ignores_claims(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.faults.ignore_claims;
        #[cfg(not(feature = "simulation"))]
        false
    }
}

/// How the group is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum First {
    /// It has a log here, or this node will receive it as a learner.
    Open,
    /// It is made, with these voters; see
    /// [`Consensus::create`](rung_consensus::Consensus::create).
    Create {
        /// This node must be one of them.
        voters: BTreeSet<NodeId>,
    },
}

/// Everything that is bounded.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How many writes and transactions may wait for the writer.
    pub queue: usize,
    /// How many autocommit writes one batch takes at most.
    pub batch_jobs: usize,
    /// A batch takes no more writes once it has run for so long.
    pub batch_time: Duration,
    /// How many batches may be executed and not yet on a quorum.
    pub in_flight: usize,
    /// Once so many batches are in flight, what is committed waits a moment for what is
    /// committed next, and becomes a batch together with it.
    pub pipeline: usize,
    /// How long it waits at most.
    pub defer: Duration,
    /// How long a commit waits for transactions that are under way, to become a batch
    /// together with them.
    pub gather: Duration,
    /// A transaction is under way for so long after it has executed something.
    pub active: Duration,
    /// How long a proposal may take before nobody waits for it any more.
    pub propose: Duration,
    /// How long an interactive transaction may wait for its client while others
    /// wait for it.
    pub transaction_idle: Duration,
    /// How long an interactive transaction may take in all while others wait.
    pub transaction_time: Duration,
    /// How many statements one interactive transaction may execute.
    pub transaction_statements: u64,
    /// How many transactions may be executed on snapshots before they are committed.
    pub drafts: usize,
    /// How much memory such a transaction takes before it takes the writer, in bytes.
    pub draft_bytes: u64,
    /// After a conflict that may have been chance, such transactions take the writer for
    /// the statement that had it for so long.
    pub contention: Duration,
    /// How many statements such a transaction executes before it takes the writer.
    pub draft_statements: usize,
    /// How long open transactions are waited for when the shard is handed over.
    pub hand_over_patience: Duration,
    /// How many connections may read at once.
    pub readers: usize,
    /// How many threads execute reads that take longer than `inline`.
    pub threads: usize,
    /// How many reads may wait for such a thread.
    pub thread_queue: usize,
    /// How long a read may keep the thread that asked for it.
    pub inline: Duration,
    /// How long a read waits for this copy to reach its token.
    pub session_wait: Duration,
    /// How old a snapshot may become while a checkpoint waits for it.
    pub snapshot_age: Duration,
    /// Copies are far from each other when a round of the log takes so long.
    pub distant: Duration,
    /// The write-ahead log of SQLite is checkpointed from this size on, in bytes. Where
    /// copies are far from each other writers wait for that only from four times the size
    /// on.
    pub checkpoint_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 4_096,
            batch_jobs: 256,
            batch_time: Duration::from_millis(5),
            in_flight: 16,
            pipeline: 2,
            defer: Duration::from_millis(2),
            gather: Duration::from_millis(2),
            active: Duration::from_millis(1),
            propose: Duration::from_secs(30),
            transaction_idle: Duration::from_secs(10),
            transaction_time: Duration::from_secs(60),
            transaction_statements: 1_000_000,
            drafts: 128,
            draft_bytes: 8 << 20,
            contention: Duration::from_millis(250),
            draft_statements: 100,
            hand_over_patience: Duration::from_millis(75),
            readers: 64,
            threads: 4,
            thread_queue: 256,
            inline: Duration::from_millis(5),
            session_wait: Duration::from_millis(500),
            snapshot_age: Duration::from_secs(5),
            distant: Duration::from_millis(20),
            checkpoint_bytes: 16 << 20,
        }
    }
}

//! Soft state: what a node says of itself. It is pushed to the peers and
//! gossiped, never decided by consensus, and is forgotten when the node is gone.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, GroupId, Incarnation, InstanceId, NodeId, Role};

/// How far an instance is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Being fetched, started, or not yet healthy often enough in a row.
    Starting,
    /// Takes requests.
    Healthy,
    /// Finishes what it has and takes nothing new.
    Draining,
    /// Crashed too often to be tried again here.
    Failed,
    /// Drained and gone; its record may be removed.
    Stopped,
}

/// One process of an app, as its node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub id: InstanceId,
    pub app: String,
    pub release: u32,
    pub state: InstanceState,
    /// The process, while there is one.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Its port on the node's loopback address.
    #[serde(default)]
    pub port: Option<u16>,
    /// How often it was started again after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// When it reached this state, milliseconds since 1970 on its node's clock.
    #[serde(default)]
    pub since_ms: u64,
    /// Why it is not healthy, with the last lines that it printed.
    #[serde(default)]
    pub problem: Option<String>,
}

/// The machine under a node, read from `/proc`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HostStatus {
    /// Busy share of all processors, 0.0 to 1.0, over the last interval.
    pub cpu: f64,
    pub cores: u32,
    pub memory_total: u64,
    pub memory_available: u64,
    /// Of the file system that holds the data directory, in bytes.
    pub disk_total: u64,
    pub disk_available: u64,
    /// Bytes since boot over all interfaces but loopback.
    pub network_received: u64,
    pub network_sent: u64,
    /// Resident memory of `rungd` itself, in bytes.
    pub process_memory: u64,
}

/// A supervised actor, for `ctl top`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActorStatus {
    pub name: String,
    #[serde(default)]
    pub role: Option<Role>,
    /// Messages waiting in its inbox, and how many fit: 0 for a task without one.
    pub depth: u64,
    pub capacity: u64,
    pub handled: u64,
    pub restarts: u32,
}

/// What a copy of a shard is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// Takes writes: its node leads the shard's group.
    Primary,
    /// Follows the primary and answers reads.
    Replica,
    /// Keeps the log and votes, and holds no data.
    Witness,
}

/// How far a copy of a shard is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyState {
    /// It does not have what the others have yet.
    CatchingUp,
    /// It answers what it can: a primary reads and writes, a replica reads.
    Serving,
    /// It does nothing until somebody helps, for example by making room on its
    /// disk; `problem` says why.
    Stopped,
    /// It cannot be trusted; the others take it out of their group, and it is made
    /// anew. `problem` says why.
    Broken,
}

/// Where a copy of a shard is in the history of its database. Equal positions are
/// equal content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyPosition {
    /// Counts the recoveries that accepted a loss of data.
    pub generation: u64,
    /// The term of the primary that made it.
    pub epoch: u64,
    /// Counts the batches of transactions.
    pub sequence: u64,
    /// Over all of the history.
    pub hash: Digest,
}

impl fmt::Display for CopyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}-", self.generation, self.epoch, self.sequence)?;
        self.hash.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A place in the log of a group. Of two logs of a group, the one whose last entry
/// is at the higher place has everything that the other can have acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LogPlace {
    pub term: u64,
    pub index: u64,
}

/// A copy that has accepted a new generation: it takes no part in its group any more,
/// and this is what it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedCopy {
    /// The generation that it has accepted.
    pub generation: u64,
    /// The last entry of its log.
    pub last: LogPlace,
    /// The position that the whole log makes.
    pub end: CopyPosition,
    /// The last position that it knows a quorum had.
    pub committed: CopyPosition,
}

/// One copy of a shard of a database, as its node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyStatus {
    pub database: String,
    pub shard: u32,
    pub group: GroupId,
    pub kind: CopyKind,
    pub state: CopyState,
    /// The generation of the shard's history; it rises when a copy was recovered
    /// with the loss of data.
    pub generation: u64,
    /// The term of the group that the copy is in.
    pub epoch: u64,
    /// The last transaction batch that it has.
    pub sequence: u64,
    /// How long ago the primary confirmed that this copy has everything, as far
    /// as the copy knows; 0 for a primary.
    #[serde(default)]
    pub lag_ms: Option<u64>,
    /// The group's members as this copy last heard of them.
    #[serde(default)]
    pub voters: Vec<NodeId>,
    #[serde(default)]
    pub learners: Vec<NodeId>,
    #[serde(default)]
    pub problem: Option<String>,
    /// Bytes of snapshots that the copy has received and taken over since its node
    /// started: while it rises, the copy is being made.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// The last entry of its log, committed or not.
    #[serde(default)]
    pub last: Option<LogPlace>,
    /// Once it has accepted another generation.
    #[serde(default)]
    pub sealed: Option<SealedCopy>,
    /// The archive that this node writes from it.
    #[serde(default)]
    pub archive: Option<ArchiveStatus>,
    /// The last scrub that this node began as the primary.
    #[serde(default)]
    pub scrub: Option<ScrubStatus>,
}

/// How far an archive is, as its writer sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The directory, as it was asked for.
    pub dir: String,
    /// The last entry of the group's log that need not be kept for it.
    pub log_index: u64,
    /// The last batch in it, and when that was proposed, milliseconds since 1970.
    pub sequence: u64,
    pub at_ms: u64,
    /// When it last had everything, milliseconds since 1970; 0: not yet.
    pub complete_ms: u64,
    #[serde(default)]
    pub base_ms: Option<u64>,
    #[serde(default)]
    pub gaps: u64,
    #[serde(default)]
    pub problem: Option<String>,
}

/// A comparison of all copies, page by page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Later scrubs have a higher one: when it was asked for, milliseconds since 1970.
    pub id: u64,
    pub running: bool,
    /// Pages that were compared, of how many.
    pub pages_done: u64,
    pub pages: u64,
    /// When a scrub last came to the end of the database, milliseconds since 1970; 0:
    /// none has since its node started.
    pub complete_ms: u64,
    /// What was found, in this scrub.
    #[serde(default)]
    pub damage: Vec<String>,
    /// Whether copies differ of which nobody knows which is right.
    #[serde(default)]
    pub undecided: bool,
    /// Why it did not compare everything.
    #[serde(default)]
    pub problem: Option<String>,
    /// Pages that were compared, and damage that was found, since the node started.
    #[serde(default)]
    pub total_pages: u64,
    #[serde(default)]
    pub total_damage: u64,
}

/// All that a node says of itself. A higher (incarnation, version) replaces a
/// lower one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeSoftState {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub version: u64,
    #[serde(default)]
    pub instances: Vec<InstanceStatus>,
    #[serde(default)]
    pub host: HostStatus,
    #[serde(default)]
    pub actors: Vec<ActorStatus>,
    /// Roles that kept panicking here, with the reason; placed elsewhere.
    #[serde(default)]
    pub broken_roles: Vec<(Role, String)>,
    /// Of the roles that listen, those that do so here now.
    #[serde(default)]
    pub serving: Vec<Role>,
    /// The copies of databases here.
    #[serde(default)]
    pub databases: Vec<CopyStatus>,
    /// Last control index applied here.
    #[serde(default)]
    pub applied_index: u64,
    /// The generation of the cluster that the node is in.
    #[serde(default = "first_generation")]
    pub generation: u64,
}

/// That of a cluster whose control group never lost its majority for good.
pub fn first_generation() -> u64 {
    1
}

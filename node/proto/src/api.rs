//! The JSON that a node's admin API serves and `ctl -o json` prints.
//!
//! | method and path | answer |
//! | --- | --- |
//! | `GET /api/v1/status` | [`Status`] |
//! | `GET /api/v1/events?since=N&follow=true` | lines of [`Event`] |
//! | `GET /api/v1/operations` | a list of [`Operation`] |
//! | `GET /api/v1/operations/N?follow=true` | lines of [`Operation`], the last one finished |
//! | `POST /api/v1/operations` with a [`ChangeRequest`] | [`ChangeAnswer`] |
//! | `PUT /api/v1/bundles` with a packed app | [`BundleStored`] |
//! | `GET /api/v1/logs?app=A&role=R&node=N&lines=K&follow=true` | lines of [`LogLine`] |
//! | `GET /api/v1/top` | [`Top`] |
//! | `GET /api/v1/audit` | a list of [`AuditEntry`] |
//! | `GET /api/v1/doctor` | a list of [`Finding`] |
//! | `GET /api/v1/apps/A/env` | a list of [`EnvName`] |
//! | `GET /api/v1/databases/D/url` | a [`DatabaseUrl`] |
//! | `POST /api/v1/databases/D/backup` with a [`BackupRequest`] | [`BackupDone`] |
//! | `POST /api/v1/databases/D/restore` with a [`BackupRequest`] | [`RestoreDone`] |
//! | `POST /api/v1/databases/D/restore-archive` with an [`ArchiveRestore`] | [`RestoreDone`] |
//! | `POST /api/v1/databases/D/scrub` with a [`ScrubRequested`] | [`ScrubStarted`] |
//! | `POST /api/v1/archives` with an [`ArchiveRequest`] | an [`ArchiveContent`] |
//! | `GET /api/v1/databases/D/tails` | a list of [`Tail`] |
//! | `GET /api/v1/databases/D/tails/FILE` | a [`TailPage`] |
//! | `POST /api/v1/databases/D/tails/replay` with a [`TailRequest`] | [`TailReplayed`] |
//! | `GET /api/v1/databases` | a [`DatabaseTop`] |
//! | `GET /api/v1/tokens` | a list of [`Token`] |
//! | `POST /api/v1/tokens` with a [`TokenRequest`] | [`TokenCreated`] |
//! | `DELETE /api/v1/tokens/ID` | the revoked [`Token`] |
//! | `POST /api/v1/sessions` | [`SessionLink`] |
//!
//! A refusal is a [`Failure`](crate::Failure) with the status 400 (asked for
//! wrongly), 404, 405, 409 (a precondition), 503 (no quorum, unreachable,
//! outcome unknown) or 500. Lines are newline-delimited JSON; a stream that is
//! cut off has no final chunk.
//!
//! All of it is served on the unix socket. On TCP a browser with a session may
//! GET `status`, `events`, `operations` and `top`, without `follow`, and a
//! refusal may also have the status 401 (no session), 403 (another site) or 421
//! (not by this name).

mod archives;
mod databases;
mod tails;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use archives::{
    ArchiveContent, ArchiveMoment, ArchiveRange, ArchiveRequest, ArchiveRestore, ArchiveSetting,
    DatabaseArchive, ScrubRequested, ScrubStarted,
};
pub use databases::{
    BackupDone, BackupRequest, DatabaseReplica, DatabaseShard, DatabaseTop, DatabaseUrl,
    RestoreDone, SlowStatement, SqlNode, StatementTop,
};
pub use tails::{Tail, TailPage, TailReplayed, TailRequest};

use crate::soft::{ActorStatus, HostStatus, InstanceState};
use crate::{ClusterId, Digest, Failure, InstanceId, NodeId, OperationId, Role};

/// The version of these types. It rises when a reader of the last one would
/// misunderstand; new fields do not raise it.
pub const VERSION: u32 = 1;

/// `ctl status -o json`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    pub cluster: Cluster,
    pub nodes: Vec<Node>,
    pub apps: Vec<App>,
    /// The shards of every database.
    #[serde(default)]
    pub db: Vec<DatabaseShard>,
    /// Running operations, and the last ten that finished.
    pub operations: Vec<Operation>,
    /// What an operator should know, for example a single point of failure.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    pub id: ClusterId,
    /// Last entry of the control log applied on the node that answered.
    pub index: u64,
    /// The node that answered.
    pub answered_by: String,
    /// The leader of the control group, when one is known.
    #[serde(default)]
    pub leader: Option<String>,
    /// How many wanted copies each role has: wanted and placed.
    #[serde(default)]
    pub roles: BTreeMap<Role, RoleCount>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoleCount {
    pub want: u32,
    pub have: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Alive,
    Suspect,
    Down,
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlRole {
    Leader,
    Voter,
    Follower,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub id: NodeId,
    pub dc: String,
    /// Its mesh address.
    pub address: String,
    /// What the answering node's membership says of it.
    pub state: NodeState,
    pub roles: Vec<Role>,
    pub control: ControlRole,
    /// Roles that were set by hand.
    #[serde(default)]
    pub pinned: Vec<Role>,
    #[serde(default)]
    pub cordoned: bool,
    #[serde(default)]
    pub draining: bool,
    #[serde(default)]
    pub incarnation: u64,
    #[serde(default)]
    pub version: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct App {
    pub name: String,
    pub release: u32,
    #[serde(default)]
    pub domain: Option<String>,
    pub web: Web,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Web {
    pub want: u32,
    pub healthy: u32,
    pub instances: Vec<Instance>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub node: String,
    pub release: u32,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub port: Option<u16>,
    /// starting, healthy, draining or failed.
    pub state: InstanceState,
    #[serde(default)]
    pub restarts: u32,
    #[serde(default)]
    pub problem: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    Waiting,
    Running,
    Done,
    Failed,
    /// Not needed any more.
    Skipped,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    Running,
    Done,
    Failed,
    /// A deploy whose release was bad and which put the last one back.
    RolledBack,
}

impl OperationState {
    /// Whether nothing more will happen.
    pub fn is_finished(self) -> bool {
        self != OperationState::Running
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub state: StepState,
    /// What it waits for, or what was seen.
    #[serde(default)]
    pub note: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    /// For example `deploy` or `move`.
    pub kind: String,
    /// One line for a person.
    pub summary: String,
    pub state: OperationState,
    pub steps: Vec<Step>,
    pub requested_by: String,
    /// Milliseconds since 1970.
    pub created_ms: u64,
    #[serde(default)]
    pub finished_ms: Option<u64>,
    #[serde(default)]
    pub result: Option<String>,
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// A change that somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// Runs a stored bundle as the next release of the app that its manifest names.
    Deploy {
        bundle: Digest,
    },
    /// Goes back to the given release, or to the one before the current.
    Rollback {
        app: String,
        release: Option<u32>,
    },
    /// Sets and removes variables, and restarts the app's processes one by one.
    SetEnv {
        app: String,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    },
    RemoveApp {
        app: String,
    },
    /// `scale web 4`: instances of an app. The app may be left out while there is one.
    ScaleWeb {
        app: Option<String>,
        count: u32,
    },
    /// `scale lb 2`: how many nodes have a role.
    ScaleRole {
        role: Role,
        count: u32,
    },
    AddRole {
        node: String,
        role: Role,
    },
    RemoveRole {
        node: String,
        role: Role,
    },
    /// Moves a role to a node, from the given one or from the one that the
    /// planner would give up first.
    Move {
        role: Role,
        node: String,
        from: Option<String>,
    },
    Drain {
        node: String,
    },
    /// `on`: nothing new is placed on the node. Off also ends a drain.
    Cordon {
        node: String,
        on: bool,
    },
    RemoveNode {
        node: String,
    },
    /// Makes the copy on a node the primary of a database's shard. The database
    /// may be left out while there is one.
    Promote {
        node: String,
        database: Option<String>,
        shard: u32,
        /// When a majority of the copies is lost, what they had may be lost.
        #[serde(default)]
        consent: Consent,
    },
    /// Makes a new generation of a database from what a majority of its copies that
    /// is lost for good has left.
    RecoverDatabase {
        database: String,
        shard: u32,
        /// The node whose copy is taken; the one that has the most when left out.
        from: Option<String>,
        consent: Consent,
    },
    /// Creates an empty database.
    CreateDatabase {
        name: String,
    },
    /// Archives a database from now on, or no longer.
    ArchiveDatabase {
        database: String,
        #[serde(default)]
        archive: Option<ArchiveSetting>,
    },
}

/// What an operator takes upon himself when data may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Consent {
    /// What only lost copies have may be lost.
    pub data_loss: bool,
    /// The lost copies are off, or cut off from everybody.
    pub fenced: bool,
}

/// Makes the control group anew from the log of the node that is asked, after a
/// majority of its voters was lost for good.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RecoverRequest {
    pub consent: Consent,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub requested_by: String,
}

/// The new generation of a cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterRecovered {
    pub generation: u64,
    /// The node whose log was taken, and its last entry.
    pub node: String,
    pub entry: u64,
    pub term: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChangeRequest {
    pub change: Change,
    /// Only plan it.
    #[serde(default)]
    pub dry_run: bool,
    /// Refuse when the state is not the one of this index.
    #[serde(default)]
    pub if_index: Option<u64>,
    /// Who asks, as `ctl` names the user; the audit log adds what the socket proves.
    #[serde(default)]
    pub requested_by: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum ChangeAnswer {
    /// The state already is what was asked for.
    Nothing {
        index: u64,
    },
    /// The answer to a dry run: what would be done, planned from this index.
    Plan {
        index: u64,
        summary: String,
        steps: Vec<String>,
    },
    Started {
        operation: Operation,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BundleStored {
    pub digest: Digest,
    pub size: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The index of the control log that it was written at.
    pub index: u64,
    pub at_ms: u64,
    /// For example `node-down` or `instance-failed`.
    pub kind: String,
    pub message: String,
    #[serde(default)]
    pub node: Option<String>,
    #[serde(default)]
    pub app: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    pub at_ms: u64,
    pub node: String,
    /// The app or role that wrote it.
    pub source: String,
    #[serde(default)]
    pub instance: Option<InstanceId>,
    pub line: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Top {
    pub nodes: Vec<NodeTop>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeTop {
    pub name: String,
    pub host: HostStatus,
    pub actors: Vec<ActorStatus>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditEntry {
    pub index: u64,
    pub at_ms: u64,
    pub by: String,
    pub action: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Ok,
    Warning,
    Problem,
}

/// One result of `ctl doctor`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// What was checked, for example `clock` or `disk`.
    pub check: String,
    pub message: String,
    #[serde(default)]
    pub next: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvName {
    pub name: String,
    pub set_at_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    /// Seconds it can be used for.
    pub ttl_s: u64,
    /// Nodes that may join with it.
    pub uses: u32,
    #[serde(default)]
    pub requested_by: String,
}

/// The text is shown once; the cluster keeps only its hash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenCreated {
    pub id: String,
    pub token: String,
    pub expires_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Token {
    /// The first hexadecimal digits of its hash.
    pub id: String,
    pub created_by: String,
    pub expires_ms: u64,
    pub uses_left: u32,
}

/// A link that opens the dashboard once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionLink {
    pub url: String,
    pub expires_ms: u64,
}

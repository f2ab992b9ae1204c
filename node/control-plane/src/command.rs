//! What the control log is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use rung_bundle::Manifest;
use rung_proto::api::ArchiveSetting;
use rung_proto::soft::SealedCopy;
use rung_proto::{Digest, Failure, Incarnation, InstanceId, NodeId, OperationId, Role};
use serde::{Deserialize, Serialize};

use crate::operation::{NewOperation, StepUpdate};
use crate::sealed::Sealed;
use crate::secrets::Hash;
use crate::state::{ClusterRecord, NodeRecord, Pin};

/// One entry of the control log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// The proposer's clock, milliseconds since 1970. It is used for what
    /// people read and for expiry, never to decide who owns what.
    pub at_ms: u64,
    /// Refuse when the state has moved past this index.
    #[serde(default)]
    pub if_index: Option<u64>,
    /// Who asked, for the audit log; empty for what the cluster does by itself.
    #[serde(default)]
    pub by: String,
    pub command: Command,
}

/// A change of the control state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    CreateCluster {
        cluster: ClusterRecord,
        first: Box<NodeRecord>,
        key: Hash,
        ca_key: Sealed,
    },
    /// Burns a use of a token and admits the holder of `key` as a node.
    AdmitNode {
        token: Hash,
        key: Hash,
        node: Box<NodeRecord>,
    },
    /// A node that started again says where it is.
    UpdateNode {
        node: NodeId,
        incarnation: Incarnation,
        mesh: SocketAddr,
        admin: SocketAddr,
        public: IpAddr,
        version: String,
    },
    SetPin {
        node: NodeId,
        role: Role,
        pin: Option<Pin>,
    },
    SetCordoned {
        node: NodeId,
        on: bool,
    },
    SetDraining {
        node: NodeId,
        on: bool,
    },
    RemoveNode {
        node: NodeId,
    },
    SetRoleWant {
        role: Role,
        want: u32,
    },
    AssignRole {
        role: Role,
        node: NodeId,
    },
    ReleaseRole {
        role: Role,
        node: NodeId,
    },
    CreateToken {
        hash: Hash,
        expires_ms: u64,
        uses: u32,
    },
    RevokeToken {
        id: String,
    },
    PutRelease {
        app: String,
        release: u32,
        digest: Digest,
        size: u64,
        manifest: Box<Manifest>,
    },
    /// Which release a data center should run.
    SetTarget {
        app: String,
        dc: String,
        release: u32,
    },
    /// The release that everything runs from now on.
    SetCurrent {
        app: String,
        release: u32,
    },
    /// Forgets a release that never became current.
    DropRelease {
        app: String,
        release: u32,
    },
    SetWebWant {
        app: String,
        want: u32,
    },
    SetEnv {
        app: String,
        sealed: Sealed,
        names: Vec<String>,
    },
    /// Takes an app down; its record goes when the last instance has.
    StartRemoval {
        app: String,
    },
    RemoveApp {
        app: String,
    },
    PlaceInstance {
        app: String,
        release: u32,
        env_version: u64,
        node: NodeId,
    },
    DrainInstance {
        id: InstanceId,
    },
    RemoveInstance {
        id: InstanceId,
    },
    Database {
        database: String,
        change: DatabaseCommand,
    },
    /// The control group was made anew, from the log of one node.
    BeginGeneration {
        generation: u64,
        node: NodeId,
    },
    StartOperation(Box<NewOperation>),
    /// Carries out a step of an operation, or records how it went, if the
    /// operation still is where the runner saw it.
    AdvanceOperation {
        id: OperationId,
        update: Box<StepUpdate>,
    },
    Note {
        kind: String,
        message: String,
        node: Option<String>,
        app: Option<String>,
    },
    /// Several changes as one, all of them or none.
    All(Vec<Command>),
}

/// A change of one database.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseCommand {
    /// Makes it with one shard; nothing happens when it is there.
    Create { verifier: String },
    /// Who creates the group of a shard that nobody has created yet.
    Found { shard: u32, node: NodeId },
    /// The founder says that the group exists.
    Founded { shard: u32, node: NodeId },
    /// Who keeps only the log.
    SetWitness { shard: u32, node: Option<NodeId> },
    /// Who should become the primary.
    Prefer { shard: u32, node: Option<NodeId> },
    /// Begins a new generation: from now on no copy takes part in the shard's group.
    BeginRecovery { shard: u32, generation: u64, survivors: BTreeSet<NodeId>, from: Option<NodeId> },
    /// Which survivor the new generation is made from, and what it has.
    ChooseSurvivor { shard: u32, generation: u64, node: NodeId, fork: SealedCopy },
    /// The group of the new generation exists: it is the shard's from now on.
    Recovered { shard: u32, generation: u64 },
    /// Where it is archived, if anywhere.
    SetArchive { archive: Option<ArchiveSetting> },
}

/// What a command gives back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Done,
    Admitted(NodeId),
    Operation(OperationId),
}

/// How a proposal went: what it gave back, or why nothing was changed.
pub type Outcome = Result<Answer, Failure>;

/// The variables of an app, before they are sealed.
pub type Environment = BTreeMap<String, String>;

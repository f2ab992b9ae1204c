//! The desired state, as tables of records.
//!
//! Only the control group's log changes it. Nodes that are not voters follow it
//! as a snapshot and then one [`Delta`] per entry, so every change of a table
//! goes through [`State::put`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use rung_bundle::Manifest;
use rung_proto::api::{ArchiveSetting, AuditEntry, Event};
use rung_proto::soft::{SealedCopy, first_generation};
use rung_proto::{
    ClusterId, Code, Digest, Epoch, Failure, GroupId, Incarnation, InstanceId, NodeId, OperationId,
    Role,
};
use serde::{Deserialize, Serialize};

use crate::operation::OperationRecord;

/// The version of the stored state that this build writes. A newer one is
/// refused at start.
pub const FORMAT: u32 = 1;

/// Events and audit entries that are kept.
pub const MAX_EVENTS: usize = 1000;
/// Finished operations that are kept.
pub const MAX_FINISHED_OPERATIONS: usize = 200;
/// Releases of an app that are kept to go back to.
pub const MAX_RELEASES: usize = 10;
/// Removed nodes that are remembered, so that they stay refused.
pub const MAX_REMOVED: usize = 4096;
/// Nodes a cluster may have.
pub const MAX_NODES: usize = 1024;
/// Apps a cluster may have.
pub const MAX_APPS: usize = 256;
/// Databases a cluster may have.
pub const MAX_DATABASES: usize = 64;
/// Instances an app may have.
pub const MAX_INSTANCES: u32 = 1000;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterRecord {
    pub name: String,
    pub id: ClusterId,
    pub created_ms: u64,
    /// DER of the certificate that signs every node's.
    #[serde(with = "serde_bytes")]
    pub ca_certificate: Vec<u8>,
}

/// What a person decided about a role on a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pin {
    /// The node has the role and keeps it.
    Include,
    /// The node never gets the role.
    Exclude,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    pub id: NodeId,
    pub name: String,
    pub dc: String,
    /// Where its mesh listens.
    pub mesh: SocketAddr,
    /// Where its admin API listens.
    pub admin: SocketAddr,
    /// The address that clients reach its load balancer, DNS and CDN at.
    pub public: IpAddr,
    #[serde(default)]
    pub pins: BTreeMap<Role, Pin>,
    #[serde(default)]
    pub cordoned: bool,
    #[serde(default)]
    pub draining: bool,
    #[serde(default)]
    pub incarnation: Incarnation,
    #[serde(default)]
    pub version: String,
    /// The index of the entry that admitted it: the order of joining.
    #[serde(default)]
    pub joined: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RoleRecord {
    /// How many nodes should have it.
    pub want: u32,
    /// Who has it, each since an epoch of its own. Control is not recorded here:
    /// its owners are the voters of the control group.
    #[serde(default)]
    pub owners: BTreeMap<NodeId, Epoch>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub digest: Digest,
    pub size: u64,
    pub manifest: Manifest,
    pub created_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AppRecord {
    pub name: String,
    pub releases: BTreeMap<u32, ReleaseRecord>,
    /// The release that a deploy last finished with; none while the first is on its way.
    pub current: Option<u32>,
    /// The release that each data center should run. One that is not listed
    /// runs `current`.
    #[serde(default)]
    pub targets: BTreeMap<String, u32>,
    /// Instances wanted.
    pub web: u32,
    /// Rises with every change of the app's variables.
    #[serde(default)]
    pub env_version: u64,
    /// Names of the variables and when each was set; the values are secret.
    #[serde(default)]
    pub env_names: BTreeMap<String, u64>,
    /// Being taken down: wants no instance any more.
    #[serde(default)]
    pub removing: bool,
    /// The highest number that a release had, also one that was forgotten.
    #[serde(default)]
    pub last_release: u32,
}

impl AppRecord {
    /// The release that a data center should run, if any.
    pub fn target(&self, dc: &str) -> Option<u32> {
        if self.removing {
            return None;
        }
        self.targets.get(dc).copied().or(self.current)
    }

    /// The manifest of the current release, or of the newest while there is none.
    pub fn manifest(&self) -> Option<&Manifest> {
        let release = match self.current {
            Some(current) => self.releases.get(&current),
            None => self.releases.values().next_back(),
        };
        release.map(|release| &release.manifest)
    }

    /// The number that the next release gets; none has it twice.
    pub fn next_release(&self) -> u32 {
        let newest = self.releases.keys().next_back().copied().unwrap_or(0);
        newest.max(self.last_release).saturating_add(1)
    }

    /// Whether a release is current or the target of a data center.
    pub fn runs(&self, release: u32) -> bool {
        self.current == Some(release) || self.targets.values().any(|target| *target == release)
    }

    /// Whether requests for a domain go to this app, or will once what is on its
    /// way is there.
    fn claims(&self, domain: &str) -> bool {
        let newest = self.releases.keys().next_back().copied();
        self.releases.iter().any(|(number, release)| {
            (self.runs(*number) || newest == Some(*number)) && release.manifest.domain == domain
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub app: String,
    pub release: u32,
    pub env_version: u64,
    pub node: NodeId,
    /// Set once it should finish what it has and end.
    #[serde(default)]
    pub drain: bool,
    pub placed_ms: u64,
    /// The index of the entry that last changed this record.
    #[serde(default)]
    pub changed: u64,
}

/// A database: its name is also that of the user who may use it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseRecord {
    pub name: String,
    pub created_ms: u64,
    /// What the password of its user is checked against, which does not tell it:
    /// `SCRAM-SHA-256$iterations:salt$stored:server`.
    pub verifier: String,
    pub shards: BTreeMap<u32, ShardRecord>,
    /// Where it is archived.
    #[serde(default)]
    pub archive: Option<ArchiveSetting>,
}

/// One shard. Who holds its copies is the group's own membership; here stands
/// only what brings the group into being and what is asked of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShardRecord {
    pub group: GroupId,
    /// The node that creates the group with itself as its only voter. The others
    /// are added by whoever leads the group.
    #[serde(default)]
    pub founder: Option<NodeId>,
    /// Set once the founder said that the group exists. From then on nobody may
    /// create it again, whatever happens to its members.
    #[serde(default)]
    pub founded: bool,
    /// The node that keeps only the log while there are two copies.
    #[serde(default)]
    pub witness: Option<NodeId>,
    /// The node that should become the primary, while somebody asks for it.
    #[serde(default)]
    pub preferred: Option<NodeId>,
    /// Rises with every recovery that accepted a loss of data.
    #[serde(default = "first_generation")]
    pub generation: u64,
    /// A new generation that is being made: nobody takes part in the group any more.
    #[serde(default)]
    pub recovery: Option<RecoveryRecord>,
    /// The groups of former generations, the last one last.
    #[serde(default)]
    pub retired: Vec<RetiredGroup>,
}

/// A new generation of a shard on its way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoveryRecord {
    pub generation: u64,
    /// The group that it will have.
    pub group: GroupId,
    /// The nodes whose copies accept it before one of them is taken.
    pub survivors: BTreeSet<NodeId>,
    /// The only one to take, if somebody said so.
    #[serde(default)]
    pub from: Option<NodeId>,
    /// The one that was taken, and where the new generation begins.
    #[serde(default)]
    pub chosen: Option<(NodeId, SealedCopy)>,
}

/// The group of a former generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetiredGroup {
    pub group: GroupId,
    pub generation: u64,
    /// What the copy had that the next generation was made from.
    pub fork: SealedCopy,
}

/// Former generations of a shard that are remembered.
pub const MAX_RETIRED: usize = 16;

/// The replicated desired state.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct State {
    pub format: u32,
    /// The last entry applied.
    pub index: u64,
    pub cluster: ClusterRecord,
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    /// Nodes that were removed, with the index of the removal.
    pub removed: BTreeMap<NodeId, u64>,
    pub roles: BTreeMap<Role, RoleRecord>,
    pub apps: BTreeMap<String, AppRecord>,
    pub instances: BTreeMap<InstanceId, InstanceRecord>,
    #[serde(default)]
    pub databases: BTreeMap<String, DatabaseRecord>,
    pub operations: BTreeMap<OperationId, OperationRecord>,
    pub events: VecDeque<Event>,
    pub audit: VecDeque<AuditEntry>,
    /// The next instance, operation and epoch; never used twice.
    pub next_id: u64,
    /// Rises when the control group was made anew from what a lost majority left. States
    /// are compared by it first, then by their index.
    #[serde(default = "first_generation")]
    pub generation: u64,
}

impl Default for State {
    fn default() -> Self {
        let want = |want| RoleRecord { want, owners: BTreeMap::new() };
        Self {
            format: FORMAT,
            index: 0,
            cluster: ClusterRecord::default(),
            nodes: BTreeMap::new(),
            removed: BTreeMap::new(),
            roles: BTreeMap::from([
                (Role::Control, want(3)),
                (Role::Dns, want(2)),
                (Role::Lb, want(2)),
                (Role::Web, want(0)),
                (Role::Db, want(0)),
            ]),
            apps: BTreeMap::new(),
            instances: BTreeMap::new(),
            databases: BTreeMap::new(),
            operations: BTreeMap::new(),
            events: VecDeque::new(),
            audit: VecDeque::new(),
            next_id: 1,
            generation: first_generation(),
        }
    }
}

/// One changed record: put, or deleted where it is an `Option` that is `None`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Update {
    Cluster(ClusterRecord),
    Node(NodeId, Option<Box<NodeRecord>>),
    Removed(NodeId, u64),
    Role(Role, RoleRecord),
    App(String, Option<Box<AppRecord>>),
    Instance(InstanceId, Option<Box<InstanceRecord>>),
    Database(String, Option<Box<DatabaseRecord>>),
    Operation(OperationId, Option<Box<OperationRecord>>),
    Event(Event),
    Audit(AuditEntry),
    NextId(u64),
    Generation(u64),
}

/// All that one entry of the log changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Delta {
    /// The index of the state before: there is none between that was missed.
    pub previous: u64,
    pub index: u64,
    pub updates: Vec<Update>,
}

fn put_or_delete<K: Ord, V>(table: &mut BTreeMap<K, V>, key: K, record: Option<Box<V>>) {
    match record {
        Some(record) => {
            table.insert(key, *record);
        }
        None => {
            table.remove(&key);
        }
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T) {
    queue.push_back(item);
    while queue.len() > MAX_EVENTS {
        queue.pop_front();
    }
}

impl State {
    /// Changes one record. Trimming is part of it, so that a follower that
    /// replays the updates ends with the same state.
    pub fn put(&mut self, update: Update) {
        match update {
            Update::Cluster(record) => self.cluster = record,
            Update::Node(id, record) => put_or_delete(&mut self.nodes, id, record),
            Update::Removed(id, index) => {
                self.removed.insert(id, index);
                while self.removed.len() > MAX_REMOVED {
                    let oldest = self.removed.iter().min_by_key(|(_, index)| **index);
                    let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
                    self.removed.remove(&oldest);
                }
            }
            Update::Role(role, record) => {
                self.roles.insert(role, record);
            }
            Update::App(name, record) => put_or_delete(&mut self.apps, name, record),
            Update::Instance(id, record) => put_or_delete(&mut self.instances, id, record),
            Update::Database(name, record) => put_or_delete(&mut self.databases, name, record),
            Update::Operation(id, record) => put_or_delete(&mut self.operations, id, record),
            Update::Event(event) => push_bounded(&mut self.events, event),
            Update::Audit(entry) => push_bounded(&mut self.audit, entry),
            Update::NextId(next) => self.next_id = next,
            Update::Generation(generation) => self.generation = generation,
        }
    }

    /// Applies what one entry changed.
    ///
    /// # Errors
    /// The delta's index when it does not follow the state: the follower has lost
    /// its place and must take the whole state.
    pub fn follow(&mut self, delta: Delta) -> Result<(), u64> {
        if delta.previous != self.index {
            return Err(delta.index);
        }
        for update in delta.updates {
            self.put(update);
        }
        self.index = delta.index;
        Ok(())
    }

    /// Whether this state replaces another one, which may be of a history that is over.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        (self.generation, self.index) > (other.generation, other.index)
    }

    pub fn node_named(&self, name: &str) -> Option<&NodeRecord> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The name of a node, or its id once it was removed.
    pub fn node_name(&self, id: NodeId) -> String {
        self.nodes.get(&id).map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    /// Every data center that has a node, in the order in which they came.
    pub fn data_centers(&self) -> Vec<String> {
        let mut nodes: Vec<&NodeRecord> = self.nodes.values().collect();
        nodes.sort_by_key(|node| (node.joined, node.id));
        let mut seen = BTreeSet::new();
        nodes.iter().filter(|node| seen.insert(&node.dc)).map(|node| node.dc.clone()).collect()
    }

    pub fn role(&self, role: Role) -> RoleRecord {
        self.roles.get(&role).cloned().unwrap_or_default()
    }

    pub fn owns(&self, node: NodeId, role: Role) -> bool {
        self.roles.get(&role).is_some_and(|record| record.owners.contains_key(&node))
    }

    pub fn pin(&self, node: NodeId, role: Role) -> Option<Pin> {
        self.nodes.get(&node).and_then(|record| record.pins.get(&role).copied())
    }

    /// Refuses a domain that another app has.
    ///
    /// # Errors
    /// Says which app that is.
    pub fn refuse_taken_domain(&self, app: &str, domain: &str) -> Result<(), Failure> {
        match self.apps.values().find(|other| other.name != app && other.claims(domain)) {
            None => Ok(()),
            Some(other) => Err(Failure::new(
                Code::AlreadyExists,
                format!("the domain {domain} belongs to the app {}", other.name),
            )
            .next("give one of them another domain in its rung.toml")),
        }
    }

    pub fn instances_of<'a>(&'a self, app: &'a str) -> impl Iterator<Item = &'a InstanceRecord> {
        self.instances.values().filter(move |instance| instance.app == app)
    }
}

//! All groups of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use openraft::errors::{InitializeError, RaftError};
use openraft::impls::EmptyNode;
use openraft::storage::RaftLogStorage;
use openraft::{Raft, RaftMetrics};
use rung_proto::encoding;
use rung_proto::{Generation, GroupId, NodeId};
use rung_wal::Wal;
use rung_wal::disk::Disk;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore, watch};

use crate::config::GroupConfig;
use crate::error::{OpenError, Refusal};
use crate::group::{Group, GroupInner};
use crate::log::{GroupLog, drop_log, is_without_replica};
use crate::message::{SnapshotHeader, decode_request};
use crate::network::{ByteStream, Network};
use crate::peer::{Peers, stream_answer};
use crate::raft_types::Types;
use crate::receive;
use crate::replica::{InUse, Replica, Unused};
use crate::report::{keep_beating, status_of, watch_group};
use crate::returning::{Return, Returning};
use crate::snapshot_store::SnapshotStore;
use crate::state_machine::StateMachine;
use crate::turns::keep_turns;

/// How many snapshots a node writes, and receives, at once.
const SNAPSHOTS_AT_ONCE: usize = 2;
/// How long the protocol may take to report for the first time.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// What the groups of a node share.
pub struct ConsensusConfig {
    /// This node.
    pub node: NodeId,
    /// Messages of another generation are refused, until [`Consensus::set_generation`].
    pub generation: Generation,
    /// Snapshots are kept in `<dir>/<group>/`.
    pub dir: PathBuf,
    /// The disk under `dir`.
    pub disk: Arc<dyn Disk>,
    /// The log of all groups.
    pub wal: Wal,
    /// How messages reach the other nodes.
    pub network: Arc<dyn Network>,
}

/// All groups of one node. Clones are the same node.
#[derive(Clone)]
pub struct Consensus(Arc<Inner>);

struct Inner {
    config: ConsensusConfig,
    generation: Arc<AtomicU64>,
    groups: Mutex<BTreeMap<GroupId, Slot>>,
    writers: Arc<Semaphore>,
    receivers: Semaphore,
}

enum Slot {
    /// Being opened or removed.
    Busy,
    Open(Group),
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Consensus({})", self.0.config.node)
    }
}

/// Frees a group's place unless the group took it.
struct Claim<'a> {
    inner: &'a Inner,
    group: GroupId,
    taken: bool,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.taken {
            self.inner.groups().remove(&self.group);
        }
    }
}

impl Inner {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<GroupId, Slot>> {
        self.groups.lock().expect("the lock is held for look-ups only")
    }

    fn claim(&self, group: GroupId) -> Option<Claim<'_>> {
        let mut groups = self.groups();
        if groups.contains_key(&group) {
            return None;
        }
        groups.insert(group, Slot::Busy);
        Some(Claim { inner: self, group, taken: false })
    }
}

impl Consensus {
    /// A node without open groups.
    pub fn start(config: ConsensusConfig) -> Self {
        Self(Arc::new(Inner {
            generation: Arc::new(AtomicU64::new(config.generation.0)),
            config,
            groups: Mutex::default(),
            writers: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
            receivers: Semaphore::new(SNAPSHOTS_AT_ONCE),
        }))
    }

    /// Opens a group and, if it has no log yet, makes `voters` its first voters.
    /// This node must be one of them.
    ///
    /// To be called on each of them, with the same voters, when a group is made:
    /// the group exists once a majority of these calls has returned, and works
    /// whichever of its voters are lost then, if a majority is left. Called on one
    /// of them alone, while the others only open the group, it exists once this one
    /// has told them. Calling it again does no harm, nor does it on a node that has
    /// dropped the group, which receives it as a learner. The id of a group that
    /// was deleted everywhere must not be used for another one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn create<S: StateMachine>(
        &self,
        config: GroupConfig,
        state_machine: S,
        voters: &BTreeSet<NodeId>,
    ) -> Result<Group, OpenError> {
        let group = self.open(config, state_machine).await?;
        match self.initialize(&group, voters).await {
            Ok(()) => Ok(group),
            Err(what) => {
                self.close(group.id()).await;
                Err(OpenError::Failed { group: group.id(), what })
            }
        }
    }

    pub(crate) async fn initialize(
        &self,
        group: &Group,
        voters: &BTreeSet<NodeId>,
    ) -> Result<(), String> {
        if group.0.returning.is_true() {
            return Ok(());
        }
        let members: BTreeMap<u64, EmptyNode> =
            voters.iter().map(|id| (id.0, EmptyNode {})).collect();
        match group.0.raft.initialize(members).await {
            // It has a log, so it was made before.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Opens a group that has a log here, or that this node shall receive as a
    /// learner.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open<S: StateMachine>(
        &self,
        config: GroupConfig,
        state_machine: S,
    ) -> Result<Group, OpenError> {
        self.open_with(config, Box::new(state_machine), |log| log).await
    }

    /// `wrap` exists so that a test can put a faulty log in the place of ours.
    pub(crate) async fn open_with<L: RaftLogStorage<Types>>(
        &self,
        config: GroupConfig,
        state_machine: Box<dyn StateMachine>,
        wrap: impl FnOnce(GroupLog) -> L,
    ) -> Result<Group, OpenError> {
        let id = config.group;
        let raft_config = config.to_raft().map_err(|what| OpenError::Config { group: id, what })?;
        let mut claim = self.0.claim(id).ok_or(OpenError::AlreadyOpen(id))?;
        let shared = &self.0.config;
        let failed = |error: io::Error| open_error(id, &error);
        let log =
            GroupLog::open(shared.wal.clone(), id, config.append_bytes).await.map_err(failed)?;
        let store =
            SnapshotStore::open(Arc::clone(&shared.disk), self.dir(id), id).map_err(failed)?;
        let snapshot_due = Arc::new(Notify::new());
        let in_use = InUse::default();
        let machine_in_use = Arc::downgrade(&in_use.machine);
        let landing = state_machine.landing();
        let unused = (Unused::of(&in_use.machine), Unused::of(&in_use.files));
        let replica = Replica::new(
            state_machine,
            log.clone(),
            store.clone(),
            config.snapshot_bytes,
            Arc::clone(&snapshot_due),
            Arc::clone(&self.0.writers),
            in_use,
        )
        .map_err(failed)?;
        let runs = replica.runs();
        let peers = Peers {
            network: Arc::clone(&shared.network),
            generation: Arc::clone(&self.0.generation),
            group: id,
            window: config.append_window,
            append_deadline: 4 * config.election_max(),
        };
        let raft = Raft::new(
            shared.node.0,
            Arc::new(raft_config),
            peers.clone(),
            wrap(log.clone()),
            replica,
        );
        let raft = raft.await.map_err(|fatal| match log.damage() {
            Some(what) => OpenError::Damaged { group: id, what },
            None => OpenError::Failed { group: id, what: fatal.to_string() },
        })?;
        runs.store(true, Ordering::Release);
        let failed = |what: String| OpenError::Failed { group: id, what };
        // The first report follows this answer closely.
        let membership =
            raft.with_raft_state(|state| state.membership_state.effective().membership().clone());
        let membership = membership.await.map_err(|error| failed(error.to_string()))?;
        let returning = Returning::new(log.was_dropped());
        let may_campaign = !returning.is_true();
        raft.runtime_config().elect(may_campaign);
        let reports = |metrics: &RaftMetrics<Types>| {
            *metrics.membership_config.membership() == membership || metrics.running_state.is_err()
        };
        let reported = raft.wait(Some(FIRST_REPORT)).metrics(reports, "the first report").await;
        let now = status_of(&reported.map_err(|error| failed(error.to_string()))?);
        let (sender, status) = watch::channel(now);
        let returns = Return::new(log.clone(), returning.clone());
        tokio::spawn(keep_beating(raft.clone(), status.clone(), config.heartbeat));
        let (me, longest) = (shared.node, config.election_max());
        tokio::spawn(keep_turns(raft.clone(), status.clone(), returning.clone(), me, longest));
        tokio::spawn(watch_group(raft.clone(), returns, sender, snapshot_due));
        if may_campaign && membership.voter_ids().eq([shared.node.0]) {
            // Nobody else could lead, so there is nothing to wait for.
            raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()))?;
        }
        let group = Group(Arc::new(GroupInner {
            node: shared.node,
            waiting: Semaphore::new(config.max_waiting),
            waiting_bytes: Semaphore::new(config.max_waiting_bytes),
            config,
            raft,
            peers,
            log,
            store,
            status,
            returning,
            heard: Mutex::default(),
            landing,
            machine_in_use,
            machine_unused: unused.0,
            files_unused: unused.1,
        }));
        claim.taken = true;
        self.0.groups().insert(id, Slot::Open(group.clone()));
        Ok(group)
    }

    pub(crate) fn wal(&self) -> &Wal {
        &self.0.config.wal
    }

    pub(crate) fn node(&self) -> NodeId {
        self.0.config.node
    }

    fn dir(&self, group: GroupId) -> PathBuf {
        self.0.config.dir.join(group.to_string())
    }

    /// The group, if it is open here.
    pub fn group(&self, id: GroupId) -> Option<Group> {
        match self.0.groups().get(&id) {
            Some(Slot::Open(group)) => Some(group.clone()),
            _ => None,
        }
    }

    /// All groups that are open here.
    pub fn groups(&self) -> Vec<Group> {
        let groups = self.0.groups();
        groups
            .values()
            .filter_map(|slot| match slot {
                Slot::Open(group) => Some(group.clone()),
                Slot::Busy => None,
            })
            .collect()
    }

    /// Stops a group on this node; its log stays. Its state machine is not used any
    /// more when this returns whether the group was open.
    pub async fn close(&self, id: GroupId) -> bool {
        let Some(group) = self.group(id) else { return false };
        self.close_group(&group).await;
        true
    }

    async fn close_group(&self, group: &Group) {
        if let Err(error) = group.0.raft.shutdown().await {
            tracing::warn!(group = %group.id(), %error, "a group ended with a panic");
        }
        group.0.machine_unused.clone().wait().await;
        self.0.groups().remove(&group.id());
    }

    /// Stops a group on this node and deletes its log and its snapshots, also
    /// when it is damaged. The node must no longer be one of the group's voters,
    /// and that must be committed. What stays is a mark of some 50 bytes, by which
    /// a replica that is opened here again knows that it has forgotten something:
    /// it takes no part in elections before a leader has brought it up to date.
    ///
    /// # Errors
    /// When the disk or the log fails.
    pub async fn remove(&self, id: GroupId) -> Result<(), OpenError> {
        if let Some(group) = self.group(id) {
            self.close_group(&group).await;
            // A snapshot that is being written would appear after the others are gone.
            group.0.files_unused.clone().wait().await;
        }
        let _claim = self.0.claim(id).ok_or(OpenError::AlreadyOpen(id))?;
        let failed = |what: String| OpenError::Failed { group: id, what };
        let dropped = drop_log(&self.0.config.wal, id).await;
        dropped.map_err(|error| failed(error.to_string()))?;
        let store = SnapshotStore::open(Arc::clone(&self.0.config.disk), self.dir(id), id);
        store.and_then(|store| store.remove_all()).map_err(|error| failed(error.to_string()))
    }

    /// Whether there is something of the group on this node's disk that is worth
    /// opening, other than the mark that [`Consensus::remove`] leaves.
    pub fn has_replica(&self, id: GroupId) -> bool {
        !is_without_replica(&self.0.config.wal.state(id))
    }

    /// Stops all groups.
    pub async fn shutdown(&self) {
        let ids: Vec<GroupId> = self.groups().iter().map(Group::id).collect();
        for id in ids {
            self.close(id).await;
        }
    }

    /// Works on a message that [`Network::call`] of `from` sent; the answer goes
    /// back. To keep the order of messages, call this in the order of their
    /// arrival and await the results elsewhere: what needs the order happens
    /// before this returns.
    pub fn handle(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, Refusal>> {
        let mut work = match self.route(from, body) {
            Ok(work) => work,
            Err(refusal) => return ready(Err(refusal)).boxed(),
        };
        match (&mut work).now_or_never() {
            Some(answer) => ready(answer).boxed(),
            None => work,
        }
    }

    fn route(
        &self,
        from: NodeId,
        body: Bytes,
    ) -> Result<BoxFuture<'static, Result<Bytes, Refusal>>, Refusal> {
        let (header, entries) =
            decode_request(body).map_err(|error| Refusal::Malformed(error.to_string()))?;
        self.check_generation(header.generation)?;
        let group = self.group(header.group).ok_or(Refusal::UnknownGroup(header.group))?;
        Ok(async move {
            let answer = group.answer(from, header.request, entries).await?;
            Ok(Bytes::from(encoding::encode(&answer)))
        }
        .boxed())
    }

    /// From now on this node is in another generation of the cluster: messages of any
    /// other one are refused, and by those who are in another one.
    pub fn set_generation(&self, generation: Generation) {
        self.0.generation.store(generation.0, Ordering::Release);
    }

    fn check_generation(&self, generation: Generation) -> Result<(), Refusal> {
        let current = Generation(self.0.generation.load(Ordering::Acquire));
        if generation == current { Ok(()) } else { Err(Refusal::Generation) }
    }

    /// Receives a snapshot on a stream that [`Network::open_stream`] of `from`
    /// opened, and answers on it.
    ///
    /// # Errors
    /// Why the snapshot was not taken; the stream is then dropped.
    pub async fn serve_stream(
        &self,
        from: NodeId,
        header: Bytes,
        mut stream: ByteStream,
    ) -> Result<(), Refusal> {
        let header: SnapshotHeader =
            encoding::decode(&header).map_err(|error| Refusal::Malformed(error.to_string()))?;
        self.check_generation(header.generation)?;
        if header.ballot.node != from {
            return Err(Refusal::Impersonation);
        }
        let group = self.group(header.group).ok_or(Refusal::UnknownGroup(header.group))?;
        let _permit = self
            .0
            .receivers
            .try_acquire()
            .map_err(|_| Refusal::Snapshot(format!("{SNAPSHOTS_AT_ONCE} others arrive now")))?;
        let answer = receive::snapshot(&group, &header, &mut stream).await;
        let answer = stream_answer(&answer?);
        let answered = async {
            stream.send.write_all(&answer).await?;
            stream.send.shutdown().await
        };
        answered.await.map_err(|error| Refusal::Snapshot(error.to_string()))
    }
}

pub(crate) fn open_error(group: GroupId, error: &io::Error) -> OpenError {
    let what = error.to_string();
    match error.kind() {
        io::ErrorKind::InvalidData => OpenError::Damaged { group, what },
        _ => OpenError::Failed { group, what },
    }
}

#[cfg(test)]
mod tests;

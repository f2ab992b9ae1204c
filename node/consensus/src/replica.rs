//! Applies the log to a state machine and makes its snapshots.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, Snapshot};
use tokio::sync::{Notify, Semaphore, watch};

use crate::entry;
use crate::log::GroupLog;
use crate::memberships::Memberships;
use crate::raft_types::{
    Payload, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, Types, log_id,
};
use crate::sending::{Sending, Sends};
use crate::snapshot_format::{SnapshotEncoder, SnapshotHeader};
use crate::snapshot_store::{SnapshotFile, SnapshotStore, blocking};
use crate::state_machine::{Committed, Landed, OwnCopy, SnapshotSource, StateMachine};

pub(crate) type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotData>;

/// What a snapshot consists of.
pub(crate) enum SnapshotData {
    /// It was written, or received.
    File(SnapshotFile),
    /// A state machine that keeps its state by itself is read while it is sent.
    Live(Box<LiveSnapshot>),
    /// It was received, and lies beside the state of a state machine that keeps it by
    /// itself.
    Landed(LandedState),
    /// Only its position counts: the log can be purged up to it.
    Nothing,
}

/// A state that is read while it is sent.
pub(crate) struct LiveSnapshot {
    pub(crate) encoder: SnapshotEncoder,
    /// To be kept until the receiver has taken it over.
    pub(crate) sending: Sending,
}

/// A state that has landed. The state machine must not be opened again before it is gone.
pub(crate) struct LandedState {
    pub(crate) landed: Landed,
    pub(crate) machine: Arc<watch::Sender<()>>,
}

/// At most so many entries are given to the state machine at once.
const BATCH_ENTRIES: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// A state machine under the log, with its snapshots.
pub(crate) struct Replica {
    /// Never locked: the mutex only makes the replica shareable by reference.
    machine: Mutex<Box<dyn StateMachine>>,
    log: GroupLog,
    store: SnapshotStore,
    last: Option<RaftLogId>,
    memberships: Memberships,
    /// The durable position of an own copy that the protocol was told last.
    reported: Option<RaftLogId>,
    /// Set when the protocol runs. Before that it asks for a snapshot only to learn
    /// up to where the log may be purged.
    runs: Arc<AtomicBool>,
    bytes_since_snapshot: u64,
    snapshot_bytes: u64,
    sends: Sends,
    /// Rung when `snapshot_bytes` were applied since the last snapshot.
    snapshot_due: Arc<Notify>,
    /// How many snapshots may be written on this node at once.
    writers: Arc<Semaphore>,
    in_use: InUse,
}

/// Kept by those who use a replica's state machine, or its files, in tasks of the
/// protocol that may outlive the group for a moment.
#[derive(Default)]
pub(crate) struct InUse {
    pub(crate) machine: Arc<watch::Sender<()>>,
    pub(crate) files: Arc<watch::Sender<()>>,
}

/// Ends once nobody keeps the other end any more.
#[derive(Clone)]
pub(crate) struct Unused(watch::Receiver<()>);

impl Unused {
    pub(crate) fn of(used: &Arc<watch::Sender<()>>) -> Self {
        Self(used.subscribe())
    }

    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        while self.0.changed().await.is_ok() {}
    }
}

#[derive(Default)]
struct Batch {
    entries: Vec<Committed>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    bytes: usize,
}

impl Replica {
    pub(crate) fn new(
        machine: Box<dyn StateMachine>,
        log: GroupLog,
        store: SnapshotStore,
        snapshot_bytes: u64,
        snapshot_due: Arc<Notify>,
        writers: Arc<Semaphore>,
        in_use: InUse,
    ) -> io::Result<Self> {
        let own = machine.own_copy();
        let last = own.and_then(|own| own.durable).map(log_id);
        // What was applied beyond a durable position may not have been, so its
        // membership counts only together with one.
        let mut membership = if last.is_some() {
            log.applied_membership()?
        } else {
            RaftStoredMembership::default()
        };
        if own.is_some()
            && let Some((meta, _)) = store.newest()?
        {
            let is_taken_over = meta.last_log_id <= last;
            // A crash came before that was noted.
            if is_taken_over && meta.last_membership.log_id() > membership.log_id() {
                membership = meta.last_membership;
            }
            // Of one that has landed nothing is left.
            if is_taken_over || machine.landing().is_some() {
                store.remove_all()?;
            }
        }
        Ok(Self {
            machine: Mutex::new(machine),
            log,
            store,
            last,
            memberships: Memberships::new(membership),
            reported: None,
            runs: Arc::default(),
            bytes_since_snapshot: 0,
            snapshot_bytes,
            sends: Sends::default(),
            snapshot_due,
            writers,
            in_use,
        })
    }

    fn apply_batch(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let entries = mem::take(&mut batch.entries);
        let responders = mem::take(&mut batch.responders);
        self.bytes_since_snapshot += batch.bytes as u64;
        self.sends.applied(batch.bytes as u64);
        batch.bytes = 0;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let answers = if machine.waits_for_disk(&entries) {
            blocking(|| machine.apply(&entries))?
        } else {
            machine.apply(&entries)?
        };
        if answers.len() != entries.len() {
            return Err(io::Error::other(format!(
                "the state machine gave {} answers for {} entries",
                answers.len(),
                entries.len()
            )));
        }
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(Payload(answer));
            }
        }
        Ok(())
    }

    /// To be set when the protocol runs.
    pub(crate) fn runs(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.runs)
    }

    fn own_copy(&mut self) -> Option<OwnCopy> {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).own_copy()
    }

    fn restore(&mut self, snapshot: SnapshotFile) -> io::Result<()> {
        let snapshot = self.store.publish(snapshot)?;
        let (_, mut content) = snapshot.reader()?;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        blocking(|| {
            machine.restore(&mut content)?;
            content.verify_rest()
        })
        .map_err(|error| {
            let what = format!("{}: {error}", snapshot.path().display());
            self.log.note(io::Error::new(error.kind(), what))
        })
    }

    fn take_over(&mut self, meta: &RaftSnapshotMeta, state: LandedState) -> io::Result<()> {
        let LandedState { landed, machine: _machine } = state;
        // Should a crash come before the membership is noted, it is found here.
        self.store.write(meta, Box::new(io::empty()))?;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        blocking(|| machine.take_over(landed)).map_err(|error| self.log.note(error))
    }

    /// A snapshot of an own copy at an entry.
    fn own_snapshot(&self, at: Option<RaftLogId>, data: SnapshotData) -> RaftSnapshot {
        let membership = at.as_ref().and_then(|at| self.memberships.at(at));
        // One that is newer than the state is no harm to whoever needs a position only.
        let last_membership = membership.unwrap_or(self.memberships.newest()).clone();
        Snapshot { meta: RaftSnapshotMeta { last_log_id: at, last_membership }, snapshot: data }
    }

    /// What is sent to a replica that needs more than the log has.
    fn live_snapshot(&mut self, own: OwnCopy) -> io::Result<Option<RaftSnapshot>> {
        let nothing = self.own_snapshot(own.durable.map(log_id), SnapshotData::Nothing);
        let Some(current) = own.current.map(log_id).filter(|_| self.runs.load(Ordering::Acquire))
        else {
            return Ok(own.durable.map(|_| nothing));
        };
        let Some(membership) = self.memberships.at(&current).cloned() else {
            // After a start, until an entry follows the newest membership.
            return Ok(Some(nothing));
        };
        let meta = RaftSnapshotMeta { last_log_id: Some(current), last_membership: membership };
        let header = SnapshotHeader::new(self.store.group(), &meta);
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let source = blocking(|| machine.snapshot())?;
        let encoder = SnapshotEncoder::new(&header, source);
        let live = LiveSnapshot { encoder, sending: self.sends.begin(current) };
        let data = SnapshotData::Live(Box::new(live));
        Ok(Some(Snapshot { meta, snapshot: data }))
    }

    /// Up to where the log need not be kept.
    fn purgeable(&self, own: OwnCopy) -> Option<RaftLogId> {
        self.sends.limit(own.durable.map(log_id))
    }

    /// Writes no file: tells the protocol what is durable, so that it purges the log.
    fn purge_builder(&mut self, own: OwnCopy, force: bool) -> Option<SnapshotWriter> {
        let durable = self.purgeable(own);
        let known = durable.as_ref().is_some_and(|durable| self.memberships.at(durable).is_some());
        let is_news = known && durable > self.reported;
        if !force && !is_news {
            return None;
        }
        if let Some(durable) = &durable {
            self.reported = Some(*durable);
            self.memberships.forget_before(durable);
        }
        let RaftSnapshot { meta, .. } = self.own_snapshot(durable, SnapshotData::Nothing);
        Some(self.builder(meta, None))
    }

    fn builder(
        &self,
        meta: RaftSnapshotMeta,
        source: Option<io::Result<SnapshotSource>>,
    ) -> SnapshotWriter {
        SnapshotWriter {
            source: Mutex::new(source),
            meta,
            store: self.store.clone(),
            writers: Arc::clone(&self.writers),
            _files: Arc::clone(&self.in_use.files),
        }
    }

    fn ask_for_snapshot(&mut self) {
        if let Some(own) = self.own_copy() {
            if self.purgeable(own) > self.reported {
                self.snapshot_due.notify_one();
            }
            return;
        }
        if self.bytes_since_snapshot >= self.snapshot_bytes {
            self.bytes_since_snapshot = 0;
            self.snapshot_due.notify_one();
        }
    }

    async fn apply_all<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::default();
        while let Some(item) = entries.next().await {
            let (item, responder) = item?;
            match item.payload {
                EntryPayload::Normal(payload) => {
                    let payload = entry::proposed(&payload);
                    batch.bytes += payload.len();
                    batch.entries.push(Committed {
                        index: item.log_id.index,
                        term: item.log_id.leader_id.term,
                        payload,
                    });
                    batch.responders.push(responder);
                }
                EntryPayload::Blank => {
                    self.apply_batch(&mut batch)?;
                    if let Some(responder) = responder {
                        responder.send(Payload::default());
                    }
                }
                EntryPayload::Membership(membership) => {
                    self.apply_batch(&mut batch)?;
                    let membership = RaftStoredMembership::new(Some(item.log_id), membership);
                    self.memberships.apply(membership);
                    if self.own_copy().is_none() {
                        self.memberships.forget_before(&item.log_id);
                    }
                    self.log.set_applied_membership(self.memberships.newest()).await?;
                    if let Some(responder) = responder {
                        responder.send(Payload::default());
                    }
                }
            }
            self.last = Some(item.log_id);
            if batch.entries.len() >= BATCH_ENTRIES || batch.bytes >= BATCH_BYTES {
                self.apply_batch(&mut batch)?;
                tokio::task::consume_budget().await;
            }
        }
        self.apply_batch(&mut batch)
    }
}

impl RaftStateMachine<Types> for Replica {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotWriter;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        Ok((self.last, self.memberships.newest().clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        self.apply_all(entries).await?;
        self.ask_for_snapshot();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotWriter> {
        match self.own_copy() {
            Some(own) => self.purge_builder(own, force),
            None => Some(self.get_snapshot_builder().await),
        }
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotWriter {
        self.bytes_since_snapshot = 0;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let source = blocking(|| machine.snapshot());
        let meta = RaftSnapshotMeta {
            last_log_id: self.last,
            last_membership: self.memberships.newest().clone(),
        };
        self.builder(meta, Some(source))
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        match snapshot {
            SnapshotData::File(file) => self.restore(file)?,
            SnapshotData::Landed(state) => self.take_over(meta, state)?,
            SnapshotData::Live(_) | SnapshotData::Nothing => {
                return Err(io::Error::other("a snapshot without its content"));
            }
        }
        self.last = meta.last_log_id;
        self.memberships = Memberships::new(meta.last_membership.clone());
        self.bytes_since_snapshot = 0;
        self.log.set_applied_membership(self.memberships.newest()).await?;
        if let Some(own) = self.own_copy() {
            if own.durable.map(log_id) < self.last {
                return Err(io::Error::other("the state machine did not keep the snapshot"));
            }
            // It has it all, so a copy of the copy would only take room.
            self.store.remove_all()?;
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let newest = self.store.newest().map_err(|error| self.log.note(error))?;
        match (self.own_copy(), newest) {
            // One that a crash kept from being taken over.
            (Some(_), Some((meta, file))) if meta.last_log_id > self.last => {
                Ok(Some(Snapshot { meta, snapshot: SnapshotData::File(file) }))
            }
            (Some(own), _) => self.live_snapshot(own),
            (None, newest) => {
                Ok(newest.map(|(meta, file)| Snapshot { meta, snapshot: SnapshotData::File(file) }))
            }
        }
    }
}

/// Writes one snapshot while the log goes on.
pub(crate) struct SnapshotWriter {
    /// Never locked, like the state machine. Nothing for an own copy.
    source: Mutex<Option<io::Result<SnapshotSource>>>,
    meta: RaftSnapshotMeta,
    store: SnapshotStore,
    writers: Arc<Semaphore>,
    _files: Arc<watch::Sender<()>>,
}

impl RaftSnapshotBuilder<Types> for SnapshotWriter {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let source = self.source.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = source.take() else {
            return Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Nothing });
        };
        let _permit = self.writers.acquire().await.map_err(io::Error::other)?;
        match self.store.write(&self.meta, source?) {
            Ok(file) => {
                Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::File(file) })
            }
            // The log still has everything; the next attempt comes with more entries.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no space left for a snapshot");
                let meta = RaftSnapshotMeta::default();
                Ok(Snapshot { meta, snapshot: SnapshotData::Nothing })
            }
            Err(error) => Err(error),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the answer of a proposal was.
pub(crate) fn answer(payload: Payload) -> Bytes {
    payload.0
}

//! Applies the log to a state machine and makes its snapshots.

use std::io;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, Snapshot};
use tokio::sync::{Notify, Semaphore};

use crate::entry;
use crate::log::GroupLog;
use crate::raft_types::{
    Payload, RaftLogId, RaftSnapshotMeta, RaftStoredMembership, Types, log_id,
};
use crate::snapshot_store::{SnapshotFile, SnapshotStore, blocking};
use crate::state_machine::{Committed, SnapshotSource, StateMachine};

pub(crate) type RaftSnapshot =
    openraft::type_config::alias::SnapshotOf<Types, Option<SnapshotFile>>;

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
    membership: RaftStoredMembership,
    bytes_since_snapshot: u64,
    snapshot_bytes: u64,
    /// Rung when `snapshot_bytes` were applied since the last snapshot.
    snapshot_due: Arc<Notify>,
    /// How many snapshots may be written on this node at once.
    writers: Arc<Semaphore>,
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
    ) -> io::Result<Self> {
        let last = machine.durable().map(log_id);
        // What was applied beyond a durable position may not have been, so its
        // membership counts only together with one.
        let membership = if last.is_some() {
            log.applied_membership()?
        } else {
            RaftStoredMembership::default()
        };
        Ok(Self {
            machine: Mutex::new(machine),
            log,
            store,
            last,
            membership,
            bytes_since_snapshot: 0,
            snapshot_bytes,
            snapshot_due,
            writers,
        })
    }

    fn apply_batch(&mut self, batch: &mut Batch) -> io::Result<()> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let entries = mem::take(&mut batch.entries);
        let responders = mem::take(&mut batch.responders);
        self.bytes_since_snapshot += batch.bytes as u64;
        batch.bytes = 0;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let answers = if machine.waits_for_disk() {
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

    fn ask_for_snapshot(&mut self) {
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
                    self.membership = RaftStoredMembership::new(Some(item.log_id), membership);
                    self.log.set_applied_membership(&self.membership).await?;
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
    type SnapshotData = Option<SnapshotFile>;
    type SnapshotBuilder = SnapshotWriter;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        self.apply_all(entries).await?;
        self.ask_for_snapshot();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotWriter {
        self.bytes_since_snapshot = 0;
        let machine = self.machine.get_mut().unwrap_or_else(PoisonError::into_inner);
        SnapshotWriter {
            source: Mutex::new(Some(blocking(|| machine.snapshot()))),
            meta: RaftSnapshotMeta {
                last_log_id: self.last,
                last_membership: self.membership.clone(),
            },
            store: self.store.clone(),
            writers: Arc::clone(&self.writers),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &RaftSnapshotMeta,
        snapshot: Option<SnapshotFile>,
    ) -> io::Result<()> {
        let snapshot = snapshot.ok_or_else(|| io::Error::other("a snapshot without a file"))?;
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
        })?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.bytes_since_snapshot = 0;
        self.log.set_applied_membership(&self.membership).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let newest = self.store.newest().map_err(|error| self.log.note(error))?;
        Ok(newest.map(|(meta, file)| Snapshot { meta, snapshot: Some(file) }))
    }
}

/// Writes one snapshot while the log goes on.
pub(crate) struct SnapshotWriter {
    /// Never locked, like the state machine.
    source: Mutex<Option<io::Result<SnapshotSource>>>,
    meta: RaftSnapshotMeta,
    store: SnapshotStore,
    writers: Arc<Semaphore>,
}

impl RaftSnapshotBuilder<Types> for SnapshotWriter {
    type SnapshotData = Option<SnapshotFile>;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let source = self.source.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = source.take() else {
            return Err(io::Error::other("a snapshot can be written only once"));
        };
        let _permit = self.writers.acquire().await.map_err(io::Error::other)?;
        match self.store.write(&self.meta, source?) {
            Ok(file) => Ok(Snapshot { meta: self.meta.clone(), snapshot: Some(file) }),
            // The log still has everything; the next attempt comes with more entries.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no space left for a snapshot");
                Ok(Snapshot { meta: RaftSnapshotMeta::default(), snapshot: None })
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

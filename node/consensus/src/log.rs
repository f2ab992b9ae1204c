//! A group's log in the node's write-ahead log.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use rung_proto::{GroupId, NodeId, encoding};
use rung_wal::{GroupState, LogEntry, ReadError, Wal, WalError, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry;
use crate::message::Ballot;
use crate::raft_types::{
    RaftEntry, RaftLogId, RaftMembership, RaftStoredMembership, RaftVote, Types, log_id, position,
};
use crate::status::Position;

/// Keys of the small values that a group keeps in the log.
mod key {
    pub const VOTE: u8 = 1;
    pub const COMMITTED: u8 = 2;
    pub const PURGED: u8 = 3;
    pub const MEMBERSHIP: u8 = 4;
    /// Whether the replica has yet to return; see `returning`.
    pub const RETURNING: u8 = 5;
}

/// What is asked of the log by one call when nobody limits it.
const READ_BYTES: usize = 4 << 20;
/// How many bytes of entries one write has, unless a single entry has more. A
/// segment of the log must have room for several of these.
const WRITE_BYTES: usize = 4 << 20;
/// How long a group waits when too much waits to be written.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Where a membership was applied, and its voters and learners.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct AppliedMembership {
    at: Option<Position>,
    membership: entry::MembershipForm,
}

/// What is known in memory; the log holds the same or will after its next write.
#[derive(Debug)]
struct Known {
    vote: Option<RaftVote>,
    committed: Option<RaftLogId>,
    committed_is_written: bool,
    purged: Option<RaftLogId>,
}

struct Inner {
    wal: Wal,
    group: GroupId,
    append_bytes: usize,
    known: Mutex<Known>,
    damage: OnceLock<String>,
    was_dropped: bool,
}

/// A group's log in the node's write-ahead log. Clones share it.
#[derive(Clone)]
pub(crate) struct GroupLog(Arc<Inner>);

/// Whether nothing is known of a group but that it was here once, if it was.
pub(crate) fn is_without_replica(state: &GroupState) -> bool {
    let empty = state.last_index.is_none() && state.purged_index.is_none() && !state.corrupt;
    empty && (state.meta.is_empty() || state.meta.contains_key(&key::RETURNING))
}

/// Deletes a group's log and keeps what a replica that forgot it must not forget:
/// how it voted, and that it was here.
///
/// # Errors
/// When the log fails.
pub(crate) async fn drop_log(wal: &Wal, group: GroupId) -> Result<(), WalError> {
    let state = wal.state(group);
    let mut writes = vec![Write::DropGroup];
    if state != GroupState::default() {
        writes.push(set(key::RETURNING, &true));
        // Of a damaged log this may be an older vote, which is better than none.
        let vote = state.meta.get(&key::VOTE).cloned();
        writes.extend(vote.map(|value| Write::SetMeta { key: key::VOTE, value }));
    }
    wal.write(group, writes).await
}

/// The last entry of a group, purged or not.
pub(crate) fn last_of(state: &GroupState) -> Option<Position> {
    match (state.last_header, state.last_index) {
        (Some(term), Some(index)) => Some(Position { term, index }),
        _ => value(&state.meta, key::PURGED).ok().flatten(),
    }
}

/// Writes a log that begins behind `base`, in the place of whatever there is, with a
/// vote for `node` in `term`.
///
/// # Errors
/// When the log fails.
pub(crate) async fn begin_log(
    wal: &Wal,
    group: GroupId,
    base: Position,
    (term, node): (u64, NodeId),
    voters: &BTreeSet<NodeId>,
) -> Result<(), WalError> {
    let membership = entry::MembershipForm::of_voters(voters);
    let writes = vec![
        Write::DropGroup,
        set(key::VOTE, &Ballot { term, node, granted: false }),
        set(key::MEMBERSHIP, &AppliedMembership { at: Some(base), membership }),
        set(key::COMMITTED, &base),
        set(key::PURGED, &base),
        Write::PurgeTo { index: base.index },
    ];
    wal.write(group, writes).await
}

/// Appends a membership of `node` alone, in a later term than any that the log knows,
/// with a vote for it, and returns the entry's place.
///
/// # Errors
/// `NotFound` when there is no log; see [`GroupLog::open`] for the others.
pub(crate) async fn take_over_log(wal: &Wal, group: GroupId, node: NodeId) -> io::Result<Position> {
    let log = GroupLog::open(wal.clone(), group, 1).await?;
    let last = log.last().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("group {group} has no log here"))
    })?;
    let voted = log.known().vote.as_ref().map_or(0, |vote| Ballot::from(vote).term);
    let at = Position { term: voted.max(last.term) + 1, index: last.index + 1 };
    let alone = entry::MembershipForm::of_voters(&BTreeSet::from([node]));
    let membership = alone.into_raft().map_err(invalid)?;
    let payload = entry::to_bytes(&openraft::EntryPayload::Membership(membership));
    let entries = vec![LogEntry { index: at.index, header: at.term, payload }];
    let writes = vec![
        set(key::VOTE, &Ballot { term: at.term, node, granted: false }),
        // It decides now what the group has, complete or not.
        set(key::RETURNING, &false),
        Write::Append { entries },
    ];
    log.write(writes).await?;
    Ok(at)
}

impl GroupLog {
    /// Reads what the log knows of the group.
    ///
    /// # Errors
    /// `InvalidData` when what it holds is damaged: the replica must not vote
    /// and has to be dropped and fetched from its peers.
    pub(crate) async fn open(wal: Wal, group: GroupId, append_bytes: usize) -> io::Result<Self> {
        let state = wal.state(group);
        if state.corrupt {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the log of group {group} is damaged"),
            ));
        }
        let vote: Option<Ballot> = value(&state.meta, key::VOTE)?;
        let committed: Option<Position> = value(&state.meta, key::COMMITTED)?;
        let purged: Option<Position> = value(&state.meta, key::PURGED)?;
        // The record is written before the purge, and a crash may come between.
        match (purged.map(|purged| purged.index), state.purged_index) {
            (recorded, purged) if recorded == purged => {}
            (Some(index), purged) if Some(index) > purged => {
                let purge = wal.write(group, vec![Write::PurgeTo { index }]);
                purge.await.map_err(io::Error::other)?;
            }
            (recorded, purged) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the log of group {group} begins after {purged:?}, its record says {recorded:?}"
                    ),
                ));
            }
        }
        let known = Known {
            vote: vote.map(RaftVote::from),
            committed: committed.map(log_id),
            committed_is_written: true,
            purged: purged.map(log_id),
        };
        let (known, damage) = (Mutex::new(known), OnceLock::new());
        let was_dropped = value(&state.meta, key::RETURNING)?.unwrap_or(false);
        Ok(Self(Arc::new(Inner { wal, group, append_bytes, known, damage, was_dropped })))
    }

    /// Whether the log was dropped once, and had not returned when it was opened.
    pub(crate) fn was_dropped(&self) -> bool {
        self.0.was_dropped
    }

    /// Takes the mark of a dropped log away.
    ///
    /// # Errors
    /// When the log fails.
    pub(crate) async fn has_returned(&self) -> io::Result<()> {
        self.write(vec![set(key::RETURNING, &false)]).await
    }

    /// The last entry, purged or not.
    pub(crate) fn last(&self) -> Option<Position> {
        last_of(&self.0.wal.state(self.0.group))
    }

    /// The last entry that was noted as committed.
    pub(crate) fn committed(&self) -> Option<Position> {
        self.known().committed.as_ref().map(position)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.known.lock().expect("the lock is held for assignments only")
    }

    /// What was found damaged in the log or in a snapshot, if anything was.
    pub(crate) fn damage(&self) -> Option<String> {
        self.0.damage.get().cloned()
    }

    /// Remembers an error that is damage, because the protocol forgets its kind.
    pub(crate) fn note(&self, error: io::Error) -> io::Error {
        if error.kind() == io::ErrorKind::InvalidData {
            // The first one found is the one to report.
            let _ = self.0.damage.set(error.to_string());
        }
        error
    }

    /// Queues a write, after a pause while too much of all groups waits already.
    /// The result resolves when it is on the disk.
    async fn queue(&self, writes: Vec<Write>) -> BoxFuture<'static, Result<(), WalError>> {
        loop {
            let mut written = self.0.wal.write(self.0.group, writes.clone()).boxed();
            match (&mut written).now_or_never() {
                None => return written,
                Some(Err(WalError::QueueFull { .. })) => tokio::time::sleep(QUEUE_PAUSE).await,
                Some(result) => return ready(result).boxed(),
            }
        }
    }

    async fn write(&self, writes: Vec<Write>) -> io::Result<()> {
        self.queue(writes).await.await.map_err(io::Error::other)
    }

    /// What is committed, once, if it has not been written yet.
    fn unwritten_committed(&self) -> Option<Write> {
        let mut known = self.known();
        let committed = known.committed.filter(|_| !known.committed_is_written)?;
        known.committed_is_written = true;
        Some(set(key::COMMITTED, &position(&committed)))
    }

    pub(crate) fn remember_vote(&self, vote: RaftVote) {
        self.known().vote = Some(vote);
    }

    /// The membership that was applied last, for a state machine that is durable itself.
    pub(crate) fn applied_membership(&self) -> io::Result<RaftStoredMembership> {
        let state = self.0.wal.state(self.0.group);
        let Some(applied): Option<AppliedMembership> =
            value(&state.meta, key::MEMBERSHIP).map_err(|error| self.note(error))?
        else {
            return Ok(RaftStoredMembership::default());
        };
        let membership: RaftMembership = applied.membership.into_raft().map_err(invalid)?;
        Ok(RaftStoredMembership::new(applied.at.map(log_id), membership))
    }

    /// Remembers the membership that was applied last. It is queued before the
    /// entries that follow can be applied, and the order of writes is kept.
    pub(crate) async fn set_applied_membership(
        &self,
        membership: &RaftStoredMembership,
    ) -> io::Result<()> {
        let applied = AppliedMembership {
            at: membership.log_id().as_ref().map(position),
            membership: membership.membership().into(),
        };
        self.write(vec![set(key::MEMBERSHIP, &applied)]).await
    }

    /// The entries from `start` to before `end`, as many as fit `max_bytes` but at least one.
    pub(crate) async fn read(
        &self,
        start: u64,
        end: u64,
        max_bytes: usize,
    ) -> io::Result<Vec<RaftEntry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let read = self.0.wal.read(self.0.group, start..end, max_bytes);
        let entries = read.await.map_err(|error| {
            self.note(match error {
                ReadError::Corrupt { .. } => invalid(error),
                _ => io::Error::other(error),
            })
        })?;
        entries
            .into_iter()
            .map(|LogEntry { index, header, payload }| {
                entry::from_bytes(Position { term: header, index }, payload)
                    .map_err(|error| self.note(invalid(error)))
            })
            .collect()
    }

    async fn read_all(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<RaftEntry>> {
        let state = self.0.wal.state(self.0.group);
        let (Some(first), Some(last)) = (state.first_index, state.last_index) else {
            return Ok(Vec::new());
        };
        let (start, end) = bounds(range);
        let (mut start, end) = (start.max(first), end.min(last + 1));
        let mut entries = Vec::new();
        while start < end {
            let read = self.read(start, end, READ_BYTES).await?;
            let Some(last) = read.last() else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the log of group {} has no entry {start}", self.0.group),
                ));
            };
            start = last.log_id.index + 1;
            entries.extend(read);
        }
        Ok(entries)
    }
}

fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn set<T: Serialize>(key: u8, value: &T) -> Write {
    Write::SetMeta { key, value: Bytes::from(encoding::encode(value)) }
}

fn value<T: DeserializeOwned>(
    meta: &std::collections::BTreeMap<u8, Bytes>,
    key: u8,
) -> io::Result<Option<T>> {
    meta.get(&key).map(|bytes| encoding::decode(bytes)).transpose().map_err(invalid)
}

impl RaftLogReader<Types> for GroupLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let range = bounds(range);
        self.read_all(range.0..range.1).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.known().vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        let max_bytes = self.0.append_bytes;
        self.read(start, end, max_bytes).await
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures_util::Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(range);
        let pieces = futures_util::stream::unfold((self.clone(), start), move |(log, start)| {
            let max_bytes = log.0.append_bytes.max(1 << 20);
            async move {
                if start >= end {
                    return None;
                }
                match log.read(start, end, max_bytes).await {
                    Ok(read) => {
                        let next = read.last().map_or(end, |last| last.log_id.index + 1);
                        let read: Vec<_> = read.into_iter().map(Ok).collect();
                        Some((read, (log, next)))
                    }
                    Err(error) => Some((vec![Err(error)], (log, end))),
                }
            }
        });
        let pieces = futures_util::StreamExt::map(pieces, futures_util::stream::iter);
        Box::pin(futures_util::StreamExt::flatten(pieces))
    }
}

impl RaftLogStorage<Types> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.0.wal.state(self.0.group);
        let purged = self.known().purged;
        let last = match (state.last_header, state.last_index) {
            (Some(term), Some(index)) => Some(log_id(Position { term, index })),
            _ => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.write(vec![set(key::VOTE, &Ballot::from(vote))]).await?;
        self.remember_vote(*vote);
        Ok(())
    }

    /// What is committed is written with the next entries: it may be remembered
    /// too low, never too high, and a write of its own for each batch would
    /// double the work of the disk.
    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        let mut known = self.known();
        known.committed = committed;
        known.committed_is_written = false;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.known().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut written = Vec::new();
        let (mut piece, mut bytes) = (Vec::new(), 0);
        for RaftEntry { log_id, payload } in entries {
            let payload = entry::to_bytes(&payload);
            if bytes + payload.len() > WRITE_BYTES && !piece.is_empty() {
                let entries = std::mem::take(&mut piece);
                written.push(self.queue(vec![Write::Append { entries }]).await);
                bytes = 0;
            }
            bytes += payload.len();
            piece.push(LogEntry { index: log_id.index, header: log_id.leader_id.term, payload });
        }
        let mut writes = vec![Write::Append { entries: piece }];
        writes.extend(self.unwritten_committed());
        written.push(self.queue(writes).await);
        tokio::spawn(async move {
            let result = futures_util::future::try_join_all(written).await;
            callback.io_completed(result.map(drop).map_err(io::Error::other));
        });
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let index = last.next_index();
        self.write(vec![Write::TruncateFrom { index }]).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        {
            let mut known = self.known();
            if known.purged >= Some(upto) {
                return Ok(());
            }
            known.purged = Some(upto);
        }
        let purged = set(key::PURGED, &position(&upto));
        self.write(vec![purged, Write::PurgeTo { index: upto.index }]).await
    }
}

#[cfg(test)]
mod tests;

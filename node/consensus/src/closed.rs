//! The log of a group that is not open: what a former member of a group holds, and
//! how a group begins from a state that was made elsewhere.

use std::collections::BTreeSet;
use std::io;

use openraft::EntryPayload;
use rung_proto::{GroupId, NodeId};
use rung_wal::LogEntry;

use crate::consensus::{Consensus, open_error};
use crate::entry;
use crate::error::OpenError;
use crate::log::{GroupLog, begin_log, last_of, take_over_log};
use crate::state_machine::Committed;
use crate::status::Position;

/// What the log of a group holds on this node's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClosedLog {
    /// The last entry, committed or not.
    pub last: Option<Position>,
    /// The last entry that was noted as committed; more may be.
    pub committed: Option<Position>,
}

/// Proposals from a group's log, and where to go on.
#[derive(Debug)]
pub struct Proposals {
    /// Those found, in their order, committed or not.
    pub entries: Vec<Committed>,
    /// The index to go on from; none behind the last entry.
    pub next: Option<u64>,
}

impl Consensus {
    /// What the log of a group holds here.
    ///
    /// # Errors
    /// When the log is damaged.
    pub async fn closed_log(&self, id: GroupId) -> Result<ClosedLog, OpenError> {
        let log = self.log_of(id).await?;
        Ok(ClosedLog { last: log.last(), committed: log.committed() })
    }

    /// The last entry of a group's log here, written or about to be. Cheap.
    pub fn last_entry(&self, id: GroupId) -> Option<Position> {
        last_of(&self.wal().state(id))
    }

    /// Reads the proposals from index `from` on, as many as fit `max_bytes` but at
    /// least one entry. The group must be closed, or its log may change meanwhile.
    ///
    /// # Errors
    /// When the log is damaged, or no longer has the entry `from`.
    pub async fn closed_proposals(
        &self,
        id: GroupId,
        from: u64,
        max_bytes: usize,
    ) -> Result<Proposals, OpenError> {
        let wal = self.wal();
        let state = wal.state(id);
        let damaged = |what: String| OpenError::Damaged { group: id, what };
        if state.corrupt {
            return Err(damaged("its log is damaged".to_owned()));
        }
        let (Some(first), Some(last)) = (state.first_index, state.last_index) else {
            return Ok(Proposals { entries: Vec::new(), next: None });
        };
        if from < first {
            return Err(damaged(format!("its log begins at {first}, not at {from}")));
        }
        if from > last {
            return Ok(Proposals { entries: Vec::new(), next: None });
        }
        let read = wal.read(id, from..last + 1, max_bytes).await;
        let read = read.map_err(|error| damaged(error.to_string()))?;
        let next = read.last().map(|entry| entry.index + 1).filter(|next| *next <= last);
        let entries = read.into_iter().filter_map(|entry| proposal(entry).transpose());
        let entries = entries.collect::<io::Result<_>>().map_err(|error| open_error(id, &error))?;
        Ok(Proposals { entries, next })
    }

    /// Writes the log of a new group as if everything up to `base` had been applied
    /// and purged, with `voters`, of whom this node must be one. Opened with a state
    /// machine whose own copy is durable at `base`, the group goes on from there, in
    /// terms above both `base.term` and `term`. Whoever is added gets a snapshot.
    ///
    /// To be called for an id that no other node has ever had a log of.
    ///
    /// # Errors
    /// When the group is open here, or the log fails.
    pub async fn begin_at(
        &self,
        id: GroupId,
        base: Position,
        term: u64,
        voters: &BTreeSet<NodeId>,
    ) -> Result<(), OpenError> {
        if self.group(id).is_some() {
            return Err(OpenError::AlreadyOpen(id));
        }
        let term = term.max(base.term);
        let written = begin_log(self.wal(), id, base, (term, self.node()), voters).await;
        written.map_err(|error| OpenError::Failed { group: id, what: error.to_string() })
    }

    /// Makes this node the only voter of a group whose majority is lost, by an entry
    /// that nobody has agreed to, behind everything that its log holds. Opened again,
    /// the group goes on from there with this node as its leader, in a later term; what
    /// the others had beyond this log, and what nobody knows to be committed of it, is
    /// decided by that. Returns the entry's place.
    ///
    /// To be called only when no other voter takes part in the group any more: they
    /// might elect one of them. Whoever comes back must drop its log.
    ///
    /// # Errors
    /// When the group is open here or has no log, or the log is damaged or fails.
    pub async fn take_over(&self, id: GroupId) -> Result<Position, OpenError> {
        if self.group(id).is_some() {
            return Err(OpenError::AlreadyOpen(id));
        }
        let taken = take_over_log(self.wal(), id, self.node()).await;
        taken.map_err(|error| open_error(id, &error))
    }

    async fn log_of(&self, id: GroupId) -> Result<GroupLog, OpenError> {
        let log = GroupLog::open(self.wal().clone(), id, 1).await;
        log.map_err(|error| open_error(id, &error))
    }
}

/// What was proposed with an entry, unless it belongs to the protocol.
fn proposal(entry: LogEntry) -> io::Result<Option<Committed>> {
    let LogEntry { index, header: term, payload } = entry;
    let entry = entry::from_bytes(Position { term, index }, payload)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(match entry.payload {
        EntryPayload::Normal(payload) => {
            Some(Committed { index, term, payload: entry::proposed(&payload) })
        }
        _ => None,
    })
}

//! What an archive needs of a copy: its pages at one position, what the log has after
//! it, and that the log keeps it for a while.
//!
//! Any copy can give it, since only what is applied is given, and that is the same
//! everywhere.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use rung_consensus::{AppliedLog, Position};
use rung_pages::Snapshot;

use crate::error::ShardError;
use crate::payload::{self, Content};
use crate::shard::Shard;

/// Bytes of entries that the log keeps for an archive at most.
const KEEP_BYTES: u64 = 128 << 20;

/// An applied entry of the log.
#[derive(Clone, Debug)]
pub struct LoggedEntry {
    /// Its place in the log.
    pub index: u64,
    /// When it was proposed, on the clock of its primary, in milliseconds since 1970.
    /// Entries of earlier versions have none.
    pub at_ms: Option<u64>,
    /// See [`rung_pages::Entry`].
    pub entry: Bytes,
}

/// A piece of what the log has.
#[derive(Clone, Debug)]
pub enum LoggedEntries {
    /// What comes next, and where to go on after it.
    Next(Vec<LoggedEntry>, u64),
    /// The log does not have it any more.
    Purged,
}

/// What the log must keep.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// The last entry that need not be kept; nothing: none need be.
    archived: Option<u64>,
    /// Up to where it was said that the log may be purged.
    released: Option<Position>,
    /// Bytes of entries applied since.
    bytes: u64,
}

impl Hold {
    pub fn keep_after(&mut self, archived: Option<u64>) {
        self.archived = archived;
    }

    pub fn applied(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Up to where the log may be purged, when it could be up to `durable`.
    pub fn release(&mut self, durable: Option<Position>) -> Option<Position> {
        let is_archived = |archived: u64| durable.is_none_or(|durable| durable.index <= archived);
        if self.archived.is_none_or(is_archived) || self.bytes > KEEP_BYTES {
            if durable != self.released {
                self.bytes = 0;
            }
            self.released = durable;
        }
        self.released
    }
}

impl Shard {
    /// The entries that are applied on this copy, from an index of the log on: about so
    /// many bytes, one entry at least.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_log(&self, from: u64, max_bytes: usize) -> Result<LoggedEntries, ShardError> {
        let read = self.group().read_applied(from, max_bytes).await;
        let read = read.map_err(|error| ShardError::Failed(error.to_string()))?;
        let AppliedLog::Entries { entries, next } = read else { return Ok(LoggedEntries::Purged) };
        let entries = entries.into_iter().filter_map(|one| {
            let read = payload::decode(&one.payload)?;
            let Content::Entry(entry) = read.content else { return None };
            // Others had no effect; see `payload`.
            let entry = one.payload.slice_ref(entry);
            (read.epoch == one.term).then_some(LoggedEntry {
                index: one.index,
                at_ms: read.at_ms,
                entry,
            })
        });
        Ok(LoggedEntries::Next(entries.collect(), next))
    }

    /// The pages as they are settled now, read while the copy goes on.
    ///
    /// # Errors
    /// The copy is closed, or its file cannot be read.
    pub async fn snapshot(&self) -> Result<Snapshot, ShardError> {
        let core = self.core().clone();
        let taken = tokio::task::spawn_blocking(move || core.store()?.snapshot()).await;
        let taken = taken.map_err(|error| ShardError::Failed(error.to_string()))?;
        taken.map_err(|error| ShardError::Failed(error.to_string()))
    }

    /// The newest time of an entry that was applied since the copy was opened, in
    /// milliseconds since 1970; 0 when there was none.
    pub fn newest_entry_ms(&self) -> u64 {
        self.core().counts.newest_entry_ms.load(Ordering::Acquire)
    }

    /// Has the log keep what comes after this index, up to a bound; with nothing it
    /// keeps no more than it needs itself.
    pub fn keep_log_after(&self, archived: Option<u64>) {
        self.core().hold().keep_after(archived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Option<Position> {
        Some(Position { term: 1, index })
    }

    #[test]
    fn the_log_keeps_what_is_not_archived_up_to_a_bound() {
        let mut hold = Hold::default();
        assert_eq!(hold.release(at(5)), at(5), "nobody asked for more");
        hold.keep_after(Some(7));
        assert_eq!(hold.release(at(9)), at(5));
        hold.keep_after(Some(9));
        assert_eq!(hold.release(at(9)), at(9));
        hold.applied(KEEP_BYTES + 1);
        assert_eq!(hold.release(at(20)), at(20), "too much would have to be kept");
        assert_eq!(hold.release(at(30)), at(20));
        hold.keep_after(None);
        assert_eq!(hold.release(at(31)), at(31));
    }
}

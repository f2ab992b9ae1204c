//! Reading what is applied here again from the log, for as long as the log has it.

use std::io;

use openraft::EntryPayload;

use crate::entry;
use crate::group::Group;
use crate::state_machine::Committed;

/// A piece of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AppliedLog {
    /// What was proposed, in the order of the log; what belongs to the protocol is left
    /// out. It may be empty.
    Entries {
        /// The entries.
        entries: Vec<Committed>,
        /// Where to go on.
        next: u64,
    },
    /// The log begins later than what was asked for.
    Purged,
}

impl Group {
    /// The entries that are applied on this node, from an index of the log on: about
    /// so many bytes of them, one entry at least.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn read_applied(&self, from: u64, max_bytes: usize) -> io::Result<AppliedLog> {
        let applied = self.status().borrow().applied;
        let Some(end) = applied.map(|applied| applied.index + 1).filter(|end| from < *end) else {
            return Ok(AppliedLog::Entries { entries: Vec::new(), next: from });
        };
        let read = self.0.log.read(from, end, max_bytes).await?;
        if read.first().is_none_or(|first| first.log_id.index != from) {
            return Ok(AppliedLog::Purged);
        }
        let next = read.last().map_or(from, |last| last.log_id.index + 1);
        let entries = read.into_iter().filter_map(|one| match one.payload {
            EntryPayload::Normal(payload) => Some(Committed {
                index: one.log_id.index,
                term: one.log_id.leader_id.term,
                payload: entry::proposed(&payload),
            }),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        Ok(AppliedLog::Entries { entries: entries.collect(), next })
    }
}

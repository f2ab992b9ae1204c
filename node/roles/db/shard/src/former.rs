//! A copy of a group that is over: what its file and its log hold, entry by entry.
//!
//! The log is applied to the file as far as it goes, committed or not. Nothing of it
//! becomes durable, so that it can be done again.

use std::collections::VecDeque;
use std::path::Path;

use rung_consensus::{Committed, Consensus, OpenError, Position as LogPosition};
use rung_pages::{Gate, Options, PageStore, PagesError, Position};
use rung_proto::GroupId;
use tokio::runtime::Handle;

use crate::payload::{self, Content};

/// Bytes of the log that are read at once.
const READ: usize = 4 << 20;

/// A copy whose group is closed on this node for good. Its methods block.
pub struct Former {
    store: PageStore,
    consensus: Consensus,
    group: GroupId,
    runtime: Handle,
    ready: VecDeque<Committed>,
    /// Where to read on in the log.
    next: Option<u64>,
}

/// Why a former copy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FormerError {
    /// Its file.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// Its log.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// An entry of the log is none of a shard.
    #[error("entry {0} of the log is not one of a shard")]
    Entry(u64),
}

impl Former {
    /// Opens the copy in a directory at the last state that its files hold by
    /// themselves. Its group must be closed.
    ///
    /// # Errors
    /// When its file is damaged.
    pub fn open(
        dir: &Path,
        consensus: &Consensus,
        group: GroupId,
        runtime: Handle,
    ) -> Result<Self, FormerError> {
        let store = PageStore::open(dir, Options::default())?;
        let next = Some(store.durable_index() + 1);
        let (consensus, ready) = (consensus.clone(), VecDeque::new());
        Ok(Self { store, consensus, group, runtime, ready, next })
    }

    /// Where it is now.
    pub fn position(&self) -> Position {
        self.store.position()
    }

    /// The last entry of the log that was applied.
    pub fn log_index(&self) -> u64 {
        self.store.applied_index()
    }

    /// Where readers see it as it is now.
    pub fn gate(&self) -> Gate {
        self.store.gate()
    }

    /// Applies the next entry of the log and says where in the log it was; nothing
    /// behind the last one.
    ///
    /// # Errors
    /// When the log or the file is damaged, or the disk fails.
    pub fn advance(&mut self) -> Result<Option<LogPosition>, FormerError> {
        while let Some(entry) = self.entry()? {
            let payload = payload::decode(&entry.payload).ok_or(FormerError::Entry(entry.index))?;
            // What was proposed late was applied by nobody.
            if let Content::Entry(pages) = payload.content
                && payload.epoch == entry.term
            {
                self.store.apply(&[(entry.index, pages)])?;
                return Ok(Some(LogPosition { term: entry.term, index: entry.index }));
            }
        }
        Ok(None)
    }

    fn entry(&mut self) -> Result<Option<Committed>, FormerError> {
        while self.ready.is_empty() {
            let Some(from) = self.next else { return Ok(None) };
            let read = self.consensus.closed_proposals(self.group, from, READ);
            let read = self.runtime.block_on(read)?;
            self.ready.extend(read.entries);
            self.next = read.next;
        }
        Ok(self.ready.pop_front())
    }

    /// Makes a copy of what it holds now in another directory, and says at which place
    /// a log begins that goes on from it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn copy_to(&self, dir: &Path) -> Result<LogPosition, FormerError> {
        let mut snapshot = self.store.snapshot()?;
        let mut copy = PageStore::open(dir, Options::default())?;
        copy.restore(&mut snapshot)?;
        Ok(LogPosition { term: copy.position().epoch, index: copy.durable_index() })
    }
}

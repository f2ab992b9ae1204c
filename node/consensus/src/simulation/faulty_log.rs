//! Logs with the bugs that the checker must find.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::log::GroupLog;
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, Types};

/// What a log does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bug {
    /// Nothing.
    None,
    /// Entries are called durable before they are.
    AcknowledgeBeforeSync,
    /// Votes are only kept in memory.
    ForgetVotes,
    /// A log that is dropped leaves nothing behind. The log itself is right.
    DropWithoutTrace,
    /// A state machine that keeps its state calls durable what it has only
    /// applied. The log itself is right.
    CallAppliedDurable,
}

/// A log that does something wrong.
#[derive(Clone)]
pub(super) struct FaultyLog {
    pub log: GroupLog,
    pub bug: Bug,
}

impl RaftLogReader<Types> for FaultyLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<RaftEntry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.log.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.log.read_vote().await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        self.log.limited_get_log_entries(start, end).await
    }
}

impl RaftLogStorage<Types> for FaultyLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        if self.bug == Bug::ForgetVotes {
            self.log.remember_vote(*vote);
            return Ok(());
        }
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        if self.bug == Bug::AcknowledgeBeforeSync {
            self.log.append(entries, IOFlushed::noop()).await?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.log.truncate_after(last).await
    }

    async fn purge(&mut self, upto: RaftLogId) -> io::Result<()> {
        self.log.purge(upto).await
    }
}

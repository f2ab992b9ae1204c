//! How a copy is doing.

use rung_proto::NodeId;

use crate::token::Token;

/// What a copy does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyState {
    /// It follows, and answers reads.
    Follower {
        /// Who is the primary, as far as this copy knows.
        primary: Option<NodeId>,
    },
    /// It was elected and makes sure that nothing older is on its way.
    Taking {
        /// Its epoch.
        epoch: u64,
    },
    /// It takes writes.
    Primary {
        /// Its epoch.
        epoch: u64,
    },
    /// It serves nothing, and why. Nothing is lost if the other copies are well:
    /// see [`Stop`].
    Stopped(Stop),
}

impl CopyState {
    /// Whether it takes writes.
    pub fn is_primary(&self) -> bool {
        matches!(self, CopyState::Primary { .. })
    }
}

/// Why a copy stopped, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It was closed.
    Closed,
    /// Its files are damaged or differ from the primary's. Take this node out of the
    /// group's voters, remove the copy, and open it again as a learner.
    Damaged(String),
    /// The disk has no room left. Make some, and open the copy again.
    DiskFull(String),
    /// The disk or the log failed. Restart the node.
    Failed(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Closed => f.write_str("it was closed"),
            Stop::Damaged(why) => write!(
                f,
                "{why}; take this node out of the shard's voters, remove the copy, and let it be \
                 fetched from the others"
            ),
            Stop::DiskFull(why) => write!(f, "{why}; make room and start the copy again"),
            Stop::Failed(why) => write!(f, "{why}; restart the node"),
        }
    }
}

/// How a copy is doing now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardStatus {
    /// What it does.
    pub state: CopyState,
    /// What readers see.
    pub position: Token,
    /// Entries of the log that are committed and not applied here.
    pub lag: u64,
    /// Writes and transactions that wait for the writer.
    pub queued: usize,
    /// Batches that are executed and not on a quorum.
    pub in_flight: usize,
    /// Interactive transactions that are drafts.
    pub drafts: usize,
    /// Drafts that could not be kept, because something that they were told had changed.
    pub conflicts: u64,
    /// Whether an interactive transaction has the writer.
    pub in_transaction: bool,
    /// Reads that run now.
    pub reading: usize,
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were acknowledged, and batches that carried them.
    pub writes: u64,
    /// See `writes`.
    pub batches: u64,
    /// Bytes of SQLite's write-ahead log.
    pub wal_bytes: u64,
}

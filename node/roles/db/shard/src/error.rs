//! What can go wrong, and whether the thing asked for may have happened.

use std::time::Duration;

use rung_proto::{Generation, NodeId};
use rung_sql::SqlError;

/// Why a read or a write was not answered. All but
/// [`ShardError::OutcomeUnknown`] say that nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShardError {
    /// Another copy is the primary, or nobody is.
    #[error("{}", not_primary(.primary))]
    NotPrimary {
        /// Who is, as far as this copy knows.
        primary: Option<NodeId>,
    },
    /// The primary changed, and what was done or read before is not part of its
    /// history. It can be done again (40001).
    #[error("the primary of the shard changed; nothing was changed, begin again")]
    Lost,
    /// Executed and proposed, and not known to be committed or lost; it may still
    /// become visible (08007).
    #[error("the outcome is unknown: it may have been done, or may yet be")]
    OutcomeUnknown,
    /// This primary hears no quorum of the shard's voters.
    #[error("no quorum of the shard's copies answers; nothing was changed")]
    NoQuorum,
    /// Too much waits already.
    #[error("too much waits in the shard ({0}); nothing was changed, try later")]
    Overloaded(&'static str),
    /// Its turn did not come, or it did not finish, before the deadline.
    #[error("the deadline passed while it {0}; nothing was changed")]
    TimedOut(&'static str),
    /// The caller canceled it.
    #[error("it was canceled; nothing was changed")]
    Canceled,
    /// An interactive transaction waited for its client while others waited for
    /// it, or ran too long (25P03).
    #[error("the transaction was ended after {0:?}, because others wait for it")]
    TransactionTooLong(Duration),
    /// A read has held its snapshot for so long that a checkpoint could not wait.
    #[error("the snapshot of the read is too old: a checkpoint had to be made; begin again")]
    SnapshotTooOld,
    /// It cannot be committed as it is: a deferred foreign key does not hold.
    #[error(transparent)]
    Refused(Box<SqlError>),
    /// A statement of the transaction, which did not hold the writer, would not come to
    /// the same any more: others have committed meanwhile (40001).
    #[error("could not serialize access due to concurrent update; nothing was changed")]
    Changed,
    /// The disk under the copy has no room.
    #[error("no space is left on the disk of the shard's primary; nothing was changed")]
    DiskFull,
    /// This copy is further behind than the read allows, or cannot tell. Read
    /// at the primary.
    #[error("this copy is too far behind for the read")]
    TooFarBehind,
    /// The token belongs to another life of the cluster's logs.
    #[error("the position is of generation {token:?}, the shard is of generation {shard:?}")]
    WrongGeneration {
        /// The token's.
        token: Generation,
        /// The shard's.
        shard: Generation,
    },
    /// The token is of another shard.
    #[error("the position is of shard {token}, not of shard {shard}")]
    WrongShard {
        /// The token's.
        token: u16,
        /// This one.
        shard: u16,
    },
    /// A piece of work panicked; what it did was rolled back.
    #[error("executing it failed: {0}")]
    Failed(String),
    /// This copy serves nothing any more, and why.
    #[error("the copy of the shard on this node has stopped: {0}")]
    Stopped(String),
}

impl ShardError {
    /// Whether it may have been done, or may yet be.
    pub fn outcome_unknown(&self) -> bool {
        *self == ShardError::OutcomeUnknown
    }
}

/// Why a copy was not made the primary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandOverError {
    /// Only the primary can hand over.
    #[error("{}", not_primary(.primary))]
    NotPrimary {
        /// Who is, as far as this copy knows.
        primary: Option<NodeId>,
    },
    /// It holds no voting copy of the shard.
    #[error("node {0} holds no voting copy of the shard")]
    NotAVoter(NodeId),
    /// It lacks entries and did not receive them in time.
    #[error(
        "node {node} is {behind} entries behind and did not catch up in time; the primary stays"
    )]
    Behind {
        /// Who.
        node: NodeId,
        /// How many entries of the log it lacked when the time was over.
        behind: u64,
    },
    /// The other node did not take over in time; this one goes on if it still can.
    #[error("node {0} did not take over in time; look at the status for who is the primary")]
    TimedOut(NodeId),
    /// Another one is under way.
    #[error("the shard is being handed over already")]
    UnderWay,
    /// This copy serves nothing any more.
    #[error("the copy of the shard on this node has stopped: {0}")]
    Stopped(String),
}

fn not_primary(primary: &Option<NodeId>) -> String {
    match primary {
        Some(primary) => format!("node {primary} is the shard's primary, not this one"),
        None => "nobody is known to be the shard's primary".to_owned(),
    }
}

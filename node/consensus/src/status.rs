//! How a group is doing on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rung_proto::NodeId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A place in a group's log. Two entries of one group with the same position
/// are the same entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The term of the leader that wrote the entry.
    pub term: u64,
    /// The index of the entry.
    pub index: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// What this node is in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupRole {
    /// It receives the log and does not vote.
    Learner,
    /// It votes and follows a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It leads, or believes so: only a committed proposal or a read barrier proves it.
    Leader,
    /// The group does no more work on this node, and why. After a failed write
    /// to the log the process must end.
    Stopped(String),
}

/// How a group is doing on this node.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupStatus {
    /// What this node is.
    pub role: GroupRole,
    /// The highest term that this node has seen.
    pub term: u64,
    /// The leader of that term as far as this node knows.
    pub leader: Option<NodeId>,
    /// Those who vote in the newest membership in this node's log; during a
    /// joint change the union of the old and the new.
    pub voters: BTreeSet<NodeId>,
    /// Those who follow without voting.
    pub learners: BTreeSet<NodeId>,
    /// Whether the newest membership is a joint one or not yet committed.
    pub changing: bool,
    /// The last entry of the log, durable or not.
    pub last: Option<u64>,
    /// The last entry known to be committed.
    pub committed: Option<Position>,
    /// The last entry that the state machine has applied.
    pub applied: Option<Position>,
    /// The last entry in the newest snapshot.
    pub snapshot: Option<Position>,
    /// The last entry that the log no longer holds.
    pub purged: Option<Position>,
    /// The last entry known to be durable on each replica; only on the leader.
    pub matched: BTreeMap<NodeId, Option<u64>>,
    /// When a quorum last acknowledged this leader; only on the leader. The
    /// time is that at which the acknowledged message was sent.
    pub quorum_acknowledged: Option<Instant>,
}

impl GroupStatus {
    /// Milliseconds since a quorum last acknowledged this leader.
    pub fn millis_since_quorum(&self) -> Option<u64> {
        let elapsed = self.quorum_acknowledged?.elapsed().as_millis();
        Some(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Whether this node leads the group.
    pub fn is_leader(&self) -> bool {
        self.role == GroupRole::Leader
    }
}

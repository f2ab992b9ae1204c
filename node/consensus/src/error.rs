//! What can go wrong, and whether the thing asked for may have happened.

use rung_proto::{Code, Failure, GroupId, NodeId};

/// Why a proposal was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not proposed: another node leads, or nobody does. Ask `leader`, or wait.
    #[error("{}", not_leader(.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Not proposed: this leader has not heard from a quorum for longer than an
    /// election takes.
    #[error("no quorum of the group has answered for {millis} ms; nothing was proposed")]
    NoQuorum {
        /// Since when.
        millis: u64,
    },
    /// Not proposed: too many proposals wait already.
    #[error("too many proposals wait in the group; nothing was proposed, try later")]
    Overloaded,
    /// Not proposed: larger than the group allows.
    #[error("a proposal of {bytes} bytes; the group takes at most {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Proposed, and not known to be committed or lost. It may still be applied later.
    #[error("the outcome of the proposal is unknown; it may have been, or may yet be, applied")]
    OutcomeUnknown,
    /// Not proposed: the group does no more work on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// Whether the proposal may have been applied, or may yet be.
    pub fn outcome_unknown(&self) -> bool {
        *self == ProposeError::OutcomeUnknown
    }
}

/// Why a linearizable read is not possible now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// Nobody is known to lead.
    #[error("{}", not_leader(.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The leader could not confirm that it still leads.
    #[error("no quorum of the group has confirmed the read: {0}")]
    NoQuorum(String),
    /// Not within the deadline.
    #[error("the read was not confirmed before its deadline")]
    Deadline,
    /// The group does no more work on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

/// Why the members of a group did not change as asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed: another node leads, or nobody does.
    #[error("{}", not_leader(.leader))]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Nothing was changed: another change is under way.
    #[error("another change of the group's members is under way: {0}")]
    InProgress(String),
    /// Nothing was changed: not possible as asked.
    #[error("the group's members cannot change this way: {0}")]
    Invalid(String),
    /// Not finished within the deadline; it may be done later, wholly or up to
    /// the joint membership. Asking for the same again is safe.
    #[error("the change was not confirmed before its deadline; ask for the same again")]
    OutcomeUnknown,
    /// The group does no more work on this node.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
}

/// Why a group could not be started on this node.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The group already runs here.
    #[error("group {0} already runs on this node")]
    AlreadyOpen(GroupId),
    /// The configuration contradicts itself.
    #[error("group {group} cannot run with this configuration: {what}")]
    Config {
        /// Which group.
        group: GroupId,
        /// What is wrong.
        what: String,
    },
    /// Its log or its snapshot is damaged. The replica must not vote: take it
    /// out of the group's voters, remove it here, open it again as a learner.
    #[error(
        "the replica of group {group} is damaged: {what}; take this node out of the group's \
         voters, remove the replica and let it be fetched from its peers"
    )]
    Damaged {
        /// Which group.
        group: GroupId,
        /// Which file, and what was seen.
        what: String,
    },
    /// The disk failed, or the log is dead.
    #[error("group {group} could not be started: {what}")]
    Failed {
        /// Which group.
        group: GroupId,
        /// What failed.
        what: String,
    },
}

/// Why a message of another node was not worked on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("the message cannot be read: {0}")]
    Malformed(String),
    /// It belongs to another life of the cluster's logs.
    #[error("the message is of another generation of the cluster")]
    Generation,
    /// The sender speaks for somebody else.
    #[error("the message speaks for a node that did not send it")]
    Impersonation,
    /// No such group here.
    #[error("group {0} does not run on this node")]
    UnknownGroup(GroupId),
    /// The group does no more work here.
    #[error("the group has stopped on this node: {0}")]
    Stopped(String),
    /// The replica has forgotten what it promised, and takes no part in elections
    /// before it has caught up.
    #[error("the replica of this node was dropped once and has not caught up yet")]
    Returning,
    /// Too many snapshots arrive already, or this one is not wanted.
    #[error("the snapshot is refused: {0}")]
    Snapshot(String),
}

fn not_leader(leader: &Option<NodeId>) -> String {
    match leader {
        Some(leader) => format!("node {leader} leads the group, not this node"),
        None => "nobody is known to lead the group".to_owned(),
    }
}

impl From<&ProposeError> for Failure {
    fn from(error: &ProposeError) -> Self {
        let (code, next) = match error {
            ProposeError::NotLeader { .. } => (Code::NoQuorum, "try again in a moment"),
            ProposeError::NoQuorum { .. } => {
                (Code::NoQuorum, "start enough of the group's voters, then try again")
            }
            ProposeError::Overloaded => (Code::Overloaded, "try again in a moment"),
            ProposeError::TooLarge { .. } => (Code::Usage, "make it smaller"),
            ProposeError::OutcomeUnknown => {
                (Code::OutcomeUnknown, "look whether it was done before you try again")
            }
            ProposeError::Stopped(_) => (Code::DiskFailed, "look at the node's log; restart it"),
        };
        Failure::new(code, "the change was not confirmed").because(error).next(next)
    }
}

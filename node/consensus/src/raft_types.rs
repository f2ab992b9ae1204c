//! The protocol library's types as this crate instantiates them. None of them
//! leaves the crate.

use std::fmt;

use bytes::Bytes;
use openraft::impls::{EmptyNode, leader_id_std};
use serde::{Deserialize, Serialize};

use crate::runtime::Runtime;
use crate::status::Position;

/// A proposal or an answer: bytes that only the state machine understands.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// Standard Raft: at most one leader in a term, nodes without addresses
    /// (the mesh has an address book), payloads of bytes.
    pub(crate) Types:
        D = Payload,
        R = Payload,
        NodeId = u64,
        Node = EmptyNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(crate) type RaftEntry = openraft::type_config::alias::DefaultEntryOf<Types>;
pub(crate) type RaftPayload = openraft::type_config::alias::PayloadOf<Types>;
pub(crate) type RaftLogId = openraft::type_config::alias::LogIdOf<Types>;
pub(crate) type RaftVote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type RaftMembership = openraft::Membership<u64, EmptyNode>;
pub(crate) type RaftStoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(crate) type RaftSnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

pub(crate) fn position(id: &RaftLogId) -> Position {
    Position { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id(position: Position) -> RaftLogId {
    RaftLogId::new_term_index(position.term, position.index)
}

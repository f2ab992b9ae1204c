//! An entry of the log as bytes: in the write-ahead log and in messages.
//!
//! The first byte tells the kind, the rest is the proposal as it came or an
//! encoded membership. A proposal gets its first byte when it is proposed, so
//! that it is never copied again.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::impls::EmptyNode;
use rung_proto::NodeId;
use rung_proto::encoding;
use serde::{Deserialize, Serialize};

use crate::raft_types::{Payload, RaftEntry, RaftMembership, RaftPayload, log_id};
use crate::status::Position;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes that are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// No kind at all.
    #[error("an entry of the log is empty; it needs at least its kind")]
    Empty,
    /// A kind from a newer version, or damage.
    #[error("an entry of the log has the unknown kind {0}; was it written by a newer version?")]
    UnknownKind(u8),
    /// A blank entry with content.
    #[error("a blank entry of the log has {0} bytes of content")]
    BlankWithContent(usize),
    /// A membership that cannot be read.
    #[error("a membership in the log is damaged: {0}")]
    Membership(String),
}

/// Voters and learners. Two sets of voters are a joint membership.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MembershipForm {
    voters: Vec<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
}

impl From<&RaftMembership> for MembershipForm {
    fn from(membership: &RaftMembership) -> Self {
        let set = |ids: &BTreeSet<u64>| ids.iter().map(|id| NodeId(*id)).collect();
        Self {
            voters: membership.get_joint_config().iter().map(set).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
        }
    }
}

impl MembershipForm {
    /// Of these voters and nobody else.
    pub(crate) fn of_voters(voters: &BTreeSet<NodeId>) -> Self {
        Self { voters: vec![voters.clone()], learners: BTreeSet::new() }
    }

    pub(crate) fn into_raft(self) -> Result<RaftMembership, EntryError> {
        let voters: Vec<BTreeSet<u64>> =
            self.voters.into_iter().map(|set| set.into_iter().map(|id| id.0).collect()).collect();
        let mut nodes: std::collections::BTreeMap<u64, EmptyNode> =
            self.learners.into_iter().map(|id| (id.0, EmptyNode {})).collect();
        nodes.extend(voters.iter().flatten().map(|id| (*id, EmptyNode {})));
        if voters.is_empty() && nodes.is_empty() {
            return Ok(RaftMembership::default());
        }
        RaftMembership::new(voters, nodes)
            .map_err(|error| EntryError::Membership(error.to_string()))
    }
}

/// Puts the kind before a proposal.
pub(crate) fn proposal(payload: &[u8]) -> Payload {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(NORMAL);
    bytes.put_slice(payload);
    Payload(bytes.freeze())
}

/// What was proposed.
pub(crate) fn proposed(payload: &Payload) -> Bytes {
    payload.0.slice(1..)
}

pub(crate) fn to_bytes(payload: &RaftPayload) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(Payload(bytes)) => bytes.clone(),
        EntryPayload::Membership(membership) => {
            let mut bytes = vec![MEMBERSHIP];
            bytes.extend(encoding::encode(&MembershipForm::from(membership)));
            Bytes::from(bytes)
        }
    }
}

pub(crate) fn from_bytes(position: Position, bytes: Bytes) -> Result<RaftEntry, EntryError> {
    let payload = match bytes.first() {
        None => return Err(EntryError::Empty),
        Some(&BLANK) if bytes.len() == 1 => EntryPayload::Blank,
        Some(&BLANK) => return Err(EntryError::BlankWithContent(bytes.len() - 1)),
        Some(&NORMAL) => EntryPayload::Normal(Payload(bytes)),
        Some(&MEMBERSHIP) => {
            let form: MembershipForm = encoding::decode(&bytes[1..])
                .map_err(|error| EntryError::Membership(error.to_string()))?;
            EntryPayload::Membership(form.into_raft()?)
        }
        Some(&kind) => return Err(EntryError::UnknownKind(kind)),
    };
    Ok(RaftEntry { log_id: log_id(position), payload })
}

/// Checks that bytes are one entry of the log. For fuzzing.
///
/// # Errors
/// When they are not.
pub fn check_entry(bytes: &[u8]) -> Result<(), EntryError> {
    from_bytes(Position { term: 1, index: 1 }, Bytes::copy_from_slice(bytes)).map(drop)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_joint_membership_survives_its_encoding() {
        let voters = vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])];
        let nodes: BTreeSet<u64> = (1..=5).collect();
        let membership = RaftMembership::new(voters, nodes).unwrap();
        let bytes = to_bytes(&EntryPayload::Membership(membership.clone()));
        let entry = from_bytes(Position { term: 3, index: 9 }, bytes).unwrap();
        assert_eq!(entry.payload, EntryPayload::Membership(membership));
        assert_eq!(entry.log_id.index, 9);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = check_entry(&bytes);
        }

        #[test]
        fn a_proposal_survives_its_encoding(
            payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let bytes = to_bytes(&EntryPayload::Normal(proposal(&payload)));
            let entry = from_bytes(Position { term: 1, index: 1 }, bytes).unwrap();
            let EntryPayload::Normal(read) = entry.payload else { panic!("another kind") };
            prop_assert_eq!(&proposed(&read)[..], &payload[..]);
        }
    }
}

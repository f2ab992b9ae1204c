//! What others may read of the membership.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rung_proto::{Incarnation, NodeId};

use crate::identity::{Identity, Text};

/// How a member seems.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemberState {
    Alive,
    /// Did not answer; it has a moment to speak for itself.
    Suspect,
    /// Did not answer for too long.
    Down,
    /// Said that it leaves, or was removed.
    Left,
}

impl MemberState {
    /// Alive or suspect: it is still worth talking to.
    pub fn is_active(self) -> bool {
        matches!(self, MemberState::Alive | MemberState::Suspect)
    }

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            MemberState::Alive => "alive",
            MemberState::Suspect => "suspect",
            MemberState::Down => "down",
            MemberState::Left => "left",
        }
    }
}

/// A node as it seems from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub address: SocketAddr,
    pub dc: Text,
    pub name: Text,
    pub state: MemberState,
    /// When this state or incarnation was first seen here, milliseconds on the
    /// clock of the `now` that [`crate::Swim`] is given; under
    /// [`crate::Membership`] that is since 1970.
    pub since_ms: u64,
}

impl Member {
    pub(crate) fn new(identity: &Identity, state: MemberState, since_ms: u64) -> Self {
        Self {
            node: identity.node,
            incarnation: identity.incarnation,
            address: identity.address,
            dc: identity.dc.clone(),
            name: identity.name.clone(),
            state,
            since_ms,
        }
    }
}

/// Everything that is known, the local node included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipView {
    /// Rises with every change.
    pub version: u64,
    /// The local node.
    pub local: NodeId,
    pub members: BTreeMap<NodeId, Member>,
    /// The health of the local node: 0 is well, 8 is the worst.
    pub health: u8,
    /// A later start of this very node was seen in the cluster. Either two
    /// processes run with the same identity or the data directory is an old
    /// copy; this process should end.
    pub superseded_by: Option<Incarnation>,
}

impl MembershipView {
    /// How a node seems; `None` if it was never heard of or is forgotten.
    pub fn state(&self, node: NodeId) -> Option<MemberState> {
        self.members.get(&node).map(|member| member.state)
    }

    /// The members that are alive or suspect, the local node included.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.state.is_active())
    }
}

/// Something changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A member was first seen, or its state, incarnation or address changed.
    Changed { member: Member, before: Option<MemberState> },
    /// A member that was down is no longer remembered.
    Forgotten(NodeId),
    /// The cluster had declared this node down; it goes on under a new identity.
    Renewed,
    /// See [`MembershipView::superseded_by`].
    Superseded(Incarnation),
}

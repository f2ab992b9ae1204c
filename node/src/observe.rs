//! What this node observes, gathered into the planner's [`View`].

use std::collections::BTreeMap;

use rung_control_plane::view::Liveness;
use rung_control_plane::{State, View};
use rung_membership::{MemberState, MembershipView};
use rung_proto::NodeId;
use rung_proto::api::NodeState;

use crate::clock::now_ms;
use crate::protocol::Leadership;
use crate::soft_state::SoftState;

pub fn node_state(state: MemberState) -> NodeState {
    match state {
        MemberState::Alive => NodeState::Alive,
        MemberState::Suspect => NodeState::Suspect,
        MemberState::Down => NodeState::Down,
        MemberState::Left => NodeState::Left,
    }
}

/// A node that membership has never heard of counts as down when this one has
/// listened for so long: it may have died while every node was stopped.
const UNHEARD_MS: u64 = 30_000;

/// One look at everything.
pub fn view(
    state: &State,
    membership: &MembershipView,
    soft: &SoftState,
    leadership: &Leadership,
) -> View {
    let now_ms = now_ms();
    let mut members: BTreeMap<NodeId, Liveness> = membership
        .members
        .values()
        .map(|member| {
            let liveness = Liveness { state: node_state(member.state), since_ms: member.since_ms };
            (member.node, liveness)
        })
        .collect();
    let listening_since = members.get(&membership.local).map_or(now_ms, |local| local.since_ms);
    if now_ms.saturating_sub(listening_since) > UNHEARD_MS {
        let down = Liveness { state: NodeState::Down, since_ms: listening_since };
        for node in state.nodes.keys() {
            members.entry(*node).or_insert(down);
        }
    }
    View {
        now_ms,
        members,
        // What a former start of a node said is over.
        soft: soft
            .all()
            .into_iter()
            .filter(|(node, told)| {
                let member = membership.members.get(node);
                member.is_none_or(|member| member.incarnation == told.incarnation)
            })
            .collect(),
        voters: leadership.voters.iter().copied().collect(),
        leader: leadership.leader,
    }
}

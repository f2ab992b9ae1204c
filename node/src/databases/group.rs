//! What the primary of a shard does about its group: one step at a time towards
//! the members that the control state wants.

use std::collections::BTreeSet;
use std::time::Duration;

use rung_consensus::Group;
use rung_control_plane::databases::{MemberStep, Seen, Wanted, copies, member_step};
use rung_control_plane::state::ShardRecord;
use rung_control_plane::{State, View};
use rung_proto::NodeId;
use rung_proto::soft::{CopyKind, CopyState};
use rung_shard::Shard;

const CHANGE: Duration = Duration::from_secs(10);
const CATCH_UP: Duration = Duration::from_secs(20);
/// How long another copy may take to take over.
const HAND_OVER: Duration = Duration::from_secs(5);
/// A learner that lacks no more entries than these becomes a voter.
const NEARLY: u64 = 1_000;

/// The next step for a shard that this node leads, if any.
pub fn next_step(
    me: NodeId,
    shard: &ShardRecord,
    group: &Group,
    state: &State,
    view: &View,
) -> Option<MemberStep> {
    let status = group.status();
    let status = status.borrow();
    let wanted =
        Wanted { copies: copies(state), witness: shard.witness, preferred: shard.preferred };
    let all: BTreeSet<NodeId> = state.nodes.keys().copied().collect();
    let copy = |node: &NodeId| view.copy(*node, shard.group);
    let last = status.last.unwrap_or(0);
    let of = |test: &dyn Fn(&NodeId) -> bool| all.iter().copied().filter(|n| test(n)).collect();
    let seen = Seen {
        voters: status.voters.clone(),
        learners: status.learners.clone(),
        changing: status.changing,
        up: of(&|node| *node == me || view.is_up(*node)),
        open: of(&|node| {
            *node == me
                || view.is_up(*node)
                    && copy(node).is_some_and(|copy| {
                        !matches!(copy.state, CopyState::Broken | CopyState::Stopped)
                    })
        }),
        broken: of(&|node| copy(node).is_some_and(|copy| copy.state == CopyState::Broken)),
        caught_up: of(&|node| {
            let matched = status.matched.get(node).copied().flatten();
            *node == me || matched.is_some_and(|matched| matched + NEARLY >= last)
        }),
        able: of(&|node| {
            view.is_up(*node)
                && wanted.copies.contains(node)
                && copy(node).is_some_and(|copy| {
                    copy.kind == CopyKind::Replica && copy.state == CopyState::Serving
                })
        }),
    };
    // A witness that was elected lets a copy lead.
    if wanted.witness == Some(me) {
        let able = seen.able.iter().find(|node| seen.voters.contains(node));
        return able.copied().map(MemberStep::HandOver);
    }
    member_step(me, &wanted, &seen)
}

/// Takes a step. Errors are logged: the next look tries again, or something else.
pub async fn take(step: MemberStep, name: String, shard: Shard, group: Group) {
    let result = match &step {
        MemberStep::AddLearner(node) => {
            group.add_learner(*node, CHANGE).await.map_err(|error| error.to_string())
        }
        MemberStep::RemoveLearner(node) => {
            group.remove_learner(*node, CHANGE).await.map_err(|error| error.to_string())
        }
        MemberStep::ChangeVoters(voters) => change_voters(&group, voters).await,
        MemberStep::HandOver(node) => {
            shard.hand_over(*node, HAND_OVER).await.map_err(|error| error.to_string())
        }
    };
    match result {
        Ok(()) => tracing::info!(shard = name, ?step, "the shard's group changed"),
        Err(why) => tracing::warn!(shard = name, ?step, why, "the shard's group did not change"),
    }
}

async fn change_voters(group: &Group, voters: &BTreeSet<NodeId>) -> Result<(), String> {
    let known = group.status().borrow().voters.clone();
    for node in voters.iter().filter(|node| !known.contains(node)) {
        let ready = group.wait_until_caught_up(*node, CATCH_UP).await;
        ready.map_err(|error| format!("{node} is not ready: {error}"))?;
    }
    group.change_voters(voters, CHANGE).await.map_err(|error| error.to_string())
}

//! Which nodes the groups of the databases should have.
//!
//! The owners of the role `db` hold a copy of every shard. The control state
//! brings a group into being and says who should be in it; who is in it is the
//! group's own membership, which its leader changes step by step. So a node that
//! lost the role in the control state keeps its copy for as long as its group
//! counts on it.

mod membership;
pub mod recovery;

use std::collections::BTreeSet;

use rung_proto::soft::{CopyKind, CopyState, CopyStatus};
use rung_proto::{NodeId, Role};

use crate::command::{Command, DatabaseCommand};
use crate::placement::{self, grace_ms};
use crate::state::{DatabaseRecord, ShardRecord, State};
use crate::view::View;

pub use membership::{MemberStep, Seen, Wanted, member_step};

/// A group has so many voters at most.
const MAX_VOTERS: usize = 5;

/// What the leader of the control group should change about databases.
pub(crate) fn changes(state: &State, view: &View) -> Vec<Command> {
    let mut commands = Vec::new();
    for database in state.databases.values() {
        for (number, shard) in &database.shards {
            commands.extend(shard_change(database, *number, shard, state, view));
        }
    }
    commands
}

fn shard_change(
    database: &DatabaseRecord,
    number: u32,
    shard: &ShardRecord,
    state: &State,
    view: &View,
) -> Option<Command> {
    let change = if shard.recovery.is_some() {
        recovery::recovered(number, shard, view)
    } else if shard.founded {
        let node = witness(shard, state, view);
        (node != shard.witness).then_some(DatabaseCommand::SetWitness { shard: number, node })
    } else {
        founding(number, shard, state, view)
    };
    change.map(|change| Command::Database { database: database.name.clone(), change })
}

fn founding(
    number: u32,
    shard: &ShardRecord,
    state: &State,
    view: &View,
) -> Option<DatabaseCommand> {
    let owners = state.role(Role::Db).owners;
    if let Some(founder) = shard.founder {
        let founded =
            view.copy(founder, shard.group).is_some_and(|copy| copy.kind == CopyKind::Primary);
        if view.is_up(founder) && founded {
            return Some(DatabaseCommand::Founded { shard: number, node: founder });
        }
        let keeps = owners.contains_key(&founder)
            && !view.is_gone(founder, grace_ms(Role::Db))
            && !view.is_broken(founder, Role::Db);
        if keeps {
            return None;
        }
    }
    let up = owners.keys().filter(|node| view.is_up(**node) && !view.is_broken(**node, Role::Db));
    let first = up.min_by_key(|node| state.nodes.get(node).map(|record| record.joined))?;
    Some(DatabaseCommand::Found { shard: number, node: *first })
}

/// The owners of the role that are still part of the cluster.
pub fn copies(state: &State) -> BTreeSet<NodeId> {
    let owners = state.role(Role::Db).owners;
    owners.into_keys().filter(|node| state.nodes.contains_key(node)).collect()
}

/// Two copies need a third vote, so that the loss of one can be outvoted.
fn witness(shard: &ShardRecord, state: &State, view: &View) -> Option<NodeId> {
    let copies = copies(state);
    if copies.len() != 2 {
        return None;
    }
    let keeps = |node: &NodeId| {
        !copies.contains(node)
            && state.nodes.get(node).is_some_and(|record| !record.draining)
            && !view.is_gone(*node, grace_ms(Role::Db))
    };
    if let Some(node) = shard.witness.filter(keeps) {
        return Some(node);
    }
    let used: BTreeSet<&str> = copies
        .iter()
        .filter_map(|node| state.nodes.get(node))
        .map(|record| record.dc.as_str())
        .collect();
    placement::candidates(Role::Control, state, view)
        .into_iter()
        .filter(|node| !copies.contains(&node.id))
        .min_by_key(|node| (used.contains(node.dc.as_str()), node.joined, node.id))
        .map(|node| node.id)
}

/// The voters that a shard's group should have, given those that it has: every
/// copy and the witness, an odd number where more than two are there.
pub fn voters(
    copies: &BTreeSet<NodeId>,
    witness: Option<NodeId>,
    current: &BTreeSet<NodeId>,
) -> BTreeSet<NodeId> {
    let mut wanted: Vec<NodeId> = copies.iter().copied().chain(witness).collect();
    // Those that vote already come first, so that as little as possible changes.
    wanted.sort_by_key(|node| (!current.contains(node), *node));
    wanted.dedup();
    let count = match wanted.len() {
        0..=2 => wanted.len(),
        more => (more - usize::from(more % 2 == 0)).min(MAX_VOTERS),
    };
    wanted.into_iter().take(count).collect()
}

/// Whether a shard's group is about to give a copy a vote: with those that vote already and
/// those that could, it is one of an odd number of at most five.
pub fn is_to_vote(
    node: NodeId,
    shard: &ShardRecord,
    primary: &CopyStatus,
    state: &State,
    view: &View,
) -> bool {
    let current: BTreeSet<NodeId> = primary.voters.iter().copied().collect();
    let could = |other: &NodeId| {
        let copy = || view.copy(*other, shard.group);
        let works =
            |copy: &CopyStatus| !matches!(copy.state, CopyState::Stopped | CopyState::Broken);
        current.contains(other)
            || *other == node
            || (view.is_up(*other) && copy().is_some_and(works))
    };
    let copies = copies(state).into_iter().filter(could).collect();
    voters(&copies, shard.witness.filter(could), &current).contains(&node)
}

/// Why the copy on a node cannot become the primary of a shard now; nothing when
/// it can.
pub fn cannot_lead(node: NodeId, shard: &ShardRecord, view: &View) -> Option<String> {
    if !view.is_up(node) {
        return Some("is down".to_owned());
    }
    let Some(copy) = view.copy(node, shard.group) else {
        return Some("has no copy".to_owned());
    };
    let voters = view.primary(shard.group).map(|(_, primary)| &primary.voters);
    match copy.kind {
        CopyKind::Primary => Some("is the primary".to_owned()),
        CopyKind::Witness => Some("keeps only the log".to_owned()),
        CopyKind::Replica => match copy.state {
            CopyState::CatchingUp => Some(format!(
                "is catching up{}",
                copy.lag_ms.map(|ms| format!(", {ms} ms behind")).unwrap_or_default()
            )),
            CopyState::Stopped | CopyState::Broken => {
                Some(copy.problem.clone().unwrap_or_else(|| "is broken".to_owned()))
            }
            CopyState::Serving => match voters {
                Some(voters) if !voters.contains(&node) => {
                    Some("does not vote in its group yet".to_owned())
                }
                Some(_) => None,
                None => Some("is elected by its group, which has no primary now".to_owned()),
            },
        },
    }
}

#[cfg(test)]
mod tests;

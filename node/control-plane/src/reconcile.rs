//! The leader's loop: compare what should be with what is observed, and say the
//! next changes. Each call looks at everything afresh, so it does not matter
//! who called it last or whether what it said was carried out.

use std::collections::BTreeSet;

use rung_proto::{InstanceId, NodeId, Role};

use crate::command::Command;
use crate::databases;
use crate::instances;
use crate::operation;
use crate::placement;
use crate::state::{InstanceRecord, State};
use crate::view::View;

/// How long a node must be down before what it owns is placed elsewhere.
pub const NODE_GRACE_MS: u64 = 3_000;
/// Changes proposed at once; the rest comes with the next look.
const MAX_COMMANDS: usize = 64;

/// Something for the leader to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Propose these as one entry.
    Propose(Command),
    /// Make exactly these nodes the control group's voters.
    ChangeVoters(BTreeSet<NodeId>),
    /// Let another voter lead, because this node is to stop being one.
    TransferLeadership(NodeId),
}

/// What the leader `me` should do now; empty when all is as it should be.
pub fn reconcile(me: NodeId, state: &State, view: &View) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut commands = role_changes(state, view);
    for app in state.apps.values() {
        commands.extend(instances::changes(app, state, view));
    }
    commands.extend(databases::changes(state, view));
    commands.extend(orphans(state));
    commands.truncate(MAX_COMMANDS);
    actions.extend(commands.into_iter().map(Action::Propose));
    for record in state.operations.values() {
        if let Some(update) = operation::advance(record, state, view) {
            let update = Box::new(update);
            actions.push(Action::Propose(Command::AdvanceOperation { id: record.id, update }));
        }
    }
    actions.extend(voter_changes(me, state, view));
    actions
}

fn voter_changes(me: NodeId, state: &State, view: &View) -> Option<Action> {
    let wanted = placement::voters(state, view);
    if wanted == view.voters {
        return None;
    }
    if !wanted.contains(&me) {
        // The leader leaves last: first the new set is made, with itself in it,
        // then another of it leads and takes this node out.
        let able = |node: &&NodeId| {
            view.voters.contains(node)
                && view.is_up(**node)
                && !view.is_broken(**node, Role::Control)
        };
        let successor = wanted.iter().find(able).copied();
        let complete = wanted.iter().all(|node| view.voters.contains(node));
        if let (Some(successor), true) = (successor, complete) {
            return Some(Action::TransferLeadership(successor));
        }
        let mut with_me = wanted;
        with_me.insert(me);
        return (with_me != view.voters).then_some(Action::ChangeVoters(with_me));
    }
    Some(Action::ChangeVoters(wanted))
}

fn role_changes(state: &State, view: &View) -> Vec<Command> {
    let mut commands = Vec::new();
    for role in [Role::Dns, Role::Lb, Role::Web, Role::Db] {
        let wanted = placement::role_owners(role, state, view);
        let owners = state.role(role).owners;
        let missing: Vec<NodeId> =
            wanted.iter().copied().filter(|node| !owners.contains_key(node)).collect();
        for node in &missing {
            commands.push(Command::AssignRole { role, node: *node });
        }
        for node in owners.keys().filter(|node| !wanted.contains(node)) {
            let gone =
                view.is_gone(*node, placement::grace_ms(role)) || !state.nodes.contains_key(node);
            // The new owner serves before the old one stops.
            // Where nobody can take over, who has it keeps it.
            let replaced = !wanted.is_empty()
                && missing.is_empty()
                && wanted.iter().all(|new| serves(*new, role, state, view));
            if gone || replaced {
                commands.push(Command::ReleaseRole { role, node: *node });
            }
        }
    }
    commands
}

/// Whether an owner has seen that it is one, and does what that takes.
fn serves(node: NodeId, role: Role, state: &State, view: &View) -> bool {
    let epoch = state.role(role).owners.get(&node).copied();
    epoch.is_some_and(|epoch| view.applied(node) >= epoch.0) && view.serves(node, role)
}

/// What an operation on an app is about.
pub fn app_subject(app: &str) -> String {
    format!("app/{app}")
}

/// Instances whose app is no more.
fn orphans(state: &State) -> Vec<Command> {
    let orphaned = |record: &&InstanceRecord| !state.apps.contains_key(&record.app);
    let ids: Vec<InstanceId> =
        state.instances.values().filter(orphaned).map(|record| record.id).collect();
    ids.into_iter().map(|id| Command::RemoveInstance { id }).collect()
}

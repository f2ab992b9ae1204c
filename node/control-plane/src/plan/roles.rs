//! Plans for roles: how many nodes have one, and which.

use std::collections::BTreeSet;

use rung_proto::{Code, Failure, NodeId, Role};

use super::{Planned, STEP_MS, drain_step_ms, find_node, has_role, no_candidate, node_subject};
use crate::command::Command;
use crate::operation::{NewOperation, StepRecord, Work};
use crate::placement;
use crate::state::{NodeRecord, Pin, State};
use crate::view::View;

pub(super) fn role_subject(role: Role) -> String {
    format!("role/{role}")
}

pub(super) fn scale_role(
    role: Role,
    count: u32,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    if role == Role::Web {
        return Err(Failure::new(Code::Usage, "web is scaled by instances")
            .next("`ctl scale web N`, or `ctl role add NODE web`"));
    }
    if role == Role::Control && !matches!(count, 1 | 3 | 5) {
        return Err(Failure::new(Code::Usage, "the control group has 1, 3 or 5 voters"));
    }
    if count == 0 {
        return Err(Failure::new(Code::Precondition, format!("{role} cannot be scaled to 0")));
    }
    if state.role(role).want == count {
        return Ok(None);
    }
    let possible = placement::candidates(role, state, view).len();
    if possible < count as usize {
        return Err(Failure::new(
            Code::NoCandidate,
            format!("{count} nodes are wanted for {role} and {possible} can have it"),
        )
        .next("let another node join, or uncordon one"));
    }
    let pinned = state.nodes.values().filter(|n| n.pins.get(&role) == Some(&Pin::Include)).count();
    if pinned > count as usize {
        return Err(Failure::new(
            Code::Precondition,
            format!("{pinned} nodes were given {role} by hand"),
        )
        .next(format!("take it from one with `ctl role rm NODE {role}`")));
    }
    Ok(Some(NewOperation {
        kind: "scale".to_owned(),
        summary: format!("scale {role} from {} to {count} nodes", state.role(role).want),
        subjects: vec![role_subject(role)],
        initial: vec![Command::SetRoleWant { role, want: count }],
        steps: vec![StepRecord::new(
            format!("wait for {count} nodes to have {role}"),
            Work::RoleCount { role },
            STEP_MS,
        )],
        compensation: Vec::new(),
    }))
}

/// What gives a role to a node, and what takes the decision back.
fn take_on(node: &NodeRecord, role: Role) -> (Vec<Command>, Vec<Command>) {
    let mut commands = vec![Command::SetPin { node: node.id, role, pin: Some(Pin::Include) }];
    if role != Role::Control {
        commands.push(Command::AssignRole { role, node: node.id });
    }
    (commands, vec![pin_as_it_is(node, role)])
}

fn pin_as_it_is(node: &NodeRecord, role: Role) -> Command {
    Command::SetPin { node: node.id, role, pin: node.pins.get(&role).copied() }
}

fn undo(commands: Vec<Command>) -> Vec<StepRecord> {
    vec![StepRecord::new("let things be as they were", Work::Apply(commands), STEP_MS)]
}

fn refuse_unusable(node: &NodeRecord, role: Role, view: &View) -> Result<(), Failure> {
    let name = &node.name;
    if !view.is_up(node.id) {
        return Err(Failure::new(Code::Precondition, format!("{name} is down"))
            .next("start it, then try again"));
    }
    if node.draining || node.cordoned {
        return Err(Failure::new(Code::Precondition, format!("{name} takes nothing new"))
            .because(if node.draining { "it is being drained" } else { "it is cordoned" })
            .next(format!("`ctl node uncordon {name}`")));
    }
    if view.is_broken(node.id, role) {
        return Err(Failure::new(
            Code::Precondition,
            format!("{name} could not keep {role} running"),
        )
        .next(format!("see `ctl logs {role}`, then start {name} again")));
    }
    Ok(())
}

/// The control group has as many voters as wanted and no more, so all of them
/// cannot be pinned and another one as well.
fn refuse_too_many_pinned_voters(
    node: &NodeRecord,
    giver: Option<NodeId>,
    state: &State,
) -> Result<(), Failure> {
    let pinned = |other: &&NodeRecord| {
        other.id != node.id
            && Some(other.id) != giver
            && other.pins.get(&Role::Control) == Some(&Pin::Include)
    };
    let names: Vec<&str> =
        state.nodes.values().filter(pinned).map(|other| other.name.as_str()).collect();
    let want = state.role(Role::Control).want;
    if names.len() < want as usize {
        return Ok(());
    }
    Err(Failure::new(Code::Precondition, format!("all {want} control voters are chosen by hand"))
        .because(format!("they are {}", names.join(", ")))
        .next("`ctl move control` from one of them, or `ctl scale control`"))
}

pub(super) fn add_role(
    name: &str,
    role: Role,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    if has_role(node.id, role, state, view) && state.pin(node.id, role) == Some(Pin::Include) {
        return Ok(None);
    }
    refuse_unusable(node, role, view)?;
    let (mut initial, mut back) = take_on(node, role);
    let had = state.role(role);
    match role {
        Role::Control => refuse_too_many_pinned_voters(node, None, state)?,
        // Nobody else is to lose the role because one more gets it.
        Role::Dns | Role::Lb | Role::Db if !had.owners.contains_key(&node.id) => {
            let want = had.want.max(had.owners.len() as u32 + 1);
            if want != had.want {
                initial.push(Command::SetRoleWant { role, want });
                back.push(Command::SetRoleWant { role, want: had.want });
            }
        }
        Role::Dns | Role::Lb | Role::Web | Role::Db => {}
    }
    Ok(Some(NewOperation {
        kind: "role-add".to_owned(),
        summary: format!("give {role} to {name}"),
        subjects: vec![role_subject(role), node_subject(name)],
        initial,
        steps: vec![StepRecord::new(
            format!("wait for {role} on {name}"),
            Work::RoleOn { role, node: node.id },
            STEP_MS,
        )],
        compensation: undo(back),
    }))
}

pub(super) fn remove_role(
    name: &str,
    role: Role,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    if !has_role(node.id, role, state, view) && state.pin(node.id, role) == Some(Pin::Exclude) {
        return Ok(None);
    }
    let others = placement::candidates(role, state, view).iter().any(|other| other.id != node.id);
    if !others {
        let without: Vec<&NodeRecord> =
            state.nodes.values().filter(|other| other.id != node.id).collect();
        let mut failure = no_candidate(role, state, view);
        if without.is_empty() {
            failure = failure.next("let another node join first");
        }
        return Err(failure);
    }
    Ok(Some(NewOperation {
        kind: "role-rm".to_owned(),
        summary: format!("take {role} from {name}"),
        subjects: vec![role_subject(role), node_subject(name)],
        initial: vec![Command::SetPin { node: node.id, role, pin: Some(Pin::Exclude) }],
        steps: vec![StepRecord::new(
            format!("wait for {role} to leave {name}"),
            Work::RoleOff { role, node: node.id },
            drain_step_ms(state),
        )],
        compensation: undo(vec![pin_as_it_is(node, role)]),
    }))
}

/// Who gives the role up in a move: the owner that was not pinned and joined
/// last, in the target's own data center if one is there.
pub(super) fn giver<'a>(
    role: Role,
    to: &NodeRecord,
    state: &'a State,
    view: &View,
) -> Option<&'a NodeRecord> {
    let owners: BTreeSet<NodeId> = match role {
        Role::Control => view.voters.clone(),
        Role::Dns | Role::Lb | Role::Web | Role::Db => {
            state.role(role).owners.keys().copied().collect()
        }
    };
    owners
        .iter()
        .filter(|owner| **owner != to.id)
        .filter_map(|owner| state.nodes.get(owner))
        .max_by_key(|node| {
            let pinned = node.pins.get(&role) == Some(&Pin::Include);
            (!view.is_up(node.id), !pinned, node.dc == to.dc, node.joined)
        })
}

pub(super) fn move_role(
    role: Role,
    name: &str,
    from: Option<&str>,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    let from = from.map(|from| find_node(from, state)).transpose()?;
    if let Some(from) = from
        && !has_role(from.id, role, state, view)
    {
        return Err(Failure::new(
            Code::Precondition,
            format!("{} does not have {role}", from.name),
        ));
    }
    if has_role(node.id, role, state, view) && from.is_none() {
        return Ok(None);
    }
    refuse_unusable(node, role, view)?;
    let (mut initial, mut back) = take_on(node, role);
    let mut steps = vec![StepRecord::new(
        format!("wait for {role} on {name}"),
        Work::RoleOn { role, node: node.id },
        STEP_MS,
    )];
    let Some(from) = from.or_else(|| giver(role, node, state, view)) else {
        return Err(Failure::new(Code::Precondition, format!("no node has {role} to move"))
            .next(format!("`ctl role add {name} {role}`")));
    };
    if from.id == node.id {
        return Err(Failure::new(Code::Usage, format!("{name} cannot take {role} from itself")));
    }
    if role == Role::Control {
        refuse_too_many_pinned_voters(node, Some(from.id), state)?;
    }
    back.push(pin_as_it_is(from, role));
    // The old owner stops once the new one serves. It may get the role again
    // later, so the exclusion is lifted when it has stopped.
    let exclude = Command::SetPin { node: from.id, role, pin: Some(Pin::Exclude) };
    let lift = Command::SetPin { node: from.id, role, pin: None };
    if role == Role::Control {
        // The planner swaps voters by itself as one membership change.
        initial.push(exclude);
    } else {
        steps.push(StepRecord::new(
            format!("take {role} from {}", from.name),
            Work::Apply(vec![exclude]),
            STEP_MS,
        ));
    }
    steps.push(StepRecord::new(
        format!("wait for {role} to leave {}", from.name),
        Work::RoleOff { role, node: from.id },
        drain_step_ms(state),
    ));
    steps.push(StepRecord::new(
        format!("let {} take {role} again when needed", from.name),
        Work::Apply(vec![lift]),
        STEP_MS,
    ));
    Ok(Some(NewOperation {
        kind: "move".to_owned(),
        summary: format!("move {role} from {} to {name}", from.name),
        subjects: vec![role_subject(role), node_subject(name), node_subject(&from.name)],
        initial,
        steps,
        compensation: undo(back),
    }))
}

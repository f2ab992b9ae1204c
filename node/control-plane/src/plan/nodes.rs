//! Plans for nodes: drain, cordon, remove.

use rung_proto::{Code, Failure, Role};

use super::{Planned, STEP_MS, drain_step_ms, find_node, has_role, no_candidate, node_subject};
use crate::command::Command;
use crate::operation::{self, NewOperation, StepRecord, Work};
use crate::placement;
use crate::state::{NodeRecord, State};
use crate::view::View;

/// Refuses when nothing could take over what a node has.
pub(super) fn refuse_last(node: &NodeRecord, state: &State, view: &View) -> Result<(), Failure> {
    let has = |role: &Role| has_role(node.id, *role, state, view);
    for role in Role::ALL.into_iter().filter(has) {
        let others =
            placement::candidates(role, state, view).iter().any(|other| other.id != node.id);
        if !others {
            return Err(Failure::new(
                Code::NoCandidate,
                format!("nothing can take over {role} from {}", node.name),
            )
            .because(no_candidate(role, state, view).why)
            .next("let another node join first"));
        }
    }
    Ok(())
}

pub(super) fn drain(name: &str, state: &State, view: &View) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    if node.draining && operation::is_empty(node.id, state, view) {
        return Ok(None);
    }
    refuse_last(node, state, view)?;
    Ok(Some(NewOperation {
        kind: "drain".to_owned(),
        summary: format!("move everything off {name}"),
        subjects: vec![node_subject(name)],
        initial: vec![Command::SetDraining { node: node.id, on: true }],
        steps: vec![StepRecord::new(
            format!("wait for {name} to be empty"),
            Work::NodeEmpty { node: node.id },
            drain_step_ms(state),
        )],
        compensation: Vec::new(),
    }))
}

pub(super) fn cordon(name: &str, on: bool, state: &State) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    let nothing = if on { node.cordoned } else { !node.cordoned && !node.draining };
    if nothing {
        return Ok(None);
    }
    let mut initial = vec![Command::SetCordoned { node: node.id, on }];
    if !on {
        initial.push(Command::SetDraining { node: node.id, on: false });
    }
    Ok(Some(NewOperation {
        kind: if on { "cordon" } else { "uncordon" }.to_owned(),
        summary: if on {
            format!("place nothing new on {name}")
        } else {
            format!("let {name} take work again")
        },
        subjects: vec![node_subject(name)],
        initial,
        steps: Vec::new(),
        compensation: Vec::new(),
    }))
}

pub(super) fn remove_node(name: &str, state: &State, view: &View) -> Result<Planned, Failure> {
    let node = find_node(name, state)?;
    refuse_last(node, state, view)?;
    Ok(Some(NewOperation {
        kind: "node-remove".to_owned(),
        summary: format!("remove {name} from the cluster"),
        subjects: vec![node_subject(name)],
        initial: vec![Command::SetDraining { node: node.id, on: true }],
        steps: vec![
            StepRecord::new(
                format!("wait for {name} to be empty"),
                Work::NodeEmpty { node: node.id },
                drain_step_ms(state),
            ),
            StepRecord::new(
                format!("forget {name}"),
                Work::Apply(vec![Command::RemoveNode { node: node.id }]),
                STEP_MS,
            ),
        ],
        compensation: Vec::new(),
    }))
}

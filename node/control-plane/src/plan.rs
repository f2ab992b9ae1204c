//! From what a person asks for to an operation, or a refusal that says why.

use std::collections::BTreeMap;

use rung_proto::api::Change;
use rung_proto::{Code, Failure, NodeId, Role};

use crate::operation::NewOperation;
use crate::state::{AppRecord, NodeRecord, Pin, ReleaseRecord, State};
use crate::view::View;

mod apps;
mod databases;
mod nodes;
mod recovery;
mod roles;

pub(crate) use databases::cannot_promote;
pub(crate) use recovery::missing_consent;

/// A change that, as planned, makes the operation; or there is nothing to do.
pub type Planned = Option<NewOperation>;

/// How long a step may take that says nothing else.
const STEP_MS: u64 = 120_000;

/// What the planner needs beside the state: things that were prepared outside it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Prepared {
    /// The release of a stored bundle, for [`Change::Deploy`].
    pub release: Option<ReleaseRecord>,
    /// The sealed new variables and their names, for [`Change::SetEnv`].
    pub env: Option<(crate::sealed::Sealed, Vec<String>)>,
    /// What the password of a new database is checked against.
    pub verifier: Option<String>,
}

/// Plans a change.
///
/// # Errors
/// When it names something that is not there, is refused by a precondition, or
/// something else is changing the same thing.
pub fn plan(
    change: &Change,
    prepared: Prepared,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let planned = match change {
        Change::Deploy { .. } => {
            let release = prepared
                .release
                .ok_or_else(|| Failure::new(Code::Internal, "the bundle was not prepared"))?;
            apps::deploy(release, prepared.verifier, state, view)
        }
        Change::Rollback { app, release } => apps::rollback(app, *release, state, view),
        Change::SetEnv { app, .. } => apps::set_env(app, prepared, state, view),
        Change::RemoveApp { app } => apps::remove_app(app, state),
        Change::ScaleWeb { app, count } => apps::scale_web(app.as_deref(), *count, state, view),
        Change::ScaleRole { role, count } => roles::scale_role(*role, *count, state, view),
        Change::AddRole { node, role } => roles::add_role(node, *role, state, view),
        Change::RemoveRole { node, role } => roles::remove_role(node, *role, state, view),
        Change::Move { role, node, from } => {
            roles::move_role(*role, node, from.as_deref(), state, view)
        }
        Change::Drain { node } => nodes::drain(node, state, view),
        Change::Cordon { node, on } => nodes::cordon(node, *on, state),
        Change::RemoveNode { node } => nodes::remove_node(node, state, view),
        Change::Promote { node, database, shard, consent } => {
            databases::promote(node, database.as_deref(), *shard, *consent, state, view)
        }
        Change::RecoverDatabase { database, shard, from, consent } => {
            recovery::recover(database, *shard, from.as_deref(), *consent, state, view)
        }
        Change::CreateDatabase { name } => databases::create(name, prepared.verifier, state, view),
        Change::ArchiveDatabase { database, archive } => {
            databases::archive(database, archive.clone(), state)
        }
    }?;
    if let Some(operation) = &planned {
        refuse_if_busy(operation, state)?;
    }
    Ok(planned)
}

fn refuse_if_busy(new: &NewOperation, state: &State) -> Result<(), Failure> {
    let running = state.operations.values().find(|running| {
        !running.state.is_finished()
            && running.subjects.iter().any(|subject| new.subjects.contains(subject))
    });
    match running {
        None => Ok(()),
        Some(running) => Err(Failure::new(
            Code::OperationRunning,
            format!("operation {} is changing the same thing", running.id),
        )
        .because(running.summary.clone())
        .next(format!("`ctl op watch {}`, then try again", running.id))),
    }
}

fn find_node<'a>(name: &str, state: &'a State) -> Result<&'a NodeRecord, Failure> {
    state.node_named(name).ok_or_else(|| {
        let names: Vec<&str> = state.nodes.values().map(|node| node.name.as_str()).collect();
        Failure::new(Code::NotFound, format!("there is no node {name}"))
            .because(format!("the nodes are {}", names.join(", ")))
    })
}

/// How long a step may take that ends with instances of any app drained.
fn drain_step_ms(state: &State) -> u64 {
    let longest = state.apps.values().map(apps::drain_ms).max().unwrap_or(0);
    STEP_MS.saturating_add(longest)
}

fn has_role(node: NodeId, role: Role, state: &State, view: &View) -> bool {
    match role {
        Role::Control => view.voters.contains(&node),
        Role::Dns | Role::Lb | Role::Web | Role::Db => state.owns(node, role),
    }
}

fn node_subject(name: &str) -> String {
    format!("node/{name}")
}

fn find_app<'a>(name: &str, state: &'a State) -> Result<&'a AppRecord, Failure> {
    state.apps.get(name).filter(|app| !app.removing).ok_or_else(|| {
        let names: Vec<&str> = state.apps.keys().map(String::as_str).collect();
        let why = if names.is_empty() {
            "no app is deployed".to_owned()
        } else {
            format!("the apps are {}", names.join(", "))
        };
        Failure::new(Code::NotFound, format!("there is no app {name}")).because(why)
    })
}

fn no_candidate(role: Role, state: &State, view: &View) -> Failure {
    let mut reasons: Vec<String> = Vec::new();
    for node in state.nodes.values() {
        let reason = if !view.is_up(node.id) {
            "is down"
        } else if node.draining {
            "is being drained"
        } else if node.cordoned {
            "is cordoned"
        } else if node.pins.get(&role) == Some(&Pin::Exclude) {
            "was told not to have the role"
        } else if view.is_broken(node.id, role) {
            "could not keep the role running"
        } else {
            "has it already"
        };
        reasons.push(format!("{} {reason}", node.name));
    }
    Failure::new(Code::NoCandidate, format!("no node can take {role}")).because(reasons.join("; "))
}

/// The new variables of an app: the old ones changed as asked.
///
/// # Errors
/// When the result would be too large.
pub fn merge_env(
    mut env: BTreeMap<String, String>,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Result<BTreeMap<String, String>, Failure> {
    env.extend(set.iter().map(|(name, value)| (name.clone(), value.clone())));
    for name in unset {
        env.remove(name);
    }
    let bytes: usize = env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    if bytes > crate::secrets::MAX_ENV_BYTES {
        return Err(Failure::new(
            Code::Usage,
            format!(
                "the variables take {bytes} bytes, more than {}",
                crate::secrets::MAX_ENV_BYTES
            ),
        ));
    }
    Ok(env)
}

#[cfg(test)]
mod tests;

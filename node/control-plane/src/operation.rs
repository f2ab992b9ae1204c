//! Operations: changes with an id, a plan, steps and a result, kept in the
//! control log.
//!
//! Whoever leads the control group runs them. Nothing about a running operation
//! lives outside the state: [`advance`] looks at the record and at what is
//! observed and says the next [`StepUpdate`], which applies only if the step
//! still is where it was seen. A runner that dies between any two steps, or two
//! runners at once, therefore carry out every step once.

use rung_proto::api::{self, OperationState, StepState};
use rung_proto::soft::{CopyState, InstanceState};
use rung_proto::{Code, Failure, NodeId, OperationId, Role};
use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::databases::recovery;
use crate::instances;
use crate::plan;
use crate::reconcile::NODE_GRACE_MS;
use crate::state::{AppRecord, InstanceRecord, State};
use crate::view::View;

/// A release whose instances crashed this often is bad.
const BAD_RELEASE_RESTARTS: u32 = 3;

/// What a step does, or waits for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Changes the state, and is done.
    Apply(Vec<Command>),
    /// Every wanted instance of the app in the data center is healthy on its
    /// target release and variables, and no other one is left there.
    Converged { app: String, dc: String },
    /// The app has this many healthy instances and no others.
    InstanceCount { app: String, count: u32 },
    /// The node owns the role and has seen that it does.
    RoleOn { role: Role, node: NodeId },
    /// The node does not own the role and runs nothing of it.
    RoleOff { role: Role, node: NodeId },
    /// As many nodes as wanted have the role.
    RoleCount { role: Role },
    /// The node owns nothing and runs nothing.
    NodeEmpty { node: NodeId },
    /// Every shard of the database has a primary that serves.
    DatabaseServes { database: String },
    /// The copy on the node is the primary of the shard.
    PrimaryOn { database: String, shard: u32, node: NodeId },
    /// Every survivor has accepted the new generation; then one is taken.
    ChooseSurvivor { database: String, shard: u32, generation: u64 },
    /// The new generation is the shard's.
    Recovered { database: String, shard: u32, generation: u64 },
    /// The archive of every shard of the database has everything.
    DatabaseArchived { database: String },
    /// No instance of the app is left.
    AppGone { app: String },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    pub name: String,
    pub work: Work,
    pub state: StepState,
    #[serde(default)]
    pub note: String,
    /// When it became the running step.
    #[serde(default)]
    pub started_ms: u64,
    /// How long it may take, after it began or last got further, before it has failed.
    pub budget_ms: u64,
    /// How far its work has got, in units of the work's own, and when it got there.
    /// Only work that is known to take longer with more data has any.
    #[serde(default)]
    pub reached: u64,
    #[serde(default)]
    pub reached_ms: u64,
}

impl StepRecord {
    pub fn new(name: impl Into<String>, work: Work, budget_ms: u64) -> Self {
        Self {
            name: name.into(),
            work,
            state: StepState::Waiting,
            note: String::new(),
            started_ms: 0,
            budget_ms,
            reached: 0,
            reached_ms: 0,
        }
    }
}

/// A plan, before it has an id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NewOperation {
    pub kind: String,
    pub summary: String,
    /// What it changes, for example `app/notes`: one operation at a time each.
    pub subjects: Vec<String>,
    /// Changes made together with the operation's own record.
    pub initial: Vec<Command>,
    pub steps: Vec<StepRecord>,
    /// Steps that undo it when one fails; empty when there is nothing to undo.
    pub compensation: Vec<StepRecord>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OperationRecord {
    pub id: OperationId,
    pub kind: String,
    pub summary: String,
    pub subjects: Vec<String>,
    pub state: OperationState,
    pub steps: Vec<StepRecord>,
    #[serde(default)]
    pub compensation: Vec<StepRecord>,
    /// Set once a step failed and the compensation runs.
    #[serde(default)]
    pub undoing: bool,
    pub requested_by: String,
    pub created_ms: u64,
    #[serde(default)]
    pub finished_ms: Option<u64>,
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// Moves an operation on: from exactly the step and state that the runner saw.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StepUpdate {
    /// Whether the step is one of the compensation.
    pub undoing: bool,
    pub step: usize,
    pub from: StepState,
    pub to: StepState,
    pub note: String,
    /// How far the work has got; a step never falls behind what it has reached.
    #[serde(default)]
    pub reached: u64,
    /// Made with the step, all or none.
    pub commands: Vec<Command>,
    pub failure: Option<Failure>,
}

impl OperationRecord {
    /// The steps that run now: the plan's, or those that undo it.
    pub fn current_steps(&self) -> &[StepRecord] {
        if self.undoing { &self.compensation } else { &self.steps }
    }

    /// The first step that is not finished.
    pub fn current_step(&self) -> Option<(usize, &StepRecord)> {
        self.current_steps()
            .iter()
            .enumerate()
            .find(|(_, step)| matches!(step.state, StepState::Waiting | StepState::Running))
    }

    /// As a person sees it.
    pub fn to_api(&self) -> api::Operation {
        let undo: &[StepRecord] = if self.undoing { &self.compensation } else { &[] };
        let steps = self.steps.iter().chain(undo);
        api::Operation {
            id: self.id,
            kind: self.kind.clone(),
            summary: self.summary.clone(),
            state: self.state,
            steps: steps
                .map(|step| api::Step {
                    name: step.name.clone(),
                    state: step.state,
                    note: step.note.clone(),
                })
                .collect(),
            requested_by: self.requested_by.clone(),
            created_ms: self.created_ms,
            finished_ms: self.finished_ms,
            result: self.state.is_finished().then(|| match self.state {
                OperationState::Done => "done".to_owned(),
                OperationState::RolledBack => "rolled back".to_owned(),
                OperationState::Failed | OperationState::Running => "failed".to_owned(),
            }),
            failure: self.failure.clone(),
        }
    }
}

/// What is seen of a step's work.
#[derive(Debug, PartialEq)]
pub(crate) enum Progress {
    Reached,
    Waiting(String),
    Failed(Failure),
}

/// The next update of a running operation, or nothing while it waits.
pub fn advance(operation: &OperationRecord, state: &State, view: &View) -> Option<StepUpdate> {
    if operation.state.is_finished() {
        return None;
    }
    let (index, step) = operation.current_step()?;
    let update = |to: StepState, note: String| StepUpdate {
        undoing: operation.undoing,
        step: index,
        from: step.state,
        to,
        note,
        reached: reached(&step.work, view),
        commands: Vec::new(),
        failure: None,
    };
    if let Work::Apply(commands) = &step.work {
        let commands = commands.clone();
        return Some(StepUpdate { commands, ..update(StepState::Done, String::new()) });
    }
    if step.state == StepState::Waiting {
        return Some(update(StepState::Running, String::new()));
    }
    let progress = match &step.work {
        Work::ChooseSurvivor { database, shard, generation } => {
            match recovery::choose(database, *shard, *generation, state, view) {
                Ok((note, command)) => {
                    let commands = vec![command];
                    return Some(StepUpdate { commands, ..update(StepState::Done, note) });
                }
                Err(progress) => progress,
            }
        }
        work => progress(work, operation.undoing, state, view),
    };
    match progress {
        Progress::Reached => Some(update(StepState::Done, String::new())),
        Progress::Failed(failure) => {
            let note = failure.what.clone();
            Some(StepUpdate { failure: Some(failure), ..update(StepState::Failed, note) })
        }
        Progress::Waiting(note) => {
            let since = step.started_ms.max(step.reached_ms);
            let waited = view.now_ms.saturating_sub(since);
            let got_further = reached(&step.work, view) > step.reached;
            if !got_further && waited > step.budget_ms {
                let failure =
                    Failure::new(Code::AppFailed, format!("{:?} took too long", step.name))
                        .because(format!("after {} s: {note}", waited / 1000))
                        .next("see `ctl status` and `ctl events`");
                return Some(StepUpdate {
                    failure: Some(failure),
                    ..update(StepState::Failed, note)
                });
            }
            (got_further || note != step.note).then(|| update(StepState::Running, note))
        }
    }
}

/// Copying a large database may take hours and is no failure while it goes on: how many
/// pieces of 64 MiB copies have taken over, those of all databases together, since
/// which of them a node waits for is not known from the step.
fn reached(work: &Work, view: &View) -> u64 {
    const PIECE: u64 = 64 << 20;
    let copies = || view.soft.values().flat_map(|soft| &soft.databases);
    match work {
        Work::RoleOn { role: Role::Db, .. }
        | Work::RoleOff { role: Role::Db, .. }
        | Work::RoleCount { role: Role::Db }
        | Work::NodeEmpty { .. } => copies().map(|copy| copy.snapshot_bytes / PIECE).sum(),
        _ => 0,
    }
}

fn progress(work: &Work, undoing: bool, state: &State, view: &View) -> Progress {
    match work {
        Work::Apply(_) | Work::ChooseSurvivor { .. } => Progress::Reached,
        Work::Recovered { database, shard, generation } => {
            recovery::is_recovered(database, *shard, *generation, state)
        }
        Work::Converged { app, dc } => match state.apps.get(app) {
            Some(record) => converged(record, dc, undoing, state, view),
            None => Progress::Failed(app_is_gone(app)),
        },
        Work::InstanceCount { app, count } => instance_count(app, *count, state, view),
        Work::RoleOn { role, node } => role_on(*role, *node, state, view),
        Work::RoleOff { role, node } => role_off(*role, *node, state, view),
        Work::RoleCount { role } => role_count(*role, state, view),
        Work::NodeEmpty { node } => node_empty(*node, state, view),
        Work::DatabaseServes { database } => database_serves(database, state, view),
        Work::PrimaryOn { database, shard, node } => {
            primary_on(database, *shard, *node, state, view)
        }
        Work::DatabaseArchived { database } => database_archived(database, state, view),
        Work::AppGone { app } => match state.instances_of(app).count() {
            0 => Progress::Reached,
            left => Progress::Waiting(format!("{left} instances are still draining")),
        },
    }
}

fn database_serves(database: &str, state: &State, view: &View) -> Progress {
    let Some(record) = state.databases.get(database) else {
        let what = format!("the database {database} was removed meanwhile");
        return Progress::Failed(Failure::new(Code::NotFound, what));
    };
    for (number, shard) in &record.shards {
        let primary = view.primary(shard.group);
        if !primary.is_some_and(|(_, copy)| copy.state == CopyState::Serving && shard.founded) {
            return Progress::Waiting(format!("shard {number} has no primary yet"));
        }
    }
    Progress::Reached
}

fn database_archived(database: &str, state: &State, view: &View) -> Progress {
    let Some(record) = state.databases.get(database) else {
        let what = format!("the database {database} was removed meanwhile");
        return Progress::Failed(Failure::new(Code::NotFound, what));
    };
    for shard in record.shards.values() {
        let told = view.archive(shard.group).filter(|(_, told)| {
            record.archive.as_ref().is_some_and(|archive| archive.dir == told.dir)
        });
        let Some((node, archive)) = told else {
            return Progress::Waiting("no node has begun it yet".to_owned());
        };
        let name = state.node_name(node);
        match &archive.problem {
            Some(problem) => {
                let what = format!("{name} cannot write the archive");
                return Progress::Failed(
                    Failure::new(Code::ArchiveUnusable, what).because(problem).next(format!(
                        "it is tried again all the time; `ctl db archive {database} --off` ends that"
                    )),
                );
            }
            None if archive.base_ms.is_none() || archive.complete_ms == 0 => {
                return Progress::Waiting(format!("{name} makes the first base"));
            }
            None => {}
        }
    }
    Progress::Reached
}

fn primary_on(database: &str, shard: u32, node: NodeId, state: &State, view: &View) -> Progress {
    let found = state.databases.get(database);
    let found = found.and_then(|found| Some((found, found.shards.get(&shard)?)));
    let Some((database, record)) = found else {
        let what = format!("shard {shard} of {database} was removed meanwhile");
        return Progress::Failed(Failure::new(Code::NotFound, what));
    };
    if view.is_gone(node, 0) {
        // It was there when this was planned; whoever waits hears it now, not when time is up.
        let name = state.node_name(node);
        return Progress::Failed(plan::cannot_promote(&name, database, record, state, view));
    }
    match view.primary(record.group) {
        Some((primary, copy)) if primary == node && copy.state == CopyState::Serving => {
            Progress::Reached
        }
        Some((primary, _)) if primary == node => {
            Progress::Waiting("it leads and does not serve yet".to_owned())
        }
        Some((primary, _)) => {
            Progress::Waiting(format!("{} is still the primary", state.node_name(primary)))
        }
        None => Progress::Waiting("there is no primary".to_owned()),
    }
}

fn app_is_gone(app: &str) -> Failure {
    Failure::new(Code::NotFound, format!("the app {app} was removed meanwhile"))
}

/// The failure of an instance that shows that its release is bad.
/// One that was there before the operation says nothing about what it does.
fn bad_instance(instance: &InstanceRecord, state: &State, view: &View) -> Option<Failure> {
    if !instances::is_judged(instance, state) {
        return None;
    }
    let status = view.instance(instance.node, instance.id)?;
    let crashed = status.restarts >= BAD_RELEASE_RESTARTS && status.state != InstanceState::Healthy;
    if status.state != InstanceState::Failed && !crashed {
        return None;
    }
    let node = state.node_name(instance.node);
    let what =
        format!("{} release {} does not become healthy on {node}", instance.app, instance.release);
    Some(
        Failure::new(Code::AppFailed, what)
            .because(status.problem.clone().unwrap_or_default())
            .next(format!("`ctl logs {}` shows more", instance.app)),
    )
}

fn converged(app: &AppRecord, dc: &str, undoing: bool, state: &State, view: &View) -> Progress {
    let is_here = |node: NodeId| state.nodes.get(&node).is_some_and(|node| node.dc == dc);
    let here = |instance: &&InstanceRecord| {
        is_here(instance.node) && !view.is_gone(instance.node, NODE_GRACE_MS)
    };
    let fresh = |instance: &InstanceRecord| {
        !instance.drain && instances::is_on_target(instance, app, state)
    };
    // A cordoned node's instances are replaced elsewhere, so not only here. While
    // undoing, the bad ones are still what the other data centers should run.
    let mut placed = state
        .instances_of(&app.name)
        .filter(|instance| fresh(instance) && (!undoing || is_here(instance.node)));
    if let Some(failure) = placed.find_map(|instance| bad_instance(instance, state, view)) {
        return Progress::Failed(failure);
    }
    let (mut healthy, mut starting, mut old) = (0, 0, 0);
    for instance in state.instances_of(&app.name).filter(here) {
        if !fresh(instance) {
            old += 1;
        } else if view.is_healthy(instance.node, instance.id) {
            healthy += 1;
        } else if !instances::has_failed(instance, state, view) {
            starting += 1;
        }
    }
    let hosts = crate::placement::instance_distribution(app, state, view);
    let wanted: u32 =
        hosts.iter().filter(|(node, _)| is_here(**node)).map(|(_, count)| count).sum();
    let in_all: u32 = hosts.values().sum();
    if !app.removing && in_all < app.web {
        let left = app.web - in_all;
        return Progress::Waiting(format!("no node can take {left} of {} instances", app.web));
    }
    if healthy >= wanted && starting == 0 && old == 0 {
        return Progress::Reached;
    }
    Progress::Waiting(format!("{healthy} of {wanted} healthy, {old} old ones left"))
}

fn instance_count(app: &str, count: u32, state: &State, view: &View) -> Progress {
    let mut healthy = 0;
    let mut others = 0;
    for instance in state.instances_of(app) {
        if !instance.drain && view.is_healthy(instance.node, instance.id) {
            healthy += 1;
        } else if instance.drain || !instances::has_failed(instance, state, view) {
            others += 1;
        }
    }
    if healthy == count && others == 0 {
        return Progress::Reached;
    }
    Progress::Waiting(format!("{healthy} of {count} healthy, {others} starting or draining"))
}

fn role_on(role: Role, node: NodeId, state: &State, view: &View) -> Progress {
    if view.is_gone(node, NODE_GRACE_MS) {
        let name = state.node_name(node);
        return Progress::Failed(
            Failure::new(Code::Unreachable, format!("{name} is down")).next("start it again"),
        );
    }
    let owns = match role {
        Role::Control => view.voters.contains(&node),
        Role::Dns | Role::Lb | Role::Web | Role::Db => state.owns(node, role),
    };
    if !owns {
        return Progress::Waiting("not assigned yet".to_owned());
    }
    if view.is_broken(node, role) {
        let name = state.node_name(node);
        return Progress::Failed(
            Failure::new(Code::Internal, format!("{role} does not run on {name}"))
                .because("it ended again and again")
                .next(format!("`ctl logs {role} --node {name}`")),
        );
    }
    let changed = state.roles.get(&role).and_then(|record| record.owners.get(&node));
    match changed {
        Some(epoch) if view.applied(node) < epoch.0 => {
            Progress::Waiting("the node has not seen it yet".to_owned())
        }
        _ if !view.serves(node, role) => {
            Progress::Waiting(format!("{role} does not listen there yet"))
        }
        _ => Progress::Reached,
    }
}

fn role_off(role: Role, node: NodeId, state: &State, view: &View) -> Progress {
    let owns = match role {
        Role::Control => view.voters.contains(&node),
        Role::Dns | Role::Lb | Role::Web | Role::Db => state.owns(node, role),
    };
    if owns {
        return Progress::Waiting("still assigned".to_owned());
    }
    if role == Role::Db && has_copies(node, view) {
        return Progress::Waiting("the others still count on its copies".to_owned());
    }
    let left = state.instances.values().filter(|instance| instance.node == node).count();
    if role == Role::Web && left > 0 && !view.is_gone(node, NODE_GRACE_MS) {
        return Progress::Waiting(format!("{left} instances are still draining"));
    }
    Progress::Reached
}

fn role_count(role: Role, state: &State, view: &View) -> Progress {
    let want = state.role(role).want as usize;
    let have = match role {
        Role::Control => view.voters.len(),
        Role::Dns | Role::Lb | Role::Web => state.role(role).owners.len(),
        // A copy counts once it has everything.
        Role::Db => {
            let owners = state.role(role).owners;
            if owners.len() > want {
                return Progress::Waiting(format!("{} of {want}", owners.len()));
            }
            owners.keys().filter(|node| view.serves(**node, role)).count()
        }
    };
    if have == want {
        return Progress::Reached;
    }
    Progress::Waiting(format!("{have} of {want}"))
}

fn node_empty(node: NodeId, state: &State, view: &View) -> Progress {
    let votes = view.voters.contains(&node);
    let roles: Vec<&str> = Role::ALL
        .into_iter()
        .filter(|role| state.owns(node, *role) || (*role == Role::Control && votes))
        .map(Role::name)
        .collect();
    let instances = state.instances.values().filter(|instance| instance.node == node).count();
    // What a node that is gone had is taken from it like from any other.
    if roles.is_empty() && instances == 0 && !has_copies(node, view) {
        return Progress::Reached;
    }
    Progress::Waiting(format!("{instances} instances left, roles {}", roles.join(" ")))
}

/// Whether a node that is up holds copies of databases.
fn has_copies(node: NodeId, view: &View) -> bool {
    view.is_up(node) && view.soft.get(&node).is_some_and(|soft| !soft.databases.is_empty())
}

/// Whether a node has no role and no instance, which ends a drain.
pub fn is_empty(node: NodeId, state: &State, view: &View) -> bool {
    node_empty(node, state, view) == Progress::Reached
}

#[cfg(test)]
mod tests;

//! Plans for apps: deploy, roll back, variables, scale, remove.

use rung_proto::{Code, Failure, Role};

use super::{Planned, Prepared, STEP_MS, databases, find_app, no_candidate};
use crate::command::Command;
use crate::operation::{NewOperation, StepRecord, Work};
use crate::placement;
use crate::reconcile::app_subject;
use crate::state::{AppRecord, MAX_INSTANCES, ReleaseRecord, State};
use crate::view::View;

/// How long a data center may take to take over a release.
const ROLLOUT_MS: u64 = 120_000;

/// How long the old instances of an app may take to end, beside their own time:
/// the balancers let go and processes are ended.
const LET_GO_MS: u64 = 30_000;

/// How long instances of an app may take to drain.
pub(super) fn drain_ms(app: &AppRecord) -> u64 {
    let longest = app.releases.values().map(|release| release.manifest.web.drain_timeout_ms).max();
    longest.unwrap_or(0).saturating_add(LET_GO_MS)
}

/// Refuses before anything is started when nothing could run an instance.
fn refuse_without_web_nodes(state: &State, view: &View) -> Result<(), Failure> {
    if placement::candidates(Role::Web, state, view).is_empty() {
        return Err(no_candidate(Role::Web, state, view));
    }
    Ok(())
}

/// Which way through the data centers.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Forth,
    Back,
}

/// Takes one data center after the other to a release, or to the variables that
/// were set; `drain_ms` is how long the old instances may take to end.
fn roll_out(
    app: &str,
    release: Option<u32>,
    (verb, order): (&str, Order),
    drain_ms: u64,
    state: &State,
) -> Vec<StepRecord> {
    let mut steps = Vec::new();
    let mut data_centers = state.data_centers();
    if order == Order::Back {
        // What failed last is put right first.
        data_centers.reverse();
    }
    for dc in data_centers {
        if let Some(release) = release {
            let target = Command::SetTarget { app: app.to_owned(), dc: dc.clone(), release };
            steps.push(StepRecord::new(
                format!("{verb} release {release} in {dc}"),
                Work::Apply(vec![target]),
                STEP_MS,
            ));
        }
        steps.push(StepRecord::new(
            format!("wait for {dc} to be healthy"),
            Work::Converged { app: app.to_owned(), dc },
            ROLLOUT_MS.saturating_add(drain_ms),
        ));
    }
    steps
}

fn make_current(app: &str, release: u32) -> StepRecord {
    StepRecord::new(
        format!("make release {release} the current one"),
        Work::Apply(vec![Command::SetCurrent { app: app.to_owned(), release }]),
        STEP_MS,
    )
}

pub(super) fn deploy(
    release: ReleaseRecord,
    verifier: Option<String>,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let name = release.manifest.name.clone();
    let existing = state.apps.get(&name);
    if existing.is_some_and(|app| app.removing) {
        return Err(Failure::new(Code::Precondition, format!("{name} is being removed"))
            .next("try again when it is gone"));
    }
    state.refuse_taken_domain(&name, &release.manifest.domain)?;
    let current = existing.and_then(|app| app.current);
    if let (Some(app), Some(current)) = (existing, current)
        && app.releases.get(&current).is_some_and(|r| r.digest == release.digest)
        && app.targets.values().all(|target| *target == current)
    {
        return Ok(None);
    }
    refuse_without_web_nodes(state, view)?;
    let number = existing.map_or(1, AppRecord::next_release);
    let drain = existing.map_or(0, drain_ms).max(release.manifest.web.drain_timeout_ms);
    let (mut initial, database) = match release.manifest.db {
        Some(db) => databases::creation(&name, db.replicas + 1, verifier, state)?,
        None => (Vec::new(), None),
    };
    initial.push(Command::PutRelease {
        app: name.clone(),
        release: number,
        digest: release.digest,
        size: release.size,
        manifest: Box::new(release.manifest),
    });
    let mut steps: Vec<StepRecord> = database.into_iter().collect();
    steps.extend(roll_out(&name, Some(number), ("start", Order::Forth), drain, state));
    steps.push(make_current(&name, number));
    let compensation = match current {
        Some(current) => {
            let mut undo = roll_out(&name, Some(current), ("put back", Order::Back), drain, state);
            undo.push(make_current(&name, current));
            undo.push(StepRecord::new(
                format!("forget release {number}"),
                Work::Apply(vec![Command::DropRelease { app: name.clone(), release: number }]),
                STEP_MS,
            ));
            undo
        }
        None => removal_steps(&name, drain),
    };
    Ok(Some(NewOperation {
        kind: "deploy".to_owned(),
        summary: format!("deploy {name} release {number}"),
        subjects: vec![app_subject(&name)],
        initial,
        steps,
        compensation,
    }))
}

pub(super) fn rollback(
    name: &str,
    release: Option<u32>,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let app = find_app(name, state)?;
    let current = app.current.ok_or_else(|| {
        Failure::new(Code::Precondition, format!("{name} has no finished release yet"))
    })?;
    let release = match release {
        Some(release) => release,
        None => app.releases.range(..current).next_back().map(|(number, _)| *number).ok_or_else(
            || Failure::new(Code::Precondition, format!("{name} has no release before {current}")),
        )?,
    };
    let Some(record) = app.releases.get(&release) else {
        let kept: Vec<String> = app.releases.keys().map(u32::to_string).collect();
        return Err(Failure::new(Code::NotFound, format!("{name} has no release {release}"))
            .because(format!("kept are {}", kept.join(", "))));
    };
    if release == current && app.targets.values().all(|target| *target == current) {
        return Ok(None);
    }
    state.refuse_taken_domain(name, &record.manifest.domain)?;
    refuse_without_web_nodes(state, view)?;
    let drain = drain_ms(app);
    let mut steps = roll_out(name, Some(release), ("start", Order::Forth), drain, state);
    steps.push(make_current(name, release));
    let mut compensation = roll_out(name, Some(current), ("put back", Order::Back), drain, state);
    compensation.push(make_current(name, current));
    Ok(Some(NewOperation {
        kind: "rollback".to_owned(),
        summary: format!("go back to release {release} of {name}"),
        subjects: vec![app_subject(name)],
        initial: Vec::new(),
        steps,
        compensation,
    }))
}

pub(super) fn set_env(
    name: &str,
    prepared: Prepared,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let app = find_app(name, state)?;
    let Some((sealed, names)) = prepared.env else { return Ok(None) };
    refuse_without_web_nodes(state, view)?;
    Ok(Some(NewOperation {
        kind: "env".to_owned(),
        summary: format!("change the variables of {name}"),
        subjects: vec![app_subject(name)],
        initial: vec![Command::SetEnv { app: name.to_owned(), sealed, names }],
        steps: roll_out(name, None, ("", Order::Forth), drain_ms(app), state),
        compensation: Vec::new(),
    }))
}

pub(super) fn removal_steps(app: &str, drain_ms: u64) -> Vec<StepRecord> {
    vec![
        StepRecord::new(
            format!("drain {app}"),
            Work::Apply(vec![Command::StartRemoval { app: app.to_owned() }]),
            STEP_MS,
        ),
        StepRecord::new(
            format!("wait for {app} to stop"),
            Work::AppGone { app: app.to_owned() },
            STEP_MS.saturating_add(drain_ms),
        ),
        StepRecord::new(
            format!("forget {app}"),
            Work::Apply(vec![Command::RemoveApp { app: app.to_owned() }]),
            STEP_MS,
        ),
    ]
}

pub(super) fn remove_app(name: &str, state: &State) -> Result<Planned, Failure> {
    // One whose removal failed half way is removed by asking again.
    let app = match state.apps.get(name) {
        Some(app) => app,
        None => find_app(name, state)?,
    };
    Ok(Some(NewOperation {
        kind: "app-remove".to_owned(),
        summary: format!("remove {name}"),
        subjects: vec![app_subject(name)],
        initial: Vec::new(),
        steps: removal_steps(name, drain_ms(app)),
        compensation: Vec::new(),
    }))
}

pub(super) fn scale_web(
    name: Option<&str>,
    count: u32,
    state: &State,
    view: &View,
) -> Result<Planned, Failure> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let mut names = state.apps.keys();
            match (names.next(), names.next()) {
                (Some(only), None) => only.clone(),
                (None, _) => return Err(Failure::new(Code::NotFound, "no app is deployed")),
                (Some(_), Some(_)) => {
                    return Err(Failure::new(Code::Usage, "there is more than one app")
                        .next("name it with --app"));
                }
            }
        }
    };
    let app = find_app(&name, state)?;
    if count > MAX_INSTANCES {
        return Err(Failure::new(
            Code::Usage,
            format!("an app has at most {MAX_INSTANCES} instances, not {count}"),
        ));
    }
    if app.web == count {
        return Ok(None);
    }
    if count > app.web {
        refuse_without_web_nodes(state, view)?;
    }
    let budget_ms = STEP_MS.saturating_add(drain_ms(app));
    Ok(Some(NewOperation {
        kind: "scale".to_owned(),
        summary: format!("scale {name} from {} to {count} instances", app.web),
        subjects: vec![app_subject(&name)],
        initial: vec![Command::SetWebWant { app: name.clone(), want: count }],
        steps: vec![StepRecord::new(
            format!("wait for {count} healthy instances"),
            Work::InstanceCount { app: name, count },
            budget_ms,
        )],
        compensation: Vec::new(),
    }))
}

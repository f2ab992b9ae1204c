//! What is to happen to the instances of an app: which to place, which to
//! drain, whose records to remove.
//!
//! The rule: nothing that takes requests is taken away before what replaces it
//! takes requests, data center by data center.

use std::collections::BTreeMap;

use rung_proto::NodeId;
use rung_proto::soft::{InstanceState, InstanceStatus};

use crate::command::Command;
use crate::operation::Work;
use crate::placement;
use crate::reconcile::{NODE_GRACE_MS, app_subject};
use crate::state::{AppRecord, InstanceRecord, State};
use crate::view::View;

/// How long an instance that has failed stays before it is tried elsewhere.
pub const FAILED_INSTANCE_MS: u64 = 15_000;
/// How long after its placing the record of a failed instance is kept. While it
/// is there, nothing more of the app is placed on its node, so that an app that
/// fails everywhere is tried once on each node in this time.
pub const FAILED_RETRY_MS: u64 = 300_000;

/// Whether an instance is of the release and variables that its data center
/// should run.
pub fn is_on_target(record: &InstanceRecord, app: &AppRecord, state: &State) -> bool {
    let dc = state.nodes.get(&record.node).map(|node| node.dc.as_str());
    let target = dc.and_then(|dc| app.target(dc));
    Some(record.release) == target && record.env_version == app.env_version
}

/// Whether a running operation placed the instance and waits for it: then its
/// failure is the operation's to judge.
pub fn is_judged(record: &InstanceRecord, state: &State) -> bool {
    let subject = app_subject(&record.app);
    state.operations.values().any(|operation| {
        let waits = |work: &Work| matches!(work, Work::Converged { .. });
        !operation.state.is_finished()
            // Both are drawn from one counter, so this is the order of events.
            && operation.id.0 < record.id.0
            && operation.subjects.contains(&subject)
            && operation.current_steps().iter().any(|step| waits(&step.work))
    })
}

/// Whether an instance failed for good where it is and should run elsewhere.
pub fn has_failed(record: &InstanceRecord, state: &State, view: &View) -> bool {
    view.instance(record.node, record.id).is_some_and(|status| {
        status.state == InstanceState::Failed
            && view.now_ms.saturating_sub(record.placed_ms) > FAILED_INSTANCE_MS
    }) && !is_judged(record, state)
}

/// Whether it started and did not hold.
fn is_sick(status: &InstanceStatus) -> bool {
    match status.state {
        InstanceState::Failed => true,
        InstanceState::Starting => status.restarts > 0,
        InstanceState::Healthy | InstanceState::Draining | InstanceState::Stopped => false,
    }
}

/// How one instance counts.
struct Seen<'a> {
    record: &'a InstanceRecord,
    dc: &'a str,
    fresh: bool,
    failed: bool,
    healthy: bool,
}

/// How a data center stands.
#[derive(Default)]
struct Share {
    wanted: u32,
    healthy: u32,
    /// Wanted ones that started and did not hold.
    sick: u32,
}

impl Share {
    /// Wanted ones that are still on their way.
    fn missing(&self) -> u32 {
        self.wanted.saturating_sub(self.healthy).saturating_sub(self.sick)
    }
}

/// The next changes of an app's instances.
pub fn changes(app: &AppRecord, state: &State, view: &View) -> Vec<Command> {
    let wanted = placement::instance_distribution(app, state, view);
    let mut commands = Vec::new();
    let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
    for (node, count) in &wanted {
        if let Some(record) = state.nodes.get(node) {
            shares.entry(&record.dc).or_default().wanted += count;
        }
    }
    let mut kept_on: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut surplus: Vec<Seen> = Vec::new();
    for seen in look_at(app, state, view) {
        let record = seen.record;
        if is_over(record, state, view) {
            commands.push(Command::RemoveInstance { id: record.id });
            continue;
        }
        if record.drain || (seen.failed && is_remembered(record, state, view)) {
            continue;
        }
        let share = shares.entry(seen.dc).or_default();
        share.healthy += u32::from(seen.healthy);
        let kept = kept_on.entry(record.node).or_default();
        let limit = wanted.get(&record.node).copied().unwrap_or(0);
        if seen.fresh && !seen.failed && *kept < limit {
            *kept += 1;
            // What a deploy has just placed is on its way until the deploy says
            // that it is bad.
            let sick = view.instance(record.node, record.id).is_some_and(is_sick)
                && !is_judged(record, state);
            share.sick += u32::from(sick);
        } else {
            surplus.push(seen);
        }
    }
    commands.extend(placements(app, &wanted, &kept_on, state));
    let unplaced = wanted_in_all(app).saturating_sub(wanted.values().sum());
    commands.extend(drains(surplus, &mut shares, unplaced, view));
    commands
}

/// Instances that an app should have wherever they run.
fn wanted_in_all(app: &AppRecord) -> u32 {
    if app.removing { 0 } else { app.web }
}

fn placements(
    app: &AppRecord,
    wanted: &BTreeMap<NodeId, u32>,
    kept_on: &BTreeMap<NodeId, u32>,
    state: &State,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for (node, limit) in wanted {
        let have = kept_on.get(node).copied().unwrap_or(0);
        let Some(dc) = state.nodes.get(node).map(|record| record.dc.as_str()) else { continue };
        // A data center that the first deploy has not come to yet.
        let Some(release) = app.target(dc) else { continue };
        for _ in have..*limit {
            commands.push(Command::PlaceInstance {
                app: app.name.clone(),
                release,
                env_version: app.env_version,
                node: *node,
            });
        }
    }
    commands
}

/// Which of the surplus may go now. One that takes requests goes only when its
/// data center has enough without it, and when it need not stand in for those
/// that are on their way in other data centers or have no node yet.
fn drains(
    surplus: Vec<Seen>,
    shares: &mut BTreeMap<&str, Share>,
    unplaced: u32,
    view: &View,
) -> Vec<Command> {
    let mut to_cover = shares.values().map(Share::missing).sum::<u32>().saturating_add(unplaced);
    let mut commands = Vec::new();
    for seen in surplus.iter().filter(|seen| seen.healthy) {
        let Some(share) = shares.get_mut(seen.dc) else { continue };
        if share.healthy <= share.wanted {
            continue;
        }
        share.healthy -= 1;
        if to_cover > 0 {
            to_cover -= 1;
            continue;
        }
        commands.push(Command::DrainInstance { id: seen.record.id });
    }
    for seen in surplus.iter().filter(|seen| !seen.healthy) {
        let record = seen.record;
        // What its node has not spoken of yet may well take requests.
        if view.is_up(record.node) && view.applied(record.node) >= record.changed {
            commands.push(Command::DrainInstance { id: record.id });
        }
    }
    commands
}

/// The app's instances, those to keep first: fresh before old, healthy before not.
fn look_at<'a>(app: &'a AppRecord, state: &'a State, view: &View) -> Vec<Seen<'a>> {
    let mut seen: Vec<Seen> = state
        .instances_of(&app.name)
        .map(|record| {
            let fresh = is_on_target(record, app, state);
            Seen {
                record,
                dc: state.nodes.get(&record.node).map_or("", |node| node.dc.as_str()),
                fresh,
                failed: fresh && has_failed(record, state, view),
                healthy: !record.drain && view.is_healthy(record.node, record.id),
            }
        })
        .collect();
    seen.sort_by_key(|seen| (!seen.fresh, !seen.healthy, seen.record.id));
    seen
}

/// Whether a failed instance's record stays to keep its node from another try.
fn is_remembered(record: &InstanceRecord, state: &State, view: &View) -> bool {
    view.now_ms.saturating_sub(record.placed_ms) <= FAILED_RETRY_MS
        && placement::may_host(record.node, state, view)
}

/// Whether an instance's record can go: its node is gone, or it was drained and
/// its node, having seen that, runs it no more.
fn is_over(record: &InstanceRecord, state: &State, view: &View) -> bool {
    if !state.nodes.contains_key(&record.node) || view.is_gone(record.node, NODE_GRACE_MS) {
        return true;
    }
    if !record.drain || !view.is_up(record.node) {
        return false;
    }
    match view.instance(record.node, record.id) {
        Some(status) => status.state == InstanceState::Stopped,
        None => view.applied(record.node) >= record.changed,
    }
}

#[cfg(test)]
mod tests;

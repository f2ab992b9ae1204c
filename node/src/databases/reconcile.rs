//! Keeps the copies of this node at what the control state says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rung_control_plane::databases::{copies, is_to_vote};
use rung_control_plane::state::ShardRecord;
use rung_control_plane::{State, View};
use rung_proto::soft::{CopyKind, CopyState, CopyStatus};
use rung_proto::{GroupId, NodeId, Role};
use rung_runtime::TaskResult;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{CopyRecord, TELL, copy_status, group, recover};
use crate::node::Node;
use crate::observe;

/// How often to look even when nothing rang: positions move all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a start waits to hear what has become of its copies.
const HOLD_BACK: Duration = Duration::from_secs(1);

/// Runs for as long as the node does.
pub async fn run(node: Arc<Node>) -> TaskResult {
    let databases = &node.databases;
    open(&node).await?;
    let mut state = node.control.watch_state();
    let mut members = node.membership.watch();
    let mut others = node.soft.watch_others();
    let mut steps: BTreeMap<GroupId, JoinHandle<()>> = BTreeMap::new();
    let mut told = Told::default();
    let mut complaints = BTreeMap::new();
    loop {
        let now = state.borrow_and_update().clone();
        let membership = members.borrow_and_update().clone();
        others.mark_unchanged();
        let look = || observe::view(&now, &membership, &node.soft, &node.control.leadership());
        told.tell(&node, &now, &look());
        let view = look();
        let told: Vec<_> = node.soft.all().into_values().collect();
        recover::look(databases, &now, &told);
        databases.mend().await;
        databases.keep_room();
        open_and_leave(&node, &now, &view, &mut complaints).await;
        lead(&node, &now, &view, &mut steps);
        databases.publish_directory(&now, &view);
        tokio::select! {
            changed = state.changed() => changed?,
            changed = members.changed() => changed?,
            changed = others.changed() => changed?,
            () = databases.changed.notified() => {}
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

/// Opens what earlier starts left, once this node knows a control state that has this
/// start in it: a copy of a generation that is over must not be elected by others that
/// come back with it. Without a majority of the control group that is not waited for.
async fn open(node: &Node) -> TaskResult {
    if node.databases.is_opened() {
        return Ok(());
    }
    let mut state = node.control.watch_state();
    if node.databases.has_copies() {
        let current = state.wait_for(|state| {
            let me = state.nodes.get(&node.id);
            me.is_some_and(|me| me.incarnation >= node.incarnation)
        });
        let _ = timeout(HOLD_BACK, current).await;
    }
    let state = node.control.state();
    let told: Vec<_> = node.soft.all().into_values().collect();
    node.databases.open_all(&state, &told).await?;
    Ok(())
}

/// What was last said to the others.
#[derive(Default)]
struct Told {
    copies: Vec<CopyStatus>,
    at: Option<Instant>,
    /// When each replica last had all that its primary had told.
    complete: BTreeMap<GroupId, Instant>,
}

impl Told {
    /// Says how the copies are: what matters at once, positions now and then.
    fn tell(&mut self, node: &Node, state: &State, view: &View) {
        let mut copies = statuses(node, state, view);
        copies.iter_mut().for_each(|copy| self.measure_lag(copy, view));
        node.soft.set_serving(Role::Db, serves(node.id, state, &copies, view));
        let changed = copies.len() != self.copies.len()
            || copies.iter().zip(&self.copies).any(|(now, before)| matters(now, before));
        if changed || self.at.is_none_or(|at| at.elapsed() >= TELL) {
            node.soft.update(|mine| mine.databases.clone_from(&copies));
            (self.copies, self.at) = (copies, Some(Instant::now()));
        }
    }

    /// How long ago a replica last had everything, as far as it was told.
    fn measure_lag(&mut self, copy: &mut CopyStatus, view: &View) {
        if copy.kind == CopyKind::Primary {
            return;
        }
        let Some((_, primary)) = view.primary(copy.group) else { return };
        let now = Instant::now();
        if copy.sequence >= primary.sequence {
            self.complete.insert(copy.group, now);
        }
        let since = self.complete.get(&copy.group).map(|at| now.duration_since(*at).as_millis());
        copy.lag_ms = since.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
    }
}

/// Whether more than a position differs.
fn matters(now: &CopyStatus, before: &CopyStatus) -> bool {
    let mut same = before.clone();
    (same.sequence, same.lag_ms, same.last) = (now.sequence, now.lag_ms, now.last);
    same.snapshot_bytes = now.snapshot_bytes;
    same.archive.clone_from(&now.archive);
    same.scrub.clone_from(&now.scrub);
    same != *now
}

fn statuses(node: &Node, state: &State, view: &View) -> Vec<CopyStatus> {
    let databases = &node.databases;
    let status = |copy: &super::LocalCopy| {
        let shard = shard_of(&copy.record, state);
        let is_witness = shard.is_some_and(|shard| shard.witness == Some(node.id));
        let primary = view.primary(copy.record.group).filter(|(primary, _)| *primary != node.id);
        let primary = primary.map(|(_, primary)| primary);
        let archive = databases.archives().get(&copy.record.group).cloned();
        let scrub = databases.scrubs().status.get(&copy.record.group).cloned();
        CopyStatus { archive, scrub, ..copy_status(copy, &node.consensus, is_witness, primary) }
    };
    databases.copies().iter().map(status).collect()
}

/// Whether this node does its part of every database.
fn serves(me: NodeId, state: &State, mine: &[CopyStatus], view: &View) -> bool {
    if !state.owns(me, Role::Db) {
        return false;
    }
    let mut shards = state.databases.values().flat_map(|database| database.shards.values());
    shards.all(|shard| {
        let copy = mine.iter().find(|copy| copy.group == shard.group);
        // Where it is to vote, a primary that dies before it does is not replaced.
        let in_group = |primary: &CopyStatus| {
            primary.voters.contains(&me)
                || primary.learners.contains(&me) && !is_to_vote(me, shard, primary, state, view)
        };
        copy.is_some_and(|copy| {
            copy.state == CopyState::Serving
                && (copy.kind == CopyKind::Primary
                    || view.primary(shard.group).is_none_or(|(_, primary)| in_group(primary)))
        })
    })
}

pub(super) fn shard_of<'a>(record: &CopyRecord, state: &'a State) -> Option<&'a ShardRecord> {
    state.databases.get(&record.database)?.shards.get(&record.shard)
}

/// Opens copies that this node should have, and removes those that nobody counts
/// on.
async fn open_and_leave(
    node: &Node,
    state: &State,
    view: &View,
    complaints: &mut BTreeMap<GroupId, String>,
) {
    let databases = &node.databases;
    for database in state.databases.values() {
        for (number, shard) in &database.shards {
            if shard.recovery.is_some() {
                // Nobody comes or goes meanwhile.
                continue;
            }
            let record = CopyRecord {
                database: database.name.clone(),
                shard: *number,
                group: shard.group,
                generation: shard.generation,
                accepted: None,
            };
            if databases.has_other_copy(&record) {
                // One of a former generation, which goes first.
                continue;
            }
            let has = databases.copy(shard.group).is_some();
            let done = match (shard.founded, shard.founder == Some(node.id), has) {
                (false, true, false) => databases.found(record).await,
                // Somebody else is to create it: what was begun here counts for nothing.
                (false, false, true) => databases.leave(shard.group).await,
                (true, _, false) if is_wanted(node.id, shard, state) => {
                    databases.join(record).await;
                    Ok(())
                }
                (true, _, true) if may_leave(node, shard, state, view) => {
                    databases.leave(shard.group).await
                }
                _ => Ok(()),
            };
            let complaint = done.err().map(|failure| failure.to_string());
            if let Some(failure) = &complaint
                && complaints.get(&shard.group) != Some(failure)
            {
                tracing::warn!(database = database.name, failure, "a copy is not as it should be");
            }
            match complaint {
                Some(failure) => complaints.insert(shard.group, failure),
                None => complaints.remove(&shard.group),
            };
        }
    }
}

fn is_wanted(me: NodeId, shard: &ShardRecord, state: &State) -> bool {
    copies(state).contains(&me) || shard.witness == Some(me)
}

/// A copy goes only when the primary, in a term that is not older than what the
/// copy knows, says that this node is no member: until then the group may count
/// on it, whatever the control state says.
fn may_leave(node: &Node, shard: &ShardRecord, state: &State, view: &View) -> bool {
    let mine = node.soft.mine();
    let Some(copy) = mine.databases.iter().find(|copy| copy.group == shard.group) else {
        return false;
    };
    let Some((primary, told)) = view.primary(shard.group) else { return false };
    let is_member = told.voters.contains(&node.id) || told.learners.contains(&node.id);
    let useless = !is_wanted(node.id, shard, state) || copy.state == CopyState::Broken;
    useless && primary != node.id && !is_member && told.epoch >= copy.epoch
}

/// Takes the next step for each shard that this node leads, one at a time.
fn lead(node: &Node, state: &State, view: &View, steps: &mut BTreeMap<GroupId, JoinHandle<()>>) {
    steps.retain(|_, step| !step.is_finished());
    for copy in node.databases.copies() {
        let record = &copy.record;
        let is_current = |shard: &&ShardRecord| {
            shard.founded && shard.group == record.group && shard.recovery.is_none()
        };
        let Some(shard) = shard_of(record, state).filter(is_current) else { continue };
        let Some(group) = node.consensus.group(record.group) else { continue };
        // One that was only just elected can neither change its group nor hand it over.
        let primary = copy.shard.filter(|shard| shard.state().borrow().is_primary());
        let Some(local) = primary else { continue };
        if steps.contains_key(&record.group) {
            continue;
        }
        if let Some(step) = group::next_step(node.id, shard, &group, state, view) {
            let name = format!("{}/{}", record.database, record.shard);
            steps.insert(record.group, tokio::spawn(group::take(step, name, local, group)));
        }
    }
}

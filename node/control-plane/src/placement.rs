//! Who should own what: pure choices from state and view.
//!
//! The rule everywhere: keep what is pinned, spread over data centers, then over
//! nodes; among equals keep what is there, then prefer who joined first.

use std::collections::{BTreeMap, BTreeSet};

use rung_proto::{NodeId, Role};

use crate::instances;
use crate::reconcile::NODE_GRACE_MS;
use crate::state::{AppRecord, NodeRecord, Pin, State};
use crate::view::View;

/// How long a node with a role must be down before another one gets it. A copy of
/// a database takes long to make, and a node that starts again has most of it.
pub fn grace_ms(role: Role) -> u64 {
    match role {
        Role::Db => 15_000,
        Role::Control | Role::Dns | Role::Lb | Role::Web => NODE_GRACE_MS,
    }
}

/// Nodes that may be given something new, in the order in which they joined.
pub fn candidates<'a>(role: Role, state: &'a State, view: &View) -> Vec<&'a NodeRecord> {
    let mut nodes: Vec<&NodeRecord> = state
        .nodes
        .values()
        .filter(|node| !node.cordoned && !node.draining)
        .filter(|node| view.is_up(node.id))
        .filter(|node| node.pins.get(&role) != Some(&Pin::Exclude))
        .filter(|node| !view.is_broken(node.id, role))
        .collect();
    nodes.sort_by_key(|node| (node.joined, node.id));
    nodes
}

/// Nodes that have the role and may keep it although they could not be given it
/// now: cordoned ones, and those that are not known to be gone for long enough.
fn keepers<'a>(role: Role, state: &'a State, view: &View) -> Vec<&'a NodeRecord> {
    let owners = state.role(role).owners;
    state
        .nodes
        .values()
        .filter(|node| owners.contains_key(&node.id))
        .filter(|node| !node.draining && node.pins.get(&role) != Some(&Pin::Exclude))
        .filter(|node| !view.is_gone(node.id, grace_ms(role)) && !view.is_broken(node.id, role))
        .collect()
}

fn is_public(node: NodeId, state: &State) -> bool {
    state.owns(node, Role::Lb) || state.owns(node, Role::Dns)
}

/// Picks `want` nodes one by one, each from the data center that has the fewest
/// so far; `rank` orders the nodes of equally filled data centers, lowest first.
/// Pinned nodes come first and may exceed `want`.
fn spread<'a, R: Ord>(
    pool: &[&'a NodeRecord],
    role: Role,
    want: usize,
    rank: impl Fn(&NodeRecord) -> R,
) -> Vec<&'a NodeRecord> {
    let pinned = |node: &NodeRecord| node.pins.get(&role) == Some(&Pin::Include);
    let mut chosen: Vec<&NodeRecord> = pool.iter().copied().filter(|node| pinned(node)).collect();
    let mut rest: Vec<&NodeRecord> = pool.iter().copied().filter(|node| !pinned(node)).collect();
    while chosen.len() < want && !rest.is_empty() {
        let in_dc = |dc: &str| chosen.iter().filter(|node| node.dc == dc).count();
        let best = rest
            .iter()
            .enumerate()
            .min_by_key(|(_, node)| (in_dc(&node.dc), rank(node), node.joined, node.id))
            .map(|(position, _)| position);
        let Some(best) = best else { break };
        chosen.push(rest.remove(best));
    }
    chosen
}

/// The nodes that should own `lb`, `dns` or `web`.
pub fn role_owners(role: Role, state: &State, view: &View) -> BTreeSet<NodeId> {
    let owners = state.role(role).owners;
    let mut pool = candidates(role, state, view);
    for node in keepers(role, state, view) {
        if !pool.iter().any(|other| other.id == node.id) {
            pool.push(node);
        }
    }
    let chosen = match role {
        Role::Web => {
            let hosts: BTreeSet<NodeId> =
                state.instances.values().filter(|i| !i.drain).map(|i| i.node).collect();
            // A cordoned node keeps what it runs and counts for nothing new.
            let (cordoned, open): (Vec<_>, Vec<_>) = pool.iter().partition(|node| node.cordoned);
            let mut chosen = spread(&open, role, web_nodes_wanted(state), |node| {
                // What runs stays where it is. New web processes avoid voters
                // first, so that losing the whole control group costs no app,
                // and public nodes second.
                let kept = owners.contains_key(&node.id) && hosts.contains(&node.id);
                let voter = view.voters.contains(&node.id);
                (!kept, voter, is_public(node.id, state), !owners.contains_key(&node.id))
            });
            chosen.extend(cordoned.into_iter().filter(|node| hosts.contains(&node.id)));
            chosen
        }
        Role::Control | Role::Dns | Role::Lb | Role::Db => {
            let want = state.role(role).want as usize;
            spread(&pool, role, want, |node| {
                // An owner stays, whether it votes or not: voters give way to
                // public nodes, and the first node of all votes at first.
                let owner = owners.contains_key(&node.id);
                (!owner, !owner && view.voters.contains(&node.id))
            })
        }
    };
    chosen.into_iter().map(|node| node.id).collect()
}

/// As many web nodes as there are instances to run, at most.
fn web_nodes_wanted(state: &State) -> usize {
    let instances: u32 = state
        .apps
        .values()
        .filter(|app| !app.removing)
        .fold(0, |sum: u32, app| sum.saturating_add(app.web));
    (instances as usize).max(1)
}

/// The voters that the control group should have.
///
/// It never gets smaller because voters died: one that is gone or broken stays
/// until another node takes its place. What it says can always be carried out:
/// a majority of it is up.
pub fn voters(state: &State, view: &View) -> BTreeSet<NodeId> {
    let may_vote =
        |node: &NodeRecord| node.pins.get(&Role::Control) != Some(&Pin::Exclude) && !node.draining;
    let mut pool = candidates(Role::Control, state, view);
    let possible = |node: &&NodeRecord| {
        let votes = view.voters.contains(&node.id);
        may_vote(node) && (votes || pool.iter().any(|other| other.id == node.id))
    };
    let eligible = state.nodes.values().filter(possible).count();
    let want = match (state.role(Role::Control).want as usize).min(eligible) {
        0 => 1,
        // Four voters survive no more than three do, and two no more than one;
        // two are still better than one, since both hold everything.
        4 => 3,
        other => other,
    };
    for node in state.nodes.values() {
        // A voter that is not known to be gone, or that was only cordoned, stays.
        let keeps = view.voters.contains(&node.id)
            && may_vote(node)
            && !view.is_gone(node.id, NODE_GRACE_MS)
            && !view.is_broken(node.id, Role::Control);
        if keeps && !pool.iter().any(|other| other.id == node.id) {
            pool.push(node);
        }
    }
    let chosen = spread(&pool, Role::Control, want, |node| {
        (is_public(node.id, state), !view.voters.contains(&node.id))
    });
    let mut chosen: BTreeSet<NodeId> = chosen.into_iter().map(|node| node.id).collect();
    let mut staying: Vec<NodeId> = view
        .voters
        .iter()
        .copied()
        .filter(|voter| !chosen.contains(voter))
        .filter(|voter| state.nodes.get(voter).is_some_and(may_vote))
        .collect();
    staying.sort_by_key(|voter| (!view.is_up(*voter), *voter));
    let short = want.min(view.voters.len()).saturating_sub(chosen.len());
    chosen.extend(staying.into_iter().take(short));
    let up = chosen.iter().filter(|voter| view.is_up(**voter)).count();
    if up * 2 > chosen.len() { chosen } else { view.voters.clone() }
}

/// Whether a node runs instances: it has the role and is to keep it.
pub fn may_host(node: NodeId, state: &State, view: &View) -> bool {
    state.owns(node, Role::Web)
        && state.nodes.get(&node).is_some_and(|node| !node.draining)
        && state.pin(node, Role::Web) != Some(Pin::Exclude)
        && !view.is_gone(node, NODE_GRACE_MS)
        && !view.is_broken(node, Role::Web)
}

/// A node that runs instances, and how many of an app it may have.
struct Host<'a> {
    node: &'a NodeRecord,
    /// What runs there and is not to go: not placed elsewhere without need.
    has: u32,
    limit: u32,
}

/// A node that takes nothing new - cordoned, not answering, or one where the app
/// has failed - keeps what is as it should be there.
fn host<'a>(node: &'a NodeRecord, app: &AppRecord, state: &State, view: &View) -> Host<'a> {
    let (mut has, mut good, mut failed) = (0, 0, false);
    for instance in state.instances_of(&app.name) {
        if instance.node != node.id || instance.drain {
            continue;
        }
        has += 1;
        let fresh = instances::is_on_target(instance, app, state);
        if fresh && instances::has_failed(instance, state, view) {
            failed = true;
        } else if fresh {
            good += 1;
        }
    }
    let takes_nothing = node.cordoned || failed || !view.is_up(node.id);
    Host { node, has, limit: if takes_nothing { good } else { u32::MAX } }
}

/// How many instances of an app each web node should run, also where the first
/// deploy has not come to yet. Fewer than wanted when no node can take the rest.
pub fn instance_distribution(app: &AppRecord, state: &State, view: &View) -> BTreeMap<NodeId, u32> {
    let want = if app.removing { 0 } else { app.web };
    let hosts: Vec<Host> = state
        .nodes
        .values()
        .filter(|node| may_host(node.id, state, view))
        .map(|node| host(node, app, state, view))
        .collect();
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut per_dc: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..want {
        let count = |host: &Host| counts.get(&host.node.id).copied().unwrap_or(0);
        let best = hosts.iter().filter(|host| count(host) < host.limit).min_by_key(|host| {
            let in_dc = per_dc.get(host.node.dc.as_str()).copied().unwrap_or(0);
            let spare = host.has > count(host);
            (in_dc, count(host), !spare, host.node.joined, host.node.id)
        });
        let Some(best) = best.map(|host| host.node) else { break };
        *counts.entry(best.id).or_default() += 1;
        *per_dc.entry(best.dc.as_str()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests;

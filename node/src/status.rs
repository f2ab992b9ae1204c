//! The state and what is observed, as `ctl status` shows it.

use std::collections::BTreeMap;

use rung_control_plane::databases::recovery;
use rung_control_plane::state::{NodeRecord, Pin, ShardRecord};
use rung_control_plane::{State, View};
use rung_proto::api::{
    App, Cluster, ControlRole, DatabaseArchive, DatabaseReplica, DatabaseShard, Instance, Node,
    NodeState, Operation, RoleCount, Status, VERSION, Web,
};
use rung_proto::soft::{CopyKind, CopyState, InstanceState, ScrubStatus};
use rung_proto::{NodeId, Role};

const FINISHED_OPERATIONS: usize = 10;

/// The whole status, as seen from node `me`.
pub fn status(me: NodeId, state: &State, view: &View) -> Status {
    let mut nodes: Vec<&NodeRecord> = state.nodes.values().collect();
    nodes.sort_by_key(|node| (node.joined, node.id));
    Status {
        version: VERSION,
        cluster: cluster(me, state, view),
        nodes: nodes.into_iter().map(|record| node(record, state, view)).collect(),
        apps: state.apps.keys().filter_map(|name| app(name, state, view)).collect(),
        db: databases(state, view),
        operations: operations(state),
        warnings: warnings(state, view),
    }
}

/// Who leads, unless it is known to be gone: then nobody is known to lead.
fn leader(view: &View) -> Option<NodeId> {
    view.leader.filter(|leader| view.is_up(*leader))
}

fn cluster(me: NodeId, state: &State, view: &View) -> Cluster {
    let count = |want: usize, have: usize| RoleCount {
        want: u32::try_from(want).unwrap_or(u32::MAX),
        have: u32::try_from(have).unwrap_or(u32::MAX),
    };
    let mut roles = BTreeMap::new();
    for role in Role::ALL {
        let record = state.role(role);
        let have = match role {
            Role::Control => view.voters.len(),
            Role::Dns | Role::Lb | Role::Web | Role::Db => record.owners.len(),
        };
        let want = if role == Role::Web { have } else { record.want as usize };
        roles.insert(role, count(want.min(state.nodes.len()), have));
    }
    Cluster {
        name: state.cluster.name.clone(),
        id: state.cluster.id,
        index: state.index,
        answered_by: state.node_name(me),
        leader: leader(view).map(|leader| state.node_name(leader)),
        roles,
    }
}

fn node(record: &NodeRecord, state: &State, view: &View) -> Node {
    let votes = view.voters.contains(&record.id);
    let roles = Role::ALL
        .into_iter()
        .filter(|role| state.owns(record.id, *role) || (*role == Role::Control && votes))
        .collect();
    let pinned = record.pins.iter().filter(|(_, pin)| **pin == Pin::Include);
    Node {
        name: record.name.clone(),
        id: record.id,
        dc: record.dc.clone(),
        address: record.mesh.to_string(),
        // A member that was never heard of, or is forgotten, is down to us.
        state: view.members.get(&record.id).map_or(NodeState::Down, |member| member.state),
        roles,
        control: match (leader(view) == Some(record.id), votes) {
            (true, _) => ControlRole::Leader,
            (false, true) => ControlRole::Voter,
            (false, false) => ControlRole::Follower,
        },
        pinned: pinned.map(|(role, _)| *role).collect(),
        cordoned: record.cordoned,
        draining: record.draining,
        incarnation: record.incarnation.0,
        version: record.version.clone(),
    }
}

fn app(name: &str, state: &State, view: &View) -> Option<App> {
    let record = state.apps.get(name)?;
    let mut instances = Vec::new();
    let mut healthy = 0;
    for placed in state.instances_of(name) {
        let told = view.instance(placed.node, placed.id).filter(|_| view.is_up(placed.node));
        let shown = match told {
            Some(told) if told.state == InstanceState::Stopped => InstanceState::Draining,
            Some(told) => told.state,
            // Placed, and its node has not said anything of it, or is gone.
            None if view.is_up(placed.node) => InstanceState::Starting,
            None => InstanceState::Failed,
        };
        if shown == InstanceState::Healthy && !placed.drain {
            healthy += 1;
        }
        instances.push(Instance {
            id: placed.id,
            node: state.node_name(placed.node),
            release: placed.release,
            pid: told.and_then(|told| told.pid),
            port: told.and_then(|told| told.port),
            state: shown,
            restarts: told.map_or(0, |told| told.restarts),
            problem: told.and_then(|told| told.problem.clone()),
        });
    }
    Some(App {
        name: name.to_owned(),
        release: record.current.unwrap_or(0),
        domain: record.manifest().map(|manifest| manifest.domain.clone()),
        web: Web { want: if record.removing { 0 } else { record.web }, healthy, instances },
    })
}

/// Every shard of every database.
pub fn databases(state: &State, view: &View) -> Vec<DatabaseShard> {
    let mut shards = Vec::new();
    for database in state.databases.values() {
        for (number, record) in &database.shards {
            shards.push(shard(&database.name, *number, record, state, view));
        }
    }
    shards
}

fn shard(
    database: &str,
    number: u32,
    record: &ShardRecord,
    state: &State,
    view: &View,
) -> DatabaseShard {
    let primary = view.primary(record.group);
    let mut replicas = Vec::new();
    for node in state.nodes.values() {
        let Some(copy) = view.copy(node.id, record.group) else { continue };
        let is_primary = primary.is_some_and(|(primary, _)| primary == node.id);
        if is_primary || copy.kind == CopyKind::Witness {
            continue;
        }
        let shown = match copy.state {
            _ if !view.is_up(node.id) => "down",
            CopyState::CatchingUp => "catching-up",
            CopyState::Serving => "serving",
            CopyState::Stopped => "stopped",
            CopyState::Broken => "broken",
        };
        replicas.push(DatabaseReplica {
            node: node.name.clone(),
            state: shown.to_owned(),
            votes: primary.map_or(&copy.voters, |(_, told)| &told.voters).contains(&node.id),
            lag_ms: copy.lag_ms,
            position: copy.sequence,
            problem: copy.problem.clone(),
        });
    }
    DatabaseShard {
        database: database.to_owned(),
        shard: number,
        epoch: primary.map_or(0, |(_, copy)| copy.epoch),
        primary: primary.map(|(node, _)| state.node_name(node)),
        position: primary.map_or(0, |(_, copy)| copy.sequence),
        replicas,
        witness: record.witness.map(|node| state.node_name(node)),
        archive: archive(database, record, state, view),
        scrub: scrub(record, view),
    }
}

/// The last scrub, whoever was the primary then.
fn scrub(record: &ShardRecord, view: &View) -> Option<ScrubStatus> {
    let told = view.soft.keys().filter_map(|node| view.copy(*node, record.group)?.scrub.as_ref());
    told.max_by_key(|scrub| scrub.id).cloned()
}

/// The archive that is asked for, and what its writer tells.
fn archive(
    database: &str,
    record: &ShardRecord,
    state: &State,
    view: &View,
) -> Option<DatabaseArchive> {
    let setting = state.databases.get(database)?.archive.as_ref()?;
    let told = view.archive(record.group).filter(|(_, told)| told.dir == setting.dir);
    let (node, told) = told.unzip();
    let told = told.cloned().unwrap_or_default();
    let is_complete = told.complete_ms > 0;
    Some(DatabaseArchive {
        dir: setting.dir.clone(),
        node: node.map(|node| state.node_name(node)),
        position: told.sequence,
        at_ms: told.at_ms,
        age_ms: is_complete.then(|| view.now_ms.saturating_sub(told.complete_ms)),
        base_ms: told.base_ms,
        gaps: told.gaps,
        problem: told.problem,
    })
}

/// Those that run, and the last few that finished.
fn operations(state: &State) -> Vec<Operation> {
    let finished = state.operations.values().filter(|operation| operation.state.is_finished());
    let skip = finished.count().saturating_sub(FINISHED_OPERATIONS);
    let mut seen = 0;
    state
        .operations
        .values()
        .filter(|operation| {
            if operation.state.is_finished() {
                seen += 1;
                return seen > skip;
            }
            true
        })
        .map(rung_control_plane::operation::OperationRecord::to_api)
        .collect()
}

/// Single points of failure and what is not as wanted.
pub fn warnings(state: &State, view: &View) -> Vec<String> {
    let mut warnings = Vec::new();
    let up = |node: &&NodeId| view.is_up(**node);
    let voters_up = view.voters.iter().filter(up).count();
    if leader(view).is_none() {
        warnings.push("nobody leads the control group: nothing can be changed".to_owned());
    }
    match view.voters.len() {
        0 => {}
        1 => warnings.push("one control voter: if it is lost, nothing can be changed".to_owned()),
        2 => warnings.push(
            "two control voters: if either is lost, nothing can be changed; add a node".to_owned(),
        ),
        count if voters_up * 2 <= count => {
            warnings.push(format!("{voters_up} of {count} control voters are up: no majority"));
        }
        count if voters_up < count => {
            warnings.push(format!("{voters_up} of {count} control voters are up"));
        }
        _ => {}
    }
    for role in [Role::Lb, Role::Dns] {
        let have = state.role(role).owners.keys().filter(up).count();
        match have {
            0 => warnings.push(format!("no node that is up has {role}")),
            1 => warnings.push(format!("one node has {role}: a single point of failure")),
            _ => {}
        }
    }
    for database in state.databases.values() {
        for (number, shard) in &database.shards {
            if recovery::needs_operator(shard, state, view) {
                warnings.push(format!(
                    "a majority of the copies of {}/{number} is lost: nothing can be written; {}",
                    database.name,
                    recovery::advice(&database.name)
                ));
            }
        }
    }
    for app in state.apps.values().filter(|app| !app.removing) {
        let healthy: Vec<NodeId> = state
            .instances_of(&app.name)
            .filter(|instance| view.is_healthy(instance.node, instance.id))
            .map(|instance| instance.node)
            .collect();
        let on_one = healthy.iter().all(|node| Some(node) == healthy.first());
        match healthy.len() {
            0 if app.web > 0 => warnings.push(format!("{} has no healthy instance", app.name)),
            1 => warnings.push(format!("{} has one instance: a single point of failure", app.name)),
            _ if on_one && !healthy.is_empty() => {
                warnings.push(format!("every instance of {} is on one node", app.name));
            }
            _ => {}
        }
    }
    warnings
}

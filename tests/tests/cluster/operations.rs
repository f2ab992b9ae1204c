//! Operations survive the death of the node that runs them, between every two of
//! their steps.

use std::collections::BTreeSet;
use std::time::Duration;

use rung_proto::api::{NodeState, Operation, OperationState, StepState};
use rung_proto::{OperationId, Role};
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually, run, until};

const SLOW: &str = "sleep 1; exec ./hello";
const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const PATIENCE: Duration = Duration::from_secs(180);

/// Five nodes of which n1, that `ctl` asks, never votes and so never leads.
fn started() -> Cluster {
    let cluster = Cluster::builder().start();
    cluster.ctl(&["role", "rm", "n1", "control"]).expect(0);
    cluster
}

fn newest(cluster: &Cluster, after: Option<OperationId>) -> Option<Operation> {
    let status = cluster.status();
    status.operations.into_iter().rfind(|operation| Some(operation.id) > after)
}

/// How far an operation is: which steps it has now, since undoing has others, and
/// how many of them have begun.
fn place(operation: &Operation) -> (Option<String>, usize) {
    let first = operation.steps.first().map(|step| step.name.clone());
    let begun = operation.steps.iter().filter(|step| step.state != StepState::Waiting).count();
    (first, begun)
}

/// Ends the leader as a power cut does and starts it again once another one leads.
/// Says whether it was up: what n1 knows may be of a moment ago.
fn replace_leader(cluster: &mut Cluster) -> bool {
    let leader = cluster.leader();
    assert_ne!(leader, "n1", "it never votes");
    if !cluster.is_up(&leader) {
        return false;
    }
    cluster.kill(&leader);
    eventually("another leads", SOON, || {
        cluster.status().cluster.leader.is_some_and(|now| now != leader)
    });
    cluster.spawn(&leader, &[]);
    true
}

/// Makes a change, kills the leader whenever a further step has begun, and sees the
/// change through to the end that is expected.
fn with_leaders_killed(cluster: &mut Cluster, end: OperationState, change: &[&str]) {
    let before = cluster.status().operations.last().map(|operation| operation.id);
    let mut command = cluster.ctl_command("n1", change);
    let ctl = std::thread::spawn(move || run(&mut command, PATIENCE));
    let (mut killed_at, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let ended = until("the operation ends", PATIENCE, || {
        let operation = newest(cluster, before)?;
        ids.insert(operation.id);
        if operation.state.is_finished() {
            return Some(operation);
        }
        let place = place(&operation);
        if !killed_at.contains(&place) && replace_leader(cluster) {
            killed_at.insert(place);
        }
        None
    });
    let said = ctl.join().expect("ctl's thread");
    let code = i32::from(end != OperationState::Done);
    assert_eq!((said.code, ended.state), (code, end), "{change:?} {said}\n{ended:#?}");
    assert_eq!(ids.len(), 1, "it is the same operation");
    println!("{change:?}: leaders were killed {} times, at {killed_at:?}", killed_at.len());
    eventually("all nodes are back", SOON, || {
        let nodes = cluster.status().nodes;
        nodes.iter().all(|node| node.state == NodeState::Alive)
    });
    eventually("the process of a node that was removed has ended", SOON, || {
        let nodes = cluster.status().nodes;
        cluster.running().iter().all(|name| nodes.iter().any(|node| node.name == *name))
    });
    cluster.wait_settled();
    assert!(!killed_at.is_empty(), "{change:?} was over before the leader could be killed");
}

#[test]
fn a_deploy_and_a_rollback_go_on_while_leaders_die_at_every_step() {
    let mut cluster = started();
    cluster.deploy_hello(&Hello { command: SLOW, ..Hello::default() });
    let second = cluster.hello(&Hello {
        command: SLOW,
        env: vec![("GREETING", "2".to_owned())],
        ..Hello::default()
    });
    let second = second.path().display().to_string();
    with_leaders_killed(&mut cluster, OperationState::Done, &["deploy", &second]);
    assert_eq!(cluster.app("hello").release, 2);
    with_leaders_killed(&mut cluster, OperationState::Done, &["rollback", "hello"]);
    assert_eq!(cluster.app("hello").release, 1);
    cluster.wait_healthy("hello", 2);
}

#[test]
fn a_deploy_that_fails_is_undone_while_leaders_die_at_every_step() {
    let mut cluster = started();
    cluster.deploy_hello(&Hello::default());
    let command = "sleep 1; exit 7";
    let broken = cluster.hello(&Hello { command, ..Hello::default() });
    let broken = broken.path().display().to_string();
    with_leaders_killed(&mut cluster, OperationState::RolledBack, &["deploy", &broken]);
    assert_eq!(cluster.app("hello").release, 1);
    cluster.wait_healthy("hello", 2);
}

#[test]
fn an_app_is_scaled_changed_and_removed_while_leaders_die_at_every_step() {
    let mut cluster = started();
    cluster.deploy_hello(&Hello { command: SLOW, ..Hello::default() });
    let done = OperationState::Done;
    with_leaders_killed(&mut cluster, done, &["scale", "web", "4"]);
    cluster.wait_healthy("hello", 4);
    with_leaders_killed(&mut cluster, done, &["env", "set", "hello", "COLOR=blue"]);
    cluster.wait_healthy("hello", 4);
    with_leaders_killed(&mut cluster, done, &["scale", "web", "2"]);
    cluster.wait_healthy("hello", 2);
    with_leaders_killed(&mut cluster, done, &["app", "rm", "hello"]);
    assert!(cluster.status().apps.is_empty());
}

fn with_role(cluster: &Cluster, role: Role) -> Vec<String> {
    let nodes = cluster.status().nodes;
    nodes.into_iter().filter(|node| node.roles.contains(&role)).map(|node| node.name).collect()
}

fn without_role(cluster: &Cluster, role: Role) -> String {
    let with = with_role(cluster, role);
    let free = NAMES.into_iter().find(|name| !with.iter().any(|node| node == name));
    free.expect("a node without the role").to_owned()
}

#[test]
fn instances_are_moved_while_leaders_die_at_every_step() {
    let mut cluster = started();
    cluster.deploy_hello(&Hello { command: SLOW, ..Hello::default() });
    let done = OperationState::Done;

    let on: Vec<String> = cluster.healthy("hello").into_iter().map(|i| i.node).collect();
    let free = NAMES.into_iter().find(|name| !on.iter().any(|node| node == name));
    let free = free.expect("a node without an instance");
    with_leaders_killed(&mut cluster, done, &["move", "web", free, "--from", &on[0]]);
    cluster.wait_healthy("hello", 2);
    assert!(cluster.healthy("hello").iter().all(|instance| instance.node != on[0]));
}

#[test]
fn roles_are_added_moved_and_taken_while_leaders_die_at_every_step() {
    let mut cluster = started();
    let done = OperationState::Done;
    let third = without_role(&cluster, Role::Lb);
    with_leaders_killed(&mut cluster, done, &["role", "add", &third, "lb"]);
    assert!(with_role(&cluster, Role::Lb).contains(&third));
    let fourth = without_role(&cluster, Role::Lb);
    with_leaders_killed(&mut cluster, done, &["move", "lb", &fourth, "--from", &third]);
    let balancers = with_role(&cluster, Role::Lb);
    assert!(balancers.contains(&fourth) && !balancers.contains(&third), "{balancers:?}");
    with_leaders_killed(&mut cluster, done, &["role", "rm", &fourth, "lb"]);
    assert!(!with_role(&cluster, Role::Lb).contains(&fourth));
}

#[test]
fn a_node_is_drained_and_removed_while_leaders_die_at_every_step() {
    let mut cluster = started();
    cluster.deploy_hello(&Hello { command: SLOW, instances: 5, ..Hello::default() });
    let done = OperationState::Done;
    let voters = cluster.voters();
    let leaves = NAMES.into_iter().skip(1).find(|name| !voters.iter().any(|voter| voter == name));
    let leaves = leaves.expect("a node that does not vote");
    with_leaders_killed(&mut cluster, done, &["node", "drain", leaves]);
    let node = cluster.node(leaves);
    assert!(node.roles.is_empty() && node.draining, "{node:?}");
    cluster.wait_healthy("hello", 5);
    cluster.ctl(&["node", "uncordon", leaves]).expect(0);
    cluster.ctl(&["scale", "web", "8"]).expect(0);
    cluster.wait_healthy("hello", 8);
    with_leaders_killed(&mut cluster, done, &["node", "remove", leaves]);
    assert!(cluster.status().nodes.iter().all(|node| node.name != leaves));
    cluster.wait_healthy("hello", 8);
}

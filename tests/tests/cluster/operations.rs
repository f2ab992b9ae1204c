//! Operations survive the death of the node that runs them.

use std::time::Duration;

use rung_proto::OperationId;
use rung_proto::api::{Operation, OperationState, StepState};
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, run, until};

const SLOW: &str = "sleep 1; exec ./hello";
const PATIENCE: Duration = Duration::from_secs(180);

fn newest(cluster: &Cluster, after: Option<OperationId>) -> Option<Operation> {
    let status = cluster.status();
    status.operations.into_iter().rfind(|operation| Some(operation.id) > after)
}

/// Starts a change, kills the leader once its step is reached, and sees it
/// through. Gives the number of its steps.
fn with_leader_killed_at(cluster: &mut Cluster, step: usize, change: &[&str]) -> usize {
    let before = cluster.status().operations.last().map(|operation| operation.id);
    let mut command = cluster.ctl_command("n1", change);
    let ctl = std::thread::spawn(move || run(&mut command, PATIENCE));
    let reached = until("the operation gets to the step", SOON, || {
        let operation = newest(cluster, before)?;
        let there = operation.steps.get(step).is_none_or(|s| s.state != StepState::Waiting);
        (there || operation.state.is_finished()).then_some(operation)
    });
    let leader = cluster.leader();
    assert_ne!(leader, "n1", "ctl asks n1, which goes on");
    cluster.kill(&leader);
    let said = ctl.join().expect("ctl's thread");
    let ended = newest(cluster, before).expect("the operation");
    assert_eq!(
        (said.code, ended.state),
        (0, OperationState::Done),
        "{change:?} {said}\n{ended:#?}"
    );
    assert_eq!(ended.id, reached.id, "it is the same operation");
    println!("{change:?}: leader {leader} killed at step {step} of {}", ended.steps.len());
    cluster.restart(&leader);
    cluster.wait_settled();
    ended.steps.len()
}

#[test]
fn a_deploy_survives_the_death_of_the_leader_at_each_of_its_steps() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    let mut steps = 1;
    let mut step = 0;
    while step < steps {
        let folder = cluster.hello(&Hello {
            command: SLOW,
            env: vec![("ATTEMPT", step.to_string())],
            ..Hello::default()
        });
        let folder = folder.path().display().to_string();
        steps = with_leader_killed_at(&mut cluster, step, &["deploy", &folder]);
        cluster.wait_healthy("hello", 2);
        step += 1;
        assert_eq!(cluster.app("hello").release as usize, step + 1);
    }
}

#[test]
fn other_changes_survive_the_death_of_the_leader() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello { command: SLOW, ..Hello::default() });
    let scale = ["scale", "web", "4"];
    for step in 0..with_leader_killed_at(&mut cluster, 0, &scale) {
        cluster.ctl(&["scale", "web", "2"]).expect(0);
        with_leader_killed_at(&mut cluster, step, &scale);
    }
    cluster.wait_healthy("hello", 4);
    with_leader_killed_at(&mut cluster, 0, &["env", "set", "hello", "COLOR=blue"]);
    cluster.wait_healthy("hello", 4);
    let lb = cluster
        .status()
        .nodes
        .into_iter()
        .find(|node| node.name != "n1" && node.roles.contains(&rung_proto::Role::Lb));
    let lb = lb.expect("a second load balancer").name;
    with_leader_killed_at(&mut cluster, 0, &["node", "drain", &lb]);
    assert!(cluster.node(&lb).roles.is_empty(), "{:?}", cluster.node(&lb));
    cluster.ctl(&["node", "uncordon", &lb]).expect(0);
    cluster.wait_healthy("hello", 4);
    with_leader_killed_at(&mut cluster, 0, &["app", "rm", "hello"]);
    assert!(cluster.status().apps.is_empty());
}

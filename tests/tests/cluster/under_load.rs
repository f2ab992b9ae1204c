//! Steady load of safe requests through n1 loses nothing, whatever is killed or
//! changed behind it.

use std::collections::BTreeSet;

use rung_proto::api::{NodeState, OperationState};
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::process::{is_running, signal};
use rung_tests::{Cluster, Load, eventually, http};

const CONNECTIONS: usize = 64;
/// Before and after each thing that is done.
const AROUND: u64 = 500;

fn serving_four() -> Cluster {
    let mut cluster = Cluster::builder().alone().start();
    // In the manifest: a rollback to a release that says 2 goes back to 2.
    cluster.deploy_hello(&Hello { instances: 4, ..Hello::default() });
    let on: BTreeSet<String> = cluster.healthy("hello").into_iter().map(|i| i.node).collect();
    assert!(on.len() >= 3, "instances are on several nodes: {on:?}");
    cluster
}

/// Does something under load and insists that no request failed.
fn under_load(cluster: &mut Cluster, what: &str, act: impl FnOnce(&mut Cluster)) {
    let load = cluster.load(CONNECTIONS);
    during(load, cluster, what, act);
}

/// The same with as many requests as are answered, one after the other on each
/// connection.
fn under_all_load(cluster: &mut Cluster, what: &str, act: impl FnOnce(&mut Cluster)) {
    let load = cluster.load_without_pause(CONNECTIONS);
    during(load, cluster, what, act);
}

fn during(load: Load, cluster: &mut Cluster, what: &str, act: impl FnOnce(&mut Cluster)) {
    load.go_on_for(AROUND);
    act(cluster);
    load.go_on_for(AROUND);
    load.stop().expect_no_failure(what);
}

#[test]
fn no_request_fails_when_a_process_a_web_node_and_the_leader_are_killed() {
    let mut cluster = serving_four();
    under_all_load(&mut cluster, "kill -9 of a web process", |cluster| {
        let victim = cluster.healthy("hello").remove(0);
        let pid = victim.pid.expect("a healthy instance has a process");
        signal(pid, "KILL");
        eventually("the process is gone", SOON, || !is_running(pid));
        eventually("another process runs", SOON, || {
            let healthy = cluster.healthy("hello");
            healthy.len() == 4 && healthy.iter().all(|instance| instance.pid != Some(pid))
        });
    });
    under_load(&mut cluster, "kill -9 of a web node", |cluster| {
        let leader = cluster.leader();
        let instances = cluster.healthy("hello");
        let not_special = |node: &&String| **node != leader && *node != "n1";
        let nodes: Vec<String> = instances.into_iter().map(|instance| instance.node).collect();
        let victim = nodes.iter().find(not_special).expect("a web node to kill").clone();
        cluster.kill(&victim);
        cluster.wait_state(&victim, NodeState::Down);
        cluster.wait_healthy("hello", 4);
        assert!(cluster.healthy("hello").iter().all(|instance| instance.node != victim));
    });
    cluster.wait_settled();
    under_load(&mut cluster, "kill -9 of the control leader", |cluster| {
        let old = cluster.leader();
        assert_ne!(old, "n1", "the leader is another node");
        cluster.kill(&old);
        eventually("another leads", SOON, || {
            cluster.status().cluster.leader.is_some_and(|leader| leader != old)
        });
        cluster.wait_state(&old, NodeState::Down);
        cluster.wait_healthy("hello", 4);
    });
}

fn release_that_answers(cluster: &Cluster) -> u64 {
    let answer = http::get(cluster.http("n1"), "hello.test", "/").expect("the site answers");
    let said: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    said["release"].as_u64().unwrap_or_default()
}

#[test]
fn no_request_fails_during_deploys_scaling_and_moves() {
    let mut cluster = serving_four();
    under_load(&mut cluster, "a deploy", |cluster| {
        let folder = cluster.hello(&Hello {
            instances: 4,
            env: vec![("GREETING", "2".to_owned())],
            ..Hello::default()
        });
        cluster.deploy(&folder).expect(0);
        cluster.wait_healthy("hello", 4);
        assert_eq!(cluster.app("hello").release, 2);
        assert_eq!(release_that_answers(cluster), 2);
    });
    under_load(&mut cluster, "a deploy that is rolled back", |cluster| {
        let broken = "echo the database of this release is missing; exit 7";
        let folder = cluster.hello(&Hello { instances: 4, command: broken, ..Hello::default() });
        let said = cluster.deploy(&folder).expect(1);
        // Its last words are what one needs to repair it.
        said.clone().saying("the database of this release is missing");
        said.saying("app-failed");
        cluster.wait_healthy("hello", 4);
        assert_eq!(cluster.app("hello").release, 2);
        assert_eq!(release_that_answers(cluster), 2);
        let last = cluster.status().operations.pop().expect("an operation");
        assert_eq!(last.state, OperationState::RolledBack, "{last:?}");
    });
    under_load(&mut cluster, "a rollback", |cluster| {
        cluster.ctl(&["rollback", "hello"]).expect(0);
        cluster.wait_healthy("hello", 4);
        assert_eq!(release_that_answers(cluster), 1);
    });
    under_load(&mut cluster, "scale web 2, then 4", |cluster| {
        cluster.ctl(&["scale", "web", "2"]).expect(0);
        cluster.wait_healthy("hello", 2);
        cluster.ctl(&["scale", "web", "4"]).expect(0);
        cluster.wait_healthy("hello", 4);
    });
    under_load(&mut cluster, "move web", |cluster| {
        let on: Vec<String> = cluster.healthy("hello").into_iter().map(|i| i.node).collect();
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let free = names.into_iter().find(|name| !on.iter().any(|node| node == name));
        let free = free.expect("a node without an instance");
        cluster.ctl(&["move", "web", free]).expect(0);
        cluster.wait_healthy("hello", 4);
        assert!(cluster.healthy("hello").iter().any(|instance| instance.node == free));
    });
    under_load(&mut cluster, "move control", |cluster| {
        let voters = cluster.voters();
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let free = names.into_iter().find(|name| !voters.iter().any(|node| node == name));
        let free = free.expect("a node that does not vote");
        cluster.ctl(&["move", "control", free]).expect(0);
        assert!(cluster.voters().iter().any(|voter| voter == free));
        assert_eq!(cluster.voters().len(), 3);
    });
}

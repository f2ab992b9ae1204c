//! Draining, cordoning and removing nodes; roles by hand.

use rung_proto::Role;
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually};

const NAMES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];

fn on_node(cluster: &Cluster, node: &str) -> usize {
    cluster.app("hello").web.instances.iter().filter(|instance| instance.node == node).count()
}

#[test]
fn a_drained_node_has_nothing_and_fails_no_request() {
    let mut cluster = Cluster::builder().alone().start();
    cluster.deploy_hello(&Hello { instances: 4, ..Hello::default() });
    let busy = cluster
        .status()
        .nodes
        .into_iter()
        .find(|node| node.name != "n1" && node.roles.contains(&Role::Web));
    let busy = busy.expect("a node with web").name;
    let load = cluster.load(16);
    cluster.ctl(&["node", "drain", &busy]).expect(0);
    load.go_on_for(100);
    load.stop().expect_no_failure("node drain");
    let drained = cluster.node(&busy);
    assert!(drained.roles.is_empty() && drained.draining, "{drained:?}");
    assert_eq!(on_node(&cluster, &busy), 0);
    cluster.wait_healthy("hello", 4);
    cluster.ctl(&["scale", "web", "5"]).expect(0);
    assert_eq!(on_node(&cluster, &busy), 0, "nothing new is placed there");
    cluster.ctl(&["node", "uncordon", &busy]).expect(0);
    assert!(!cluster.node(&busy).draining);

    cluster.ctl(&["node", "drain", &busy]).expect(0);
    cluster.ctl(&["node", "remove", &busy]).expect(0);
    assert!(cluster.status().nodes.iter().all(|node| node.name != busy));
    cluster.wait_healthy("hello", 5);
    eventually("the removed node does not serve as a member", SOON, || {
        !cluster.is_up(&busy)
            || cluster.status_of(&busy).is_none_or(|status| {
                status.nodes.iter().all(|node| node.name != busy) || status.cluster.leader.is_none()
            })
    });
    cluster.ctl(&["node", "remove", &busy]).expect(5).saying("not-found");
}

#[test]
fn a_cordoned_node_keeps_what_it_has_and_gets_nothing_new() {
    let mut cluster = Cluster::builder().start();
    let free = cluster
        .status()
        .nodes
        .into_iter()
        .find(|node| node.name != "n1" && !node.roles.contains(&Role::Web));
    let free = free.expect("a node without web").name;
    cluster.ctl(&["node", "cordon", &free]).expect(0);
    assert!(cluster.node(&free).cordoned);
    cluster.deploy_hello(&Hello { instances: 4, ..Hello::default() });
    cluster.ctl(&["scale", "web", "8"]).expect(0);
    cluster.wait_healthy("hello", 8);
    assert_eq!(on_node(&cluster, &free), 0);
    cluster.ctl(&["node", "uncordon", &free]).expect(0);
    assert!(!cluster.node(&free).cordoned);
    cluster.ctl(&["node", "uncordon", &free]).expect(0).saying("nothing to do");
}

#[test]
fn roles_are_pinned_by_hand_and_pins_are_kept() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    let plain = cluster.status().nodes.into_iter().find(|node| !node.roles.contains(&Role::Lb));
    let plain = plain.expect("a node without lb").name;
    cluster.ctl(&["role", "add", &plain, "lb"]).expect(0);
    let node = cluster.node(&plain);
    assert!(node.roles.contains(&Role::Lb) && node.pinned.contains(&Role::Lb), "{node:?}");
    eventually("it serves the site", SOON, || {
        rung_tests::http::get(cluster.http(&plain), "hello.test", "/up")
            .is_ok_and(|answer| answer.status == 200)
    });
    cluster.ctl(&["role", "add", &plain, "lb"]).expect(0).saying("nothing to do");
    cluster.ctl(&["scale", "lb", "1"]).expect(0);
    assert!(cluster.node(&plain).roles.contains(&Role::Lb), "what is pinned stays");
    cluster.ctl(&["scale", "lb", "3"]).expect(0);
    eventually("three nodes balance", SOON, || {
        NAMES.iter().filter(|name| cluster.node(name).roles.contains(&Role::Lb)).count() == 3
    });
    cluster.ctl(&["role", "rm", &plain, "lb"]).expect(0);
    let node = cluster.node(&plain);
    assert!(!node.roles.contains(&Role::Lb), "{node:?}");
    eventually("another one takes its place", SOON, || {
        NAMES.iter().filter(|name| cluster.node(name).roles.contains(&Role::Lb)).count() == 3
    });
    // A role that nobody could take is not taken away.
    cluster.ctl(&["role", "add", "n9", "lb"]).expect(5);
}

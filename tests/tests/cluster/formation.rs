//! A cluster forms, places its roles and serves a site.

use std::collections::BTreeSet;

use rung_proto::Role;
use rung_proto::api::{ControlRole, NodeState};
use rung_tests::app::Hello;
use rung_tests::{Cluster, http};
use serde_json::Value;

#[test]
fn five_nodes_form_a_cluster_spread_their_roles_and_serve_a_site() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    let status = cluster.status();
    // The others join in any order.
    let names: BTreeSet<&str> = status.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["n1", "n2", "n3", "n4", "n5"]));
    assert!(status.nodes.iter().all(|node| node.state == NodeState::Alive));
    let voters: Vec<_> =
        status.nodes.iter().filter(|node| node.control != ControlRole::Follower).collect();
    assert_eq!(voters.len(), 3);
    assert!(voters.iter().all(|node| node.name != "n1"), "{voters:?}");
    let dcs: BTreeSet<&str> = voters.iter().map(|node| node.dc.as_str()).collect();
    assert_eq!(dcs.len(), 2, "{voters:?}");
    let leaders = voters.iter().filter(|node| node.control == ControlRole::Leader).count();
    assert_eq!(leaders, 1);
    let first = &status.nodes[0];
    assert!(first.roles.contains(&Role::Lb) && first.roles.contains(&Role::Dns), "{first:?}");
    for role in [Role::Lb, Role::Dns] {
        let owners: Vec<_> = status.nodes.iter().filter(|n| n.roles.contains(&role)).collect();
        let dcs: BTreeSet<&str> = owners.iter().map(|node| node.dc.as_str()).collect();
        assert_eq!((owners.len(), dcs.len()), (2, 2), "{role}: {owners:?}");
    }
    let on: BTreeSet<String> = cluster.healthy("hello").into_iter().map(|i| i.node).collect();
    assert_eq!(on.len(), 2, "instances are on different nodes");

    for host in ["hello.test", "any.other.name"] {
        let answer = http::get(cluster.http("n1"), host, "/").unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(on.contains(said["node"].as_str().unwrap_or_default()), "{said}");
    }
}

fn field_names(value: &Value) -> Vec<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

/// Scripts rely on these names: a change of this test is a change of the
/// version.
#[test]
fn the_status_in_json_has_the_documented_fields() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.deploy_hello(&Hello { instances: 1, ..Hello::default() });
    let status = cluster.ctl(&["status", "-o", "json"]).expect(0).json();
    assert_eq!(status["version"], 1);
    let top = ["apps", "cluster", "db", "nodes", "operations", "version", "warnings"];
    assert_eq!(field_names(&status), top);
    let of_cluster = ["answered_by", "id", "index", "leader", "name", "roles"];
    assert_eq!(field_names(&status["cluster"]), of_cluster);
    assert!(status["cluster"]["index"].is_u64());
    assert_eq!(field_names(&status["cluster"]["roles"]), ["control", "db", "dns", "lb", "web"]);
    assert_eq!(field_names(&status["cluster"]["roles"]["lb"]), ["have", "want"]);
    let of_node = [
        "address",
        "control",
        "cordoned",
        "dc",
        "draining",
        "id",
        "incarnation",
        "name",
        "pinned",
        "roles",
        "state",
        "version",
    ];
    let node = &status["nodes"][0];
    assert_eq!(field_names(node), of_node);
    assert_eq!((&node["state"], &node["control"]), (&"alive".into(), &"leader".into()));
    assert_eq!(node["roles"], serde_json::json!(["control", "dns", "lb", "web"]));
    let app = &status["apps"][0];
    assert_eq!(field_names(app), ["domain", "name", "release", "web"]);
    assert_eq!(field_names(&app["web"]), ["healthy", "instances", "want"]);
    let of_instance = ["id", "node", "pid", "port", "problem", "release", "restarts", "state"];
    assert_eq!(field_names(&app["web"]["instances"][0]), of_instance);
    assert_eq!(app["web"]["instances"][0]["state"], "healthy");
    let of_operation = [
        "created_ms",
        "failure",
        "finished_ms",
        "id",
        "kind",
        "requested_by",
        "result",
        "state",
        "steps",
        "summary",
    ];
    let operation = &status["operations"][0];
    assert_eq!(field_names(operation), of_operation);
    assert_eq!(field_names(&operation["steps"][0]), ["name", "note", "state"]);
}

//! Nodes that come back, and nodes that only look like it.

use std::fs;

use rung_proto::api::NodeState;
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually, http};

#[test]
fn a_node_that_was_killed_comes_back_as_itself_with_its_instances() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.deploy_hello(&Hello::default());
    for incarnation in 2..=4 {
        let before = cluster.node("n1");
        let pids: Vec<u32> = cluster.healthy("hello").iter().filter_map(|i| i.pid).collect();
        if incarnation == 4 {
            assert_eq!(cluster.stop("n1"), Some(0), "it stops in order");
        } else {
            cluster.kill("n1");
        }
        eventually("its apps die with it", SOON, || {
            !pids.iter().any(|pid| rung_tests::process::is_running(*pid))
        });
        cluster.restart("n1");
        cluster.wait_healthy("hello", 2);
        eventually("the site answers", SOON, || {
            http::get(cluster.http("n1"), "hello.test", "/").is_ok_and(|a| a.status == 200)
        });
        let after = cluster.node("n1");
        assert_eq!((after.id, after.incarnation), (before.id, incarnation));
    }
}

#[test]
fn a_node_of_several_comes_back_as_itself_and_takes_part_again() {
    let mut cluster = Cluster::builder().nodes(3).start();
    cluster.deploy_hello(&Hello { instances: 3, ..Hello::default() });
    let before = cluster.node("n3");
    cluster.kill("n3");
    cluster.wait_state("n3", NodeState::Down);
    cluster.restart("n3");
    cluster.wait_settled();
    let after = cluster.node("n3");
    assert_eq!((after.id, after.incarnation), (before.id, before.incarnation + 1));
    cluster.wait_healthy("hello", 3);
    assert!(cluster.stop("n3") == Some(0));
    eventually("it is known to have left, or to be down", SOON, || {
        matches!(cluster.node("n3").state, NodeState::Left | NodeState::Down)
    });
    cluster.restart("n3");
    cluster.wait_settled();
    assert_eq!(cluster.node("n3").id, before.id);
}

#[test]
fn a_node_that_lost_its_disk_is_another_node() {
    let mut cluster = Cluster::builder().nodes(3).start();
    let old = cluster.node("n3");
    cluster.kill("n3");
    let kept = cluster.dir().join("kept");
    fs::rename(cluster.data("n3"), &kept).unwrap();
    let data = cluster.data("n3").display().to_string();
    let mut arguments = vec!["--data".to_owned(), data];
    arguments.extend(cluster.join_arguments(3));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The token that it joined with is spent by now.
    cluster.refused(&arguments).expect(1).saying("token-spent");
    cluster.make_token(1);
    cluster.refused(&arguments).expect(5).saying("name-taken");

    cluster.ctl(&["node", "remove", "n3"]).expect(0);
    assert!(cluster.status().nodes.iter().all(|node| node.name != "n3"));
    cluster.join(3);
    cluster.wait_settled();
    let new = cluster.node("n3");
    assert_ne!(new.id, old.id);

    // The old disk turns up again: its identity is refused for good.
    cluster.kill("n3");
    fs::rename(cluster.data("n3"), cluster.dir().join("new")).unwrap();
    fs::rename(&kept, cluster.data("n3")).unwrap();
    let data = cluster.data("n3").display().to_string();
    cluster.refused(&["--data", &data]).expect(1).saying("identity-refused");
    assert!(cluster.status().nodes.iter().all(|node| node.id != old.id));
}

//! A node whose disk is full.

use std::fs;
use std::time::Duration;

use rung_proto::api::NodeState;
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::small_disk::SmallDisk;
use rung_tests::{Cluster, eventually, run};

/// The node's log takes 64 MiB, and a start needs as much again for a moment.
const MEBIBYTES: u32 = 192;
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_node_with_a_full_disk_harms_nobody_and_works_again_once_there_is_space() {
    let mut cluster = Cluster::empty(Cluster::builder());
    let Some(disk) = SmallDisk::mount(&cluster.data("n3"), MEBIBYTES) else { return };
    cluster.found();
    cluster.make_token(2);
    cluster.join(2);
    cluster.join(3);
    cluster.wait_settled();
    cluster.deploy_hello(&Hello { instances: 3, ..Hello::default() });
    disk.fill();
    let load = cluster.load(8);

    // A release that the node has no room for waits, and says what for.
    let second = cluster.hello(&Hello {
        instances: 3,
        env: vec![("GREETING", "2".to_owned())],
        ..Hello::default()
    });
    let mut deploy = cluster.ctl_command("n1", &["deploy", &second.path().display().to_string()]);
    let deploy = std::thread::spawn(move || run(&mut deploy, PATIENCE));
    eventually("the status says what is wrong", SOON, || {
        let instances = cluster.app("hello").web.instances;
        instances.iter().any(|instance| {
            let problem = instance.problem.as_deref().unwrap_or_default();
            instance.node == "n3" && problem.contains("No space left")
        })
    });
    eventually("so does the log", SOON, || {
        let log = fs::read_to_string(cluster.log("n3")).unwrap_or_default();
        log.contains("No space left") && log.contains("free space")
    });
    cluster.ctl(&["token", "create"]).expect(0);
    cluster.ctl(&["node", "cordon", "n2"]).expect(0);
    cluster.ctl(&["node", "uncordon", "n2"]).expect(0);
    disk.free();
    deploy.join().expect("ctl's thread").expect(0);
    cluster.wait_healthy("hello", 3);

    // A node that has no room to start says so, and what it has is left alone.
    disk.fill();
    cluster.kill("n3");
    let data = cluster.data("n3").display().to_string();
    let refused = cluster.refused(&["--data", &data]).expect(1).saying("code: disk-full\n");
    let refused = refused.saying("next: free space");
    assert!(!refused.says("panicked"), "{refused}");
    cluster.wait_state("n3", NodeState::Down);
    cluster.ctl(&["scale", "web", "4"]).expect(0);
    load.go_on_for(50);
    load.stop().expect_no_failure("a full disk");
    disk.free();
    cluster.restart("n3");
    cluster.wait_settled();
    eventually("it knows what happened meanwhile", SOON, || {
        let status = cluster.status_of("n3");
        status.is_some_and(|status| status.cluster.index == cluster.status().cluster.index)
    });
    // Everything on it works: each node has one of three.
    cluster.ctl(&["scale", "web", "3"]).expect(0);
    cluster.deploy_hello(&Hello { instances: 3, ..Hello::default() });
    assert!(cluster.healthy("hello").iter().any(|instance| instance.node == "n3"));
}

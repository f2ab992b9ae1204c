//! Certificates renew by themselves.

use std::fs;
use std::time::{Duration, Instant};

use rung_proto::api::NodeState;
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually, http};

const LIFETIME: Duration = Duration::from_secs(12);

fn identities(cluster: &Cluster) -> Vec<Vec<u8>> {
    let names = ["n1", "n2", "n3"];
    let file = |name: &&str| cluster.data(name).join("identity/identity");
    names.iter().map(|name| fs::read(file(name)).expect("an identity")).collect()
}

#[test]
fn certificates_of_seconds_renew_and_a_node_that_was_down_past_its_own_comes_back() {
    let argument = format!("--certificate-lifetime={}", LIFETIME.as_secs());
    let mut cluster = Cluster::builder().nodes(3).argument(&argument).start();
    cluster.deploy_hello(&Hello::default());
    let load = cluster.load(4);
    let start = Instant::now();
    for round in 0..3 {
        let before = identities(&cluster);
        eventually("every node has a new certificate", LIFETIME * 2, || {
            identities(&cluster).iter().zip(&before).all(|(new, old)| new != old)
        });
        let number = (2 + round % 2).to_string();
        cluster.ctl(&["scale", "web", &number]).expect(0);
        assert!(cluster.status().nodes.iter().all(|node| node.state == NodeState::Alive));
    }
    assert!(start.elapsed() > LIFETIME, "the first certificates have expired");
    load.stop().expect_no_failure("renewal of all certificates");
    cluster.ctl(&["doctor", "-o", "json"]).saying("certificate");

    let id = cluster.node("n3").id;
    cluster.kill("n3");
    let killed = Instant::now();
    cluster.wait_state("n3", NodeState::Down);
    eventually("its certificate has expired", LIFETIME * 2, || killed.elapsed() > LIFETIME);
    cluster.restart("n3");
    cluster.wait_settled();
    assert_eq!(cluster.node("n3").id, id);
    eventually("the site answers", SOON, || {
        http::get(cluster.http("n1"), "hello.test", "/").is_ok_and(|answer| answer.status == 200)
    });
}

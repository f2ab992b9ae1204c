//! Nodes on machines of their own, whose cables are cut.

use rung_proto::api::NodeState;
use rung_tests::cluster::SOON;
use rung_tests::namespaces::{Cut, missing};
use rung_tests::{Cluster, eventually};

/// The leader of the control group is cut off and healed: it leads no more, what it
/// is asked meanwhile does not happen, and afterwards all agree.
#[track_caller]
fn cut_off_the_leader(cut: Cut) {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let builder = Cluster::builder().nodes(3).dcs(&["east", "west", "north"]);
    let mut cluster = builder.on_machines().start();
    let old = cluster.leader();
    let other = ["n1", "n2", "n3"].into_iter().find(|node| *node != old).expect("another");
    let tokens = |cluster: &Cluster, node: &str| {
        let list = cluster.ctl_of(node, &["token", "ls", "-o", "json"]).expect(0).json();
        list.as_array().expect("a list of tokens").len()
    };
    let before = tokens(&cluster, other);

    cluster.machines().expect("machines").isolate(&old, cut);
    let took = eventually("another leads", SOON, || {
        let leader = cluster.status_of(other).and_then(|status| status.cluster.leader);
        leader.is_some_and(|leader| leader != old)
    });
    println!("{cut:?}: another led after {:.1} s", took.as_secs_f64());
    // Whatever it thinks that it is, it can do nothing alone.
    let asked = cluster.ctl_of(&old, &["token", "create"]);
    assert_eq!(asked.code, 6, "{asked}");
    cluster.ctl_of(other, &["token", "create"]).expect(0);

    cluster.machines().expect("machines").heal(&old);
    eventually("all agree on the leader and the state", SOON, || {
        let known = ["n1", "n2", "n3"].map(|node| cluster.status_of(node));
        let known = known.map(|status| status.map(|s| (s.cluster.leader, s.cluster.index)));
        known[0].as_ref().is_some_and(|(leader, _)| leader.is_some())
            && known.iter().all(|view| *view == known[0])
    });
    assert_eq!(tokens(&cluster, &old), before + 1, "of two tokens one was made");
    eventually("it is alive to all", SOON, || {
        let status = cluster.status_of(other);
        status.is_some_and(|s| s.nodes.iter().all(|node| node.state == NodeState::Alive))
    });
}

#[test]
fn a_leader_that_nobody_hears_and_that_hears_nobody_leads_no_more() {
    cut_off_the_leader(Cut::Both);
}

#[test]
fn a_leader_that_nobody_hears_leads_no_more() {
    cut_off_the_leader(Cut::Out);
}

#[test]
fn a_leader_that_hears_nobody_leads_no_more() {
    cut_off_the_leader(Cut::In);
}

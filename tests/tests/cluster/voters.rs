//! The control group loses voters, all of them, or its leader for a while.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rung_proto::api::{NodeState, OperationState};
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::process::signal;
use rung_tests::{Cluster, eventually, run};

/// A voter that is lost is replaced within this, a grace of 3 s included.
const REPLACED: Duration = Duration::from_secs(20);
const PAUSE_OF_LEADER: Duration = Duration::from_secs(30);

#[test]
fn the_site_goes_on_without_any_voter_and_changes_work_once_they_are_back() {
    let mut cluster = Cluster::builder().alone().start();
    cluster.deploy_hello(&Hello { instances: 4, ..Hello::default() });
    let voters = cluster.voters();
    assert_eq!(voters.len(), 3);
    let survivors: Vec<_> =
        cluster.healthy("hello").into_iter().filter(|i| !voters.contains(&i.node)).collect();
    assert!(!survivors.is_empty(), "an app does not live on voters alone");

    let load = cluster.load(64);
    load.go_on_for(400);
    cluster.kill_all(&voters);
    for voter in &voters {
        cluster.wait_state(voter, NodeState::Down);
    }
    cluster.ctl(&["scale", "web", "2"]).expect(6).saying("no-quorum");
    let victim = &survivors[0];
    let pid = victim.pid.expect("a healthy instance has a process");
    signal(pid, "KILL");
    eventually("the process on a node that is left comes back", SOON, || {
        cluster.healthy("hello").iter().any(|i| i.id == victim.id && i.pid != Some(pid))
    });
    load.go_on_for(1000);
    load.stop().expect_no_failure("all three voters killed at once");

    for voter in &voters {
        cluster.restart(voter);
    }
    cluster.wait_settled();
    cluster.wait_healthy("hello", 4);
    cluster.ctl(&["scale", "web", "2"]).expect(0);
    cluster.wait_healthy("hello", 2);
}

#[test]
fn a_voter_that_is_lost_for_good_is_replaced_within_seconds() {
    let mut cluster = Cluster::builder().start();
    let leader = cluster.leader();
    let lost = cluster.voters().into_iter().find(|voter| *voter != leader).expect("a voter");
    cluster.kill(&lost);
    std::fs::remove_dir_all(cluster.data(&lost)).unwrap();
    let took = eventually("three others vote", REPLACED, || {
        let voters = cluster.voters();
        voters.len() == 3 && !voters.contains(&lost)
    });
    println!("a lost voter was replaced after {:.1} s", took.as_secs_f64());
    let dcs: BTreeSet<String> =
        cluster.voters().iter().map(|voter| cluster.node(voter).dc).collect();
    assert_eq!(dcs.len(), 2, "they are spread again");
    // The new one counts: without another of the three there still is a majority.
    let next = cluster.voters().into_iter().find(|voter| *voter != leader && voter != "n1");
    cluster.kill(&next.expect("a voter"));
    cluster.ctl(&["token", "create"]).expect(0);
}

#[test]
fn a_leader_that_was_paused_takes_no_decision_when_it_wakes() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    let old = cluster.leader();
    // It falls asleep over a change, which others finish meanwhile.
    let folder = cluster.hello(&Hello { command: "sleep 1; exec ./hello", ..Hello::default() });
    let folder = folder.path().display().to_string();
    let mut deploy = cluster.ctl_command("n1", &["deploy", &folder]);
    let deploy = std::thread::spawn(move || run(&mut deploy, SOON + PAUSE_OF_LEADER));
    eventually("the deploy has begun", SOON, || {
        cluster.status().operations.iter().any(|o| o.state == OperationState::Running)
    });
    let before = cluster.status().cluster.index;
    signal(cluster.pid(&old), "STOP");
    let paused = Instant::now();
    // What it is asked while it sleeps was planned for a state that is gone
    // when it wakes.
    let index = before.to_string();
    let mut late = cluster.ctl_command(&old, &["scale", "web", "9", "--if-index", &index]);
    let late = std::thread::spawn(move || run(&mut late, SOON + PAUSE_OF_LEADER));
    eventually("another leads", SOON, || {
        cluster.status().cluster.leader.is_some_and(|leader| leader != old)
    });
    deploy.join().expect("ctl's thread").expect(0);
    cluster.ctl(&["scale", "web", "3"]).expect(0);
    cluster.ctl(&["env", "set", "hello", "DURING=1"]).expect(0);
    let token = cluster.ctl(&["token", "create", "-o", "json"]).expect(0).json();
    eventually("the pause is long enough", PAUSE_OF_LEADER * 2, || {
        paused.elapsed() >= PAUSE_OF_LEADER
    });
    let meanwhile = cluster.status().cluster.index;
    assert!(meanwhile > before);
    let decided: Vec<_> = cluster.status().operations.iter().map(|o| (o.id, o.state)).collect();
    signal(cluster.pid(&old), "CONT");

    let late = late.join().expect("ctl's thread");
    assert!([5, 6].contains(&late.code), "{late}");
    cluster.wait_state(&old, NodeState::Alive);
    cluster.wait_settled();
    cluster.wait_healthy("hello", 3);
    let names = ["n1", "n2", "n3", "n4", "n5"];
    eventually("all nodes have the same state and leader", SOON, || {
        let told: BTreeSet<_> = names
            .iter()
            .map(|name| {
                cluster.status_of(name).map(|status| {
                    let apps: Vec<_> = status
                        .apps
                        .iter()
                        .map(|a| (a.name.clone(), a.release, a.web.want))
                        .collect();
                    let operations: Vec<_> =
                        status.operations.iter().map(|o| (o.id, o.state)).collect();
                    (status.cluster.index, status.cluster.leader, apps, operations)
                })
            })
            .collect();
        told.len() == 1
            && told.iter().flatten().all(|(index, leader, apps, operations)| {
                *index >= meanwhile
                    && leader.is_some()
                    && apps == &[("hello".to_owned(), 2, 3)]
                    && *operations == decided
            })
    });
    let tokens = cluster.ctl_of(&old, &["token", "ls", "-o", "json"]).expect(0).json();
    let ids: Vec<_> = tokens.as_array().into_iter().flatten().map(|t| &t["id"]).collect();
    assert!(ids.contains(&&token["id"]), "{tokens}");
    cluster.ctl_of(&old, &["scale", "web", "2"]).expect(0);
    assert!(cluster.status().cluster.index > meanwhile);
}

/// It is sent the whole log again, in which it once was alone, and must not
/// believe that it still is.
#[test]
fn the_first_node_leaves_the_control_group_and_votes_again() {
    let mut cluster = Cluster::builder().start();
    cluster.deploy_hello(&Hello::default());
    for round in 0..5 {
        cluster.ctl(&["move", "control", "n1"]).expect(0);
        assert!(cluster.voters().iter().any(|voter| voter == "n1"));
        let mut free = ["n2", "n3", "n4", "n5"].into_iter();
        let free = free.find(|name| !cluster.voters().iter().any(|voter| voter == name));
        let free = free.expect("a node that does not vote");
        cluster.ctl(&["move", "control", free, "--from", "n1"]).expect(0);
        eventually("n1 votes no more", SOON, || {
            let voters = cluster.voters();
            voters.len() == 3 && !voters.iter().any(|voter| voter == "n1")
        });
        let number = (2 + round % 2).to_string();
        cluster.ctl(&["scale", "web", &number]).expect(0);
    }
    let names = ["n1", "n2", "n3", "n4", "n5"];
    eventually("all nodes agree on the leader and the state", SOON, || {
        let told: BTreeSet<_> = names
            .iter()
            .map(|name| cluster.status_of(name).map(|s| (s.cluster.leader, s.cluster.index)))
            .collect();
        told.len() == 1
    });
}

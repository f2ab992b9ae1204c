//! What `ctl` ends with, on real clusters.

use std::fs;

use rung_proto::api::{NodeState, OperationState};
use rung_tests::Cluster;
use rung_tests::app::Hello;

#[test]
fn exit_codes_tell_what_came_of_a_change() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.deploy_hello(&Hello::default());
    let index = cluster.status().cluster.index.to_string();

    let plan = cluster.ctl(&["scale", "web", "3", "--dry-run"]).expect(3);
    plan.saying(&format!("made at index {index}"));
    let plan = cluster.ctl(&["scale", "web", "3", "--dry-run", "-o", "json"]).expect(3).json();
    assert_eq!((&plan["outcome"], &plan["index"].to_string()), (&"plan".into(), &index));
    assert_eq!(cluster.app("hello").web.want, 2, "a dry run changes nothing");
    cluster.ctl(&["scale", "web", "2"]).expect(0).saying("nothing to do");
    cluster.ctl(&["scale", "web", "2", "--dry-run"]).expect(0).saying("nothing to do");

    cluster.ctl(&["scale", "web", "3", "--if-index", "1"]).expect(5).saying("index-changed");
    assert_eq!(cluster.app("hello").web.want, 2);
    cluster.ctl(&["scale", "web", "3", "--if-index", &index]).expect(0);
    assert_eq!(cluster.app("hello").web.want, 3);

    for unknown in [
        &["node", "drain", "n9"][..],
        &["rollback", "nothing"],
        &["move", "lb", "n9"],
        &["op", "show", "999"],
    ] {
        cluster.ctl(unknown).expect(5).saying("not-found");
    }
    for wrong in [
        &["scale", "web", "many"][..],
        &["scale", "teapot", "1"],
        &["nonsense"],
        &["deploy"],
        &["status", "--nonsense"],
    ] {
        cluster.ctl(wrong).expect(2);
    }
    let empty = cluster.dir().join("empty");
    fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    cluster.ctl(&["deploy", &empty]).expect(2).saying("rung.toml");
    fs::write(format!("{empty}/rung.toml"), "name = 'x'\nnonsense = 1\n").unwrap();
    cluster.ctl(&["deploy", &empty]).expect(2).saying("invalid-manifest");

    let nowhere = cluster.dir().join("nowhere");
    let mut command = cluster.ctl_command("nowhere", &["status"]);
    rung_tests::run(&mut command, rung_tests::cluster::SOON).expect(6).saying("unreachable");
    assert!(!nowhere.exists());
}

#[test]
fn a_change_that_takes_longer_than_one_waits_goes_on() {
    let mut cluster = Cluster::builder().nodes(1).start();
    let folder = cluster.hello(&Hello { command: "sleep 4; exec ./hello", ..Hello::default() });
    let path = folder.path().to_str().expect("a plain path");
    let said = cluster.ctl(&["deploy", path, "--timeout", "1s"]).expect(4);
    let running = cluster.status().operations.pop().expect("an operation");
    assert_eq!(running.state, OperationState::Running);
    let id = running.id.to_string();
    said.saying(&format!("ctl op watch {id}"));
    // One app is changed by one operation at a time.
    cluster.ctl(&["app", "rm", "hello"]).expect(5).saying("operation-running");
    cluster.ctl(&["op", "watch", &id]).expect(0);
    cluster.wait_healthy("hello", 2);
    let shown = cluster.ctl(&["op", "show", &id, "-o", "json"]).expect(0).json();
    assert_eq!(shown["state"], "done");
    cluster.ctl(&["explain", &id]).expect(0).saying("deploy");
}

#[test]
fn without_a_quorum_changes_are_refused_and_questions_answered() {
    let mut cluster = Cluster::builder().nodes(3).start();
    cluster.deploy_hello(&Hello::default());
    cluster.kill_all(&["n2".to_owned(), "n3".to_owned()]);
    for node in ["n2", "n3"] {
        cluster.wait_state(node, NodeState::Down);
    }
    for change in [&["scale", "web", "3"][..], &["token", "create"], &["node", "cordon", "n1"]] {
        cluster.ctl(change).expect(6).saying("no-quorum");
    }
    cluster.ctl(&["status"]).expect(0);
    cluster.ctl(&["events"]).expect(0);
    cluster.ctl(&["doctor"]).expect(1).saying("n2 is down");
    assert_eq!(cluster.app("hello").web.want, 2);
    cluster.restart("n2");
    rung_tests::eventually("changes work again", rung_tests::cluster::SOON, || {
        cluster.ctl(&["scale", "web", "3"]).code == 0
    });
}

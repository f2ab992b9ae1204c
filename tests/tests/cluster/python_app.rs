//! The example in Python, which knows nothing of Rung.

use std::path::Path;
use std::process::Command;

use rung_tests::cluster::SOON;
use rung_tests::{Cluster, Run, eventually, run};

#[track_caller]
fn curl(cluster: &Cluster, words: &[&str]) -> Run {
    let url = format!("http://{}/notes", cluster.http("n1"));
    let mut command = Command::new("curl");
    command.args(["-fsS", "-H", "Host: notes.test", "-m", "20"]).args(words).arg(&url);
    run(&mut command, SOON).expect(0)
}

const NOTE: [&str; 4] =
    ["-H", "Content-Type: application/json", "-d", r#"{"text":"remember the milk"}"#];

#[track_caller]
fn deploy(cluster: &Cluster) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/notes-python");
    let folder = folder.canonicalize().unwrap().display().to_string();
    cluster.ctl(&["deploy", &folder]).expect(0);
}

#[test]
fn the_python_example_deploys_and_keeps_its_notes() {
    let cluster = Cluster::builder().nodes(1).start();
    deploy(&cluster);
    // Where there is no psycopg a process has notes of its own.
    cluster.ctl(&["scale", "web", "1"]).expect(0);
    cluster.wait_healthy("notes", 1);
    let added = curl(&cluster, &NOTE).json();
    assert_eq!(added["text"], "remember the milk");
    assert_eq!(curl(&cluster, &[]).json(), serde_json::json!([added]));
}

#[test]
fn all_processes_of_the_python_example_have_the_same_notes() {
    let mut python = Command::new("/usr/bin/python3");
    if run(python.args(["-c", "import psycopg"]), SOON).code != 0 {
        println!("skipped: psycopg is not installed; it is Debian's python3-psycopg");
        return;
    }
    let cluster = Cluster::builder().nodes(3).start();
    deploy(&cluster);
    cluster.wait_healthy("notes", 2);
    let added = curl(&cluster, &NOTE).json();
    for _ in 0..10 {
        assert_eq!(curl(&cluster, &[]).json(), serde_json::json!([added]));
    }
    let pids: Vec<_> = cluster.healthy("notes").iter().filter_map(|i| i.pid).collect();
    for pid in &pids {
        rung_tests::process::signal(*pid, "KILL");
    }
    eventually("other processes are there", SOON, || {
        let healthy = cluster.healthy("notes");
        healthy.len() == 2 && healthy.iter().all(|i| i.pid.is_some_and(|p| !pids.contains(&p)))
    });
    assert_eq!(curl(&cluster, &[]).json(), serde_json::json!([added]));
}

//! The example in Python, which knows nothing of Rung.

use std::path::Path;
use std::process::Command;

use rung_tests::cluster::SOON;
use rung_tests::{Cluster, run};

#[test]
fn the_python_example_deploys_and_keeps_its_notes() {
    let cluster = Cluster::builder().nodes(1).start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/notes-python");
    let folder = folder.canonicalize().unwrap().display().to_string();
    cluster.ctl(&["deploy", &folder]).expect(0);
    // It keeps its notes in memory, so one process has them all.
    cluster.ctl(&["scale", "web", "1"]).expect(0);
    cluster.wait_healthy("notes", 1);
    let url = format!("http://{}/notes", cluster.http("n1"));
    let curl = |words: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-fsS", "-H", "Host: notes.test", "-m", "10"]).args(words).arg(&url);
        run(&mut command, SOON).expect(0)
    };
    let json = ["-H", "Content-Type: application/json", "-d", r#"{"text":"remember the milk"}"#];
    let added = curl(&json).json();
    assert_eq!(added["text"], "remember the milk");
    assert_eq!(curl(&[]).json(), serde_json::json!([added]));
}

//! Variables and secrets of an app.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually, run};

const SECRET: &str = "correct-horse-battery-staple";

/// The files below a directory that have this text.
fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let mut command = Command::new("grep");
    let found = run(command.args(["-rlaF", "-D", "skip", text]).arg(dir), SOON);
    found.stdout.lines().map(PathBuf::from).collect()
}

fn variable_of(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let start = format!("{name}=");
    text.split('\0').find_map(|pair| pair.strip_prefix(&start)).map(str::to_owned)
}

#[test]
fn variables_reach_every_process_one_by_one_and_secrets_stay_secret() {
    let mut cluster = Cluster::builder().alone().start();
    cluster.deploy_hello(&Hello { instances: 3, ..Hello::default() });
    let before: Vec<_> = cluster.healthy("hello").iter().map(|i| i.pid).collect();
    let load = cluster.load(16);
    let secret = format!("PASSWORD={SECRET}");
    cluster.ctl(&["env", "set", "hello", &secret, "COLOR=blue"]).expect(0);
    cluster.wait_healthy("hello", 3);
    load.go_on_for(100);
    load.stop().expect_no_failure("env set");
    let after = cluster.healthy("hello");
    assert!(after.iter().all(|instance| !before.contains(&instance.pid)), "{after:?}");
    for instance in &after {
        let pid = instance.pid.expect("a process");
        assert_eq!(variable_of(pid, "PASSWORD").as_deref(), Some(SECRET), "{instance:?}");
        assert_eq!(variable_of(pid, "COLOR").as_deref(), Some("blue"));
        assert_eq!(variable_of(pid, "RUNG_NODE").as_deref(), Some(instance.node.as_str()));
        // Tiers that do not exist yet have no address.
        for absent in ["DATABASE_URL", "CACHE_URL", "QUEUE_URL", "CDN_URL"] {
            assert_eq!(variable_of(pid, absent), None);
        }
    }
    let listed = cluster.ctl(&["env", "ls", "hello"]).expect(0);
    assert!(listed.says("PASSWORD") && !listed.says(SECRET), "{listed}");

    for question in ["status", "events", "audit", "op ls", "top", "app show hello", "env ls hello"]
    {
        let words: Vec<&str> = question.split(' ').chain(["-o", "json"]).collect();
        let said = cluster.ctl(&words).expect(0);
        assert!(!said.says(SECRET), "`ctl {question}` tells a secret");
    }
    let hosts: Vec<&str> = after.iter().map(|instance| instance.node.as_str()).collect();
    for node in ["n1", "n2", "n3", "n4", "n5"] {
        let data = cluster.data(node);
        let kept = data.join("secrets");
        for path in files_with(&data, SECRET) {
            // A node that runs the app starts it again without asking anybody.
            let open = fs::metadata(&path).unwrap().mode() & 0o077;
            assert!(hosts.contains(&node) && path.starts_with(&kept), "{}", path.display());
            assert_eq!(open, 0, "{} is open to others", path.display());
            assert_eq!(fs::metadata(&kept).unwrap().mode() & 0o077, 0);
        }
        assert_eq!(fs::read_to_string(cluster.log(node)).unwrap_or_default().find(SECRET), None);
    }

    cluster.ctl(&["env", "unset", "hello", "PASSWORD"]).expect(0);
    cluster.wait_healthy("hello", 3);
    eventually("no process has the variable", SOON, || {
        let pids: Vec<u32> = cluster.healthy("hello").iter().filter_map(|i| i.pid).collect();
        pids.len() == 3 && pids.iter().all(|pid| variable_of(*pid, "PASSWORD").is_none())
    });
    cluster.ctl(&["env", "set", "hello", "PORT=1"]).expect(2).saying("PORT");
    cluster.ctl(&["env", "set", "nothing", "A=1"]).expect(5);
}

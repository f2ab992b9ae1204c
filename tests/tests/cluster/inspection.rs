//! Looking at a cluster: logs, events, top, doctor, audit, metrics.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc;

use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, eventually, http};
use serde_json::Value;

const CHATTY: &str = "echo started on $RUNG_NODE; exec ./hello";

fn admin(cluster: &Cluster, node: &str) -> SocketAddr {
    (cluster.ip(node), 7401).into()
}

#[test]
fn logs_of_an_app_come_from_all_nodes_and_are_followed() {
    let mut cluster = Cluster::builder().nodes(3).start();
    let chatty = Hello { instances: 3, command: CHATTY, ..Hello::default() };
    cluster.deploy_hello(&chatty);
    let on: BTreeSet<String> = cluster.healthy("hello").into_iter().map(|i| i.node).collect();
    assert_eq!(on.len(), 3);
    let said = cluster.ctl(&["logs", "hello"]).expect(0);
    for node in &on {
        said.clone().saying(&format!("started on {node}"));
    }
    let one = cluster.ctl(&["logs", "hello", "--node", "n2", "-o", "json"]).expect(0);
    for line in one.stdout.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["node"], "n2");
    }
    assert!(one.stdout.contains("started on n2"), "{one}");
    cluster.ctl(&["logs", "lb"]).expect(0);
    cluster.ctl(&["logs", "nothing"]).expect(5);

    let mut command = cluster.ctl_command("n1", &["logs", "-f", "-n", "0", "hello"]);
    let mut follower = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(follower.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut seen: BTreeSet<String> = BTreeSet::new();
    cluster.ctl(&["env", "set", "hello", "COLOR=red"]).expect(0);
    let all = eventually("new lines of every node are followed", SOON, || {
        for line in lines.try_iter() {
            seen.extend(
                on.iter().find(|node| line.contains(&format!("started on {node}"))).cloned(),
            );
        }
        seen == on
    });
    println!("followed after {all:?}");
    follower.kill().unwrap();
    follower.wait().unwrap();
    reader.join().unwrap();
}

#[test]
fn events_top_audit_and_doctor_tell_what_there_is() {
    let mut cluster = Cluster::builder().nodes(3).start();
    cluster.deploy_hello(&Hello::default());
    cluster.ctl(&["scale", "web", "3"]).expect(0);
    let events = cluster.ctl(&["events", "-o", "json"]).expect(0);
    let events: Vec<Value> =
        events.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: BTreeSet<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    for kind in ["node-joined", "role-assigned", "instance-placed", "operation-finished", "release"]
    {
        assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
    }
    let indices: Vec<u64> = events.iter().filter_map(|event| event["index"].as_u64()).collect();
    assert!(indices.is_sorted());
    let last = indices.last().expect("an event").to_string();
    assert_eq!(cluster.ctl(&["events", "--since", &last]).expect(0).stdout, "");

    let audit = cluster.ctl(&["audit", "-o", "json"]).expect(0).json();
    let actions: Vec<&str> = audit
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["action"].as_str())
        .collect();
    for word in ["deploy", "scale", "token"] {
        assert!(actions.iter().any(|action| action.contains(word)), "{word}: {actions:?}");
    }
    assert!(audit.as_array().into_iter().flatten().all(|entry| entry["by"].is_string()));

    let top = eventually_top(&cluster);
    for node in &top {
        assert!(node["host"]["memory_total"].as_u64() > Some(0), "{node}");
        assert!(node["host"]["process_memory"].as_u64() > Some(0), "{node}");
        assert!(!node["actors"].as_array().expect("actors").is_empty(), "{node}");
    }
    cluster.ctl(&["doctor"]).expect(0);
    for words in [&["status"][..], &["top"], &["node", "ls"], &["app", "ls"], &["op", "ls"]] {
        let table = cluster.ctl(words).expect(0).stdout;
        let widest = table.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!((1..=80).contains(&widest), "{words:?} is {widest} wide:\n{table}");
        assert!(!table.contains('\u{1b}'), "no colours where a script reads:\n{table}");
    }
    let names = cluster.ctl(&["node", "ls", "-o", "name"]).expect(0).stdout;
    assert_eq!(names.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["n1", "n2", "n3"]));
    cluster.ctl(&["explain", "n2"]).expect(0).saying("n2");
    cluster.ctl(&["explain", "no-quorum"]).expect(0).saying("voters");
    cluster.ctl(&["completions", "bash"]).expect(0).saying("complete");
    cluster.ctl(&["ui"]).expect(0).saying("http://");

    cluster.kill("n3");
    cluster.wait_state("n3", rung_proto::api::NodeState::Down);
    cluster.ctl(&["doctor"]).expect(1).saying("n3 is down");
    eventually("the event of it is written", SOON, || {
        cluster.ctl(&["events", "-o", "json"]).says("node-down")
    });
}

fn eventually_top(cluster: &Cluster) -> Vec<Value> {
    rung_tests::until("top shows every node", SOON, || {
        let top = cluster.ctl(&["top", "-o", "json"]).expect(0).json();
        let nodes = top["nodes"].as_array().cloned().unwrap_or_default();
        let full = |node: &Value| node["host"]["memory_total"].as_u64() > Some(0);
        (nodes.len() == 3 && nodes.iter().all(full)).then_some(nodes)
    })
}

/// A line of the Prometheus text format: a comment, or a name with labels and a
/// number.
fn check_metrics_line(line: &str) -> Result<(), String> {
    if line.starts_with("# HELP ") || line.starts_with("# TYPE ") || line.is_empty() {
        return Ok(());
    }
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    value.parse::<f64>().map_err(|error| error.to_string())?;
    let name = series.split('{').next().unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("a bad name".to_owned());
    }
    match (series.contains('{'), series.ends_with('}')) {
        (false, false) | (true, true) => Ok(()),
        _ => Err("labels that do not end".to_owned()),
    }
}

#[test]
fn strangers_get_health_and_metrics_and_nothing_else() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.deploy_hello(&Hello::default());
    let target = admin(&cluster, "n1");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(http::get(target, &target.to_string(), path).unwrap().status, 200, "{path}");
    }
    let requests = "rung_lb_requests_total{app=\"hello\",status=\"2xx\"} ";
    let host = target.to_string();
    let metrics = rung_tests::until("the requests are counted", SOON, || {
        http::get(cluster.http("n1"), "hello.test", "/").unwrap();
        let text = http::get(target, &host, "/metrics").unwrap().text();
        let line = text.lines().find_map(|line| line.strip_prefix(requests).map(str::to_owned));
        line.is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count > 0.0))
            .then_some(text)
    });
    for line in metrics.lines() {
        check_metrics_line(line).unwrap_or_else(|why| panic!("{why}: {line}"));
    }
    for name in
        ["rung_host_cpu_busy", "rung_control_index", "rung_web_instances", "rung_dns_queries_total"]
    {
        assert!(metrics.contains(name), "{name}");
    }
    for path in ["/api/v1/status", "/api/v1/tokens", "/api/v1/audit"] {
        let answer = http::get(target, &host, path).unwrap();
        assert!((400..500).contains(&answer.status), "{path}: {answer:?}");
        assert!(!answer.text().contains("\"nodes\""));
    }
}

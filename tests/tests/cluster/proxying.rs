//! The load balancer, seen by curl and others, with the instance on another node.

use std::fs;
use std::process::Command;

use rung_proto::Role;
use rung_tests::app::Hello;
use rung_tests::cluster::SOON;
use rung_tests::{Cluster, Run, eventually, http, run};

fn curl(words: &[&str]) -> Run {
    let mut command = Command::new("curl");
    run(command.args(["-sS", "-m", "30"]).args(words), SOON)
}

/// One instance, and a balancer on another node.
fn remote_instance() -> (Cluster, String) {
    let mut cluster = Cluster::builder().nodes(3).start();
    cluster.deploy_hello(&Hello { instances: 1, ..Hello::default() });
    let on = cluster.healthy("hello").remove(0).node;
    let nodes = cluster.status().nodes;
    let lb = nodes.iter().find(|node| node.name != on && node.roles.contains(&Role::Lb));
    let lb = lb.expect("two balancers, one instance").name.clone();
    let address = cluster.http(&lb);
    eventually("it serves the site", SOON, || {
        http::get(address, "hello.test", "/up").is_ok_and(|answer| answer.status == 200)
    });
    (cluster, lb)
}

#[test]
fn what_is_on_another_node_is_proxied_whole() {
    let (cluster, lb) = remote_instance();
    let address = cluster.http(&lb);
    let url = |path: &str| format!("http://{address}{path}");

    http::websocket_echo(address, "hello.test", b"over the mesh").unwrap();

    let large: Vec<u8> =
        (0..5u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = cluster.dir().join("large");
    fs::write(&file, &large).unwrap();
    let at = format!("@{}", file.display());
    let hash = run(Command::new("sha1sum").arg(&file), SOON).expect(0).stdout;
    let hash = hash.split(' ').next().unwrap_or_default();
    let said = curl(&["--data-binary", &at, &url("/sha1")]).expect(0);
    assert_eq!(said.stdout.trim(), hash);
    let back = cluster.dir().join("back");
    let words = ["--data-binary", &at, "-o", back.to_str().expect("a plain path"), &url("/body")];
    curl(&words).expect(0);
    assert!(fs::read(&back).unwrap() == large, "the body comes back as it was sent");

    // A stream comes as it is made, not at its end.
    let words = ["-N", "-w", "%{time_starttransfer} %{time_total}", "-o", "/dev/null"];
    let said = curl(&[&words[..], &[&url("/stream?chunks=5&ms=200")]].concat()).expect(0);
    let times: Vec<f64> = said.stdout.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(times.len() == 2 && times[1] - times[0] > 0.5, "{said}");
    let said = curl(&["-N", &url("/stream?chunks=5&ms=1")]).expect(0);
    assert_eq!(said.stdout.lines().count(), 5, "{said}");

    let said = curl(&["-H", "X-Forwarded-For: 10.9.9.9", &url("/")]).expect(0).json();
    let forwarded = said["headers"]["x-forwarded-for"].as_str().unwrap_or_default();
    assert!(!forwarded.contains("10.9.9.9"), "what a stranger says is not trusted: {said}");
    assert!(forwarded.contains("127.0.0.1"), "{said}");
}

#[test]
fn https_and_http_2_are_served_to_clients() {
    let (cluster, lb) = remote_instance();
    let resolve = format!("hello.test:8443:{}", cluster.ip(&lb));
    let words =
        ["-k", "--resolve", &resolve, "-o", "/dev/null", "-w", "%{http_code} %{http_version}"];
    let url = "https://hello.test:8443/";
    for (version, seen) in [("--http1.1", "200 1.1"), ("--http2", "200 2")] {
        eventually("HTTPS is served", SOON, || {
            curl(&[&words[..], &[version, url]].concat()).stdout == seen
        });
    }
    let many: Vec<String> = (0..20).map(|n| format!("{url}bytes?n={}", n * 1000)).collect();
    let mut words = vec!["-k", "--http2", "--parallel", "--resolve", &resolve];
    words.extend(["-w", "%{http_code} %{size_download}\\n"]);
    for one in &many {
        words.extend(["-o", "/dev/null", one]);
    }
    let said = curl(&words).expect(0);
    let mut got: Vec<&str> = said.stdout.lines().collect();
    let mut wanted: Vec<String> = (0..20).map(|n| format!("200 {}", n * 1000)).collect();
    got.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(got, wanted, "{said}");
}

#[test]
fn requests_that_are_ambiguous_are_refused_and_unknown_hosts_told_so() {
    let mut cluster = Cluster::builder().nodes(1).start();
    let address = cluster.http("n1");
    eventually("the balancer listens", SOON, || http::get(address, "hello.test", "/").is_ok());
    let nothing = http::get(address, "hello.test", "/").unwrap();
    assert!(matches!(nothing.status, 404 | 421 | 502 | 503), "{nothing:?}");
    cluster.deploy_hello(&Hello::default());
    let url = format!("http://{address}/up");
    let smuggled = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "Content-Length: 3",
        "-H",
        "Transfer-Encoding: chunked",
        "-d",
        "abc",
        &url,
    ]);
    assert_eq!(smuggled.stdout, "400", "{smuggled}");
    let answer = curl(&["-i", &url]).expect(0);
    assert!(answer.stdout.to_ascii_lowercase().contains("x-request-id:"), "{answer}");
}

#[test]
fn apps_listen_on_loopback_only_or_do_not_pass_their_gate() {
    let mut cluster = Cluster::builder().nodes(1).start();
    cluster.deploy_hello(&Hello::default());
    let folder = cluster.hello(&Hello { command: "HOST=0.0.0.0 exec ./hello", ..Hello::default() });
    let said = cluster.deploy(&folder).expect(1);
    said.saying("0.0.0.0");
    assert_eq!(cluster.app("hello").release, 1);
    cluster.wait_healthy("hello", 2);
    let answer = http::get(cluster.http("n1"), "hello.test", "/up").unwrap();
    assert_eq!(answer.status, 200);
    let open = Hello {
        command: "HOST=0.0.0.0 exec ./hello",
        web: "allow_public_listen = true",
        ..Hello::default()
    };
    let folder = cluster.hello(&open);
    cluster.deploy(&folder).expect(0);
}

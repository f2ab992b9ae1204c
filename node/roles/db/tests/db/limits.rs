//! What clients may not make the server hold.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::client::Client;
use crate::cluster::{Cluster, eventually};

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Runs a test in a process of its own, where nothing else takes memory. Says
/// whether this is that process.
fn is_alone(name: &str) -> bool {
    if std::env::var_os("RUNG_TEST_ALONE").is_some() {
        return true;
    }
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args([name, "--exact", "--nocapture"]).env("RUNG_TEST_ALONE", "1");
    let output = alone.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// A query that gives about that many bytes.
fn large(bytes: usize) -> String {
    let rows = bytes / 1000;
    format!(
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {rows}) SELECT \
         repeat('x', 1000) FROM r"
    )
}

#[test]
fn a_client_that_does_not_read_holds_no_memory_and_is_closed() {
    if !is_alone("limits::a_client_that_does_not_read_holds_no_memory_and_is_closed") {
        return;
    }
    let cluster =
        Cluster::start(1, 1, |config| config.limits.slow_client = Duration::from_millis(500));
    let mut client = cluster.client();
    client.value("SELECT 1");
    let before = resident();
    client.write(|out| frontend::query(&large(64 << 20), out).unwrap());
    let server = cluster.nodes[0].server();
    eventually("the result is kept in a file", || server.spooled() > 60 << 20);
    let held = resident().saturating_sub(before);
    assert!(held < 32 << 20, "{held} bytes are held for one client");
    eventually("the client is given up", || server.connections() == 0);
    eventually("its result is gone", || server.spooled() == 0);
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.write(|out| frontend::query(&large(8 << 20), out).unwrap());
    let mut count = 0;
    loop {
        let reply = client.next().unwrap();
        match reply.kind {
            b'D' => count += 1,
            b'Z' => break,
            _ => {}
        }
        if count % 1000 == 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(count, (8 << 20) / 1000);
}

#[test]
fn a_result_over_the_bound_is_an_error() {
    let cluster = Cluster::start(1, 1, |config| config.limits.spool_per_result = 4 << 20);
    let mut client = cluster.client();
    assert_eq!(client.query(&large(16 << 20)).unwrap_err(), "53400");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn two_thousand_idle_connections_cost_little() {
    if !is_alone("limits::two_thousand_idle_connections_cost_little") {
        return;
    }
    let cluster = Cluster::single();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(cluster.client());
    }
    let before = resident();
    let began = Instant::now();
    for _ in 0..2000 {
        let mut client = cluster.client();
        client.value("SELECT 1");
        client.parameters = HashMap::new();
        clients.push(client);
    }
    let each = resident().saturating_sub(before) / 2000;
    println!("{each} bytes for each idle connection, {:?} for all", began.elapsed());
    // Includes what the test keeps for its own end.
    assert!(each < 32 * 1024, "{each} bytes for each idle connection");
    assert_eq!(clients[1999].value("SELECT 1"), "1");
}

#[test]
fn a_cancel_request_ends_the_statement_of_its_connection() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT \
                   count(*) FROM r";
    client.write(|out| frontend::query(endless, out).unwrap());
    let (process, secret) = client.key;
    let cancel = |process, secret| {
        let mut canceler = Client::raw(cluster.address());
        let mut out = BytesMut::new();
        frontend::cancel_request(process, secret, &mut out);
        canceler.stream.write_all(&out).unwrap();
        // The server closes when it has taken the request.
        let _ = canceler.stream.read_to_end(&mut Vec::new());
    };
    // With a wrong secret nothing happens; with the right one it may have to be
    // asked again, since it may come before the statement.
    cancel(process, secret ^ 1);
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut first = [0];
    assert!(client.stream.peek(&mut first).is_err());
    cancel(process, secret);
    client.stream.set_read_timeout(Some(crate::cluster::PATIENCE)).unwrap();
    let replies = client.until_ready();
    assert_eq!(replies[0].state(), "57014");
    assert_eq!(replies[0].field(b'M').unwrap(), "canceling statement due to user request");
    assert_eq!(client.value("SELECT 1"), "1");
}

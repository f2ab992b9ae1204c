//! Sessions on nodes that do not have what they need.

use std::io::{Read, Write};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rung_proto::NodeId;

use crate::client::Client;
use crate::cluster::{Cluster, PATIENCE};

/// A node that is not the primary, by its place in the cluster.
fn other(cluster: &Cluster, primary: NodeId) -> usize {
    cluster.nodes.iter().position(|node| node.id != primary).unwrap()
}

#[test]
fn a_session_on_a_node_without_a_copy_does_everything() {
    let cluster = Cluster::start(2, 1, |_| {});
    let mut client = cluster.nodes[1].client();
    client.run("CREATE TABLE t (a int PRIMARY KEY, b text)");
    assert_eq!(client.run("INSERT INTO t VALUES (1, 'x'), (2, NULL)"), "INSERT 0 2");
    assert_eq!(client.value("SELECT b FROM t WHERE a = 1"), "x");
    assert_eq!(client.query("INSERT INTO t VALUES (1, 'y')").unwrap_err(), "23505");
    client.run("BEGIN; SAVEPOINT s; INSERT INTO t VALUES (3, 'z')");
    assert_eq!(client.value("SELECT count(*) FROM t"), "3");
    assert_eq!(cluster.client().value("SELECT count(*) FROM t"), "2");
    client.run("ROLLBACK TO s; INSERT INTO t VALUES (4, 'w'); COMMIT");
    assert_eq!(cluster.client().value("SELECT max(a) FROM t"), "4");
    assert!(cluster.nodes[1].server().statistics().counters().sent > 0);
    assert!(cluster.nodes[0].server().statistics().counters().served_for_others > 0);
}

#[test]
fn a_large_result_passes_through_a_link() {
    let cluster = Cluster::start(2, 1, |_| {});
    let mut client = cluster.nodes[1].client();
    let rows = client
        .query(
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 5000) \
             SELECT repeat('x', 1000) FROM r",
        )
        .unwrap();
    assert_eq!(rows.len(), 5000);
    assert!(rows.iter().all(|row| row[0].as_ref().is_some_and(|text| text.len() == 1000)));
}

#[test]
fn an_app_reads_its_own_writes_on_every_node() {
    let cluster = Cluster::start(3, 3, |_| {});
    let primary = cluster.primary();
    let node = &cluster.nodes[other(&cluster, primary)];
    let mut writer = node.client();
    let mut reader = node.client_with(&[("options", "-c rung.role=replica")]);
    writer.run("CREATE TABLE t (a int)");
    for number in 1..=50 {
        writer.run(&format!("INSERT INTO t VALUES ({number})"));
        assert_eq!(reader.value("SELECT count(*) FROM t"), number.to_string());
    }
    let counters = node.server().statistics().counters();
    assert!(counters.reads_session > 0, "the copy nearby is read: {counters:?}");
}

#[test]
fn a_promotion_drops_no_connection() {
    let cluster = Cluster::start(3, 3, |_| {});
    let primary = cluster.primary();
    let next = cluster.nodes[other(&cluster, primary)].id;
    let mut clients: Vec<Client> = cluster.nodes.iter().map(|node| node.client()).collect();
    clients[0].run("CREATE TABLE t (a int)");
    for client in &mut clients {
        client.run("INSERT INTO t VALUES (1)");
    }
    let mut open = cluster.node(primary).client();
    open.run("BEGIN; INSERT INTO t VALUES (100)");
    let shard = cluster.node(primary).shard.clone().unwrap();
    cluster.runtime.block_on(shard.hand_over(next, PATIENCE)).unwrap();
    // The directory has not heard of it: the copies tell.
    for client in &mut clients {
        assert_eq!(client.run("INSERT INTO t VALUES (2)"), "INSERT 0 1");
    }
    assert_eq!(open.query("INSERT INTO t VALUES (101)").unwrap_err(), "40001");
    open.run("ROLLBACK");
    assert_eq!(open.run("INSERT INTO t VALUES (3)"), "INSERT 0 1");
    assert_eq!(open.value("SELECT count(*) FROM t"), "7");
}

#[test]
fn without_a_quorum_writes_end_and_say_what_is_known() {
    let cluster = Cluster::start(3, 3, |config| {
        config.limits.primary_wait = std::time::Duration::from_millis(500);
    });
    let primary = cluster.primary();
    let mut client = cluster.node(primary).client();
    client.run("CREATE TABLE t (a int)");
    for node in cluster.nodes.iter().filter(|node| node.id != primary) {
        cluster.runtime.block_on(node.shard.as_ref().unwrap().close());
    }
    client.run("SET statement_timeout = '2s'");
    let state = client.query("INSERT INTO t VALUES (1)").unwrap_err();
    assert!(["08007", "57P03", "57014"].contains(&state.as_str()), "{state}");
    client.run("SET rung.read = 'any'");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_cancel_request_finds_its_session_from_any_node() {
    let cluster = Cluster::start(2, 1, |_| {});
    let mut client = cluster.nodes[1].client();
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT \
                   count(*) FROM r";
    client.write(|out| frontend::query(endless, out).unwrap());
    crate::cluster::eventually("it runs", || {
        cluster.nodes[1].server().statistics().counters().sent > 0
    });
    let mut canceler = Client::raw(cluster.nodes[0].server().address());
    let mut out = BytesMut::new();
    frontend::cancel_request(client.key.0, client.key.1, &mut out);
    canceler.stream.write_all(&out).unwrap();
    let _ = canceler.stream.read_to_end(&mut Vec::new());
    assert_eq!(client.until_ready()[0].state(), "57014");
    assert_eq!(client.value("SELECT 1"), "1");
}

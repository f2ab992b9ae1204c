//! Who gets in, and what connections are told at their start.

use std::io::Read;

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::client::Client;
use crate::cluster::{Cluster, PASSWORD, eventually};

#[test]
fn a_client_with_the_password_gets_in_and_others_do_not() {
    let cluster = Cluster::single();
    let address = cluster.address();
    let client = Client::connect(address, "app", PASSWORD, &[]).unwrap();
    assert!(client.parameters["server_version"].starts_with("15."));
    for (name, value) in [
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("in_hot_standby", "off"),
        ("DateStyle", "ISO, MDY"),
        ("session_authorization", "app"),
    ] {
        assert_eq!(client.parameters[name], value, "{name}");
    }
    let refused = |user, password, settings: &[(&str, &str)]| {
        Client::connect(address, user, password, settings).err().unwrap()
    };
    assert_eq!(refused("app", "wrong", &[]), "28P01");
    assert_eq!(refused("nobody", PASSWORD, &[]), "28P01");
    assert_eq!(refused("app", PASSWORD, &[("database", "other")]), "42501");
    assert_eq!(refused("other", PASSWORD, &[]), "3D000");
    assert_eq!(refused("app", PASSWORD, &[("client_encoding", "LATIN1")]), "22023");
    assert_eq!(refused("app", PASSWORD, &[("options", "-c nonsense=1")]), "42704");
    assert_eq!(refused("app", PASSWORD, &[("replication", "database")]), "0A000");
    assert_eq!(cluster.nodes[0].server().statistics().counters().logins_failed, 2);
}

#[test]
fn a_url_for_reading_is_told_as_a_standby_and_refuses_writes() {
    let cluster = Cluster::single();
    let options = [("options", "-c rung.role=replica")];
    let mut client = cluster.nodes[0].client_with(&options);
    assert_eq!(client.parameters["in_hot_standby"], "on");
    assert_eq!(client.parameters["default_transaction_read_only"], "on");
    assert_eq!(client.query("CREATE TABLE t (a int)").unwrap_err(), "25006");
    assert_eq!(client.query("BEGIN READ WRITE").unwrap_err(), "25006");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(client.query("SET rung.role = 'primary'").unwrap_err(), "55P02");
}

#[test]
fn encryption_that_is_not_offered_is_declined_and_the_client_goes_on() {
    let cluster = Cluster::single();
    let mut client = Client::raw(cluster.address());
    client.write(frontend::ssl_request);
    let mut answer = [0];
    client.stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    // GSSENCRequest.
    client.send(&[0, 0, 0, 8, 4, 210, 22, 48]);
    client.stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"N");
    let mut out = BytesMut::new();
    frontend::startup_message([("user", "app")], &mut out).unwrap();
    client.send(&out);
    assert_eq!(client.next().unwrap().kind, b'R');
}

#[test]
fn the_connection_over_the_limit_is_refused_and_its_place_comes_back() {
    let cluster = Cluster::start(1, 1, |config| config.limits.connections = 2);
    let first = cluster.client();
    let second = cluster.client();
    let refused = Client::connect(cluster.address(), "app", PASSWORD, &[]).err().unwrap();
    assert_eq!(refused, "53300");
    drop((first, second));
    eventually("the places are free", || cluster.nodes[0].server().connections() == 0);
    cluster.client();
}

#[test]
fn what_is_no_protocol_ends_that_connection_only() {
    let cluster = Cluster::single();
    let mut bystander = cluster.client();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        &[0, 0, 0, 4],
        &[0xff; 64],
        &[0, 0, 0, 9, 0, 3, 0, 0, 1],
        &[0, 0, 0, 8, 0, 2, 0, 0],
    ] {
        let mut client = Client::raw(cluster.address());
        client.send(bytes);
        let mut rest = Vec::new();
        // It is closed, with or without a word.
        let _ = client.stream.read_to_end(&mut rest);
    }
    for bytes in [
        &b"B\0\0\0\x0a\0\0\xff\xff\xff\xff"[..],
        b"P\0\0\0\x06\xff\xff",
        b"Q\x7f\xff\xff\xff",
        b"z\0\0\0\x04",
        b"Q\0\0\0\x00",
        b"E\0\0\0\x05\0",
        b"D\0\0\0\x06Q\0",
    ] {
        let mut client = cluster.client();
        client.send(bytes);
        let last = client.next().unwrap();
        assert_eq!((last.kind, last.state().as_str()), (b'E', "08P01"), "{bytes:?}");
        assert!(client.next().is_none());
    }
    assert_eq!(bystander.value("SELECT 2"), "2");
}

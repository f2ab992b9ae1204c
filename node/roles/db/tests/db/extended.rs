//! The extended protocol, message by message.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use crate::client::{Client, Reply, kinds};
use crate::cluster::Cluster;

fn parse(out: &mut BytesMut, name: &str, text: &str) {
    frontend::parse(name, text, [], out).unwrap();
}

fn bind(out: &mut BytesMut, portal: &str, statement: &str, values: &[&str]) {
    let serialize = |value: &&str, out: &mut BytesMut| {
        out.extend_from_slice(value.as_bytes());
        Ok(IsNull::No)
    };
    let bound = frontend::bind(portal, statement, [], values.iter(), serialize, [], out);
    assert!(bound.is_ok());
}

fn execute(out: &mut BytesMut, portal: &str, rows: i32) {
    frontend::execute(portal, rows, out).unwrap();
}

fn rows(replies: &[Reply]) -> Vec<String> {
    let rows = replies.iter().filter(|reply| reply.kind == b'D');
    rows.map(|row| row.row()[0].clone().unwrap_or_default()).collect()
}

fn with_numbers(client: &mut Client) {
    client.run("CREATE TABLE numbers (n int PRIMARY KEY, word text)");
    client.run("INSERT INTO numbers VALUES (1,'one'),(2,'two'),(3,'three'),(4,'four'),(5,'five')");
}

#[test]
fn parse_describe_bind_execute_are_answered_in_order() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_numbers(&mut client);
    client.write(|out| {
        parse(out, "s", "SELECT word FROM numbers WHERE n = $1");
        frontend::describe(b'S', "s", out).unwrap();
        bind(out, "", "s", &["2"]);
        frontend::describe(b'P', "", out).unwrap();
        execute(out, "", 0);
        bind(out, "", "s", &["3"]);
        execute(out, "", 0);
        frontend::sync(out);
    });
    let replies = client.until_ready();
    assert_eq!(kinds(&replies), "1tT2TDC2DCZ");
    assert_eq!(rows(&replies), ["two", "three"]);
    assert_eq!(replies[6].text(), "SELECT 1");
    // One parameter of type int4.
    assert_eq!(replies[1].body, [0, 1, 0, 0, 0, 23]);
}

#[test]
fn after_an_error_everything_up_to_sync_is_skipped_and_undone() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_numbers(&mut client);
    client.write(|out| {
        parse(out, "", "INSERT INTO numbers VALUES (6, 'six')");
        bind(out, "", "", &[]);
        execute(out, "", 0);
        parse(out, "", "INSERT INTO numbers VALUES (1, 'again')");
        bind(out, "", "", &[]);
        execute(out, "", 0);
        parse(out, "", "INSERT INTO numbers VALUES (7, 'seven')");
        bind(out, "", "", &[]);
        execute(out, "", 0);
        frontend::sync(out);
        parse(out, "", "SELECT count(*) FROM numbers");
        bind(out, "", "", &[]);
        execute(out, "", 0);
        frontend::sync(out);
    });
    let replies = client.until_ready();
    assert_eq!(kinds(&replies), "12C12EZ");
    assert_eq!(replies[5].state(), "23505");
    assert_eq!(replies[6].body, b"I");
    assert_eq!(rows(&client.until_ready()), ["5"]);
}

#[test]
fn what_comes_before_one_sync_is_committed_together() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_numbers(&mut client);
    client.write(|out| {
        for number in 6..9 {
            parse(out, "", &format!("INSERT INTO numbers VALUES ({number}, 'x')"));
            bind(out, "", "", &[]);
            execute(out, "", 0);
        }
        frontend::sync(out);
    });
    assert_eq!(kinds(&client.until_ready()), "12C12C12CZ");
    assert_eq!(cluster.client().value("SELECT count(*) FROM numbers"), "8");
}

#[test]
fn a_portal_gives_its_rows_a_few_at_a_time() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    with_numbers(&mut client);
    client.run("BEGIN");
    client.write(|out| {
        parse(out, "", "SELECT n FROM numbers ORDER BY n");
        bind(out, "p", "", &[]);
        execute(out, "p", 2);
        frontend::sync(out);
    });
    let replies = client.until_ready();
    assert_eq!(
        (kinds(&replies).as_str(), rows(&replies)),
        ("12DDsZ", vec!["1".into(), "2".into()])
    );
    client.write(|out| {
        execute(out, "p", 2);
        execute(out, "p", 2);
        execute(out, "p", 0);
        frontend::sync(out);
    });
    let replies = client.until_ready();
    assert_eq!(kinds(&replies), "DDsDCCZ");
    assert_eq!(rows(&replies), ["3", "4", "5"]);
    assert_eq!((replies[4].text(), replies[5].text()), ("SELECT 1".into(), "SELECT 0".into()));
    client.run("COMMIT");
    client.write(|out| {
        execute(out, "p", 0);
        frontend::sync(out);
    });
    assert_eq!(client.until_ready()[0].state(), "34000");
}

#[test]
fn names_of_statements_and_portals_follow_the_rules() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    let mut state = |write: &dyn Fn(&mut BytesMut)| {
        client.write(|out| {
            write(out);
            frontend::sync(out);
        });
        let replies = client.until_ready();
        replies.iter().find(|reply| reply.kind == b'E').map(Reply::state).unwrap_or_default()
    };
    assert_eq!(state(&|out| parse(out, "a", "SELECT 1")), "");
    assert_eq!(state(&|out| parse(out, "a", "SELECT 1")), "42P05");
    assert_eq!(state(&|out| parse(out, "", "SELECT 1; SELECT 2")), "42601");
    assert_eq!(state(&|out| bind(out, "", "none", &[])), "26000");
    assert_eq!(state(&|out| execute(out, "none", 0)), "34000");
    assert_eq!(state(&|out| frontend::close(b'S', "a", out).unwrap()), "");
    assert_eq!(state(&|out| frontend::close(b'S', "a", out).unwrap()), "");
    assert_eq!(state(&|out| parse(out, "a", "SELECT 1")), "");
    assert_eq!(state(&|out| parse(out, "", "")), "");
}

#[test]
fn an_empty_statement_and_flush_are_answered() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    assert_eq!(kinds(&client.ask("")), "IZ");
    assert_eq!(kinds(&client.ask(";;")), "IZ");
    client.write(|out| {
        parse(out, "", "");
        frontend::flush(out);
    });
    assert_eq!(client.next().unwrap().kind, b'1');
    client.write(|out| {
        bind(out, "", "", &[]);
        frontend::describe(b'P', "", out).unwrap();
        execute(out, "", 0);
        frontend::sync(out);
    });
    assert_eq!(kinds(&client.until_ready()), "2nIZ");
}

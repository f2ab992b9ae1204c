//! Transactions, settings, prepared statements, cursors.

use crate::client::{Reply, kinds};
use crate::cluster::Cluster;

/// The status that ReadyForQuery tells.
fn status(replies: &[Reply]) -> char {
    replies.last().unwrap().body[0] as char
}

fn state(replies: &[Reply]) -> String {
    replies.iter().find(|reply| reply.kind == b'E').map(Reply::state).unwrap_or_default()
}

#[test]
fn a_failed_transaction_accepts_only_its_end() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int PRIMARY KEY)");
    assert_eq!(status(&client.ask("BEGIN")), 'T');
    client.run("INSERT INTO t VALUES (1)");
    let failed = client.ask("INSERT INTO t VALUES (1)");
    assert_eq!((state(&failed).as_str(), status(&failed)), ("23505", 'E'));
    let refused = client.ask("SELECT 1");
    assert_eq!((state(&refused).as_str(), status(&refused)), ("25P02", 'E'));
    assert_eq!(client.run("COMMIT"), "ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
}

#[test]
fn savepoints_take_back_a_part() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int PRIMARY KEY)");
    client.run("BEGIN");
    client.run("SAVEPOINT early");
    client.run("INSERT INTO t VALUES (1)");
    client.run("SAVEPOINT s");
    client.run("INSERT INTO t VALUES (2)");
    assert_eq!(client.query("INSERT INTO t VALUES (1)").unwrap_err(), "23505");
    assert_eq!(status(&client.ask("ROLLBACK TO s")), 'T');
    client.run("INSERT INTO t VALUES (3)");
    client.run("RELEASE SAVEPOINT s");
    assert_eq!(client.query("ROLLBACK TO s").unwrap_err(), "3B001");
    assert_eq!(client.run("ROLLBACK"), "ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    client.run("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2)");
    client.run("ROLLBACK TO s; COMMIT");
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");
}

#[test]
fn several_statements_of_one_query_are_one_transaction() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int PRIMARY KEY)");
    let replies = client.ask("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1); SELECT 3");
    assert_eq!(kinds(&replies), "CEZ");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    let replies = client.ask("INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)");
    assert_eq!(status(&replies), 'T');
    client.run("ROLLBACK");
    assert_eq!(client.value("SELECT count(*) FROM t"), "0");
    client.run("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)");
    assert_eq!(client.value("SELECT count(*) FROM t"), "2");
}

#[test]
fn needless_begin_and_commit_are_warned_about() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    let warning = |replies: &[Reply]| {
        replies.iter().find(|reply| reply.kind == b'N').map(Reply::state).unwrap_or_default()
    };
    assert_eq!(warning(&client.ask("COMMIT")), "25P01");
    assert_eq!(warning(&client.ask("ROLLBACK")), "25P01");
    assert_eq!(warning(&client.ask("BEGIN")), "");
    assert_eq!(warning(&client.ask("BEGIN")), "25001");
    client.run("SET client_min_messages = error");
    assert_eq!(warning(&client.ask("BEGIN")), "");
}

#[test]
fn a_transaction_that_only_reads_refuses_writes() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int)");
    client.run("BEGIN READ ONLY");
    let replies = client.ask("INSERT INTO t VALUES (1)");
    let error = replies.iter().find(|reply| reply.kind == b'E').unwrap();
    assert_eq!(error.state(), "25006");
    assert_eq!(error.field(b'M').unwrap(), "cannot execute INSERT in a read-only transaction");
    client.run("ROLLBACK");
    client.run("SET default_transaction_read_only = on");
    assert_eq!(client.query("CREATE TABLE u (a int)").unwrap_err(), "25006");
    client.run("BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT");
    assert_eq!(client.value("SHOW transaction_read_only"), "on");
}

#[test]
fn a_repeatable_read_sees_one_snapshot_and_cannot_write_over_what_came_later() {
    for optimistic in ["on", "off"] {
        one_snapshot_to_the_end(optimistic);
    }
}

fn one_snapshot_to_the_end(optimistic: &str) {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(&format!("CREATE TABLE t (a int); SET rung.optimistic = {optimistic}"));
    one.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(one.value("SELECT count(*) FROM t"), "0");
    other.run("INSERT INTO t VALUES (1)");
    assert_eq!(one.value("SELECT count(*) FROM t"), "0");
    match optimistic {
        "on" => {
            one.run("INSERT INTO t VALUES (2)");
            assert_eq!(one.value("SELECT count(*) FROM t"), "1");
            assert_eq!(one.query("COMMIT").unwrap_err(), "40001");
        }
        _ => assert_eq!(one.query("INSERT INTO t VALUES (2)").unwrap_err(), "40001"),
    }
    one.run("ROLLBACK");
    one.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(one.value("SELECT count(*) FROM t"), "1");
    one.run("INSERT INTO t VALUES (2)");
    assert_eq!(one.value("SELECT count(*) FROM t"), "2");
    one.run("COMMIT");
    one.run("BEGIN");
    assert_eq!(one.value("SELECT count(*) FROM t"), "2");
    other.run("INSERT INTO t VALUES (3)");
    assert_eq!(one.value("SELECT count(*) FROM t"), "3");
}

#[test]
fn settings_follow_the_transaction() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("BEGIN; SET statement_timeout = '5s'; SET LOCAL my.own = 'x'");
    assert_eq!(client.value("SHOW statement_timeout"), "5s");
    assert_eq!(client.value("SHOW my.own"), "x");
    client.run("COMMIT");
    assert_eq!(client.value("SHOW statement_timeout"), "5s");
    assert_eq!(client.query("SHOW my.own").unwrap_err(), "42704");
    client.run("BEGIN; SET statement_timeout = '9s'; ROLLBACK");
    assert_eq!(client.value("SHOW statement_timeout"), "5s");
    client.run("RESET ALL");
    assert_eq!(client.value("SHOW statement_timeout"), "0");
    let replies = client.ask("SET application_name = 'told'");
    let told = replies.iter().find(|reply| reply.kind == b'S').unwrap();
    assert_eq!(told.text(), "application_name\0told");
    assert_eq!(client.query("SET nonsense = 1").unwrap_err(), "42704");
    assert!(client.query("SHOW ALL").unwrap().len() > 40);
}

#[test]
fn statements_are_prepared_by_sql_too() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int PRIMARY KEY, b text)");
    client.run("PREPARE put (int, text) AS INSERT INTO t VALUES ($1, $2)");
    assert_eq!(client.run("EXECUTE put(1, 'x')"), "INSERT 0 1");
    assert_eq!(client.run("EXECUTE put(1 + 1, NULL)"), "INSERT 0 1");
    client.run("PREPARE get AS SELECT b FROM t WHERE a = $1");
    assert_eq!(client.value("EXECUTE get(1)"), "x");
    assert_eq!(client.value("EXECUTE get(2)"), "null");
    assert_eq!(client.query("PREPARE get AS SELECT 1").unwrap_err(), "42P05");
    client.run("DEALLOCATE get");
    assert_eq!(client.query("EXECUTE get(1)").unwrap_err(), "26000");
    client.run("DISCARD ALL");
    assert_eq!(client.query("EXECUTE put(3, '')").unwrap_err(), "26000");
}

#[test]
fn cursors_give_rows_within_their_transaction() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int PRIMARY KEY)");
    client.run("INSERT INTO t VALUES (1), (2), (3), (4)");
    assert_eq!(client.query("DECLARE c CURSOR FOR SELECT a FROM t").unwrap_err(), "25P01");
    client.run("BEGIN; DECLARE c CURSOR FOR SELECT a FROM t ORDER BY a");
    assert_eq!(client.query("FETCH 2 FROM c").unwrap().len(), 2);
    assert_eq!(client.value("FETCH c"), "3");
    assert_eq!(client.value("FETCH ABSOLUTE 1 FROM c"), "1");
    assert_eq!(client.run("MOVE FORWARD ALL IN c"), "MOVE 3");
    client.run("CLOSE c");
    assert_eq!(client.query("FETCH c").unwrap_err(), "34000");
    client.run("ROLLBACK");
    client.run("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT a FROM t ORDER BY a; COMMIT");
    assert_eq!(client.value("FETCH held"), "1");
}

#[test]
fn a_position_can_be_carried_to_another_session() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("CREATE TABLE t (a int)");
    client.run("INSERT INTO t VALUES (1)");
    let token = client.value("SHOW rung.token");
    assert_eq!(token.split('.').count(), 4);
    client.run(&format!("SET rung.token = '{token}'"));
    for level in ["any", "bounded 10s", "session", "linearizable"] {
        client.run(&format!("SET rung.read = '{level}'"));
        assert_eq!(client.value("SELECT count(*) FROM t"), "1", "{level}");
    }
    assert_eq!(client.query("SET rung.token = 'x'").unwrap_err(), "22023");
    client.run("SET rung.read = 'session'; SET rung.token = '99.0.1.1'");
    assert_eq!(client.query("SELECT count(*) FROM t").unwrap_err(), "55000");
    client.run("RESET rung.token");
    assert_eq!(client.value("SELECT count(*) FROM t"), "1");
    let counters = cluster.nodes[0].server().statistics().counters();
    assert!(counters.reads_any > 0 && counters.reads_session > 0 && counters.writes > 0);
}

#[test]
fn a_statement_over_its_time_limit_is_canceled() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("SET statement_timeout = 200");
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT \
                   count(*) FROM r";
    assert_eq!(client.query(endless).unwrap_err(), "57014");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn an_idle_transaction_over_its_limit_ends_with_its_connection() {
    let cluster = Cluster::single();
    let mut client = cluster.client();
    client.run("SET idle_in_transaction_session_timeout = 100");
    client.run("BEGIN");
    let last = client.next().unwrap();
    assert_eq!((last.kind, last.state().as_str()), (b'E', "25P03"));
    assert!(client.next().is_none());
}

//! Transactions of several clients at once, none of which waits for another.

use crate::client::Client;
use crate::cluster::Cluster;

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
    INSERT INTO accounts VALUES (1, 100), (2, 200)";

#[test]
fn two_transactions_write_the_same_row_and_both_are_committed() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    one.run("BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id = 1");
    other.run("BEGIN; UPDATE accounts SET balance = balance + 10 WHERE id = 1");
    assert_eq!(one.value("SELECT balance FROM accounts WHERE id = 2"), "200");
    other.run("COMMIT");
    one.run("COMMIT");
    assert_eq!(one.value("SELECT balance FROM accounts WHERE id = 1"), "111");
}

#[test]
fn what_others_change_need_not_be_so_at_the_end_of_a_transaction() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    let read = "SELECT balance FROM accounts WHERE id = 1";
    one.run("BEGIN; INSERT INTO accounts VALUES (3, 0)");
    assert_eq!(one.value(read), "100");
    other.run("UPDATE accounts SET balance = 50 WHERE id = 1");
    assert_eq!(one.value(read), "50");
    other.run("UPDATE accounts SET balance = 0 WHERE id = 1");
    one.run("UPDATE accounts SET balance = balance + 9 WHERE id = 1");
    one.run("COMMIT");
    assert_eq!(one.value("SELECT string_agg(balance::text, ',') FROM accounts"), "9,200,0");
}

#[test]
fn who_would_change_what_a_transaction_has_changed_and_read_waits_for_its_end() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    let (add, read) = (
        "UPDATE accounts SET balance = balance + 1 WHERE id = 1",
        "SELECT balance FROM accounts WHERE id = 1",
    );
    one.run("BEGIN");
    one.run(add);
    assert_eq!(one.value(read), "101");
    other.run("SET statement_timeout = '300ms'");
    assert_eq!(other.query(add).unwrap_err(), "57014");
    other.run("UPDATE accounts SET balance = 0 WHERE id = 2");
    // As in PostgreSQL, but that it is the read that waits and not the change.
    other.run("BEGIN");
    other.run(add);
    assert_eq!(other.query(read).unwrap_err(), "57014");
    other.run("ROLLBACK; SET statement_timeout = 0; BEGIN");
    other.run(add);
    one.run("COMMIT");
    assert_eq!(other.value(read), "102");
    other.run("COMMIT");
    assert_eq!(one.value(read), "102");
}

/// The tag of what was done.
fn changed(client: &mut Client, statement: &str) -> String {
    let replies = client.ask(statement);
    replies.iter().find(|reply| reply.kind == b'C').unwrap().text()
}

#[test]
fn the_last_one_is_taken_once() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(
        "CREATE TABLE stock (id int PRIMARY KEY, left_over int); INSERT INTO stock VALUES (1, 1)",
    );
    one.run("CREATE TABLE orders (who text)");
    let take = "UPDATE stock SET left_over = left_over - 1 WHERE id = 1 AND left_over > 0";
    one.run("BEGIN; INSERT INTO orders VALUES ('one')");
    other.run("BEGIN; INSERT INTO orders VALUES ('other')");
    assert_eq!(changed(&mut one, take), "UPDATE 1");
    let waiting = std::thread::spawn(move || {
        let taken = changed(&mut other, take);
        other.run("ROLLBACK");
        taken
    });
    one.run("COMMIT");
    assert_eq!(waiting.join().unwrap(), "UPDATE 0");
    assert_eq!(one.value("SELECT left_over FROM stock"), "0");
    assert_eq!(one.value("SELECT string_agg(who, ',') FROM orders"), "one");
}

#[test]
fn what_a_serializable_transaction_has_read_is_so_when_it_is_committed() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    let read = "SELECT balance FROM accounts WHERE id = 1";
    one.run("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO accounts VALUES (3, 0)");
    assert_eq!(one.value(read), "100");
    other.run("UPDATE accounts SET balance = 0 WHERE id = 1");
    assert_eq!(one.value(read), "100");
    one.run("UPDATE accounts SET balance = 99 WHERE id = 2");
    let replies = one.ask("COMMIT");
    let error = replies.iter().find(|reply| reply.kind == b'E').unwrap();
    assert_eq!(error.state(), "40001");
    assert!(error.field(b'H').unwrap().contains("rung.optimistic"));
    assert_eq!(one.value("SELECT count(*) FROM accounts"), "2");
}

#[test]
fn a_transaction_that_must_not_fail_holds_the_others_back() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    let update = "UPDATE accounts SET balance = balance + 1";
    for begin in [
        "BEGIN; SELECT balance FROM accounts WHERE id = 1 FOR UPDATE",
        "BEGIN; UPDATE accounts SET balance = 7 WHERE id = 1 RETURNING balance",
        "SET rung.optimistic = off; BEGIN; INSERT INTO accounts VALUES (4, 0)",
    ] {
        one.run(begin);
        other.run("SET statement_timeout = '300ms'");
        assert_eq!(other.query(update).unwrap_err(), "57014", "{begin}");
        one.run("COMMIT");
        other.run("SET statement_timeout = 0");
        other.run(update);
    }
}

#[test]
fn values_of_sequences_are_given_once_and_are_what_was_told() {
    let cluster = Cluster::single();
    let mut clients: Vec<_> = (0..3).map(|_| cluster.client()).collect();
    clients[0].run(
        "CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, \
         key uuid DEFAULT gen_random_uuid(), at timestamptz DEFAULT clock_timestamp(), who int)",
    );
    let mut told = Vec::new();
    for (who, client) in clients.iter_mut().enumerate() {
        client.run("BEGIN");
        for _ in 0..2 {
            let insert = format!("INSERT INTO t (who) VALUES ({who}) RETURNING id, key, at, who");
            told.push(client.query(&insert).unwrap().remove(0));
        }
        assert_eq!(Some(client.value("SELECT lastval()")), told.last().unwrap()[0]);
        assert_eq!(client.value("SELECT count(*) FROM t"), "2");
    }
    // One gives up: what it took is a gap.
    for (client, end) in clients.iter_mut().zip(["COMMIT", "ROLLBACK", "COMMIT"]).rev() {
        client.run(end);
    }
    let kept = clients[0].query("SELECT id, key, at, who FROM t ORDER BY id").unwrap();
    let of_others: Vec<_> = [&told[..2], &told[4..]].concat();
    assert_eq!(kept, of_others, "no two transactions took the same");
    let next = clients[1].value("INSERT INTO t (who) VALUES (9) RETURNING id");
    assert_eq!(next, "7");
}

#[test]
fn a_key_that_two_insert_is_told_to_the_second_when_it_is_committed() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run("CREATE TABLE t (email text UNIQUE)");
    one.run("BEGIN; INSERT INTO t VALUES ('a@example.org')");
    other.run("BEGIN; INSERT INTO t VALUES ('a@example.org')");
    one.run("COMMIT");
    assert_eq!(other.query("COMMIT").unwrap_err(), "23505");
    other.run("ROLLBACK");
    assert_eq!(other.value("SELECT count(*) FROM t"), "1");
}

#[test]
fn savepoints_errors_and_deferred_keys_are_what_they_are_with_the_writer() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(
        "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE v (a int PRIMARY KEY);
         CREATE TABLE u (a int REFERENCES v DEFERRABLE INITIALLY DEFERRED)",
    );
    other.run("INSERT INTO t VALUES (1)");
    one.run("BEGIN; SAVEPOINT outer_one; INSERT INTO t VALUES (2); SAVEPOINT inner_one");
    assert_eq!(one.query("INSERT INTO t VALUES (1)").unwrap_err(), "23505");
    assert_eq!(one.query("SELECT 1").unwrap_err(), "25P02");
    one.run("ROLLBACK TO inner_one; INSERT INTO t VALUES (3); RELEASE outer_one");
    other.run("INSERT INTO t VALUES (10)");
    one.run("COMMIT");
    assert_eq!(one.value("SELECT string_agg(a::text, ',' ORDER BY a) FROM t"), "1,2,3,10");
    one.run("BEGIN; INSERT INTO u VALUES (4); INSERT INTO v VALUES (4); COMMIT");
    one.run("BEGIN; INSERT INTO u VALUES (5)");
    assert_eq!(one.query("COMMIT").unwrap_err(), "23503");
}

#[test]
fn what_changes_the_schema_or_much_takes_the_writer_with_what_was_done() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run(ACCOUNTS);
    one.run("BEGIN; INSERT INTO accounts VALUES (3, 0)");
    other.run("INSERT INTO accounts VALUES (4, 0)");
    one.run("CREATE TABLE t (a int); INSERT INTO t SELECT id FROM accounts; COMMIT");
    assert_eq!(other.value("SELECT count(*) FROM t"), "4");
    // The schema that a draft was executed with is gone.
    one.run("BEGIN; INSERT INTO t VALUES (9)");
    other.run("DROP TABLE t");
    assert_eq!(one.query("COMMIT").unwrap_err(), "42P01");
}

#[test]
fn what_a_sequence_has_given_is_remembered_over_a_vacuum() {
    let cluster = Cluster::single();
    let (mut one, mut other) = (cluster.client(), cluster.client());
    one.run("CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int)");
    one.run("BEGIN; INSERT INTO t (a) VALUES (1)");
    other.run("VACUUM");
    assert_eq!(other.value("INSERT INTO t (a) VALUES (2) RETURNING id"), "2");
    one.run("COMMIT");
    assert_eq!(one.value("SELECT sum(id) FROM t"), "3");
}

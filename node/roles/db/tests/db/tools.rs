//! Programs that others wrote. Those that are not installed are passed over here;
//! the tests of whole clusters require them.

use std::process::{Command, Output};

use crate::cluster::{Cluster, PASSWORD};

pub fn is_installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

pub fn command(cluster: &Cluster, program: &str) -> Command {
    let address = cluster.address();
    let mut command = Command::new(program);
    command
        .env("PGHOST", address.ip().to_string())
        .env("PGPORT", address.port().to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", "app");
    command
}

pub fn text(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

#[test]
fn psql_works() {
    if !is_installed("psql") {
        return;
    }
    let cluster = Cluster::single();
    let script = "CREATE TABLE t (a int PRIMARY KEY, b text);
                  INSERT INTO t VALUES (1, 'one'), (2, NULL);
                  SELECT * FROM t ORDER BY a;
                  BEGIN; UPDATE t SET b = 'two' WHERE a = 2; COMMIT;
                  SELECT b FROM t WHERE a = 2;";
    let out =
        succeed(command(&cluster, "psql").args(["-X", "-v", "ON_ERROR_STOP=1", "-c", script]));
    assert!(out.contains("two"), "{out}");
    let out = succeed(command(&cluster, "psql").args(["-X", "-At", "-c", "SELECT 1 + 1"]));
    assert_eq!(out.trim(), "2");
}

#[test]
fn pgbench_works_with_each_of_its_protocols() {
    if !is_installed("pgbench") {
        return;
    }
    let cluster = Cluster::single();
    succeed(command(&cluster, "pgbench").args(["-i", "-s", "1", "-q"]));
    for protocol in ["simple", "extended", "prepared"] {
        for script in [&["-S"][..], &["-N"], &[]] {
            let mut pgbench = command(&cluster, "pgbench");
            pgbench.args(["-n", "-c", "4", "-j", "2", "-t", "20", "-M", protocol]).args(script);
            let out = succeed(&mut pgbench);
            assert!(out.contains("80/80"), "{out}");
        }
    }
    let mut client = cluster.client();
    let history = client.value("SELECT count(*) FROM pgbench_history");
    assert_eq!(history, (3 * 2 * 80).to_string());
    assert_eq!(
        client.value("SELECT sum(abalance) FROM pgbench_accounts"),
        client.value("SELECT sum(delta) FROM pgbench_history")
    );
}

/// What applications do with psycopg: parameters of many types, binary results,
/// pipelines, server-side cursors, COPY, nested transactions, errors.
const PSYCOPG: &str = r#"
import datetime, decimal, uuid
import psycopg
from psycopg import errors

with psycopg.connect("") as connection:
    assert connection.info.server_version >= 150000
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE t (a int PRIMARY KEY, b text, c timestamptz, d numeric(10,2), e uuid, f bytea, g bool)")
    day = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)
    row = (1, "é", day, decimal.Decimal("12.50"), uuid.UUID(int=7), b"\x00\xff", True)
    cursor.execute("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s, %s)", row)
    for binary in (False, True):
        got = connection.cursor(binary=binary).execute("SELECT * FROM t WHERE a = %s", (1,)).fetchone()
        assert got == row, (binary, got)
    connection.commit()
    cursor.executemany("INSERT INTO t (a, b) VALUES (%s, %s)", [(n, str(n)) for n in range(2, 102)])
    with connection.transaction():
        try:
            with connection.transaction():
                cursor.execute("INSERT INTO t (a) VALUES (1)")
            raise SystemExit("a duplicate was taken")
        except errors.UniqueViolation as error:
            assert error.diag.sqlstate == "23505" and error.diag.constraint_name
    connection.commit()
    with connection.pipeline():
        first = connection.execute("SELECT count(*) FROM t")
        second = connection.execute("SELECT max(a) FROM t")
    assert (first.fetchone(), second.fetchone()) == ((101,), (101,))
    with connection.cursor(name="server side") as named:
        named.itersize = 10
        named.execute("SELECT a FROM t ORDER BY a")
        assert [n for (n,) in named] == list(range(1, 102))
    with cursor.copy("COPY t (a, b) FROM STDIN") as copy:
        for n in range(200, 300):
            copy.write_row((n, None))
    with cursor.copy("COPY (SELECT a FROM t WHERE a >= 200 ORDER BY a) TO STDOUT") as copy:
        assert [int(n) for (n,) in copy.rows()] == list(range(200, 300))
    connection.commit()
    for n in range(12):
        cursor.execute("SELECT b FROM t WHERE a = %s", (n + 2,), prepare=True)
        assert cursor.fetchone() == (str(n + 2),)
"#;

#[test]
fn psycopg_works() {
    let python = std::env::var("RUNG_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import psycopg"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        return;
    }
    let cluster = Cluster::single();
    succeed(command(&cluster, &python).args(["-c", PSYCOPG]));
}

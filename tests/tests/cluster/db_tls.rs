//! Clients on other machines: let in by TLS only, and only where that was asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rung_tests::clients::{self, installed};
use rung_tests::cluster::SOON;
use rung_tests::namespaces::missing;
use rung_tests::{Cluster, Run, eventually, run, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes that let others in, each on its own machine; none where that cannot be.
fn open() -> Option<Cluster> {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return None;
    }
    let builder = Cluster::builder().nodes(2).argument("--listen").argument("postgres");
    Some(builder.on_machines().start())
}

/// A URL of a database for programs on other machines than `node`, and the file of
/// the CA in it.
fn verified(cluster: &Cluster, node: &str, database: &str) -> (String, PathBuf) {
    let file = cluster.dir().join(format!("{node}.crt"));
    let words = ["db", "url", database, "--ca", file.to_str().expect("a plain path")];
    let url = until("the node has a certificate", SOON, || {
        let asked = cluster.ctl_of(node, &words);
        (asked.code == 0).then(|| asked.stdout.trim().to_owned())
    });
    assert!(url.contains(&format!("@{}:5432/", cluster.ip(node))), "{url}");
    (url, file)
}

/// A program on the machine of `node`.
fn on(cluster: &mut Cluster, node: &str, program: impl AsRef<Path>) -> Command {
    cluster.machines().expect("machines").command(node, program.as_ref())
}

fn psql(cluster: &mut Cluster, node: &str, url: &str, sql: &str) -> Run {
    run(on(cluster, node, "psql").args(["-X", "-Atc", sql, url]), PATIENCE)
}

#[test]
fn other_machines_get_in_encrypted_and_no_other_way() {
    let Some(mut cluster) = open() else { return };
    cluster.ctl(&["db", "create", "books"]).expect(0);
    cluster.wait_serving("books", 1);
    let (url, file) = verified(&cluster, "n1", "books");
    let plain = url.split_once('?').expect("settings").0.to_owned();
    for (settings, answer) in [
        ("sslmode=require", "2"),
        ("sslmode=prefer", "2"),
        ("sslmode=require&channel_binding=require", "2"),
        ("sslmode=disable", ""),
    ] {
        let url = format!("{plain}?{settings}");
        let asked = psql(&mut cluster, "n2", &url, "SELECT 1 + 1");
        match answer {
            "2" => assert_eq!(asked.expect(0).stdout, "2\n", "{settings}"),
            _ => drop(asked.expect(2).saying("connections without encryption are not accepted")),
        }
    }
    // One CA for all nodes, through which each of them is known.
    let other = verified(&cluster, "n2", "books");
    assert_eq!(fs::read(&file).unwrap(), fs::read(&other.1).unwrap());
    psql(&mut cluster, "n2", &url, "CREATE TABLE book (id int)").expect(0);
    psql(&mut cluster, "n1", &other.0, "INSERT INTO book VALUES (1)").expect(0);
    // A wrong password is one, whatever the encryption.
    let wrong = url.replacen("books:", "books:x", 1);
    psql(&mut cluster, "n2", &wrong, "SELECT 1").expect(2).saying("password authentication failed");
    // On the machine itself nothing has changed.
    let local = cluster.url("n1", "books");
    let local = format!("{local}?sslmode=disable");
    assert_eq!(
        psql(&mut cluster, "n1", &local, "SELECT count(*) FROM book").expect(0).stdout,
        "1\n"
    );
}

#[test]
fn the_operators_certificate_is_shown_without_a_restart_and_taken_back_with_its_file() {
    let cluster = Cluster::builder().nodes(1).start();
    cluster.ctl(&["db", "create", "books"]).expect(0);
    cluster.wait_serving("books", 0);
    let (url, _) = verified(&cluster, "n1", "books");
    let ask = |url: &str| run(Command::new("psql").args(["-X", "-Atc", "SELECT 1", url]), PATIENCE);
    assert_eq!(ask(&url).expect(0).stdout, "1\n");
    let made = rcgen::generate_simple_self_signed([cluster.ip("n1").to_string()]).unwrap();
    let tls = cluster.data("n1").join("tls");
    fs::create_dir_all(&tls).unwrap();
    fs::write(tls.join("postgres.key"), made.signing_key.serialize_pem()).unwrap();
    fs::write(tls.join("postgres.crt"), made.cert.pem()).unwrap();
    let own = url.split_once("sslrootcert=").expect("the CA").0;
    let own = format!("{own}sslrootcert={}", tls.join("postgres.crt").display());
    eventually("the operator's certificate is shown", SOON, || ask(&own).code == 0);
    ask(&url).expect(2).saying("certificate verify failed");
    cluster.ctl(&["db", "url", "books", "--ca", "unused.crt"]).expect(5).saying("tls/postgres.crt");
    // A file that is damaged changes nothing.
    fs::write(tls.join("postgres.crt"), "not a certificate").unwrap();
    fs::write(tls.join("postgres.key"), "neither").unwrap();
    eventually("the damage is noticed", SOON, || {
        cluster.ctl(&["logs", "-n", "50", "db"]).says("does not show tls/postgres.crt")
    });
    fs::remove_file(tls.join("postgres.crt")).unwrap();
    eventually("the cluster's certificate is shown again", SOON, || ask(&url).code == 0);
}

#[test]
fn drivers_work_over_tls_from_another_machine() {
    if let Some(why) = clients::missing() {
        println!("skipped: {why}");
        return;
    }
    let Some(mut cluster) = open() else { return };
    cluster.ctl(&["db", "create", "notes"]).expect(0);
    cluster.wait_serving("notes", 1);
    let (url, _) = verified(&cluster, "n1", "notes");
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    for (interpreter, script) in
        [(clients::python(), "tls_client.py"), (PathBuf::from("node"), "tls_client.js")]
    {
        let mut client = on(&mut cluster, "n2", interpreter);
        client.arg(clients.join(script)).env("DATABASE_URL", &url);
        client.env("NODE_CLIENTS", installed("node")).env("PYTHONDONTWRITEBYTECODE", "1");
        run(&mut client, PATIENCE).expect(0).saying("over TLS");
    }
}

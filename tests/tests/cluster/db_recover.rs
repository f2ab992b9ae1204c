//! A majority of a database's copies is lost, and comes back after an operator has
//! given it up.

use rung_proto::api::{Finding, NodeState, Severity, Tail, TailReplayed};
use rung_tests::cluster::SOON;
use rung_tests::process::signal;
use rung_tests::workload::on_door;
use rung_tests::{Cluster, eventually, http};

use crate::db_operations::DATABASE;

const TABLE: &str = "CREATE TABLE notes (number int PRIMARY KEY, text text)";
const ROWS: &str = "SELECT number, text FROM notes ORDER BY number";

/// A statement through the given node, and its rows.
fn run(cluster: &Cluster, node: &str, text: &str) -> Result<Vec<String>, String> {
    let door = cluster.doors(node, DATABASE).write.with_settings("SET rung.read = 'any'");
    let text = text.to_owned();
    let rows = on_door(&door, async move |client| client.rows(&text).await);
    let rows = rows.map_err(|outcome| format!("{outcome:?}"))?;
    Ok(rows.into_iter().map(|row| row.join(":")).collect())
}

fn write(cluster: &Cluster, node: &str, number: u32, text: &str) -> Result<(), String> {
    run(cluster, node, &format!("INSERT INTO notes VALUES ({number}, '{text}')")).map(drop)
}

fn wait_down(cluster: &Cluster, asked: &str, node: &str) {
    eventually("it is known to be down", SOON, || {
        let nodes = cluster.status_of(asked).map(|status| status.nodes).unwrap_or_default();
        nodes.iter().any(|one| one.name == node && one.state == NodeState::Down)
    });
}

/// Whether the copy on a node has a batch that is not on a quorum.
fn has_in_flight(cluster: &Cluster, node: &str) -> bool {
    let admin = std::net::SocketAddr::new(cluster.ip(node).into(), 7401);
    let told = http::get(admin, &admin.to_string(), "/metrics");
    let text = told.map(|told| told.text()).unwrap_or_default();
    let of_copies = text.lines().filter(|line| line.starts_with("rung_db_copy_in_flight{"));
    of_copies.into_iter().any(|line| !line.ends_with(" 0"))
}

struct Lost {
    cluster: Cluster,
    survivor: String,
    /// Those that have more, of which the first was the primary.
    lost: [String; 2],
    /// A node without a copy.
    other: String,
}

/// Five nodes that vote for the control state, and a database on three of them: two
/// are killed, with three rows that were acknowledged without the third, and one that
/// nobody acknowledged.
fn lose_a_majority() -> Lost {
    let mut cluster = Cluster::builder().alone().start();
    cluster.ctl(&["scale", "control", "5"]).expect(0);
    cluster.create_database(DATABASE, 2);
    let shard = cluster.shard(DATABASE, &[]).expect("the database");
    let primary = shard.primary.clone().expect("a primary");
    let replicas: Vec<String> = shard.replicas.iter().map(|one| one.node.clone()).collect();
    let [survivor, replica] = replicas.try_into().expect("two replicas");
    let is_spare = |node: &String| ![&primary, &survivor, &replica].contains(&node);
    let spare: Vec<String> = cluster.running().into_iter().filter(is_spare).collect();
    for node in &spare {
        cluster.ctl(&["node", "cordon", node]).expect(0);
    }
    let other = spare[0].clone();
    run(&cluster, &other, TABLE).expect("a table");
    for number in 1..=10 {
        write(&cluster, &other, number, "both").expect("a row");
    }
    cluster.kill(&survivor);
    for number in 11..=13 {
        write(&cluster, &other, number, "lost").expect("a row on two of three copies");
    }
    signal(cluster.pid(&replica), "STOP");
    std::thread::scope(|scope| {
        let unsure = scope.spawn(|| write(&cluster, &primary, 14, "unsure"));
        // On a busy machine the primary may know already that it is alone, and refuse.
        eventually("it is in flight or refused", SOON, || {
            unsure.is_finished() || has_in_flight(&cluster, &primary)
        });
        signal(cluster.pid(&primary), "KILL");
        assert!(unsure.join().expect("a client").is_err());
    });
    cluster.kill_all(&[primary.clone(), replica.clone()]);
    cluster.restart(&survivor);
    for node in [&primary, &replica] {
        wait_down(&cluster, &other, node);
    }
    Lost { cluster, survivor, lost: [primary, replica], other }
}

fn tails(cluster: &Cluster, asked: &str) -> Vec<Tail> {
    let listed = cluster.ctl_of(asked, &["db", "tail", "ls", DATABASE, "-o", "json"]);
    serde_json::from_str(&listed.stdout).unwrap_or_default()
}

fn replay(cluster: &Cluster, primary: &str, tail: &Tail) -> TailReplayed {
    let path = cluster.data(&tail.node).join("tails").join(&tail.file);
    let path = path.to_str().expect("a path");
    let replayed = cluster.ctl_of(primary, &["db", "tail", "replay", DATABASE, path, "-o", "json"]);
    serde_json::from_str(&replayed.expect(0).stdout).expect("what was replayed")
}

/// What a doctor says of databases that is a problem.
fn problems(cluster: &Cluster, asked: &str) -> Vec<String> {
    let told = cluster.ctl_of(asked, &["doctor", "-o", "json"]);
    let findings: Vec<Finding> = serde_json::from_str(&told.stdout).expect("findings");
    let is_ours = |one: &Finding| one.check == "databases" && one.severity == Severity::Problem;
    findings.into_iter().filter(is_ours).map(|one| one.message).collect()
}

#[test]
fn a_lost_majority_is_given_up_comes_back_and_what_it_had_is_replayed() {
    let Lost { mut cluster, survivor, lost, other } = lose_a_majority();
    eventually("the survivor answers reads", SOON, || {
        run(&cluster, &survivor, ROWS).is_ok_and(|rows| !rows.is_empty() && rows.len() <= 10)
    });
    let refused = write(&cluster, &survivor, 50, "refused").expect_err("nothing can be written");
    println!("a write without a majority: {refused}");
    let hint = format!("ctl db recover {DATABASE}");
    cluster.ctl_of(&other, &["doctor"]).expect(1).saying(&hint);
    let recover = ["db", "recover", DATABASE];
    let shown = cluster.ctl_of(&other, &recover).expect(5);
    println!("{shown}");
    shown.saying("--accept-data-loss --confirm-fenced").saying(&format!("{survivor} is reachable"));
    cluster.ctl_of(&other, &["promote", &survivor]).expect(5).saying(&hint);
    let accepted = ["--accept-data-loss", "--confirm-fenced"];
    let recovered = cluster.ctl_of(&other, &[&recover[..], &accepted].concat()).expect(0);
    println!("{recovered}");
    let all: Vec<String> = (1..=10).map(|number| format!("{number}:both")).collect();
    assert_eq!(run(&cluster, &other, ROWS).expect("the rows"), all);
    write(&cluster, &other, 20, "new").expect("a row of the new generation");

    for node in &lost {
        cluster.restart(node);
    }
    cluster.wait_serving(DATABASE, 2);
    eventually("both have kept a tail", SOON, || tails(&cluster, &other).len() == 2);
    let mut kept = tails(&cluster, &other);
    kept.sort_by_key(|tail| tail.node != lost[0]);
    println!("{kept:#?}");
    // Three were acknowledged; a log notes that of an entry with the ones after it.
    assert!((3..=4).contains(&kept[0].rows) && kept[1].rows == 3);
    assert!(kept.iter().all(|tail| (1..=3).contains(&tail.acknowledged_rows)));
    let shown = cluster.ctl_of(&other, &["db", "tail", "show", DATABASE, &kept[0].file]);
    println!("{}", shown.expect(0).saying("lost"));
    let primary = cluster.primary(DATABASE, &[]);
    let done = [replay(&cluster, &primary, &kept[0]), replay(&cluster, &primary, &kept[1])];
    let all = kept[0].rows;
    let done = done.map(|done| (done.applied, done.already, done.conflicts));
    assert_eq!(done, [(all, 0, 0), (0, 3, 0)]);
    let there = run(&cluster, &primary, ROWS).expect("the rows");
    assert_eq!(there.len() as u64, 11 + all, "{there:?}");
    for node in &lost {
        let copy = || run(&cluster, node, ROWS).is_ok_and(|rows| rows == there);
        eventually("the copies that came back have all", SOON, copy);
    }
    eventually("the doctor has nothing to say", SOON, || problems(&cluster, &other).is_empty());
    cluster.ctl_of(&other, &["audit", "-o", "wide"]).expect(0).saying("accepting a loss of data");
}

/// Three nodes of which one dies and one stands still, after a change that only those
/// two know of.
fn lose_all_but_one() -> Lost {
    let mut cluster = Cluster::builder().nodes(3).start();
    eventually("all three vote", SOON, || cluster.voters().len() == 3);
    cluster.create_database(DATABASE, 2);
    let shard = cluster.shard(DATABASE, &[]).expect("the database");
    let primary = shard.primary.clone().expect("a primary");
    let replicas: Vec<String> = shard.replicas.iter().map(|one| one.node.clone()).collect();
    let [survivor, replica] = replicas.try_into().expect("two replicas");
    run(&cluster, &primary, TABLE).expect("a table");
    for number in 1..=10 {
        write(&cluster, &primary, number, "all").expect("a row");
    }
    cluster.kill(&survivor);
    wait_down(&cluster, &primary, &survivor);
    write(&cluster, &primary, 11, "lost").expect("a row on two of three copies");
    cluster.ctl_of(&primary, &["db", "create", "forgotten"]).expect(0);
    signal(cluster.pid(&replica), "STOP");
    cluster.kill(&primary);
    cluster.restart(&survivor);
    Lost { cluster, other: survivor.clone(), survivor, lost: [primary, replica] }
}

#[test]
fn all_but_one_node_are_lost_and_the_last_one_goes_on_when_it_is_told_to() {
    let Lost { mut cluster, survivor, lost, .. } = lose_all_but_one();
    let ctl = |cluster: &Cluster, arguments: &[&str]| cluster.ctl_of(&survivor, arguments);
    let rows = |cluster: &Cluster, node: &str| run(cluster, node, ROWS);
    eventually("the survivor answers reads", SOON, || rows(&cluster, &survivor).is_ok());
    write(&cluster, &survivor, 50, "refused").expect_err("nothing can be written");
    let consent = ["--accept-data-loss", "--confirm-fenced"];
    let of_database = [&["db", "recover", DATABASE][..], &consent].concat();
    ctl(&cluster, &of_database).expect(6).saying("ctl recover");
    let shown = ctl(&cluster, &["recover"]).expect(5);
    println!("{shown}");
    shown.saying("--accept-data-loss --confirm-fenced").saying("is unreachable");
    let recovered = ctl(&cluster, &[&["recover"][..], &consent].concat()).expect(0);
    println!("{recovered}");
    recovered.saying("generation 2");
    ctl(&cluster, &["recover"]).expect(5).saying("majority");
    let promote = [&["promote", &survivor][..], &consent].concat();
    println!("{}", ctl(&cluster, &promote).expect(0));
    write(&cluster, &survivor, 20, "new").expect("a row of the new generation");
    ctl(&cluster, &["db", "create", "remembered"]).expect(0);
    ctl(&cluster, &["audit", "-o", "wide"]).expect(0).saying("generation 2 of the cluster");

    cluster.restart(&lost[0]);
    signal(cluster.pid(&lost[1]), "CONT");
    cluster.wait_serving(DATABASE, 2);
    eventually("all three vote again", SOON, || cluster.voters().len() == 3);
    eventually("what was lost is kept", SOON, || !tails(&cluster, &survivor).is_empty());
    let there = rows(&cluster, &survivor).expect("the rows");
    assert_eq!(there.len(), 11, "{there:?}");
    for node in &lost {
        let complete = || rows(&cluster, node).is_ok_and(|rows| rows == there);
        eventually("the copies that came back have all", SOON, complete);
        assert!(cluster.data(node).join("control/former-1").exists(), "the old state is kept");
        let listed = cluster.ctl_of(node, &["db", "ls", "-o", "name"]).expect(0);
        assert!(listed.stdout.contains("remembered") && !listed.stdout.contains("forgotten"));
    }
    // The new generation needs nobody of the old one any more.
    cluster.kill(&survivor);
    let later = "INSERT INTO notes VALUES (30, 'later') ON CONFLICT DO NOTHING";
    eventually("the others go on without it", SOON, || run(&cluster, &lost[0], later).is_ok());
    cluster.ctl_of(&lost[0], &["node", "cordon", &lost[1]]).expect(0);
}

#[test]
fn a_recovery_that_died_half_way_is_begun_again() {
    let mut cluster = Cluster::builder().nodes(1).start();
    let id = cluster.node("n1").id;
    cluster.kill("n1");
    let accepted = format!(r#"{{"current":1,"accepted":{{"generation":2,"voters":["{id}"]}}}}"#);
    let path = cluster.data("n1").join("control/generation");
    std::fs::write(path, accepted).expect("what a node that has accepted remembers");
    cluster.restart("n1");
    cluster.ctl(&["doctor"]).expect(1).saying("generation 2 of the cluster has begun");
    cluster.ctl(&["recover"]).expect(5).saying("--accept-data-loss --confirm-fenced");
    let recover = ["recover", "--accept-data-loss", "--confirm-fenced"];
    cluster.ctl(&recover).expect(0).saying("generation 3");
    cluster.ctl(&["node", "cordon", "n1"]).expect(0);
    cluster.kill("n1");
    cluster.restart("n1");
    cluster.ctl(&["node", "uncordon", "n1"]).expect(0);
    cluster.ctl(&recover).expect(5).saying("majority");
    // A node that knows of no generation yet comes into the third.
    cluster.make_token(1);
    cluster.join(2);
    cluster.wait_joined("n2");
    eventually("it knows of the state", SOON, || {
        cluster.ctl_of("n2", &["node", "cordon", "n2"]).code == 0
    });
}

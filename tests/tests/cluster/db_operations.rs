//! What an operator does with a database while it is written to: nothing is lost and
//! no client is told of a failure.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rung_proto::api::{DatabaseReplica, NodeState};
use rung_tests::check::rows;
use rung_tests::cluster::SOON;
use rung_tests::workload::{Doors, Mix, Workload, make_tables, on_door, read_rows};
use rung_tests::{Cluster, eventually, http};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

pub const DATABASE: &str = "orders";
/// A hand-over takes some 100 ms; this is for a machine that has no time.
const STALL: Duration = Duration::from_secs(3);
const MIX: Mix = Mix { writers: 1, ..Mix::WRITERS };

/// A cluster whose database is written to through every node.
pub struct Busy {
    pub cluster: Cluster,
    doors: Vec<Doors>,
    load: Workload,
}

impl Busy {
    #[track_caller]
    pub fn begin(cluster: Cluster, replicas: usize) -> Self {
        cluster.create_database(DATABASE, replicas);
        eventually("every replica votes", SOON, || {
            let shard = cluster.shard(DATABASE, &[]).expect("somebody knows it");
            let would = |node: &str| cluster.ctl(&["promote", node, "--dry-run"]).code == 3;
            shard.replicas.iter().all(|replica| would(&replica.node))
        });
        let nodes = cluster.running();
        let doors: Vec<Doors> = nodes.iter().map(|node| cluster.doors(node, DATABASE)).collect();
        make_tables(&doors[0].write, &MIX);
        let load = Workload::start(&doors, MIX);
        load.go_on_for(20);
        Self { cluster, doors, load }
    }

    #[track_caller]
    pub fn primary(&self) -> String {
        self.cluster.primary(DATABASE, &[])
    }

    /// The nodes that have a copy that serves beside the primary.
    #[track_caller]
    pub fn replicas(&self) -> Vec<String> {
        let shard = self.cluster.shard(DATABASE, &[]).expect("somebody knows it");
        let serving = shard.replicas.into_iter().filter(|replica| replica.state == "serving");
        serving.map(|replica| replica.node).collect()
    }

    /// A node without a copy.
    #[track_caller]
    pub fn spare(&self) -> String {
        let (primary, replicas) = (self.primary(), self.replicas());
        let witness = self.cluster.shard(DATABASE, &[]).and_then(|shard| shard.witness);
        let mut running = self.cluster.running().into_iter();
        let is_free = |node: &String| {
            *node != primary && !replicas.contains(node) && Some(node) != witness.as_ref()
        };
        running.find(is_free).expect("a node without a copy")
    }

    #[track_caller]
    pub fn wait_serving(&self, replicas: usize) -> Duration {
        self.cluster.wait_serving(DATABASE, replicas)
    }

    /// Rows that are acknowledged so far, at least.
    pub fn acknowledged(&self) -> usize {
        usize::try_from(self.load.acknowledged()).unwrap_or(usize::MAX)
    }

    #[track_caller]
    pub fn go_on(&self) {
        self.load.go_on_for(20);
    }

    /// How long a write waited at most while `work` was done.
    ///
    /// # Panics
    /// When one failed.
    #[track_caller]
    pub fn unharmed(&self, what: &str, work: impl FnOnce(&Cluster)) -> Duration {
        let from = self.load.now();
        work(&self.cluster);
        let to = self.load.now();
        self.load.next_acknowledged(to);
        let (stall, failed) = self.load.longest_stall(from, to);
        println!("{what}: a write waited {stall:?} at most");
        assert_eq!(failed, 0, "{what}: writes that were not acknowledged");
        stall
    }

    /// From now to the first acknowledged write that was sent after `harm`.
    #[track_caller]
    pub fn harmed(&mut self, node: &str, harm: impl FnOnce(&mut Cluster)) -> Duration {
        for doors in self.doors.iter().filter(|doors| doors.write.node == node) {
            doors.write.was_killed();
        }
        let since = self.load.now();
        harm(&mut self.cluster);
        self.load.next_acknowledged(since)
    }

    pub fn door(&self, node: &str) -> Doors {
        let mut doors = self.doors.iter();
        doors.find(|doors| doors.write.node == node).expect("a node with doors").clone()
    }

    /// Ends the clients and compares what they were told with what each copy has.
    #[track_caller]
    pub fn end(self) {
        let records = self.load.stop();
        let mut nodes = self.cluster.wait_level(DATABASE);
        let primary = self.cluster.primary(DATABASE, &[]);
        nodes.push(primary.clone());
        let doors = |node: &str| self.doors.iter().find(|doors| doors.write.node == node);
        for node in nodes {
            let doors = doors(&node).expect("a node with doors");
            let (door, level) = match node == primary {
                true => (&doors.write, "SET rung.read = 'linearizable'"),
                false => (&doors.read, "SET rung.read = 'any'"),
            };
            let there = read_rows(&door.with_settings(level)).expect("the rows of a copy");
            let verdict = rows::check(&records.rows, &there);
            println!("{node}: {verdict}");
            assert_eq!(verdict.faults, [], "on {node}");
        }
    }
}

#[test]
fn promotions_make_writers_wait_and_nobody_fail() {
    let busy = Busy::begin(Cluster::builder().alone().start(), 2);
    let mut stalls = Vec::new();
    for _ in 0..3 {
        let target = busy.replicas().remove(0);
        stalls.push(busy.unharmed("promote", |cluster| {
            cluster.ctl(&["promote", &target]).expect(0);
        }));
        assert_eq!(busy.primary(), target);
        busy.wait_serving(2);
    }
    stalls.sort_unstable();
    println!("promote: {stalls:?}");
    assert!(stalls[stalls.len() / 2] < STALL, "{stalls:?}");
    busy.end();
}

#[test]
fn an_open_transaction_is_lost_to_a_promotion_with_a_code_that_says_to_repeat_it() {
    let busy = Busy::begin(Cluster::builder().nodes(3).alone().start(), 2);
    let (primary, target) = (busy.primary(), busy.replicas().remove(0));
    let other = busy.cluster.running().into_iter().find(|node| *node != primary);
    let door = busy.door(&other.expect("another node")).write;
    let insert = "INSERT INTO numbered (writer, number, part) VALUES (1000000, 1, 0)";
    let lost = on_door(&door, async |client| {
        let open = async |client: &Client| {
            client.batch_execute("BEGIN").await?;
            client.batch_execute(insert).await?;
            // Everybody else waits for this transaction, but for a bounded time.
            busy.unharmed("promote with an open transaction", |cluster| {
                cluster.ctl(&["promote", &target]).expect(0);
            });
            let lost = client.batch_execute(insert).await.expect_err("the transaction is lost");
            client.batch_execute("ROLLBACK").await?;
            client.batch_execute("SELECT 1").await?;
            Ok(lost)
        };
        client.run(open).await
    });
    let lost = lost.expect("the connection goes on");
    assert_eq!(lost.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{lost:?}");
    assert_eq!(busy.primary(), target);
    busy.end();
}

#[test]
fn a_promotion_that_could_lose_something_is_refused_with_every_reason() {
    let mut busy = Busy::begin(Cluster::builder().alone().start(), 2);
    let (primary, spare) = (busy.primary(), busy.spare());
    // n1 is asked.
    let dead = busy.replicas().into_iter().find(|node| node != "n1").expect("a replica");
    busy.harmed(&dead, |cluster| cluster.kill(&dead));
    busy.cluster.wait_state(&dead, NodeState::Down);
    let asked = busy.cluster.running().remove(0);
    for target in [&dead, &spare] {
        let refused = busy.cluster.ctl_of(&asked, &["promote", target]);
        assert_ne!(refused.code, 0, "{refused}");
        let refused = refused.saying(&format!("{dead} is down"));
        refused.saying(&format!("{primary} is the primary")).saying("has no copy");
    }
    assert_eq!(busy.primary(), primary);
    busy.cluster.restart(&dead);
    busy.wait_serving(2);
    busy.end();
}

#[test]
fn the_number_of_replicas_goes_up_and_down_while_clients_write() {
    let busy = Busy::begin(Cluster::builder().alone().start(), 2);
    for replicas in [4, 1, 0, 3] {
        busy.unharmed(&format!("scale replicas {replicas}"), |cluster| {
            cluster.ctl(&["scale", "replicas", &replicas.to_string()]).expect(0);
            eventually("as many replicas as wanted", SOON, || {
                let shard = cluster.shard(DATABASE, &[]).expect("somebody knows it");
                let serving = |replica: &DatabaseReplica| replica.state == "serving";
                shard.replicas.len() == replicas && shard.replicas.iter().all(serving)
            });
            // Of four copies one does not vote, which is then said.
            cluster.wait_serving(DATABASE, replicas);
            let asked = cluster.ctl(&["db", "ls"]);
            assert_eq!(asked.stdout.contains("(no vote)"), replicas == 3, "{}", asked.stdout);
            // Nothing is archived, so nothing is said of archives.
            let shown = cluster.ctl(&["db", "show", DATABASE]).stdout;
            assert!(shown.contains("VOTES") && !shown.contains("ARCHIVE"), "{shown}");
        });
    }
    busy.end();
}

#[test]
fn copies_move_between_nodes_while_clients_write() {
    let busy = Busy::begin(Cluster::builder().alone().start(), 2);
    let (from, to) = (busy.replicas().remove(0), busy.spare());
    busy.unharmed("move", |cluster| {
        cluster.ctl(&["move", "db", &to, "--from", &from]).expect(0);
    });
    busy.wait_serving(2);
    assert!(busy.replicas().contains(&to) && !busy.replicas().contains(&from));

    let added = busy.spare();
    busy.unharmed("role add", |cluster| {
        cluster.ctl(&["role", "add", &added, "db"]).expect(0);
    });
    busy.wait_serving(3);
    assert!(busy.replicas().contains(&added));
    busy.end();
}

#[test]
fn a_primary_whose_node_gives_the_role_up_hands_over_first() {
    let busy = Busy::begin(Cluster::builder().alone().start(), 2);
    let primary = busy.primary();
    busy.unharmed("role rm of the primary", |cluster| {
        cluster.ctl(&["role", "rm", &primary, "db"]).expect(0);
    });
    assert_ne!(busy.primary(), primary);

    let primary = busy.primary();
    busy.unharmed("drain of the primary", |cluster| {
        cluster.ctl(&["node", "drain", &primary]).expect(0);
    });
    assert_ne!(busy.primary(), primary);
    let folder = busy.cluster.data(&primary).join("db");
    eventually("nothing of it is left there", SOON, || {
        std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none())
    });
    busy.end();
}

#[test]
fn doctor_and_metrics_tell_how_a_database_is() {
    let mut cluster = Cluster::builder().nodes(3).start();
    let port = TcpListener::bind((cluster.ip("n2"), 5432)).expect("n2's port for SQL");
    cluster.create_database(DATABASE, 2);
    cluster.ctl_of("n2", &["doctor"]).expect(1).saying("5432").saying("another database");
    cluster.ctl_of("n1", &["doctor"]).expect(0);
    drop(port);
    eventually("n2 serves clients once its port is free", SOON, || {
        cluster.ctl_of("n2", &["doctor"]).code == 0
    });

    let door = cluster.doors("n2", DATABASE).write;
    make_tables(&door, &MIX);
    let primary = cluster.primary(DATABASE, &[]);
    let value = |node: &str, series: &str| {
        let admin = SocketAddr::from((cluster.ip(node), 7401));
        let told = http::get(admin, &admin.to_string(), "/metrics").expect("metrics");
        let text = told.text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("{series} is not in\n{text}"));
        line.trim().parse::<f64>().expect("a number")
    };
    let of = format!("{{database=\"{DATABASE}\",shard=\"0\"");
    assert!(value("n2", "rung_db_statements_total") >= 1.0);
    assert!(value("n2", "rung_db_client_writes_total") >= 1.0);
    assert!(value(&primary, &format!("rung_db_copy_batches_total{of}}}")) >= 1.0);
    for node in ["n1", "n2", "n3"] {
        let kind = if node == primary { "primary" } else { "replica" };
        let is = format!("rung_db_copy_state{of},kind=\"{kind}\",state=\"serving\"}}");
        assert_eq!(value(node, &is), 1.0, "{node}");
        let position = format!("rung_db_copy_position{of}}}");
        eventually("the copies are at the same position", SOON, || {
            value(node, &position) == value(&primary, &position) && value(node, &position) > 0.0
        });
    }

    let dead = ["n2", "n3"].into_iter().find(|node| *node != primary).expect("a replica");
    cluster.kill(dead);
    let missing = format!("the copy of {DATABASE}/0 on {dead} is down");
    eventually("doctor misses the copy", SOON, || cluster.ctl(&["doctor"]).says(&missing));
    let other = if dead == "n2" { "n3" } else { "n2" };
    cluster.kill(other);
    eventually("doctor says that nothing can be written", SOON, || {
        cluster.ctl(&["doctor"]).says("nothing can be written")
    });
}

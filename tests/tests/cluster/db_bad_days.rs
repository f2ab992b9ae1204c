//! Nodes with copies of a database die, and their disks fail.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rung_proto::api::NodeState;
use rung_tests::cluster::SOON;
use rung_tests::failing_sync::FailingSync;
use rung_tests::process::signal;
use rung_tests::small_disk::SmallDisk;
use rung_tests::workload::{on_door, read_rows};
use rung_tests::{Cluster, eventually, until};

use crate::db_operations::{Busy, DATABASE};

/// A busy machine may take longer than the second that it should take.
const FAILOVER: Duration = Duration::from_secs(5);
/// A node's log takes 64 MiB, and a start needs as much again for a moment.
const MEBIBYTES: u32 = 192;

/// More than is kept in SQLite's log before its file is written.
const LARGE: &str = "CREATE TABLE large AS \
    SELECT number, repeat(md5(number::text), 64) AS text FROM generate_series(1, 10000) AS number";
const PAGE: usize = 4096;
const WRITTEN: u64 = 8 << 20;

/// The file with the pages of the only copy on a node.
fn pages(cluster: &Cluster, node: &str) -> Option<PathBuf> {
    let groups = fs::read_dir(cluster.data(node).join("db")).ok()?.flatten();
    let files = groups.filter_map(|group| fs::read_dir(group.path().join("files")).ok());
    let paths = files.flatten().flatten().map(|file| file.path());
    paths.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("pages-") && name.ends_with(".db")
    })
}

#[test]
fn another_copy_takes_over_from_a_primary_that_died_and_a_third_is_made() {
    let mut busy = Busy::begin(Cluster::builder().alone().start(), 2);
    let mut primary = busy.primary();
    if primary == "n1" {
        primary = busy.replicas().remove(0);
        busy.cluster.ctl(&["promote", &primary]).expect(0);
        busy.wait_serving(2);
    }
    let outage = busy.harmed(&primary, |cluster| cluster.kill(&primary));
    println!("kill -9: a write was acknowledged after {outage:?}");
    assert!(outage < FAILOVER, "{outage:?}");
    // It stays away, and another node gets its copy.
    busy.cluster.wait_state(&primary, NodeState::Down);
    let took = eventually("two replicas serve again", SOON, || {
        let shard = busy.cluster.shard(DATABASE, &[]).expect("somebody knows it");
        // Whoever is asked may not have heard yet that it died.
        let serve = |node: &str, state: &str| state == "serving" && node != primary;
        let others = shard.replicas.iter().filter(|it| serve(&it.node, &it.state));
        shard.primary.as_ref() != Some(&primary) && others.count() == 2
    });
    println!("a lost copy was replaced after {took:?}");
    busy.cluster.restart(&primary);
    eventually("what it had is gone", SOON, || {
        let folder = busy.cluster.data(&primary).join("db");
        fs::read_dir(folder).is_ok_and(|mut copies| copies.next().is_none())
    });
    busy.end();
}

#[test]
fn a_witness_keeps_the_primary_writable_without_its_only_replica() {
    let mut busy = Busy::begin(Cluster::builder().nodes(3).alone().start(), 1);
    eventually("there is a witness", SOON, || {
        busy.cluster.shard(DATABASE, &[]).is_some_and(|shard| shard.witness.is_some())
    });
    let shard = busy.cluster.shard(DATABASE, &[]).expect("the database");
    println!("{shard:?}");
    let replica = busy.replicas().remove(0);
    let outage = busy.harmed(&replica, |cluster| cluster.kill(&replica));
    println!("without the replica a write was acknowledged after {outage:?}");
    busy.go_on();
    busy.cluster.restart(&replica);
    busy.wait_serving(1);
    busy.end();
}

#[test]
fn a_primary_that_slept_acknowledges_nothing_and_reads_nothing_stale_when_it_wakes() {
    let mut busy = Busy::begin(Cluster::builder().nodes(3).alone().start(), 2);
    let primary = busy.primary();
    let pid = busy.cluster.pid(&primary);
    let outage = busy.harmed(&primary, |_| signal(pid, "STOP"));
    println!("SIGSTOP: a write was acknowledged after {outage:?}");
    let others = busy.cluster.running();
    let other = others.iter().find(|node| **node != primary).expect("another node");
    eventually("the others call it down", SOON, || {
        let nodes = busy.cluster.status_of(other).map(|status| status.nodes).unwrap_or_default();
        nodes.iter().any(|node| node.name == primary && node.state == NodeState::Down)
    });
    busy.go_on();
    signal(pid, "CONT");
    // It is asked at once, before it can know of the others.
    let door = busy.door(&primary).write.with_settings("SET rung.read = 'linearizable'");
    let before = busy.acknowledged();
    let there = read_rows(&door).expect("a read after waking").len();
    assert!(there >= before, "{there} rows were read, {before} had been acknowledged");
    busy.wait_serving(2);
    busy.end();
}

/// Stops a replica, does something to the file of its pages, and starts it again.
fn damaged_copy_is_made_anew(damage: impl Fn(&mut Vec<u8>)) {
    let mut busy = Busy::begin(Cluster::builder().nodes(3).alone().start(), 2);
    let primary = busy.primary();
    let node = busy.replicas().into_iter().find(|node| node != "n1").expect("a replica");
    let large = on_door(&busy.door(&primary).write, async |client| client.rows(LARGE).await);
    large.expect("a large table");
    eventually("the pages are in their file", SOON, || {
        busy.go_on();
        let file = pages(&busy.cluster, &node);
        file.and_then(|path| fs::metadata(path).ok()).is_some_and(|file| file.len() >= WRITTEN)
    });
    busy.harmed(&node, |cluster| {
        assert_eq!(cluster.stop(&node), Some(0));
    });
    let file = pages(&busy.cluster, &node).expect("a file of pages");
    let mut bytes = fs::read(&file).expect("the pages");
    damage(&mut bytes);
    fs::write(&file, bytes).expect("the pages");
    busy.cluster.restart(&node);
    eventually("the node says that its copy is damaged", SOON, || {
        let log = fs::read_to_string(busy.cluster.log(&node)).unwrap_or_default();
        log.contains("damaged")
    });
    busy.go_on();
    busy.wait_serving(2);
    assert_eq!(busy.primary(), primary, "the others have gone on");
    busy.end();
}

#[test]
fn a_copy_with_a_changed_page_is_made_anew() {
    // Those of the table that is written to are among them.
    damaged_copy_is_made_anew(|bytes| {
        bytes[PAGE..].iter_mut().step_by(PAGE / 8).for_each(|byte| *byte ^= 0x5a);
    });
}

#[test]
fn a_copy_that_cannot_be_opened_is_made_anew() {
    damaged_copy_is_made_anew(|bytes| bytes[..100].fill(0x7f));
}

/// The segments of a node's log.
fn segments(cluster: &Cluster, node: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(cluster.data(node).join("wal")).expect("a log").flatten();
    files.map(|file| file.path()).filter(|path| path.is_file()).collect()
}

/// Changes a byte in the middle of what is written of the fullest segment.
fn corrupt_log(cluster: &Cluster, node: &str) {
    let written = |path: &PathBuf| {
        let bytes = fs::read(path).expect("a segment");
        bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0)
    };
    let fullest = segments(cluster, node).into_iter().max_by_key(written).expect("a segment");
    let middle = written(&fullest) / 2;
    let mut bytes = fs::read(&fullest).expect("a segment");
    bytes[middle] ^= 0x5a;
    fs::write(&fullest, bytes).expect("a segment");
}

#[test]
fn a_copy_with_a_corrupt_log_record_is_made_anew() {
    let cluster = Cluster::builder().nodes(3).alone().start();
    // The log is that of the control group as well, which is not to be repaired here.
    cluster.ctl(&["scale", "control", "1"]).expect(0);
    let mut busy = Busy::begin(cluster, 2);
    let voters = busy.cluster.voters();
    let primary = busy.primary();
    let is_free = |node: &String| !voters.contains(node) && *node != "n1" && *node != primary;
    let node = busy.replicas().into_iter().find(is_free);
    let node = node.unwrap_or_else(|| {
        // The free node has the primary.
        let voter = voters.first().expect("a voter");
        busy.cluster.ctl(&["promote", voter]).expect(0);
        busy.wait_serving(2);
        busy.replicas().into_iter().find(|node| node != voter && node != "n1").expect("a replica")
    });
    busy.harmed(&node, |cluster| {
        assert_eq!(cluster.stop(&node), Some(0));
    });
    corrupt_log(&busy.cluster, &node);
    busy.cluster.restart(&node);
    eventually("the node says that its copy is damaged", SOON, || {
        let log = fs::read_to_string(busy.cluster.log(&node)).unwrap_or_default();
        log.contains("damaged")
    });
    busy.go_on();
    busy.wait_serving(2);
    busy.end();
}

#[test]
fn a_copy_without_room_stops_says_so_and_goes_on_when_there_is_room() {
    let mut cluster = Cluster::empty(Cluster::builder().nodes(3).alone());
    let Some(disk) = SmallDisk::mount(&cluster.data("n3"), MEBIBYTES) else { return };
    cluster.found();
    cluster.make_token(2);
    cluster.join(2);
    cluster.join(3);
    cluster.wait_settled();
    let busy = Busy::begin(cluster, 2);
    busy.cluster.ctl(&["promote", "n3"]);
    busy.wait_serving(2);
    disk.fill();
    // n3's own clients are served by the others as well.
    busy.go_on();
    eventually("another node is the primary", SOON, || {
        let shard = busy.cluster.shard(DATABASE, &[]);
        shard.is_some_and(|shard| shard.primary.is_some_and(|primary| primary != "n3"))
    });
    eventually("the status says what is wrong", SOON, || {
        let shard = busy.cluster.shard(DATABASE, &[]).expect("the database");
        let full = |why: &str| why.contains("space") || why.contains("full");
        let mut replicas = shard.replicas.iter();
        replicas.any(|copy| copy.node == "n3" && copy.problem.as_deref().is_some_and(full))
    });
    busy.cluster.ctl(&["doctor"]).expect(1).saying("n3");
    busy.go_on();
    disk.free();
    busy.wait_serving(2);
    busy.end();
}

#[test]
fn an_only_copy_is_read_and_says_why_nothing_can_be_written_while_its_disk_is_full() {
    let mut cluster = Cluster::empty(Cluster::builder().nodes(1).alone());
    let Some(disk) = SmallDisk::mount(&cluster.data("n1"), MEBIBYTES) else { return };
    cluster.found();
    cluster.create_database(DATABASE, 0);
    let door = cluster.doors("n1", DATABASE).write;
    let run = |text: &'static str| on_door(&door, async |client| client.rows(text).await);
    run("CREATE TABLE kept (number int PRIMARY KEY)").expect("a table");
    run("INSERT INTO kept SELECT generate_series(1, 1000)").expect("rows");
    disk.fill();
    let row = "INSERT INTO kept SELECT max(number) + 1 FROM kept";
    let refused = until("a write is refused", SOON, || run(row).err());
    assert!(format!("{refused:?}").contains("53100"), "{refused:?}");
    let count = || run("SELECT count(*) FROM kept").expect("a read")[0][0].clone();
    let there = count();
    for _ in 0..20 {
        assert!(run(row).is_err(), "there is no room");
        assert_eq!(count(), there, "what was refused is not there");
    }
    cluster.ctl(&["doctor"]).expect(1).saying("hardly any room").saying("reads go on");
    disk.free();
    eventually("it is written again", SOON, || run(row).is_ok());
    assert_eq!(count().parse::<u64>().ok(), there.parse::<u64>().ok().map(|there| there + 1));
}

/// Ends a node's process by a sync that fails, and starts it again when its disk works.
fn sync_fails(busy: &mut Busy, node: &str, disk: &FailingSync) {
    let outage = busy.harmed(node, |cluster| {
        disk.fail(true);
        eventually("its process ends", SOON, || !cluster.is_up(node));
    });
    println!("a sync failed on {node}: a write was acknowledged after {outage:?}");
    let log = fs::read_to_string(busy.cluster.log(node)).unwrap_or_default();
    assert!(log.contains("code: disk-failed"), "it says why");
    busy.go_on();
    disk.fail(false);
    busy.cluster.restart_with(node, &disk.variables());
    busy.wait_serving(2);
}

#[test]
fn a_sync_that_fails_ends_the_process_and_the_others_go_on() {
    let mut busy = Busy::begin(Cluster::builder().nodes(3).alone().start(), 2);
    let disk = FailingSync::build(busy.cluster.dir());
    let node = busy.replicas().into_iter().find(|node| node != "n1").expect("a replica");
    busy.harmed(&node, |cluster| cluster.kill(&node));
    busy.cluster.restart_with(&node, &disk.variables());
    busy.wait_serving(2);
    sync_fails(&mut busy, &node, &disk);
    busy.cluster.ctl(&["promote", &node]).expect(0);
    busy.wait_serving(2);
    sync_fails(&mut busy, &node, &disk);
    busy.end();
}

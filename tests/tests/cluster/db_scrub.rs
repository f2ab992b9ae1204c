//! Damage in pages that nobody reads is found, and the copy that has it is made anew.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rung_proto::soft::ScrubStatus;
use rung_tests::cluster::SOON;
use rung_tests::workload::{Mix, make_tables, on_door, read_rows};
use rung_tests::{Cluster, eventually, until};

use crate::db_operations::DATABASE;

const PAGE: u64 = 4096;
/// More than is kept in SQLite's log before its file is written.
const LARGE: &str = "CREATE TABLE large AS \
    SELECT number, repeat(md5(number::text), 64) AS text FROM generate_series(1, 12000) AS number";
const COUNT: &str = "SELECT count(*), sum(length(text)) FROM large";
const WRITTEN: u64 = 12 << 20;
/// In the middle of the large table, of which no statement reads all columns.
const DAMAGED_PAGE: u64 = 2_000;

fn pages(cluster: &Cluster, node: &str) -> Option<PathBuf> {
    let groups = fs::read_dir(cluster.data(node).join("db")).ok()?.flatten();
    let files = groups.filter_map(|group| fs::read_dir(group.path().join("files")).ok());
    let mut paths = files.flatten().flatten().map(|file| file.path());
    paths.find(|path| path.extension().is_some_and(|it| it == "db"))
}

fn scrub(cluster: &Cluster) -> Option<ScrubStatus> {
    cluster.shard(DATABASE, &[])?.scrub
}

fn begin(replicas: usize) -> Cluster {
    let cluster = Cluster::builder().nodes(3).alone().start();
    cluster.create_database(DATABASE, replicas);
    let door = cluster.doors("n1", DATABASE).write;
    make_tables(&door, &Mix::WRITERS);
    on_door(&door, async |client| client.rows(LARGE).await).expect("a large table");
    eventually("the pages of every copy are in their files", SOON, || {
        // A write makes the checkpoint that is due.
        let row = "INSERT INTO numbered (writer, number, part) VALUES (1, 1, 0)";
        on_door(&door, async |client| client.rows(row).await).expect("a row");
        let nodes = ["n1", "n2", "n3"].into_iter().filter_map(|node| pages(&cluster, node));
        let written = nodes.filter(|path| fs::metadata(path).is_ok_and(|it| it.len() > WRITTEN));
        written.count() > replicas
    });
    cluster
}

/// Changes a byte in the file of a copy that serves.
fn damage(cluster: &Cluster, node: &str) {
    let path = pages(cluster, node).expect("a file of pages");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the pages");
    let (mut byte, at) = ([0], DAMAGED_PAGE * PAGE + 1_234);
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("a byte");
}

#[track_caller]
fn assert_sound(cluster: &Cluster, replicas: usize) {
    cluster.wait_serving(DATABASE, replicas);
    cluster.wait_level(DATABASE);
    cluster.ctl(&["db", "scrub", DATABASE, "--rate", "500"]).expect(0);
    let scrub = scrub(cluster).expect("a scrub");
    assert!(scrub.pages > 3_000 && scrub.complete_ms > 0 && scrub.damage.is_empty(), "{scrub:?}");
    let door = cluster.doors("n1", DATABASE).write;
    let counted = on_door(&door, async |client| client.rows(COUNT).await).expect("a count");
    assert_eq!(counted, [["12000".to_owned(), (12_000 * 64 * 32).to_string()]]);
    assert!(!read_rows(&door).expect("the rows").is_empty());
}

#[test]
fn a_replica_with_a_changed_byte_that_nobody_reads_is_made_anew() {
    let cluster = begin(2);
    let shard = cluster.shard(DATABASE, &[]).expect("the database");
    assert_sound(&cluster, 2);
    let replica = shard.replicas[0].node.clone();
    damage(&cluster, &replica);
    let found = cluster.ctl(&["db", "scrub", DATABASE, "--rate", "500"]).expect(1);
    assert!(found.stdout.contains(&format!("on {replica} are damaged")), "{found:?}");
    cluster.ctl(&["doctor"]).saying("found damage");
    eventually("its file is another one", SOON, || {
        let log = fs::read_to_string(cluster.log(&replica)).unwrap_or_default();
        log.contains("a scrub found that pages")
    });
    assert_sound(&cluster, 2);
    let now = cluster.shard(DATABASE, &[]).expect("the database");
    assert_eq!((now.primary, now.epoch), (shard.primary, shard.epoch), "the primary went on");
}

#[test]
fn a_primary_with_a_changed_byte_gives_the_lead_to_another_copy() {
    let cluster = begin(2);
    let primary = cluster.primary(DATABASE, &[]);
    damage(&cluster, &primary);
    let found = cluster.ctl(&["db", "scrub", DATABASE, "--rate", "500"]).expect(1);
    assert!(found.stdout.contains(&format!("on {primary} are damaged")), "{found:?}");
    eventually("another copy leads", SOON, || {
        let now = cluster.shard(DATABASE, &[]).and_then(|shard| shard.primary);
        now.is_some_and(|now| now != primary)
    });
    assert_sound(&cluster, 2);
}

#[test]
fn copies_are_compared_again_and_again_without_being_asked() {
    let builder = Cluster::builder().nodes(3).alone();
    let cluster = builder.argument("--scrub-every").argument("1s").start();
    cluster.create_database(DATABASE, 2);
    let compared = || scrub(&cluster).filter(|it| it.complete_ms > 0 && it.damage.is_empty());
    let first = until("they were compared", SOON, compared).complete_ms;
    until("they were compared again", SOON, || compared().filter(|it| it.complete_ms > first));
}

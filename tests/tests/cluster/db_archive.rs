//! Archives: a moment of a database that was written to while its primary died is
//! restored in another cluster, exactly.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rung_proto::api::{ArchiveContent, DatabaseArchive};
use rung_tests::check::{Nanos, Outcome, Timed, rows};
use rung_tests::cluster::SOON;
use rung_tests::process::run;
use rung_tests::small_disk::SmallDisk;
use rung_tests::workload::{Doors, Mix, Workload, make_tables, read_rows};
use rung_tests::{Cluster, eventually, until};

use crate::db_operations::DATABASE;

const MIX: Mix = Mix { writers: 2, ..Mix::WRITERS };
/// Times are kept in whole milliseconds.
const PRECISION: Nanos = 2_000_000;

/// Something that happened between two instants of the load's clock, and its time.
struct Moment {
    after: Nanos,
    ms: u64,
    before: Nanos,
}

impl Moment {
    fn now(load: &Workload) -> Self {
        let after = load.now();
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
        Self { after, ms: u64::try_from(ms).expect("a time"), before: load.now() }
    }

    /// As ctl reads it.
    fn text(&self) -> String {
        let seconds = format!("@{}.{:03}", self.ms / 1000, self.ms % 1000);
        let mut date = Command::new("date");
        date.args(["-u", "-d", &seconds, "+%Y-%m-%dT%H:%M:%S.%3NZ"]);
        run(&mut date, Duration::from_secs(5)).expect(0).stdout.trim().to_owned()
    }

    /// What a client would have been told of a write, had everything ended then.
    fn seen(&self, row: &Timed<rows::Numbered>) -> Timed<rows::Numbered> {
        let outcome = match () {
            () if row.completed < self.after => row.outcome.clone(),
            () if row.invoked > self.before + PRECISION => Outcome::Refused("later".to_owned()),
            () => Outcome::Unknown("at that moment".to_owned()),
        };
        Timed { outcome, ..row.clone() }
    }
}

fn archive(cluster: &Cluster) -> Option<DatabaseArchive> {
    cluster.shard(DATABASE, &[])?.archive
}

#[track_caller]
fn wait_archived(cluster: &Cluster) {
    eventually("everything is archived", SOON, || {
        let Some(shard) = cluster.shard(DATABASE, &[]) else { return false };
        shard.archive.is_some_and(|archive| {
            archive.problem.is_none() && shard.position > 0 && archive.position >= shard.position
        })
    });
}

#[track_caller]
fn assert_rows(door: &Doors, records: &[Timed<rows::Numbered>], what: &str) {
    let there = read_rows(&door.write).expect("the rows");
    let verdict = rows::check(records, &there);
    println!("{what}: {verdict}");
    assert_eq!(verdict.faults, [], "{what}");
}

#[test]
fn a_moment_of_an_archive_is_restored_in_another_cluster_after_its_primary_died() {
    let kept = tempfile::Builder::new().prefix("rung-archive-").tempdir().expect("a directory");
    let dir = kept.path().join("orders");
    let path = dir.display().to_string();
    let mut cluster = Cluster::builder().nodes(3).alone().start();
    cluster.create_database(DATABASE, 2);
    let nodes = cluster.running();
    let doors: Vec<Doors> = nodes.iter().map(|node| cluster.doors(node, DATABASE)).collect();
    make_tables(&doors[0].write, &MIX);
    let load = Workload::start(&doors, MIX);
    load.go_on_for(20);

    // A directory that is not there is a problem that is told, and is never made.
    let archive_to = ["db", "archive", DATABASE, "--to", path.as_str()];
    cluster.ctl(&archive_to).expect(1).saying("is not there");
    eventually("the directory is missed", SOON, || {
        archive(&cluster).is_some_and(|it| it.problem.is_some_and(|why| why.contains("not there")))
    });
    cluster.ctl(&["doctor"]).expect(1).saying("is not there");
    assert!(!dir.exists());
    fs::create_dir(&dir).expect("a directory");
    eventually("it is written now", SOON, || {
        archive(&cluster).is_some_and(|it| it.problem.is_none() && it.base_ms.is_some())
    });

    load.go_on_for(30);
    let primary = cluster.primary(DATABASE, &[]);
    for door in doors.iter().filter(|door| door.write.node == primary) {
        door.write.was_killed();
    }
    let since = load.now();
    cluster.kill(&primary);
    println!("a write was acknowledged {:?} after the kill", load.next_acknowledged(since));
    load.go_on_for(40);
    let moment = Moment::now(&load);
    load.go_on_for(40);
    // Who writes the archive dies as well, if another does.
    cluster.restart(&primary);
    cluster.wait_serving(DATABASE, 2);
    let writer = until("somebody writes the archive", SOON, || archive(&cluster)?.node);
    for door in doors.iter().filter(|door| door.write.node == writer) {
        door.write.was_killed();
    }
    cluster.kill(&writer);
    load.go_on_for(20);
    cluster.restart(&writer);
    cluster.wait_serving(DATABASE, 2);
    load.go_on_for(20);
    let records = load.stop().rows;
    wait_archived(&cluster);
    let archived = archive(&cluster).expect("the archive");
    println!("{archived:?}");
    let listed = cluster.ctl(&["db", "archive", "ls", DATABASE, "-o", "json"]).expect(0);
    let content: ArchiveContent = serde_json::from_str(&listed.stdout).expect("its content");
    println!("{content:?}");
    assert_eq!((content.ranges.len(), content.damaged.len()), (1, 0), "there is no gap");
    cluster.ctl(&["db", "show", DATABASE]).expect(0).saying("ARCHIVE");
    cluster.ctl(&["db", "show", DATABASE, "-o", "json"]).expect(0).saying(&path);
    let backup = kept.path().join("orders.db").display().to_string();
    let primary = cluster.primary(DATABASE, &[]);
    let backed_up = ["db", "backup", DATABASE, "--to", &backup];
    cluster.ctl_of(&primary, &backed_up).expect(0);
    drop(cluster);

    // Elsewhere, in a database that is not there yet.
    let other = Cluster::builder().nodes(1).alone().start();
    let text = moment.text();
    let restore = |moment: &str| {
        let command = ["db", "restore", DATABASE, "--archive", &path, "--at", moment, "--replace"];
        other.ctl(&command)
    };
    restore(&text).expect(0);
    let door = other.doors("n1", DATABASE);
    let then: Vec<_> = records.iter().map(|row| moment.seen(row)).collect();
    assert_rows(&door, &then, "at the moment");
    restore("latest").expect(0);
    assert_rows(&door, &records, "at the end");
    restore("2001-01-01T00:00:00Z").expect(5).saying("begins at position");
    restore("position:99999999").expect(5).saying("has nothing after position");
    assert_rows(&door, &records, "after what was refused");
    // The whole backup goes into a new database as well.
    other.ctl(&["db", "restore", "copied", &backup, "--replace"]).expect(0);
    assert_rows(&other.doors("n1", "copied"), &records, "from the backup");
    // It is the archive of another cluster's database.
    other.ctl(&archive_to).expect(1).saying("of another database");
    eventually("it is not mixed with another", SOON, || {
        archive(&other).is_some_and(|it| it.problem.is_some_and(|why| why.contains("another")))
    });
    other.ctl(&["db", "archive", DATABASE, "--off"]).expect(0);
    assert_eq!(archive(&other), None);
}

#[test]
fn an_archive_without_room_says_so_harms_nobody_and_catches_up_when_there_is_some() {
    let kept = tempfile::Builder::new().prefix("rung-archive-").tempdir().expect("a directory");
    let dir = kept.path().join("orders");
    let Some(disk) = SmallDisk::mount(&dir, 64) else { return };
    let path = dir.display().to_string();
    let cluster = Cluster::builder().nodes(3).alone().start();
    cluster.create_database(DATABASE, 2);
    let doors = vec![cluster.doors("n1", DATABASE)];
    make_tables(&doors[0].write, &MIX);
    let load = Workload::start(&doors, MIX);
    cluster.ctl(&["db", "archive", DATABASE, "--to", &path]).expect(0);
    wait_archived_while(&cluster, &load);
    disk.fill();
    let full = |why: &str| why.contains("No space left");
    eventually("it is told that there is no room", SOON, || {
        load.go_on_for(5);
        archive(&cluster).is_some_and(|it| it.problem.as_deref().is_some_and(full))
    });
    cluster.ctl(&["doctor"]).expect(1).saying("No space left");
    let from = load.now();
    load.go_on_for(40);
    let (stall, failed) = load.longest_stall(from, load.now());
    println!("without room for the archive a write waited {stall:?} at most");
    assert_eq!(failed, 0, "writes that were not acknowledged");
    disk.free();
    eventually("it goes on", SOON, || archive(&cluster).is_some_and(|it| it.problem.is_none()));
    let records = load.stop().rows;
    wait_archived(&cluster);
    let listed = cluster.ctl(&["db", "archive", "ls", DATABASE, "-o", "json"]).expect(0);
    let content: ArchiveContent = serde_json::from_str(&listed.stdout).expect("its content");
    assert_eq!((content.ranges.len(), content.damaged.len()), (1, 0), "{content:?}");
    let restored = ["db", "restore", "copied", "--archive", &path, "--at", "latest", "--replace"];
    let primary = cluster.primary(DATABASE, &[]);
    cluster.ctl_of(&primary, &restored).expect(0);
    assert_rows(&cluster.doors("n1", "copied"), &records, "from the archive");
}

/// Until the archive has its base, and is written to.
#[track_caller]
fn wait_archived_while(cluster: &Cluster, load: &Workload) {
    eventually("it is archived", SOON, || {
        load.go_on_for(5);
        archive(cluster).is_some_and(|it| it.problem.is_none() && it.base_ms.is_some())
    });
}

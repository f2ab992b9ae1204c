//! On real files, and with the threads that do the I/O in production.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rung_wal::disk::{Faults, RealDisk, SimDisk};
use rung_wal::{Driver, GroupId, OpenError, Wal, WalError, Write};

use crate::support::{append, entry, meta, open_real, open_sim, read_all, real_config, sim_config};

const ONE: GroupId = GroupId(1);
const TWO: GroupId = GroupId(2);

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, recovery) = open_real(dir.path());
    assert!(recovery.groups.is_empty() && recovery.corruption.is_none());
    wal.write(ONE, vec![meta(0, "vote"), append(0..=9)]).await.unwrap();
    wal.write(TWO, vec![append(5..=6), Write::PurgeTo { index: 5 }]).await.unwrap();
    wal.write(ONE, vec![Write::TruncateFrom { index: 8 }]).await.unwrap();
    let before = (wal.state(ONE), wal.state(TWO));
    wal.close();
    assert_eq!(wal.write(ONE, vec![append(8..=8)]).await, Err(WalError::Closed));

    let (wal, recovery) = open_real(dir.path());
    assert_eq!((recovery.entries, recovery.torn, recovery.corruption), (9, None, None));
    assert_eq!((wal.state(ONE), wal.state(TWO)), before);
    assert_eq!(wal.groups(), [ONE, TWO]);
    let read = wal.read(ONE, 6..100, usize::MAX).await.unwrap();
    assert_eq!(read, [entry(6, 1, "entry 6"), entry(7, 1, "entry 7")]);
    wal.close();
}

#[tokio::test]
async fn a_second_opener_is_told_that_the_log_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open_real(dir.path());
    let second = Wal::open(Arc::new(RealDisk), real_config(dir.path()));
    assert!(matches!(second, Err(OpenError::InUse { .. })), "{second:?}");
    wal.close();
}

#[tokio::test]
async fn no_other_user_can_read_the_log() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("wal");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (wal, _) = open_real(&dir);
    wal.write(ONE, vec![append(0..=9)]).await.unwrap();
    wal.close();
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(dir.clone()), 0o700);
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(mode(file.clone()), 0o600, "{file:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_fill_and_free_many_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open_real(dir.path());
    let writer = |group: GroupId| {
        let wal = wal.clone();
        async move {
            let payload = vec![group.0 as u8; 2000];
            for index in 0..1500 {
                let entries = vec![entry(index, 3, payload.clone())];
                let mut writes = vec![Write::Append { entries }];
                if index % 100 == 99 {
                    writes.push(Write::PurgeTo { index: index - 50 });
                }
                wal.write(group, writes).await.unwrap();
            }
        }
    };
    let tasks: Vec<_> = (1..=4).map(|group| tokio::spawn(writer(GroupId(group)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = wal.stats();
    assert!(stats.segments <= 4, "{stats:?}");
    assert!(stats.syncs.count() > 10 && stats.writes == 6000, "{stats:?}");
    wal.close();
    let (wal, recovery) = open_real(dir.path());
    assert_eq!(recovery.corruption, None);
    for group in 1..=4 {
        let entries = wal.read(GroupId(group), 0..u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(entries.len(), 50);
        assert!(entries.iter().all(|entry| entry.payload == vec![group as u8; 2000]));
    }
    wal.close();
}

/// A process that is killed while it writes: what it printed as acknowledged
/// is there.
#[test]
fn what_a_killed_process_acknowledged_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "real::child_that_writes_until_it_is_killed",
                "--ignored",
                "--nocapture",
            ])
            .env("RUNG_WAL_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers = lines.map_while(Result::ok).filter_map(|line| line.parse::<u64>().ok());
        let mut acknowledged = None;
        for (count, number) in numbers.enumerate() {
            acknowledged = Some(number);
            if count == 300 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let acknowledged = acknowledged.expect("the child acknowledged something");
        let (wal, recovery) = open_real(dir.path());
        assert_eq!(recovery.corruption, None, "round {round}");
        let last = wal.state(ONE).last_index.unwrap();
        assert!(last >= acknowledged, "round {round}: {last} < {acknowledged}");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let entries = runtime.block_on(wal.read(ONE, 0..u64::MAX, usize::MAX)).unwrap();
        assert_eq!(entries.len() as u64, last + 1);
        for (index, found) in entries.into_iter().enumerate() {
            assert_eq!(found, entry(index as u64, 1, format!("entry {index}")));
        }
        wal.close();
    }
}

#[tokio::test]
#[ignore = "run by what_a_killed_process_acknowledged_is_there"]
async fn child_that_writes_until_it_is_killed() {
    let Ok(dir) = std::env::var("RUNG_WAL_DIR") else { return };
    let (wal, _) = open_real(dir.as_ref());
    let mut next = wal.state(ONE).last_index.map_or(0, |last| last + 1);
    loop {
        wal.write(ONE, vec![append(next..=next + 2)]).await.unwrap();
        next += 3;
        println!("{}", next - 1);
    }
}

/// The threads, on a disk whose power fails while they write: the order in
/// which they do things is not the seed's, so this tries a few times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_threads_lose_nothing_when_the_power_fails_under_them() {
    for seed in 0..10 {
        let disk = SimDisk::new(seed);
        let faults = Faults { sync_delay: Duration::from_micros(200), ..Faults::default() };
        disk.set_faults(faults);
        let mut config = sim_config();
        config.driver = Driver::Threads;
        let (wal, _) = Wal::open(Arc::new(disk.for_process()), config).unwrap();
        let total = Arc::new(AtomicU64::new(0));
        let writer = |group: GroupId| {
            let (wal, total) = (wal.clone(), total.clone());
            async move {
                let mut acknowledged = None;
                for index in 0.. {
                    let write = append(index..=index);
                    let purge = Write::PurgeTo { index: index.saturating_sub(40) };
                    match wal.write(group, vec![write, purge]).await {
                        Ok(()) => acknowledged = Some(index),
                        Err(WalError::Dead { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                    total.fetch_add(1, Ordering::Relaxed);
                }
                (group, acknowledged)
            }
        };
        let tasks: Vec<_> = (0..6).map(|group| tokio::spawn(writer(GroupId(group)))).collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while total.load(Ordering::Relaxed) < 1500 + 100 * seed {
            assert!(Instant::now() < deadline, "only {total:?} writes were acknowledged");
            tokio::task::yield_now().await;
        }
        disk.lose_power();
        let mut acknowledged = Vec::new();
        for task in tasks {
            acknowledged.push(task.await.unwrap());
        }
        let (wal, recovery) = open_sim(&disk);
        assert_eq!(recovery.corruption, None, "seed {seed}");
        for (group, last) in acknowledged {
            let entries = read_all(&wal, group);
            assert!(entries.last().map(|entry| entry.index) >= last, "seed {seed}, group {group}");
            for found in entries {
                let index = found.index;
                assert_eq!(found, entry(index, 1, format!("entry {index}")));
            }
        }
    }
}

#[tokio::test]
async fn a_failing_sync_under_the_threads_is_told_to_everybody() {
    let disk = SimDisk::new(1);
    let mut config = sim_config();
    config.driver = Driver::Threads;
    let (wal, _) = Wal::open(Arc::new(disk.for_process()), config).unwrap();
    wal.write(ONE, vec![append(0..=0)]).await.unwrap();
    let mut failed = wal.failed();
    disk.set_faults(Faults { fail_sync_after: Some(3), ..Faults::default() });
    let mut index = 1;
    let error = loop {
        match wal.write(ONE, vec![append(index..=index)]).await {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
    };
    let WalError::Dead { reason } = error else { panic!("{error}") };
    let told = failed.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(told, Some(reason));
    // Closing a dead log does not hang, and what is in memory can be read.
    wal.close();
    assert!(!wal.read(ONE, 0..1, 100).await.unwrap().is_empty());
}

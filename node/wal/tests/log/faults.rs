//! Damage, full disks, failing syncs, and what a log does about them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rung_wal::disk::{Disk, Faults, SimDisk};
use rung_wal::{GroupId, OpenError, ReadError, Wal, WalError, Write};

use crate::model::{Random, SaySeed, observe, seeds};
use crate::support::{DIR, append, entry, meta, open_sim, read_all, ready, sim_config};

const ONE: GroupId = GroupId(1);
const TWO: GroupId = GroupId(2);

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut names = disk.list(Path::new(DIR)).unwrap();
    names.retain(|name| name.ends_with(".wal"));
    names.sort();
    names.iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// Where in the only segment that has it a text lies.
fn place_of(disk: &SimDisk, text: &str) -> (PathBuf, u64) {
    let places = segments(disk).into_iter().filter_map(|path| {
        let content = disk.content(&path).unwrap();
        let place = content.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, place as u64))
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), 1, "{text} lies in {places:?}");
    places[0].clone()
}

fn flip_text(disk: &SimDisk, text: &str) {
    let (path, offset) = place_of(disk, text);
    disk.flip_bit(&path, offset, 3).unwrap();
}

fn write_flushed(wal: &Wal, group: GroupId, writes: Vec<Write>) {
    let written = wal.write(group, writes);
    wal.flush();
    ready(written).unwrap();
}

/// Writes until the log has gone on to another segment.
fn fill_segment(wal: &Wal, group: GroupId) {
    let mut next = wal.state(group).last_index.map_or(0, |last| last + 1);
    let before = wal.stats().segments;
    while wal.stats().segments == before {
        write_flushed(
            wal,
            group,
            vec![Write::Append { entries: vec![entry(next, 1, vec![7; 8000])] }],
        );
        next += 1;
    }
}

#[test]
fn damage_below_what_is_known_to_be_synced_is_corruption_and_not_a_torn_tail() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![meta(0, "vote"), append(0..=5)]);
    write_flushed(&wal, TWO, vec![append(0..=5)]);
    let (file, _) = place_of(&disk, "entry 4");
    disk.kill_process();
    // The later copy of "entry 4" is group 2's, the first one group 1's.
    let content = disk.content(&file).unwrap();
    let first = content.windows(7).position(|window| window == b"entry 4").unwrap();
    disk.flip_bit(&file, first as u64, 0).unwrap();

    let (wal, recovery) = open_sim(&disk);
    let corruption = recovery.corruption.clone().expect("the damage is noticed");
    assert_eq!(corruption.damages[0].file, file);
    assert!(corruption.damages[0].offset < first as u64 && corruption.unknown_groups);
    assert!(
        recovery.is_damaged(ONE) && recovery.is_damaged(TWO) && recovery.is_damaged(GroupId(9))
    );
    assert!(wal.state(ONE).corrupt);
    assert_eq!(read_all(&wal, ONE).len(), 4);
    assert_eq!(ready(wal.write(ONE, vec![append(4..=4)])), Err(WalError::Corrupt { group: ONE }));
}

#[test]
fn a_damage_is_reported_at_every_start_until_it_is_repaired() {
    let disk = SimDisk::new(2);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![meta(0, "vote"), append(0..=5)]);
    disk.kill_process();
    flip_text(&disk, "entry 3");
    drop(open_sim(&disk));
    disk.kill_process();
    let (wal, recovery) = open_sim(&disk);
    assert!(recovery.is_damaged(ONE) && recovery.is_damaged(TWO));
    assert!(recovery.corruption.unwrap().damages.is_empty());

    write_flushed(&wal, ONE, vec![Write::DropGroup, Write::PurgeTo { index: 90 }, append(91..=92)]);
    disk.kill_process();
    let (wal, recovery) = open_sim(&disk);
    assert!(!recovery.is_damaged(ONE) && recovery.is_damaged(TWO));
    assert_eq!(read_all(&wal, ONE).len(), 2);
    let cleared = wal.clear_damage();
    wal.flush();
    ready(cleared).unwrap();
    disk.kill_process();
    let (_, recovery) = open_sim(&disk);
    assert_eq!(recovery.corruption, None);
}

#[test]
fn damage_in_an_older_segment_concerns_only_the_groups_with_entries_there() {
    let disk = SimDisk::new(3);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![append(0..=5)]);
    // Enough that the first segment is not sparse and stays.
    fill_segment(&wal, ONE);
    write_flushed(&wal, TWO, vec![meta(0, "vote of two"), append(0..=2)]);
    disk.kill_process();
    let (path, offset) = segments(&disk)
        .into_iter()
        .find_map(|path| {
            let content = disk.content(&path).unwrap();
            Some((path, content.windows(7).position(|window| window == b"entry 4")? as u64))
        })
        .unwrap();
    disk.flip_bit(&path, offset, 0).unwrap();
    let (wal, recovery) = open_sim(&disk);
    let corruption = recovery.corruption.clone().unwrap();
    assert_eq!((corruption.groups, corruption.unknown_groups), (vec![ONE], false));
    assert_eq!(corruption.damages[0].file, path);
    assert!(!recovery.is_damaged(TWO));
    assert_eq!(read_all(&wal, TWO).len(), 3);
    assert_eq!(wal.state(TWO).meta[&0], "vote of two");
    assert_eq!(read_all(&wal, ONE).len(), 4);
    write_flushed(&wal, TWO, vec![append(3..=3)]);
}

#[test]
fn a_missing_segment_is_corruption() {
    let disk = SimDisk::new(4);
    let (wal, _) = open_sim(&disk);
    fill_segment(&wal, ONE);
    write_flushed(&wal, TWO, vec![append(0..=2)]);
    disk.kill_process();
    let first = segments(&disk)[0].clone();
    disk.remove(&first).unwrap();
    let (_, recovery) = open_sim(&disk);
    let corruption = recovery.corruption.clone().unwrap();
    assert_eq!((&corruption.damages[0].file, corruption.damages[0].offset), (&first, 0));
    assert!(recovery.is_damaged(ONE) && !recovery.is_damaged(TWO));
}

/// Whatever bit turns over while the log is closed: each group is either as it
/// was or reported, and nothing else changes.
#[test]
fn a_flipped_bit_is_never_passed_off_as_content() {
    const TEST: &str = "a_flipped_bit_is_never";
    let (mut noticed, seeds) = (0, seeds(300));
    for seed in &seeds {
        let _say = SaySeed(*seed, TEST);
        let mut random = Random(*seed);
        let disk = SimDisk::new(*seed);
        let (wal, _) = open_sim(&disk);
        for round in 0..3 + random.below(40) {
            let group = GroupId(random.below(3));
            let state = wal.state(group);
            let next = state.last_index.max(state.purged_index).map_or(0, |last| last + 1);
            let payload = vec![round as u8; random.below(3000) as usize];
            let mut writes = vec![Write::Append { entries: vec![entry(next, 1, payload)] }];
            match random.below(8) {
                0 => writes.push(Write::TruncateFrom { index: next }),
                1 => writes.push(Write::PurgeTo { index: next / 2 }),
                2 => writes.push(meta(1, "value")),
                _ => {}
            }
            write_flushed(&wal, group, writes);
        }
        let before = observe(&wal);
        wal.close();
        let used: Vec<(PathBuf, u64)> = segments(&disk)
            .into_iter()
            .map(|path| {
                let content = disk.content(&path).unwrap();
                let end = content.iter().rposition(|byte| *byte != 0).unwrap();
                (path, end as u64 + 1)
            })
            .collect();
        let (path, end) = &used[random.below(used.len() as u64) as usize];
        let (offset, bit) = (random.below(*end), random.below(8) as u8);
        disk.flip_bit(path, offset, bit).unwrap();
        let (wal, recovery) = match Wal::open(Arc::new(disk.for_process()), sim_config()) {
            Ok(opened) => opened,
            Err(error) => panic!("{}:{offset}: {error}", path.display()),
        };
        noticed += u64::from(recovery.corruption.is_some());
        let after = observe(&wal);
        for (group, model) in &before {
            if !recovery.is_damaged(*group) {
                assert_eq!(after.get(group), Some(model), "{}:{offset}", path.display());
            }
        }
        for group in after.keys() {
            assert!(before.contains_key(group), "{group} is invented");
        }
    }
    assert!(seeds.len() < 100 || noticed > 50, "only {noticed} were noticed");
}

#[test]
fn a_damaged_entry_is_not_given_to_a_reader() {
    let disk = SimDisk::new(5);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![append(0..=5)]);
    // Push it out of the memory.
    let large = (6..10).map(|index| entry(index, 1, vec![0; 2000])).collect();
    write_flushed(&wal, ONE, vec![Write::Append { entries: large }]);
    let (file, _) = place_of(&disk, "entry 2");
    flip_text(&disk, "entry 2");
    match ready(wal.read(ONE, 2..3, 100)) {
        Err(ReadError::Corrupt { file: named, .. }) => assert_eq!(named, file),
        other => panic!("{other:?}"),
    }
    assert_eq!(ready(wal.read(ONE, 3..4, 100)).unwrap().len(), 1);
}

#[test]
fn a_failed_sync_ends_the_log_for_ever_and_what_it_lost_is_not_acknowledged() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let (wal, _) = open_sim(&disk);
        write_flushed(&wal, ONE, vec![append(0..=5)]);
        disk.set_faults(Faults { fail_sync_after: Some(0), ..Faults::default() });
        let failing = wal.write(ONE, vec![append(6..=7)]);
        let behind = wal.write(TWO, vec![append(0..=0)]);
        let syncs = disk.syncs();
        wal.flush();
        assert_eq!(disk.syncs(), syncs + 1, "a failed sync is not tried again");
        assert!(matches!(ready(failing), Err(WalError::Dead { .. })));
        assert!(matches!(ready(behind), Err(WalError::Dead { .. })));
        let later = ready(wal.write(ONE, vec![meta(1, "x")]));
        assert!(matches!(later, Err(WalError::Dead { .. })));
        let reason = wal.failed().borrow().clone().expect("it is told");
        assert!(reason.contains("0000000000000001.wal"), "{reason}");

        // Only the process ends: the page cache still shows the lost entries.
        // What the next start shows must survive the power failing right after.
        disk.kill_process();
        let (wal, recovery) = open_sim(&disk);
        assert_eq!(recovery.corruption, None);
        let shown = observe(&wal);
        disk.lose_power();
        let (wal, recovery) = open_sim(&disk);
        assert_eq!(recovery.corruption, None);
        assert_eq!(observe(&wal), shown);
        assert!(wal.state(ONE).last_index >= Some(5));
    }
}

#[test]
fn a_full_disk_refuses_appends_takes_purges_and_recovers() {
    let disk = SimDisk::new(6);
    let (wal, _) = open_sim(&disk);
    fill_segment(&wal, ONE);
    let capacity = Some(2 * (64 << 10));
    disk.set_faults(Faults { capacity, ..Faults::default() });
    let mut next = wal.state(ONE).last_index.unwrap() + 1;
    let refused_at = loop {
        let before = wal.state(ONE);
        let entries = vec![entry(next, 1, vec![7; 6000])];
        let written = wal.write(ONE, vec![Write::Append { entries }]);
        let small = wal.write(TWO, vec![meta(1, "vote")]);
        wal.flush();
        assert_eq!(ready(small), Ok(()), "small writes use the reserve");
        match ready(written) {
            Ok(()) => next += 1,
            Err(WalError::DiskFull) => {
                assert_eq!(wal.state(ONE), before, "nothing of it was kept");
                break next;
            }
            Err(other) => panic!("{other}"),
        }
    };
    assert!(wal.stats().disk_full && wal.failed().borrow().is_none());
    assert_eq!(read_all(&wal, ONE).len() as u64, refused_at);
    // Purging makes room by itself.
    write_flushed(&wal, ONE, vec![Write::PurgeTo { index: refused_at - 2 }]);
    wal.flush();
    let large = (refused_at..refused_at + 3).map(|index| entry(index, 1, vec![8; 6000]));
    write_flushed(&wal, ONE, vec![Write::Append { entries: large.collect() }]);
    assert!(!wal.stats().disk_full);
    let before = observe(&wal);
    disk.lose_power();
    let (wal, recovery) = open_sim(&disk);
    assert_eq!(recovery.corruption, None);
    assert_eq!(observe(&wal), before);
}

#[test]
fn a_start_without_space_says_so_and_works_when_there_is_some() {
    let disk = SimDisk::new(7);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![append(0..=5)]);
    wal.close();
    disk.set_faults(Faults { capacity: Some(64 << 10), ..Faults::default() });
    let refused = Wal::open(Arc::new(disk.for_process()), sim_config());
    assert!(matches!(refused, Err(OpenError::DiskFull { .. })), "{refused:?}");
    disk.set_faults(Faults::default());
    let (wal, _) = open_sim(&disk);
    assert_eq!(read_all(&wal, ONE).len(), 6);
}

#[test]
fn an_idle_group_does_not_keep_the_log_from_being_freed() {
    let disk = SimDisk::new(8);
    let (wal, _) = open_sim(&disk);
    write_flushed(&wal, ONE, vec![meta(0, "vote"), append(0..=5)]);
    for index in 0..200 {
        let entries = vec![entry(index, 1, vec![7; 4000])];
        write_flushed(&wal, TWO, vec![Write::Append { entries }, Write::PurgeTo { index }]);
    }
    let stats = wal.stats();
    assert!(stats.written_bytes > 12 * (64 << 10), "{stats:?}");
    assert!(stats.segments <= 3 && stats.copied_entries >= 6, "{stats:?}");
    assert_eq!(segments(&disk).len() as u64, stats.segments);
    let before = observe(&wal);
    disk.lose_power();
    let (wal, _) = open_sim(&disk);
    assert_eq!(observe(&wal), before);
    assert_eq!(read_all(&wal, ONE).len(), 6);
}

#[test]
fn restarts_do_not_pile_up_segments() {
    let disk = SimDisk::new(9);
    for index in 0..60 {
        let (wal, _) = open_sim(&disk);
        write_flushed(&wal, ONE, vec![append(index..=index)]);
        wal.close();
    }
    assert!(segments(&disk).len() <= 4, "{:?}", segments(&disk));
    let (wal, _) = open_sim(&disk);
    assert_eq!(read_all(&wal, ONE).len(), 60);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = SimDisk::new(10);
    open_sim(&disk).0.close();
    let path = segments(&disk)[0].clone();
    let file = disk.open(&path).unwrap();
    let mut used = disk.content(&path).unwrap()[..32].to_vec();
    used[8] += 1;
    let mut checked = used[..12].to_vec();
    checked.extend_from_slice(&used[16..]);
    used[12..16].copy_from_slice(&crc32fast::hash(&checked).to_le_bytes());
    file.write_at(0, &used).unwrap();
    let error = Wal::open(Arc::new(disk), sim_config()).unwrap_err();
    assert!(matches!(&error, OpenError::Newer { found: 2, file } if *file == path), "{error}");
}

#[test]
fn writes_that_do_not_fit_or_do_not_follow_are_refused_and_change_nothing() {
    let disk = SimDisk::new(11);
    let mut config = sim_config();
    config.max_queue_bytes = 10_000;
    let (wal, _) = Wal::open(Arc::new(disk), config).unwrap();
    write_flushed(&wal, ONE, vec![append(0..=5)]);
    let before = wal.state(ONE);
    let large = |index, bytes| Write::Append { entries: vec![entry(index, 1, vec![0; bytes])] };
    let refused = |writes| ready(wal.write(ONE, writes)).unwrap_err();
    assert!(matches!(refused(vec![append(7..=7)]), WalError::Gap { expected: 6, index: 7, .. }));
    assert!(matches!(refused(vec![meta(1, "x"), append(5..=5)]), WalError::Gap { .. }));
    assert!(matches!(refused(vec![large(6, 17 << 10)]), WalError::TooLarge { .. }));
    let many: Vec<_> = (6..10).map(|index| large(index, 15 << 10)).collect();
    assert!(matches!(refused(many), WalError::TooLarge { .. }));
    let value = vec![0; 5000].into();
    assert!(matches!(refused(vec![Write::SetMeta { key: 1, value }]), WalError::TooLarge { .. }));
    assert_eq!(wal.state(ONE), before);

    let waiting = wal.write(ONE, vec![large(6, 9000)]);
    assert!(matches!(refused(vec![large(7, 9000)]), WalError::QueueFull { .. }));
    let vote = wal.write(ONE, vec![meta(1, "x")]);
    wal.flush();
    assert_eq!((ready(waiting), ready(vote)), (Ok(()), Ok(())));
}

#[test]
fn values_of_too_many_groups_are_refused_before_the_head_of_a_segment_overflows() {
    let disk = SimDisk::new(12);
    let (wal, _) = open_sim(&disk);
    let value = vec![1; 1000];
    let refused_at = (0..100).find(|group| {
        let write = Write::SetMeta { key: 0, value: value.clone().into() };
        let written = wal.write(GroupId(*group), vec![write]);
        wal.flush();
        matches!(ready(written), Err(WalError::TooLarge { .. }))
    });
    assert!((10..20).contains(&refused_at.unwrap()), "{refused_at:?}");
    fill_segment(&wal, GroupId(0));
    write_flushed(&wal, GroupId(1), vec![Write::DropGroup]);
    let before = observe(&wal);
    wal.close();
    assert_eq!(observe(&open_sim(&disk).0), before);
}

#[tokio::test]
async fn a_task_drives_the_log_on_the_clock_of_its_runtime() {
    let disk = SimDisk::new(13);
    let mut config = sim_config();
    let delay = std::time::Duration::from_millis(7);
    config.driver = rung_wal::Driver::Task { delay };
    let (wal, _) = Wal::open(Arc::new(disk.for_process()), config).unwrap();
    let started = tokio::time::Instant::now();
    let written = wal.write(ONE, vec![append(0..=5)]);
    assert_eq!(wal.read(ONE, 0..9, usize::MAX).await.unwrap().len(), 6, "visible at once");
    written.await.unwrap();
    assert!(started.elapsed() >= delay);
    // Not awaited: what is queued is written all the same.
    drop(wal.write(ONE, vec![append(6..=6)]));
    let deadline = started + std::time::Duration::from_secs(10);
    while wal.stats().writes < 2 && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    disk.lose_power();
    assert_eq!(open_sim(&disk).0.state(ONE).last_index, Some(6));
}

//! Archives of real databases: what they give back, and what they say when they cannot.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rung_pages::archive::{
    ArchiveError, ArchiveId, ArchiveWriter, Catalog, Intake, Target, WriterOptions, replay,
};
use rung_pages::{Options, PageStore, Position};
use tempfile::TempDir;

use crate::group::{Group, Primary, read};

const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";

fn id() -> ArchiveId {
    ArchiveId::of("a test")
}

/// A database of one copy with an archive. The entry with index `n` is of the time
/// `1000 n`.
struct Archived {
    group: Group,
    primary: Primary,
    epoch: u64,
    dir: TempDir,
    /// After each entry: its time, and what the database was then.
    history: Vec<(u64, Position, [u8; 32])>,
}

impl Archived {
    fn new() -> Archived {
        let mut group = Group::new(1, Options::default());
        let primary = group.promote(0, 1);
        let dir = tempfile::tempdir().unwrap();
        let mut archived = Archived { group, primary, epoch: 1, dir, history: Vec::new() };
        archived.note();
        archived
    }

    fn note(&mut self) {
        let (position, pages) = self.group.fingerprint(0);
        self.history.push((self.group.log.len() as u64 * 1000, position, pages));
    }

    fn run(&mut self, sql: &str) {
        self.group.run(&self.primary, sql);
        self.note();
    }

    fn promote(&mut self) {
        self.epoch += 1;
        self.primary = self.group.promote(0, self.epoch);
        self.note();
    }

    fn open(&self, name: &str, options: &WriterOptions) -> ArchiveWriter {
        ArchiveWriter::open(self.dir.path(), id(), name, options.clone()).expect("opens")
    }

    /// Gives the writer what it lacks of the log.
    fn feed(&self, writer: &mut ArchiveWriter) -> Intake {
        let from = writer.next_index().expect("it has a base");
        let log = self.group.log.iter().enumerate().skip(from as usize - 1);
        let entries = log.map(|(at, bytes)| {
            let index = at as u64 + 1;
            (index, Some(index * 1000), bytes.as_slice())
        });
        writer.take(entries, self.group.log.len() as u64 + 1).expect("takes entries")
    }

    fn base(&mut self, writer: &mut ArchiveWriter) {
        let now = self.group.log.len() as u64 * 1000;
        let mut snapshot = self.group.store(0).snapshot().unwrap();
        let job = writer.begin_base(&{ *snapshot.header() }, now).unwrap().expect("a base");
        let taken_ms = job.taken_ms();
        let bytes = job.write(&mut snapshot).unwrap();
        writer.note_base(bytes, taken_ms, now).unwrap();
    }

    /// Checks that a moment is given back exactly.
    fn assert_restores(&self, target: Target, expected: &(u64, Position, [u8; 32])) {
        let store = restored(self.dir.path(), target).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((store.0.position(), store.0.scrub().unwrap()), (expected.1, expected.2));
    }

    fn files(&self, beginning: &str, ending: &str) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                name.starts_with(beginning) && name.ends_with(ending)
            })
            .collect();
        found.sort();
        found
    }
}

fn restored(dir: &Path, target: Target) -> Result<(PageStore, TempDir), ArchiveError> {
    let scratch = tempfile::tempdir().unwrap();
    replay(dir, scratch.path(), target).map(|restored| (restored.store, scratch))
}

fn small() -> WriterOptions {
    WriterOptions { segment_bytes: 1, ..WriterOptions::default() }
}

#[test]
fn every_moment_since_the_base_is_given_back_exactly() {
    let mut archived = Archived::new();
    let mut writer = archived.open("n1", &small());
    assert!(writer.next_index().is_none() && writer.is_base_due(0));
    archived.base(&mut writer);
    archived.run(TABLE);
    archived.run("INSERT INTO t SELECT value, hex(randomblob(40)) FROM series WHERE value < 900");
    assert_eq!(archived.feed(&mut writer), Intake::Taken);
    archived.run("DELETE FROM t WHERE id % 3 = 0");
    archived.promote();
    archived.run("VACUUM");
    archived.feed(&mut writer);
    for moment in &archived.history {
        archived.assert_restores(Target::Sequence(moment.1.sequence), moment);
        if moment.0 < archived.history.last().unwrap().0 {
            archived.assert_restores(Target::At(moment.0), moment);
            archived.assert_restores(Target::At(moment.0 + 999), moment);
        }
    }
    archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    let ranges = Catalog::read(archived.dir.path()).unwrap().ranges();
    assert_eq!(ranges.len(), 1);
    assert_eq!((ranges[0].from_ms, ranges[0].to_ms), (1000, archived.history.last().unwrap().0));
    let (store, _scratch) = restored(archived.dir.path(), Target::Latest).unwrap();
    assert_eq!(read::<i64>(&store, "SELECT count(*) FROM t WHERE id % 3 = 0"), 0);
}

#[test]
fn another_writer_goes_on_where_one_died() {
    let mut archived = Archived::new();
    let options = WriterOptions::default();
    let mut first = archived.open("n1", &options);
    archived.base(&mut first);
    archived.run(TABLE);
    archived.run("INSERT INTO t(v) VALUES ('kept')");
    archived.feed(&mut first);
    // It dies in the middle of a record, and the next one has another name.
    drop(first);
    let partial = archived.files("entries", ".partial").remove(0);
    let mut bytes = fs::read(&partial).unwrap();
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2, 3]);
    fs::write(&partial, bytes).unwrap();
    archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    archived.run("INSERT INTO t(v) VALUES ('more')");
    let mut second = archived.open("n2", &options);
    assert_eq!(archived.files("entries", ".rung").len(), 1, "what it left is whole now");
    assert_eq!(archived.feed(&mut second), Intake::Taken);
    archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    for moment in archived.history.clone() {
        archived.assert_restores(Target::Sequence(moment.1.sequence), &moment);
    }
}

#[test]
fn two_writers_at_once_harm_nothing() {
    let mut archived = Archived::new();
    let mut first = archived.open("n1", &small());
    archived.base(&mut first);
    let mut second = archived.open("n2", &WriterOptions::default());
    for number in 0..5 {
        archived.run(&format!("CREATE TABLE t{number}(x)"));
        archived.feed(&mut first);
        archived.feed(&mut second);
        archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    }
}

#[test]
fn a_gap_is_seen_and_closed_by_a_new_base() {
    let mut archived = Archived::new();
    let mut writer = archived.open("n1", &small());
    archived.base(&mut writer);
    archived.run(TABLE);
    archived.feed(&mut writer);
    let before = *archived.history.last().unwrap();
    archived.run("INSERT INTO t(v) VALUES (1)");
    archived.run("INSERT INTO t(v) VALUES (2)");
    let last = archived.group.log.last().unwrap().clone();
    let index = archived.group.log.len() as u64;
    let taken = writer.take([(index, Some(9), last.as_slice())], index + 1).unwrap();
    assert_eq!((taken, writer.next_index()), (Intake::Gap, None));
    archived.base(&mut writer);
    archived.run("INSERT INTO t(v) VALUES (3)");
    archived.feed(&mut writer);
    archived.assert_restores(Target::Sequence(before.1.sequence), &before);
    archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    assert_eq!(Catalog::read(archived.dir.path()).unwrap().ranges().len(), 2);
    let lost = restored(archived.dir.path(), Target::Sequence(before.1.sequence + 1));
    let lost = lost.err().expect("it was lost").to_string();
    assert!(lost.contains("until 1970-01-01T00:00:04.000Z, where it begins again"), "{lost}");
}

#[test]
fn damage_is_named_with_the_last_moment_before_it() {
    let mut archived = Archived::new();
    let mut writer = archived.open("n1", &small());
    archived.base(&mut writer);
    for number in 0..4 {
        archived.run(&format!("CREATE TABLE t{number}(x)"));
        archived.feed(&mut writer);
    }
    let files = archived.files("entries", ".rung");
    assert_eq!(files.len(), 4);
    let mut bytes = fs::read(&files[2]).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&files[2], bytes).unwrap();
    let good = archived.history[2];
    match restored(archived.dir.path(), Target::Latest).err() {
        Some(ArchiveError::Damaged { file, offset, before, .. }) => {
            assert_eq!((file, before), (files[2].clone(), Some((good.0, good.1.sequence))));
            assert!(offset as usize <= at);
        }
        other => panic!("{other:?}"),
    }
    archived.assert_restores(Target::Sequence(good.1.sequence), &good);
    // A later base makes the rest good, and an earlier one stands in for a damaged one.
    archived.base(&mut writer);
    archived.assert_restores(Target::Latest, archived.history.last().unwrap());
    fs::write(archived.files("base", ".rung")[1].as_path(), b"nothing").unwrap();
    assert!(restored(archived.dir.path(), Target::Latest).is_err());
}

#[test]
fn old_files_go_and_what_must_be_kept_can_be_restored() {
    let mut archived = Archived::new();
    let options = WriterOptions { segment_bytes: 1, keep_ms: 4_000, ..WriterOptions::default() };
    let mut writer = archived.open("n1", &options);
    archived.run(TABLE);
    for _ in 0..12 {
        if writer.next_index().is_some() {
            archived.feed(&mut writer);
        }
        archived.base(&mut writer);
        archived.run("INSERT INTO t(v) VALUES (hex(randomblob(200)))");
        archived.feed(&mut writer);
    }
    let catalog = Catalog::read(archived.dir.path()).unwrap();
    assert_eq!(catalog.damaged.len(), 0);
    let last = archived.history.last().unwrap().0;
    let first = catalog.bases[0].header.taken_ms;
    assert!((last - 7_000..=last - 4_000).contains(&first), "{first} of {last}");
    assert_eq!(catalog.ranges().len(), 1);
    for moment in archived.history.iter().filter(|moment| moment.0 >= first) {
        archived.assert_restores(Target::Sequence(moment.1.sequence), moment);
    }
}

#[test]
fn the_archive_of_another_database_is_left_alone() {
    let mut archived = Archived::new();
    let mut writer = archived.open("n1", &small());
    archived.base(&mut writer);
    let other = ArchiveId::of("another");
    let refused = ArchiveWriter::open(archived.dir.path(), other, "n1", small());
    assert!(matches!(refused.err(), Some(ArchiveError::Foreign(_))));
    let missing = archived.dir.path().join("missing");
    let refused = ArchiveWriter::open(&missing, other, "n1", small());
    assert!(matches!(refused.err(), Some(ArchiveError::Missing(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_damaged_archive_gives_back_what_was_or_says_what_is_wrong(
        seed in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
        cut: bool,
    ) {
        let mut archived = Archived::new();
        let mut writer = archived.open("n1", &small());
        archived.base(&mut writer);
        archived.run(TABLE);
        archived.run("INSERT INTO t(v) VALUES ('one'), ('two')");
        archived.feed(&mut writer);
        let mut files = archived.files("base", ".rung");
        files.extend(archived.files("entries", ".rung"));
        let file = seed.get(&files);
        let mut bytes = fs::read(file).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1u8 << bit }
        fs::write(file, bytes).unwrap();
        // Damage at the end of a chain looks like its end; nothing else is given back.
        if let Ok((store, _scratch)) = restored(archived.dir.path(), Target::Latest) {
            let is = (store.position(), store.scrub().unwrap());
            prop_assert!(archived.history.iter().any(|was| (was.1, was.2) == is));
        }
    }
}

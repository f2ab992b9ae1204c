//! What a copy does with entries that come in another order than they were made.

use std::path::Path;

use rung_consensus::GroupConfig;
use rung_pages::{Options, PageStore};
use rung_proto::{GroupId, NodeId};

use super::*;
use crate::config::ShardConfig;

fn machine(dir: &Path, skip_parent_check: bool) -> Machine {
    machine_that(dir, skip_parent_check, false)
}

fn machine_that(dir: &Path, skip_parent_check: bool, ignore_epoch: bool) -> Machine {
    let options = Options {
        #[cfg(feature = "simulation")]
        faults: rung_pages::Faults { skip_parent_check, ..Default::default() },
        ..Options::default()
    };
    assert!(cfg!(feature = "simulation") || !(skip_parent_check || ignore_epoch));
    let store = PageStore::open(dir, options).unwrap();
    let group = GroupConfig::new(GroupId(1), "test");
    #[cfg_attr(not(feature = "simulation"), expect(unused_mut))]
    let mut config = ShardConfig::new(dir.to_owned(), group, NodeId(1));
    #[cfg(feature = "simulation")]
    {
        config.faults.ignore_epoch = ignore_epoch;
    }
    Machine(Core::new(config, store))
}

/// A barrier of epoch 1 and two commits, as a primary makes them.
fn made(dir: &Path) -> Vec<Vec<u8>> {
    let mut store = PageStore::open(dir, Options::default()).unwrap();
    let barrier = store.barrier(1);
    store.apply(&[(1, &barrier)]).unwrap();
    let writer = store.writer().unwrap();
    let mut made = vec![barrier];
    for sql in ["CREATE TABLE t(x)", "INSERT INTO t VALUES (1)"] {
        writer.connection.execute_batch(sql).unwrap();
        let captured = store.capture(writer.ticket, 1).unwrap().unwrap();
        made.extend(captured.parts.map(Result::unwrap));
    }
    made
}

fn answers(machine: &mut Machine, entries: &[(u64, u64, u64, &[u8])]) -> Vec<Bytes> {
    let committed = |(index, term, epoch, entry): &(u64, u64, u64, &[u8])| Committed {
        index: *index,
        term: *term,
        payload: payload::encode(*epoch, entry),
    };
    let entries: Vec<Committed> = entries.iter().map(committed).collect();
    machine.apply(&entries).unwrap()
}

/// What becomes of entries that reached the log in another term than they were made.
fn in_later_terms(ignore_epoch: bool) -> Vec<Bytes> {
    let dirs = tempfile::tempdir().unwrap();
    let made = made(&dirs.path().join("made"));
    let mut machine = machine_that(&dirs.path().join("copy"), false, ignore_epoch);
    let all = [
        (1, 1, 1, &made[0][..]),
        (2, 1, 1, &made[1]),
        // It reached the log in a later term.
        (3, 2, 1, &made[2]),
        // Somebody proposed it again under a new epoch.
        (4, 2, 2, &made[0]),
    ];
    answers(&mut machine, &all)
}

#[test]
fn an_entry_of_an_earlier_epoch_is_passed_over() {
    assert_eq!(in_later_terms(false), [APPLIED, APPLIED, SKIPPED, SKIPPED]);
}

#[cfg(feature = "simulation")]
#[test]
fn an_epoch_that_is_ignored_is_noticed() {
    // The test above would fail.
    assert_ne!(in_later_terms(true), [APPLIED, APPLIED, SKIPPED, SKIPPED]);
}

/// A commit whose parent is not the position: a barrier came between.
fn after_a_barrier(skip_parent_check: bool) -> io::Result<Vec<Bytes>> {
    let dirs = tempfile::tempdir().unwrap();
    let made = made(&dirs.path().join("made"));
    let mut machine = machine(&dirs.path().join("copy"), skip_parent_check);
    let first = [(1, 1, 1, &made[0][..]), (2, 1, 1, &made[1])];
    assert_eq!(answers(&mut machine, &first), [APPLIED, APPLIED]);
    let barrier = machine.0.store().unwrap().barrier(2);
    assert_eq!(answers(&mut machine, &[(3, 2, 2, &barrier)]), [APPLIED]);
    let payload = payload::encode(2, &made[2]);
    machine.apply(&[Committed { index: 4, term: 2, payload }])
}

#[test]
fn an_entry_with_another_parent_is_passed_over() {
    assert_eq!(after_a_barrier(false).unwrap(), [SKIPPED]);
}

#[cfg(feature = "simulation")]
#[test]
fn a_parent_that_is_not_checked_is_noticed() {
    // The test above would fail.
    assert!(!matches!(after_a_barrier(true), Ok(answers) if answers == [SKIPPED]));
}

/// A checkpoint has the file for as long as the disk needs; the log's task must not wait.
#[test]
fn whether_a_checkpoint_is_due_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let core = machine(dir.path(), false).0;
    let (looked, looks) = std::sync::mpsc::channel();
    let _works_on_it = core.store().unwrap();
    let other = Arc::clone(&core);
    std::thread::spawn(move || {
        other.note_checkpoint();
        looked.send(()).unwrap();
    });
    looks.recv_timeout(std::time::Duration::from_secs(10)).expect("it waited");
}

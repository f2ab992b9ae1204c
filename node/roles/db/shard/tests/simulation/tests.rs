use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::run::{Bug, Verdicts, run};

/// How many seeds a run takes that is not told.
const FEW: u64 = 24;
/// A seed waits for most of its time, so several run at once. With too many of them
/// the nodes of each have no time to do anything but elect primaries.
const AT_ONCE: u64 = 6;
const TIME: Duration = Duration::from_secs(2);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs seeds, many at once, until `look` says that it is enough.
fn run_seeds(seeds: std::ops::Range<u64>, bug: Bug, look: impl Fn(u64, Verdicts) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds.end {
            return;
        }
        if look(seed, run(seed, bug, TIME)) {
            next.store(seeds.end, Ordering::Relaxed);
        }
    };
    let at_once = number("RUNG_AT_ONCE").unwrap_or(AT_ONCE).min(seeds.end - seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
}

/// `RUNG_SEEDS=2000` runs so many seeds, from `RUNG_FIRST` on, `RUNG_SEED=7` one.
#[test]
fn no_seed_breaks_a_promise() {
    let seeds = match number("RUNG_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("RUNG_FIRST").unwrap_or(0);
            first..first + number("RUNG_SEEDS").unwrap_or(FEW)
        }
    };
    let failed = Mutex::new(Vec::new());
    let (writes, reads, ran) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    run_seeds(seeds.clone(), Bug::None, |seed, verdicts| {
        writes.fetch_add(verdicts.writes, Ordering::Relaxed);
        reads.fetch_add(verdicts.reads, Ordering::Relaxed);
        let ran = ran.fetch_add(1, Ordering::Relaxed) + 1;
        if !verdicts.wrong.is_empty() {
            let Verdicts { wrong, events, .. } = &verdicts;
            eprintln!("seed {seed} found {wrong:#?} in the course of {events:#?}");
            failed.lock().unwrap().push(seed);
        }
        if ran.is_multiple_of(100) {
            eprintln!("{ran} seeds, failed: {:?}", failed.lock().unwrap());
        }
        false
    });
    let (writes, reads) = (writes.into_inner(), reads.into_inner());
    let (ran, failed) = (ran.into_inner(), failed.into_inner().unwrap());
    println!("{ran} seeds: {writes} writes, {reads} reads, failed: {failed:?}");
    assert!(failed.is_empty(), "seeds {failed:?} found something");
    // A simulation in which nothing happens proves nothing.
    assert!(writes as u64 > 5 * ran, "only {writes} writes were acknowledged");
    assert!(reads as u64 > 5 * ran, "only {reads} reads were answered");
}

/// Runs seeds until one notices that something is left out.
fn caught(bug: Bug) {
    let most = number("RUNG_SEEDS").unwrap_or(240);
    let noticed = Mutex::new(None);
    let ran = AtomicU64::new(0);
    run_seeds(0..most, bug, |seed, verdicts| {
        ran.fetch_add(1, Ordering::Relaxed);
        let Some(first) = verdicts.wrong.into_iter().next() else { return false };
        noticed.lock().unwrap().get_or_insert((seed, first));
        true
    });
    let noticed = noticed.into_inner().unwrap();
    let (seed, first) = noticed.unwrap_or_else(|| panic!("none of {most} seeds noticed {bug:?}"));
    println!("{bug:?}: after {} seeds, seed {seed}: {first}", ran.into_inner());
}

#[test]
fn an_acknowledgement_before_a_quorum_is_caught() {
    caught(Bug::AcknowledgeBeforeQuorum);
}

#[test]
fn an_undo_that_is_left_out_is_caught() {
    caught(Bug::SkipUndo);
}

#[test]
fn a_log_that_is_not_synced_is_caught() {
    caught(Bug::SkipLogSync);
}

#[test]
fn a_checkpoint_that_is_not_synced_is_caught() {
    caught(Bug::SkipCheckpointSync);
}

#[test]
fn a_draft_that_does_not_claim_what_it_has_read_is_caught() {
    caught(Bug::IgnoreClaims);
}

#[test]
fn a_draft_that_is_kept_whatever_it_comes_to_is_caught() {
    caught(Bug::SkipValidation);
}

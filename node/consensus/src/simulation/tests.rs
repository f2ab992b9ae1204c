use std::time::Duration;

use super::faulty_log::Bug;
use super::run::{Kind, Outcome, Plan, run};

/// How many seeds a run takes that is not told.
const FEW: u64 = 3;
/// The protocol library checks itself in debug builds, which takes its time.
const SECONDS: u64 = if cfg!(debug_assertions) { 6 } else { 20 };
const PROFILE: &str = if cfg!(debug_assertions) { "" } else { " --release" };

fn plan(seed: u64) -> Plan {
    let time = Duration::from_secs(SECONDS);
    let kind = if seed % 3 == 2 { Kind::Crashes } else { Kind::All };
    Plan { seed, time, bug: Bug::None, kind }
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    match (number("RUNG_SEED"), number("RUNG_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, Some(count)) => (0..count).collect(),
        (None, None) => (0..FEW).collect(),
    }
}

/// Runs the seeds and insists that nothing is found and something happened.
fn nothing_is_found(test: &str, plan: impl Fn(u64) -> Plan) {
    let (mut acknowledged, mut reads, mut terms) = (0, 0, 0);
    let seeds = seeds();
    for seed in &seeds {
        let outcome = run(plan(*seed));
        assert!(
            outcome.violations.is_empty(),
            "seed {seed} found {:#?}\nreproduce it with: RUNG_SEED={seed} cargo test -p \
             rung-consensus{PROFILE} simulation::tests::{test}",
            outcome.violations
        );
        acknowledged += outcome.acknowledged;
        reads += outcome.reads;
        terms += outcome.terms;
    }
    println!("{} seeds: {acknowledged} writes, {reads} reads, {terms} terms", seeds.len());
    // A simulation in which nothing happens proves nothing.
    assert!(acknowledged > 50 * seeds.len(), "only {acknowledged} writes were acknowledged");
    assert!(reads > 10 * seeds.len(), "only {reads} reads were confirmed");
}

#[test]
fn no_seed_breaks_a_promise() {
    nothing_is_found("no_seed", plan);
}

/// The first node of a group was its only voter once, and is sent the log in which
/// it was, over and over.
#[test]
fn who_leaves_drops_its_log_and_comes_back_does_not_believe_the_past() {
    let drops = |seed| Plan { kind: Kind::Drops, ..plan(seed) };
    nothing_is_found("who_leaves", drops);
}

/// No snapshot is written: the log is purged up to what a state machine has saved,
/// and whoever needs more is sent a state as it is.
#[test]
fn states_that_keep_themselves_break_no_promise() {
    nothing_is_found("states_that", |seed| Plan { kind: Kind::OwnCopies, ..plan(seed) });
}

#[test]
fn a_state_that_calls_durable_what_it_has_only_applied_is_caught() {
    let (seed, outcome) =
        caught(Bug::CallAppliedDurable, Kind::OwnCopies).expect("no seed noticed it");
    println!("seed {seed}: {}", outcome.violations[0]);
}

#[test]
fn logs_that_are_dropped_without_a_trace_are_caught() {
    let (seed, outcome) = caught(Bug::DropWithoutTrace, Kind::Drops).expect("no seed noticed it");
    println!("seed {seed}: {}", outcome.violations[0]);
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    let first = run(plan(3));
    assert_eq!(first, run(plan(3)));
    assert_ne!(first.last, run(plan(4)).last);
}

fn caught(bug: Bug, kind: Kind) -> Option<(u64, Outcome)> {
    (0..60).find_map(|seed| {
        let outcome = run(Plan { bug, kind, ..plan(seed) });
        (!outcome.violations.is_empty()).then_some((seed, outcome))
    })
}

#[test]
fn a_log_that_acknowledges_before_it_syncs_is_caught() {
    let (seed, outcome) =
        caught(Bug::AcknowledgeBeforeSync, Kind::Crashes).expect("no seed noticed it");
    println!("seed {seed}: {}", outcome.violations[0]);
}

#[test]
fn a_log_that_forgets_its_votes_is_caught() {
    let (seed, outcome) = caught(Bug::ForgetVotes, Kind::Crashes).expect("no seed noticed it");
    println!("seed {seed}: {}", outcome.violations[0]);
}

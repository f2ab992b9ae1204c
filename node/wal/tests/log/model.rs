//! Random writes of several groups on a simulated disk that crashes at random
//! points, compared with a model: everything acknowledged is there, the order is
//! kept, nothing is invented. `RUNG_SEEDS` says how many runs, `RUNG_SEED` which.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use rung_wal::disk::{Faults, SimDisk};
use rung_wal::{GroupId, LogEntry, OpenError, Wal, WalError, Write, WrittenBatch};

use crate::support::{read_all, sim_config};

const GROUPS: u64 = 4;
const STEPS: usize = 250;

/// SplitMix64: the same numbers on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A group as it should be.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ModelGroup {
    pub entries: BTreeMap<u64, LogEntry>,
    pub purged: Option<u64>,
    pub meta: BTreeMap<u8, Bytes>,
}

impl std::fmt::Debug for ModelGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "purged {:?}, meta {:x?}, entries", self.purged, self.meta)?;
        for (index, entry) in &self.entries {
            let number = entry.payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            write!(f, " {index}/{}={}", entry.header, number.unwrap_or_default())?;
        }
        Ok(())
    }
}

pub type ModelState = BTreeMap<GroupId, ModelGroup>;

/// Makes one change, the smallest that a crash can separate from the next.
fn apply(state: &mut ModelState, group: GroupId, change: &Write) {
    if *change == Write::DropGroup {
        state.remove(&group);
        return;
    }
    let model = state.entry(group).or_default();
    match change {
        Write::Append { entries } => {
            model.entries.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        Write::TruncateFrom { index } => model.entries.retain(|at, _| at < index),
        Write::PurgeTo { index } => {
            model.entries.retain(|at, _| at > index);
            model.purged = model.purged.max(Some(*index));
        }
        Write::SetMeta { key, value } => drop(model.meta.insert(*key, value.clone())),
        Write::DropGroup => {}
    }
}

/// Splits writes into the smallest changes.
fn changes(writes: &[Write]) -> Vec<Write> {
    let split = |write: &Write| match write {
        Write::Append { entries } => {
            entries.iter().map(|entry| Write::Append { entries: vec![entry.clone()] }).collect()
        }
        other => vec![other.clone()],
    };
    writes.iter().flat_map(split).collect()
}

/// What the log says now.
pub fn observe(wal: &Wal) -> ModelState {
    let observe = |group: GroupId| {
        let state = wal.state(group);
        let entries: BTreeMap<_, _> =
            read_all(wal, group).into_iter().map(|entry| (entry.index, entry)).collect();
        let ends = |key: Option<&u64>| key.copied();
        assert_eq!(state.first_index, ends(entries.keys().next()));
        assert_eq!(state.last_index, ends(entries.keys().next_back()));
        assert_eq!(state.last_header, entries.values().next_back().map(|entry| entry.header));
        (group, ModelGroup { entries, purged: state.purged_index, meta: state.meta })
    };
    wal.groups().into_iter().map(observe).collect()
}

type Answer = Pin<Box<dyn Future<Output = Result<(), WalError>>>>;

/// A write that was not answered when it was last looked at.
struct Waiting {
    group: GroupId,
    changes: Vec<Write>,
    answer: Answer,
}

/// What happened in a run, to see that the runs cover what they should.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coverage {
    pub acknowledged: u64,
    pub lost: u64,
    pub kept_unacknowledged: u64,
    pub power_losses: u64,
    pub kills: u64,
    pub deaths: u64,
    pub refused: u64,
    pub torn: u64,
    pub rewritten: u64,
    pub copied: u64,
    pub rotations: u64,
    pub failed_opens: u64,
}

struct Run {
    random: Random,
    disk: SimDisk,
    wal: Wal,
    /// The state that is known to be on the disk.
    durable: ModelState,
    /// The state that readers must see.
    queued: ModelState,
    waiting: Vec<Waiting>,
    batches: Vec<WrittenBatch>,
    payloads: u64,
    coverage: Coverage,
}

/// One run; an error says what was wrong.
pub fn run(seed: u64, lying_syncs: bool) -> Result<Coverage, String> {
    let disk = SimDisk::new(seed);
    disk.set_faults(Faults { lying_syncs, ..Faults::default() });
    let (wal, _) =
        Wal::open(Arc::new(disk.for_process()), sim_config()).map_err(|e| e.to_string())?;
    let mut run = Run {
        random: Random(seed ^ 0x5eed),
        disk,
        wal,
        durable: ModelState::new(),
        queued: ModelState::new(),
        waiting: Vec::new(),
        batches: Vec::new(),
        payloads: 0,
        coverage: Coverage::default(),
    };
    for _ in 0..STEPS {
        run.step(lying_syncs)?;
    }
    run.crash(lying_syncs)?;
    Ok(run.coverage)
}

impl Run {
    fn step(&mut self, lying_syncs: bool) -> Result<(), String> {
        match self.random.below(100) {
            0..50 => self.write(),
            50..70 => self.batches.extend(self.wal.write_batch()),
            70..86 => self.sync_any(),
            86..89 => self.flush(),
            89..93 => {
                let seen = observe(&self.wal);
                self.expect(&seen, "a reader")?;
            }
            93..96 => self.change_faults(lying_syncs),
            _ => self.crash(lying_syncs)?,
        }
        self.hear_answers()?;
        if self.wal.failed().borrow().is_some() {
            self.coverage.deaths += 1;
            self.crash(lying_syncs)?;
        }
        Ok(())
    }

    fn expect(&self, seen: &ModelState, who: &str) -> Result<(), String> {
        match *seen == self.queued {
            true => Ok(()),
            false => Err(format!("{who} sees {seen:#?}\ninstead of {:#?}", self.queued)),
        }
    }

    fn write(&mut self) {
        let group = GroupId(self.random.below(GROUPS));
        let mut writes = Vec::new();
        let mut after = self.queued.clone();
        for _ in 0..=self.random.below(3) {
            let write = self.random_write(after.get(&group));
            changes(std::slice::from_ref(&write))
                .iter()
                .for_each(|change| apply(&mut after, group, change));
            writes.push(write);
        }
        let answer: Answer = Box::pin(self.wal.write(group, writes.clone()));
        self.queued = after;
        self.waiting.push(Waiting { group, changes: changes(&writes), answer });
    }

    fn random_write(&mut self, group: Option<&ModelGroup>) -> Write {
        let last = group.and_then(|group| group.entries.keys().next_back().copied());
        let purged = group.and_then(|group| group.purged);
        let first = group.and_then(|group| group.entries.keys().next().copied()).unwrap_or(0);
        let next = last.max(purged).map_or_else(|| self.random.below(3), |last| last + 1);
        let span = next - first + 2;
        match self.random.below(100) {
            0..60 => {
                let count = 1 + self.random.below(8);
                let entries = (next..next + count).map(|index| self.entry(index)).collect();
                Write::Append { entries }
            }
            60..70 => Write::TruncateFrom { index: next.saturating_sub(self.random.below(6)) },
            70..83 => Write::PurgeTo { index: first + self.random.below(span) },
            83..98 => {
                let value = self.random.next().to_le_bytes();
                let key = self.random.below(3) as u8;
                Write::SetMeta { key, value: Bytes::copy_from_slice(&value) }
            }
            _ => Write::DropGroup,
        }
    }

    /// An entry like no other.
    fn entry(&mut self, index: u64) -> LogEntry {
        self.payloads += 1;
        let length = match self.random.below(20) {
            0 => 4000,
            1..4 => 900,
            _ => self.random.below(200),
        };
        let mut payload = self.payloads.to_le_bytes().to_vec();
        payload.resize(8 + length as usize, self.random.next() as u8);
        LogEntry { index, header: 1 + self.random.below(4), payload: payload.into() }
    }

    fn sync_any(&mut self) {
        if !self.batches.is_empty() {
            let any = self.random.below(self.batches.len() as u64) as usize;
            let batch = self.batches.remove(any);
            self.wal.sync_batch(batch);
        }
    }

    fn flush(&mut self) {
        for batch in std::mem::take(&mut self.batches) {
            self.wal.sync_batch(batch);
        }
        self.wal.flush();
    }

    fn change_faults(&mut self, lying_syncs: bool) {
        let mut faults = Faults { lying_syncs, ..Faults::default() };
        match self.random.below(5) {
            0 => faults.fail_sync_after = Some(self.random.below(6)),
            1 => faults.fail_write_after = Some(self.random.below(6)),
            2 | 3 => faults.capacity = Some((3 + self.random.below(3)) * (64 << 10)),
            _ => {}
        }
        self.disk.set_faults(faults);
    }

    /// Takes in what was answered.
    fn hear_answers(&mut self) -> Result<(), String> {
        let mut context = Context::from_waker(Waker::noop());
        let mut refused = false;
        let mut still = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            match waiting.answer.as_mut().poll(&mut context) {
                Poll::Pending | Poll::Ready(Err(WalError::Dead { .. })) => still.push(waiting),
                Poll::Ready(Ok(())) => {
                    if !still.is_empty() {
                        return Err("a write is acknowledged before an earlier one".to_owned());
                    }
                    self.coverage.acknowledged += 1;
                    for change in &waiting.changes {
                        apply(&mut self.durable, waiting.group, change);
                    }
                }
                Poll::Ready(Err(WalError::DiskFull)) => {
                    self.coverage.refused += 1;
                    refused = true;
                }
                Poll::Ready(Err(error)) => return Err(format!("a write fails: {error}")),
            }
        }
        // A dead answer cannot be asked again; it stays undecided.
        for waiting in &mut still {
            if self.wal.failed().borrow().is_some() {
                waiting.answer = Box::pin(std::future::pending());
            }
        }
        self.waiting = still;
        if refused {
            self.queued = self.durable.clone();
            for waiting in &self.waiting {
                for change in &waiting.changes {
                    apply(&mut self.queued, waiting.group, change);
                }
            }
            self.expect(&observe(&self.wal), "a reader after a refusal")?;
        }
        Ok(())
    }

    fn crash(&mut self, lying_syncs: bool) -> Result<(), String> {
        self.hear_answers()?;
        let stats = self.wal.stats();
        self.coverage.copied += stats.copied_entries;
        self.coverage.rotations += stats.segments.saturating_sub(1);
        self.disk.set_faults(Faults { lying_syncs, ..Faults::default() });
        if self.random.chance(60) {
            self.disk.lose_power();
            self.coverage.power_losses += 1;
        } else {
            self.disk.kill_process();
            self.coverage.kills += 1;
        }
        self.batches.clear();
        let recovery = self.reopen(lying_syncs)?;
        if recovery.corruption.is_some() {
            return Err(format!("a crash is taken for corruption: {recovery:?}"));
        }
        self.coverage.torn += u64::from(recovery.torn.is_some());
        self.coverage.rewritten += recovery.rewritten;
        self.find_prefix(observe(&self.wal))
    }

    /// Opens the log again, sometimes on a disk that fails meanwhile.
    fn reopen(&mut self, lying_syncs: bool) -> Result<rung_wal::Recovery, String> {
        loop {
            let fail_sync_after = self.random.chance(10).then_some(0);
            self.disk.set_faults(Faults { lying_syncs, fail_sync_after, ..Faults::default() });
            match Wal::open(Arc::new(self.disk.for_process()), sim_config()) {
                Ok((wal, recovery)) => {
                    self.disk.set_faults(Faults { lying_syncs, ..Faults::default() });
                    self.wal = wal;
                    return Ok(recovery);
                }
                Err(OpenError::Io { what: "sync", .. }) => {
                    self.coverage.failed_opens += 1;
                    self.disk.lose_power();
                }
                Err(error) => return Err(format!("the log does not open: {error}")),
            }
        }
    }

    /// What is there must be everything acknowledged and any beginning of the
    /// rest, in the order in which it was queued.
    fn find_prefix(&mut self, seen: ModelState) -> Result<(), String> {
        let mut state = std::mem::take(&mut self.durable);
        let acknowledged = state.clone();
        let rest: Vec<(GroupId, Write)> = std::mem::take(&mut self.waiting)
            .into_iter()
            .flat_map(|w| w.changes.into_iter().map(move |change| (w.group, change)))
            .collect();
        let mut kept = 0;
        while state != seen {
            let Some((group, change)) = rest.get(kept) else {
                return Err(format!(
                    "after a crash the log has {seen:#?}\nacknowledged was {acknowledged:#?}\n\
                     and waiting {} changes",
                    rest.len()
                ));
            };
            apply(&mut state, *group, change);
            kept += 1;
        }
        self.coverage.kept_unacknowledged += kept as u64;
        self.coverage.lost += (rest.len() - kept) as u64;
        self.durable = state.clone();
        self.queued = state;
        Ok(())
    }
}

/// Prints how to run a seed again if it panics.
pub struct SaySeed(pub u64, pub &'static str);

impl Drop for SaySeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("again: RUNG_SEED={} cargo test -p rung-wal --test log {}", self.0, self.1);
        }
    }
}

/// The seeds to run: one, or as many as wanted.
pub fn seeds(usual: u64) -> Vec<u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
    };
    match number("RUNG_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("RUNG_SEEDS").unwrap_or(usual)).collect(),
    }
}

#[test]
fn what_is_acknowledged_survives_every_crash_in_order_and_nothing_is_invented() {
    const TEST: &str = "what_is_acknowledged_survives";
    let mut total = Coverage::default();
    let seeds = seeds(200);
    for seed in &seeds {
        let _say = SaySeed(*seed, TEST);
        match run(*seed, false) {
            Ok(coverage) => total.add(coverage),
            Err(what) => panic!(
                "{what}\nseed {seed}, again: RUNG_SEED={seed} cargo test -p rung-wal --test log {TEST}"
            ),
        }
    }
    println!("{} seeds: {total:?}", seeds.len());
    if seeds.len() >= 100 {
        let counts = [
            total.acknowledged,
            total.lost,
            total.kept_unacknowledged,
            total.power_losses,
            total.kills,
            total.deaths,
            total.refused,
            total.torn,
            total.rewritten,
            total.copied,
            total.rotations,
            total.failed_opens,
        ];
        assert!(counts.iter().all(|count| *count > 0), "something never happened: {total:?}");
    }
}

/// The checker itself is checked: it must notice a log whose syncs do nothing.
#[test]
fn the_checker_notices_a_log_that_does_not_sync() {
    let noticed = (0..20).filter(|seed| {
        let outcome = std::panic::catch_unwind(|| run(*seed, true));
        !matches!(outcome, Ok(Ok(_)))
    });
    assert!(noticed.count() >= 15);
}

impl Coverage {
    fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.kept_unacknowledged += other.kept_unacknowledged;
        self.power_losses += other.power_losses;
        self.kills += other.kills;
        self.deaths += other.deaths;
        self.refused += other.refused;
        self.torn += other.torn;
        self.rewritten += other.rewritten;
        self.copied += other.copied;
        self.rotations += other.rotations;
        self.failed_opens += other.failed_opens;
    }
}

//! Power failures at any operation, with whatever they can leave of the files.
//!
//! One copy is on a simulated disk, the other, which is its judge, is not. They
//! share a log that loses nothing. `RUNG_SEEDS=5000 cargo test -p rung-pages
//! --release crashes` runs as many seeds; `RUNG_SEED=7` runs that one.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_pages::simulation::{Failure, Power};
use rung_pages::{Disk, Faults, Options, PageStore, PagesError, Position, Writer};

use crate::workload::statement;

type Fingerprint = (Position, [u8; 32]);

/// The copy that loses power, the one that does not, and their log.
struct World<'a> {
    random: StdRng,
    dir: &'a Path,
    faults: Faults,
    power: Arc<Power>,
    store: Option<PageStore>,
    /// What the judge was at each index.
    judged: HashMap<u64, Fingerprint>,
    judge: PageStore,
    log: Vec<Vec<u8>>,
    epoch: u64,
    /// Who executes: the copy on the simulated disk, or the judge.
    primary: Option<(bool, Writer)>,
    /// What the copy said to be durable.
    durable: u64,
}

fn check<T>(result: Result<T, PagesError>, what: &str) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error}"))
}

impl World<'_> {
    fn options(&self) -> Options {
        Options {
            checkpoint_bytes: 64 << 10,
            reader_patience: std::time::Duration::ZERO,
            disk: Disk::simulated(self.power.clone()),
            faults: self.faults,
            ..Options::default()
        }
    }

    /// Something that the copy does, which fails when the power does.
    fn step(&mut self) -> Result<(), PagesError> {
        match self.random.random_range(0..100) {
            0..70 => self.transaction(),
            70..80 => self.change_primary(),
            80..92 => self.checkpoint(),
            92..96 => self.replace(),
            _ => {
                self.with_store(PageStore::undo)?;
                self.primary = None;
                Ok(())
            }
        }
    }

    fn with_store<T>(
        &mut self,
        work: impl FnOnce(&mut PageStore) -> Result<T, PagesError>,
    ) -> Result<T, PagesError> {
        work(self.store.as_mut().expect("open"))
    }

    fn transaction(&mut self) -> Result<(), PagesError> {
        let sql = statement(&mut self.random);
        let Some((simulated, writer)) = &self.primary else { return self.change_primary() };
        let store = if *simulated { self.store.as_mut().expect("open") } else { &mut self.judge };
        if let Err(error) = writer.connection.execute_batch(&sql) {
            let _ = writer.connection.execute_batch("ROLLBACK");
            let failure = PagesError::Broken(format!("{sql}: {error}"));
            let harmless = error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown);
            return if harmless { Ok(()) } else { Err(failure) };
        }
        if self.random.random_range(0..4) == 0 && store.defer()? {
            return if self.random.random() { self.catch_up() } else { Ok(()) };
        }
        let parts = match store.capture(writer.ticket, self.epoch)? {
            Some(captured) => captured.parts.collect::<Result<Vec<_>, _>>(),
            None => return Ok(()),
        };
        let parts = parts.map_err(|error| PagesError::Broken(error.to_string()))?;
        let parts_kept = match self.random.random_range(0..10) {
            // The proposal is lost, or the primary fails in the middle of it.
            0 => self.random.random_range(0..=parts.len() - 1),
            _ => parts.len(),
        };
        self.log.extend(parts.into_iter().take(parts_kept));
        if self.random.random_range(0..3) > 0 { self.catch_up() } else { Ok(()) }
    }

    fn change_primary(&mut self) -> Result<(), PagesError> {
        self.primary = None;
        self.epoch += 1;
        let barrier = self.judge.barrier(self.epoch);
        self.log.push(barrier);
        self.catch_up()?;
        let simulated = self.random.random();
        let writer = if simulated {
            self.with_store(PageStore::writer)?
        } else {
            self.judge.writer().expect("the judge opens a writer")
        };
        self.primary = Some((simulated, writer));
        Ok(())
    }

    /// Applies the log, to the judge first.
    fn catch_up(&mut self) -> Result<(), PagesError> {
        let from = self.judge.applied_index() as usize;
        for (at, bytes) in self.log.iter().enumerate().skip(from) {
            let index = at as u64 + 1;
            self.judge.apply(&[(index, bytes)]).expect("the judge applies");
            let scrub = self.judge.scrub().expect("the judge scrubs");
            self.judged.insert(index, (self.judge.position(), scrub));
        }
        let store = self.store.as_mut().expect("open");
        let from = store.applied_index() as usize;
        let entries: Vec<(u64, &[u8])> = self
            .log
            .iter()
            .enumerate()
            .skip(from)
            .map(|(at, bytes)| (at as u64 + 1, bytes.as_slice()))
            .collect();
        store.apply(&entries)?;
        self.durable = store.durable_index();
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), PagesError> {
        let due = self.random.random();
        let checkpoint = |store: &mut PageStore| {
            if due { store.checkpoint() } else { store.checkpoint_if_due() }
        };
        // A reading now and then, so that checkpoints are left half done.
        let reading = if self.random.random_range(0..3) == 0 {
            let gate = self.store.as_ref().expect("open").gate();
            let reader = gate.connect()?;
            Some((gate.begin(&reader.connection, reader.ticket)?, reader))
        } else {
            None
        };
        self.with_store(checkpoint)?;
        drop(reading);
        self.durable = self.store.as_ref().expect("open").durable_index();
        self.judge.checkpoint_if_due().expect("the judge makes a checkpoint");
        Ok(())
    }

    /// The copy is replaced by the judge's, which goes on meanwhile.
    fn replace(&mut self) -> Result<(), PagesError> {
        self.primary = None;
        let mut snapshot = self.judge.snapshot().expect("the judge is copied");
        let mut arrival = self.store.as_ref().expect("open").landing().begin()?;
        let mut piece = vec![0; self.random.random_range(1..300_000)];
        let mut read = 1;
        while read > 0 {
            read = snapshot.read(&mut piece).expect("the judge is read");
            arrival.write(&piece[..read])?;
            if self.random.random_range(0..4) == 0 {
                self.judge.checkpoint().expect("the judge makes a checkpoint");
            }
            if self.random.random_range(0..20) == 0 {
                // Its sender is gone.
                return Ok(());
            }
        }
        let landed = arrival.finish()?;
        self.with_store(|store| store.take_over(landed))?;
        self.durable = self.store.as_ref().expect("open").durable_index();
        Ok(())
    }

    /// Ends the process and the power, and starts again.
    fn crash(&mut self) -> Result<(), String> {
        if let Some(store) = &self.store {
            self.durable = self.durable.max(store.durable_index());
        }
        self.primary = None;
        self.store = None;
        self.power.cut();
        // A start can lose power, too.
        for attempt in 0.. {
            self.power = Power::on(self.dir, self.random.random());
            if attempt < 2 && self.random.random_range(0..3) == 0 {
                self.power.fail_after(self.random.random_range(1..12), Failure::PowerCut);
            }
            match PageStore::open(self.dir, self.options()) {
                Ok(store) => {
                    self.store = Some(store);
                    break;
                }
                Err(_) if self.power.has_failed() => self.power.cut(),
                Err(error) => return Err(format!("start: {error}")),
            }
        }
        self.only_its_files()?;
        self.judge_start()
    }

    /// What has landed and was not taken over is gone.
    fn only_its_files(&self) -> Result<(), String> {
        let names = std::fs::read_dir(self.dir).map_err(|error| error.to_string())?;
        let names = names.filter_map(|found| found.ok()?.file_name().into_string().ok());
        let main: Vec<String> = names.filter(|name| name.ends_with(".db")).collect();
        if main.len() == 1 { Ok(()) } else { Err(format!("there are {main:?}")) }
    }

    fn judge_start(&mut self) -> Result<(), String> {
        let store = self.store.as_ref().expect("open");
        let index = store.applied_index();
        if index < self.durable {
            return Err(format!("durable up to {}, started at {index}", self.durable));
        }
        let found = (store.position(), check(store.scrub(), "scrub")?);
        match self.judged.get(&index) {
            Some(judged) if *judged == found => {}
            judged => return Err(format!("at {index} it is {found:?}, should be {judged:?}")),
        }
        self.power.fail_after(u64::MAX / 2, Failure::PowerCut);
        check(self.catch_up(), "catch up")?;
        self.compare()
    }

    fn compare(&self) -> Result<(), String> {
        let store = self.store.as_ref().expect("open");
        let found = (store.position(), check(store.scrub(), "scrub")?);
        let judged = self.judged[&store.applied_index()];
        if found == judged {
            return Ok(());
        }
        Err(format!("after the log it is {found:?}, should be {judged:?}"))
    }
}

/// Runs one seed; an error says what was wrong.
fn run(seed: u64, faults: Faults) -> Result<(), String> {
    let dirs = tempfile::tempdir().expect("a temporary directory");
    let (dir, judge) = (dirs.path().join("copy"), dirs.path().join("judge"));
    std::fs::create_dir(&dir).expect("a directory");
    let mut random = StdRng::seed_from_u64(seed);
    let judge = PageStore::open(&judge, Options::default()).expect("the judge opens");
    let empty = (Position::default(), judge.scrub().expect("the judge scrubs"));
    let mut world = World {
        power: Power::on(&dir, random.random()),
        random,
        dir: &dir,
        faults,
        store: None,
        judged: HashMap::from([(0, empty)]),
        judge,
        log: Vec::new(),
        epoch: 0,
        primary: None,
        durable: 0,
    };
    world.store = Some(check(PageStore::open(&dir, world.options()), "first start")?);
    for _ in 0..world.random.random_range(1..4) {
        let (after, failure) = plan_failure(&mut world.random);
        world.power.fail_after(after, failure);
        for _ in 0..60 {
            if let Err(error) = world.step() {
                if !world.power.has_failed() {
                    return Err(format!("without a failure: {error}"));
                }
                break;
            }
            if world.power.has_failed() && !matches!(failure, Failure::Full(_)) {
                break;
            }
            // Not while the judge is ahead of the other or holds what is in flight.
            let store = world.store.as_ref().expect("open");
            if store.applied_index() == world.judge.applied_index() {
                world.compare()?;
            }
        }
        world.crash()?;
    }
    Ok(())
}

fn plan_failure(random: &mut StdRng) -> (u64, Failure) {
    let after = random.random_range(1..400);
    let failure = match random.random_range(0..4) {
        0 => Failure::Sync,
        1 => Failure::Full(random.random_range(1..40)),
        _ => Failure::PowerCut,
    };
    (after, failure)
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("RUNG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RUNG_SEEDS").unwrap_or(default),
    }
}

#[test]
fn crashes_leave_exactly_the_state_of_the_marker() {
    let next = AtomicU64::new(seeds(16).start);
    let end = seeds(16).end;
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        if let Err(what) = run(seed, Faults::default()) {
            panic!("seed {seed}: {what}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

/// Whether any of some seeds notices that a step is left out.
fn noticed(faults: Faults) -> bool {
    (0..100).any(|seed| run(seed, faults).is_err())
}

#[test]
fn an_undo_that_writes_nothing_back_is_noticed() {
    assert!(noticed(Faults { skip_undo: true, ..Faults::default() }));
}

#[test]
fn entries_applied_in_spite_of_another_parent_are_noticed() {
    assert!(noticed(Faults { skip_parent_check: true, ..Faults::default() }));
}

#[test]
fn a_marker_that_is_not_synced_is_noticed() {
    assert!(noticed(Faults { skip_marker_sync: true, ..Faults::default() }));
}

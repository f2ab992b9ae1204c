//! What a connection may take for the work that it does now.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::cancel::Cancel;
use crate::error::ShardError;

/// The limits are looked at after so many steps of SQLite's machine, some 20
/// microseconds of work.
const STEPS: i32 = 1_000;

/// How a read is being executed.
#[derive(Debug)]
pub struct Turn {
    may_block: bool,
    moves: Cell<bool>,
}

impl Turn {
    pub(crate) fn new(may_block: bool) -> Self {
        Self { may_block, moves: Cell::new(false) }
    }

    /// Whether the work may wait for somebody, such as a client that takes its rows
    /// slowly. If not, it keeps what it reads and returns soon.
    pub fn may_block(&self) -> bool {
        self.may_block
    }

    /// Asks for the work to be done again from its beginning where it may block.
    /// What it returns now is dropped.
    pub fn move_to_thread(&self) {
        self.moves.set(!self.may_block);
    }

    pub(crate) fn moves(&self) -> bool {
        self.moves.get()
    }
}

/// How long a part of a write can take, so whether the caller's thread may do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// A few rows, whatever is in the database: the caller's thread does all of it.
    Short,
    /// It only reads, so the caller's thread may begin it: it can be interrupted
    /// without harm and begun anew on another.
    Interruptible,
    /// It may take long, and interrupting it would undo the whole transaction.
    Long,
}

/// Why work was interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stopped {
    /// It took longer than it may take where it runs.
    Budget,
    /// Its deadline has passed.
    Deadline,
    /// Its caller does not want it any more.
    Canceled,
    /// Its snapshot had to go, or the writer must make room.
    Evicted,
}

#[derive(Default)]
struct Limits {
    budget: Option<Instant>,
    until: Option<Instant>,
    cancel: Option<Cancel>,
    began: Option<Instant>,
    evicted: bool,
    stopped: Option<Stopped>,
}

/// The limits of what one connection does now. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Meter(Arc<MeterInner>);

#[derive(Default)]
struct MeterInner {
    limits: Mutex<Limits>,
    /// How many pieces of work were stopped.
    stops: AtomicU64,
}

impl Meter {
    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.0.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection ask this meter whether it may go on.
    pub(crate) fn install(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let meter = self.clone();
        connection.progress_handler(STEPS, Some(move || meter.must_stop()))
    }

    /// A piece of work begins. An eviction that nobody has noticed stays.
    pub(crate) fn begin(&self, budget: Option<Duration>, until: Option<Instant>, cancel: Cancel) {
        let now = Instant::now();
        let mut limits = self.limits();
        limits.budget = budget.map(|budget| now + budget);
        limits.until = until;
        limits.cancel = Some(cancel);
        limits.began.get_or_insert(now);
        limits.stopped = None;
    }

    /// The work has returned. Says whether it was interrupted.
    pub(crate) fn end(&self) -> Option<Stopped> {
        let mut limits = self.limits();
        limits.budget = None;
        limits.until = None;
        limits.cancel = None;
        limits.stopped.take()
    }

    /// The connection holds no snapshot any more.
    pub(crate) fn rest(&self) {
        let mut limits = self.limits();
        limits.began = None;
        limits.evicted = false;
    }

    /// Interrupts what runs now, and what would run next before a rest.
    pub(crate) fn evict(&self) {
        self.limits().evicted = true;
    }

    /// Evicts if a snapshot has been held since before `then`. Says whether it was.
    pub(crate) fn evict_older(&self, then: Instant) -> bool {
        let mut limits = self.limits();
        let old = limits.began.is_some_and(|began| began < then);
        limits.evicted |= old;
        old
    }

    /// Whether it was evicted and has not rested since.
    pub(crate) fn is_evicted(&self) -> bool {
        self.limits().evicted
    }

    fn must_stop(&self) -> bool {
        let mut limits = self.limits();
        let now = Instant::now();
        let passed = |limit: Option<Instant>| limit.is_some_and(|limit| now >= limit);
        let stopped = if limits.cancel.as_ref().is_some_and(Cancel::is_canceled) {
            Some(Stopped::Canceled)
        } else if limits.evicted {
            Some(Stopped::Evicted)
        } else if passed(limits.until) {
            Some(Stopped::Deadline)
        } else if passed(limits.budget) {
            Some(Stopped::Budget)
        } else {
            None
        };
        if stopped.is_some() {
            limits.stopped = stopped;
            self.0.stops.fetch_add(1, Ordering::Relaxed);
        }
        stopped.is_some()
    }
}

impl Stopped {
    /// What the caller of the work is told.
    pub(crate) fn error(self) -> ShardError {
        match self {
            Stopped::Deadline | Stopped::Budget => ShardError::TimedOut("was executed"),
            Stopped::Canceled => ShardError::Canceled,
            Stopped::Evicted => ShardError::Lost,
        }
    }
}

//! What the threads and tasks of a copy share.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rung_consensus::OwnCopy;
use rung_pages::{Gate, Load, PageStore, PagesError, Position};
use rung_proto::NodeId;
use rung_sql::SequenceValues;
use tokio::sync::{Notify, watch};

use crate::archive::Hold;
use crate::changes::ChangeLog;
use crate::claims::Claims;
use crate::config::ShardConfig;
use crate::contention::Contention;
use crate::desk::{CheckpointNeed, Desk, Waiting};
use crate::error::ShardError;
use crate::gathering::UnderWay;
use crate::job::{Job, JobKind};
use crate::outbox::Outbox;
use crate::readers::Readers;
use crate::scrub::Scrubbed;
use crate::status::{CopyState, Stop};
use crate::token::Token;
use crate::turn::Meter;
use crate::write_lock::WriteLock;

/// A copy's parts. Locks are taken in the order `write_lock`, `store`, `desk`.
pub(crate) struct Core {
    pub config: ShardConfig,
    /// Held while a transaction may write to the file.
    pub write_lock: WriteLock,
    /// Taken when the copy is closed, so that it can be opened again.
    store: Mutex<Option<PageStore>>,
    pub desk: Mutex<Desk>,
    /// Rung when the writer thread may have something to do.
    pub bell: Condvar,
    pub gate: Gate,
    /// The limits of what the writer executes now.
    pub meter: Meter,
    /// Changes when the file was changed by others than the writer: its connection
    /// must be opened again.
    pub history: AtomicU64,
    pub log: Mutex<LogPlace>,
    hold: Mutex<Hold>,
    pub scrubbed: Mutex<Scrubbed>,
    pub settled: watch::Sender<Token>,
    pub state: watch::Sender<CopyState>,
    pub readers: Arc<Readers>,
    pub outbox: Outbox,
    pub counts: Counts,
    /// Rung when a checkpoint was made, or was blocked.
    pub checkpointed: Notify,
    /// Transactions on snapshots that have not ended.
    pub drafts: AtomicUsize,
    pub under_way: UnderWay,
    contention: Mutex<Contention>,
    /// What drafts need to stay as it is.
    pub claims: Claims,
    /// What the writer changes.
    pub changes: ChangeLog,
    /// What sequences have given in this epoch.
    pub sequences: SequenceValues,
    /// Writes are refused, so that there is room for what must be written for reads.
    pub keeps_room: AtomicBool,
}

/// The file while it is worked on.
pub(crate) struct StoreGuard<'a>(MutexGuard<'a, Option<PageStore>>);

impl Deref for StoreGuard<'_> {
    type Target = PageStore;

    fn deref(&self) -> &PageStore {
        self.0.as_ref().expect("it was there when it was locked")
    }
}

impl DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut PageStore {
        self.0.as_mut().expect("it was there when it was locked")
    }
}

/// Figures for the status.
#[derive(Default)]
pub(crate) struct Counts {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub batches: AtomicU64,
    pub conflicts: AtomicU64,
    pub wal_bytes: AtomicU64,
    /// Milliseconds since 1970.
    pub newest_entry_ms: AtomicU64,
}

/// Where the file is in the log.
#[derive(Clone, Copy)]
pub(crate) struct LogPlace {
    pub durable: Option<rung_consensus::Position>,
    /// The last entry that was given to the store.
    pub given: Option<rung_consensus::Position>,
    /// Whether that entry made the position of the store. Only then its term is that
    /// position's epoch, which is how it is known after a start.
    pub is_position: bool,
}

impl LogPlace {
    pub fn own_copy(&self) -> OwnCopy {
        OwnCopy { durable: self.durable, current: self.given.filter(|_| self.is_position) }
    }
}

impl Core {
    /// A copy that follows nobody yet.
    pub fn new(config: ShardConfig, store: PageStore) -> Arc<Self> {
        let position = store.position();
        // The term of the last entry is the epoch of the position that it made.
        let place = (position.sequence > 0).then(|| rung_consensus::Position {
            term: position.epoch,
            index: store.durable_index(),
        });
        let gate = store.gate();
        let desk = Desk::new();
        let sequences = SequenceValues::default();
        Arc::new(Self {
            write_lock: WriteLock::default(),
            store: Mutex::new(Some(store)),
            bell: Condvar::new(),
            readers: Arc::new(Readers::new(gate.clone(), &config.limits, &sequences)),
            gate,
            meter: Meter::default(),
            history: AtomicU64::new(0),
            log: Mutex::new(LogPlace {
                durable: place,
                given: place,
                is_position: place.is_some(),
            }),
            hold: Mutex::default(),
            scrubbed: Mutex::default(),
            settled: watch::Sender::new(token_of(&config, &position)),
            state: watch::Sender::new(desk.state.clone()),
            desk: Mutex::new(desk),
            outbox: Outbox::default(),
            counts: Counts::default(),
            checkpointed: Notify::new(),
            drafts: AtomicUsize::new(0),
            under_way: UnderWay::new(),
            contention: Mutex::new(Contention::new(config.limits.contention)),
            claims: Claims::default(),
            changes: ChangeLog::default(),
            sequences,
            keeps_room: AtomicBool::new(false),
            config,
        })
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file.
    ///
    /// # Errors
    /// When the copy is closed.
    pub fn store(&self) -> Result<StoreGuard<'_>, PagesError> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if store.is_none() {
            return Err(PagesError::Broken("the copy is closed".to_owned()));
        }
        Ok(StoreGuard(store))
    }

    /// The file, if nobody else works on it now.
    pub fn store_at_once(&self) -> Option<StoreGuard<'_>> {
        self.store.try_lock().ok().filter(|store| store.is_some()).map(StoreGuard)
    }

    /// Closes the file.
    pub fn close_store(&self) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub fn log(&self) -> MutexGuard<'_, LogPlace> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn contention(&self) -> MutexGuard<'_, Contention> {
        self.contention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the log keeps for an archive.
    pub fn hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn token(&self, position: &Position) -> Token {
        token_of(&self.config, position)
    }

    /// Puts a job in the queue, or answers it.
    pub fn submit(&self, job: Job) {
        let (refused, is_free) = {
            let mut desk = self.desk();
            if desk.queue.len() >= self.config.limits.queue {
                desk.queue.retain(|job| !job.stage.is_abandoned());
            }
            let refused = match desk.refusal() {
                Some(error) => Some((job, error)),
                None if desk.queue.len() >= self.config.limits.queue => {
                    Some((job, ShardError::Overloaded("writes")))
                }
                None => {
                    desk.queue.push_back(job);
                    None
                }
            };
            (refused, desk.writer.is_some())
        };
        match refused {
            Some((job, error)) => job.refuse(error),
            None if is_free => self.bell.notify_all(),
            // Whoever has the writer looks for jobs when he is done.
            None => {}
        }
    }

    /// The next write that may join the batch of this epoch.
    pub fn next_write(&self, epoch: u64) -> Option<Job> {
        loop {
            let job = {
                let mut desk = self.desk();
                let is_write = |job: &Job| matches!(job.kind, JobKind::Write(..));
                if desk.epoch() != Some(epoch) || !desk.queue.front().is_some_and(is_write) {
                    return None;
                }
                desk.queue.pop_front()?
            };
            if let Some(job) = job.take() {
                return Some(job);
            }
        }
    }

    /// Changes what the copy does, and answers those who cannot wait any longer.
    pub fn set_state(&self, state: CopyState) {
        let (refused, lost, waiting) = {
            let mut desk = self.desk();
            if desk.state == state || matches!(desk.state, CopyState::Stopped(_)) {
                return;
            }
            let was_primary = desk.epoch().is_some();
            desk.state = state.clone();
            let ends = matches!(state, CopyState::Stopped(_));
            if was_primary {
                self.meter.evict();
            }
            let refused = match desk.refusal() {
                Some(error) => desk.queue.drain(..).map(|job| (job, error.clone())).collect(),
                None => Vec::new(),
            };
            // What has no position was never proposed, and nobody proposes any more.
            let lost = if ends { desk.in_flight.take_back() } else { Vec::new() };
            (refused, lost, if ends { desk.in_flight.take_all() } else { Vec::new() })
        };
        // Nobody waits for a draft that is lost.
        self.claims.forget();
        self.state.send_replace(state);
        self.bell.notify_all();
        refused.into_iter().for_each(|(job, error)| job.refuse(error));
        lost.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
        waiting.into_iter().for_each(|waiting| waiting.fail(ShardError::OutcomeUnknown));
    }

    /// The copy serves nothing any more.
    pub fn stop(&self, stop: Stop) {
        // What comes after the first reason is its consequence.
        if matches!(*self.state.borrow(), CopyState::Stopped(_)) {
            return;
        }
        if stop != Stop::Closed {
            tracing::error!(shard = %self.config.group.name, %stop, "a copy of a shard has stopped");
        }
        self.set_state(CopyState::Stopped(stop));
        self.readers.stop();
    }

    /// A draft waits for somebody, perhaps for a commit that waits for others.
    pub fn draft_rests(&self, number: u64) {
        self.under_way.rests(number);
        if self.outbox.gathers() && self.others_until().is_none() {
            self.outbox.ring();
        }
    }

    /// Until when transactions that are under way are worth waiting for.
    pub fn others_until(&self) -> Option<Instant> {
        self.under_way.until(self.config.limits.active)
    }

    /// Another is known to be the primary, or nobody.
    pub fn follow(&self, primary: Option<NodeId>) {
        self.set_state(CopyState::Follower { primary });
    }

    /// A position was settled by the log.
    pub fn settle(&self, position: &Position) {
        let token = self.token(position);
        self.settled.send_replace(token);
        let (outcome, waits, is_deferred) = {
            let mut desk = self.desk();
            let outcome = desk.in_flight.settle(position);
            if desk.in_flight.is_empty() {
                desk.undone = false;
            }
            let is_deferred = desk.in_flight.deferred().is_some();
            // Whoever has the writer looks for work when he is done.
            let waits = desk.writer.is_some() && desk.writer_is_wanted(&self.config.limits);
            (outcome, waits, is_deferred)
        };
        if waits {
            self.bell.notify_all();
        }
        if is_deferred {
            // It may be due sooner.
            self.outbox.ring();
        }
        let writes = outcome.settled.iter().filter(|waiting| waiting.kept).count();
        self.counts.writes.fetch_add(writes as u64, Ordering::Relaxed);
        outcome.settled.into_iter().for_each(|waiting| (waiting.answer)(Ok(token)));
        outcome.lost.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
    }

    /// A snapshot has replaced the file. What was in flight may be part of it.
    pub fn restored(&self, position: &Position) {
        let token = self.token(position);
        self.settled.send_replace(token);
        let (lost, (settled, unknown)) = {
            let mut desk = self.desk();
            // What had no position was never proposed.
            let lost = desk.in_flight.take_back();
            let waiting = desk.in_flight.restored(position);
            if desk.in_flight.is_empty() {
                desk.undone = false;
            }
            (lost, waiting)
        };
        self.bell.notify_all();
        settled.into_iter().for_each(|waiting| (waiting.answer)(Ok(token)));
        lost.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
        unknown.into_iter().for_each(|waiting| waiting.fail(ShardError::OutcomeUnknown));
    }

    /// It is certain that the log will never apply a batch.
    pub fn refuse(&self, position: &Position, error: ShardError) {
        let refused = {
            let mut desk = self.desk();
            let refused = desk.in_flight.refuse(position);
            desk.undo |= refused.is_some();
            refused
        };
        self.bell.notify_all();
        let Some((first, later)) = refused else { return };
        first.into_iter().for_each(|waiting| waiting.fail(error.clone()));
        later.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
    }

    /// Answers those who have seen no more than what is in flight now.
    pub fn answer_after_last(&self, waiting: Vec<Waiting>) {
        let (at_once, lost) = {
            let mut desk = self.desk();
            if desk.undo {
                // What they have seen is taken back.
                (Vec::new(), waiting)
            } else {
                let settled = desk.in_flight.attach(waiting).err().unwrap_or_default();
                if desk.in_flight.deferred().is_some() {
                    desk.gathering.stops();
                    self.outbox.ring();
                }
                (settled, Vec::new())
            }
        };
        let token = *self.settled.borrow();
        at_once.into_iter().for_each(|waiting| (waiting.answer)(Ok(token)));
        lost.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
    }

    /// Looks whether the write-ahead log of SQLite has grown enough for a checkpoint. Waits
    /// for nobody, since the log's own task calls it: who works on the file now, such as
    /// with a checkpoint, leaves it for the next entry.
    pub fn note_checkpoint(&self) {
        let Some(store) = self.store_at_once() else { return };
        let load = store.load();
        drop(store);
        self.note_load(&load);
    }

    pub fn note_load(&self, load: &Load) {
        self.counts.wal_bytes.store(load.wal_bytes, Ordering::Relaxed);
        let need = match (load.checkpoint_due, load.stop_writing) {
            (true, true) => CheckpointNeed::Must,
            (true, false) => CheckpointNeed::Due,
            _ => CheckpointNeed::No,
        };
        if need > CheckpointNeed::No {
            self.desk().checkpoint = need;
            self.bell.notify_all();
        }
    }
}

fn token_of(config: &ShardConfig, position: &Position) -> Token {
    Token {
        generation: config.generation,
        shard: config.number,
        epoch: position.epoch,
        sequence: position.sequence,
    }
}

/// Whether a copy can go on after an error of its store, and what it is then.
pub(crate) fn stop_for(error: &PagesError) -> Stop {
    let what = error.to_string();
    match error {
        PagesError::DiskFull(_) => Stop::DiskFull(what),
        PagesError::Divergence { .. } | PagesError::Damaged { .. } | PagesError::Entry { .. } => {
            Stop::Damaged(what)
        }
        PagesError::Sqlite { source, .. } => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                Stop::Damaged(what)
            }
            _ => Stop::Failed(what),
        },
        _ => Stop::Failed(what),
    }
}

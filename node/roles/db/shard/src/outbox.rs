//! What was committed on its way to the log: each commit becomes an entry, and what is
//! committed while the log is busy becomes one together.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rung_pages::{PageStore, PagesError, Parts, Position, WriterTicket};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::changes::Changed;
use crate::core::{Core, stop_for};
use crate::desk::Waiting;
use crate::error::ShardError;

/// Entries that are to be proposed, in their order.
#[derive(Default)]
pub(crate) struct Outbox {
    entries: Mutex<VecDeque<Entry>>,
    ring: Notify,
    gathers: AtomicBool,
}

/// A commit that became an entry.
pub(crate) struct Entry {
    pub epoch: u64,
    pub position: Position,
    pub parts: Parts,
}

/// What was committed and is not an entry yet.
pub(crate) struct Deferred<A> {
    pub ticket: WriterTicket,
    pub epoch: u64,
    pub since: Instant,
    /// How often something was committed.
    pub commits: usize,
    pub waiting: Vec<A>,
}

/// Somebody's commit.
pub(crate) struct Commit {
    pub ticket: WriterTicket,
    pub epoch: u64,
    pub waiting: Vec<Waiting>,
}

impl From<Commit> for Deferred<Waiting> {
    fn from(Commit { ticket, epoch, waiting }: Commit) -> Self {
        Self { ticket, epoch, since: Instant::now(), commits: 1, waiting }
    }
}

/// A commit that cannot become an entry: it must be taken back.
pub(crate) struct NotCaptured {
    pub error: PagesError,
    pub waiting: Vec<Waiting>,
}

impl Outbox {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Option<Entry> {
        self.entries().pop_front()
    }

    /// Whoever proposes looks again.
    pub fn ring(&self) {
        self.ring.notify_one();
    }

    /// Whether a commit waits for transactions that are under way.
    pub fn gathers(&self) -> bool {
        self.gathers.load(Ordering::SeqCst)
    }

    /// Waits until somebody rings, but not beyond this time.
    pub async fn rung(&self, until: Option<Instant>) {
        match until {
            // Either way it is time to look.
            Some(until) => drop(timeout_at(until.into(), self.ring.notified()).await),
            None => self.ring.notified().await,
        }
    }
}

impl Core {
    /// Something was committed in the file: it becomes an entry now, or with what is
    /// committed next.
    pub fn committed(&self, store: &mut PageStore, commit: Commit) -> Result<(), NotCaptured> {
        if !self.desk().defers(self.others_until(), &self.config.limits) {
            return self.capture(store, commit);
        }
        match store.defer() {
            Ok(true) => {
                let mut desk = self.desk();
                let was_deferred = desk.in_flight.deferred().is_some();
                desk.in_flight.defer(commit.into());
                self.outbox.gathers.store(desk.gathering.is_on(), Ordering::SeqCst);
                if !was_deferred {
                    self.outbox.ring();
                }
                Ok(())
            }
            Ok(false) => {
                self.desk().gathering.stops();
                self.capture(store, commit)
            }
            Err(error) => Err(NotCaptured { error, waiting: commit.waiting }),
        }
    }

    /// Something was committed in the file, whose last entry was at `before`: what it has
    /// changed, and the writer has kept, counts for claims from now on. What changed no page
    /// becomes no entry, and changed nothing.
    pub fn note_changes(&self, store: &PageStore, before: u64, changed: Changed) {
        if store.tip().sequence > before || self.desk().in_flight.deferred().is_some() {
            self.claims.commit((before + 1, store.position().sequence), changed);
        } else {
            self.claims.drop_open();
        }
    }

    /// All that was committed and is no entry yet becomes one.
    pub fn capture(&self, store: &mut PageStore, commit: Commit) -> Result<(), NotCaptured> {
        let Commit { ticket, epoch, mut waiting } = commit;
        match store.capture(ticket, epoch) {
            Ok(Some(captured)) => {
                self.note_load(&store.load());
                self.counts.batches.fetch_add(1, Ordering::Relaxed);
                #[cfg(feature = "simulation")]
                self.acknowledge_early(&captured.position, &mut waiting);
                // What was deferred is deferred until it is a batch, so that nobody who
                // saw it finds in between that nothing is in flight.
                {
                    let mut desk = self.desk();
                    let commits = desk.in_flight.deferred().map_or(0, |it| it.commits);
                    self.outbox.gathers.store(false, Ordering::SeqCst);
                    desk.gathering.ends(commits + usize::from(!waiting.is_empty()) < 2);
                    desk.in_flight.push_all(captured.position, waiting);
                }
                let entry = Entry { epoch, position: captured.position, parts: captured.parts };
                self.outbox.entries().push_back(entry);
                self.outbox.ring();
                Ok(())
            }
            Ok(None) => {
                // What was deferred for it will never be seen at a position of its own.
                self.claims.forget_after(store.tip().sequence);
                let mut all = self.desk().in_flight.take_back();
                all.extend(waiting);
                self.answer_after_last(all);
                Ok(())
            }
            Err(error) => {
                let mut all = self.desk().in_flight.take_back();
                all.append(&mut waiting);
                Err(NotCaptured { error, waiting: all })
            }
        }
    }

    /// What was left to the next capture becomes an entry. If it cannot, the writer's
    /// thread takes it back.
    pub fn capture_deferred(&self, store: &mut PageStore) {
        let of = self.desk().in_flight.deferred().map(|it| (it.ticket, it.epoch));
        let Some((ticket, epoch)) = of else { return };
        let none = Commit { ticket, epoch, waiting: Vec::new() };
        if let Err(failed) = self.capture(store, none) {
            self.desk().undo = true;
            self.bell.notify_all();
            failed.tell(self);
        }
    }

    /// What a test must notice.
    #[cfg(feature = "simulation")]
    fn acknowledge_early(&self, position: &Position, waiting: &mut Vec<Waiting>) {
        if self.config.faults.acknowledge_early {
            waiting.drain(..).for_each(|waiting| (waiting.answer)(Ok(self.token(position))));
        }
    }
}

impl NotCaptured {
    /// Tells those who wait, of whose commits nothing is left.
    pub fn tell(self, core: &Core) {
        let error = &self.error;
        tracing::warn!(%error, "a commit could not become an entry");
        let told = match error {
            PagesError::DiskFull(_) => ShardError::DiskFull,
            PagesError::NotPrimary { .. } | PagesError::Stale | PagesError::Uncaptured => {
                ShardError::Lost
            }
            PagesError::TooLarge { .. } => ShardError::Failed(error.to_string()),
            _ => {
                core.stop(stop_for(error));
                ShardError::Stopped(error.to_string())
            }
        };
        self.waiting.into_iter().for_each(|waiting| waiting.fail(told.clone()));
    }
}

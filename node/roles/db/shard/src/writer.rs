//! The thread that executes writes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rung_pages::{Captured, Checkpoint, PageStore, PagesError, WriterTicket};
use rung_sql::Executor;

use crate::batch::sqlite_error;
use crate::core::{CheckpointNeed, Core, Proposal, Waiting, stop_for};
use crate::error::ShardError;
use crate::job::{Job, JobKind};
use crate::payload;
use crate::status::{CopyState, Stop};

/// How often a checkpoint that readers hold back is tried again while writing
/// waits for it.
const AGAIN: Duration = Duration::from_millis(20);

/// The connection that writes are executed on.
pub(crate) struct Connected {
    pub executor: Executor,
    pub ticket: WriterTicket,
    /// [`Core::history`] when it was opened.
    history: u64,
    /// Whether the database has a catalog.
    is_installed: bool,
}

pub(crate) struct Writer {
    pub core: Arc<Core>,
    connected: Option<Connected>,
    /// Jobs that have rolled a batch back and are executed by themselves.
    pub apart: Vec<Job>,
}

enum Next {
    Execute(Job, u64),
    Undo,
    Checkpoint(CheckpointNeed),
    Close,
}

/// Runs the writer until the copy is closed.
pub(crate) fn run(core: Arc<Core>) {
    let mut writer = Writer { core, connected: None, apart: Vec::new() };
    loop {
        match writer.next() {
            Next::Execute(job, epoch) => writer.execute(job, epoch),
            Next::Undo => writer.undo(),
            Next::Checkpoint(need) => writer.checkpoint(need),
            Next::Close => return,
        }
    }
}

impl Writer {
    /// Waits for something to do. What is executed meanwhile gathers in the queue,
    /// so batches grow with the load, without anybody waiting for them.
    fn next(&mut self) -> Next {
        let limits = &self.core.config.limits;
        let mut again = None;
        let mut desk = self.core.desk();
        desk.busy = false;
        loop {
            if desk.closes {
                return Next::Close;
            }
            if desk.undo {
                return Next::Undo;
            }
            let drained = desk.in_flight.is_empty();
            if desk.checkpoint != CheckpointNeed::No && drained && again.is_none() {
                return Next::Checkpoint(desk.checkpoint);
            }
            let room = desk.in_flight.len() < limits.in_flight && (!desk.undone || drained);
            if let Some(epoch) = desk.epoch()
                && room
                && desk.paused.is_none()
                && desk.checkpoint == CheckpointNeed::No
            {
                let job = self.apart.pop().or_else(|| take_next(&mut desk.queue));
                if let Some(job) = job {
                    desk.busy = true;
                    return Next::Execute(job, epoch);
                }
            }
            if desk.epoch().is_none() && !self.apart.is_empty() {
                let error = desk.refusal().unwrap_or(ShardError::Lost);
                drop(desk);
                self.apart.drain(..).for_each(|job| job.refuse(error.clone()));
                desk = self.core.desk();
                continue;
            }
            let waited = self.core.bell.wait_timeout(desk, again.unwrap_or(Duration::from_secs(1)));
            desk = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            again = None;
        }
    }

    fn execute(&mut self, job: Job, epoch: u64) {
        let core = Arc::clone(&self.core);
        let _turn = core.turn();
        core.meter.rest();
        if core.desk().epoch() != Some(epoch) {
            let refusal = core.desk().refusal();
            job.refuse(refusal.unwrap_or(ShardError::Lost));
            return;
        }
        if let Err(error) = self.connect() {
            job.refuse(ShardError::Failed(error.to_string()));
            return;
        }
        if let Err(error) = self.install(epoch) {
            job.refuse(error);
            return;
        }
        match job.kind {
            JobKind::Write(..) => self.batch(job, epoch),
            JobKind::Begin(reply) => self.interactive(reply, epoch),
            JobKind::Alone(work, reply) => {
                self.alone(work, reply, job.until, job.cancel, epoch);
            }
        }
        core.meter.rest();
    }

    /// Makes sure that there is a connection that knows the file as it is.
    fn connect(&mut self) -> Result<(), PagesError> {
        let history = self.core.history.load(Ordering::Acquire);
        if self.connected.as_ref().is_some_and(|connected| connected.history == history) {
            return Ok(());
        }
        self.connected = None;
        let mut writer = self.core.store()?.writer()?;
        let failed =
            |source| PagesError::Sqlite { what: "prepare a connection for writing", source };
        self.core.meter.install(&mut writer.connection).map_err(failed)?;
        let executor = Executor::new(writer.connection)
            .map_err(|error| PagesError::Broken(error.to_string()))?;
        self.connected =
            Some(Connected { executor, ticket: writer.ticket, history, is_installed: false });
        Ok(())
    }

    /// Makes the catalog in an empty database, which the first write is for.
    fn install(&mut self, epoch: u64) -> Result<(), ShardError> {
        let connected = self.connected();
        if connected.is_installed {
            return Ok(());
        }
        let failed = |error: rusqlite::Error| sqlite_error(&error);
        connected.executor.connection().execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        match connected.executor.install() {
            Ok(()) => {
                connected.is_installed = true;
                self.commit(epoch, Vec::new());
                // If it could not become an entry, it was taken back.
                if self.is_connected() { Ok(()) } else { Err(ShardError::Lost) }
            }
            Err(error) => {
                self.roll_back();
                Err(ShardError::Refused(Box::new(error)))
            }
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected.is_some()
    }

    /// The connection; there is one while the writer executes.
    pub fn connected(&mut self) -> &mut Connected {
        self.connected.as_mut().expect("it was connected before it executes anything")
    }

    /// Commits the open transaction, which becomes an entry; `waiting` are answered
    /// when that is settled.
    pub fn commit(&mut self, epoch: u64, waiting: Vec<Waiting>) {
        let core = Arc::clone(&self.core);
        let Connected { executor, ticket, .. } = self.connected();
        let captured = {
            // The store must not work on the file while something is committed to it.
            let mut store = match core.store() {
                Ok(store) => store,
                Err(error) => return self.captured(Err(error), epoch, waiting),
            };
            let connection = executor.connection();
            let committed =
                connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
            committed.map(|_| store.capture(*ticket, epoch))
        };
        match captured {
            Ok(captured) => self.captured(captured, epoch, waiting),
            Err(error) => {
                tracing::warn!(%error, "a transaction could not be committed");
                self.roll_back();
                waiting.into_iter().for_each(|one| one.fail(sqlite_error(&error)));
                if let Some(stop) = stop_for_commit(&error) {
                    self.core.stop(stop);
                }
            }
        }
    }

    /// Rolls back what is open, if anything is.
    pub fn roll_back(&mut self) {
        let connection = self.connected().executor.connection();
        if connection.is_autocommit() {
            return;
        }
        let rolled_back =
            connection.prepare_cached("ROLLBACK").and_then(|mut rollback| rollback.execute([]));
        if let Err(error) = rolled_back {
            // Closing it does the same, before anything else is executed.
            tracing::warn!(%error, "a transaction could not be rolled back");
            self.connected().history = u64::MAX;
        }
    }

    /// A commit has become an entry, or not.
    pub fn captured(
        &mut self,
        captured: Result<Option<Captured>, PagesError>,
        epoch: u64,
        waiting: Vec<Waiting>,
    ) {
        let core = Arc::clone(&self.core);
        core.note_checkpoint();
        match captured {
            Ok(None) => core.answer_after_last(waiting),
            Ok(Some(captured)) => self.propose(captured, epoch, waiting),
            Err(error) => {
                tracing::warn!(%error, "a commit could not become an entry");
                let told = capture_error(&core, &error);
                self.undo_now();
                waiting.into_iter().for_each(|waiting| waiting.fail(told.clone()));
            }
        }
    }

    fn propose(&mut self, captured: Captured, epoch: u64, waiting: Vec<Waiting>) {
        let core = Arc::clone(&self.core);
        let Captured { position, parts } = captured;
        core.counts.batches.fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "simulation")]
        let waiting = acknowledge_early(&core, &position, waiting);
        core.desk().in_flight.push(position, waiting);
        for part in parts {
            let payload = match part {
                Ok(part) => payload::encode(epoch, &part),
                Err(error) => {
                    core.refuse(&position, ShardError::Failed(error.to_string()));
                    return;
                }
            };
            if core.proposals.blocking_send(Proposal { position, payload }).is_err() {
                return;
            }
        }
    }

    fn undo(&mut self) {
        let core = Arc::clone(&self.core);
        let _turn = core.turn();
        self.undo_now();
    }

    /// Takes back what is in flight in the file. The turn is ours.
    pub fn undo_now(&mut self) {
        self.connected = None;
        let undone = self.core.store().and_then(|mut store| store.undo());
        self.core.history.fetch_add(1, Ordering::AcqRel);
        match undone {
            Ok(_) => {
                let mut desk = self.core.desk();
                desk.undo = false;
                desk.undone = !desk.in_flight.is_empty();
            }
            Err(error) => {
                self.core.stop(stop_for(&error));
                self.core.desk().undo = false;
            }
        }
    }

    fn checkpoint(&mut self, need: CheckpointNeed) {
        let core = Arc::clone(&self.core);
        let _turn = core.turn();
        let Ok(mut store) = core.store() else { return };
        // The term of the last entry must be known after a start.
        let knows_term = core.log().is_position;
        let done = if knows_term { store.checkpoint_if_due() } else { Ok(Checkpoint::NotDue) };
        let mut next = CheckpointNeed::No;
        match done {
            Ok(Checkpoint::Done) => note_durable(&core, &store),
            Ok(Checkpoint::Blocked { .. }) => {
                note_durable(&core, &store);
                core.readers.evict_older(Instant::now() - core.config.limits.snapshot_age);
                next = if need == CheckpointNeed::Must { need } else { CheckpointNeed::No };
            }
            Ok(Checkpoint::InFlight) => next = need,
            Ok(Checkpoint::NotDue) => {}
            Err(error) => core.stop(stop_for(&error)),
        }
        drop(store);
        core.desk().checkpoint = next;
        if next != CheckpointNeed::No {
            std::thread::sleep(AGAIN);
        }
    }
}

/// What a test must notice.
#[cfg(feature = "simulation")]
fn acknowledge_early(
    core: &Core,
    position: &rung_pages::Position,
    waiting: Vec<Waiting>,
) -> Vec<Waiting> {
    if !core.config.faults.acknowledge_early {
        return waiting;
    }
    waiting.into_iter().for_each(|waiting| (waiting.answer)(Ok(core.token(position))));
    Vec::new()
}

/// A checkpoint has made everything durable that was applied.
fn note_durable(core: &Core, store: &PageStore) {
    let mut log = core.log();
    if log.given.map(|given| given.index) == Some(store.durable_index()) {
        log.durable = log.given;
    }
}

/// Whether a copy can go on after a COMMIT that failed so: with a full or a broken
/// disk others can take writes and this one cannot.
fn stop_for_commit(error: &rusqlite::Error) -> Option<Stop> {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase, SystemIoFailure};
    let what = format!("a transaction could not be committed: {error}");
    match error.sqlite_error_code()? {
        DiskFull => Some(Stop::DiskFull(what)),
        DatabaseCorrupt | NotADatabase => Some(Stop::Damaged(what)),
        SystemIoFailure => Some(Stop::Failed(what)),
        _ => None,
    }
}

/// The first job in the queue that somebody still waits for.
fn take_next(queue: &mut std::collections::VecDeque<Job>) -> Option<Job> {
    loop {
        let taken = queue.pop_front()?.take();
        if taken.is_some() {
            return taken;
        }
    }
}

/// What those are told whose commit could not become an entry; it is undone.
fn capture_error(core: &Core, error: &PagesError) -> ShardError {
    match error {
        PagesError::DiskFull(_) => ShardError::DiskFull,
        PagesError::NotPrimary { .. } | PagesError::Stale | PagesError::Uncaptured => {
            ShardError::Lost
        }
        PagesError::TooLarge { .. } => ShardError::Failed(error.to_string()),
        _ => {
            core.stop(stop_for(error));
            ShardError::Stopped(error.to_string())
        }
    }
}

/// Whether the copy executes writes in this epoch, and nothing was taken back.
pub(crate) fn may_go_on(core: &Core, epoch: u64) -> bool {
    let desk = core.desk();
    desk.state == CopyState::Primary { epoch } && !desk.undo && !desk.closes
}

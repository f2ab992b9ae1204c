//! What executes writes, and the thread that executes those that nobody else does.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rung_pages::{Checkpoint, PageStore, PagesError, WriterTicket};
use rung_sql::Executor;

use crate::batch::sqlite_error;
use crate::core::{Core, stop_for};
use crate::desk::{CheckpointNeed, Desk, Waiting};
use crate::error::ShardError;
use crate::interactive::Handle;
use crate::job::{Job, JobKind, Reply};
use crate::outbox::{Commit, NotCaptured};
use crate::status::Stop;
use crate::steps::Claim;
use crate::transaction::Wanted;
use crate::write_lock::Held;

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

/// What writes are executed with. It is at the desk while nobody executes; whoever
/// executes has it, and the right to change the file with it.
pub(crate) struct Writer {
    pub core: Arc<Core>,
    connected: Option<Connected>,
    lock: Option<Held>,
    /// Of those whose drafts are committed with the open transaction.
    pub claims: Vec<Arc<Claim>>,
}

enum Next {
    Execute(Box<Writer>, Job, u64),
    Transaction(Wanted, u64),
    Undo(Box<Writer>),
    Checkpoint(Box<Writer>, CheckpointNeed),
    Close,
}

/// Runs the writer's thread until the copy is closed. It executes what may take long
/// and what has gathered in the queue; the rest is done by those who want it.
pub(crate) fn run(core: Arc<Core>) {
    let writer =
        Writer { core: Arc::clone(&core), connected: None, lock: None, claims: Vec::new() };
    core.desk().writer = Some(Box::new(writer));
    loop {
        match next(&core) {
            Next::Execute(writer, job, epoch) => writer.execute(job, epoch),
            Next::Transaction(Wanted::Step(writer, step), epoch) => writer.step(step, epoch),
            Next::Transaction(Wanted::End(writer, why), _) => writer.end(why),
            Next::Transaction(Wanted::Wait(_), _) => {}
            Next::Undo(writer) => writer.undo(),
            Next::Checkpoint(writer, need) => writer.checkpoint(need),
            Next::Close => return,
        }
    }
}

/// Waits for something to do. What is executed meanwhile gathers in the queue, so
/// batches grow with the load, without anybody waiting for them.
fn next(core: &Arc<Core>) -> Next {
    let mut desk = core.desk();
    loop {
        let patience = match desk.wanted(core) {
            Some(Wanted::Wait(patience)) => patience,
            Some(wanted) => {
                let epoch = desk.transaction.as_ref().map_or(0, |slot| slot.epoch);
                return Next::Transaction(wanted, epoch);
            }
            None => {
                if let Some(next) = next_job(core, &mut desk) {
                    return next;
                }
                Duration::from_secs(1)
            }
        };
        if desk.epoch().is_none() && !desk.apart.is_empty() {
            let error = desk.refusal().unwrap_or(ShardError::Lost);
            let apart = std::mem::take(&mut desk.apart);
            drop(desk);
            apart.into_iter().for_each(|job| job.refuse(error.clone()));
            desk = core.desk();
            continue;
        }
        let waited = core.bell.wait_timeout(desk, patience);
        desk = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// What there is to do outside of a transaction, if the writer is free.
fn next_job(core: &Core, desk: &mut Desk) -> Option<Next> {
    let writer = desk.writer.take()?;
    if desk.closes {
        return Some(Next::Close);
    }
    if desk.undo {
        return Some(Next::Undo(writer));
    }
    if desk.checkpoint != CheckpointNeed::No && desk.in_flight.is_empty() {
        return Some(Next::Checkpoint(writer, desk.checkpoint));
    }
    if let Some(epoch) = desk.may_begin(&core.config.limits)
        && let Some(job) = desk.apart.pop().or_else(|| take_next(&mut desk.queue))
    {
        return Some(Next::Execute(writer, job, epoch));
    }
    // While the shard is handed over, open transactions may still end.
    if let Some(epoch) = desk.may_end_draft(&core.config.limits)
        && let Some(job) = take_ending(&mut desk.queue)
    {
        return Some(Next::Execute(writer, job, epoch));
    }
    desk.writer = Some(writer);
    None
}

impl Writer {
    /// The writer, if it is free and connected and nobody waits for it, to execute
    /// with it on this thread.
    pub fn take_free(core: &Arc<Core>, when: impl Fn(&Desk) -> bool) -> Option<(Box<Self>, u64)> {
        let mut desk = core.desk();
        let epoch = desk.may_begin(&core.config.limits)?;
        let waits = !desk.queue.is_empty() || !desk.apart.is_empty();
        if waits || !when(&desk) || !desk.writer.as_ref()?.is_ready() {
            return None;
        }
        let lock = core.write_lock.take_at_once()?;
        // Nothing holds a snapshot that an eviction could have been meant for.
        core.meter.rest();
        let mut writer = desk.writer.take()?;
        writer.lock = Some(lock);
        Some((writer, epoch))
    }

    /// Whether it can execute at once.
    fn is_ready(&self) -> bool {
        let history = self.core.history.load(Ordering::Acquire);
        let ready = |it: &Connected| it.history == history && it.is_installed;
        self.connected.as_ref().is_some_and(ready)
    }

    fn execute(mut self: Box<Self>, job: Job, epoch: u64) {
        let core = Arc::clone(&self.core);
        self.lock = Some(core.write_lock.take());
        core.meter.rest();
        if core.desk().epoch() != Some(epoch) {
            let refusal = core.desk().refusal();
            job.refuse(refusal.unwrap_or(ShardError::Lost));
        } else if let Err(error) = self.connect() {
            job.refuse(ShardError::Failed(error.to_string()));
        } else if let Err(error) = self.install(epoch) {
            job.refuse(error);
        } else {
            match job.kind {
                JobKind::Write(..) => self.batch(job, epoch),
                JobKind::Begin(reply) => return self.open(reply, epoch),
                JobKind::Alone(work, reply) => {
                    self.alone(work, reply, job.until, job.cancel, epoch);
                }
            }
        }
        self.rest();
    }

    /// Nobody executes any more.
    pub fn rest(mut self: Box<Self>) {
        let core = Arc::clone(&self.core);
        core.meter.rest();
        self.lock = None;
        let mut desk = core.desk();
        let wanted = desk.writer_is_wanted(&core.config.limits);
        desk.writer = Some(self);
        drop(desk);
        if wanted {
            core.bell.notify_all();
        }
    }

    /// Gives the writer to the transaction that waits next, or back.
    pub fn hand_on(self: Box<Self>) {
        let core = Arc::clone(&self.core);
        core.meter.rest();
        let next = if self.is_ready() { next_transaction(&core) } else { None };
        match next {
            Some((reply, epoch)) => self.open(reply, epoch),
            None => self.rest(),
        }
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
        self.core.changes.install(&mut writer.connection).map_err(failed)?;
        let executor = Executor::sharing(writer.connection, self.core.sequences.clone())
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
        let connected = self.connected.as_ref().expect("it executes, so it is connected");
        let Connected { executor, ticket, .. } = connected;
        let committed = {
            // The store must not work on the file while something is committed to it.
            let mut store = match core.store() {
                Ok(store) => store,
                Err(error) => return self.take_back(NotCaptured { error, waiting }),
            };
            let connection = executor.connection();
            let committed =
                connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
            match committed {
                Ok(_) => {
                    let rest = core.changes.take(connection).all();
                    let commit = Commit { ticket: *ticket, epoch, waiting };
                    let before = store.tip().sequence;
                    let done = core.committed(&mut store, commit);
                    core.note_changes(&store, before, rest);
                    self.claims.clear();
                    Ok(done)
                }
                Err(error) => Err((error, waiting)),
            }
        };
        match committed {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => self.take_back(failed),
            Err((error, waiting)) => {
                tracing::warn!(%error, "a transaction could not be committed");
                self.roll_back();
                waiting.into_iter().for_each(|one| one.fail(sqlite_error(&error)));
                if let Some(stop) = stop_for_commit(&error) {
                    self.core.stop(stop);
                }
            }
        }
    }

    /// Begins a transaction, in which nothing is changed yet.
    pub fn begin(&mut self) -> rusqlite::Result<()> {
        let core = Arc::clone(&self.core);
        self.claims.clear();
        core.claims.drop_open();
        let connection = self.connected().executor.connection();
        core.changes.take(connection);
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
    }

    /// Rolls back what is open, if anything is.
    pub fn roll_back(&mut self) {
        self.claims.clear();
        self.core.claims.drop_open();
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

    /// A commit could not become an entry.
    pub fn take_back(&mut self, failed: NotCaptured) {
        self.undo_now();
        let core = Arc::clone(&self.core);
        failed.tell(&core);
    }

    fn undo(mut self: Box<Self>) {
        self.lock = Some(self.core.write_lock.take());
        self.undo_now();
        self.rest();
    }

    /// Takes back what is in flight in the file.
    pub fn undo_now(&mut self) {
        self.connected = None;
        let undone = self.core.store().and_then(|mut store| store.undo());
        self.core.history.fetch_add(1, Ordering::AcqRel);
        match undone {
            Ok(_) => {
                let lost = {
                    let mut desk = self.core.desk();
                    let lost = desk.in_flight.take_back();
                    desk.undo = false;
                    desk.undone = !desk.in_flight.is_empty();
                    lost
                };
                lost.into_iter().for_each(|waiting| waiting.fail(ShardError::Lost));
            }
            Err(error) => {
                self.core.stop(stop_for(&error));
                self.core.desk().undo = false;
            }
        }
    }

    fn checkpoint(mut self: Box<Self>, need: CheckpointNeed) {
        let core = Arc::clone(&self.core);
        self.lock = Some(core.write_lock.take());
        let again = self.make_checkpoint(need);
        self.rest();
        if again {
            std::thread::sleep(AGAIN);
        }
    }

    /// Says whether it must be tried again.
    fn make_checkpoint(&mut self, need: CheckpointNeed) -> bool {
        let core = Arc::clone(&self.core);
        let Ok(mut store) = core.store() else { return false };
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
        core.checkpointed.notify_waiters();
        next != CheckpointNeed::No
    }
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

/// The first job in the queue that ends a draft and that somebody still waits for.
fn take_ending(queue: &mut std::collections::VecDeque<Job>) -> Option<Job> {
    loop {
        let at = queue.iter().position(|job| job.claim.is_some())?;
        let taken = queue.remove(at)?.take();
        if taken.is_some() {
            return taken;
        }
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

/// The transaction that waits next, if nothing else comes before it.
fn next_transaction(core: &Core) -> Option<(Reply<Handle>, u64)> {
    loop {
        let (job, epoch) = {
            let mut desk = core.desk();
            let epoch = desk.may_begin(&core.config.limits)?;
            let begins = |job: &Job| matches!(job.kind, JobKind::Begin(_));
            if !desk.apart.is_empty() || !desk.queue.front().is_some_and(begins) {
                return None;
            }
            (desk.queue.pop_front()?, epoch)
        };
        // Its caller may not want it any more.
        if let Some(Job { kind: JobKind::Begin(reply), .. }) = job.take() {
            return Some((reply, epoch));
        }
    }
}

//! Connections that read, and threads for reads that take long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use rung_pages::{Gate, PagesError, Reader, ReaderTicket, Reading};
use rung_sql::{Executor, SequenceValues};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::changes::ChangeLog;
use crate::config::Limits;
use crate::error::ShardError;
use crate::read::{Held, Holder, evict};
use crate::turn::Meter;

/// A connection that reads, and what it may take.
pub(crate) struct ReadConnection {
    pub executor: Executor,
    ticket: ReaderTicket,
    pub meter: Meter,
    /// What is changed, on a connection for drafts.
    pub changes: ChangeLog,
    number: u64,
}

/// A connection that nobody reads on. Its last snapshot is kept: the next read has it
/// without beginning one, if nothing was committed meanwhile.
struct Idle {
    connection: ReadConnection,
    kept: Option<Reading>,
}

impl Idle {
    /// Ends the snapshot that is kept, if one is. Says whether the connection can be used
    /// again.
    fn end(&mut self) -> bool {
        let connection = self.connection.executor.connection();
        let ended = self.kept.take().map_or(Ok(()), |kept| kept.end(connection));
        if let Err(error) = ended {
            tracing::warn!(%error, "a read did not end");
        }
        connection.is_autocommit()
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// The readers of one copy.
pub(crate) struct Readers {
    gate: Gate,
    permits: Arc<Semaphore>,
    /// Of drafts.
    drafts: Arc<Semaphore>,
    sequences: SequenceValues,
    /// Connections for drafts that nobody uses.
    idle_drafts: Mutex<Vec<ReadConnection>>,
    idle: Arc<Mutex<Vec<Idle>>>,
    /// The meters of all connections, by number.
    meters: Mutex<Vec<(u64, Meter)>>,
    /// Rung when a connection was closed.
    closed: Notify,
    /// Snapshots that are held between reads.
    holders: Mutex<Vec<Weak<Mutex<Option<Held>>>>>,
    numbers: AtomicU64,
    most: usize,
    threads: Mutex<Threads>,
    work: Condvar,
    most_threads: usize,
    most_waiting: usize,
}

#[derive(Default)]
struct Threads {
    tasks: VecDeque<Task>,
    running: usize,
    idle: usize,
    stops: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    pub fn new(gate: Gate, limits: &Limits, sequences: &SequenceValues) -> Self {
        let idle = Arc::<Mutex<Vec<Idle>>>::default();
        // The gate is part of what is kept, so it must not own it.
        let kept = Arc::downgrade(&idle);
        gate.on_checkpoint(move || {
            if let Some(idle) = kept.upgrade() {
                lock(&idle).iter_mut().for_each(|idle| {
                    idle.end();
                });
            }
        });
        Self {
            gate,
            permits: Arc::new(Semaphore::new(limits.readers)),
            drafts: Arc::new(Semaphore::new(limits.drafts)),
            sequences: sequences.clone(),
            idle_drafts: Mutex::default(),
            idle,
            meters: Mutex::default(),
            closed: Notify::new(),
            holders: Mutex::default(),
            numbers: AtomicU64::new(0),
            most: limits.readers,
            threads: Mutex::default(),
            work: Condvar::new(),
            most_threads: limits.threads,
            most_waiting: limits.thread_queue,
        }
    }

    /// How many reads run.
    pub fn reading(&self) -> usize {
        self.most - self.permits.available_permits()
    }

    /// Waits until one more connection may read.
    pub async fn permit(&self, until: Instant) -> Result<OwnedSemaphorePermit, ShardError> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout_at(until.into(), permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(ShardError::Stopped("it was closed".to_owned())),
            Err(_) => Err(ShardError::TimedOut("waited for a connection to read on")),
        }
    }

    fn connect(&self) -> Result<ReadConnection, ShardError> {
        let (number, meter) = self.register()?;
        let connected = self.gate.connect().and_then(|it| self.prepared(it, number, meter));
        connected.map_err(|error| {
            self.is_closed(number);
            read_error(&error)
        })
    }

    /// A number and a meter for one more connection.
    fn register(&self) -> Result<(u64, Meter), ShardError> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let meter = Meter::default();
        let mut meters = lock(&self.meters);
        if self.has_stopped() {
            return Err(ShardError::Stopped("it was closed".to_owned()));
        }
        meters.push((number, meter.clone()));
        Ok((number, meter))
    }

    fn prepared(
        &self,
        mut reader: Reader,
        number: u64,
        meter: Meter,
    ) -> Result<ReadConnection, PagesError> {
        let failed =
            |source| PagesError::Sqlite { what: "prepare a connection for reading", source };
        meter.install(&mut reader.connection).map_err(failed)?;
        let changes = ChangeLog::default();
        changes.install(&mut reader.connection).map_err(failed)?;
        let executor = Executor::sharing(reader.connection, self.sequences.clone())
            .map_err(|error| PagesError::Broken(error.to_string()))?;
        Ok(ReadConnection { executor, ticket: reader.ticket, meter, changes, number })
    }

    /// Leave for one more draft, if there are not too many.
    pub fn draft_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.drafts).try_acquire_owned().ok()
    }

    /// A connection on which a draft has begun at this reading. Nothing if none can now.
    pub fn sandbox(&self, reading: &Reading) -> Result<Option<ReadConnection>, ShardError> {
        loop {
            let idle = lock(&self.idle_drafts).pop();
            let sandbox = match idle {
                Some(sandbox) => sandbox,
                None => match self.connect_sandbox(reading)? {
                    Some(sandbox) => sandbox,
                    None => return Ok(None),
                },
            };
            let connection = sandbox.executor.connection();
            match self.gate.begin_draft(connection, sandbox.ticket, reading) {
                Ok(true) => {
                    // Of the one before.
                    sandbox.changes.take(connection);
                    return Ok(Some(sandbox));
                }
                Ok(false) => {
                    self.end_draft(sandbox);
                    return Ok(None);
                }
                // The file was replaced.
                Err(PagesError::Stale) => self.forget(sandbox),
                Err(error) => {
                    self.forget(sandbox);
                    return Err(read_error(&error));
                }
            }
        }
    }

    fn connect_sandbox(&self, reading: &Reading) -> Result<Option<ReadConnection>, ShardError> {
        let (number, meter) = self.register()?;
        let connected = self.gate.connect_draft(reading);
        let connected = connected.and_then(|reader| {
            reader.map(|reader| self.prepared(reader, number, meter)).transpose()
        });
        if !matches!(connected, Ok(Some(_))) {
            self.is_closed(number);
        }
        connected.map_err(|error| read_error(&error))
    }

    /// Takes a draft back. Its connection is kept for others.
    pub fn end_draft(&self, sandbox: ReadConnection) {
        sandbox.meter.rest();
        let connection = sandbox.executor.connection();
        let ended = match connection.is_autocommit() {
            true => Ok(()),
            false => {
                connection.prepare_cached("ROLLBACK").and_then(|mut it| it.execute([]).map(drop))
            }
        };
        if let Err(error) = &ended {
            tracing::warn!(%error, "a draft did not end");
        }
        let mut idle = lock(&self.idle_drafts);
        if ended.is_ok() && !self.has_stopped() {
            idle.push(sandbox);
        } else {
            drop(idle);
            self.forget(sandbox);
        }
    }

    /// A connection with a snapshot of what is settled.
    pub fn begin(&self) -> Result<(ReadConnection, Reading), ShardError> {
        loop {
            let idle = lock(&self.idle).pop();
            let connection = match idle {
                Some(Idle { connection, kept: Some(reading) }) if self.gate.is_newest(&reading) => {
                    return Ok((connection, reading));
                }
                Some(mut idle) => {
                    if !idle.end() {
                        self.forget(idle.connection);
                        continue;
                    }
                    idle.connection
                }
                None => self.connect()?,
            };
            match self.gate.begin(connection.executor.connection(), connection.ticket) {
                Ok(reading) => return Ok((connection, reading)),
                // The file was replaced.
                Err(PagesError::Stale) => self.forget(connection),
                Err(error) => {
                    self.forget(connection);
                    return Err(read_error(&error));
                }
            }
        }
    }

    /// Nobody reads on a snapshot any more. It and its connection are kept for others.
    pub fn end(&self, connection: ReadConnection, reading: Reading) {
        connection.meter.rest();
        // An error may have ended it.
        let has_ended = connection.executor.connection().is_autocommit();
        let mut ending = Idle { connection, kept: Some(reading) };
        {
            let mut idle = lock(&self.idle);
            // Under the lock: a checkpoint that begins after this finds it there.
            let is_kept =
                !has_ended && ending.kept.as_ref().is_some_and(|it| self.gate.is_newest(it));
            if is_kept && !self.has_stopped() {
                idle.push(ending);
                return;
            }
        }
        let mut idle = match ending.end() {
            true => lock(&self.idle),
            false => return self.forget(ending.connection),
        };
        if self.has_stopped() {
            drop(idle);
            self.forget(ending.connection);
        } else {
            idle.push(ending);
        }
    }

    /// Closes a connection.
    pub fn forget(&self, connection: ReadConnection) {
        let number = connection.number;
        drop(connection);
        self.is_closed(number);
    }

    fn is_closed(&self, number: u64) {
        lock(&self.meters).retain(|(other, _)| *other != number);
        self.closed.notify_waiters();
    }

    fn has_stopped(&self) -> bool {
        lock(&self.threads).stops
    }

    /// A snapshot is held between reads from now on.
    pub fn holds(&self, holder: &Holder) {
        let mut holders = lock(&self.holders);
        holders.retain(|held| held.strong_count() > 0);
        holders.push(Arc::downgrade(holder));
    }

    /// Interrupts reads of snapshots that have been held since before `then`, and ends
    /// those that nobody reads now.
    pub fn evict_older(&self, then: Instant) {
        let holders: Vec<Holder> = lock(&self.holders).iter().filter_map(Weak::upgrade).collect();
        holders.iter().for_each(|holder| evict(self, holder, then));
        for (_, meter) in lock(&self.meters).iter() {
            meter.evict_older(then);
        }
    }

    /// Has a task done by one of the threads for long reads.
    pub fn spawn(self: &Arc<Self>, task: Task) -> Result<(), ShardError> {
        let mut threads = lock(&self.threads);
        if threads.stops {
            return Err(ShardError::Stopped("it was closed".to_owned()));
        }
        if threads.tasks.len() >= self.most_waiting {
            return Err(ShardError::Overloaded("long reads"));
        }
        threads.tasks.push_back(task);
        if threads.idle < threads.tasks.len() && threads.running < self.most_threads {
            threads.running += 1;
            let readers = Arc::clone(self);
            let spawned = std::thread::Builder::new()
                .name("shard-read".to_owned())
                .spawn(move || readers.work());
            if let Err(error) = spawned {
                threads.running -= 1;
                if threads.running == 0 {
                    threads.tasks.pop_back();
                    return Err(ShardError::Failed(format!("no thread for a long read: {error}")));
                }
            }
        }
        drop(threads);
        self.work.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut threads = lock(&self.threads);
        loop {
            if threads.stops {
                threads.running -= 1;
                threads.tasks.clear();
                return;
            }
            if let Some(task) = threads.tasks.pop_front() {
                drop(threads);
                task();
                threads = lock(&self.threads);
                continue;
            }
            threads.idle += 1;
            threads = self.work.wait(threads).unwrap_or_else(PoisonError::into_inner);
            threads.idle -= 1;
        }
    }

    /// Interrupts all reads and takes no more.
    pub fn stop(&self) {
        self.permits.close();
        lock(&self.threads).stops = true;
        self.work.notify_all();
        lock(&self.meters).iter().for_each(|(_, meter)| meter.evict());
        let idle = std::mem::take(&mut *lock(&self.idle));
        idle.into_iter().for_each(|idle| self.forget(idle.connection));
        let drafts = std::mem::take(&mut *lock(&self.idle_drafts));
        drafts.into_iter().for_each(|sandbox| self.forget(sandbox));
    }

    /// Returns when no connection is open any more, after [`Readers::stop`]. Snapshots
    /// that nobody reads now are ended by this.
    pub async fn closed(&self) {
        loop {
            let mut closed = std::pin::pin!(self.closed.notified());
            closed.as_mut().enable();
            self.evict_older(Instant::now());
            if lock(&self.meters).is_empty() {
                return;
            }
            closed.await;
        }
    }
}

fn read_error(error: &PagesError) -> ShardError {
    match error {
        PagesError::DiskFull(_) => ShardError::DiskFull,
        error => ShardError::Failed(error.to_string()),
    }
}

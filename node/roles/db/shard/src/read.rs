//! Reads, on snapshots of what is settled.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rung_pages::{Position, Reading};
use rung_sql::Executor;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::timeout_at;

use crate::batch::panicked;
use crate::cancel::Cancel;
use crate::core::Core;
use crate::error::ShardError;
use crate::readers::{ReadConnection, Readers};
use crate::token::Token;
use crate::turn::{Stopped, Turn};

/// How old what a read sees may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadLevel {
    /// As old as this copy is.
    Any,
    /// Nothing is missing that was committed so long before the read. Its age is
    /// counted from the sending of the last question that the leader, and a quorum
    /// behind it, has answered.
    Bounded(Duration),
    /// Nothing is missing that the session has seen.
    Session(Token),
    /// Nothing is missing that was committed before the read began.
    Linearizable,
}

/// A snapshot that was begun.
pub(crate) struct Held {
    connection: ReadConnection,
    reading: Reading,
    /// What a draft on it is executed on.
    pub sandbox: Option<ReadConnection>,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    /// What it sees.
    pub fn position(&self) -> Position {
        self.reading.position()
    }
}

/// A snapshot that somebody may hold; taken away from him when it is too old.
pub(crate) type Holder = Arc<Mutex<Option<Held>>>;

/// Ends a snapshot that is not being read now, if it is older than `then`.
pub(crate) fn evict(readers: &Readers, holder: &Holder, then: Instant) {
    // Whoever reads has the lock, and is interrupted.
    let Ok(mut held) = holder.try_lock() else { return };
    if held.as_ref().is_some_and(|held| held.connection.meter.evict_older(then))
        && let Some(held) = held.take()
    {
        readers.release(held);
    }
}

pub(crate) enum Attempt<R> {
    Done(R),
    /// It took longer than it may take here.
    Moves,
}

fn attempt<R>(
    held: &mut Held,
    budget: Option<Duration>,
    until: Instant,
    cancel: &Cancel,
    work: &mut impl FnMut(&mut Executor, &Turn) -> R,
) -> Result<Attempt<R>, ShardError> {
    if cancel.is_canceled() {
        return Err(ShardError::Canceled);
    }
    if Instant::now() >= until {
        return Err(ShardError::TimedOut("waited for a thread to read on"));
    }
    let turn = Turn::new(budget.is_none());
    let ReadConnection { executor, meter, .. } = &mut held.connection;
    meter.begin(budget, Some(until), cancel.clone());
    let result = catch_unwind(AssertUnwindSafe(|| work(executor, &turn)));
    match (result, meter.end()) {
        (_, Some(Stopped::Budget)) => Ok(Attempt::Moves),
        (_, Some(Stopped::Evicted)) => Err(ShardError::SnapshotTooOld),
        (_, Some(stopped)) => Err(stopped.error()),
        (Err(_), None) => Err(panicked()),
        (Ok(_), None) if turn.moves() => Ok(Attempt::Moves),
        (Ok(result), None) => Ok(Attempt::Done(result)),
    }
}

/// Begins a snapshot of what is settled now.
pub(crate) async fn hold(core: &Core, until: Instant) -> Result<Held, ShardError> {
    let permit = core.readers.permit(until).await?;
    let (connection, reading) = core.readers.begin()?;
    Ok(Held { connection, reading, sandbox: None, _permit: permit })
}

impl Readers {
    /// A snapshot of what is settled with a connection on which a draft has begun. Nothing
    /// if there are too many, or a checkpoint is being made.
    pub(crate) fn begin_draft(&self) -> Result<Option<Held>, ShardError> {
        let Some(permit) = self.draft_permit() else { return Ok(None) };
        let (connection, reading) = self.begin()?;
        let sandbox = self.sandbox(&reading);
        let held = Held { connection, reading, sandbox: None, _permit: permit };
        match sandbox {
            Ok(Some(sandbox)) => {
                held.connection.meter.begin(None, None, Cancel::new());
                Ok(Some(Held { sandbox: Some(sandbox), ..held }))
            }
            none => {
                self.release(held);
                none.map(|_| None)
            }
        }
    }

    /// Ends a snapshot, and the draft on it.
    pub(crate) fn release(&self, held: Held) {
        if let Some(sandbox) = held.sandbox {
            self.end_draft(sandbox);
        }
        self.end(held.connection, held.reading);
    }
}

/// Works on a snapshot, here if that is short, on a thread for long reads if not.
pub(crate) async fn read_once<R: Send + 'static>(
    core: &Arc<Core>,
    until: Instant,
    cancel: &Cancel,
    mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
) -> Result<(R, Token), ShardError> {
    let mut held = hold(core, until).await?;
    let token = core.token(&held.reading.position());
    let first = attempt(&mut held, Some(core.config.limits.inline), until, cancel, &mut work);
    if !matches!(first, Ok(Attempt::Moves)) {
        core.readers.release(held);
    } else {
        let (reply, answer) = oneshot::channel();
        let (readers, cancels) = (Arc::clone(&core.readers), cancel.clone());
        core.readers.spawn(Box::new(move || {
            let result = attempt(&mut held, None, until, &cancels, &mut work);
            readers.release(held);
            // Whoever asked may have gone.
            let _ = reply.send(result);
        }))?;
        let result = elsewhere(answer, until, cancel).await?;
        return Ok((result, token));
    }
    match first? {
        Attempt::Done(result) => Ok((result, token)),
        Attempt::Moves => unreachable!("it was moved above"),
    }
}

/// Waits for work on another thread.
pub(crate) async fn elsewhere<R>(
    answer: oneshot::Receiver<Result<Attempt<R>, ShardError>>,
    until: Instant,
    cancel: &Cancel,
) -> Result<R, ShardError> {
    let answered = tokio::select! {
        biased;
        answered = timeout_at(until.into(), answer) => answered,
        () = cancel.canceled() => return Err(ShardError::Canceled),
    };
    match answered {
        Err(_) => Err(ShardError::TimedOut("was executed")),
        Ok(Err(_)) => Err(ShardError::Stopped("it was closed".to_owned())),
        Ok(Ok(Ok(Attempt::Done(result)))) => Ok(result),
        Ok(Ok(Ok(Attempt::Moves))) => Err(ShardError::TimedOut("was executed")),
        Ok(Ok(Err(error))) => Err(error),
    }
}

/// Several reads of one snapshot: a transaction that only reads. Dropping it ends it.
///
/// A snapshot holds back checkpoints, so one that is older than
/// [`Limits::snapshot_age`](crate::Limits::snapshot_age) is ended when a checkpoint
/// is due: what is read then fails with [`ShardError::SnapshotTooOld`].
pub struct ReadTransaction {
    core: Arc<Core>,
    holder: Holder,
    token: Token,
}

impl ReadTransaction {
    pub(crate) async fn begin(core: &Arc<Core>, until: Instant) -> Result<Self, ShardError> {
        let held = hold(core, until).await?;
        let token = core.token(&held.reading.position());
        held.connection.meter.begin(None, None, Cancel::new());
        let holder: Holder = Arc::new(Mutex::new(Some(held)));
        core.readers.holds(&holder);
        Ok(Self { core: Arc::clone(core), holder, token })
    }

    /// What it sees.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Reads; see [`Shard::read`](crate::Shard::read).
    ///
    /// # Errors
    /// After [`ShardError::SnapshotTooOld`] and [`ShardError::Stopped`] it is over.
    pub async fn run<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        cancel: &Cancel,
        mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        let until = Instant::now() + deadline;
        let inline = self.core.config.limits.inline;
        let first = self.attempt(Some(inline), until, cancel, &mut work)?;
        if let Attempt::Done(result) = first {
            return Ok(result);
        }
        let (reply, answer) = oneshot::channel();
        let (holder, cancels) = (Arc::clone(&self.holder), cancel.clone());
        self.core.readers.spawn(Box::new(move || {
            // Whoever asked may have gone.
            let _ = reply.send(attempt_on(&holder, None, until, &cancels, &mut work));
        }))?;
        elsewhere(answer, until, cancel).await
    }

    fn attempt<R>(
        &self,
        budget: Option<Duration>,
        until: Instant,
        cancel: &Cancel,
        work: &mut impl FnMut(&mut Executor, &Turn) -> R,
    ) -> Result<Attempt<R>, ShardError> {
        attempt_on(&self.holder, budget, until, cancel, work)
    }
}

fn attempt_on<R>(
    holder: &Holder,
    budget: Option<Duration>,
    until: Instant,
    cancel: &Cancel,
    work: &mut impl FnMut(&mut Executor, &Turn) -> R,
) -> Result<Attempt<R>, ShardError> {
    let mut held = holder.lock().unwrap_or_else(PoisonError::into_inner);
    match held.as_mut() {
        Some(held) => attempt(held, budget, until, cancel, work),
        None => Err(ShardError::SnapshotTooOld),
    }
}

impl Drop for ReadTransaction {
    fn drop(&mut self) {
        let held = self.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held {
            self.core.readers.release(held);
        }
    }
}

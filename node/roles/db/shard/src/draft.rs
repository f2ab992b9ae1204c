//! The beginning of a transaction that does not hold the writer: its statements are
//! executed on a snapshot, where nobody else sees what they change, and once more by the
//! writer when it ends. It is kept if all of them come to the same then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rung_pages::draft_bytes;
use rung_sql::{Executor, SqlError, Tape};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::cancel::Cancel;
use crate::core::Core;
use crate::error::ShardError;
use crate::read::{Attempt, Holder, elsewhere};
use crate::readers::ReadConnection;
use crate::token::Token;
use crate::turn::{Length, Stopped, Turn};

/// For so long a draft waits for a checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// Whether a part of a transaction may be executed on a snapshot first.
pub enum Trial<R> {
    /// It needs the writer.
    Never,
    /// It changes nothing, and nobody relies on what it gives.
    Forgotten,
    /// It is executed once more when the transaction ends. What fails must leave nothing.
    Kept {
        /// The same for parts that differ in their parameters alone. One whose outcome
        /// was not the same the second time needs the writer for a while.
        key: u64,
        /// What must be the same again. An error that the first execution did not have
        /// is what the transaction ends with.
        outcome: fn(&R) -> Result<u64, Box<SqlError>>,
    },
}

/// What became of a part.
pub(crate) enum Tried<R> {
    Done(R, Tape),
    /// It reads for longer than a client's thread may.
    Long,
    /// The writer must do it.
    Writer,
}

/// A part that was executed, and how that is done again.
pub(crate) struct Step {
    key: u64,
    tape: Tape,
    outcome: Result<u64, Box<SqlError>>,
    /// Never locked: it makes what holds a transaction `Sync`.
    again: Mutex<Box<Again>>,
}

type Again = dyn FnMut(&mut Executor) -> Result<u64, Box<SqlError>> + Send;

/// What was executed on the snapshot, to be executed by the writer.
pub(crate) struct Steps {
    steps: Vec<Step>,
    /// How long it took.
    pub spent: Duration,
    core: Arc<Core>,
    _open: Open,
}

/// Counts drafts that have not ended, for whom a hand-over waits.
struct Open(Arc<Core>);

impl Open {
    fn new(core: &Arc<Core>) -> Self {
        core.drafts.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(core))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.drafts.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A transaction on its snapshot.
pub(crate) struct Draft {
    core: Arc<Core>,
    /// Of the primary that it began at.
    epoch: u64,
    snapshot: Snapshot,
    position: Token,
    has_changed: bool,
    /// It has changed more than it shall keep in memory.
    is_large: bool,
    steps: Steps,
}

/// What it sees, until a checkpoint must be made.
struct Snapshot {
    core: Arc<Core>,
    holder: Holder,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let held = self.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held {
            self.core.readers.release(held);
        }
    }
}

impl Draft {
    /// A draft, if there can be one now: on the primary, while it makes no checkpoint and
    /// is not handed over, and there are not too many.
    pub fn begin(core: &Arc<Core>) -> Option<Self> {
        let epoch = {
            let desk = core.desk();
            // A checkpoint waits for snapshots, so none begins before it.
            let waits = desk.paused.is_some() || desk.waits_for_checkpoint(&core.config.limits);
            desk.epoch().filter(|epoch| !waits && desk.may_go_on(*epoch))?
        };
        let open = Open::new(core);
        let held = match core.readers.begin_draft() {
            Ok(held) => held?,
            Err(error) => {
                // The writer can do it.
                tracing::debug!(%error, "a draft could not begin");
                return None;
            }
        };
        let position = core.token(&held.position());
        let holder: Holder = Arc::new(Mutex::new(Some(held)));
        core.readers.holds(&holder);
        let (steps, spent) = (Vec::new(), Duration::ZERO);
        let steps = Steps { steps, spent, core: Arc::clone(core), _open: open };
        let snapshot = Snapshot { core: Arc::clone(core), holder };
        Some(Self {
            core: Arc::clone(core),
            epoch,
            snapshot,
            position,
            has_changed: false,
            is_large: false,
            steps,
        })
    }

    /// As [`Draft::begin`], after the checkpoint that is to be made, if it is soon.
    pub async fn begin_after_checkpoint(core: &Arc<Core>, until: Instant) -> Option<Self> {
        let until = until.min(Instant::now() + CHECKPOINT);
        loop {
            let mut made = std::pin::pin!(core.checkpointed.notified());
            made.as_mut().enable();
            let draft = Self::begin(core);
            if draft.is_some() || !core.desk().waits_for_checkpoint(&core.config.limits) {
                return draft;
            }
            // If it takes longer, the writer is waited for, which comes after it too.
            timeout_at(until.into(), made).await.ok()?;
        }
    }

    /// Whether a part may be executed here.
    pub fn takes<R>(&self, trial: &Trial<R>) -> bool {
        match trial {
            Trial::Never => false,
            Trial::Forgotten => true,
            Trial::Kept { key, .. } => {
                self.steps.steps.len() < self.core.config.limits.draft_statements
                    && !(self.is_large && self.has_changed)
                    && !self.core.contention().has(*key, Instant::now())
            }
        }
    }

    /// Executes a part on the calling thread, if it is short.
    ///
    /// # Errors
    /// The transaction is over after [`ShardError::Lost`].
    pub fn run<R>(
        &mut self,
        until: Instant,
        cancel: &Cancel,
        length: &mut impl FnMut(&mut Executor) -> Length,
        work: &mut impl FnMut(&mut Executor, &Turn) -> R,
    ) -> Result<Tried<R>, ShardError> {
        self.check()?;
        if cancel.is_canceled() {
            return Err(ShardError::Canceled);
        }
        let began = Instant::now();
        let tried = with_sandbox(&self.snapshot.holder, |sandbox| {
            let executor = &mut sandbox.executor;
            let length = catch_unwind(AssertUnwindSafe(|| length(executor)));
            let budget = match length.unwrap_or(Length::Long) {
                Length::Long => return Ok(Tried::Writer),
                Length::Interruptible => Some(self.core.config.limits.inline),
                Length::Short => None,
            };
            let changes = sandbox.executor.connection().total_changes();
            let tried = execute(sandbox, budget, until, cancel, work);
            let connection = sandbox.executor.connection();
            self.has_changed |= connection.total_changes() != changes;
            self.is_large = draft_bytes(connection) > self.core.config.limits.draft_bytes;
            tried
        });
        self.steps.spent += began.elapsed();
        tried
    }

    /// Executes a part that reads for long on a thread for that. Gives it back.
    ///
    /// # Errors
    /// As [`Draft::run`].
    pub async fn run_long<R: Send + 'static, W>(
        &mut self,
        until: Instant,
        cancel: &Cancel,
        mut work: W,
    ) -> Result<(Tried<R>, W), ShardError>
    where
        W: FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    {
        let began = Instant::now();
        let (reply, answer) = oneshot::channel();
        let (holder, cancels) = (Arc::clone(&self.snapshot.holder), cancel.clone());
        self.core.readers.spawn(Box::new(move || {
            let tried =
                with_sandbox(&holder, |sandbox| execute(sandbox, None, until, &cancels, &mut work));
            // Whoever asked may have gone.
            let _ = reply.send(tried.map(|tried| Attempt::Done((tried, work))));
        }))?;
        let tried = elsewhere(answer, until, cancel).await;
        self.steps.spent += began.elapsed();
        tried
    }

    /// Whether it has done nothing but read so far.
    pub fn only_reads(&self) -> bool {
        !self.has_changed
    }

    /// What it sees.
    pub fn position(&self) -> Token {
        self.position
    }

    /// Notes what was executed.
    pub fn note<R: 'static>(
        &mut self,
        trial: Trial<R>,
        (result, tape): (&R, Tape),
        mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) {
        if let Trial::Kept { key, outcome } = trial {
            let again = move |executor: &mut Executor| outcome(&work(executor, &Turn::new(true)));
            let again = Mutex::new(Box::new(again) as Box<Again>);
            self.steps.steps.push(Step { key, tape, outcome: outcome(result), again });
        }
    }

    /// What is to be executed by the writer, who need not commit what only reads.
    ///
    /// # Errors
    /// [`ShardError::Lost`] when the primary has changed.
    pub fn into_steps(self) -> Result<Steps, ShardError> {
        self.check()?;
        Ok(self.steps)
    }

    /// Whether this copy is still the primary that it began at.
    fn check(&self) -> Result<(), ShardError> {
        let is_primary = self.core.desk().may_go_on(self.epoch);
        if is_primary { Ok(()) } else { Err(ShardError::Lost) }
    }
}

/// Does something with what a draft is executed on, if its snapshot has not had to go and
/// no read that was given up still runs there: nobody waits for that.
fn with_sandbox<R>(
    holder: &Holder,
    work: impl FnOnce(&mut ReadConnection) -> Result<Tried<R>, ShardError>,
) -> Result<Tried<R>, ShardError> {
    let mut held = match holder.try_lock() {
        Ok(held) => held,
        Err(TryLockError::Poisoned(held)) => held.into_inner(),
        Err(TryLockError::WouldBlock) => return Ok(Tried::Writer),
    };
    match held.as_mut().and_then(|held| held.sandbox.as_mut()) {
        Some(sandbox) => work(sandbox),
        None => Ok(Tried::Writer),
    }
}

fn execute<R>(
    sandbox: &mut ReadConnection,
    budget: Option<Duration>,
    until: Instant,
    cancel: &Cancel,
    work: &mut impl FnMut(&mut Executor, &Turn) -> R,
) -> Result<Tried<R>, ShardError> {
    let ReadConnection { executor, meter, .. } = sandbox;
    let turn = Turn::new(budget.is_none());
    meter.begin(budget, Some(until), cancel.clone());
    let executed = catch_unwind(AssertUnwindSafe(|| executor.recording(|it| work(it, &turn))));
    let stopped = meter.end();
    // SQLite rolls all back when it interrupts what writes, or has no memory. The writer
    // has what was done before.
    if executor.connection().is_autocommit() {
        return Ok(Tried::Writer);
    }
    match (executed, stopped) {
        (_, Some(stopped @ (Stopped::Deadline | Stopped::Canceled))) => Err(stopped.error()),
        (_, Some(Stopped::Budget)) => Ok(Tried::Long),
        (Ok(_), None) if turn.moves() => Ok(Tried::Long),
        (Ok((result, tape)), None) if !tape.is_refused() => Ok(Tried::Done(result, tape)),
        _ => Ok(Tried::Writer),
    }
}

impl Steps {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Executes all of it once more, in a transaction of the writer's.
    ///
    /// # Errors
    /// [`ShardError::Changed`], or the error that a statement has only now.
    pub fn again(&mut self, executor: &mut Executor) -> Result<(), ShardError> {
        for step in &mut self.steps {
            let again = step.again.get_mut().unwrap_or_else(PoisonError::into_inner);
            let outcome = executor.playing(&step.tape, again);
            if outcome == step.outcome || self.core.skips_validation() {
                continue;
            }
            self.core.counts.conflicts.fetch_add(1, Ordering::Relaxed);
            self.core.contention().add(step.key, Instant::now());
            return Err(match outcome {
                Err(error) => ShardError::Refused(error),
                Ok(_) => ShardError::Changed,
            });
        }
        Ok(())
    }
}

//! The beginning of a transaction that does not hold the writer: its statements are
//! executed on a snapshot, where nobody else sees what they change, and once more by the
//! writer when it ends. It is kept if all of them come to the same then.

mod catch_up;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rung_pages::draft_bytes;
use rung_sql::{Executor, SqlError, Tape};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::cancel::Cancel;
use crate::changes::Changes;
use crate::core::Core;
use crate::error::ShardError;
use crate::read::{Attempt, Holder, elsewhere};
use crate::readers::ReadConnection;
use crate::steps::{Step, Steps};
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
        /// What that depends on.
        part: Part,
    },
}

/// What others can do to the outcome of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It reads, and what it has read must be so when the transaction ends.
    RepeatableRead,
    /// It reads, and sees what is committed by then. When the transaction ends that need
    /// not be so any more, but for rows that the transaction itself has changed.
    CommittedRead,
    /// It writes, and makes of each row that it changes what depends on that row alone.
    RowWrite,
    /// The same, but which rows it changes depends on what is in them. When the transaction
    /// ends that need not be so any more for the rows that it has not changed.
    ConditionalWrite,
    /// It writes what depends on other rows, too.
    Write,
}

impl<R> Trial<R> {
    pub(crate) fn part(&self) -> Option<Part> {
        match self {
            Trial::Never | Trial::Forgotten => None,
            Trial::Kept { part, .. } => Some(*part),
        }
    }
}

/// What became of a part.
pub(crate) enum Tried<R> {
    Done(R, Done),
    /// It reads for longer than a client's thread may.
    Long,
    /// The writer must do it.
    Writer,
}

/// How a part was executed.
pub(crate) struct Done {
    tape: Tape,
    took: Duration,
    has_changed: bool,
    changes: Changes,
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
    /// What was executed last shall be executed again and is not in the steps, or the
    /// snapshot has gone.
    is_ahead: bool,
    steps: Steps,
}

/// What it sees, until a checkpoint must be made.
struct Snapshot {
    core: Arc<Core>,
    holder: Holder,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.end();
    }
}

impl Snapshot {
    /// A snapshot with a draft on it, if there can be one now: on the primary of an epoch,
    /// while it makes no checkpoint and is not handed over, and there are not too many.
    fn begin(core: &Arc<Core>) -> Option<(Self, u64, Token)> {
        let epoch = {
            let desk = core.desk();
            // A checkpoint waits for snapshots, so none begins before it.
            let waits = desk.paused.is_some() || desk.waits_for_checkpoint(&core.config.limits);
            desk.epoch().filter(|epoch| !waits && desk.may_go_on(*epoch))?
        };
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
        Some((Self { core: Arc::clone(core), holder }, epoch, position))
    }

    /// As [`Snapshot::begin`], after the checkpoint that is to be made, if it is soon.
    async fn begin_after_checkpoint(
        core: &Arc<Core>,
        until: Instant,
    ) -> Option<(Self, u64, Token)> {
        let until = until.min(Instant::now() + CHECKPOINT);
        loop {
            let mut made = std::pin::pin!(core.checkpointed.notified());
            made.as_mut().enable();
            let begun = Self::begin(core);
            if begun.is_some() || !core.desk().waits_for_checkpoint(&core.config.limits) {
                return begun;
            }
            // If it takes longer, the writer is waited for, which comes after it too.
            timeout_at(until.into(), made).await.ok()?;
        }
    }

    /// Ends it.
    fn end(&self) {
        let held = self.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(held) = held {
            self.core.readers.release(held);
        }
    }
}

impl Draft {
    /// A draft, if there can be one now.
    pub fn begin(core: &Arc<Core>) -> Option<Self> {
        // Before it is looked whether the shard is handed over, which waits for it.
        let steps = Steps::new(core);
        Snapshot::begin(core).map(|begun| Self::on(begun, steps))
    }

    /// As [`Draft::begin`], after the checkpoint that is to be made, if it is soon.
    pub async fn begin_after_checkpoint(core: &Arc<Core>, until: Instant) -> Option<Self> {
        let steps = Steps::new(core);
        let begun = Snapshot::begin_after_checkpoint(core, until).await;
        begun.map(|begun| Self::on(begun, steps))
    }

    fn on((snapshot, epoch, position): (Snapshot, u64, Token), steps: Steps) -> Self {
        let core = Arc::clone(&snapshot.core);
        let (has_changed, is_large, is_ahead) = (false, false, false);
        Self { core, epoch, snapshot, position, has_changed, is_large, is_ahead, steps }
    }

    /// Whether a part may be executed here.
    pub fn takes<R>(&self, trial: &Trial<R>) -> bool {
        match trial {
            Trial::Never => false,
            Trial::Forgotten => true,
            Trial::Kept { key, .. } => {
                self.steps.len() < self.core.config.limits.draft_statements
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
        self.core.under_way.acts(self.steps.claim().number());
        let tried = with_sandbox(&self.snapshot.holder, |sandbox| {
            let executor = &mut sandbox.executor;
            let length = catch_unwind(AssertUnwindSafe(|| length(executor)));
            let budget = match length.unwrap_or(Length::Long) {
                Length::Long => return Ok(Tried::Writer),
                Length::Interruptible => Some(self.core.config.limits.inline),
                Length::Short => None,
            };
            let tried = execute(sandbox, budget, until, cancel, work);
            let connection = sandbox.executor.connection();
            self.is_large = draft_bytes(connection) > self.core.config.limits.draft_bytes;
            tried
        });
        if let Ok(Tried::Done(_, done)) = &tried {
            self.has_changed |= done.has_changed;
        }
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
        let (reply, answer) = oneshot::channel();
        let (holder, cancels) = (Arc::clone(&self.snapshot.holder), cancel.clone());
        self.core.readers.spawn(Box::new(move || {
            let tried =
                with_sandbox(&holder, |sandbox| execute(sandbox, None, until, &cancels, &mut work));
            // Whoever asked may have gone.
            let _ = reply.send(tried.map(|tried| Attempt::Done((tried, work))));
        }))?;
        elsewhere(answer, until, cancel).await
    }

    /// Whether it has done nothing but read so far.
    pub fn only_reads(&self) -> bool {
        !self.has_changed
    }

    /// What it sees.
    pub fn position(&self) -> Token {
        self.position
    }

    /// Notes what was executed. If it has changed nothing it may be let go, where
    /// [`Draft::place`] says so.
    pub fn note<R: 'static>(
        &mut self,
        trial: Trial<R>,
        may_let_go: bool,
        (result, done): (&R, Done),
        mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) {
        if let Trial::Kept { key, outcome, part } = trial {
            if part == Part::Write {
                self.steps.open();
            }
            let changed = self.steps.note(done.changes);
            let is_let_go = may_let_go && !done.has_changed;
            if !is_let_go {
                self.steps.spent += done.took;
            }
            let again = move |executor: &mut Executor| outcome(&work(executor, &Turn::new(true)));
            self.steps.add(Step {
                key,
                tape: done.tape,
                outcome: outcome(result),
                is_let_go,
                changed,
                again: Mutex::new(Box::new(again)),
            });
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
    let ReadConnection { executor, meter, changes: log, .. } = sandbox;
    let turn = Turn::new(budget.is_none());
    let (began, changes) = (Instant::now(), executor.connection().total_changes());
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
        (Ok((result, tape)), None) if !tape.is_refused() => {
            let has_changed = executor.connection().total_changes() != changes;
            let changes = log.take(executor.connection());
            let took = began.elapsed();
            Ok(Tried::Done(result, Done { tape, took, has_changed, changes }))
        }
        _ => Ok(Tried::Writer),
    }
}

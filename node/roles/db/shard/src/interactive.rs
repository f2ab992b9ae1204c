//! Interactive transactions, as their clients see them: one that has the writer has it to
//! its end, and its short statements are executed on the client's own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rung_sql::Executor;
use tokio::sync::oneshot;

use crate::batch::panicked;
use crate::cancel::Cancel;
use crate::core::Core;
use crate::draft::{Draft, Trial, Tried};
use crate::error::ShardError;
use crate::job::{self, Answer, Once, Stage};
use crate::shard::Shard;
use crate::steps::Claim;
use crate::token::Token;
use crate::transaction::{Part, Step, until_settled};
use crate::turn::{Length, Stopped, Turn};
use crate::writer::Writer;

/// The end of a transaction that its client holds.
pub(crate) struct Handle {
    core: Arc<Core>,
    number: u64,
    /// Of the draft that it was. Others shall not read what it is about to change.
    claim: Option<Arc<Claim>>,
    /// Why the transaction is over, once it is.
    ended: Arc<Mutex<Option<ShardError>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let is_open = match self.core.desk().transaction.as_mut() {
            Some(slot) if slot.number == self.number => {
                slot.dropped = true;
                true
            }
            _ => false,
        };
        if is_open {
            self.core.bell.notify_all();
        }
    }
}

/// An open transaction of one client. Dropping it rolls it back.
///
/// One that [`Shard::begin`] has begun holds the shard's writer: everybody else who writes
/// waits for its end. It sees what was committed before it, be it on a quorum or not; but
/// no result of it leaves before what it saw is.
///
/// One that [`Shard::begin_draft`] has begun is a draft first: it sees a snapshot of what
/// is on a quorum, and what it has changed itself. It takes the writer when it is
/// committed, or does what cannot be done in a draft, and is over if something that it
/// was told would be different then.
pub struct WriteTransaction {
    shard: Shard,
    state: State,
}

enum State {
    Draft(Box<Draft>),
    Held(Handle),
    Over(ShardError),
}

impl WriteTransaction {
    pub(crate) fn held(shard: &Shard, handle: Handle) -> Self {
        Self { shard: shard.clone(), state: State::Held(handle) }
    }

    pub(crate) fn draft(shard: &Shard, draft: Draft) -> Self {
        Self { shard: shard.clone(), state: State::Draft(Box::new(draft)) }
    }

    /// Executes a part of the transaction on the writer's thread. Savepoints are
    /// statements of the work. Each statement of it is atomic; what to do after an
    /// error is up to the caller.
    ///
    /// # Errors
    /// After all of them but [`ShardError::TimedOut`] the transaction is over.
    pub async fn run<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        cancel: &Cancel,
        work: impl FnOnce(&mut Executor) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        let until = Instant::now() + deadline;
        self.hold(until, cancel).await?.run(until, cancel, work).await
    }

    /// Executes a part on the calling thread if `length` says that it is short, and as
    /// [`WriteTransaction::run`] if not. What only reads may be begun anew there, like
    /// a read; so whatever it gave out before must be dropped when it is called again.
    ///
    /// # Errors
    /// As [`WriteTransaction::run`].
    pub async fn run_short<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        cancel: &Cancel,
        length: impl FnMut(&mut Executor) -> Length,
        work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        self.try_short(deadline, cancel, Trial::Never, length, work).await
    }

    /// As [`WriteTransaction::run_short`], without the writer if the transaction is a
    /// draft and can stay one.
    ///
    /// # Errors
    /// As [`WriteTransaction::run`]; [`ShardError::Changed`] and [`ShardError::Refused`]
    /// when it takes the writer and is not what it was any more.
    pub async fn try_short<R: Send + 'static>(
        &mut self,
        deadline: Duration,
        cancel: &Cancel,
        trial: Trial<R>,
        mut length: impl FnMut(&mut Executor) -> Length,
        mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        let until = Instant::now() + deadline;
        if let State::Draft(draft) = &mut self.state
            && draft.takes(&trial)
        {
            let tried = draft.place(trial.part(), until, cancel, &mut length, &mut work).await;
            let (mut tried, may_let_go) = match tried {
                Ok(tried) => tried,
                Err(error @ (ShardError::TimedOut(_) | ShardError::Canceled)) => return Err(error),
                Err(error) => {
                    self.state = State::Over(error.clone());
                    return Err(error);
                }
            };
            if matches!(tried, Tried::Long) && draft.only_reads() {
                (tried, work) = draft.run_long(until, cancel, work).await?;
            }
            if let Tried::Done(result, done) = tried {
                draft.note(trial, may_let_go, (&result, done), work);
                return Ok(result);
            }
        }
        let handle = self.hold(until, cancel).await?;
        handle.run_short(until, cancel, length, work).await
    }

    /// Takes the writer, if the transaction does not have it, and does with it what was
    /// done in the draft.
    async fn hold(&mut self, until: Instant, cancel: &Cancel) -> Result<&mut Handle, ShardError> {
        if let State::Draft(_) = self.state {
            let state = std::mem::replace(&mut self.state, State::Over(ShardError::Lost));
            let State::Draft(draft) = state else { unreachable!("it was looked at above") };
            let taken = self.take_writer(draft, until, cancel).await;
            self.state = taken.map_or_else(State::Over, State::Held);
        }
        match &mut self.state {
            State::Held(handle) => Ok(handle),
            State::Over(error) => Err(error.clone()),
            State::Draft(_) => unreachable!("it has ended above"),
        }
    }

    async fn take_writer(
        &self,
        draft: Box<Draft>,
        until: Instant,
        cancel: &Cancel,
    ) -> Result<Handle, ShardError> {
        let mut steps = draft.into_steps()?;
        let mut handle = self.shard.take_writer(until, cancel).await?;
        if !steps.is_empty() {
            handle.claim = Some(Arc::clone(steps.claim()));
            let core = Arc::clone(&handle.core);
            let work = move |executor: &mut Executor| steps.again(executor, &core.changes);
            handle.run(until, cancel, work).await??;
        }
        Ok(handle)
    }

    /// Makes it durable on a quorum, and returns its position.
    ///
    /// # Errors
    /// [`ShardError::OutcomeUnknown`] when no quorum has answered before the deadline.
    /// After all others it was rolled back.
    pub async fn commit(self, deadline: Duration) -> Result<Token, ShardError> {
        let until = Instant::now() + deadline;
        match self.state {
            // It has seen one snapshot.
            State::Draft(draft) if draft.only_reads() => Ok(draft.position()),
            State::Draft(draft) => self.shard.commit_draft(draft.into_steps()?, until).await,
            State::Held(handle) => handle.commit(until).await,
            State::Over(error) => Err(error),
        }
    }

    /// Takes everything back.
    pub async fn rollback(self) {
        if let State::Held(handle) = self.state {
            handle.rollback().await;
        }
    }
}

impl Handle {
    pub fn new(core: Arc<Core>, number: u64, ended: Arc<Mutex<Option<ShardError>>>) -> Self {
        Self { core, number, claim: None, ended }
    }

    /// See [`WriteTransaction::run`].
    async fn run<R: Send + 'static>(
        &mut self,
        until: Instant,
        cancel: &Cancel,
        work: impl FnOnce(&mut Executor) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        let (reply, answer) = oneshot::channel();
        let work: Once = Box::new(move |executor| Box::new(work(executor)));
        let part = Part { work, until, cancel: cancel.clone(), reply };
        self.step(Step::Run(part))?;
        let result = self.wait(answer, until, cancel.clone()).await?;
        Ok(*result.downcast::<R>().expect("the result is of the work's own type"))
    }

    /// See [`WriteTransaction::run_short`].
    async fn run_short<R: Send + 'static>(
        &mut self,
        until: Instant,
        cancel: &Cancel,
        length: impl FnMut(&mut Executor) -> Length,
        mut work: impl FnMut(&mut Executor, &Turn) -> R + Send + 'static,
    ) -> Result<R, ShardError> {
        let Some(result) = self.run_here(until, cancel, length, &mut work)? else {
            let work = move |executor: &mut Executor| work(executor, &Turn::new(true));
            return self.run(until, cancel, work).await;
        };
        if let Some(settled) = until_settled(&self.core) {
            self.wait(settled, until, cancel.clone()).await?;
        }
        result
    }

    async fn commit(self, until: Instant) -> Result<Token, ShardError> {
        let (reply, answer) = oneshot::channel();
        match self.take_short() {
            Some((mut writer, epoch)) => {
                writer.commit_transaction(epoch, reply);
                writer.end(ShardError::Lost);
            }
            None => self.step(Step::Commit(reply))?,
        }
        self.wait(answer, until, Cancel::new()).await
    }

    async fn rollback(self) {
        if let Some((writer, _)) = self.take_short() {
            writer.end(ShardError::Lost);
            return;
        }
        let (reply, answer) = oneshot::channel();
        if self.step(Step::Rollback(reply)).is_ok() {
            // Either way it is rolled back.
            let _ = answer.await;
        }
    }

    fn why_ended(&self) -> ShardError {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.clone().unwrap_or(ShardError::Lost)
    }

    /// Asks the writer's thread.
    fn step(&self, step: Step) -> Result<(), ShardError> {
        {
            let mut desk = self.core.desk();
            match desk.transaction.as_mut().filter(|slot| slot.number == self.number) {
                Some(slot) => slot.step = Some(step),
                None => {
                    drop(desk);
                    return Err(self.why_ended());
                }
            }
        }
        self.core.bell.notify_all();
        Ok(())
    }

    async fn wait<T>(
        &self,
        answer: oneshot::Receiver<Answer<T>>,
        until: Instant,
        cancel: Cancel,
    ) -> Answer<T> {
        let answer = job::wait(answer, Stage::running(), until, cancel).await;
        match answer {
            // The step was dropped with the transaction.
            Err(ShardError::Stopped(_)) if self.has_ended() => Err(self.why_ended()),
            answer => answer,
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The writer, to execute with it on this thread. If there is something to be
    /// decided about the transaction, that is left to the writer's thread.
    fn take(&self) -> Option<(Box<Writer>, u64)> {
        let mut desk = self.core.desk();
        let slot = desk.transaction.take_if(|slot| slot.number == self.number)?;
        let may = slot.step.is_none() && slot.statements > 0 && !slot.is_lost(&self.core, &desk);
        let slot = desk.transaction.insert(slot);
        if !may {
            return None;
        }
        slot.statements -= 1;
        Some((slot.writer.take()?, slot.epoch))
    }

    /// The writer, if what the transaction has changed is committed in a short time.
    fn take_short(&self) -> Option<(Box<Writer>, u64)> {
        let limit = self.core.config.limits.inline;
        let is_short = self.core.desk().transaction.as_ref().is_some_and(|it| it.spent <= limit);
        if is_short { self.take() } else { None }
    }

    /// What came of it on this thread; nothing if the writer's thread must do it.
    fn run_here<R>(
        &self,
        until: Instant,
        cancel: &Cancel,
        mut length: impl FnMut(&mut Executor) -> Length,
        work: &mut impl FnMut(&mut Executor, &Turn) -> R,
    ) -> Result<Option<Result<R, ShardError>>, ShardError> {
        let Some((mut writer, _)) = self.take() else { return Ok(None) };
        let began = Instant::now();
        let meter = self.core.meter.clone();
        let executor = &mut writer.connected().executor;
        let length = catch_unwind(AssertUnwindSafe(|| length(executor))).unwrap_or(Length::Long);
        let budget = match length {
            Length::Long => {
                writer.put_back(Duration::ZERO);
                return Ok(None);
            }
            Length::Interruptible => Some(self.core.config.limits.inline),
            Length::Short => None,
        };
        let turn = Turn::new(budget.is_none());
        meter.begin(budget, Some(until), cancel.clone());
        let result = catch_unwind(AssertUnwindSafe(|| work(executor, &turn)));
        let result = match (result, meter.end()) {
            (_, Some(Stopped::Budget)) => Ok(None),
            (_, Some(stopped)) => Err(stopped.error()),
            (Err(_), None) => Err(panicked()),
            (Ok(_), None) if turn.moves() => Ok(None),
            (Ok(result), None) => Ok(Some(Ok(result))),
        };
        match writer.is_over(result.as_ref().err()) {
            Some(why) => writer.end(why),
            None => writer.put_back(began.elapsed()),
        }
        // What went wrong was seen on what may not be settled, too.
        Ok(result.unwrap_or_else(|error| Some(Err(error))))
    }
}

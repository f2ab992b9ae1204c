//! Interactive transactions: one has the writer from its first write to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rung_sql::Executor;
use tokio::sync::oneshot;

use crate::batch::{panicked, sqlite_error};
use crate::cancel::Cancel;
use crate::core::{Core, Waiting};
use crate::error::ShardError;
use crate::job::{self, Answer, Boxed, Once, Reply, Stage};
use crate::token::Token;
use crate::writer::{Connected, Writer, may_go_on};

/// What an open transaction is asked to do next.
enum Step {
    Run(Once, Instant, Cancel, Reply<Boxed>),
    Commit(Reply<Token>),
    Rollback(Reply<()>),
}

/// The open transaction, as the desk knows it.
pub(crate) struct Slot {
    number: u64,
    step: Option<Step>,
    /// Nobody holds it any more.
    dropped: bool,
    /// When it began, and when its client was last answered.
    began: Instant,
    idle_since: Instant,
}

/// The end of a transaction that its client holds.
pub(crate) struct Handle {
    core: Arc<Core>,
    number: u64,
    /// Why the transaction is over, once it is.
    ended: Arc<Mutex<Option<ShardError>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(slot) = self.core.desk().transaction.as_mut()
            && slot.number == self.number
        {
            slot.dropped = true;
        }
        self.core.bell.notify_all();
    }
}

/// An open transaction of one client. It holds the shard's writer: everybody else
/// who writes waits for its end. Dropping it rolls it back.
///
/// It sees what was executed before it, be it on a quorum or not; but no result of
/// [`WriteTransaction::run`] leaves before what it saw is.
pub struct WriteTransaction(pub(crate) Handle);

impl WriteTransaction {
    /// Executes a part of the transaction. Savepoints are statements of the work.
    /// Each statement of it is atomic; what to do after an error is up to the caller.
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
        let (reply, answer) = oneshot::channel();
        let work: Once = Box::new(move |executor| Box::new(work(executor)));
        self.0.step(Step::Run(work, until, cancel.clone(), reply))?;
        let result = self.0.wait(answer, until, cancel.clone()).await?;
        Ok(*result.downcast::<R>().expect("the result is of the work's own type"))
    }

    /// Makes it durable on a quorum, and returns its position.
    ///
    /// # Errors
    /// [`ShardError::OutcomeUnknown`] when no quorum has answered before the deadline.
    /// After all others it was rolled back.
    pub async fn commit(self, deadline: Duration) -> Result<Token, ShardError> {
        let (reply, answer) = oneshot::channel();
        self.0.step(Step::Commit(reply))?;
        self.0.wait(answer, Instant::now() + deadline, Cancel::new()).await
    }

    /// Takes everything back.
    pub async fn rollback(self) {
        let (reply, answer) = oneshot::channel();
        if self.0.step(Step::Rollback(reply)).is_ok() {
            // Either way it is rolled back.
            let _ = answer.await;
        }
    }
}

impl Handle {
    fn why_ended(&self) -> Option<ShardError> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn step(&self, step: Step) -> Result<(), ShardError> {
        {
            let mut desk = self.core.desk();
            match desk.transaction.as_mut().filter(|slot| slot.number == self.number) {
                Some(slot) => slot.step = Some(step),
                None => {
                    drop(desk);
                    return Err(self.why_ended().unwrap_or(ShardError::Lost));
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
            Err(ShardError::Stopped(why)) => {
                Err(self.why_ended().unwrap_or(ShardError::Stopped(why)))
            }
            answer => answer,
        }
    }
}

/// How a transaction goes on.
enum Turned {
    Step(Step),
    /// Its client has gone.
    Dropped,
    Ended(ShardError),
}

impl Writer {
    /// Executes a transaction to its end. The turn is ours.
    pub fn interactive(&mut self, reply: Reply<Handle>, epoch: u64) {
        let core = Arc::clone(&self.core);
        if let Err(error) = self.statement("BEGIN IMMEDIATE") {
            let _ = reply.send(Err(sqlite_error(&error)));
            return;
        }
        let ended = Arc::default();
        let number = {
            let now = Instant::now();
            let mut desk = core.desk();
            desk.transactions += 1;
            let number = desk.transactions;
            let slot = Slot { number, step: None, dropped: false, began: now, idle_since: now };
            desk.transaction = Some(slot);
            number
        };
        let handle = Handle { core: Arc::clone(&core), number, ended: Arc::clone(&ended) };
        // If nobody waits any more, the handle is dropped, which ends it below.
        let _ = reply.send(Ok(handle));
        let why = self.steps(epoch);
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        core.desk().transaction = None;
        if self.is_connected() {
            self.roll_back();
        }
    }

    fn statement(&mut self, text: &str) -> rusqlite::Result<()> {
        self.connected().executor.connection().prepare_cached(text)?.execute([]).map(drop)
    }

    /// Works on the steps of the open transaction, and says why it is over.
    fn steps(&mut self, epoch: u64) -> ShardError {
        let most = self.core.config.limits.transaction_statements;
        for _ in 0..most {
            match self.next_step(epoch) {
                Turned::Dropped => return ShardError::Lost,
                Turned::Ended(why) => return why,
                Turned::Step(Step::Rollback(reply)) => {
                    let rolled_back = self.statement("ROLLBACK");
                    let _ = reply.send(rolled_back.map_err(|error| sqlite_error(&error)));
                    return ShardError::Lost;
                }
                Turned::Step(Step::Commit(reply)) => {
                    self.commit_transaction(epoch, reply);
                    return ShardError::Lost;
                }
                Turned::Step(Step::Run(work, until, cancel, reply)) => {
                    if let Some(why) = self.step(work, until, cancel, reply) {
                        return why;
                    }
                }
            }
        }
        ShardError::Overloaded("statements in one transaction")
    }

    /// Executes a part. Says why the transaction is over, if it is.
    fn step(
        &mut self,
        work: Once,
        until: Instant,
        cancel: Cancel,
        reply: Reply<Boxed>,
    ) -> Option<ShardError> {
        let core = Arc::clone(&self.core);
        core.meter.begin(None, Some(until), cancel);
        let executor = &mut self.connected().executor;
        let result = catch_unwind(AssertUnwindSafe(|| work(executor)));
        let stopped = core.meter.end();
        let is_over = self.connected().executor.connection().is_autocommit();
        let result = match (result, stopped) {
            (_, Some(stopped)) => Err(stopped.error()),
            (Err(_), None) => Err(panicked()),
            (Ok(result), None) => Ok(result),
        };
        let failed = result.as_ref().err().cloned();
        let answer = Box::new(move |settled: Answer<Token>| {
            let _ = reply.send(settled.and(result));
        });
        core.answer_after_last(vec![Waiting { kept: false, answer }]);
        if let Some(slot) = core.desk().transaction.as_mut() {
            slot.idle_since = Instant::now();
        }
        match failed {
            Some(error @ (ShardError::Lost | ShardError::Failed(_))) => Some(error),
            _ if is_over => Some(ShardError::Lost),
            _ => None,
        }
    }

    fn commit_transaction(&mut self, epoch: u64, reply: Reply<Token>) {
        let violation = self.connected().executor.deferred_violation();
        let refused = violation.map(|violation| ShardError::Refused(Box::new(violation)));
        let kept = refused.is_none();
        let answer = Box::new(move |settled: Answer<Token>| {
            // Whoever asked may have gone.
            let _ = reply.send(settled.and_then(|token| refused.map_or(Ok(token), Err)));
        });
        if kept {
            self.commit(epoch, vec![Waiting { kept, answer }]);
        } else {
            // What it says was read from what may not be settled.
            self.core.answer_after_last(vec![Waiting { kept, answer }]);
        }
    }

    /// Waits for the client, as long as it may take.
    fn next_step(&mut self, epoch: u64) -> Turned {
        let core = Arc::clone(&self.core);
        let limits = &core.config.limits;
        loop {
            if !may_go_on(&core, epoch) || core.meter.is_evicted() {
                return Turned::Ended(ShardError::Lost);
            }
            let mut desk = core.desk();
            let others = !desk.queue.is_empty();
            let paused = desk.paused;
            let Some(slot) = desk.transaction.as_mut() else {
                return Turned::Ended(ShardError::Lost);
            };
            if let Some(step) = slot.step.take() {
                return Turned::Step(step);
            }
            if slot.dropped {
                return Turned::Dropped;
            }
            let now = Instant::now();
            let mut ends = Vec::new();
            if others {
                ends.push((slot.idle_since + limits.transaction_idle, limits.transaction_idle));
                ends.push((slot.began + limits.transaction_time, limits.transaction_time));
            }
            if ends.iter().any(|(end, _)| *end <= now) {
                let longest = ends.iter().find(|(end, _)| *end <= now).map(|(_, time)| *time);
                return Turned::Ended(ShardError::TransactionTooLong(longest.unwrap_or_default()));
            }
            if let Some(since) = paused {
                ends.push((since + limits.hand_over_patience, limits.hand_over_patience));
                if since + limits.hand_over_patience <= now {
                    return Turned::Ended(ShardError::Lost);
                }
            }
            let first = ends.iter().map(|(end, _)| *end).min();
            let patience = first.map_or(Duration::from_secs(1), |end| end - now);
            let waited = core.bell.wait_timeout(desk, patience);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Executes something outside of any transaction. The turn is ours.
    pub fn alone(
        &mut self,
        work: Once,
        reply: Reply<(Boxed, Token)>,
        until: Instant,
        cancel: Cancel,
        epoch: u64,
    ) {
        let core = Arc::clone(&self.core);
        let Connected { executor, ticket, .. } = self.connected();
        let (result, stopped, captured) = {
            // The store must not work on the file while something is committed to it.
            let mut store = match core.store() {
                Ok(store) => store,
                Err(error) => {
                    // Nobody may be waiting any more.
                    let _ = reply.send(Err(ShardError::Stopped(error.to_string())));
                    return;
                }
            };
            core.meter.begin(None, Some(until), cancel);
            let result = catch_unwind(AssertUnwindSafe(|| work(executor)));
            let stopped = core.meter.end();
            if !executor.connection().is_autocommit() {
                // Its result says what went wrong; nothing is committed by this.
                let _ = executor.connection().execute_batch("ROLLBACK");
            }
            (result, stopped, store.capture(*ticket, epoch))
        };
        let result = match (result, stopped) {
            (_, Some(stopped)) => Err(stopped.error()),
            (Err(_), None) => Err(panicked()),
            (Ok(result), None) => Ok(result),
        };
        let kept = result.is_ok();
        let answer = Box::new(move |settled: Answer<Token>| {
            // Whoever asked may have gone.
            let _ = reply.send(settled.and_then(|token| Ok((result?, token))));
        });
        self.captured(captured, epoch, vec![Waiting { kept, answer }]);
    }
}

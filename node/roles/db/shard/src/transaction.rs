//! The open transaction as the desk knows it, and what the writer's thread does for
//! it: statements that may take long, and its end when its client does not end it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::batch::{panicked, sqlite_error};
use crate::cancel::Cancel;
use crate::core::Core;
use crate::desk::{Desk, Waiting};
use crate::error::ShardError;
use crate::interactive::Handle;
use crate::job::{Answer, Boxed, Once, Reply};
use crate::token::Token;
use crate::writer::Writer;

/// What the writer's thread is asked to do next in the open transaction.
pub(crate) enum Step {
    Run(Part),
    Commit(Reply<Token>),
    Rollback(Reply<()>),
}

/// Some of its statements.
pub(crate) struct Part {
    pub work: Once,
    pub until: Instant,
    pub cancel: Cancel,
    pub reply: Reply<Boxed>,
}

/// The open transaction.
pub(crate) struct Slot {
    pub number: u64,
    pub epoch: u64,
    pub step: Option<Step>,
    /// Nobody holds it any more.
    pub dropped: bool,
    /// When it began, and when its client was last answered.
    began: Instant,
    idle_since: Instant,
    /// How many statements it may still execute.
    pub statements: u64,
    /// How long its statements have taken.
    pub spent: Duration,
    /// Nothing while a statement is being executed, by whatever thread.
    pub writer: Option<Box<Writer>>,
    /// Why it is over, once it is.
    ended: Arc<Mutex<Option<ShardError>>>,
}

/// What an open transaction wants of the writer's thread.
pub(crate) enum Wanted {
    Step(Box<Writer>, Step),
    End(Box<Writer>, ShardError),
    /// Nothing before this time has passed, or the bell rings.
    Wait(Duration),
}

/// The longest time between two looks at a transaction that nobody waits for.
const LOOK: Duration = Duration::from_secs(1);

impl Slot {
    /// Why the transaction must end now: the copy must not go on with it.
    pub fn is_lost(&self, core: &Core, desk: &Desk) -> bool {
        !desk.may_go_on(self.epoch) || core.meter.is_evicted()
    }

    /// Until when it may go on as it is, and what is said then.
    fn ends(&self, core: &Core, desk: &Desk) -> Vec<(Instant, ShardError)> {
        let limits = &core.config.limits;
        let mut ends = Vec::new();
        if !desk.queue.is_empty() {
            for (since, time) in
                [(self.idle_since, limits.transaction_idle), (self.began, limits.transaction_time)]
            {
                ends.push((since + time, ShardError::TransactionTooLong(time)));
            }
        }
        if let Some(since) = desk.paused {
            ends.push((since + limits.hand_over_patience, ShardError::Lost));
        }
        ends
    }

    fn waits(&self, core: &Core, desk: &Desk, now: Instant) -> Result<Duration, ShardError> {
        let ends = self.ends(core, desk);
        if let Some((_, why)) = ends.iter().find(|(end, _)| *end <= now) {
            return Err(why.clone());
        }
        let limits = &core.config.limits;
        // Those who begin to wait for it ring no bell.
        let look = LOOK.min(limits.transaction_idle).min(limits.transaction_time);
        Ok(ends.iter().map(|(end, _)| *end - now).fold(look, Duration::min))
    }
}

impl Desk {
    /// What the open transaction wants of the writer's thread, if one is open.
    pub fn wanted(&mut self, core: &Core) -> Option<Wanted> {
        let mut slot = self.transaction.take()?;
        let wanted = self.wanted_by(core, &mut slot);
        self.transaction = Some(slot);
        Some(wanted)
    }

    fn wanted_by(&self, core: &Core, slot: &mut Slot) -> Wanted {
        // While a statement is executed nothing is decided: who executes it looks
        // whether there is something to decide.
        let Some(writer) = slot.writer.take() else { return Wanted::Wait(LOOK) };
        if slot.is_lost(core, self) {
            return Wanted::End(writer, ShardError::Lost);
        }
        if let Some(step) = slot.step.take() {
            if slot.statements == 0 {
                return Wanted::End(
                    writer,
                    ShardError::Overloaded("statements in one transaction"),
                );
            }
            slot.statements -= 1;
            return Wanted::Step(writer, step);
        }
        if slot.dropped {
            return Wanted::End(writer, ShardError::Lost);
        }
        match slot.waits(core, self, Instant::now()) {
            Err(why) => Wanted::End(writer, why),
            Ok(patience) => {
                slot.writer = Some(writer);
                Wanted::Wait(patience)
            }
        }
    }
}

impl Writer {
    /// Begins a transaction for whoever waits for it. The writer goes with it.
    pub fn open(mut self: Box<Self>, reply: Reply<Handle>, epoch: u64) {
        match self.open_handle(epoch) {
            Ok((handle, slot)) => {
                slot.place(self);
                // If nobody waits any more, the handle is dropped, which ends it.
                let _ = reply.send(Ok(handle));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
                self.rest();
            }
        }
    }

    /// Begins a transaction here.
    pub fn open_here(mut self: Box<Self>, epoch: u64) -> Result<Handle, ShardError> {
        match self.open_handle(epoch) {
            Ok((handle, slot)) => {
                slot.place(self);
                Ok(handle)
            }
            Err(error) => {
                self.rest();
                Err(error)
            }
        }
    }

    fn open_handle(&mut self, epoch: u64) -> Result<(Handle, Slot), ShardError> {
        self.begin().map_err(|error| sqlite_error(&error))?;
        let core = &self.core;
        let ended = Arc::default();
        let now = Instant::now();
        let number = {
            let mut desk = core.desk();
            desk.transactions += 1;
            desk.transactions
        };
        let slot = Slot {
            number,
            epoch,
            step: None,
            dropped: false,
            began: now,
            idle_since: now,
            statements: core.config.limits.transaction_statements,
            spent: Duration::ZERO,
            writer: None,
            ended: Arc::clone(&ended),
        };
        Ok((Handle::new(Arc::clone(core), number, ended), slot))
    }

    fn statement(&mut self, text: &str) -> rusqlite::Result<()> {
        self.connected().executor.connection().prepare_cached(text)?.execute([]).map(drop)
    }

    /// Does what the open transaction asks the writer's thread for.
    pub fn step(mut self: Box<Self>, step: Step, epoch: u64) {
        match step {
            Step::Rollback(reply) => {
                let rolled_back = self.statement("ROLLBACK");
                let _ = reply.send(rolled_back.map_err(|error| sqlite_error(&error)));
                self.end(ShardError::Lost);
            }
            Step::Commit(reply) => {
                self.commit_transaction(epoch, reply);
                self.end(ShardError::Lost);
            }
            Step::Run(Part { work, until, cancel, reply }) => {
                let core = Arc::clone(&self.core);
                let began = Instant::now();
                let result = self.run_step(work, until, cancel);
                match self.is_over(result.as_ref().err()) {
                    Some(why) => self.end(why),
                    None => self.put_back(began.elapsed()),
                }
                // The client may go on with the writer once it is answered. Whoever asked
                // may have gone.
                let answer = Box::new(move |settled: Answer<Token>| {
                    let _ = reply.send(settled.and(result));
                });
                core.answer_after_last(vec![Waiting { kept: false, answer }]);
            }
        }
    }

    /// Executes a part.
    fn run_step(&mut self, work: Once, until: Instant, cancel: Cancel) -> Answer<Boxed> {
        let core = Arc::clone(&self.core);
        core.meter.begin(None, Some(until), cancel);
        let executor = &mut self.connected().executor;
        let result = catch_unwind(AssertUnwindSafe(|| work(executor)));
        match (result, core.meter.end()) {
            (_, Some(stopped)) => Err(stopped.error()),
            (Err(_), None) => Err(panicked()),
            (Ok(result), None) => Ok(result),
        }
    }

    /// Why the transaction is over after a part of it, if it is.
    pub fn is_over(&mut self, failed: Option<&ShardError>) -> Option<ShardError> {
        let rolled_back = self.connected().executor.connection().is_autocommit();
        match failed {
            Some(error @ (ShardError::Lost | ShardError::Failed(_))) => Some(error.clone()),
            _ if rolled_back => Some(ShardError::Lost),
            _ => None,
        }
    }

    pub fn commit_transaction(&mut self, epoch: u64, reply: Reply<Token>) {
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

    /// The transaction goes on: its client is waited for.
    pub fn put_back(self: Box<Self>, spent: Duration) {
        let core = Arc::clone(&self.core);
        let mut desk = core.desk();
        let Some(mut slot) = desk.transaction.take() else {
            drop(desk);
            return self.rest();
        };
        slot.idle_since = Instant::now();
        slot.spent += spent;
        slot.writer = Some(self);
        let rings = slot.dropped || slot.is_lost(&core, &desk) || desk.paused.is_some();
        desk.transaction = Some(slot);
        drop(desk);
        if rings {
            core.bell.notify_all();
        }
    }

    /// The transaction is over. What is left of it is taken back.
    pub fn end(mut self: Box<Self>, why: ShardError) {
        let slot = self.core.desk().transaction.take();
        if let Some(slot) = slot {
            *slot.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
        if self.is_connected() {
            self.roll_back();
        }
        self.hand_on();
    }
}

impl Slot {
    fn place(mut self, writer: Box<Writer>) {
        let core = Arc::clone(&writer.core);
        self.writer = Some(writer);
        core.desk().transaction = Some(self);
    }
}

/// What a part of a transaction waits for before its result may leave: that what it
/// has seen is settled. Nothing if it is.
pub(crate) fn until_settled(core: &Core) -> Option<oneshot::Receiver<Answer<()>>> {
    if core.desk().is_settled() {
        return None;
    }
    let (reply, answer) = oneshot::channel();
    let told = Box::new(move |settled: Answer<Token>| {
        // Whoever asked may have gone.
        let _ = reply.send(settled.map(drop));
    });
    let waiting = Waiting { kept: false, answer: told };
    core.answer_after_last(vec![waiting]);
    Some(answer)
}

//! A draft at READ COMMITTED, before it reads: it goes on in a newer snapshot, and claims
//! what it has changed.

use std::time::{Duration, Instant};

use rung_sql::Executor;
use tokio::time::timeout_at;

use super::{Draft, Part, Snapshot, Tried, execute, with_sandbox};
use crate::cancel::Cancel;
use crate::changes::Row;
use crate::claims::{HELD, Taken, until_ended};
use crate::error::ShardError;
use crate::turn::{Length, Turn};

/// For so long it is waited for the log to settle what a snapshot lacks.
const SETTLING: Duration = Duration::from_secs(1);

/// For how long somebody may be waited for.
struct Wait<'a> {
    /// Then the claims of others are broken.
    patience: Instant,
    until: Instant,
    cancel: &'a Cancel,
}

impl Draft {
    /// Executes a part where it belongs. Says whether that may be let go.
    ///
    /// # Errors
    /// The transaction is over after all but [`ShardError::TimedOut`] and
    /// [`ShardError::Canceled`].
    pub async fn place<R>(
        &mut self,
        part: Option<Part>,
        until: Instant,
        cancel: &Cancel,
        length: &mut impl FnMut(&mut Executor) -> Length,
        work: &mut impl FnMut(&mut Executor, &Turn) -> R,
    ) -> Result<(Tried<R>, bool), ShardError> {
        let patience = Instant::now() + self.core.config.limits.transaction_idle;
        let wait = Wait { patience, until, cancel };
        loop {
            let may_let_go = match part {
                Some(Part::CommittedRead | Part::ConditionalWrite) => self.catch_up(&wait).await?,
                _ => false,
            };
            // What it executed before and was not to count.
            if self.is_ahead && !self.move_on(&wait).await? {
                return Ok((Tried::Writer, false));
            }
            let tried = self.run(until, cancel, length, work)?;
            let Tried::Done(_, done) = &tried else { return Ok((tried, may_let_go)) };
            let claims = may_let_go && part == Some(Part::ConditionalWrite);
            let Some(rows) = self.steps.old_rows(&done.changes).filter(|_| claims) else {
                return Ok((tried, may_let_go));
            };
            let taken = self.take(&rows, &wait);
            if matches!(taken, Taken::All) {
                return Ok((tried, may_let_go));
            }
            self.is_ahead = true;
            if !self.wait(taken, &wait).await? {
                return Ok((Tried::Writer, false));
            }
        }
    }

    /// Brings the draft to where it sees what is settled by now, and what the transaction has
    /// changed before is changed by nobody else until it ends. Says whether it could be; if
    /// not, what is executed now must come to the same when it is committed.
    async fn catch_up(&mut self, wait: &Wait<'_>) -> Result<bool, ShardError> {
        let mut has_moved = false;
        while self.steps.may_let_go() {
            let taken = self.take(&[], wait);
            if matches!(taken, Taken::All) && (has_moved || self.sees_all()) {
                return Ok(true);
            }
            // Whoever holds something is waited for first, and the snapshot taken then.
            has_moved = !matches!(taken, Taken::Held(_));
            if !self.wait(taken, wait).await? || has_moved && !self.move_on(wait).await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Claims what was changed, and these rows.
    fn take(&self, more: &[Row], wait: &Wait) -> Taken {
        if self.core.config.ignores_claims() {
            return Taken::All;
        }
        let (number, seen) = (self.steps.claim().number(), self.position.sequence);
        let breaks = Instant::now() >= wait.patience;
        self.core.claims.take(number, (self.steps.changed(), more), seen, breaks)
    }

    /// Waits for what keeps rows from being claimed. Says whether it was in time.
    async fn wait(&self, taken: Taken, wait: &Wait<'_>) -> Result<bool, ShardError> {
        if matches!(taken, Taken::ChangedAt(_) | Taken::Held(_)) {
            self.core.draft_rests(self.steps.claim().number());
        }
        let done = match taken {
            Taken::All | Taken::TooOld => true,
            Taken::ChangedAt(sequence) => self.settles(sequence, wait).await?,
            Taken::Held(ended) => {
                until_ended(ended, wait.patience.min(wait.until), wait.cancel).await?;
                true
            }
        };
        if Instant::now() >= wait.until { Err(ShardError::TimedOut(HELD)) } else { Ok(done) }
    }

    /// Whether nothing is settled that it does not see, and it is where its steps are.
    fn sees_all(&self) -> bool {
        !self.is_ahead && self.core.gate.position().sequence == self.position.sequence
    }

    /// Does what was done in a draft on a newer snapshot. Says whether there can be one.
    async fn move_on(&mut self, wait: &Wait<'_>) -> Result<bool, ShardError> {
        if self.steps.spent > self.core.config.limits.inline {
            return Ok(false);
        }
        let mut begun = Snapshot::begin(&self.core);
        if begun.is_none() && self.core.desk().waits_for_checkpoint(&self.core.config.limits) {
            // Which may wait for this one.
            self.snapshot.end();
            self.is_ahead = true;
            begun = Snapshot::begin_after_checkpoint(&self.core, wait.until).await;
        }
        let Some((snapshot, epoch, position)) = begun else { return Ok(false) };
        if epoch != self.epoch {
            return Err(ShardError::Lost);
        }
        let steps = &mut self.steps;
        let moved = with_sandbox(&snapshot.holder, |sandbox| {
            let log = sandbox.changes.clone();
            execute(sandbox, None, wait.until, wait.cancel, &mut |executor, _| {
                steps.again(executor, &log)
            })
        })?;
        let Tried::Done(moved, done) = moved else { return Ok(false) };
        moved?;
        self.steps.forget_inserted();
        self.steps.note(done.changes);
        (self.snapshot, self.position, self.is_ahead) = (snapshot, position, false);
        Ok(true)
    }

    /// Waits until everything up to this sequence is settled. Says whether it was in time.
    async fn settles(&self, sequence: u64, wait: &Wait<'_>) -> Result<bool, ShardError> {
        let until = wait.until.min(Instant::now() + SETTLING);
        let mut settled = self.core.settled.subscribe();
        let settles = settled.wait_for(|settled| settled.sequence >= sequence);
        tokio::select! {
            biased;
            settled = timeout_at(until.into(), settles) => Ok(matches!(settled, Ok(Ok(_)))),
            () = wait.cancel.canceled() => Err(ShardError::Canceled),
        }
    }
}

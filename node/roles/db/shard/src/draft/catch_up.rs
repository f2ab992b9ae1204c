//! A draft before a read of READ COMMITTED: it goes on in a newer snapshot, and claims what
//! it has changed.

use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::{Draft, Part, Snapshot, Tried, execute, with_sandbox};
use crate::cancel::Cancel;
use crate::claims::{HELD, Taken, until_ended};
use crate::error::ShardError;

/// For so long it is waited for the log to settle what a snapshot lacks.
const SETTLING: Duration = Duration::from_secs(1);

impl Draft {
    /// Brings the draft to where a part belongs. Says whether what it reads may be let go:
    /// it sees what is settled now, and what the transaction has changed before is changed
    /// by nobody else until it ends. If not, it must come to the same when that is
    /// committed.
    ///
    /// # Errors
    /// The transaction is over after all but [`ShardError::TimedOut`] and
    /// [`ShardError::Canceled`].
    pub async fn catch_up(
        &mut self,
        part: Option<Part>,
        until: Instant,
        cancel: &Cancel,
    ) -> Result<bool, ShardError> {
        if part != Some(Part::CommittedRead) {
            return Ok(false);
        }
        let patience = Instant::now() + self.core.config.limits.transaction_idle;
        while self.steps.may_let_go() {
            if !self.sees_all() && !self.move_on(until, cancel)? {
                return Ok(false);
            }
            if self.core.ignores_claims() {
                return Ok(true);
            }
            let (number, seen) = (self.steps.claim().number(), self.position.sequence);
            let breaks = Instant::now() >= patience;
            match self.core.claims.take(number, self.steps.changed(), seen, breaks) {
                Taken::All => return Ok(true),
                Taken::TooOld => {}
                Taken::ChangedAt(sequence) => {
                    if !self.settles(sequence, until, cancel).await? {
                        return Ok(false);
                    }
                }
                Taken::Held(ended) => until_ended(ended, patience.min(until), cancel).await?,
            }
            if Instant::now() >= until {
                return Err(ShardError::TimedOut(HELD));
            }
        }
        Ok(false)
    }

    /// Whether nothing is settled that it does not see.
    fn sees_all(&self) -> bool {
        self.core.gate.position().sequence == self.position.sequence
    }

    /// Does what was done in a draft on a newer snapshot. Says whether there can be one.
    fn move_on(&mut self, until: Instant, cancel: &Cancel) -> Result<bool, ShardError> {
        if self.steps.spent > self.core.config.limits.inline {
            return Ok(false);
        }
        let Some((snapshot, epoch, position)) = Snapshot::begin(&self.core) else {
            return Ok(false);
        };
        if epoch != self.epoch {
            return Err(ShardError::Lost);
        }
        let steps = &mut self.steps;
        let moved = with_sandbox(&snapshot.holder, |sandbox| {
            let log = sandbox.changes.clone();
            let moved = execute(sandbox, None, until, cancel, &mut |executor, _| {
                steps.again(executor, &log)
            });
            steps.note(sandbox.changes.take(sandbox.executor.connection()));
            moved
        })?;
        let Tried::Done(moved, _) = moved else { return Ok(false) };
        moved?;
        (self.snapshot, self.position) = (snapshot, position);
        Ok(true)
    }

    /// Waits until everything up to this sequence is settled. Says whether it was in time.
    async fn settles(
        &self,
        sequence: u64,
        until: Instant,
        cancel: &Cancel,
    ) -> Result<bool, ShardError> {
        let until = until.min(Instant::now() + SETTLING);
        let mut settled = self.core.settled.subscribe();
        let settles = settled.wait_for(|settled| settled.sequence >= sequence);
        tokio::select! {
            biased;
            settled = timeout_at(until.into(), settles) => Ok(matches!(settled, Ok(Ok(_)))),
            () = cancel.canceled() => Err(ShardError::Canceled),
        }
    }
}

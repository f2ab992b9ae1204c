//! What waits for a copy's writer and for its log, and what may be done now.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::Limits;
use crate::error::ShardError;
use crate::gathering::Gathering;
use crate::in_flight::InFlight;
use crate::job::{Answer, Job};
use crate::status::CopyState;
use crate::token::Token;
use crate::transaction::Slot;
use crate::writer::Writer;

/// Somebody who waits for a batch to be settled.
pub(crate) struct Waiting {
    /// Whether it has changed anything, so that its outcome may be unknown.
    pub kept: bool,
    pub answer: Box<dyn FnOnce(Answer<Token>) + Send>,
}

impl Waiting {
    pub fn fail(self, error: ShardError) {
        let error = match error {
            ShardError::OutcomeUnknown if !self.kept => ShardError::Lost,
            error => error,
        };
        (self.answer)(Err(error));
    }
}

/// What waits, and for what.
pub(crate) struct Desk {
    pub state: CopyState,
    pub queue: VecDeque<Job>,
    /// Jobs that have rolled a batch back and are executed by themselves.
    pub apart: Vec<Job>,
    pub in_flight: InFlight<Waiting>,
    pub gathering: Gathering,
    /// The log refused a batch: what is in flight must be taken back in the file.
    pub undo: bool,
    /// Taken back, but some of it may still be applied: nothing is executed before.
    pub undone: bool,
    /// The shard is being handed over.
    pub paused: Option<Instant>,
    pub transaction: Option<Slot>,
    /// Counts transactions.
    pub transactions: u64,
    /// The writer, while nobody executes with it and no transaction has it.
    pub writer: Option<Box<Writer>>,
    pub checkpoint: CheckpointNeed,
    pub closes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum CheckpointNeed {
    No,
    Due,
    /// Nothing may be written before it.
    Must,
}

impl Desk {
    pub fn new() -> Self {
        Self {
            state: CopyState::Follower { primary: None },
            queue: VecDeque::new(),
            apart: Vec::new(),
            in_flight: InFlight::default(),
            gathering: Gathering::default(),
            undo: false,
            undone: false,
            paused: None,
            transaction: None,
            transactions: 0,
            writer: None,
            checkpoint: CheckpointNeed::No,
            closes: false,
        }
    }

    /// The epoch in which this copy may execute writes.
    pub fn epoch(&self) -> Option<u64> {
        match self.state {
            CopyState::Primary { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// Whether a copy in this epoch executes writes, and nothing was taken back.
    pub fn may_go_on(&self, epoch: u64) -> bool {
        self.epoch() == Some(epoch) && !self.undo && !self.closes
    }

    /// The epoch in which the next write may be executed now, if one may.
    pub fn may_begin(&self, limits: &Limits) -> Option<u64> {
        self.may_execute(limits).filter(|_| self.paused.is_none())
    }

    /// The same for what ends a transaction that has begun: also for a while after
    /// nothing else may begin, because the shard is being handed over.
    pub fn may_end_draft(&self, limits: &Limits) -> Option<u64> {
        let in_time = |since: Instant| since.elapsed() < limits.hand_over_patience;
        self.may_execute(limits).filter(|_| self.paused.is_none_or(in_time))
    }

    fn may_execute(&self, limits: &Limits) -> Option<u64> {
        let drained = self.in_flight.is_empty();
        let room = self.in_flight.len() < limits.in_flight && (!self.undone || drained);
        let waits = self.waits_for_checkpoint(limits);
        self.epoch().filter(|epoch| room && !waits && self.may_go_on(*epoch))
    }

    /// Whether nothing may begin before a checkpoint is made. For that everything in flight
    /// must be settled; where the other copies are far away that takes long, so it is done
    /// four times less often.
    pub fn waits_for_checkpoint(&self, limits: &Limits) -> bool {
        match self.checkpoint {
            CheckpointNeed::No => false,
            CheckpointNeed::Due => self.in_flight.round() < limits.distant,
            CheckpointNeed::Must => true,
        }
    }

    /// Whether what is committed now does best to wait for what is committed next: by those
    /// who are under way, or because the log is busy.
    pub fn defers(&mut self, others: Option<Instant>, limits: &Limits) -> bool {
        let others = others.is_some() && self.may_gather();
        let gathers = match self.in_flight.deferred() {
            None => self.gathering.begins(others),
            Some(first) => {
                self.gathering.is_on() && others && first.since.elapsed() < limits.gather
            }
        };
        gathers || self.is_log_busy(limits)
    }

    /// Whether nothing waits for all that was executed to be settled.
    fn may_gather(&self) -> bool {
        self.paused.is_none() && self.checkpoint == CheckpointNeed::No
    }

    fn is_log_busy(&self, limits: &Limits) -> bool {
        self.in_flight.len() >= limits.pipeline
    }

    /// When what was deferred must become an entry, if something was. `others` are under way
    /// until then.
    pub fn due(&self, others: Option<Instant>, limits: &Limits) -> Option<Instant> {
        let since = self.in_flight.deferred()?.since;
        if self.is_log_busy(limits) {
            return Some(since + limits.defer);
        }
        let others = others.filter(|_| self.gathering.is_on() && self.may_gather());
        Some(others.map_or(since, |until| until.min(since + limits.gather)))
    }

    /// Whether everything that was executed is settled.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && !self.undo
    }

    /// Whether nobody executes anything and everything that was executed is settled.
    pub fn is_at_rest(&self) -> bool {
        self.writer.is_some() && self.in_flight.is_empty()
    }

    /// Whether the writer's thread has something to do that nobody else does, now or
    /// once less is in flight.
    pub fn writer_is_wanted(&self, limits: &Limits) -> bool {
        let jobs = !self.queue.is_empty() || !self.apart.is_empty();
        let checkpoint = self.waits_for_checkpoint(limits)
            || (self.checkpoint != CheckpointNeed::No && self.in_flight.is_empty());
        jobs || checkpoint || self.undo || self.closes
    }

    /// Why a write cannot be taken at all.
    pub fn refusal(&self) -> Option<ShardError> {
        match &self.state {
            CopyState::Primary { .. } | CopyState::Taking { .. } => None,
            CopyState::Follower { primary } => Some(ShardError::NotPrimary { primary: *primary }),
            CopyState::Stopped(stop) => Some(ShardError::Stopped(stop.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_wait_for_a_checkpoint_at_once_where_that_is_short_and_late_where_it_is_not() {
        let begins = |need, distant| {
            let mut desk = Desk::new();
            desk.state = CopyState::Primary { epoch: 1 };
            desk.checkpoint = need;
            // No batch has been settled, which is a round of no time.
            let limits = Limits { distant, ..Limits::default() };
            desk.may_begin(&limits).is_some()
        };
        let (near, far) = (std::time::Duration::from_millis(1), std::time::Duration::ZERO);
        assert!(begins(CheckpointNeed::No, near) && begins(CheckpointNeed::No, far));
        assert!(!begins(CheckpointNeed::Due, near) && begins(CheckpointNeed::Due, far));
        assert!(!begins(CheckpointNeed::Must, near) && !begins(CheckpointNeed::Must, far));
    }
}

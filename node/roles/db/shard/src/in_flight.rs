//! What was executed and is not settled: the batches in the order of their
//! positions, each with those who wait for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rung_pages::Position;

use crate::outbox::Deferred;

/// Batches that wait to be settled.
pub(crate) struct InFlight<A> {
    batches: VecDeque<Batch<A>>,
    /// What was committed on top of them and has no position yet.
    deferred: Option<Deferred<A>>,
    /// How long the last one that was settled took.
    round: Duration,
}

struct Batch<A> {
    position: Position,
    since: Instant,
    waiting: Vec<A>,
}

/// Who learns what when a position was settled.
pub(crate) struct Outcome<A> {
    /// Their batch is settled.
    pub settled: Vec<A>,
    /// Another entry took the place of their batch, so it will never be applied.
    pub lost: Vec<A>,
}

impl<A> Default for InFlight<A> {
    fn default() -> Self {
        Self { batches: VecDeque::new(), deferred: None, round: Duration::ZERO }
    }
}

impl<A> InFlight<A> {
    /// How many batches have a position.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.deferred.is_none()
    }

    pub fn contains(&self, position: &Position) -> bool {
        self.batches.iter().any(|batch| batch.position == *position)
    }

    /// How long the last batch that was settled took from its commit to that.
    pub fn round(&self) -> Duration {
        self.round
    }

    /// Something was committed that becomes a batch later, with what else does.
    pub fn defer(&mut self, new: Deferred<A>) {
        match &mut self.deferred {
            Some(deferred) => {
                (deferred.ticket, deferred.epoch) = (new.ticket, new.epoch);
                deferred.commits += new.commits;
                deferred.waiting.extend(new.waiting);
            }
            none => *none = Some(new),
        }
    }

    pub fn deferred(&self) -> Option<&Deferred<A>> {
        self.deferred.as_ref()
    }

    /// Those who wait for what has no position, when it gets none.
    pub fn take_back(&mut self) -> Vec<A> {
        self.deferred.take().map_or(Vec::new(), |deferred| deferred.waiting)
    }

    /// All that was committed on top of the batches has become one; these wait for it,
    /// and those who wait for what was deferred.
    pub fn push_all(&mut self, position: Position, waiting: Vec<A>) {
        let mut all = self.take_back();
        all.extend(waiting);
        self.batches.push_back(Batch { position, since: Instant::now(), waiting: all });
    }

    /// Those who have seen the state after the last commit wait for it too. They are
    /// given back when there is nothing to wait for. What was deferred waits for no more.
    pub fn attach(&mut self, waiting: Vec<A>) -> Result<(), Vec<A>> {
        match (&mut self.deferred, self.batches.back_mut()) {
            (Some(deferred), _) => {
                deferred.waiting.extend(waiting);
            }
            (None, Some(last)) => last.waiting.extend(waiting),
            (None, None) => return Err(waiting),
        }
        Ok(())
    }

    /// A position was settled. Each batch has its parent's hash in its own, so if it
    /// is not the first batch, none of them can be applied any more.
    pub fn settle(&mut self, position: &Position) -> Outcome<A> {
        if self.batches.front().is_some_and(|first| first.position == *position)
            && let Some(first) = self.batches.pop_front()
        {
            self.round = first.since.elapsed();
            return Outcome { settled: first.waiting, lost: Vec::new() };
        }
        Outcome { settled: Vec::new(), lost: self.take_all() }
    }

    /// A snapshot took the place of everything. It holds the batch whose position it
    /// has, and those before it; those behind it may still come. If it has another
    /// position, nobody can tell which batches are part of its history: the second are
    /// those who wait for any of them. Call [`InFlight::take_back`] first.
    pub fn restored(&mut self, position: &Position) -> (Vec<A>, Vec<A>) {
        match self.batches.iter().position(|batch| batch.position == *position) {
            Some(at) => (self.batches.drain(..=at).flat_map(|it| it.waiting).collect(), Vec::new()),
            None => (Vec::new(), self.take_all()),
        }
    }

    /// The log did not take a batch: it and those after it will never be applied.
    pub fn refuse(&mut self, position: &Position) -> Option<(Vec<A>, Vec<A>)> {
        let at = self.batches.iter().position(|batch| batch.position == *position)?;
        let mut refused = self.batches.split_off(at);
        let first = refused.pop_front().map_or(Vec::new(), |batch| batch.waiting);
        let mut later: Vec<A> = refused.into_iter().flat_map(|batch| batch.waiting).collect();
        later.extend(self.take_back());
        Some((first, later))
    }

    pub fn take_all(&mut self) -> Vec<A> {
        let mut all: Vec<A> = self.batches.drain(..).flat_map(|batch| batch.waiting).collect();
        all.extend(self.take_back());
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(sequence: u64, hash: u8) -> Position {
        Position { generation: 0, epoch: 1, sequence, hash: [hash; 32] }
    }

    fn three() -> InFlight<&'static str> {
        let mut in_flight = InFlight::default();
        in_flight.push_all(position(1, 1), vec!["a"]);
        in_flight.push_all(position(2, 2), vec!["b"]);
        in_flight.push_all(position(3, 3), vec!["c"]);
        in_flight
    }

    #[test]
    fn a_snapshot_settles_what_it_is_known_to_hold_and_leaves_open_what_is_not() {
        let mut in_flight = three();
        assert_eq!(in_flight.restored(&position(2, 2)), (vec!["a", "b"], vec![]));
        assert_eq!(in_flight.settle(&position(3, 3)).settled, vec!["c"]);
        let mut in_flight = three();
        assert_eq!(in_flight.restored(&position(7, 7)), (vec![], vec!["a", "b", "c"]));
        assert!(in_flight.is_empty());
    }

    #[test]
    fn batches_are_settled_in_their_order() {
        let mut in_flight = three();
        for (sequence, who) in [(1, "a"), (2, "b"), (3, "c")] {
            let outcome = in_flight.settle(&position(sequence, sequence as u8));
            assert_eq!((outcome.settled, outcome.lost), (vec![who], vec![]));
        }
        assert!(in_flight.is_empty());
    }

    #[test]
    fn an_entry_of_another_history_loses_all() {
        let mut in_flight = three();
        let outcome = in_flight.settle(&position(1, 9));
        assert_eq!((outcome.settled, outcome.lost), (vec![], vec!["a", "b", "c"]));
    }

    #[test]
    fn what_the_log_refused_takes_with_it_what_was_built_on_it() {
        let mut in_flight = three();
        assert_eq!(in_flight.refuse(&position(2, 2)), Some((vec!["b"], vec!["c"])));
        assert_eq!(in_flight.refuse(&position(2, 2)), None);
        assert_eq!(in_flight.settle(&position(1, 1)).settled, vec!["a"]);
    }

    #[test]
    fn who_has_seen_the_last_batch_waits_for_it() {
        let mut in_flight = three();
        assert_eq!(in_flight.attach(vec!["d"]), Ok(()));
        in_flight.settle(&position(1, 1));
        in_flight.settle(&position(2, 2));
        assert_eq!(in_flight.settle(&position(3, 3)).settled, vec!["c", "d"]);
        assert_eq!(in_flight.attach(vec!["e"]), Err(vec!["e"]));
    }
}

//! What is to be done when, in one ordered queue.

use std::collections::BTreeMap;
use std::time::Duration;

/// Jobs by the time at which they are due; jobs due at the same time keep their
/// order.
#[derive(Debug)]
pub(crate) struct Timers<J> {
    queue: BTreeMap<(Duration, u64), J>,
    sequence: u64,
}

impl<J> Timers<J> {
    pub(crate) fn new() -> Self {
        Self { queue: BTreeMap::new(), sequence: 0 }
    }

    pub(crate) fn add(&mut self, due: Duration, job: J) {
        self.sequence += 1;
        self.queue.insert((due, self.sequence), job);
    }

    /// When the first job is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.queue.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes the first job if it is due.
    pub(crate) fn take_due(&mut self, now: Duration) -> Option<J> {
        self.next().filter(|due| *due <= now)?;
        self.queue.pop_first().map(|(_, job)| job)
    }

    /// Moves every job to a later time, as if time had stood still.
    pub(crate) fn shift(&mut self, by: Duration) {
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().map(|((due, n), job)| ((due + by, n), job)).collect();
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_in_the_order_of_their_time_and_then_of_their_making() {
        let at = Duration::from_millis;
        let mut timers = Timers::new();
        timers.add(at(5), "b");
        timers.add(at(5), "c");
        timers.add(at(1), "a");
        assert_eq!(timers.take_due(at(0)), None);
        let mut order = Vec::new();
        while let Some(job) = timers.take_due(at(5)) {
            order.push(job);
        }
        assert_eq!(order, ["a", "b", "c"]);
        timers.add(at(7), "d");
        timers.shift(at(3));
        assert_eq!(timers.next(), Some(at(10)));
    }
}

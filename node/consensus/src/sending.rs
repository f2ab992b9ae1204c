//! Snapshots on their way to other replicas: the log keeps what follows them.
//!
//! A replica that has received one goes on from there. Were the log purged beyond it
//! meanwhile, which takes seconds where much is written, it would need another one, and
//! of a large state never have a whole one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft_types::RaftLogId;

/// Bytes of entries that are kept for snapshots that are being sent. One that more has
/// followed than that is sent in vain.
const KEEP_BYTES: u64 = 1 << 30;

/// By their numbers: the entry that each is the state at, and how many bytes of entries
/// had been applied when it began.
type Begun = Arc<Mutex<BTreeMap<u64, (RaftLogId, u64)>>>;

/// The snapshots that are being sent.
#[derive(Default)]
pub(crate) struct Sends {
    begun: Begun,
    next: u64,
    /// Bytes of entries that were applied.
    applied: u64,
}

/// One that is being sent, until this is dropped.
pub(crate) struct Sending {
    begun: Begun,
    number: u64,
}

fn lock(begun: &Begun) -> MutexGuard<'_, BTreeMap<u64, (RaftLogId, u64)>> {
    begun.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sends {
    /// Begins to send the state at an entry.
    pub(crate) fn begin(&mut self, at: RaftLogId) -> Sending {
        let number = self.next;
        self.next += 1;
        lock(&self.begun).insert(number, (at, self.applied));
        Sending { begun: Arc::clone(&self.begun), number }
    }

    /// Entries of so many bytes were applied.
    pub(crate) fn applied(&mut self, bytes: u64) {
        self.applied += bytes;
    }

    /// Up to where the log may be purged, when it could be up to `durable`.
    pub(crate) fn limit(&self, durable: Option<RaftLogId>) -> Option<RaftLogId> {
        let begun = lock(&self.begun);
        let kept_for = begun.values().filter(|(_, before)| self.applied - before <= KEEP_BYTES);
        match kept_for.map(|(at, _)| *at).min() {
            Some(oldest) => durable.min(Some(oldest)),
            None => durable,
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.begun).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::log_id;
    use crate::status::Position;

    fn at(index: u64) -> RaftLogId {
        log_id(Position { term: 1, index })
    }

    #[test]
    fn the_log_keeps_what_follows_a_snapshot_until_it_has_arrived() {
        let mut sends = Sends::default();
        assert_eq!(sends.limit(Some(at(9))), Some(at(9)), "nothing is sent");
        let (first, second) = (sends.begin(at(5)), sends.begin(at(7)));
        assert_eq!(sends.limit(Some(at(9))), Some(at(5)));
        assert_eq!(sends.limit(Some(at(3))), Some(at(3)));
        drop(first);
        assert_eq!(sends.limit(Some(at(9))), Some(at(7)));
        drop(second);
        assert_eq!(sends.limit(Some(at(9))), Some(at(9)));
    }

    #[test]
    fn it_does_not_keep_everything() {
        let mut sends = Sends::default();
        sends.applied(KEEP_BYTES + 1);
        let _first = sends.begin(at(5));
        assert_eq!(sends.limit(Some(at(9))), Some(at(5)), "what came before does not count");
        sends.applied(KEEP_BYTES);
        let _second = sends.begin(at(7));
        assert_eq!(sends.limit(Some(at(9))), Some(at(5)));
        sends.applied(1);
        assert_eq!(sends.limit(Some(at(9))), Some(at(7)), "each is counted by itself");
        sends.applied(KEEP_BYTES);
        assert_eq!(sends.limit(Some(at(9))), Some(at(9)));
    }
}

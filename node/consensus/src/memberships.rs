//! The memberships that a replica has applied, for a state that may be older than
//! the newest of them.

use std::collections::VecDeque;

use crate::raft_types::{RaftLogId, RaftStoredMembership};

/// Those that were applied, the newest last, as far back as somebody may ask.
pub(crate) struct Memberships(VecDeque<RaftStoredMembership>);

impl Memberships {
    /// One that was applied, or the empty one of a replica that has applied none.
    pub(crate) fn new(first: RaftStoredMembership) -> Self {
        Self(VecDeque::from([first]))
    }

    pub(crate) fn newest(&self) -> &RaftStoredMembership {
        self.0.back().expect("there is always one")
    }

    /// Another was applied. Entries that were applied before a crash are applied
    /// again after it.
    pub(crate) fn apply(&mut self, membership: RaftStoredMembership) {
        self.0.retain(|known| known.log_id() < membership.log_id());
        self.0.push_back(membership);
    }

    /// The one in force at an entry, if that is known.
    pub(crate) fn at(&self, entry: &RaftLogId) -> Option<&RaftStoredMembership> {
        self.0.iter().rev().find(|known| known.log_id().as_ref() <= Some(entry))
    }

    /// Nobody will ask for one before this entry.
    pub(crate) fn forget_before(&mut self, entry: &RaftLogId) {
        while self.0.len() > 1 && self.0[1].log_id().as_ref() <= Some(entry) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft_types::{RaftMembership, log_id};
    use crate::status::Position;

    fn id(index: u64) -> RaftLogId {
        log_id(Position { term: 1, index })
    }

    fn membership(index: u64) -> RaftStoredMembership {
        RaftStoredMembership::new(Some(id(index)), RaftMembership::default())
    }

    fn at(memberships: &Memberships, index: u64) -> Option<u64> {
        memberships.at(&id(index)).and_then(|found| found.log_id().as_ref()).map(|id| id.index)
    }

    #[test]
    fn the_one_in_force_at_an_entry_is_found() {
        let mut memberships = Memberships::new(membership(3));
        memberships.apply(membership(7));
        memberships.apply(membership(9));
        assert_eq!(at(&memberships, 2), None);
        assert_eq!(at(&memberships, 3), Some(3));
        assert_eq!(at(&memberships, 8), Some(7));
        assert_eq!(at(&memberships, 50), Some(9));
    }

    #[test]
    fn only_those_that_nobody_asks_for_are_forgotten() {
        let mut memberships = Memberships::new(membership(3));
        memberships.apply(membership(7));
        memberships.apply(membership(9));
        memberships.forget_before(&id(8));
        assert_eq!(at(&memberships, 6), None);
        assert_eq!(at(&memberships, 8), Some(7));
        memberships.forget_before(&id(100));
        assert_eq!(at(&memberships, 100), Some(9));
    }

    #[test]
    fn one_that_is_applied_again_is_known_once() {
        let mut memberships = Memberships::new(membership(9));
        memberships.apply(membership(3));
        memberships.apply(membership(9));
        assert_eq!(at(&memberships, 4), Some(3));
        assert_eq!(memberships.0.len(), 2);
    }
}

//! What an entry of the log means to a copy: decided from positions alone, the
//! same on every copy.

use std::collections::VecDeque;

use crate::entry::{Entry, Part};
use crate::position::Position;
use crate::spool::Pending;

/// What is to be done with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// It starts from another position, or is an older barrier.
    Skip,
    /// A part that is not the last of its commit.
    Keep,
    /// This copy has made it itself: the front of what is in flight.
    Settle,
    /// Its pages are to be written, and those of the parts that were kept before.
    Write {
        /// Those parts.
        kept: Option<Pending>,
    },
    /// It starts an epoch.
    Barrier,
}

/// Where a copy is while entries are being decided.
pub(crate) struct Plan {
    /// After the entries decided so far.
    pub position: Position,
    /// Parts kept after the entries decided so far.
    pub pending: Option<Pending>,
    /// What is in flight and not settled.
    in_flight: VecDeque<Position>,
    /// Whether a commit is in flight that is no entry.
    uncaptured: bool,
    /// To leave out the check of the parent, so that tests can notice.
    pub unchecked: bool,
}

impl Plan {
    pub fn new(
        position: Position,
        pending: Option<Pending>,
        in_flight: VecDeque<Position>,
        uncaptured: bool,
    ) -> Plan {
        Plan { position, pending, in_flight, uncaptured, unchecked: false }
    }

    /// Decides about the next entry, as if those before had been carried out, and
    /// whether what is in flight must be undone first.
    pub fn decide(&mut self, index: u64, entry: &Entry<'_>, bytes: &[u8]) -> (Decision, bool) {
        match entry {
            Entry::Barrier { generation, epoch } => {
                let now = self.position;
                if *generation < now.generation || *epoch <= now.epoch {
                    return (Decision::Skip, false);
                }
                let content = blake3::hash(bytes);
                let position = now.next(*generation, *epoch, content.as_bytes());
                (Decision::Barrier, self.take_over(position))
            }
            Entry::Pages(part) => self.decide_pages(index, part),
        }
    }

    fn decide_pages(&mut self, index: u64, part: &Part<'_>) -> (Decision, bool) {
        if part.parent != self.position && !self.unchecked {
            return (Decision::Skip, false);
        }
        let pending = self.pending.filter(|pending| pending.target == part.position);
        let kept = pending.map_or(0, |pending| pending.parts);
        if part.part != 0 && part.part != kept {
            return (Decision::Skip, false);
        }
        if !part.is_last() {
            let first_index = match pending {
                Some(pending) if part.part > 0 => pending.first_index,
                _ => index,
            };
            let parts = part.part + 1;
            self.pending = Some(Pending { target: part.position, parts, first_index });
            return (Decision::Keep, false);
        }
        if self.in_flight.front() == Some(&part.position) {
            self.in_flight.pop_front();
            self.position = part.position;
            self.pending = None;
            return (Decision::Settle, false);
        }
        let undo = self.take_over(part.position);
        (Decision::Write { kept: pending.filter(|_| part.part > 0) }, undo)
    }

    /// Something else takes the place of what is in flight, which has now lost its
    /// parent. Whether there is anything to undo.
    fn take_over(&mut self, position: Position) -> bool {
        let undo = self.uncaptured || !self.in_flight.is_empty();
        self.in_flight.clear();
        self.uncaptured = false;
        self.position = position;
        self.pending = None;
        undo
    }
}

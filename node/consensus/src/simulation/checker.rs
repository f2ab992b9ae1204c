//! What must hold in every run.
//!
//! The log is the witness: every write has a place in it, so a history is
//! linearizable if each read saw the last write before some place in the log
//! and if those places respect the order of operations in real time.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::machine::{Command, Registers};

/// A write or a read of one register, as a client saw it.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub key: u64,
    pub kind: Kind,
    pub began: Instant,
    /// Nothing when the outcome is unknown.
    pub ended: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The id written, and the index that was acknowledged.
    Write { id: u64, index: Option<u64> },
    /// The id and index of the write seen, if any.
    Read { seen: Option<(u64, u64)> },
}

/// Everything that was applied, acknowledged and led.
#[derive(Default)]
pub(super) struct Ledger {
    entries: BTreeMap<u64, (u64, Command, u64)>,
    ids: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
    operations: Vec<Operation>,
    refused: BTreeSet<u64>,
    pub violations: Vec<String>,
}

impl Ledger {
    pub fn violation(&mut self, what: String) {
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    /// A replica applied an entry; `digest` is that of its state then.
    pub fn applied(&mut self, index: u64, term: u64, command: Command, digest: u64) {
        match self.entries.get(&index) {
            None => {
                self.entries.insert(index, (term, command, digest));
                if let Some(other) = self.ids.insert(command.id, index) {
                    self.violation(format!("proposal {} is at {other} and {index}", command.id));
                }
            }
            Some(seen) if *seen == (term, command, digest) => {}
            Some(seen) => {
                let what = format!(
                    "index {index} was applied as {seen:?} and as {:?}",
                    (term, command, digest)
                );
                self.violation(what);
            }
        }
    }

    /// A replica restored a snapshot.
    pub fn restored(&mut self, state: &Registers) {
        match self.entries.get(&state.index) {
            Some((_, _, digest)) if *digest == state.digest => {}
            None if state.last.is_empty() => {}
            seen => {
                let what = format!("a snapshot at {} differs from {seen:?}", state.index);
                self.violation(what);
            }
        }
    }

    /// A node says that it leads.
    pub fn leads(&mut self, term: u64, node: u64) {
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            self.violation(format!("nodes {first} and {node} both lead in term {term}"));
        }
    }

    pub fn observed(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// A node said that it did not propose this.
    pub fn refused(&mut self, id: u64) {
        self.refused.insert(id);
    }

    pub fn acknowledged(&self) -> usize {
        self.operations
            .iter()
            .filter(|operation| {
                operation.ended.is_some() && matches!(operation.kind, Kind::Write { .. })
            })
            .count()
    }

    pub fn reads(&self) -> usize {
        self.operations.iter().filter(|op| matches!(op.kind, Kind::Read { .. })).count()
    }

    pub fn terms(&self) -> usize {
        self.leaders.len()
    }

    /// What a state must be that has applied everything.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.entries.last_key_value().map(|(index, (_, _, digest))| (*index, *digest))
    }

    /// Checks what the clients saw.
    pub fn check(&mut self) {
        let mut violations = acknowledged_are_present(&self.operations, &self.entries);
        for id in self.refused.iter().filter(|id| self.ids.contains_key(id)) {
            violations.push(format!("{id} was refused and is at {}", self.ids[id]));
        }
        let keys: BTreeSet<u64> = self.operations.iter().map(|operation| operation.key).collect();
        for key in keys {
            let of_key: Vec<&Operation> =
                self.operations.iter().filter(|operation| operation.key == key).collect();
            violations.extend(linearizable(&of_key, &self.ids));
        }
        violations.into_iter().for_each(|what| self.violation(what));
    }
}

fn acknowledged_are_present(
    operations: &[Operation],
    entries: &BTreeMap<u64, (u64, Command, u64)>,
) -> Vec<String> {
    let mut violations = Vec::new();
    for operation in operations {
        if let Kind::Write { id, index: Some(index) } = operation.kind
            && entries.get(&index).is_none_or(|(_, command, _)| command.id != id)
        {
            let found = entries.get(&index);
            violations.push(format!("{id} was acknowledged at {index}, there is {found:?}"));
        }
    }
    violations
}

/// The place of an operation in the log: a write is at its entry, a read right
/// after the write that it saw.
fn place(operation: &Operation, ids: &BTreeMap<u64, u64>) -> Option<(u64, bool)> {
    match &operation.kind {
        Kind::Write { id, .. } => ids.get(id).map(|index| (*index, false)),
        Kind::Read { seen } => Some((seen.map_or(0, |(_, index)| index), true)),
    }
}

/// Checks the operations on one register, in time proportional to n log n: going
/// through them by their beginning, the latest place of those that had ended
/// before must not be after theirs.
fn linearizable(operations: &[&Operation], ids: &BTreeMap<u64, u64>) -> Vec<String> {
    let mut violations = Vec::new();
    for operation in operations {
        if let Kind::Read { seen: Some((id, index)) } = operation.kind
            && ids.get(&id) != Some(&index)
        {
            violations.push(format!("a read saw {id} at {index}, which was never committed"));
        }
    }
    let placed: Vec<(&Operation, (u64, bool))> = operations
        .iter()
        .filter_map(|operation| Some((*operation, place(operation, ids)?)))
        .collect();
    let mut by_begin = placed.clone();
    by_begin.sort_by_key(|(operation, _)| operation.began);
    let mut by_end: Vec<_> = placed
        .iter()
        .filter_map(|(operation, at)| Some((operation.ended?, *at, *operation)))
        .collect();
    by_end.sort_by_key(|(ended, _, _)| *ended);
    let mut ended = by_end.into_iter().peekable();
    let mut latest: Option<((u64, bool), &Operation)> = None;
    for (operation, at) in by_begin {
        while let Some((_, at, earlier)) = ended.next_if(|(end, _, _)| *end < operation.began) {
            if latest.is_none_or(|(latest, _)| at > latest) {
                latest = Some((at, earlier));
            }
        }
        // A read may stand at the same place as an earlier read, or right after
        // the write that it saw.
        if let Some((before, earlier)) = latest
            && at < before
        {
            violations.push(format!("{operation:?} at {at:?} is before {earlier:?} at {before:?}"));
        }
    }
    violations
}

mod tests {
    use std::time::Duration;

    use super::*;

    fn history(operations: &[(Kind, u64, Option<u64>)], log: &[(u64, u64)]) -> Vec<String> {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_millis(millis);
        let operations: Vec<Operation> = operations
            .iter()
            .map(|(kind, began, ended)| Operation {
                key: 1,
                kind: kind.clone(),
                began: at(*began),
                ended: ended.map(at),
            })
            .collect();
        let references: Vec<&Operation> = operations.iter().collect();
        linearizable(&references, &log.iter().copied().collect())
    }

    fn write(id: u64) -> Kind {
        Kind::Write { id, index: None }
    }

    fn read(seen: Option<(u64, u64)>) -> Kind {
        Kind::Read { seen }
    }

    #[test]
    fn a_read_of_the_last_write_is_accepted() {
        let log = [(7, 1), (8, 2)];
        let seen = history(
            &[
                (write(7), 0, Some(10)),
                (write(8), 20, Some(30)),
                (read(Some((8, 2))), 40, Some(50)),
            ],
            &log,
        );
        assert_eq!(seen, Vec::<String>::new());
    }

    #[test]
    fn a_stale_read_is_refused() {
        let log = [(7, 1), (8, 2)];
        let seen = history(
            &[
                (write(7), 0, Some(10)),
                (write(8), 20, Some(30)),
                (read(Some((7, 1))), 40, Some(50)),
            ],
            &log,
        );
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    #[test]
    fn two_reads_that_go_back_in_time_are_refused() {
        let log = [(7, 1)];
        let seen = history(
            &[(write(7), 0, None), (read(Some((7, 1))), 20, Some(30)), (read(None), 40, Some(50))],
            &log,
        );
        assert_eq!(seen.len(), 1, "{seen:?}");
    }

    #[test]
    fn concurrent_operations_may_stand_in_any_order() {
        let log = [(8, 1), (7, 2)];
        let seen = history(
            &[
                (write(7), 0, Some(100)),
                (write(8), 10, Some(90)),
                (read(Some((8, 1))), 20, Some(80)),
            ],
            &log,
        );
        assert_eq!(seen, Vec::<String>::new());
    }

    #[test]
    fn a_read_of_a_lost_write_is_refused() {
        let seen = history(&[(read(Some((9, 4))), 0, Some(10))], &[]);
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

//! Linearizable registers: every operation on one happens at an instant between its
//! call and its answer.
//!
//! The search is Wing and Gong's, with Lowe's memory of states that were met. Writers
//! never use a value twice, which lets it leave out unknown writes that nobody saw.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Nanos, Timed};

/// An operation on one register. Registers begin with 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// With what was read.
    Read(i64),
    Write(i64),
    /// A write that was done because the value was `from`.
    Swap {
        from: i64,
        to: i64,
    },
}

/// An operation and its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keyed {
    pub key: u32,
    pub register: Register,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no order that explains it. The farthest order stops here.
    NotLinearizable { key: u32, explained: usize, stuck_at: String },
    /// A value was read that was refused, or that nobody wrote.
    NeverWritten { key: u32, value: i64 },
    /// The search was given up.
    Undecided { key: u32, states: usize },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NotLinearizable { key, explained, stuck_at } => {
                write!(f, "register {key}: {explained} operations are explained, not {stuck_at}")
            }
            Fault::NeverWritten { key, value } => {
                write!(f, "register {key}: {value} was read, and never written")
            }
            Fault::Undecided { key, states } => {
                write!(f, "register {key}: undecided after {states} states")
            }
        }
    }
}

/// States of one register's search; so many take about 100 MB.
const MAX_STATES: usize = 1_000_000;

/// Checks each register by itself, which decides for all of them.
pub fn check(history: &[Timed<Keyed>]) -> Vec<Fault> {
    let mut by_key: HashMap<u32, Vec<Operation>> = HashMap::new();
    for timed in history {
        if timed.is_refused() {
            continue;
        }
        let operation = Operation {
            invoked: timed.invoked,
            last: timed.last(),
            may_be_left_out: timed.is_unknown(),
            register: timed.what.register,
        };
        by_key.entry(timed.what.key).or_default().push(operation);
    }
    let mut keys: Vec<_> = by_key.into_iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    keys.into_iter().filter_map(|(key, operations)| check_one(key, operations)).collect()
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    invoked: Nanos,
    last: Nanos,
    may_be_left_out: bool,
    register: Register,
}

fn check_one(key: u32, mut operations: Vec<Operation>) -> Option<Fault> {
    let needs = |operation: &Operation| match operation.register {
        Register::Read(value) => Some(value),
        Register::Swap { from, .. } => Some(from),
        Register::Write(_) => None,
    };
    let gives = |operation: &Operation| match operation.register {
        Register::Read(_) => None,
        Register::Swap { to, .. } => Some(to),
        Register::Write(value) => Some(value),
    };
    let given: HashSet<i64> = operations.iter().filter_map(gives).chain([0]).collect();
    let known = operations.iter().filter(|operation| !operation.may_be_left_out);
    if let Some(value) = known.filter_map(needs).find(|value| !given.contains(value)) {
        return Some(Fault::NeverWritten { key, value });
    }
    // Without a reader, an order with the unknown write is one without it as well.
    let needed: HashSet<i64> = operations.iter().filter_map(needs).collect();
    operations.retain(|operation| {
        !operation.may_be_left_out || gives(operation).is_some_and(|value| needed.contains(&value))
    });
    operations.sort_by_key(|operation| operation.invoked);
    Search::new(operations).run(key)
}

/// What has happened so far in an order, and the value that it left.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    /// Everything before this has happened.
    from: usize,
    /// What has happened after it, ascending.
    beyond: Vec<usize>,
    value: i64,
}

struct Search {
    operations: Vec<Operation>,
    met: HashSet<State>,
}

impl Search {
    fn new(operations: Vec<Operation>) -> Self {
        Self { operations, met: HashSet::new() }
    }

    fn run(mut self, key: u32) -> Option<Fault> {
        let first = State { from: 0, beyond: Vec::new(), value: 0 };
        let mut farthest = first.clone();
        let mut stack = vec![first];
        while let Some(state) = stack.pop() {
            if self.is_end(&state) {
                return None;
            }
            if self.met.len() >= MAX_STATES {
                return Some(Fault::Undecided { key, states: self.met.len() });
            }
            if state.from + state.beyond.len() > farthest.from + farthest.beyond.len() {
                farthest = state.clone();
            }
            for next in self.successors(&state) {
                if self.met.insert(next.clone()) {
                    stack.push(next);
                }
            }
        }
        let explained = farthest.from + farthest.beyond.len();
        let waiting = self.candidates(&farthest);
        let waiting: Vec<_> = waiting.iter().map(|index| self.operations[*index]).collect();
        let value = farthest.value;
        let stuck_at = format!("any of {waiting:?} while the value is {value}");
        Some(Fault::NotLinearizable { key, explained, stuck_at })
    }

    fn is_end(&self, state: &State) -> bool {
        let has_happened = |index: &usize| state.beyond.binary_search(index).is_ok();
        (state.from..self.operations.len())
            .all(|index| self.operations[index].may_be_left_out || has_happened(&index))
    }

    /// What can happen next: whatever was called before anything else had to end.
    fn candidates(&self, state: &State) -> Vec<usize> {
        let mut candidates = Vec::new();
        let mut earliest_end = Nanos::MAX;
        for (index, operation) in self.operations.iter().enumerate().skip(state.from) {
            if operation.invoked > earliest_end {
                break;
            }
            if state.beyond.binary_search(&index).is_err() {
                earliest_end = earliest_end.min(operation.last);
                candidates.push(index);
            }
        }
        candidates.retain(|index| self.operations[*index].invoked <= earliest_end);
        candidates
    }

    fn successors(&self, state: &State) -> Vec<State> {
        let candidates = self.candidates(state);
        // A read that fits changes nothing, so it may as well happen now.
        let fits =
            |index: &&usize| self.operations[**index].register == Register::Read(state.value);
        if let Some(read) = candidates.iter().find(fits) {
            return vec![self.after(state, *read, state.value)];
        }
        let step = |index: &usize| match self.operations[*index].register {
            Register::Read(_) => None,
            Register::Write(value) => Some(self.after(state, *index, value)),
            Register::Swap { from, to } => {
                (from == state.value).then(|| self.after(state, *index, to))
            }
        };
        candidates.iter().filter_map(step).collect()
    }

    fn after(&self, state: &State, index: usize, value: i64) -> State {
        let mut next = State { from: state.from, beyond: state.beyond.clone(), value };
        if let Err(place) = next.beyond.binary_search(&index) {
            next.beyond.insert(place, index);
        }
        let in_row = next.beyond.iter().enumerate().take_while(|(n, i)| **i == next.from + n);
        let in_row = in_row.count();
        next.beyond.drain(..in_row);
        next.from += in_row;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::super::given::{done, refused, unknown};
    use super::*;
    use Register::{Read, Swap, Write};

    fn on(register: Register) -> Keyed {
        Keyed { key: 1, register }
    }

    #[test]
    fn overlapping_operations_may_happen_in_any_order() {
        let history = [
            done(1, 0, 10, on(Write(1))),
            done(2, 5, 20, on(Write(2))),
            done(3, 6, 8, on(Read(2))),
            done(3, 9, 12, on(Read(1))),
            done(1, 30, 40, on(Swap { from: 1, to: 3 })),
            done(2, 41, 42, on(Read(3))),
        ];
        assert_eq!(check(&history), []);
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never() {
        let late = [
            unknown(1, 0, 5, on(Write(1))),
            done(2, 10, 11, on(Write(2))),
            done(2, 12, 13, on(Read(2))),
            done(2, 20, 21, on(Read(1))),
        ];
        assert_eq!(check(&late), []);
        assert_eq!(check(&late[..3]), []);
        // But once it has, it has.
        let twice = [late.as_slice(), &[done(2, 22, 23, on(Read(2)))]].concat();
        assert!(matches!(check(&twice)[..], [Fault::NotLinearizable { key: 1, .. }]));
    }

    #[test]
    fn a_stale_read_is_found() {
        let history =
            [done(1, 0, 1, on(Write(1))), done(1, 2, 3, on(Write(2))), done(2, 4, 5, on(Read(1)))];
        assert!(matches!(check(&history)[..], [Fault::NotLinearizable { explained: 2, .. }]));
    }

    #[test]
    fn reads_that_go_back_are_found() {
        let history = [
            done(1, 0, 100, on(Write(1))),
            done(2, 10, 20, on(Read(1))),
            done(3, 30, 40, on(Read(0))),
        ];
        assert!(matches!(check(&history)[..], [Fault::NotLinearizable { .. }]));
    }

    #[test]
    fn a_lost_update_is_found() {
        // Both swapped the same value.
        let history = [
            done(1, 0, 1, on(Write(1))),
            done(1, 2, 9, on(Swap { from: 1, to: 2 })),
            done(2, 3, 8, on(Swap { from: 1, to: 3 })),
        ];
        assert!(matches!(check(&history)[..], [Fault::NotLinearizable { .. }]));
        // One was acknowledged and is gone.
        let history = [done(1, 0, 1, on(Write(1))), done(1, 2, 3, on(Read(0)))];
        assert!(matches!(check(&history)[..], [Fault::NotLinearizable { .. }]));
    }

    #[test]
    fn a_dirty_read_is_found() {
        let history = [refused(1, 0, 10, on(Write(1))), done(2, 5, 6, on(Read(1)))];
        assert_eq!(check(&history), [Fault::NeverWritten { key: 1, value: 1 }]);
    }

    #[test]
    fn a_long_history_of_many_clients_is_decided() {
        // Eight clients whose operations all overlap their neighbours'.
        let mut history = Vec::new();
        for n in 0..300_u64 {
            let value = i64::try_from(n).unwrap() + 1;
            history.push(done(
                u32::try_from(n % 8).unwrap(),
                n * 10,
                n * 10 + 75,
                on(Write(value)),
            ));
            if n % 3 == 0 {
                history.push(done(9, n * 10 + 1, n * 10 + 74, on(Read(value))));
            }
            if n % 50 == 0 {
                history.push(unknown(10, n * 10, n * 10 + 5, on(Write(-value))));
            }
        }
        assert_eq!(check(&history), []);
        history.push(done(9, 4000, 4001, on(Read(5))));
        assert!(matches!(check(&history)[..], [Fault::NotLinearizable { .. }]));
    }
}

//! What must hold of what clients have seen.
//!
//! Each write takes the next version of a register and appends itself to its
//! history, in the database. So the database is the witness of the order, and a
//! history is linearizable if versions respect the order of operations in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What a client did with one register, and what it learnt.
#[derive(Clone, Debug)]
pub struct Operation {
    pub register: i64,
    pub kind: Kind,
    pub began: Instant,
    pub ended: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Acknowledged with this version.
    Written { id: i64, version: i64 },
    /// It is certain that nothing was done.
    Refused { id: i64 },
    /// It may have been done.
    Unknown { id: i64 },
    /// A linearizable read saw this version.
    Read { version: i64 },
}

/// The histories at the end: register, version, id.
pub type Witness = Vec<(i64, i64, i64)>;

/// Everything that is wrong.
pub fn check(operations: &[Operation], witness: &Witness) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut places: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut seen: BTreeSet<(i64, i64)> = BTreeSet::new();
    for (register, version, id) in witness {
        if places.insert(*id, (*register, *version)).is_some() {
            wrong.push(format!("write {id} was done twice"));
        }
        if !seen.insert((*register, *version)) {
            wrong.push(format!("register {register} has version {version} twice"));
        }
        if *version > 1 && !seen.contains(&(*register, *version - 1)) {
            wrong.push(format!("register {register} lacks version {}", *version - 1));
        }
    }
    for Operation { register, kind, .. } in operations {
        match kind {
            Kind::Written { id, version } if places.get(id) != Some(&(*register, *version)) => {
                let found = places.get(id);
                wrong.push(format!("{id} was acknowledged as {register}/{version}: {found:?}"));
            }
            Kind::Refused { id } if places.contains_key(id) => {
                wrong.push(format!("{id} was refused and is at {:?}", places[id]));
            }
            Kind::Read { version } if *version > 0 && !seen.contains(&(*register, *version)) => {
                wrong.push(format!("a read saw {register}/{version}, which is not there"));
            }
            _ => {}
        }
    }
    wrong.extend(out_of_order(operations));
    wrong
}

/// Operations that saw less than others which had ended before they began.
fn out_of_order(operations: &[Operation]) -> Vec<String> {
    let mut wrong = Vec::new();
    for later in operations {
        let Some((least, at)) = bounds(later) else { continue };
        let before = operations
            .iter()
            .filter(|earlier| earlier.register == later.register && earlier.ended < later.began);
        let newest = before.filter_map(|earlier| Some(bounds(earlier)?.1)).max();
        if newest.is_some_and(|newest| newest > least) {
            wrong.push(format!("{later:?} at {at} comes after version {newest:?}"));
        }
    }
    wrong
}

/// The newest version that may have been seen before, and the operation's own.
fn bounds(operation: &Operation) -> Option<(i64, i64)> {
    match operation.kind {
        Kind::Written { version, .. } => Some((version - 1, version)),
        Kind::Read { version } => Some((version, version)),
        Kind::Refused { .. } | Kind::Unknown { .. } => None,
    }
}

mod tests {
    use std::time::Duration;

    use super::*;

    fn operations(all: &[(Kind, u64, u64)]) -> Vec<Operation> {
        let zero = Instant::now();
        let at = |millis: &u64| zero + Duration::from_millis(*millis);
        let one = |(kind, began, ended): &(Kind, u64, u64)| Operation {
            register: 1,
            kind: *kind,
            began: at(began),
            ended: at(ended),
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn a_right_history_is_accepted() {
        let all = [
            (Kind::Written { id: 7, version: 1 }, 0, 10),
            (Kind::Read { version: 1 }, 11, 12),
            (Kind::Unknown { id: 8 }, 13, 14),
            (Kind::Read { version: 2 }, 15, 16),
            (Kind::Refused { id: 9 }, 15, 16),
        ];
        let witness = vec![(1, 1, 7), (1, 2, 8)];
        assert_eq!(check(&operations(&all), &witness), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_is_found() {
        let written = Kind::Written { id: 7, version: 1 };
        type Seen<'a> = &'a [(Kind, u64, u64)];
        let wrong: [(Seen<'_>, Witness); 5] = [
            (&[(written, 0, 1)], vec![]),
            (&[(Kind::Refused { id: 7 }, 0, 1)], vec![(1, 1, 7)]),
            (&[], vec![(1, 1, 7), (1, 2, 7)]),
            (&[(written, 0, 1), (Kind::Read { version: 0 }, 2, 3)], vec![(1, 1, 7)]),
            (&[(Kind::Read { version: 3 }, 2, 3)], vec![(1, 1, 7)]),
        ];
        for (all, witness) in wrong {
            assert_eq!(check(&operations(all), &witness).len(), 1, "{all:?}");
        }
    }
}

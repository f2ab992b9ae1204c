//! What must hold of what clients have seen.
//!
//! Each transaction takes the next place in one order, kept in the database, and
//! appends itself to the lists of some registers. So the database is the witness of
//! the order, and everything that a client has seen must be the state at some place
//! of it, in an order that time allows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A transaction, by its number.
pub type Id = i64;
/// How many transactions there had been.
pub type Place = i64;

/// What a reader saw of the database, in one snapshot.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Seen {
    /// All transactions in their order.
    pub places: Vec<(Place, Id)>,
    /// The transactions that have appended to a register, in their order, with the
    /// versions that they made.
    pub lists: BTreeMap<i64, Vec<(i64, Id)>>,
    /// The last transaction that wrote a register.
    pub last: BTreeMap<i64, Id>,
}

/// What a client did, and learnt.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: u64,
    pub kind: Kind,
    pub began: Instant,
    pub ended: Instant,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Write {
        id: Id,
        outcome: Outcome,
    },
    /// The last transaction that it saw was `last`.
    Read {
        level: Level,
        place: Place,
        last: Option<Id>,
        sequence: u64,
    },
    /// What a transaction saw after it had counted itself at a register: that its entry
    /// there would have this version.
    Own {
        id: Id,
        register: i64,
        version: i64,
    },
    /// What a transaction that writes saw in the middle of it, whatever came of it.
    Peek {
        place: Place,
        last: Option<Id>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Acknowledged, at this place, with this number of the token.
    Done { place: Place, sequence: u64 },
    /// It is certain that nothing was done, for this reason.
    Refused(&'static str),
    /// It may have been done.
    Unknown,
}

/// How fresh a read had to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Any,
    Bounded(Duration),
    Session,
    Linearizable,
}

/// What is wrong with a snapshot by itself: it must be the state after the
/// transactions that it names.
pub fn check_snapshot(seen: &Seen, registers: &BTreeMap<Id, Vec<i64>>) -> Result<(), String> {
    let mut lists: BTreeMap<i64, Vec<(i64, Id)>> = BTreeMap::new();
    for (expected, (place, id)) in (1..).zip(&seen.places) {
        if *place != expected {
            return Err(format!("place {place} is where {expected} should be"));
        }
        let Some(appended) = registers.get(id) else {
            return Err(format!("{id} at place {place} was never written"));
        };
        for register in appended {
            let list = lists.entry(*register).or_default();
            list.push((list.len() as i64 + 1, *id));
        }
    }
    if lists != seen.lists {
        return Err(format!("after {} transactions the lists are others", seen.places.len()));
    }
    let last = |(register, list): (&i64, &Vec<(i64, Id)>)| Some((*register, list.last()?.1));
    let last: BTreeMap<i64, Id> = lists.iter().filter_map(last).collect();
    if last != seen.last {
        return Err(format!("after {} transactions the registers are others", seen.places.len()));
    }
    Ok(())
}

/// Everything that is wrong with the operations, given the state at the end.
pub fn check(operations: &[Operation], end: &Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut places: BTreeMap<Id, Place> = BTreeMap::new();
    for (place, id) in &end.places {
        if places.insert(*id, *place).is_some() {
            wrong.push(format!("write {id} was done twice"));
        }
    }
    for operation in operations {
        if let Kind::Read { place, last: Some(last), .. } | Kind::Peek { place, last: Some(last) } =
            &operation.kind
            && places.get(last) != Some(place)
        {
            wrong.push(format!("{operation:?} saw what is {:?} now", places.get(last)));
        }
        if let Kind::Own { id, register, version } = &operation.kind
            && let Some((is, _)) =
                end.lists.get(register).into_iter().flatten().find(|(_, other)| other == id)
            && is != version
        {
            wrong.push(format!("{id} saw {version} at register {register}, where it is {is}"));
        }
        if let Kind::Write { id, outcome, .. } = &operation.kind {
            let found = places.get(id).copied();
            match outcome {
                Outcome::Done { place, .. } if found != Some(*place) => {
                    wrong.push(format!("{id} was acknowledged at {place}, and is at {found:?}"));
                }
                Outcome::Refused(why) if found.is_some() => {
                    wrong.push(format!("{id} was refused ({why}), and is at {found:?}"));
                }
                _ => {}
            }
        }
    }
    wrong.extend(out_of_order(operations));
    wrong.extend(sessions(operations));
    wrong.extend(sequences(operations));
    wrong
}

/// The place of an operation, if it is known.
fn place(operation: &Operation) -> Option<Place> {
    match operation.kind {
        Kind::Write { outcome: Outcome::Done { place, .. }, .. } | Kind::Read { place, .. } => {
            Some(place)
        }
        Kind::Write { .. } | Kind::Own { .. } | Kind::Peek { .. } => None,
    }
}

/// The newest place that others may have reached before an operation, and when they
/// must have ended for that to count.
fn least(operation: &Operation) -> Option<(Place, Instant)> {
    let began = operation.began;
    match operation.kind {
        Kind::Write { outcome: Outcome::Done { place, .. }, .. } => Some((place - 1, began)),
        Kind::Read { level: Level::Linearizable, place, .. } => Some((place, began)),
        Kind::Read { level: Level::Bounded(age), place, .. } => {
            Some((place, began.checked_sub(age)?))
        }
        Kind::Write { .. } | Kind::Own { .. } | Kind::Read { .. } | Kind::Peek { .. } => None,
    }
}

/// Operations that saw less than others which had ended before. What a stale read
/// saw was committed, so it counts as well.
fn out_of_order(operations: &[Operation]) -> Vec<String> {
    let mut ended: Vec<(Instant, Place)> =
        operations.iter().filter_map(|one| Some((one.ended, place(one)?))).collect();
    ended.sort();
    let mut newest = 0;
    for (_, place) in &mut ended {
        newest = newest.max(*place);
        *place = newest;
    }
    let mut wrong = Vec::new();
    for operation in operations {
        let Some((least, at)) = least(operation) else { continue };
        let before = ended.partition_point(|(ended, _)| *ended < at);
        let newest = before.checked_sub(1).map_or(0, |last| ended[last].1);
        if newest > least {
            wrong.push(format!("{operation:?} comes after place {newest}"));
        }
    }
    wrong
}

/// What a session reads never goes back, and has what the session wrote.
fn sessions(operations: &[Operation]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut reached: BTreeMap<u64, Place> = BTreeMap::new();
    for operation in operations {
        let Some(place) = place(operation) else { continue };
        let of_session = match operation.kind {
            Kind::Write { .. } | Kind::Own { .. } | Kind::Peek { .. } => true,
            Kind::Read { level, .. } => level == Level::Session,
        };
        if !of_session {
            continue;
        }
        let seen = reached.entry(operation.client).or_default();
        if place < *seen {
            wrong.push(format!("a session had seen place {seen}, and then {operation:?}"));
        }
        *seen = place.max(*seen);
    }
    wrong
}

/// Tokens are in the order of places.
fn sequences(operations: &[Operation]) -> Vec<String> {
    let known = |one: &Operation| match one.kind {
        Kind::Write { outcome: Outcome::Done { place, sequence }, .. }
        | Kind::Read { place, sequence, .. } => Some((place, sequence)),
        Kind::Write { .. } | Kind::Own { .. } | Kind::Peek { .. } => None,
    };
    let all: BTreeSet<(Place, u64)> = operations.iter().filter_map(known).collect();
    let (mut wrong, mut newest, mut before, mut at) = (Vec::new(), 0, 0, 0);
    for (place, sequence) in all {
        if place != at {
            (before, at) = (newest, place);
        }
        if sequence < before {
            wrong.push(format!("place {place} has sequence {sequence}, an earlier one {before}"));
        }
        newest = newest.max(sequence);
    }
    wrong
}

mod tests {
    use super::*;

    fn operation(client: u64, kind: Kind, began: u64, ended: u64, zero: Instant) -> Operation {
        let at = |millis| zero + Duration::from_millis(millis);
        Operation { client, kind, began: at(began), ended: at(ended) }
    }

    fn write(id: Id, outcome: Outcome) -> Kind {
        Kind::Write { id, outcome }
    }

    fn read(level: Level, place: Place) -> Kind {
        Kind::Read { level, place, last: None, sequence: place as u64 }
    }

    fn saw(place: Place, last: Id) -> Kind {
        Kind::Read { level: Level::Any, place, last: Some(last), sequence: place as u64 }
    }

    fn done(place: Place) -> Outcome {
        Outcome::Done { place, sequence: place as u64 }
    }

    /// The end after transactions 7 and 8.
    fn end(ids: &[Id]) -> Seen {
        let places: Vec<(Place, Id)> = (1..).zip(ids.iter().copied()).collect();
        let last = ids.last().map(|id| (1, *id)).into_iter().collect();
        Seen { lists: BTreeMap::from([(1, places.clone())]), places, last }
    }

    fn wrongs(all: &[(u64, Kind, u64, u64)], ids: &[Id]) -> Vec<String> {
        let zero = Instant::now() + Duration::from_secs(60);
        let one = |(client, kind, began, ended): &(u64, Kind, u64, u64)| {
            operation(*client, kind.clone(), *began, *ended, zero)
        };
        check(&all.iter().map(one).collect::<Vec<_>>(), &end(ids))
    }

    #[test]
    fn a_right_history_is_accepted() {
        let all = [
            (1, write(7, done(1)), 0, 10),
            (2, read(Level::Linearizable, 1), 11, 12),
            (1, write(8, Outcome::Unknown), 13, 14),
            (2, read(Level::Session, 2), 15, 16),
            (1, write(9, Outcome::Refused("")), 15, 16),
            (3, read(Level::Any, 0), 17, 18),
            (3, saw(2, 8), 17, 18),
            (3, Kind::Peek { place: 1, last: Some(7) }, 17, 18),
            (3, read(Level::Bounded(Duration::from_millis(10)), 1), 17, 18),
        ];
        assert_eq!(wrongs(&all, &[7, 8]), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_is_found() {
        let bounded = Level::Bounded(Duration::from_millis(10));
        type Case<'a> = (&'a [(u64, Kind, u64, u64)], &'a [Id]);
        let wrong: [Case<'_>; 10] = [
            (&[(1, write(7, done(1)), 0, 1)], &[]),
            (&[(1, write(7, done(2)), 0, 1)], &[7]),
            (&[(1, write(7, Outcome::Refused("")), 0, 1)], &[7]),
            (&[], &[7, 7]),
            (&[(1, saw(1, 8), 0, 1)], &[7, 8]),
            (&[(1, Kind::Peek { place: 1, last: Some(9) }, 0, 1)], &[7, 8]),
            (&[(1, write(7, done(1)), 0, 1), (2, read(Level::Linearizable, 0), 2, 3)], &[7]),
            (&[(1, write(7, done(1)), 0, 1), (2, read(bounded, 0), 12, 13)], &[7]),
            (&[(1, write(7, done(1)), 0, 1), (1, read(Level::Session, 0), 2, 3)], &[7]),
            (
                &[
                    (1, write(7, Outcome::Done { place: 1, sequence: 9 }), 0, 1),
                    (2, write(8, Outcome::Done { place: 2, sequence: 8 }), 0, 1),
                ],
                &[7, 8],
            ),
        ];
        for (all, ids) in wrong {
            assert_eq!(wrongs(all, ids).len(), 1, "{all:?}: {:?}", wrongs(all, ids));
        }
    }

    #[test]
    fn a_snapshot_is_the_state_after_its_transactions() {
        let written = BTreeMap::from([(7, vec![1]), (8, vec![1])]);
        let right = end(&[7, 8]);
        assert_eq!(check_snapshot(&right, &written), Ok(()));
        let mut torn = right.clone();
        torn.lists.get_mut(&1).unwrap().pop();
        let mut stale = right.clone();
        stale.last.insert(1, 7);
        let mut gap = right.clone();
        gap.places.remove(0);
        for wrong in [torn, stale, gap, end(&[7, 9])] {
            assert!(check_snapshot(&wrong, &written).is_err(), "{wrong:?}");
        }
    }
}

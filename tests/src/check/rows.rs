//! Numbered rows: what was acknowledged is there once, what was refused is not, and
//! what is unknown is there once, whole, or not at all.

use std::collections::HashMap;
use std::fmt;

use super::Timed;

/// A transaction that inserts rows with one number and the parts 0, 1, and so on.
/// No writer uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Numbered {
    pub writer: u32,
    pub number: u64,
    pub parts: u32,
}

/// A row that was read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Row {
    pub writer: u32,
    pub number: u64,
    pub part: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Acknowledged, and not there.
    Missing(Row),
    /// There more than once.
    Doubled(Row),
    /// There although its transaction was refused.
    RefusedButThere(Row),
    /// A part of a transaction that is not there whole.
    Torn(Row),
    /// There although nobody wrote it.
    FromNowhere(Row),
}

/// What was found. It is sound when there are no faults.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Verdict {
    pub acknowledged: usize,
    pub refused: usize,
    pub unknown: usize,
    /// Of the unknown ones, those that were done.
    pub unknown_done: usize,
    pub faults: Vec<Fault>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, refused, unknown, unknown_done, faults } = self;
        let count = |is: fn(&Fault) -> bool| faults.iter().filter(|fault| is(fault)).count();
        write!(
            f,
            "{acknowledged} acknowledged, {refused} refused, {unknown} unknown ({unknown_done} of \
             them done); rows missing {}, doubled {}, refused but there {}, torn {}, from \
             nowhere {}",
            count(|fault| matches!(fault, Fault::Missing(_))),
            count(|fault| matches!(fault, Fault::Doubled(_))),
            count(|fault| matches!(fault, Fault::RefusedButThere(_))),
            count(|fault| matches!(fault, Fault::Torn(_))),
            count(|fault| matches!(fault, Fault::FromNowhere(_))),
        )
    }
}

/// Compares what was tried with all rows that are there.
pub fn check(tried: &[Timed<Numbered>], there: &[Row]) -> Verdict {
    let mut counts: HashMap<Row, u32> = HashMap::new();
    for row in there {
        *counts.entry(*row).or_default() += 1;
    }
    let mut verdict = Verdict::default();
    for (row, count) in &counts {
        if *count > 1 {
            verdict.faults.push(Fault::Doubled(*row));
        }
    }
    for attempt in tried {
        let Numbered { writer, number, parts } = attempt.what;
        let rows = (0..parts).map(|part| Row { writer, number, part });
        let (found, lost): (Vec<Row>, Vec<Row>) =
            rows.partition(|row| counts.remove(row).is_some());
        if attempt.is_acknowledged() {
            verdict.acknowledged += 1;
            verdict.faults.extend(lost.into_iter().map(Fault::Missing));
        } else if attempt.is_refused() {
            verdict.refused += 1;
            verdict.faults.extend(found.into_iter().map(Fault::RefusedButThere));
        } else {
            verdict.unknown += 1;
            if lost.is_empty() {
                verdict.unknown_done += 1;
            } else {
                verdict.faults.extend(found.into_iter().map(Fault::Torn));
            }
        }
    }
    verdict.faults.extend(counts.into_keys().map(Fault::FromNowhere));
    verdict
}

#[cfg(test)]
mod tests {
    use super::super::given::{done, refused, unknown};
    use super::*;

    fn write(number: u64) -> Numbered {
        Numbered { writer: 1, number, parts: 2 }
    }

    fn row(number: u64, part: u32) -> Row {
        Row { writer: 1, number, part }
    }

    fn both(number: u64) -> [Row; 2] {
        [row(number, 0), row(number, 1)]
    }

    #[test]
    fn what_clients_were_told_is_what_is_there() {
        let tried = [
            done(1, 0, 1, write(1)),
            refused(1, 2, 3, write(2)),
            unknown(1, 4, 5, write(3)),
            unknown(1, 6, 7, write(4)),
        ];
        let there = [both(1), both(4)].concat();
        let verdict = check(&tried, &there);
        let expected = Verdict {
            acknowledged: 1,
            refused: 1,
            unknown: 2,
            unknown_done: 1,
            faults: Vec::new(),
        };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn every_kind_of_wrong_row_is_found() {
        let found = |tried: &[Timed<Numbered>], there: &[Row]| check(tried, there).faults;
        let one = row(1, 0);
        let acknowledged = [done(1, 0, 1, write(1))];
        assert_eq!(found(&acknowledged, &[row(1, 1)]), [Fault::Missing(one)]);
        assert_eq!(
            found(&acknowledged, &[both(1).as_slice(), &[one]].concat()),
            [Fault::Doubled(one)]
        );
        let not_done = [refused(1, 0, 1, write(1))];
        assert_eq!(found(&not_done, &[one]), [Fault::RefusedButThere(one)]);
        let perhaps = [unknown(1, 0, 1, write(1))];
        assert_eq!(found(&perhaps, &[one]), [Fault::Torn(one)]);
        let doubled = [both(1), both(1)].concat();
        assert_eq!(found(&perhaps, &doubled).len(), 2, "unknown is at most once");
        assert_eq!(found(&[], &[one]), [Fault::FromNowhere(one)]);
    }
}

//! Transactions that read lists and append to them, checked for serializability, also
//! in the order of real time.
//!
//! Elements are never used twice, so the longest list that was read tells in which
//! order all appends to it happened, and who read what tells the rest: which
//! transaction must come before which. An order exists when these demands, with
//! those of real time, have no cycle. (The idea is that of Kingsbury's and Alvaro's
//! Elle.)

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::Timed;
use super::cycles::{Graph, cycles};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    Append {
        list: u32,
        element: i64,
    },
    /// With what was read.
    Read {
        list: u32,
        elements: Vec<i64>,
    },
}

pub type Transaction = Timed<Vec<Step>>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Two reads of a list of which neither is the beginning of the other.
    Contradiction { list: u32, one: Vec<i64>, other: Vec<i64> },
    /// An element that is twice in a list.
    Doubled { list: u32, element: i64 },
    /// An element of a transaction that was refused.
    DirtyRead { list: u32, element: i64 },
    /// An element that nobody appended.
    FromNowhere { list: u32, element: i64 },
    /// A transaction's own earlier append is not the end of what it reads.
    OwnAppendMissing { list: u32, element: i64 },
    /// Some appends of a transaction to a list were seen, others not.
    Intermediate { list: u32, element: i64 },
    /// An acknowledged append that no later read has.
    Lost { list: u32, element: i64 },
    /// No order of these transactions explains what they saw, with why each must
    /// come before the next.
    Cycle(Vec<String>),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Cycle(path) => write!(f, "a cycle of transactions: {}", path.join(" ")),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Faults that are reported at most; one decides.
const MAX_FAULTS: usize = 100;

/// Which order of the transactions has to explain what they saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Serializable.
    Any,
    /// Strictly serializable: what ended before something else began comes first.
    RealTime,
}

/// Every fault of a history, up to a hundred.
pub fn check(history: &[Transaction], order: Order) -> Vec<Fault> {
    let lists = Lists::new(history);
    let mut faults = lists.faults.clone();
    faults.extend(own_appends(history));
    faults.extend(lists.seen_of_each_transaction(history));
    faults.extend(lists.lost(history));
    // Without an order of the elements there is none of the transactions.
    if faults.is_empty() {
        faults.extend(orders(history, &lists, order));
    }
    faults.truncate(MAX_FAULTS);
    faults
}

/// Who appended what, and in which order.
struct Lists {
    /// The longest read of each list.
    orders: BTreeMap<u32, Vec<i64>>,
    /// Transactions by what they appended.
    writers: HashMap<(u32, i64), usize>,
    faults: Vec<Fault>,
}

fn appends(transaction: &Transaction) -> impl Iterator<Item = (u32, i64)> {
    transaction.what.iter().filter_map(|step| match step {
        Step::Append { list, element } => Some((*list, *element)),
        Step::Read { .. } => None,
    })
}

fn reads(transaction: &Transaction) -> impl Iterator<Item = (u32, &[i64])> {
    // Of others nothing was promised.
    let steps = if transaction.is_acknowledged() { transaction.what.as_slice() } else { &[] };
    steps.iter().filter_map(|step| match step {
        Step::Read { list, elements } => Some((*list, elements.as_slice())),
        Step::Append { .. } => None,
    })
}

impl Lists {
    fn new(history: &[Transaction]) -> Self {
        let mut this =
            Self { orders: BTreeMap::new(), writers: HashMap::new(), faults: Vec::new() };
        for (index, transaction) in history.iter().enumerate() {
            this.writers.extend(appends(transaction).map(|append| (append, index)));
        }
        for (list, elements) in history.iter().flat_map(reads) {
            let longest = this.orders.entry(list).or_default();
            let common = longest.len().min(elements.len());
            if longest[..common] != elements[..common] {
                let (one, other) = (longest.clone(), elements.to_vec());
                this.faults.push(Fault::Contradiction { list, one, other });
            } else if elements.len() > common {
                *longest = elements.to_vec();
            }
        }
        for (list, order) in &this.orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            let doubled = sorted.windows(2).filter(|pair| pair[0] == pair[1]);
            let doubled = doubled.map(|pair| Fault::Doubled { list: *list, element: pair[0] });
            this.faults.extend(doubled);
            for &element in order {
                match this.writers.get(&(*list, element)) {
                    None => this.faults.push(Fault::FromNowhere { list: *list, element }),
                    Some(writer) if history[*writer].is_refused() => {
                        this.faults.push(Fault::DirtyRead { list: *list, element });
                    }
                    Some(_) => {}
                }
            }
        }
        this
    }

    /// Nobody else reads a list between two appends of a transaction.
    fn seen_of_each_transaction(&self, history: &[Transaction]) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (reader, transaction) in history.iter().enumerate() {
            for (list, elements) in reads(transaction) {
                let Some(&last) = elements.last() else { continue };
                let Some(&writer) = self.writers.get(&(list, last)) else { continue };
                let of_writer = appends(&history[writer]).filter(|(of, _)| *of == list);
                if writer != reader && of_writer.last() != Some((list, last)) {
                    faults.push(Fault::Intermediate { list, element: last });
                }
            }
        }
        faults
    }

    fn lost(&self, history: &[Transaction]) -> Vec<Fault> {
        // When each list was last asked for.
        let mut last_read: HashMap<u32, u64> = HashMap::new();
        for transaction in history {
            for (list, _) in reads(transaction) {
                let at = last_read.entry(list).or_default();
                *at = (*at).max(transaction.invoked);
            }
        }
        let mut faults = Vec::new();
        for transaction in history.iter().filter(|transaction| transaction.is_acknowledged()) {
            for (list, element) in appends(transaction) {
                let read_later = last_read.get(&list).is_some_and(|at| *at > transaction.completed);
                let order = self.orders.get(&list);
                if read_later && !order.is_some_and(|order| order.contains(&element)) {
                    faults.push(Fault::Lost { list, element });
                }
            }
        }
        faults
    }
}

fn own_appends(history: &[Transaction]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for transaction in history.iter().filter(|transaction| transaction.is_acknowledged()) {
        let mut own: HashMap<u32, Vec<i64>> = HashMap::new();
        for step in &transaction.what {
            match step {
                Step::Append { list, element } => own.entry(*list).or_default().push(*element),
                Step::Read { list, elements } => {
                    let Some(own) = own.get(list) else { continue };
                    if !elements.ends_with(own) {
                        let element = own[0];
                        faults.push(Fault::OwnAppendMissing { list: *list, element });
                    }
                }
            }
        }
    }
    faults
}

/// The cycles among the demands of one history.
fn orders(history: &[Transaction], lists: &Lists, order: Order) -> Vec<Fault> {
    let mut graph = Graph::new(history.len());
    for (list, order) in &lists.orders {
        for pair in order.windows(2) {
            let (one, other) = (lists.writers[&(*list, pair[0])], lists.writers[&(*list, pair[1])]);
            graph.edge(one, other, "appended before");
        }
    }
    for (reader, transaction) in history.iter().enumerate() {
        for (list, elements) in reads(transaction) {
            if let Some(last) = elements.last() {
                graph.edge(lists.writers[&(list, *last)], reader, "was read by");
            }
            if let Some(next) = lists.orders[&list].get(elements.len()) {
                graph.edge(reader, lists.writers[&(list, *next)], "read before");
            }
        }
    }
    let spans: Vec<_> = history
        .iter()
        .map(|transaction| {
            // What was refused had no effect at all, and need not be ordered.
            let last = if transaction.is_acknowledged() { transaction.completed } else { u64::MAX };
            (transaction.invoked, last)
        })
        .collect();
    if order == Order::RealTime {
        graph.real_time(&spans, "ended before");
    }
    let describe = |index: usize| {
        let transaction = &history[index];
        let Timed { client, invoked, completed, .. } = transaction;
        let shown: Vec<String> = transaction.what.iter().map(shown).collect();
        format!("[client {client}, {invoked} to {completed}: {}]", shown.join(", "))
    };
    let found = cycles(&graph, MAX_FAULTS);
    let path = |cycle: Vec<(usize, &'static str)>| {
        let words = cycle.into_iter().map(|(index, why)| format!("{} {why}", describe(index)));
        Fault::Cycle(words.collect())
    };
    found.into_iter().map(path).collect()
}

fn shown(step: &Step) -> String {
    match step {
        Step::Append { list, element } => format!("append {element} to {list}"),
        Step::Read { list, elements } => {
            let end = &elements[elements.len().saturating_sub(3)..];
            format!("read {list}: {} elements, the last {end:?}", elements.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::given::{done, refused, unknown};
    use super::*;

    fn check(history: &[Transaction]) -> Vec<Fault> {
        super::check(history, Order::RealTime)
    }

    fn append(list: u32, element: i64) -> Step {
        Step::Append { list, element }
    }

    fn read(list: u32, elements: &[i64]) -> Step {
        Step::Read { list, elements: elements.to_vec() }
    }

    #[test]
    fn an_order_that_explains_everything_is_found() {
        let history = [
            done(1, 0, 10, vec![append(1, 1), append(1, 2)]),
            done(2, 5, 9, vec![read(1, &[])]),
            done(2, 10, 19, vec![read(1, &[1, 2]), append(1, 3), read(1, &[1, 2, 3])]),
            refused(3, 11, 12, vec![append(1, 4)]),
            unknown(3, 13, 14, vec![append(1, 5)]),
            unknown(3, 15, 16, vec![append(1, 6)]),
            done(2, 30, 31, vec![read(1, &[1, 2, 3, 6])]),
        ];
        assert_eq!(check(&history), []);
    }

    #[test]
    fn a_lost_update_is_found() {
        // Both read the same list and wrote it back with an element of their own.
        let history = [
            done(1, 0, 10, vec![read(1, &[]), append(1, 1)]),
            done(2, 1, 9, vec![read(1, &[]), append(1, 2)]),
            done(3, 20, 21, vec![read(1, &[1])]),
        ];
        assert_eq!(check(&history), [Fault::Lost { list: 1, element: 2 }]);
        let both_there = done(3, 20, 21, vec![read(1, &[1, 2])]);
        let history = [history[0].clone(), history[1].clone(), both_there];
        assert!(matches!(check(&history)[..], [Fault::Cycle(_)]));
    }

    #[test]
    fn dirty_and_intermediate_reads_are_found() {
        let dirty = [refused(1, 0, 10, vec![append(1, 1)]), done(2, 5, 6, vec![read(1, &[1])])];
        assert_eq!(check(&dirty), [Fault::DirtyRead { list: 1, element: 1 }]);
        let half =
            [done(1, 0, 10, vec![append(1, 1), append(1, 2)]), done(2, 5, 6, vec![read(1, &[1])])];
        assert!(check(&half).contains(&Fault::Intermediate { list: 1, element: 1 }));
    }

    #[test]
    fn a_stale_read_is_found() {
        let history = [
            done(1, 0, 1, vec![append(1, 1)]),
            done(2, 2, 3, vec![read(1, &[])]),
            done(2, 4, 5, vec![read(1, &[1])]),
        ];
        let faults = check(&history);
        assert!(matches!(faults[..], [Fault::Cycle(_)]), "{faults:?}");
        // Without a clock it could have been earlier.
        assert_eq!(super::check(&history, Order::Any), []);
    }

    #[test]
    fn lists_that_contradict_each_other_are_found() {
        let history = [
            done(1, 0, 9, vec![append(1, 1)]),
            done(2, 0, 9, vec![append(1, 2)]),
            done(3, 10, 11, vec![read(1, &[1, 2])]),
            done(3, 12, 13, vec![read(1, &[2, 1])]),
        ];
        assert!(matches!(check(&history)[..], [Fault::Contradiction { list: 1, .. }]));
    }

    #[test]
    fn an_append_that_happened_twice_is_found() {
        let history = [done(1, 0, 1, vec![append(1, 1)]), done(2, 2, 3, vec![read(1, &[1, 1])])];
        assert_eq!(check(&history), [Fault::Doubled { list: 1, element: 1 }]);
    }

    #[test]
    fn elements_from_nowhere_and_own_appends_that_are_missing_are_found() {
        let nowhere = [done(1, 0, 1, vec![read(1, &[7])])];
        assert_eq!(check(&nowhere), [Fault::FromNowhere { list: 1, element: 7 }]);
        let missing = [done(1, 0, 1, vec![append(1, 1), read(1, &[])])];
        assert_eq!(check(&missing), [Fault::OwnAppendMissing { list: 1, element: 1 }]);
    }

    #[test]
    fn write_skew_is_found() {
        let history = [
            done(1, 0, 10, vec![read(1, &[]), append(2, 1)]),
            done(2, 1, 9, vec![read(2, &[]), append(1, 2)]),
            done(3, 20, 21, vec![read(1, &[2]), read(2, &[1])]),
        ];
        assert!(matches!(check(&history)[..], [Fault::Cycle(_)]));
    }

    #[test]
    fn two_readers_that_disagree_about_two_lists_are_found() {
        let history = [
            done(1, 0, 50, vec![append(1, 1)]),
            done(2, 0, 50, vec![append(2, 2)]),
            done(3, 10, 20, vec![read(1, &[1]), read(2, &[])]),
            done(4, 10, 20, vec![read(1, &[]), read(2, &[2])]),
            done(3, 60, 61, vec![read(1, &[1]), read(2, &[2])]),
        ];
        assert!(matches!(check(&history)[..], [Fault::Cycle(_)]));
    }

    #[test]
    fn what_is_unknown_may_happen_late_but_not_be_undone() {
        let history = [
            unknown(1, 0, 1, vec![append(1, 1)]),
            done(2, 5, 6, vec![read(1, &[])]),
            done(2, 7, 8, vec![read(1, &[1])]),
        ];
        assert_eq!(check(&history), []);
        let undone = [history.as_slice(), &[done(2, 9, 10, vec![read(1, &[])])]].concat();
        assert!(matches!(check(&undone)[..], [Fault::Cycle(_)]));
    }
}

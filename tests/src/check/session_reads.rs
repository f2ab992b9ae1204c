//! Session reads: what a session has seen or written, it goes on seeing.
//!
//! Each writer raises a counter of its own, one by one. A read sees all of them.

use std::collections::HashMap;
use std::fmt;

use super::Nanos;

/// One read, in the order in which its session made them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRead {
    pub session: String,
    pub at: Nanos,
    /// The counters that were seen, by writer.
    pub seen: Vec<i64>,
    /// What the session was owed before it asked: its own acknowledged writes, and
    /// what a token stands for that it was given. By writer; 0 for nothing.
    pub owed: Vec<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WentBack {
    pub session: String,
    pub at: Nanos,
    pub writer: usize,
    pub owed: i64,
    pub seen: i64,
}

impl fmt::Display for WentBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { session, at, writer, owed, seen } = self;
        let at = *at as f64 / 1e9;
        write!(f, "{session} after {at:.3} s: {seen} of writer {writer}, owed {owed}")
    }
}

/// Every read that saw less than its session had seen or was owed.
pub fn check(reads: &[SessionRead]) -> Vec<WentBack> {
    let mut owed_to: HashMap<&str, Vec<i64>> = HashMap::new();
    let mut faults = Vec::new();
    for read in reads {
        let owed = owed_to.entry(&read.session).or_default();
        owed.resize(owed.len().max(read.seen.len()).max(read.owed.len()), 0);
        for (writer, owed) in owed.iter_mut().enumerate() {
            *owed = (*owed).max(read.owed.get(writer).copied().unwrap_or(0));
            let seen = read.seen.get(writer).copied().unwrap_or(0);
            if seen < *owed {
                let (session, at) = (read.session.clone(), read.at);
                faults.push(WentBack { session, at, writer, owed: *owed, seen });
            }
            *owed = (*owed).max(seen);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(session: &str, seen: &[i64], owed: &[i64]) -> SessionRead {
        SessionRead { session: session.to_owned(), at: 0, seen: seen.into(), owed: owed.into() }
    }

    #[test]
    fn a_session_may_lag_behind_others_but_not_behind_itself() {
        let sound = [
            read("a", &[5, 1], &[5, 0]),
            read("b", &[3, 0], &[0, 0]),
            read("b", &[3, 1], &[0, 1]),
            read("a", &[5, 1], &[0, 0]),
        ];
        assert_eq!(check(&sound), []);
    }

    #[test]
    fn reads_that_go_back_or_miss_what_was_written_are_found() {
        let back = [read("a", &[5, 1], &[0, 0]), read("a", &[6, 0], &[0, 0])];
        assert_eq!(check(&back).len(), 1);
        assert_eq!(check(&back)[0].writer, 1);
        let missed = [read("a", &[4], &[5])];
        assert_eq!(check(&missed).len(), 1);
        // Owed once is owed for ever.
        let late = [read("a", &[5], &[5]), read("a", &[5], &[0]), read("a", &[4], &[0])];
        assert_eq!(check(&late).len(), 1);
        let empty = [read("a", &[1], &[0]), read("a", &[], &[0])];
        assert_eq!(check(&empty).len(), 1);
    }
}

//! What must be true of what clients saw, checked after the fact.
//!
//! Each check takes only what clients recorded, so that it can be fed histories
//! that no database should produce; the unit tests do that for every fault it is
//! there to find.

mod cycles;
pub mod list_append;
pub mod registers;
pub mod rows;
pub mod session_reads;

/// Nanoseconds since a run began, on the clock of the process that holds all its
/// clients.
pub type Nanos = u64;

/// What a client knows of what it asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was told that it was done.
    Acknowledged,
    /// It was told that it was not done, or never sent it.
    Refused(String),
    /// It may have been done, or may yet be.
    Unknown(String),
}

/// One operation as its client saw it.
#[derive(Clone, Debug)]
pub struct Timed<T> {
    pub client: u32,
    /// Before the first byte was sent.
    pub invoked: Nanos,
    /// After the last byte of the answer, or when the client gave up.
    pub completed: Nanos,
    pub outcome: Outcome,
    pub what: T,
}

impl<T> Timed<T> {
    pub fn is_acknowledged(&self) -> bool {
        self.outcome == Outcome::Acknowledged
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused(_))
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.outcome, Outcome::Unknown(_))
    }

    /// When it can have had its effect at the latest.
    pub fn last(&self) -> Nanos {
        if self.is_unknown() { Nanos::MAX } else { self.completed }
    }
}

/// Histories for the tests of the checks.
#[cfg(test)]
mod given {
    use super::{Nanos, Outcome, Timed};

    pub fn done<T>(client: u32, invoked: Nanos, completed: Nanos, what: T) -> Timed<T> {
        Timed { client, invoked, completed, outcome: Outcome::Acknowledged, what }
    }

    pub fn refused<T>(client: u32, invoked: Nanos, completed: Nanos, what: T) -> Timed<T> {
        let outcome = Outcome::Refused("40001".to_owned());
        Timed { client, invoked, completed, outcome, what }
    }

    pub fn unknown<T>(client: u32, invoked: Nanos, completed: Nanos, what: T) -> Timed<T> {
        let outcome = Outcome::Unknown("08007".to_owned());
        Timed { client, invoked, completed, outcome, what }
    }
}

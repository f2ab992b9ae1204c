//! What copies of former generations of a database had alone.

use serde::{Deserialize, Serialize};

/// What a copy of a former generation had and the next generation lacks: the first
/// line of its file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tail {
    pub file: String,
    /// The node that has the file.
    #[serde(default)]
    pub node: String,
    pub database: String,
    pub shard: u32,
    /// The generation that it belongs to.
    pub generation: u64,
    /// The last position that both have.
    pub from: String,
    /// Up to here a quorum had it, as far as the copy's log tells.
    pub acknowledged: String,
    pub to: String,
    /// Batches of transactions after `from`.
    pub entries: u64,
    /// Of `rows`, those that a quorum had.
    pub acknowledged_rows: u64,
    /// Rows that differ.
    pub rows: u64,
    /// When `from` could not be found: a file beside it with the whole copy.
    #[serde(default)]
    pub whole: Option<String>,
    pub at_ms: u64,
    #[serde(default)]
    pub replayed_ms: Option<u64>,
}

/// A tail and some of its lines, each a change of a row as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TailPage {
    pub tail: Tail,
    pub lines: Vec<String>,
}

/// Which tail: its name on the node that is asked, or an absolute path there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TailRequest {
    pub file: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TailReplayed {
    pub applied: u64,
    /// Rows that are already what they would be.
    pub already: u64,
    /// Rows that something else has happened to; they stay as they are.
    pub conflicts: u64,
    /// The first of them, and what is there.
    pub told: Vec<String>,
    /// The position of the database after it.
    pub position: String,
}

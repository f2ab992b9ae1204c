//! Archives of databases, and scrubs of their copies.

use serde::{Deserialize, Serialize};

/// How a database is archived.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveSetting {
    /// A directory on the machines of the nodes, absolute: for example a mounted share.
    pub dir: String,
    /// Every moment of the last so many milliseconds can be restored.
    pub keep_ms: u64,
    /// A new base is made after so many milliseconds.
    pub base_ms: u64,
}

/// The archive of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseArchive {
    pub dir: String,
    /// The node that writes it, when one does.
    #[serde(default)]
    pub node: Option<String>,
    /// The last batch of transactions in it.
    #[serde(default)]
    pub position: u64,
    /// When that was proposed, milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// How long ago it had everything, if it ever had since its writer started.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// When its newest base was made, milliseconds since 1970.
    #[serde(default)]
    pub base_ms: Option<u64>,
    /// How often the log did not have what came next, so that there are moments which
    /// cannot be restored; since its writer started.
    #[serde(default)]
    pub gaps: u64,
    #[serde(default)]
    pub problem: Option<String>,
}

/// An archive on the machine of the node that is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveRequest {
    /// Absolute.
    pub dir: String,
}

/// What can be restored from an archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveContent {
    pub dir: String,
    pub ranges: Vec<ArchiveRange>,
    /// Files that cannot be used, and why.
    #[serde(default)]
    pub damaged: Vec<String>,
}

/// Moments without a gap.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveRange {
    /// Milliseconds since 1970.
    pub from_ms: u64,
    pub from_position: u64,
    pub to_ms: u64,
    pub to_position: u64,
    pub bases: u64,
    pub bytes: u64,
}

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveMoment {
    /// The last one.
    Latest,
    /// With everything that was proposed up to then, milliseconds since 1970.
    Time(u64),
    /// A batch of transactions.
    Position(u64),
}

/// What to restore from an archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArchiveRestore {
    /// Absolute, on the machine of the node that is asked.
    pub dir: String,
    pub at: ArchiveMoment,
}

/// Asks for a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ScrubRequested {
    /// Of each copy; a default when it is left out.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// A scrub has been asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScrubStarted {
    /// That of the [`ScrubStatus`] that will tell of it.
    pub id: u64,
}

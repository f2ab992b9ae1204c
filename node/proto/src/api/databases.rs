//! Databases: their copies, their statements, backups of them.

use serde::{Deserialize, Serialize};

use super::DatabaseArchive;
use crate::soft::ScrubStatus;

/// One shard of a database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseShard {
    pub database: String,
    pub shard: u32,
    /// The term in which the primary leads; 0 while there is none.
    pub epoch: u64,
    /// The node that takes writes.
    pub primary: Option<String>,
    /// The last batch of transactions that the primary has.
    #[serde(default)]
    pub position: u64,
    pub replicas: Vec<DatabaseReplica>,
    /// The node that keeps only the log, so that a majority is left when one of
    /// two copies is lost.
    #[serde(default)]
    pub witness: Option<String>,
    /// Where it is archived, and how far that is.
    #[serde(default)]
    pub archive: Option<DatabaseArchive>,
    /// The last comparison of all its copies.
    #[serde(default)]
    pub scrub: Option<ScrubStatus>,
}

/// How programs reach a database through the node that answered. Each URL holds the
/// password.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseUrl {
    pub url: String,
    /// Sessions opened by it only read, on a copy nearby.
    pub replica_url: String,
    /// The same two for programs on other machines, where the node lets them in. TLS
    /// is required there.
    #[serde(default)]
    pub remote_url: Option<String>,
    #[serde(default)]
    pub remote_replica_url: Option<String>,
    /// The CA of the certificate that the node shows, PEM; none where the operator
    /// has given the certificate.
    #[serde(default)]
    pub ca_certificate: Option<String>,
}

/// What clients of the databases do, since each node started.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DatabaseTop {
    pub nodes: Vec<SqlNode>,
    /// Those that took most time first.
    pub statements: Vec<StatementTop>,
    /// The last ones that took long, oldest first.
    pub slow: Vec<SlowStatement>,
}

/// What a node did for clients of the databases.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SqlNode {
    pub node: String,
    pub connections: u64,
    pub writes: u64,
    /// Reads that had to run at the primary.
    pub reads_primary: u64,
    /// Reads that ran on whichever copy was near.
    pub reads_replica: u64,
    /// Of all, those that came from sessions on other nodes.
    pub served_for_others: u64,
    pub errors: u64,
}

/// Statements that differ in their constants only, on one node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatementTop {
    pub node: String,
    /// With `?` for constants.
    pub text: String,
    pub calls: u64,
    pub errors: u64,
    pub total_ms: f64,
    pub longest_ms: f64,
}

/// A statement that took long.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SlowStatement {
    pub node: String,
    pub at_ms: u64,
    pub took_ms: f64,
    pub text: String,
    #[serde(default)]
    pub database: String,
    #[serde(default)]
    pub user: String,
    /// Rows that it gave or changed.
    #[serde(default)]
    pub rows: Option<u64>,
    /// The node that executed it, by name.
    #[serde(default)]
    pub executed_on: String,
}

/// Where a backup goes or comes from, on the machine of the node that is asked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct BackupRequest {
    /// Absolute; for a backup the node chooses one when it is left out.
    #[serde(default)]
    pub path: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupDone {
    pub path: String,
    pub bytes: u64,
    /// What the backup has: everything up to this position of the database.
    pub position: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreDone {
    /// The position of the database after it.
    pub position: String,
    /// From an archive: the position that it had then, and when its last batch was
    /// proposed, milliseconds since 1970.
    #[serde(default)]
    pub from_archive: Option<(u64, u64)>,
}

/// A copy of a shard that is not the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseReplica {
    pub node: String,
    /// catching-up, serving, stopped, broken, or down.
    pub state: String,
    /// Whether the primary counts it when it acknowledges a write, so that it may take over.
    /// A new copy does after a moment, one beyond an odd number or beyond five does not.
    #[serde(default)]
    pub votes: bool,
    /// How far it is behind, as it knows.
    pub lag_ms: Option<u64>,
    pub position: u64,
    #[serde(default)]
    pub problem: Option<String>,
}

//! One copy of one shard of a database on a node: a file of SQLite, the Raft group
//! that replicates its pages, and the connections that execute statements on it.
//!
//! A [`Shard`] is what a node *starts* ([`Shard::open`]). While its group elects
//! this node, the copy is the primary: it takes writes ([`Shard::write`],
//! [`Shard::begin`], [`Shard::alone`]). Otherwise it *follows* by itself. Both
//! answer reads ([`Shard::read`], [`Shard::begin_read`]) and say their *position*
//! ([`Shard::position`]). [`Shard::hand_over`] *promotes* another copy and so
//! *demotes* this one. Nothing of SQLite but its connections shows in this.
//!
//! What leaves this crate, rows and errors alike, was read at a position that a
//! quorum has on its disks.
//!
//! This crate does not speak the wire protocol, does not translate SQL, does not
//! send statements to other nodes, and does not decide who holds copies.

mod alone;
mod archive;
mod batch;
mod cancel;
mod changes;
mod claims;
mod config;
mod contention;
mod core;
mod desk;
mod draft;
mod error;
mod former;
mod fresh;
mod gathering;
mod hand_over;
mod in_flight;
mod interactive;
mod job;
mod landing;
mod machine;
mod outbox;
mod payload;
mod propose;
mod read;
mod readers;
mod scrub;
mod shard;
mod status;
mod steps;
mod take_over;
mod token;
mod transaction;
mod turn;
mod write_lock;
mod writer;

pub use archive::{LoggedEntries, LoggedEntry};
pub use cancel::Cancel;
#[cfg(feature = "simulation")]
pub use config::Faults;
pub use config::{First, Limits, ShardConfig};
pub use draft::{Part, Trial};
pub use error::{HandOverError, ShardError};
pub use former::{Former, FormerError};
pub use interactive::WriteTransaction;
pub use job::Verdict;
pub use read::{ReadLevel, ReadTransaction};
pub use scrub::{ScrubPart, Unread};
pub use shard::Shard;
pub use status::{CopyState, ShardStatus, Stop};
pub use token::{Token, TokenError};
pub use turn::{Length, Turn};

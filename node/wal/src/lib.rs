//! The write-ahead log of a node: one for all its Raft groups, in segment
//! files, with one sync for everything that waits.
//!
//! A group's log is a list of entries by index, a purge point and a few small
//! values (vote, committed position). [`Wal::write`] queues changes of one group,
//! readers see them at once, and its future resolves when they are on the disk.
//!
//! It is *not* a Raft implementation, and it does not know what is in an entry.
//! It repairs nothing: [`Wal::open`] says which groups lost something, and who
//! runs them fetches them from their peers. It never retries a failed sync:
//! [`Wal::failed`] tells, and the process ends.
//!
//! [`segment`] and [`record`] describe the files, `DESIGN.md` says why.

mod config;
pub mod disk;
mod error;
mod group;
mod log_core;
pub mod record;
mod recovery;
pub mod segment;
mod stats;
mod wal;

pub use config::{Driver, WalConfig};
pub use error::{OpenError, ReadError, WalError};
pub use group::{Bounds, GroupState, Image, LogEntry, MAX_META_BYTES, Write};
pub use recovery::{Corruption, Damage, Recovery};
pub use rung_proto::GroupId;
pub use stats::{Histogram, WalStats};
pub use wal::{Wal, WrittenBatch};

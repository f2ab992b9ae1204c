//! The clients of the SQL database: the wire protocol, sessions, and the way of
//! each statement to a node that can execute it.
//!
//! A session lives on the node that its client is connected to. What it reads runs
//! on that node's copy, or on one nearby; what it writes runs at the primary,
//! through a [link](crate) of the mesh if that is another node. So a failover or a
//! promotion never drops a client's connection: a statement that is known not to
//! have run waits for the new primary, one whose outcome is unknown is called so
//! (08007), and an open transaction that has written is told to begin again
//! (40001).
//!
//! This crate does not translate SQL, does not replicate, and does not decide who
//! holds copies; it is told by a [`Directory`].

// An error is told to a client: its size does not matter beside that.
#![allow(clippy::result_large_err)]

mod backend;
mod directory;
mod link;
mod rows;
mod server;
mod session;
mod statistics;
mod tls;
mod unfinished;
mod users;
mod wire;

pub use directory::{Copy, Database, Directory, ShardPlace};
pub use link::parse_link;
pub use server::{Limits, Server, ServerConfig, ServerError};
pub use session::{Freshness, SERVER_VERSION};
pub use statistics::{Counters, Served, SlowStatement, StatementStatistics, Statistics};
pub use tls::{ServerTls, TlsError};
pub use users::UserRecord;
pub use wire::{ParseVerifierError, ScramVerifier, parse_any};

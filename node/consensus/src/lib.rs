//! Replicated logs: groups of one, three or five voters that agree on one
//! sequence of entries, on the node's one write-ahead log and its mesh.
//!
//! [`Consensus`] owns the groups of a node. A [`Group`] takes proposals on its
//! leader and applies what a quorum has on its disks to a [`StateMachine`], in
//! the same order everywhere. The protocol is Raft with pre-votes, read index,
//! leader transfer, learners and joint membership changes. The library that
//! implements it does not show in this crate's interface.
//!
//! This crate does not decide who should be a voter, does not know addresses,
//! and does not forward proposals to the leader: its callers do.

mod applied_log;
mod closed;
mod config;
mod consensus;
mod entry;
mod error;
mod group;
mod log;
mod memberships;
mod mesh;
mod message;
mod network;
mod peer;
mod raft_types;
mod receive;
mod replica;
mod report;
mod returning;
mod runtime;
mod sending;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod snapshot_format;
mod snapshot_store;
mod state_machine;
mod status;
mod turns;
mod watch;

pub use applied_log::AppliedLog;
pub use closed::{ClosedLog, Proposals};
pub use config::{GroupConfig, MAX_PAYLOAD};
pub use consensus::{Consensus, ConsensusConfig};
pub use entry::{EntryError, check_entry};
pub use error::{ChangeError, OpenError, ProposeError, ReadError, Refusal};
pub use group::{Applied, Group};
pub use mesh::{MeshNetwork, SNAPSHOT_STREAM};
pub use message::{MAX_REQUEST, MessageError, check_request};
pub use network::{ByteStream, Network, NetworkError};
pub use runtime::seed_this_thread;
pub use snapshot_format::{SnapshotDamage, check_snapshot};
pub use state_machine::{
    Arrival, Committed, Landed, Landing, OwnCopy, SnapshotSource, StateMachine,
};
pub use status::{GroupRole, GroupStatus, Position};

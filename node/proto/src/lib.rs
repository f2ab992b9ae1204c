//! The types that cross a wire or reach a disk, and the words Rung uses for things.
//!
//! This crate holds data only: identifiers, roles, error codes and the JSON that
//! `ctl` and scripts read. It does no I/O and keeps no state.
//!
//! Everything that may be read by another version of Rung is encoded by
//! [`encoding`]: MessagePack with structs as maps, so that a field may be added
//! without breaking an older reader.

pub mod api;
pub mod encoding;
pub mod error;
pub mod ids;
pub mod role;
pub mod soft;

pub use error::{Code, Failure};
pub use ids::{
    ClusterId, Digest, Epoch, Generation, GroupId, Incarnation, InstanceId, NodeId, OperationId,
};
pub use role::Role;

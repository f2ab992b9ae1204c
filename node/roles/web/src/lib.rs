//! The web role: runs the web processes of apps on one node.
//!
//! It fetches and unpacks releases, starts each instance on a port of its own as
//! a user that may little, checks its health, starts it again when it crashes,
//! drains and stops it, keeps what it prints, and hands requests from balancers
//! on other nodes to it.
//!
//! It does *not* decide what runs where: that is [`WebRole::reconcile`]'s
//! argument, from committed state. It does not understand HTTP beyond its own
//! health checks, and it is no sandbox: an app is kept from the node's files and
//! from other apps' by its user, not by namespaces.

mod descriptors;
mod exec;
mod gate;
pub mod health;
mod instance;
mod launch;
pub mod lifecycle;
pub mod logs;
mod ports;
mod process;
pub mod procfs;
pub mod relay;
mod releases;
mod role;
mod users;

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rung_proto::{Digest, InstanceId, NodeId};

pub use exec::{EXEC_ARGUMENT, exec_app};
pub use instance::InstanceSpec;
pub use lifecycle::Policy;
pub use logs::{AppLog, Follow, Followed, LogLine};
pub use role::{Metrics, WebError, WebRole};
pub use users::UserPolicy;

/// Makes sure that a bundle is in the local store, pulling it from a peer.
pub type Fetch = Arc<dyn Fn(Digest) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Resolves when every balancer acknowledged that an instance is removed, or
/// when the silent ones were waited for long enough.
pub type Drained = Arc<dyn Fn(InstanceId) -> BoxFuture<'static, ()> + Send + Sync>;

/// Ports that instances get unless the configuration says otherwise: below those
/// that Linux gives to outgoing connections.
pub const DEFAULT_PORTS: RangeInclusive<u16> = 20_000..=29_999;

/// How the role works on this node.
#[derive(Clone, Debug)]
pub struct WebConfig {
    pub node: NodeId,
    /// For `RUNG_NODE`.
    pub node_name: String,
    /// For `RUNG_DC`.
    pub dc: String,
    /// A directory of the role's own, `web` in the node's data directory. Apps
    /// must be able to pass through its parents.
    pub data_dir: PathBuf,
    /// The loopback address that apps listen on.
    pub host: IpAddr,
    pub user: UserPolicy,
    /// A program that calls [`exec_app`] when its only argument is
    /// [`EXEC_ARGUMENT`]: the node's own binary.
    pub exec_helper: PathBuf,
    pub port_range: RangeInclusive<u16>,
    /// Open files that one process may have.
    pub open_files: u64,
    pub policy: Policy,
}

//! What a balancer routes by: a whole that replaces a whole.

use std::net::SocketAddr;

use rung_proto::{InstanceId, NodeId};

/// Every app, where it is reached, and its instances.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RoutingTable {
    /// Of the caller's choice; shown in metrics.
    pub version: u64,
    pub apps: Vec<AppRoute>,
}

/// One app.
#[derive(Clone, PartialEq, Debug)]
pub struct AppRoute {
    pub name: String,
    /// Exact host names in ASCII lower case, without port or final dot. While
    /// the table holds one app only, that app takes every host.
    pub domains: Vec<String>,
    /// Prefixes of the path that are the app's, by whole segments: `/api` takes
    /// `/api` and `/api/x` and not `/apix`. The longest one wins; empty means
    /// `/`.
    pub paths: Vec<String>,
    pub policy: Policy,
    /// Requests in flight; more are answered 503 at once.
    pub max_in_flight: Option<usize>,
    /// Binds a client to an instance by a cookie.
    pub sticky: bool,
    pub instances: Vec<Target>,
}

impl AppRoute {
    /// An app for every path of `domains`, with the default policy.
    pub fn new(name: impl Into<String>, domains: Vec<String>, instances: Vec<Target>) -> AppRoute {
        AppRoute {
            name: name.into(),
            domains,
            paths: Vec::new(),
            policy: Policy::default(),
            max_in_flight: None,
            sticky: false,
            instances,
        }
    }
}

/// How an instance is chosen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Of two at random the one with the lower latency times load.
    #[default]
    PowerOfTwo,
    RoundRobin,
    LeastConnections,
    /// The same key goes to the same instance as long as it is there.
    ConsistentHash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HashKey {
    ClientAddress,
    /// A header field by its name in lower case; the client's address where it
    /// is missing.
    Header(String),
}

/// One instance of an app.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub id: InstanceId,
    pub node: NodeId,
    pub dc: String,
    pub place: Place,
    pub state: TargetState,
    /// When it became ready, milliseconds since 1970: the slow start counts from
    /// there.
    pub since_ms: u64,
}

/// How an instance is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// By TCP on this machine.
    Local { address: SocketAddr },
    /// By a mesh stream to its node.
    Remote,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetState {
    Ready,
    /// Finishes what it has; gets no new request.
    Draining,
}

/// A token bucket.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RateLimit {
    pub per_second: f64,
    /// How many may come at once after a pause.
    pub burst: u32,
}

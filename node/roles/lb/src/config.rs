//! What a balancer is started with.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rung_proto::{Code, Failure, NodeId};

use crate::head::HeadLimits;
use crate::table::RateLimit;

/// Where a balancer listens and how much it takes.
#[derive(Clone, Debug)]
pub struct LbConfig {
    pub node: NodeId,
    /// The data center of this node; instances there are preferred.
    pub dc: String,
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    /// Data-plane threads; 0 means one for each core.
    pub threads: usize,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub health: HealthConfig,
    pub access_log: AccessLog,
}

impl LbConfig {
    /// Plain HTTP on `http`, everything else by default.
    pub fn new(node: NodeId, dc: impl Into<String>, http: SocketAddr) -> LbConfig {
        LbConfig {
            node,
            dc: dc.into(),
            http,
            https: None,
            threads: 0,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            health: HealthConfig::default(),
            access_log: AccessLog::Off,
        }
    }
}

/// Bounds, over all threads unless said otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    pub head: HeadLimits,
    /// Client connections; the next one is closed at once.
    pub connections: usize,
    /// Requests that wait for an instance to become healthy.
    pub waiting: usize,
    /// Idle connections kept to one instance, for each thread.
    pub idle_per_instance: usize,
    /// Attempts of one request that an instance may have seen.
    pub attempts: u32,
    /// Bytes of a request body that are kept to be sent again.
    pub replay_bytes: usize,
    /// Requests at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// For each client address; none by default.
    pub rate: Option<RateLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: HeadLimits::default(),
            connections: 20_000,
            waiting: 2_000,
            idle_per_instance: 128,
            attempts: 3,
            replay_bytes: 64 * 1024,
            http2_streams: 128,
            rate: None,
        }
    }
}

/// How long each phase may last.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From the first byte of a request to the end of its head; also for a TLS
    /// handshake.
    pub client_head: Duration,
    /// Without a byte of a body in either direction.
    pub body_idle: Duration,
    /// To connect to an instance.
    pub connect: Duration,
    /// From the request to the head of the response.
    pub first_byte: Duration,
    /// A client connection between two requests.
    pub client_idle: Duration,
    /// A connection to an instance between two requests.
    pub instance_idle: Duration,
    /// A tunnel without a byte in either direction.
    pub tunnel_idle: Duration,
    /// A request that finds no healthy instance waits for one.
    pub wait: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            client_head: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            connect: Duration::from_secs(1),
            first_byte: Duration::from_secs(60),
            client_idle: Duration::from_secs(75),
            instance_idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(600),
            wait: Duration::from_secs(2),
        }
    }
}

/// When an instance that answers badly is left out, and how it comes back.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// Connections in a row that failed.
    pub connect_failures: u32,
    /// Responses in a row with a status of 500 or more, or broken ones.
    pub bad_responses: u32,
    /// How long the first ejection lasts; each one in a row doubles it.
    pub eject: Duration,
    pub eject_longest: Duration,
    /// A new or returned instance reaches its full share after that time.
    pub slow_start: Duration,
    /// Requests of the same data center stay there while at least this share of
    /// its instances is healthy, and at least one.
    pub local_share: f64,
}

impl Default for HealthConfig {
    fn default() -> Self {
        HealthConfig {
            connect_failures: 2,
            bad_responses: 8,
            eject: Duration::from_secs(2),
            eject_longest: Duration::from_secs(60),
            slow_start: Duration::from_secs(10),
            local_share: 0.0,
        }
    }
}

/// The access log: one JSON object a line.
#[derive(Clone, Debug)]
pub enum AccessLog {
    Off,
    /// Written to `path`; when it would pass `max_bytes` it becomes `path.1`,
    /// that one `path.2`, and so on; `keep` old ones stay.
    File {
        path: PathBuf,
        max_bytes: u64,
        keep: u32,
    },
}

/// Why a balancer did not start, or refused a change.
#[derive(Debug, thiserror::Error)]
pub enum LbError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("cannot write the access log {path}: {source}")]
    AccessLog { path: PathBuf, source: io::Error },
    #[error("the certificate for {domain} cannot be used: {source}")]
    Certificate { domain: String, source: rustls::Error },
}

impl LbError {
    /// The same for a person.
    pub fn failure(&self) -> Failure {
        match self {
            LbError::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Failure::new(Code::PortTaken, format!("the load balancer cannot use {address}"))
                    .because("another program listens there")
                    .next(format!(
                        "stop it (`ss -ltnp 'sport = :{}'`) or give another port",
                        address.port()
                    ))
            }
            LbError::Listen { .. } => Failure::new(Code::Config, self.to_string())
                .next("give an address of this machine and a port that this user may open"),
            LbError::Thread(_) => Failure::new(Code::Internal, self.to_string()),
            LbError::AccessLog { .. } => Failure::new(Code::Config, self.to_string())
                .next("give a path in a folder that this user may write"),
            LbError::Certificate { .. } => Failure::new(Code::Config, self.to_string())
                .next("check that key and chain belong together and are PEM or DER as expected"),
        }
    }
}

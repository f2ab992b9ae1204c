//! The load balancer: an HTTP proxy that one would put before one's own site.
//!
//! A [`Balancer`] listens on its own threads, reads requests strictly, finds the
//! app by host and path in a [`RoutingTable`], chooses one of its instances, and
//! forwards by TCP to an instance on this machine or by a mesh stream to the
//! node that owns it. See `DESIGN.md` for why it is made as it is.
//!
//! It is *not* a cache, it buffers no bodies, it rewrites no content, and it
//! does not decide which instances there are or whether they are healthy: the
//! table says so. What it sees of them while forwarding only moves requests from
//! one to another.

mod access_log;
mod balance;
mod balancer;
pub mod body;
mod budget;
mod buffer;
mod client;
mod config;
mod deadline;
mod error_page;
mod exchange;
pub mod fields;
mod forwarding;
mod hash_ring;
pub mod head;
mod health;
mod http1_client;
mod http1_front;
mod http2_client;
mod http2_front;
mod instance;
mod metrics;
mod proxy;
mod random;
mod rate_limit;
mod request_body;
pub mod request_head;
pub mod response_head;
mod rewrite;
mod route;
mod shared;
mod sticky;
mod stream;
mod table;
mod tls;
mod trace;
mod tunnel;
mod upstream;
mod worker;

pub use balancer::Balancer;
pub use config::{AccessLog, HealthConfig, LbConfig, LbError, Limits, Timeouts};
pub use metrics::{AppMetrics, InstanceMetrics, LATENCY_BOUNDS_US, LbMetrics, RequestMetrics};
pub use table::{AppRoute, HashKey, Place, Policy, RateLimit, RoutingTable, Target, TargetState};
pub use tls::Certificate;
pub use upstream::{
    CANCELLED, LONG_LIVED, PROXY_STREAM, REFUSED, UNREACHABLE, parse_stream_header, stream_header,
};

//! Authoritative DNS for the domains of the apps: addresses of the load balancers
//! that are alive, the nearest data center first or in given shares.
//!
//! It is *not* a resolver (it never asks other servers), not a secondary of other
//! primaries (no zone transfers), and holds no state: the node gives it whole
//! [`Zones`] and it answers from them until it gets others.
//!
//! The hot path is a thread per core with its own socket, batches of 64 packets
//! a system call, a hand parser ([`parse_question`]) and answers prepared when
//! the zones change. Everything unusual is decoded and encoded by hickory-proto,
//! which is also the oracle in the tests of the hot path. [`respond`] is the whole
//! of it as a pure function.

mod choice;
mod cookie;
mod edns;
mod fast;
mod locations;
mod metrics;
mod mmsg;
mod name;
mod prepared;
mod question;
mod rate_limit;
mod respond;
mod server;
mod slow;
mod snapshot;
mod tcp;
mod udp;
mod zones;

pub use cookie::{Cookie, CookieSecret};
pub use edns::{Edns, Options, Subnet};
pub use locations::{Locations, Prefix, PrefixError};
pub use metrics::{AnswersByCode, DnsMetrics};
pub use name::NameError;
pub use question::{NotOrdinary, Question, parse_question};
pub use rate_limit::RateLimit;
pub use respond::{Asker, Transport, respond};
pub use server::{DnsConfig, DnsError, DnsServer, Limits};
pub use snapshot::Snapshot;
pub use zones::{FarTargets, LbTarget, NameServer, Zone, Zones, ZonesError};

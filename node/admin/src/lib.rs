//! The admin API of a node: the door for `ctl`, probes, Prometheus and the
//! dashboard.
//!
//! Two listeners serve what `rung_proto::api` describes. The unix socket in the
//! data directory has every endpoint, and whoever may open it (file permissions)
//! is an operator, named by what the kernel says of the peer. The TCP port is
//! for strangers: it tells whether the node lives and is ready, gives metrics,
//! and shows the dashboard, read only, to a browser that brings a one-time link.
//!
//! What the answers are is the business of a [`Backend`]; this crate decides
//! nothing about the cluster and stores nothing but dashboard sessions, in
//! memory. It is *not* a general web server, and it is no path for application
//! traffic.
//!
//! [`prometheus`] writes the text format that metrics are rendered in, and
//! [`host`] reads the state of the machine from `/proc`.

pub mod backend;
mod dashboard;
mod follow;
pub mod host;
mod local;
pub mod peer;
pub mod prometheus;
mod public;
pub mod query;
mod read;
mod respond;
mod server;
mod session;
pub mod socket;
mod upload;

pub use backend::{Answer, Backend, LogQuery};
pub use server::{AdminConfig, AdminServer, Limits, StartError};

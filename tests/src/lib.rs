//! What the multi-process tests are made with: clusters of real `rungd`
//! processes, `ctl` and other tools as a user runs them, and steady load.
//!
//! Each [`Cluster`] has a network of its own, `127.0.X.0/24`, so that tests run
//! beside each other and beside a developer's cluster on `127.0.0.0/24`. Its
//! processes end with it, also when a test panics or is killed.
//!
//! The binaries are those beside the test binary (`target/debug` for `cargo
//! test`), or those in `RUNG_BIN`; `scripts/test.sh` builds them first.
//!
//! This crate is *not* a mock of anything: a test here sees what a user sees.

pub mod app;
pub mod attack;
pub mod check;
pub mod clients;
pub mod cluster;
pub mod database;
pub mod failing_sync;
pub mod http;
pub mod load;
pub mod namespaces;
pub mod network;
pub mod packet_delay;
pub mod photos;
pub mod postgres;
pub mod preload;
pub mod process;
pub mod small_disk;
pub mod sql;
pub mod wait;
pub mod workload;

pub use app::AppFolder;
pub use cluster::{Builder, Cluster};
pub use load::{Load, Report};
pub use process::{Run, run};
pub use wait::{eventually, until};

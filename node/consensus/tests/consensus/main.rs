//! Groups over real meshes and real files.

mod membership;
mod replication;
mod support;

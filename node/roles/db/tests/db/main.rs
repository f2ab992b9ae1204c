//! Clients against nodes of one process: real sockets, real meshes, real files.

mod client;
mod cluster;
mod copy;
mod drafts;
mod extended;
mod limits;
mod links;
mod session;
mod startup;
mod tls;
mod tools;

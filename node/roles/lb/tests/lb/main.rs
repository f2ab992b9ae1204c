//! The balancer between raw clients and raw instances, over real sockets.

mod bodies;
mod failures;
mod forwarding;
mod harness;
mod https;
mod limits;
mod remote;
mod strictness;
mod tunnels;

//! The server over real sockets, with a fake cluster behind it.

mod fake;
mod local;
mod public;
mod wire;

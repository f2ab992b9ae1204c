//! Whole meshes over real sockets on the loopback interface.

mod calls;
mod failures;
mod identity;
mod joining;
mod streams;
mod support;

//! PostgreSQL's wire protocol, version 3.0.

mod connection;
mod copy;
mod encode;
mod extended;
mod frontend;
mod scram;
mod startup;
mod stream;

pub(crate) use connection::serve;
pub use encode::{Severity, Status};
pub use scram::{ParseVerifierError, ScramVerifier};

/// What reads bytes of clients, for the fuzzer: none of them may make it panic.
pub fn parse_any(bytes: &[u8]) {
    let _ = frontend::First::length(bytes);
    let _ = frontend::First::parse(bytes);
    startup::parse_any(bytes);
    scram::parse_any(bytes);
    if let Ok(Some(header)) = frontend::Header::parse(bytes) {
        let _ = frontend::Message::parse(header.kind, &bytes[frontend::HEADER..]);
    }
}

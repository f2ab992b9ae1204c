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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            start in prop::sample::select(vec!["", "n,,n=,r=a", "p=tls-server-end-point,,n=,r=a"]),
            kind in prop::sample::select(b"QPBDECHSXdcfpF\0".to_vec()),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            parse_any(&[start.as_bytes(), &bytes].concat());
            let length = (bytes.len() as u32 + 4).to_be_bytes();
            parse_any(&[&[kind][..], &length, &bytes].concat());
        }
    }
}

//! What the group's log carries: the epoch of whoever proposed, and an entry of
//! pages.
//!
//! An entry that was executed in one epoch could reach the log in a later one,
//! after its primary was told that it is lost. So every copy passes over entries
//! whose epoch is not the term they were written in.

use bytes::{BufMut, Bytes, BytesMut};

const VERSION: u8 = 1;
/// Version and epoch.
pub(crate) const HEADER: usize = 9;

pub(crate) fn encode(epoch: u64, entry: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + entry.len());
    out.put_u8(VERSION);
    out.put_u64(epoch);
    out.put_slice(entry);
    out.freeze()
}

/// The epoch and the entry, if the payload is one of ours.
pub(crate) fn decode(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (header, entry) = payload.split_at_checked(HEADER)?;
    let (version, epoch) = header.split_first()?;
    let epoch = u64::from_be_bytes(epoch.try_into().ok()?);
    (*version == VERSION).then_some((epoch, entry))
}

/// What a copy answers to the primary about its entry.
pub(crate) const APPLIED: &[u8] = &[1];
pub(crate) const SKIPPED: &[u8] = &[0];
/// A part of a transaction, not the last.
pub(crate) const PART: &[u8] = &[2];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_survives_its_encoding() {
        let payload = encode(7, b"entry");
        assert_eq!(decode(&payload), Some((7, &b"entry"[..])));
    }

    #[test]
    fn other_bytes_are_no_payload() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[1; 8]), None);
        assert_eq!(decode(&[9; 20]), None);
    }
}

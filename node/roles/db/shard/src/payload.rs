//! What the group's log carries: the epoch of whoever proposed, when that was, and an
//! entry of pages or a mark of a scrub.
//!
//! An entry that was executed in one epoch could reach the log in a later one,
//! after its primary was told that it is lost. So every copy passes over entries
//! whose epoch is not the term they were written in.
//!
//! The time is that of the primary's clock before the entry was proposed, so before
//! anybody was told that it is done. It is for archives; no copy acts on it.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

/// An entry without a time.
const TIMELESS: u8 = 1;
const ENTRY: u8 = 2;
const MARK: u8 = 3;
/// Version, epoch and time.
pub(crate) const HEADER: usize = 17;

/// A decoded payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Payload<'a> {
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub at_ms: Option<u64>,
    pub content: Content<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content<'a> {
    /// An entry of pages.
    Entry(&'a [u8]),
    /// Every copy reads some pages as they are at this place of the log.
    Mark(ScrubMark),
}

/// Which pages a scrub looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ScrubMark {
    /// Which scrub.
    pub scrub: u64,
    /// The first page, from 1.
    pub first: u32,
    pub count: u32,
}

fn encode_as(kind: u8, epoch: u64, content: &[u8]) -> Bytes {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut out = BytesMut::with_capacity(HEADER + content.len());
    out.put_u8(kind);
    out.put_u64(epoch);
    out.put_u64(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    out.put_slice(content);
    out.freeze()
}

/// An entry of pages that is proposed now.
pub(crate) fn encode(epoch: u64, entry: &[u8]) -> Bytes {
    encode_as(ENTRY, epoch, entry)
}

pub(crate) fn encode_mark(epoch: u64, mark: &ScrubMark) -> Bytes {
    let mut content = Vec::with_capacity(16);
    content.put_u64(mark.scrub);
    content.put_u32(mark.first);
    content.put_u32(mark.count);
    encode_as(MARK, epoch, &content)
}

/// What a payload says, if it is one of ours. Any bytes may be given.
pub(crate) fn decode(payload: &[u8]) -> Option<Payload<'_>> {
    let (version, rest) = payload.split_first()?;
    let (epoch, rest) = take_u64(rest)?;
    if *version == TIMELESS {
        return Some(Payload { epoch, at_ms: None, content: Content::Entry(rest) });
    }
    let (at_ms, rest) = take_u64(rest)?;
    let content = match *version {
        ENTRY => Content::Entry(rest),
        MARK => {
            let (scrub, rest) = take_u64(rest)?;
            let (pages, rest) = take_u64(rest)?;
            let mark = ScrubMark { scrub, first: (pages >> 32) as u32, count: pages as u32 };
            rest.is_empty().then_some(Content::Mark(mark))?
        }
        _ => return None,
    };
    Some(Payload { epoch, at_ms: Some(at_ms), content })
}

fn take_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*head), rest))
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
        let read = decode(&payload).unwrap();
        assert_eq!((read.epoch, read.content), (7, Content::Entry(b"entry")));
        assert!(read.at_ms.is_some_and(|at| at > 1_700_000_000_000));
        let mark = ScrubMark { scrub: 5, first: 1025, count: 1024 };
        let payload = encode_mark(7, &mark);
        assert_eq!(decode(&payload).unwrap().content, Content::Mark(mark));
    }

    #[test]
    fn an_entry_of_an_earlier_version_has_no_time() {
        let old = [&[1][..], &7u64.to_be_bytes(), b"entry"].concat();
        let expected = Payload { epoch: 7, at_ms: None, content: Content::Entry(b"entry") };
        assert_eq!(decode(&old), Some(expected));
    }

    #[test]
    fn other_bytes_are_no_payload() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[1; 8]), None);
        assert_eq!(decode(&[2; 16]), None);
        assert_eq!(decode(&[9; 40]), None);
        let mark = encode_mark(7, &ScrubMark { scrub: 5, first: 1, count: 1 });
        assert_eq!(decode(&mark[..mark.len() - 1]), None);
        assert_eq!(decode(&[&mark[..], &[0]].concat()), None);
    }
}

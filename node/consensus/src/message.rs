//! The messages between the replicas of a group.
//!
//! A request is a MessagePack header, preceded by its length, and the entries
//! after it as raw bytes, so that a large entry is neither copied nor escaped.
//! The mesh has already established which node a message comes from and that
//! both are of one cluster and generation; the generation is carried again
//! because a call may outlive a change of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rung_proto::encoding;
use rung_proto::{Generation, GroupId, NodeId};
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::raft_types::{RaftEntry, RaftVote, position};
use crate::status::Position;

/// The largest request that is accepted, in bytes.
pub const MAX_REQUEST: usize = 4 << 20;
/// The largest header of a request, in bytes.
const MAX_HEADER: usize = 64 << 10;
const ENTRY_HEADER: usize = 12;

/// Bytes that are not a message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Cut off, or a length that does not fit.
    #[error("a message of {length} bytes ends before its {part}")]
    Short {
        /// The length of the whole message.
        length: usize,
        /// What is missing.
        part: &'static str,
    },
    /// More than allowed.
    #[error("a message has {0} bytes; at most {MAX_REQUEST} are accepted")]
    TooLarge(usize),
    /// A header that cannot be read.
    #[error(transparent)]
    Header(#[from] encoding::DecodeError),
    /// An entry that cannot be read.
    #[error(transparent)]
    Entry(#[from] entry::EntryError),
    /// The number of entries is not the announced one.
    #[error("a message has {0} bytes after its last entry")]
    Trailing(usize),
    /// Entries whose positions cannot follow the previous one.
    #[error("the entries of a message do not follow {previous:?}: term {term} at index {index}")]
    Order {
        /// The entry that they claim to follow.
        previous: Option<Position>,
        /// The term seen.
        term: u64,
        /// The index at which it was seen.
        index: u64,
    },
}

/// Who asks to lead, or leads if it is `granted` by a quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub term: u64,
    pub node: NodeId,
    pub granted: bool,
}

impl From<&RaftVote> for Ballot {
    fn from(vote: &RaftVote) -> Self {
        Self {
            term: vote.leader_id.term,
            node: NodeId(vote.leader_id.voted_for),
            granted: vote.committed,
        }
    }
}

impl From<Ballot> for RaftVote {
    fn from(ballot: Ballot) -> Self {
        if ballot.granted {
            RaftVote::new_committed(ballot.term, ballot.node.0)
        } else {
            RaftVote::new(ballot.term, ballot.node.0)
        }
    }
}

/// What a replica asks of another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Store the entries that follow `previous`; none is a heartbeat.
    Append {
        ballot: Ballot,
        previous: Option<Position>,
        commit: Option<Position>,
        entries: u32,
    },
    Vote {
        ballot: Ballot,
        last: Option<Position>,
        transfer: bool,
    },
    /// Would you vote for me?
    PreVote {
        ballot: Ballot,
        last: Option<Position>,
        transfer: bool,
    },
    /// The leader hands over to `to`.
    Transfer {
        ballot: Ballot,
        to: NodeId,
        last: Option<Position>,
    },
    /// Which index must a linearizable read have seen?
    ReadIndex {
        deadline_ms: u32,
    },
    /// Does the replica take part in elections, or will it in time?
    IsComplete {
        deadline_ms: u32,
    },
}

/// What it answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Appended,
    AppendedUpTo(Option<Position>),
    Conflict,
    Higher(Ballot),
    Vote { ballot: Ballot, granted: bool, last: Option<Position> },
    Transferring,
    TransferVoteChanged { expected: Ballot, actual: Ballot },
    TransferNotFlushed { expected: Option<Position>, actual: Option<Position> },
    SnapshotInstalled(Ballot),
    ReadAt(Option<u64>),
    NotLeader(Option<NodeId>),
    NoQuorum,
    Complete(bool),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub generation: Generation,
    pub group: GroupId,
    pub request: Request,
}

/// What precedes the bytes of a snapshot on its stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub generation: Generation,
    pub group: GroupId,
    pub ballot: Ballot,
    /// The length of what follows; unknown when the state is read while it is sent.
    /// Its own end is part of a snapshot in any case.
    pub bytes: Option<u64>,
}

pub(crate) fn encode_request(header: &Header, entries: &[RaftEntry]) -> Bytes {
    let header = encoding::encode(header);
    let payloads: Vec<Bytes> =
        entries.iter().map(|entry| entry::to_bytes(&entry.payload)).collect();
    let size: usize = payloads.iter().map(|payload| payload.len() + ENTRY_HEADER).sum();
    let mut out = BytesMut::with_capacity(4 + header.len() + size);
    out.put_u32(u32::try_from(header.len()).expect("a header has a few hundred bytes"));
    out.put_slice(&header);
    for (entry, payload) in entries.iter().zip(payloads) {
        out.put_u64(entry.log_id.leader_id.term);
        out.put_u32(u32::try_from(payload.len()).expect("a payload is at most 3 MiB"));
        out.put_slice(&payload);
    }
    out.freeze()
}

pub(crate) fn decode_request(mut bytes: Bytes) -> Result<(Header, Vec<RaftEntry>), MessageError> {
    let length = bytes.len();
    if length > MAX_REQUEST {
        return Err(MessageError::TooLarge(length));
    }
    let short = |part| MessageError::Short { length, part };
    let header_length = bytes.try_get_u32().map_err(|_| short("header"))? as usize;
    if header_length > MAX_HEADER || header_length > bytes.len() {
        return Err(short("header"));
    }
    let header: Header = encoding::decode(&bytes.split_to(header_length))?;
    let (previous, count) = match &header.request {
        Request::Append { previous, entries, .. } => (*previous, *entries),
        _ => (None, 0),
    };
    let mut entries = Vec::with_capacity((count as usize).min(bytes.len() / ENTRY_HEADER));
    let mut last = previous;
    for _ in 0..count {
        let term = bytes.try_get_u64().map_err(|_| short("entries"))?;
        let size = bytes.try_get_u32().map_err(|_| short("entries"))? as usize;
        if size > bytes.len() {
            return Err(short("entries"));
        }
        let payload = bytes.split_to(size);
        let index = match last {
            None => 0,
            Some(last) if term >= last.term && last.index < u64::MAX - 1 => last.index + 1,
            Some(last) => return Err(MessageError::Order { previous, term, index: last.index }),
        };
        let entry = entry::from_bytes(Position { term, index }, payload)?;
        last = Some(position(&entry.log_id));
        entries.push(entry);
    }
    if !bytes.is_empty() {
        return Err(MessageError::Trailing(bytes.len()));
    }
    Ok((header, entries))
}

/// Checks that bytes are a request between replicas. For fuzzing.
///
/// # Errors
/// When they are not.
pub fn check_request(bytes: &[u8]) -> Result<(), MessageError> {
    decode_request(Bytes::copy_from_slice(bytes)).map(drop)
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::*;
    use crate::raft_types::log_id;

    fn append(previous: Option<Position>, payloads: &[Vec<u8>]) -> (Header, Vec<RaftEntry>) {
        let start = previous.map_or(0, |previous| previous.index + 1);
        let entries: Vec<RaftEntry> = (start..)
            .zip(payloads)
            .map(|(index, payload)| RaftEntry {
                log_id: log_id(Position { term: 7, index }),
                payload: EntryPayload::Normal(entry::proposal(payload)),
            })
            .collect();
        let request = Request::Append {
            ballot: Ballot { term: 7, node: NodeId(3), granted: true },
            previous,
            commit: previous,
            entries: u32::try_from(entries.len()).unwrap(),
        };
        (Header { generation: Generation(1), group: GroupId(4), request }, entries)
    }

    proptest! {
        #[test]
        fn an_append_survives_its_encoding(
            index in proptest::option::of(0_u64..1000),
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
        ) {
            let (header, entries) = append(index.map(|index| Position { term: 6, index }), &payloads);
            let bytes = encode_request(&header, &entries);
            let (read_header, read_entries) = decode_request(bytes).unwrap();
            prop_assert_eq!(read_header, header);
            prop_assert_eq!(read_entries, entries);
        }

        #[test]
        fn a_damaged_append_is_an_error_and_never_a_panic(
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
            cut in any::<proptest::sample::Index>(),
        ) {
            let (header, entries) = append(None, &[vec![1, 2, 3], vec![4; 20]]);
            let mut bytes = encode_request(&header, &entries).to_vec();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(cut.index(bytes.len()) + 1);
            let _ = check_request(&bytes);
        }

        #[test]
        fn any_bytes_are_a_request_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = check_request(&bytes);
        }
    }
}

//! The bytes on a lane, and those that open a connection or a stream. Pure.
//!
//! A lane carries frames: a big-endian `u32` length of what follows, a kind
//! byte, a small fixed header for that kind, and the body.
//!
//! | kind | header | body |
//! | --- | --- | --- |
//! | 0 request | id `u64`, service `u16`, milliseconds left `u32` | the caller's |
//! | 1 answer | id `u64` | the handler's |
//! | 2 refusal | id `u64` | a [`CallRefusal`] in MessagePack |
//! | 3 post | service `u16` | the sender's |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rung_proto::{Generation, Incarnation, encoding};
use serde::{Deserialize, Serialize};

use crate::error::CallRefusal;

const LENGTH: usize = 4;
const KIND_REQUEST: u8 = 0;
const KIND_ANSWER: u8 = 1;
const KIND_REFUSAL: u8 = 2;
const KIND_POST: u8 = 3;

/// The most that a frame has beside its body and its length.
pub(crate) const MAX_HEADER: usize = 1 + 8 + 2 + 4;

/// One message on a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// A call; `remaining_ms` is how long its caller goes on waiting.
    Request { id: u64, service: u16, remaining_ms: u32, body: Bytes },
    /// The result of a call.
    Answer { id: u64, body: Bytes },
    /// Why a call has no result.
    Refusal { id: u64, refusal: CallRefusal },
    /// A message that nobody waits for.
    Post { service: u16, body: Bytes },
}

/// Bytes that are no frames. The connection they came by is given up.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: usize, limit: usize },
    #[error("a frame ends within its header")]
    Truncated,
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    #[error("{0}")]
    Malformed(String),
}

/// Appends a frame.
pub fn put_frame(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Request { id, service, remaining_ms, body } => {
            put_start(out, KIND_REQUEST, 14 + body.len());
            out.put_u64(*id);
            out.put_u16(*service);
            out.put_u32(*remaining_ms);
            out.put_slice(body);
        }
        Frame::Answer { id, body } => {
            put_start(out, KIND_ANSWER, 8 + body.len());
            out.put_u64(*id);
            out.put_slice(body);
        }
        Frame::Refusal { id, refusal } => {
            let body = encoding::encode(refusal);
            put_start(out, KIND_REFUSAL, 8 + body.len());
            out.put_u64(*id);
            out.put_slice(&body);
        }
        Frame::Post { service, body } => {
            put_start(out, KIND_POST, 2 + body.len());
            out.put_u16(*service);
            out.put_slice(body);
        }
    }
}

fn put_start(out: &mut BytesMut, kind: u8, rest: usize) {
    out.reserve(LENGTH + 1 + rest);
    // Bodies are checked against the frame limit before they come here, and
    // that limit is itself checked to fit.
    out.put_u32((1 + rest) as u32);
    out.put_u8(kind);
}

/// Takes the first frame out of what was received; nothing when it is not there
/// as a whole yet. A body is at most `limit` bytes.
///
/// # Errors
/// When the bytes cannot be the beginning of a frame, whatever follows.
pub fn take_frame(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, FrameError> {
    let Some(prefix) = buffer.first_chunk::<LENGTH>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes(*prefix) as usize;
    if size > limit.saturating_add(MAX_HEADER) {
        return Err(FrameError::TooLarge { size, limit });
    }
    if buffer.len() < LENGTH + size {
        return Ok(None);
    }
    buffer.advance(LENGTH);
    parse_frame(buffer.split_to(size).freeze()).map(Some)
}

/// Reads one frame, without its length.
///
/// # Errors
/// When the bytes are not exactly one frame.
pub fn parse_frame(mut bytes: Bytes) -> Result<Frame, FrameError> {
    let truncated = |_| FrameError::Truncated;
    match bytes.try_get_u8().map_err(truncated)? {
        KIND_REQUEST => Ok(Frame::Request {
            id: bytes.try_get_u64().map_err(truncated)?,
            service: bytes.try_get_u16().map_err(truncated)?,
            remaining_ms: bytes.try_get_u32().map_err(truncated)?,
            body: bytes,
        }),
        KIND_ANSWER => {
            Ok(Frame::Answer { id: bytes.try_get_u64().map_err(truncated)?, body: bytes })
        }
        KIND_REFUSAL => Ok(Frame::Refusal {
            id: bytes.try_get_u64().map_err(truncated)?,
            refusal: encoding::decode(&bytes)
                .map_err(|error| FrameError::Malformed(error.to_string()))?,
        }),
        KIND_POST => {
            Ok(Frame::Post { service: bytes.try_get_u16().map_err(truncated)?, body: bytes })
        }
        kind => Err(FrameError::UnknownKind(kind)),
    }
}

/// All whole frames in a piece of a lane, as a function of the bytes alone: for
/// fuzzing and for reading captures.
///
/// # Errors
/// When a frame is malformed.
pub fn parse_frames(bytes: &[u8], limit: usize) -> Result<Vec<Frame>, FrameError> {
    let mut buffer = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = take_frame(&mut buffer, limit)? {
        frames.push(frame);
    }
    Ok(frames)
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkClass {
    /// Lanes and datagrams.
    Main,
    /// Streams.
    Bulk,
}

/// The newest version of this protocol that we speak.
pub(crate) const PROTOCOL: u32 = 1;
/// The oldest version of this protocol that we speak.
pub(crate) const OLDEST_PROTOCOL: u32 = 1;
/// A greeting is at most this many bytes.
pub(crate) const MAX_HELLO: usize = 4096;

/// The first message of each side on a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Newest and oldest version that the sender speaks.
    pub protocol: u32,
    pub oldest_protocol: u32,
    pub class: LinkClass,
    pub incarnation: Incarnation,
    pub generation: Generation,
    /// Set in an answer: why the sender does not want to talk.
    #[serde(default)]
    pub refused: Option<String>,
}

impl Hello {
    /// Whether there is a version that both speak.
    pub(crate) fn check_protocol(&self) -> Result<(), String> {
        if self.protocol < OLDEST_PROTOCOL || self.oldest_protocol > PROTOCOL {
            return Err(format!(
                "it speaks mesh versions {} to {}, this node {OLDEST_PROTOCOL} to {PROTOCOL}",
                self.oldest_protocol, self.protocol
            ));
        }
        Ok(())
    }
}

/// A greeting with its length, a big-endian `u16`.
pub(crate) fn encode_hello(hello: &Hello) -> Bytes {
    let body = encoding::encode(hello);
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_u16(body.len() as u16);
    out.put_slice(&body);
    out.freeze()
}

/// Reads a greeting, without its length.
pub(crate) fn decode_hello(bytes: &[u8]) -> Result<Hello, FrameError> {
    encoding::decode(bytes).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// The longest header that a stream may begin with, in bytes.
pub const MAX_STREAM_HEADER: usize = 4096;

/// What a stream begins with: its kind, the header's length as a big-endian
/// `u16`, the header.
pub(crate) fn encode_stream_start(kind: u8, header: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(3 + header.len());
    out.put_u8(kind);
    out.put_u16(header.len() as u16);
    out.put_slice(header);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rung_proto::{Code, Failure};

    use super::*;

    const LIMIT: usize = 1000;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let body =
            || proptest::collection::vec(any::<u8>(), 0..LIMIT).prop_map(Bytes::from).boxed();
        prop_oneof![
            (any::<u64>(), any::<u16>(), any::<u32>(), body()).prop_map(
                |(id, service, remaining_ms, body)| Frame::Request {
                    id,
                    service,
                    remaining_ms,
                    body
                }
            ),
            (any::<u64>(), body()).prop_map(|(id, body)| Frame::Answer { id, body }),
            (any::<u64>(), "\\PC{0,40}").prop_map(|(id, what)| Frame::Refusal {
                id,
                refusal: CallRefusal::Failed(Failure::new(Code::NoQuorum, what)),
            }),
            (any::<u16>(), body()).prop_map(|(service, body)| Frame::Post { service, body }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec(any_frame(), 0..5),
            piece in 1usize..300,
        ) {
            let mut wire = BytesMut::new();
            frames.iter().for_each(|frame| put_frame(frame, &mut wire));
            let mut received = BytesMut::new();
            let mut read = Vec::new();
            for bytes in wire.chunks(piece) {
                received.put_slice(bytes);
                while let Some(frame) = take_frame(&mut received, LIMIT).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(received.is_empty());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_frames(&bytes, LIMIT);
            let _ = decode_hello(&bytes);
        }

        #[test]
        fn arbitrary_bytes_behind_a_plausible_start_never_panic(
            kind in 0u8..5,
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut wire = BytesMut::new();
            wire.put_u32(1 + bytes.len() as u32);
            wire.put_u8(kind);
            wire.put_slice(&bytes);
            let _ = parse_frames(&wire, LIMIT);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
        assert!(matches!(take_frame(&mut buffer, LIMIT), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn versions_that_do_not_overlap_are_refused() {
        let mut hello = Hello {
            protocol: PROTOCOL + 5,
            oldest_protocol: PROTOCOL,
            class: LinkClass::Main,
            incarnation: Incarnation(1),
            generation: Generation(1),
            refused: None,
        };
        assert!(hello.check_protocol().is_ok());
        hello.oldest_protocol = PROTOCOL + 1;
        assert!(hello.check_protocol().unwrap_err().contains("versions"));
        let encoded = encode_hello(&hello);
        assert_eq!(decode_hello(&encoded[2..]).unwrap(), hello);
    }
}

//! Frames on a stream of the mesh: length, kind, body. Reading can be given up and
//! taken up again at any time.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use quinn::ReadError;
use rung_transport::MeshStream;

use super::CODE_REFUSED;

/// Bytes of length and kind.
const HEAD: usize = 5;
/// The longest body: the largest message of a client, and what surrounds it.
const MAX_BODY: usize = 80 * 1024 * 1024;
/// What is read at once.
const READ: usize = 256 * 1024;

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Request,
    CopyData,
    Cancel,
    Rows,
    Answer,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Request, Kind::CopyData, Kind::Cancel, Kind::Rows, Kind::Answer];

    fn byte(self) -> u8 {
        self as u8 + 1
    }

    fn from_byte(byte: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// Why there is no further frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the other node did not take the stream")]
    Refused,
    #[error("the stream has ended")]
    Ended,
    #[error("the stream is broken: {0}")]
    Broken(String),
    #[error("a frame of {0} bytes, or of an unknown kind")]
    Malformed(usize),
}

/// A stream that carries frames.
pub struct Frames {
    stream: MeshStream,
    input: BytesMut,
}

impl Frames {
    pub fn new(stream: MeshStream) -> Self {
        Self { stream, input: BytesMut::new() }
    }

    /// Sends a frame, whose body is given in parts.
    ///
    /// # Errors
    /// When the stream is broken: then the other side cannot have read all of it.
    pub async fn send(&mut self, kind: Kind, body: &[&[u8]]) -> Result<(), FrameError> {
        let length = body.iter().map(|part| part.len()).sum::<usize>();
        if length > MAX_BODY {
            return Err(FrameError::Malformed(length));
        }
        let mut frame = Vec::with_capacity(HEAD + length);
        frame.extend_from_slice(&(length as u32).to_be_bytes());
        frame.push(kind.byte());
        body.iter().for_each(|part| frame.extend_from_slice(part));
        let sent = self.stream.send.write_all(&frame).await;
        sent.map_err(|error| FrameError::Broken(error.to_string()))
    }

    /// The next frame.
    ///
    /// # Errors
    /// When there is none.
    pub async fn next(&mut self) -> Result<(Kind, Bytes), FrameError> {
        loop {
            if let Some(frame) = take_frame(&mut self.input)? {
                return Ok(frame);
            }
            match self.stream.recv.read_chunk(READ, true).await {
                Ok(Some(chunk)) => self.input.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(FrameError::Ended),
                Err(ReadError::Reset(code)) if code.into_inner() == u64::from(CODE_REFUSED) => {
                    return Err(FrameError::Refused);
                }
                Err(error) => return Err(FrameError::Broken(error.to_string())),
            }
        }
    }

    /// Whether the stream is open and nothing has come that nobody asked for.
    pub fn is_quiet(&mut self) -> bool {
        self.input.is_empty() && self.stream.recv.read_chunk(1, true).now_or_never().is_none()
    }

    /// Gives the stream up.
    pub fn abort(&mut self, code: u32) {
        self.stream.abort(code);
    }
}

/// Takes a whole frame off the front of the input.
pub fn take_frame(input: &mut BytesMut) -> Result<Option<(Kind, Bytes)>, FrameError> {
    let Some(head) = input.get(..HEAD) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = Kind::from_byte(head[4]).filter(|_| length <= MAX_BODY);
    let kind = kind.ok_or(FrameError::Malformed(length))?;
    if input.len() < HEAD + length {
        return Ok(None);
    }
    input.advance(HEAD);
    let body = input.split_to(length).freeze();
    if input.is_empty() {
        *input = BytesMut::new();
    }
    Ok(Some((kind, body)))
}

/// Takes frames off bytes that come at once, and one by one.
pub fn parse_any(bytes: &[u8]) {
    let take_all = |input: &mut BytesMut, taken: &mut Vec<(Kind, Bytes)>| loop {
        match take_frame(input) {
            Ok(Some(frame)) => taken.push(frame),
            Ok(None) => return true,
            Err(_) => return false,
        }
    };
    let mut whole = Vec::new();
    let is_well = take_all(&mut BytesMut::from(bytes), &mut whole);
    let mut pieces = Vec::new();
    let mut input = BytesMut::new();
    let all_well = bytes.iter().all(|byte| {
        input.extend_from_slice(&[*byte]);
        take_all(&mut input, &mut pieces)
    });
    assert_eq!((is_well, whole), (all_well, pieces));
}

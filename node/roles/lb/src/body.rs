//! Bodies: where one ends, and how it is written again.
//!
//! The decoder is a state machine over slices: it copies nothing, and the
//! result does not depend on how the bytes were split. It consumes no byte
//! behind the end of the body.

use crate::head::BodyLength;

/// Most bytes of one chunk's size line, extensions included.
const MAX_SIZE_LINE: u32 = 256;
/// Most bytes of all trailer fields.
const MAX_TRAILERS: u32 = 8 * 1024;

/// A body that breaks its own framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadBody(pub &'static str);

/// One step of decoding: first `skip` bytes of framing, then `data` bytes of
/// the body; both are consumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Decoded {
    pub skip: usize,
    pub data: usize,
    /// The body ends behind these bytes.
    pub done: bool,
}

/// Finds the data and the end of a body.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Done,
    Counted(u64),
    UntilClose,
    /// In the hexadecimal digits of a chunk's size.
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the digits, up to CR. `quoted` is inside a quoted string,
    /// `escaped` behind its backslash.
    Extension {
        size: u64,
        length: u32,
        quoted: bool,
        escaped: bool,
    },
    SizeNewline {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataNewline,
    /// At the start of a trailer line, or of the last empty one.
    TrailerStart {
        length: u32,
    },
    TrailerName {
        length: u32,
    },
    TrailerValue {
        length: u32,
    },
    TrailerNewline {
        length: u32,
    },
    LastNewline,
}

impl BodyDecoder {
    pub fn new(length: BodyLength) -> BodyDecoder {
        let state = match length {
            BodyLength::Empty | BodyLength::Known(0) => State::Done,
            BodyLength::Known(length) => State::Counted(length),
            BodyLength::Chunked => State::Size { size: 0, digits: 0 },
            BodyLength::UntilClose => State::UntilClose,
        };
        BodyDecoder { state }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether an end of the connection here is the end of the body.
    pub fn may_end_by_close(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// Decodes a prefix of `input`. When the result names neither bytes nor the
    /// end, `input` was empty.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BadBody> {
        let mut skip = 0;
        loop {
            match self.state {
                State::Done => return Ok(Decoded { skip, data: 0, done: true }),
                State::UntilClose => {
                    return Ok(Decoded { skip, data: input.len() - skip, done: false });
                }
                State::Counted(left) => {
                    let data = take(left, input.len() - skip);
                    let left = left - data as u64;
                    self.state = if left == 0 { State::Done } else { State::Counted(left) };
                    return Ok(Decoded { skip, data, done: left == 0 });
                }
                State::Data { left } if skip < input.len() => {
                    let data = take(left, input.len() - skip);
                    let left = left - data as u64;
                    self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
                    return Ok(Decoded { skip, data, done: false });
                }
                _ => {}
            }
            let Some(byte) = input.get(skip) else {
                return Ok(Decoded { skip, data: 0, done: false });
            };
            self.state = framing_byte(self.state, *byte)?;
            skip += 1;
        }
    }
}

fn take(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

/// The state behind one byte of chunked framing.
fn framing_byte(state: State, byte: u8) -> Result<State, BadBody> {
    match state {
        State::Size { size, digits } => size_byte(size, digits, byte),
        State::Extension { size, length, quoted, escaped } => {
            if length >= MAX_SIZE_LINE {
                return Err(BadBody("the extensions of a chunk are too long"));
            }
            if byte == b'\r' && !quoted {
                return Ok(State::SizeNewline { size });
            }
            if (byte < b' ' && byte != b'\t') || byte == 0x7f {
                return Err(BadBody("a control character in the extensions of a chunk"));
            }
            let (quoted, escaped) = match byte {
                _ if escaped => (quoted, false),
                b'\\' if quoted => (quoted, true),
                b'"' => (!quoted, false),
                _ => (quoted, false),
            };
            Ok(State::Extension { size, length: length + 1, quoted, escaped })
        }
        State::SizeNewline { size } => match byte {
            b'\n' if size == 0 => Ok(State::TrailerStart { length: 0 }),
            b'\n' => Ok(State::Data { left: size }),
            _ => Err(BadBody("the size of a chunk does not end in CR LF")),
        },
        State::DataReturn if byte == b'\r' => Ok(State::DataNewline),
        State::DataNewline if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
        State::DataReturn | State::DataNewline => {
            Err(BadBody("the data of a chunk does not end in CR LF"))
        }
        State::TrailerStart { .. }
        | State::TrailerName { .. }
        | State::TrailerValue { .. }
        | State::TrailerNewline { .. } => trailer_byte(state, byte),
        State::LastNewline if byte == b'\n' => Ok(State::Done),
        State::LastNewline => Err(BadBody("the trailers do not end in CR LF")),
        State::Done | State::Counted(_) | State::UntilClose | State::Data { .. } => Ok(state),
    }
}

fn size_byte(size: u64, digits: u8, byte: u8) -> Result<State, BadBody> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ if digits == 0 => return Err(BadBody("the size of a chunk is missing")),
        b'\r' => return Ok(State::SizeNewline { size }),
        b';' => {
            return Ok(State::Extension { size, length: 0, quoted: false, escaped: false });
        }
        _ => return Err(BadBody("the size of a chunk is not hexadecimal")),
    };
    // Sixteen digits would fit into 64 bits; fifteen are plenty, and leave no
    // room for a parser behind us to overflow.
    if digits >= 15 {
        return Err(BadBody("the size of a chunk is too large"));
    }
    Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
}

/// Trailers are checked as header fields are, and dropped.
fn trailer_byte(state: State, byte: u8) -> Result<State, BadBody> {
    let (State::TrailerStart { length }
    | State::TrailerName { length }
    | State::TrailerValue { length }
    | State::TrailerNewline { length }) = state
    else {
        return Ok(state);
    };
    let length = length + 1;
    if length > MAX_TRAILERS {
        return Err(BadBody("the trailers are too long"));
    }
    let is_name = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match state {
        State::TrailerStart { .. } if byte == b'\r' => Ok(State::LastNewline),
        State::TrailerStart { .. } | State::TrailerName { .. } if is_name => {
            Ok(State::TrailerName { length })
        }
        State::TrailerName { .. } if byte == b':' => Ok(State::TrailerValue { length }),
        State::TrailerValue { .. } if byte == b'\r' => Ok(State::TrailerNewline { length }),
        State::TrailerValue { .. } if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => {
            Ok(State::TrailerValue { length })
        }
        State::TrailerNewline { .. } if byte == b'\n' => Ok(State::TrailerStart { length }),
        _ => Err(BadBody("a trailer field is not well formed")),
    }
}

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyFraming {
    /// As it is: its length was said, or the connection closes behind it.
    Plain,
    Chunked,
}

impl BodyFraming {
    /// Appends `data` to `out`.
    pub fn write(self, data: &[u8], out: &mut Vec<u8>) {
        // An empty chunk would end the body.
        if data.is_empty() {
            return;
        }
        match self {
            BodyFraming::Plain => out.extend_from_slice(data),
            BodyFraming::Chunked => {
                write_hex(data.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Appends the end of the body.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self == BodyFraming::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

fn write_hex(number: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[number >> (4 * place) & 15]);
    }
}

/// Decodes a whole body that lies in one slice: its data, and how many bytes it
/// took; `None` when it is not complete. Never panics, whatever the bytes.
pub fn decode_body(input: &[u8], length: BodyLength) -> Result<Option<(Vec<u8>, usize)>, BadBody> {
    let mut decoder = BodyDecoder::new(length);
    let mut data = Vec::new();
    let mut at = 0;
    loop {
        let step = decoder.decode(&input[at..])?;
        let start = at + step.skip;
        data.extend_from_slice(&input[start..start + step.data]);
        at = start + step.data;
        if step.done {
            return Ok(Some((data, at)));
        }
        if step.skip == 0 && step.data == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests;

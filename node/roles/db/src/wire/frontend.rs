//! What clients send, read from bytes. Nothing here waits or keeps state.
//!
//! The pgwire crate's decoders read past the end of a message whose counts lie
//! (and panic at the end of the buffer), so these are our own: a message is cut
//! out by its length first, and its body is read within these bytes only.

use std::str;

/// The longest message that is buffered as a whole, in bytes. COPY data is not
/// bound by it, since it is passed on in pieces.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Messages that carry no more than a name.
const MAX_SMALL_MESSAGE: usize = 16 * 1024;
/// The longest message that begins a connection.
pub const MAX_STARTUP: usize = 10_000;
/// The longest announced length of COPY data, which is never buffered.
const MAX_COPY_DATA: usize = 1024 * 1024 * 1024;

/// Why bytes are no message. The connection ends with it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a message of kind {kind:?} announces {length} bytes, allowed are {limit}")]
    Length { kind: char, length: i64, limit: usize },
    #[error("there is no message of kind {0:?}")]
    UnknownKind(char),
    #[error("a message of kind {0:?} ends before what it announces")]
    Truncated(char),
    #[error("a message of kind {0:?} has bytes after its end")]
    Trailing(char),
    #[error("a message of kind {0:?} holds text that is not UTF-8")]
    Encoding(char),
    #[error("a message of kind {0:?} has an unknown target")]
    Target(char),
    #[error("the first message of the connection is malformed: {0}")]
    Startup(&'static str),
}

/// The first five bytes of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: u8,
    /// Bytes that follow the header.
    pub body: usize,
}

/// Bytes of a header.
pub const HEADER: usize = 5;

impl Header {
    /// `None` when there are not enough bytes yet.
    ///
    /// # Errors
    /// An unknown kind or a length over the limit of that kind.
    pub fn parse(bytes: &[u8]) -> Result<Option<Header>, ProtocolError> {
        let Some(&kind) = bytes.first() else {
            return Ok(None);
        };
        let limit = match kind {
            b'Q' | b'P' | b'B' => MAX_MESSAGE,
            b'd' => MAX_COPY_DATA,
            b'p' | b'D' | b'E' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' | b'F' => {
                MAX_SMALL_MESSAGE
            }
            _ => return Err(ProtocolError::UnknownKind(kind as char)),
        };
        let Some(length) = bytes.get(1..HEADER) else {
            return Ok(None);
        };
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        match usize::try_from(length) {
            Ok(length) if (4..=limit).contains(&length) => {
                Ok(Some(Header { kind, body: length - 4 }))
            }
            _ => {
                Err(ProtocolError::Length { kind: kind as char, length: i64::from(length), limit })
            }
        }
    }
}

/// What a Describe or Close is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target<'a> {
    Statement(&'a str),
    Portal(&'a str),
}

/// A message of a client that has been let in. COPY data is not among them: it is
/// read in pieces.
#[derive(PartialEq, Eq, Debug)]
pub enum Message<'a> {
    Query(&'a str),
    Parse {
        name: &'a str,
        query: &'a str,
        types: Vec<u32>,
    },
    Bind(Bind<'a>),
    Describe(Target<'a>),
    Execute {
        portal: &'a str,
        max_rows: i32,
    },
    Close(Target<'a>),
    Flush,
    Sync,
    CopyDone,
    CopyFail(&'a str),
    /// The old call of a function by number, which nothing sends any more.
    FunctionCall,
    /// A password or an answer of SASL, which has no place after startup.
    Password,
    Terminate,
}

#[derive(PartialEq, Eq, Debug, Default)]
pub struct Bind<'a> {
    pub portal: &'a str,
    pub statement: &'a str,
    pub formats: Vec<i16>,
    pub parameters: Vec<Option<&'a [u8]>>,
    pub result_formats: Vec<i16>,
}

impl<'a> Message<'a> {
    /// Reads the body of a message, without its header.
    ///
    /// # Errors
    /// Any body that is not exactly of the announced form.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Message<'a>, ProtocolError> {
        let mut reader = Reader { kind: kind as char, rest: body };
        let message = match kind {
            b'Q' => Message::Query(reader.text()?),
            b'P' => {
                let (name, query) = (reader.text()?, reader.text()?);
                let count = reader.count()?;
                let types = (0..count).map(|_| reader.u32()).collect::<Result<_, _>>()?;
                Message::Parse { name, query, types }
            }
            b'B' => Message::Bind(reader.bind()?),
            b'D' => Message::Describe(reader.target()?),
            b'C' => Message::Close(reader.target()?),
            b'E' => {
                Message::Execute { portal: reader.text()?, max_rows: reader.u32()?.cast_signed() }
            }
            b'H' => Message::Flush,
            b'S' => Message::Sync,
            b'c' => Message::CopyDone,
            b'f' => Message::CopyFail(reader.text()?),
            b'X' => Message::Terminate,
            b'F' | b'p' => {
                reader.rest = &[];
                if kind == b'F' { Message::FunctionCall } else { Message::Password }
            }
            _ => return Err(ProtocolError::UnknownKind(kind as char)),
        };
        reader.end()?;
        Ok(message)
    }
}

/// What remains of a message's body.
struct Reader<'a> {
    kind: char,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtocolError> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(ProtocolError::Truncated(self.kind))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Text that ends with a zero byte.
    fn text(&mut self) -> Result<&'a str, ProtocolError> {
        let end = self
            .rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(ProtocolError::Truncated(self.kind))?;
        let text = self.take(end)?;
        self.take(1)?;
        str::from_utf8(text).map_err(|_| ProtocolError::Encoding(self.kind))
    }

    fn u32(&mut self) -> Result<u32, ProtocolError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn i16(&mut self) -> Result<i16, ProtocolError> {
        let bytes = self.take(2)?;
        Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn count(&mut self) -> Result<u16, ProtocolError> {
        Ok(self.i16()?.cast_unsigned())
    }

    fn formats(&mut self) -> Result<Vec<i16>, ProtocolError> {
        let count = self.count()?;
        (0..count).map(|_| self.i16()).collect()
    }

    fn bind(&mut self) -> Result<Bind<'a>, ProtocolError> {
        let (portal, statement) = (self.text()?, self.text()?);
        let formats = self.formats()?;
        let count = self.count()?;
        let parameters = (0..count).map(|_| self.parameter()).collect::<Result<_, _>>()?;
        Ok(Bind { portal, statement, formats, parameters, result_formats: self.formats()? })
    }

    fn parameter(&mut self) -> Result<Option<&'a [u8]>, ProtocolError> {
        match self.u32()?.cast_signed() {
            -1 => Ok(None),
            length => match usize::try_from(length) {
                Ok(length) => self.take(length).map(Some),
                Err(_) => Err(ProtocolError::Truncated(self.kind)),
            },
        }
    }

    fn target(&mut self) -> Result<Target<'a>, ProtocolError> {
        match self.take(1)? {
            b"S" => Ok(Target::Statement(self.text()?)),
            b"P" => Ok(Target::Portal(self.text()?)),
            _ => Err(ProtocolError::Target(self.kind)),
        }
    }

    fn end(&self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ProtocolError::Trailing(self.kind)) }
    }
}

/// The first message of a connection, which has no kind.
#[derive(PartialEq, Eq, Debug)]
pub enum First<'a> {
    /// Asks for TLS.
    Tls,
    /// Asks for encryption by GSSAPI, which is always declined.
    Gss,
    Cancel {
        process: i32,
        secret: i32,
    },
    Startup {
        /// The minor number of protocol 3.
        minor: u16,
        parameters: Vec<(&'a str, &'a str)>,
    },
}

const CODE_CANCEL: u32 = 80_877_102;
const CODE_TLS: u32 = 80_877_103;
const CODE_GSS: u32 = 80_877_104;

impl<'a> First<'a> {
    /// How long the first message is in bytes, itself included; `None` when there
    /// are not enough bytes yet.
    ///
    /// # Errors
    /// A length that cannot be.
    pub fn length(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let Some(length) = bytes.get(..4) else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if !(8..=MAX_STARTUP).contains(&length) {
            return Err(ProtocolError::Startup("its length is not that of a startup message"));
        }
        Ok((bytes.len() >= length).then_some(length))
    }

    /// Reads a whole first message, of the length that [`First::length`] said.
    ///
    /// # Errors
    /// Whatever is not of one of the four forms.
    pub fn parse(bytes: &'a [u8]) -> Result<First<'a>, ProtocolError> {
        let mut reader = Reader { kind: ' ', rest: bytes };
        let short = |_| ProtocolError::Startup("it ends too early");
        reader.take(4).map_err(short)?;
        let first = match reader.u32().map_err(short)? {
            CODE_TLS => First::Tls,
            CODE_GSS => First::Gss,
            CODE_CANCEL => First::Cancel {
                process: reader.u32().map_err(short)?.cast_signed(),
                secret: reader.u32().map_err(short)?.cast_signed(),
            },
            version if version >> 16 == 3 => First::Startup {
                minor: (version & 0xffff) as u16,
                parameters: reader.parameters()?,
            },
            _ => return Err(ProtocolError::Startup("its protocol version is not 3")),
        };
        reader.end().map_err(|_| ProtocolError::Startup("it has bytes after its end"))?;
        Ok(first)
    }
}

impl<'a> Reader<'a> {
    fn parameters(&mut self) -> Result<Vec<(&'a str, &'a str)>, ProtocolError> {
        let malformed = |_| ProtocolError::Startup("its parameters are not pairs of UTF-8 texts");
        let mut parameters = Vec::new();
        loop {
            let name = self.text().map_err(malformed)?;
            if name.is_empty() {
                return Ok(parameters);
            }
            parameters.push((name, self.text().map_err(malformed)?));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bind_is_read_within_its_own_bytes() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff\0\x01\0\x01";
        let Ok(Message::Bind(bind)) = Message::parse(b'B', body) else { panic!("it is a bind") };
        assert_eq!((bind.portal, bind.statement), ("p", "s"));
        assert_eq!(bind.formats, [1]);
        assert_eq!(bind.parameters, [Some(&b"abc"[..]), None]);
        assert_eq!(bind.result_formats, [1]);
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let body = b"\0\0\0\0\xff\xff";
        assert_eq!(Message::parse(b'B', body), Err(ProtocolError::Truncated('B')));
        let body = b"\0\0\0\0\0\x01\x7f\xff\xff\xffab";
        assert_eq!(Message::parse(b'B', body), Err(ProtocolError::Truncated('B')));
    }

    #[test]
    fn lengths_over_the_limit_are_refused_before_anything_is_kept() {
        assert!(Header::parse(b"Q\x7f\xff\xff\xff").is_err());
        assert!(Header::parse(b"S\0\x01\0\0").is_err());
        assert!(Header::parse(b"Q\0\0\0\x03").is_err());
        assert!(Header::parse(b"Q\xff\xff\xff\xff").is_err());
        assert!(Header::parse(b"\x16").is_err());
        assert_eq!(Header::parse(b"Q\0\0").unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::parse(&bytes);
            let _ = First::length(&bytes);
            let _ = First::parse(&bytes);
            for kind in *b"QPBDECHSXcfFpd" {
                let _ = Message::parse(kind, &bytes);
            }
        }
    }
}

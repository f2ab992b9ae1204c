//! Finding the end of a head, and what the heads of both directions share.
//!
//! The grammar is RFC 9112 without its leniencies: lines end in CR LF and
//! nothing else, values hold no control characters, nothing is folded, and a
//! message has one length. What two parsers could read differently is an error
//! here, so that it never reaches an instance.

use crate::fields::{Field, FieldKind, is_token, list_elements};

/// Most header fields in one head.
pub const MAX_FIELDS: usize = 100;

/// Bounds of a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// Bytes of a whole head, its empty line included.
    pub head_bytes: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Header fields, at most [`MAX_FIELDS`].
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { head_bytes: 32 * 1024, target_bytes: 8 * 1024, fields: MAX_FIELDS }
    }
}

/// A head that is refused: the status to answer with and what was wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BadHead {
    pub status: u16,
    pub reason: &'static str,
}

pub(crate) const fn bad(reason: &'static str) -> BadHead {
    BadHead { status: 400, reason }
}

pub(crate) const fn refused(status: u16, reason: &'static str) -> BadHead {
    BadHead { status, reason }
}

/// How the end of a body is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyLength {
    /// There is none.
    Empty,
    /// That many bytes.
    Known(u64),
    /// Chunked transfer coding (RFC 9112, 7.1).
    Chunked,
    /// All until the connection closes; responses only.
    UntilClose,
}

/// Looks for the end of a head in bytes that arrive in pieces, reading each
/// byte once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
}

impl HeadScanner {
    /// The length of the head at the start of `input`, its empty line included,
    /// or `None` when there is more to come. `input` must begin with what was
    /// given to the calls before.
    pub fn find_end(&mut self, input: &[u8]) -> Result<Option<usize>, BadHead> {
        for newline in memchr::memchr_iter(b'\n', &input[self.scanned..]) {
            let at = self.scanned + newline;
            if at == 0 || input[at - 1] != b'\r' {
                return Err(bad("a line ends in LF without CR"));
            }
            if at == 1 || input[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
        self.scanned = input.len();
        Ok(None)
    }
}

/// Reads a `Content-Length`: digits only.
pub(crate) fn parse_length(value: &[u8]) -> Result<u64, BadHead> {
    const BAD: BadHead = bad("Content-Length is not a number");
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    // Nineteen digits always fit into 64 bits.
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// What the fields say of the length of the body and of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Framing {
    pub content_length: Option<u64>,
    pub chunked: bool,
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

/// Reads the fields that frame a message, and marks those that `Connection`
/// names.
pub(crate) fn read_framing(raw: &[u8], fields: &mut [Field]) -> Result<Framing, BadHead> {
    let mut framing = Framing::default();
    let mut lists_others = false;
    for field in fields.iter() {
        let value = field.value.get(raw);
        match field.kind {
            FieldKind::ContentLength => {
                if framing.content_length.is_some() {
                    return Err(bad("Content-Length is repeated"));
                }
                framing.content_length = Some(parse_length(value)?);
            }
            FieldKind::TransferEncoding => {
                if framing.chunked {
                    return Err(bad("Transfer-Encoding is repeated"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("the only transfer coding known here is chunked"));
                }
                framing.chunked = true;
            }
            FieldKind::Connection => {
                for token in list_elements(value) {
                    if !is_token(token) {
                        return Err(bad("Connection holds something that is no field name"));
                    } else if token.eq_ignore_ascii_case(b"close") {
                        framing.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        framing.keep_alive = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        framing.upgrade = true;
                    } else {
                        lists_others = true;
                    }
                }
            }
            _ => {}
        }
    }
    if framing.chunked && framing.content_length.is_some() {
        return Err(bad("both Content-Length and Transfer-Encoding"));
    }
    if lists_others {
        mark_listed(raw, fields);
    }
    Ok(framing)
}

/// Marks the fields named by `Connection` as meant for this connection only.
/// `Host`, lengths and the like cannot be taken away in that way.
fn mark_listed(raw: &[u8], fields: &mut [Field]) {
    for index in 0..fields.len() {
        if fields[index].kind != FieldKind::Connection {
            continue;
        }
        let list = fields[index].value.get(raw);
        for token in list_elements(list) {
            for field in fields.iter_mut() {
                let plain = matches!(
                    field.kind,
                    FieldKind::Other
                        | FieldKind::Accept
                        | FieldKind::TraceState
                        | FieldKind::RequestId
                );
                if plain && field.name.get(raw).eq_ignore_ascii_case(token) {
                    field.kind = FieldKind::Listed;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_head_is_found_wherever_the_pieces_split() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for split in 0..head.len() {
            let mut scanner = HeadScanner::default();
            let first = scanner.find_end(&head[..split]).unwrap();
            let found = match first {
                Some(end) => end,
                None => scanner.find_end(head).unwrap().unwrap(),
            };
            assert_eq!(found, head.len() - 4, "split at {split}");
        }
    }

    #[test]
    fn a_bare_newline_is_refused_as_soon_as_it_is_seen() {
        assert!(HeadScanner::default().find_end(b"GET / HTTP/1.1\n").is_err());
        assert!(HeadScanner::default().find_end(b"\n").is_err());
        assert!(HeadScanner::default().find_end(b"GET / HTTP/1.1\r\nHost: a\n\r\n").is_err());
    }

    #[test]
    fn lengths_are_digits_only() {
        assert_eq!(parse_length(b"0"), Ok(0));
        assert_eq!(parse_length(b"0042"), Ok(42));
        for wrong in ["", "+1", "-1", "1 ", "0x10", "1,1", "12345678901234567890"] {
            assert!(parse_length(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}

//! The head of an instance's response (RFC 9112), read as strictly as a
//! client's request: what is not clear becomes a 502.

use std::mem::MaybeUninit;

use crate::fields::{Field, FieldKind, Span, classify, list_elements};
use crate::head::{BadHead, BodyLength, HeadLimits, HeadScanner, MAX_FIELDS, bad, read_framing};
use crate::request_head::Method;

/// A response's head: its bytes, and what was found where in them.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    pub raw: Vec<u8>,
    pub fields: Vec<Field>,
    pub status: u16,
    pub reason: Span,
    pub body: Option<BodyLength>,
    /// The length that the fields claim, which a HEAD or 304 response has
    /// although no body follows.
    pub content_length: Option<u64>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
    /// The protocol changed to; only with status 101.
    pub upgrade: Option<Span>,
    /// Seconds after which the instance closes an idle connection, when it says
    /// so.
    pub idle_timeout: Option<u32>,
}

impl ResponseHead {
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.get(&self.raw)
    }

    pub fn body(&self) -> BodyLength {
        self.body.unwrap_or(BodyLength::Empty)
    }

    /// Whether more heads follow for the same request.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Reads the complete head `head` of the response to a request with
    /// `method` into `self`, whose memory is used again.
    pub fn read(
        &mut self,
        head: &[u8],
        method: Method,
        limits: &HeadLimits,
    ) -> Result<(), BadHead> {
        if head.len() > limits.head_bytes {
            return Err(bad("the head of the response is too large"));
        }
        self.raw.clear();
        self.raw.extend_from_slice(head);
        self.fields.clear();
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut []);
        let slots = &mut slots[..limits.fields.min(MAX_FIELDS)];
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut parsed, &self.raw, slots) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(bad("the head ends in an odd place")),
            Err(httparse::Error::TooManyHeaders) => return Err(bad("too many header fields")),
            Err(_) => return Err(bad("the head is not well formed")),
        }
        self.status = parsed.code.unwrap_or_default();
        if !(100..600).contains(&self.status) {
            return Err(bad("the status is not between 100 and 599"));
        }
        self.reason = match parsed.reason {
            Some(reason) if !reason.is_empty() => Span::of(reason.as_bytes(), &self.raw),
            _ => Span::default(),
        };
        let http10 = parsed.version == Some(0);
        for header in parsed.headers.iter() {
            let name = header.name.as_bytes();
            let kind = match classify(name) {
                FieldKind::Alias => FieldKind::Other,
                kind => kind,
            };
            self.fields.push(Field {
                name: Span::of(name, &self.raw),
                value: Span::of(header.value, &self.raw),
                kind,
            });
        }
        self.read_connection(http10, method)
    }

    fn read_connection(&mut self, http10: bool, method: Method) -> Result<(), BadHead> {
        let framing = read_framing(&self.raw, &mut self.fields)?;
        if framing.chunked && http10 {
            return Err(bad("Transfer-Encoding with HTTP/1.0"));
        }
        let bodiless = method == Method::Head || matches!(self.status, 100..200 | 204 | 304);
        // RFC 9112, 6.1 and RFC 9110, 8.6: these may not announce a body.
        if matches!(self.status, 100..200 | 204)
            && (framing.chunked || framing.content_length.is_some_and(|length| length > 0))
        {
            return Err(bad("a body with a status that has none"));
        }
        self.content_length = framing.content_length;
        self.body = Some(match framing.content_length {
            _ if bodiless => BodyLength::Empty,
            _ if framing.chunked => BodyLength::Chunked,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::UntilClose,
        });
        self.keep_alive = !framing.close
            && (!http10 || framing.keep_alive)
            && self.body != Some(BodyLength::UntilClose)
            && self.status != 101;
        self.upgrade = None;
        self.idle_timeout = None;
        for field in &self.fields {
            match field.kind {
                FieldKind::Upgrade if self.status == 101 && framing.upgrade => {
                    self.upgrade = Some(field.value);
                }
                FieldKind::KeepAlive => {
                    self.idle_timeout = keep_alive_timeout(field.value.get(&self.raw));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// `timeout=5, max=100` means five seconds.
fn keep_alive_timeout(value: &[u8]) -> Option<u32> {
    list_elements(value).find_map(|element| {
        let seconds = element.strip_prefix(b"timeout=")?;
        std::str::from_utf8(seconds).ok()?.parse().ok()
    })
}

/// Reads the response head at the start of `input`: the head and its length, or
/// `None` when it is not complete. Never panics, whatever the bytes.
pub fn parse_response(
    input: &[u8],
    method: Method,
    limits: &HeadLimits,
) -> Result<Option<(ResponseHead, usize)>, BadHead> {
    let Some(end) = HeadScanner::default().find_end(input)? else {
        if input.len() > limits.head_bytes {
            return Err(bad("the head of the response is too large"));
        }
        return Ok(None);
    };
    let mut head = ResponseHead::default();
    head.read(&input[..end], method, limits)?;
    Ok(Some((head, end)))
}

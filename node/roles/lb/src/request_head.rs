//! The head of a request (RFC 9112), read strictly.

use std::mem::MaybeUninit;

use crate::fields::{Field, FieldKind, Span, classify, is_token, list_elements};
use crate::head::{
    BadHead, BodyLength, HeadLimits, HeadScanner, MAX_FIELDS, bad, read_framing, refused,
};

/// The methods that a proxy treats differently from each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    #[default]
    Get,
    Head,
    Options,
    Trace,
    Put,
    Delete,
    Post,
    /// Any other token.
    Other,
}

impl Method {
    fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"POST" => Method::Post,
            _ => Method::Other,
        }
    }

    /// Whether doing it twice is the same as doing it once (RFC 9110, 9.2.2).
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Method::Post | Method::Other)
    }
}

/// A request's head: its bytes, and what was found where in them.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub raw: Vec<u8>,
    pub fields: Vec<Field>,
    pub method: Method,
    pub method_name: Span,
    /// Path and query, or `*`. Empty stands for `/`, or for `*` with OPTIONS.
    pub path: Span,
    /// The authority asked for; empty only with HTTP/1.0.
    pub host: Span,
    /// HTTP/1.0 rather than 1.1.
    pub http10: bool,
    pub body: Option<BodyLength>,
    /// Whether the client wants to go on using the connection.
    pub keep_alive: bool,
    pub expect_continue: bool,
    /// The protocols that the client asks to change to.
    pub upgrade: Option<Span>,
}

impl RequestHead {
    pub fn bytes(&self, span: Span) -> &[u8] {
        span.get(&self.raw)
    }

    /// The path and query as it is forwarded.
    pub fn path(&self) -> &[u8] {
        match self.bytes(self.path) {
            b"" if self.method == Method::Options => b"*",
            b"" => b"/",
            path => path,
        }
    }

    pub fn body(&self) -> BodyLength {
        self.body.unwrap_or(BodyLength::Empty)
    }

    /// The first field of that kind.
    pub fn field(&self, kind: FieldKind) -> Option<&[u8]> {
        self.fields.iter().find(|field| field.kind == kind).map(|field| self.bytes(field.value))
    }

    /// The only field of that name, which must be given in lower case.
    pub fn named(&self, name: &[u8]) -> Option<&[u8]> {
        let mut found =
            self.fields.iter().filter(|field| self.bytes(field.name).eq_ignore_ascii_case(name));
        let first = found.next()?;
        if found.next().is_some() { None } else { Some(self.bytes(first.value)) }
    }

    /// Whether its body, if any, has a length of zero or none.
    pub fn is_without_body(&self) -> bool {
        matches!(self.body(), BodyLength::Empty | BodyLength::Known(0))
    }

    /// Reads the complete head `head`, which ends in its empty line, into
    /// `self`, whose memory is used again.
    pub fn read(&mut self, head: &[u8], limits: &HeadLimits) -> Result<(), BadHead> {
        if head.len() > limits.head_bytes {
            return Err(refused(431, "the head of the request is too large"));
        }
        self.raw.clear();
        self.raw.extend_from_slice(head);
        self.fields.clear();
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let slots = &mut slots[..limits.fields.min(MAX_FIELDS)];
        let target = match parsed.parse_with_uninit_headers(&self.raw, slots) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {
                parsed.path.unwrap_or_default()
            }
            Ok(_) => return Err(bad("the head ends in an odd place")),
            Err(error) => return Err(explain(error)),
        };
        if target.len() > limits.target_bytes {
            return Err(refused(414, "the request target is too long"));
        }
        let method = parsed.method.unwrap_or_default().as_bytes();
        self.method_name = Span::of(method, &self.raw);
        self.method = Method::of(method);
        self.http10 = parsed.version == Some(0);
        for header in parsed.headers.iter() {
            let name = header.name.as_bytes();
            self.fields.push(Field {
                name: Span::of(name, &self.raw),
                value: Span::of(header.value, &self.raw),
                kind: classify(name),
            });
        }
        let target = Span::of(target.as_bytes(), &self.raw);
        if self.bytes(self.method_name) == b"CONNECT" {
            return Err(refused(405, "CONNECT is not served here"));
        }
        self.read_connection()?;
        self.read_target(target)
    }

    fn read_connection(&mut self) -> Result<(), BadHead> {
        let framing = read_framing(&self.raw, &mut self.fields)?;
        if framing.chunked && self.http10 {
            return Err(bad("Transfer-Encoding with HTTP/1.0"));
        }
        self.body = Some(match framing.content_length {
            _ if framing.chunked => BodyLength::Chunked,
            Some(length) => BodyLength::Known(length),
            None => BodyLength::Empty,
        });
        if self.method == Method::Trace && !self.is_without_body() {
            return Err(bad("TRACE with a body"));
        }
        self.keep_alive =
            if self.http10 { framing.keep_alive && !framing.close } else { !framing.close };
        self.expect_continue = false;
        if let Some(expect) = self.field(FieldKind::Expect) {
            if !expect.eq_ignore_ascii_case(b"100-continue") {
                return Err(refused(417, "the only expectation met here is 100-continue"));
            }
            self.expect_continue = !self.http10 && !self.is_without_body();
        }
        self.upgrade = None;
        let asked = self.fields.iter().find(|field| field.kind == FieldKind::Upgrade);
        if let Some(field) = asked.filter(|_| framing.upgrade && !self.http10) {
            // An upgrade to HTTP/2 would be a tunnel for requests that nobody
            // checks; it is not offered, and so the request is an ordinary one.
            let value = self.bytes(field.value);
            let tunnels = |token: &[u8]| !token.to_ascii_lowercase().starts_with(b"h2");
            let http = |token: &[u8]| token.to_ascii_lowercase().starts_with(b"http");
            if self.is_without_body() && list_elements(value).all(|t| tunnels(t) && !http(t)) {
                self.upgrade = Some(field.value);
            }
        }
        Ok(())
    }

    /// Origin form, absolute form or `*` (RFC 9112, 3.2), and `Host`.
    fn read_target(&mut self, target: Span) -> Result<(), BadHead> {
        let mut hosts = self.fields.iter().filter(|field| field.kind == FieldKind::Host);
        let host = hosts.next().map(|field| field.value);
        if hosts.next().is_some() {
            return Err(bad("Host is repeated"));
        }
        if host.is_none() && !self.http10 {
            return Err(bad("Host is missing"));
        }
        self.host = host.unwrap_or_default();
        let bytes = target.get(&self.raw);
        if bytes.iter().any(|byte| !(0x21..0x7f).contains(byte) || *byte == b'#') {
            return Err(bad("the request target holds a byte that it may not"));
        }
        self.path = target;
        if bytes.first() == Some(&b'/') {
            return check_host(self.bytes(self.host));
        }
        if bytes == b"*" {
            if self.method != Method::Options {
                return Err(bad("the target * goes with OPTIONS only"));
            }
            return check_host(self.bytes(self.host));
        }
        let scheme = [b"http://".as_slice(), b"https://"].into_iter().find(|scheme| {
            bytes.len() > scheme.len() && bytes[..scheme.len()].eq_ignore_ascii_case(scheme)
        });
        let Some(scheme) = scheme else {
            return Err(bad("the request target is neither a path nor an http URL"));
        };
        let rest = &bytes[scheme.len()..];
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.first() == Some(&b'?') {
            return Err(bad("the URL has a query but no path"));
        }
        if authority.is_empty() {
            return Err(bad("the URL names no host"));
        }
        // RFC 9112, 3.2.2 lets the URL win; here the two must not differ.
        if host.is_some() && !authority.eq_ignore_ascii_case(self.bytes(self.host)) {
            return Err(bad("Host and the URL name different hosts"));
        }
        let (authority, path) = (Span::of(authority, &self.raw), Span::of(path, &self.raw));
        self.host = authority;
        self.path = path;
        check_host(self.bytes(self.host))
    }
}

/// What httparse complains of.
fn explain(error: httparse::Error) -> BadHead {
    match error {
        httparse::Error::HeaderName => bad("a header name holds a byte that it may not"),
        httparse::Error::HeaderValue => bad("a header value holds a control character"),
        httparse::Error::NewLine => bad("a line does not end in CR LF"),
        httparse::Error::Token => bad("the request line is not well formed"),
        httparse::Error::TooManyHeaders => refused(431, "too many header fields"),
        httparse::Error::Version => refused(505, "only HTTP/1.0, HTTP/1.1 and, by TLS, HTTP/2"),
        _ => bad("the head is not well formed"),
    }
}

/// `host`, `host:port`, `1.2.3.4`, `[::1]:80`; never user information, a path or
/// a blank.
fn check_host(host: &[u8]) -> Result<(), BadHead> {
    const BAD: BadHead = bad("Host is not well formed");
    if host.len() > 300 {
        return Err(BAD);
    }
    let (name, port) = split_port(host);
    let ipv6 = name.first() == Some(&b'[');
    let name_is_good = if ipv6 {
        name.len() > 2
            && name.last() == Some(&b']')
            && name[1..name.len() - 1].iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b))
    } else {
        name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(byte))
    };
    let port_is_good = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    let empty_with_port = name.is_empty() && !host.is_empty();
    if name_is_good && port_is_good && !empty_with_port { Ok(()) } else { Err(BAD) }
}

/// Splits `host:port`; the port is empty when there is none.
pub fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    if host.first() == Some(&b'[') {
        return match memchr::memchr(b']', host) {
            Some(end) if host.get(end + 1) == Some(&b':') => (&host[..=end], &host[end + 2..]),
            _ => (host, b""),
        };
    }
    match memchr::memchr(b':', host) {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, b""),
    }
}

/// Reads the request head at the start of `input`: the head and its length, or
/// `None` when it is not complete. Never panics, whatever the bytes.
pub fn parse_request(
    input: &[u8],
    limits: &HeadLimits,
) -> Result<Option<(RequestHead, usize)>, BadHead> {
    let skipped = leading_empty_lines(input);
    let input = &input[skipped..];
    if let Some(first) = input.first()
        && *first != b'\r'
        && !is_token(&[*first])
    {
        return Err(bad("the request line is not well formed"));
    }
    let Some(end) = HeadScanner::default().find_end(input)? else {
        if input.len() > limits.head_bytes {
            return Err(refused(431, "the head of the request is too large"));
        }
        return Ok(None);
    };
    let mut head = RequestHead::default();
    head.read(&input[..end], limits)?;
    Ok(Some((head, skipped + end)))
}

/// How many bytes of `input` are the one empty line that is tolerated before a
/// request (RFC 9112, 2.2).
pub fn leading_empty_lines(input: &[u8]) -> usize {
    if input.starts_with(b"\r\n") { 2 } else { 0 }
}

#[cfg(test)]
mod tests;

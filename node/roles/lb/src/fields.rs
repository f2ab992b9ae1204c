//! Header fields: what each means to a proxy, and where it lies in a head.

/// A part of a head's bytes. Heads are at most a few hundred KiB, so 32 bits do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    /// Where `part`, a sub-slice of `whole`, lies in it.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Span {
        let start = part.as_ptr() as usize - whole.as_ptr() as usize;
        debug_assert!(start + part.len() <= whole.len());
        Span { start: start as u32, end: (start + part.len()) as u32 }
    }

    /// The bytes it names in `whole`.
    pub fn get(self, whole: &[u8]) -> &[u8] {
        &whole[self.start as usize..self.end as usize]
    }

    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// What a field means to a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// Of no concern here; forwarded as it is.
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    /// Meant for one connection only (RFC 9110, 7.6.1).
    HopByHop,
    /// `Keep-Alive`: hop by hop, and tells how long an instance keeps an idle
    /// connection.
    KeepAlive,
    /// What a proxy says of the client. From a client itself it is a claim that
    /// nobody checked; it is dropped.
    ProxySaid,
    RequestId,
    TraceParent,
    TraceState,
    Accept,
    Cookie,
    /// Named by the message's own `Connection` field, and so removed.
    Listed,
    /// A name such as `Content_Length`, which CGI-like servers cannot tell from
    /// the real one; dropped.
    Alias,
}

/// One header field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub kind: FieldKind,
}

/// What the field of that name means, ignoring case.
pub fn classify(name: &[u8]) -> FieldKind {
    // The longest name below has 19 bytes, except the open family of
    // `x-forwarded-*`.
    if name.contains(&b'_') {
        return classify_alias(name);
    }
    classify_exact(name)
}

fn classify_exact(name: &[u8]) -> FieldKind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    let kind = |hit: bool, kind: FieldKind| if hit { kind } else { FieldKind::Other };
    match name.len() {
        2 => kind(is("te"), FieldKind::HopByHop),
        4 => kind(is("host"), FieldKind::Host),
        5 => kind(is("proxy"), FieldKind::ProxySaid),
        6 if is("accept") => FieldKind::Accept,
        6 if is("cookie") => FieldKind::Cookie,
        6 => kind(is("expect"), FieldKind::Expect),
        7 if is("upgrade") => FieldKind::Upgrade,
        7 => kind(is("trailer"), FieldKind::HopByHop),
        9 if is("x-real-ip") => FieldKind::ProxySaid,
        9 => kind(is("forwarded"), FieldKind::ProxySaid),
        10 if is("connection") => FieldKind::Connection,
        10 if is("keep-alive") => FieldKind::KeepAlive,
        10 => kind(is("tracestate"), FieldKind::TraceState),
        11 => kind(is("traceparent"), FieldKind::TraceParent),
        12 => kind(is("x-request-id"), FieldKind::RequestId),
        14 => kind(is("content-length"), FieldKind::ContentLength),
        16 => kind(is("proxy-connection"), FieldKind::HopByHop),
        17 if is("transfer-encoding") => FieldKind::TransferEncoding,
        _ if name.len() > 11 && name[..12].eq_ignore_ascii_case(b"x-forwarded-") => {
            FieldKind::ProxySaid
        }
        18 => kind(is("proxy-authenticate"), FieldKind::HopByHop),
        19 => kind(is("proxy-authorization"), FieldKind::HopByHop),
        _ => FieldKind::Other,
    }
}

/// A name with underscores is compared as CGI, WSGI and Rack see it.
fn classify_alias(name: &[u8]) -> FieldKind {
    let mut folded = [0; 20];
    let length = name.len().min(folded.len());
    for (to, from) in folded.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    match classify_exact(&folded[..length]) {
        FieldKind::Other | FieldKind::Accept | FieldKind::Cookie => FieldKind::Other,
        _ => FieldKind::Alias,
    }
}

/// The elements of a comma-separated list, without blanks around them and
/// without empty ones.
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Whether every byte may stand in a token (RFC 9110, 5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_whatever_their_case() {
        assert_eq!(classify(b"Host"), FieldKind::Host);
        assert_eq!(classify(b"CONTENT-LENGTH"), FieldKind::ContentLength);
        assert_eq!(classify(b"Transfer-encoding"), FieldKind::TransferEncoding);
        assert_eq!(classify(b"X-Forwarded-Whatever-Comes"), FieldKind::ProxySaid);
        assert_eq!(classify(b"x-forwarded-for"), FieldKind::ProxySaid);
        assert_eq!(classify(b"Proxy"), FieldKind::ProxySaid);
        assert_eq!(classify(b"Proxy-Authorization"), FieldKind::HopByHop);
        assert_eq!(classify(b"Accept-Language"), FieldKind::Other);
        assert_eq!(classify(b""), FieldKind::Other);
    }

    #[test]
    fn names_that_a_cgi_server_would_confuse_are_aliases() {
        assert_eq!(classify(b"X_Forwarded_For"), FieldKind::Alias);
        assert_eq!(classify(b"content_length"), FieldKind::Alias);
        assert_eq!(classify(b"X-Forwarded_Proto"), FieldKind::Alias);
        assert_eq!(classify(b"X_Forwarded_Very_Long_Indeed"), FieldKind::Alias);
        assert_eq!(classify(b"my_header"), FieldKind::Other);
    }

    #[test]
    fn list_elements_are_trimmed() {
        let elements: Vec<_> = list_elements(b" close,, X-Foo \t,bar").collect();
        assert_eq!(elements, [b"close".as_slice(), b"X-Foo", b"bar"]);
    }
}

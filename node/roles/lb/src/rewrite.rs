//! Heads as they go on: written anew from what was understood, so that nothing
//! passes that was not.

use std::net::IpAddr;

use crate::body::BodyFraming;
use crate::fields::FieldKind;
use crate::head::BodyLength;
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::trace::{RequestId, TraceParent};

/// What the instance is told of the client, prepared once for a connection.
#[derive(Clone, Debug)]
pub(crate) struct ForwardedBy {
    /// All but the host, which comes last.
    prefix: Vec<u8>,
}

impl ForwardedBy {
    /// `X-Forwarded-*` and `Forwarded` (RFC 7239).
    pub fn new(client: IpAddr, tls: bool) -> ForwardedBy {
        let proto = if tls { "https" } else { "http" };
        let client = client.to_canonical();
        let node = match client {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let prefix = format!(
            "x-forwarded-for: {client}\r\nx-forwarded-proto: {proto}\r\n\
             forwarded: for={node};proto={proto}"
        );
        ForwardedBy { prefix: prefix.into_bytes() }
    }
}

/// What is added to a request on its way to an instance.
pub(crate) struct RequestExtras<'a> {
    pub forwarded: &'a ForwardedBy,
    pub id: &'a RequestId,
    pub trace: &'a TraceParent,
    /// The host where HTTP/1.0 gave none.
    pub default_host: &'a str,
}

/// How the body of a request is framed towards an instance.
pub(crate) fn request_framing(body: BodyLength) -> BodyFraming {
    match body {
        BodyLength::Chunked | BodyLength::UntilClose => BodyFraming::Chunked,
        BodyLength::Empty | BodyLength::Known(_) => BodyFraming::Plain,
    }
}

/// Appends the head of `request` as HTTP/1.1 to `out`.
pub(crate) fn write_request(request: &RequestHead, extras: &RequestExtras<'_>, out: &mut Vec<u8>) {
    out.reserve(request.raw.len() + 512);
    out.extend_from_slice(request.bytes(request.method_name));
    out.push(b' ');
    out.extend_from_slice(request.path());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    let host = match request.bytes(request.host) {
        b"" => extras.default_host.as_bytes(),
        host => host,
    };
    out.extend_from_slice(host);
    out.extend_from_slice(b"\r\n");
    for field in &request.fields {
        let goes_on = match field.kind {
            FieldKind::Other | FieldKind::Accept | FieldKind::Cookie => true,
            FieldKind::TraceState => extras.trace.continued,
            _ => false,
        };
        if goes_on {
            write_field(request.bytes(field.name), request.bytes(field.value), out);
        }
    }
    match request.body() {
        BodyLength::Empty | BodyLength::UntilClose => {}
        BodyLength::Known(length) => write_length(length, out),
        BodyLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if let Some(upgrade) = request.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write_field(b"upgrade", request.bytes(upgrade), out);
    }
    out.extend_from_slice(&extras.forwarded.prefix);
    if !host.is_empty() {
        // `check_host` lets no quote or backslash through.
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\"\r\n");
        write_field(b"x-forwarded-host", host, out);
    } else {
        out.extend_from_slice(b"\r\n");
    }
    write_field(b"x-request-id", extras.id.as_bytes(), out);
    write_field(b"traceparent", &extras.trace.text, out);
    out.extend_from_slice(b"\r\n");
}

/// What is added to a response on its way to an HTTP/1 client.
pub(crate) struct ResponseExtras<'a> {
    pub id: &'a RequestId,
    /// Binds the client to the instance.
    pub cookie: Option<&'a str>,
    pub keep_alive: bool,
    /// The client speaks HTTP/1.0.
    pub http10: bool,
}

/// How the body of a response is framed towards an HTTP/1 client, and whether
/// its end can only be shown by closing.
pub(crate) fn response_framing(response: &ResponseHead, http10: bool) -> (BodyFraming, bool) {
    match response.body() {
        BodyLength::Empty | BodyLength::Known(_) => (BodyFraming::Plain, false),
        BodyLength::Chunked | BodyLength::UntilClose if http10 => (BodyFraming::Plain, true),
        BodyLength::Chunked | BodyLength::UntilClose => (BodyFraming::Chunked, false),
    }
}

/// Appends the head of `response` to `out`.
pub(crate) fn write_response(
    response: &ResponseHead,
    extras: &ResponseExtras<'_>,
    out: &mut Vec<u8>,
) {
    out.reserve(response.raw.len() + 160);
    write_status(response.status, response.bytes(response.reason), out);
    for field in &response.fields {
        if response_field_goes_on(field.kind) {
            write_field(response.bytes(field.name), response.bytes(field.value), out);
        }
    }
    if let Some(length) = response.content_length.filter(|_| response.status != 204) {
        write_length(length, out);
    } else if matches!(response.body(), BodyLength::Chunked | BodyLength::UntilClose)
        && !extras.http10
    {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if let Some(upgrade) = response.upgrade {
        out.extend_from_slice(b"connection: upgrade\r\n");
        write_field(b"upgrade", response.bytes(upgrade), out);
    } else if !extras.keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    } else if extras.http10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    if let Some(cookie) = extras.cookie {
        write_field(b"set-cookie", cookie.as_bytes(), out);
    }
    write_field(b"x-request-id", extras.id.as_bytes(), out);
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of an interim response (RFC 9110, 15.2) to `out`.
pub(crate) fn write_interim(response: &ResponseHead, out: &mut Vec<u8>) {
    write_status(response.status, response.bytes(response.reason), out);
    for field in response.fields.iter().filter(|field| response_field_goes_on(field.kind)) {
        write_field(response.bytes(field.name), response.bytes(field.value), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a field of a response is meant for the client, framing apart.
pub(crate) fn response_field_goes_on(kind: FieldKind) -> bool {
    !matches!(
        kind,
        FieldKind::ContentLength
            | FieldKind::TransferEncoding
            | FieldKind::Connection
            | FieldKind::Upgrade
            | FieldKind::HopByHop
            | FieldKind::KeepAlive
            | FieldKind::Listed
            | FieldKind::RequestId
    )
}

/// Appends a status line.
pub(crate) fn write_status(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends one field.
pub(crate) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"content-length: ");
    write_decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number.
pub(crate) fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

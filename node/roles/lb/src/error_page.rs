//! What the balancer answers itself.

use std::time::SystemTime;

use crate::fields::FieldKind;
use crate::request_head::{Method, RequestHead};
use crate::rewrite::{write_decimal, write_field, write_status};
use crate::trace::RequestId;

/// An answer of the balancer's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ErrorPage {
    pub status: u16,
    /// One sentence for a person.
    pub what: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
}

impl ErrorPage {
    pub const fn new(status: u16, what: &'static str) -> ErrorPage {
        ErrorPage { status, what, retry_after: None }
    }

    pub const fn retry_after(self, seconds: u32) -> ErrorPage {
        ErrorPage { retry_after: Some(seconds), ..self }
    }

    /// Content type and body, in the form that the client prefers.
    pub fn body(&self, json: bool, id: &RequestId) -> (&'static str, String) {
        let (status, reason, what, id) = (self.status, reason(self.status), self.what, id.as_str());
        if json {
            let body = format!(
                "{{\"status\":{status},\"error\":\"{reason}\",\"message\":\"{what}\",\"request_id\":\"{id}\"}}\n"
            );
            return ("application/json", body);
        }
        let body = format!(
            "<!doctype html><meta charset=utf-8><title>{status} {reason}</title>\n\
             <h1>{status} {reason}</h1>\n<p>{what}.</p>\n<p><small>request {id}</small></p>\n"
        );
        ("text/html; charset=utf-8", body)
    }

    /// Appends the whole response as HTTP/1.1.
    pub fn write(&self, page: &PageStyle, id: &RequestId, out: &mut Vec<u8>) {
        let (content_type, body) = self.body(page.json, id);
        write_status(self.status, reason(self.status).as_bytes(), out);
        write_field(b"date", httpdate::fmt_http_date(SystemTime::now()).as_bytes(), out);
        write_field(b"content-type", content_type.as_bytes(), out);
        write_field(b"cache-control", b"no-store", out);
        out.extend_from_slice(b"content-length: ");
        write_decimal(body.len() as u64, out);
        out.extend_from_slice(b"\r\n");
        if let Some(seconds) = self.retry_after {
            out.extend_from_slice(b"retry-after: ");
            write_decimal(u64::from(seconds), out);
            out.extend_from_slice(b"\r\n");
        }
        if !page.keep_alive {
            out.extend_from_slice(b"connection: close\r\n");
        } else if page.http10 {
            out.extend_from_slice(b"connection: keep-alive\r\n");
        }
        write_field(b"x-request-id", id.as_bytes(), out);
        out.extend_from_slice(b"\r\n");
        if !page.head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

/// In which form an answer is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageStyle {
    pub json: bool,
    pub head_only: bool,
    pub keep_alive: bool,
    pub http10: bool,
}

impl PageStyle {
    pub fn of(request: &RequestHead, keep_alive: bool) -> PageStyle {
        PageStyle {
            json: prefers_json(request),
            head_only: request.method == Method::Head,
            keep_alive,
            http10: request.http10,
        }
    }

    /// For a request that could not be read.
    pub const UNREADABLE: PageStyle =
        PageStyle { json: false, head_only: false, keep_alive: false, http10: false };
}

/// Whether `Accept` names JSON, and not HTML before it.
pub(crate) fn prefers_json(request: &RequestHead) -> bool {
    let accept = request.field(FieldKind::Accept).unwrap_or_default();
    let position = |what: &str| memchr::memmem::find(accept, what.as_bytes());
    match (position("application/json"), position("text/html")) {
        (Some(json), Some(html)) => json < html,
        (json, _) => json.is_some(),
    }
}

/// The phrase for a status that the balancer itself uses.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::random::Random;
use crate::response_head::{ResponseHead, parse_response};
use crate::rewrite::{ForwardedBy, RequestExtras, write_request};
use crate::trace::{RequestId, TraceParent};

fn parse(text: &str) -> Result<RequestHead, BadHead> {
    let (head, length) = parse_request(text.as_bytes(), &HeadLimits::default())?.unwrap();
    assert_eq!(length, text.len());
    Ok(head)
}

fn rewritten(head: &RequestHead) -> Vec<u8> {
    let random = &mut Random::seeded(1);
    let extras = RequestExtras {
        forwarded: &ForwardedBy::new(IpAddr::from([192, 0, 2, 1]), false),
        id: &RequestId::of(head, random),
        trace: &TraceParent::of(head, random),
        default_host: "app",
    };
    let mut out = Vec::new();
    write_request(head, &extras, &mut out);
    out
}

#[test]
fn the_forms_of_a_target_are_told_apart() {
    let target = |text: &str| {
        let head = parse(text).unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(head.bytes(head.host)), text(head.path()))
    };
    let pair = |host: &str, path: &str| (host.to_owned(), path.to_owned());
    assert_eq!(target("GET /a?b HTTP/1.1\r\nHost: h:1\r\n\r\n"), pair("h:1", "/a?b"));
    assert_eq!(target("GET http://h/a?b HTTP/1.1\r\nHost: h\r\n\r\n"), pair("h", "/a?b"));
    assert_eq!(target("GET HTTP://H HTTP/1.1\r\nHost: h\r\n\r\n"), pair("H", "/"));
    assert_eq!(target("OPTIONS http://h HTTP/1.1\r\nHost: h\r\n\r\n"), pair("h", "*"));
    assert_eq!(target("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), pair("h", "*"));
    assert_eq!(target("GET / HTTP/1.0\r\n\r\n"), pair("", "/"));
    assert_eq!(
        target("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n\r\n").0,
        "[2001:db8::1]:8080"
    );
    assert_eq!(target("GET / HTTP/1.1\r\nHost:\r\n\r\n"), pair("", "/"));
}

#[test]
fn the_connection_is_kept_as_each_version_has_it() {
    let kept = |text: &str| parse(text).unwrap().keep_alive;
    assert!(kept("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert!(!kept("GET / HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n"));
    assert!(!kept("GET / HTTP/1.0\r\n\r\n"));
    assert!(kept("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    assert!(!kept("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
}

#[test]
fn a_connection_field_cannot_take_framing_or_host_away() {
    let head = parse(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nX-Gone: 1\r\n\
         Connection: Host, Content-Length, X-Gone, Cookie\r\nCookie: a\r\n\r\n",
    );
    let out = String::from_utf8(rewritten(&head.unwrap())).unwrap();
    assert!(out.contains("\r\nhost: h\r\n") && out.contains("\r\ncontent-length: 3\r\n"), "{out}");
    assert!(!out.contains("X-Gone"), "{out}");
}

#[test]
fn one_empty_line_before_a_request_is_tolerated() {
    let limits = HeadLimits::default();
    let text = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(parse_request(text, &limits).unwrap().unwrap().1, text.len());
    assert!(parse_request(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", &limits).is_err());
}

/// Bytes that look like a request, more or less.
fn almost_request() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just("Host: a\r\n"),
        Just("Host: b:80\r\n"),
        Just("Content-Length: 5\r\n"),
        Just("Content-Length: 5, 5\r\n"),
        Just("Transfer-Encoding: chunked\r\n"),
        Just("Transfer-Encoding: identity\r\n"),
        Just("Connection: close, te\r\n"),
        Just("Connection: upgrade\r\n"),
        Just("Upgrade: websocket\r\n"),
        Just("Expect: 100-continue\r\n"),
        Just("X-Forwarded-For: 1\r\n"),
        Just("Cookie: a=b\r\n"),
        Just(" folded\r\n"),
        Just("bad name: x\r\n"),
        Just("lf: only\n"),
        Just("X: \u{e4}\u{7f}\r\n"),
        Just("Content_Length: 7\r\n"),
        Just("X_Forwarded_For: 2\r\n"),
    ];
    let start = prop_oneof![
        Just("GET / HTTP/1.1\r\n"),
        Just("POST /p?q=1 HTTP/1.1\r\n"),
        Just("GET http://a/x HTTP/1.1\r\n"),
        Just("OPTIONS * HTTP/1.1\r\n"),
        Just("PUT /x HTTP/1.0\r\n"),
        Just("TRACE / HTTP/1.1\r\n"),
        Just("BREW /pot HTTP/1.1\r\n"),
    ];
    (start, prop::collection::vec(line, 0..6), prop::option::of((any::<usize>(), any::<u8>())))
        .prop_map(|(start, lines, flip)| {
            let mut bytes = format!("{start}{}\r\n", lines.concat()).into_bytes();
            if let Some((at, byte)) = flip {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes
        })
}

/// The rules again, as plainly as they can be said: what a lenient parser would
/// see in `bytes`, one like CGI's, for which `_` is `-`, if `cgi`.
fn lenient_view(bytes: &[u8], cgi: bool) -> (usize, usize, usize) {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let lines = text.split(['\n', '\r']).map(str::trim);
    let count = |name: &str| {
        let named = |line: &&str| {
            let found = line.split(':').next().unwrap_or_default().trim();
            if cgi { found.replace('_', "-") == name } else { found == name }
        };
        lines.clone().filter(named).count()
    };
    (count("host"), count("content-length"), count("transfer-encoding"))
}

proptest! {
    #[test]
    fn reading_any_bytes_ends_and_what_is_read_cannot_be_read_differently(
        bytes in prop_oneof![almost_request(), prop::collection::vec(any::<u8>(), 0..300)]
    ) {
        let limits = HeadLimits::default();
        let _ = parse_response(&bytes, Method::Get, &limits);
        let Ok(Some((head, length))) = parse_request(&bytes, &limits) else { return Ok(()) };
        prop_assert!(length <= bytes.len());
        prop_assert!(!bytes[..length].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
        let (hosts, lengths, codings) = lenient_view(&bytes[..length], false);
        prop_assert!(hosts == 1 || (hosts == 0 && head.http10));
        prop_assert!(lengths + codings <= 1);
        // What goes on says the same, once.
        let out = rewritten(&head);
        let (again, end) = parse_request(&out, &limits).unwrap().unwrap();
        prop_assert_eq!(end, out.len());
        prop_assert_eq!(again.bytes(again.method_name), head.bytes(head.method_name));
        prop_assert_eq!(again.path(), head.path());
        prop_assert_eq!(again.body(), head.body());
        prop_assert_eq!(again.upgrade.is_some(), head.upgrade.is_some());
        prop_assert!(!again.expect_continue && !again.http10);
        let (hosts, lengths, codings) = lenient_view(&out, true);
        prop_assert_eq!(hosts, 1);
        prop_assert!(lengths + codings <= 1);
        let lower = String::from_utf8_lossy(&out).to_ascii_lowercase().replace('_', "-");
        prop_assert_eq!(lower.matches("\r\nx-forwarded-for:").count(), 1);
    }

    #[test]
    fn a_head_in_pieces_reads_like_a_whole_one(bytes in almost_request(), cut in any::<usize>()) {
        let limits = HeadLimits::default();
        let whole = parse_request(&bytes, &limits).map(|read| read.map(|(_, length)| length));
        let cut = cut % (bytes.len() + 1);
        let part = parse_request(&bytes[..cut], &limits).map(|read| read.map(|(_, length)| length));
        match part {
            // Too early to say.
            Ok(None) => {}
            decided => prop_assert_eq!(decided, whole),
        }
    }
}

#[test]
fn responses_are_framed_by_status_and_method() {
    let framed = |text: &str, method| {
        let limits = HeadLimits::default();
        let read = parse_response(text.as_bytes(), method, &limits);
        read.map(|head| -> ResponseHead { head.unwrap().0 })
    };
    let ok = framed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get).unwrap();
    assert_eq!((ok.body(), ok.keep_alive), (BodyLength::Known(3), true));
    let head = framed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Head).unwrap();
    assert_eq!((head.body(), head.content_length), (BodyLength::Empty, Some(3)));
    let close = framed("HTTP/1.1 200 OK\r\n\r\n", Method::Get).unwrap();
    assert_eq!((close.body(), close.keep_alive), (BodyLength::UntilClose, false));
    let old = framed("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get).unwrap();
    assert!(!old.keep_alive);
    let told =
        framed("HTTP/1.1 204 X\r\nKeep-Alive: timeout=5, max=9\r\n\r\n", Method::Get).unwrap();
    assert_eq!(told.idle_timeout, Some(5));
    assert!(framed("HTTP/1.1 204 X\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get).is_err());
    assert!(framed("HTTP/1.1 600 X\r\n\r\n", Method::Get).is_err());
}

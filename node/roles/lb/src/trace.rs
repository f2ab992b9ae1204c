//! Request ids, and W3C trace context (<https://www.w3.org/TR/trace-context/>).

use crate::fields::FieldKind;
use crate::random::Random;
use crate::request_head::RequestHead;

const LONGEST_ID: usize = 64;

/// The id of a request: the client's own where that is well formed, a new one
/// otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestId {
    text: [u8; LONGEST_ID],
    length: u8,
}

impl RequestId {
    pub fn of(request: &RequestHead, random: &mut Random) -> RequestId {
        match request.field(FieldKind::RequestId).filter(|id| is_request_id(id)) {
            Some(id) => {
                let mut text = [0; LONGEST_ID];
                text[..id.len()].copy_from_slice(id);
                RequestId { text, length: id.len() as u8 }
            }
            None => RequestId::new(random),
        }
    }

    pub fn new(random: &mut Random) -> RequestId {
        let mut text = [0; LONGEST_ID];
        write_hex(random.next(), &mut text[..16]);
        write_hex(random.next(), &mut text[16..32]);
        RequestId { text, length: 32 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.length)]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

fn is_request_id(id: &[u8]) -> bool {
    (8..=LONGEST_ID).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
}

/// The `traceparent` of the request that goes to the instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TraceParent {
    pub text: [u8; 55],
    /// The trace came with the request, so `tracestate` belongs to it.
    pub continued: bool,
}

impl TraceParent {
    pub fn of(request: &RequestHead, random: &mut Random) -> TraceParent {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        let given = request.field(FieldKind::TraceParent).filter(|given| is_traceparent(given));
        let continued = given.is_some();
        if let Some(given) = given {
            // Of a later version only what this one knows is passed on.
            text[2..55].copy_from_slice(&given[2..55]);
        } else {
            write_hex(random.next() | 1, &mut text[3..19]);
            write_hex(random.next(), &mut text[19..35]);
        }
        write_hex(random.next() | 1, &mut text[36..52]);
        TraceParent { text, continued }
    }
}

fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let nonzero = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    let long_enough = match text.len() {
        55 => true,
        0..55 => false,
        // Only a later version may say more.
        _ => text[..2] != *b"00" && text[55] == b'-',
    };
    long_enough
        && text[2] == b'-'
        && text[35] == b'-'
        && text[52] == b'-'
        && hex(&text[..2])
        && text[..2] != *b"ff"
        && hex(&text[3..35])
        && nonzero(&text[3..35])
        && hex(&text[36..52])
        && nonzero(&text[36..52])
        && hex(&text[53..55])
}

fn write_hex(value: u64, out: &mut [u8]) {
    for (place, byte) in out.iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[(value >> (4 * place) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::HeadLimits;

    fn request(field: &str) -> RequestHead {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n");
        let mut head = RequestHead::default();
        head.read(text.as_bytes(), &HeadLimits::default()).unwrap();
        head
    }

    #[test]
    fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
        let random = &mut Random::seeded(3);
        let kept = RequestId::of(&request("X-Request-Id: abc-123.DEF_9"), random);
        assert_eq!(kept.as_str(), "abc-123.DEF_9");
        for bad in ["short", "has blank in it", "\"quoted-quoted\"", &"x".repeat(65), ""] {
            let id = RequestId::of(&request(&format!("X-Request-Id: {bad}")), random);
            assert_eq!(id.as_bytes().len(), 32, "{bad}");
            assert!(id.as_bytes().iter().all(u8::is_ascii_hexdigit));
        }
    }

    #[test]
    fn a_valid_trace_goes_on_with_a_new_span() {
        let random = &mut Random::seeded(3);
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let trace = TraceParent::of(&request(&format!("traceparent: {given}")), random);
        assert!(trace.continued);
        assert_eq!(trace.text[..36], given.as_bytes()[..36]);
        assert_ne!(trace.text[36..52], given.as_bytes()[36..52]);
        assert_eq!(&trace.text[52..], b"-00");
    }

    #[test]
    fn an_invalid_trace_is_replaced_by_a_new_one() {
        let random = &mut Random::seeded(3);
        for bad in [
            "",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
        ] {
            let trace = TraceParent::of(&request(&format!("traceparent: {bad}")), random);
            assert!(!trace.continued, "{bad}");
            assert!(is_traceparent(&trace.text));
        }
    }
}

//! The body of a request on its way to an instance, and what is kept of it so
//! that it can be sent again.

use crate::body::BodyFraming;
use crate::head::BodyLength;
use crate::rewrite::request_framing;

pub(crate) struct RequestBody {
    length: BodyLength,
    framing: BodyFraming,
    /// All of it came from the client.
    ended: bool,
    kept: Vec<u8>,
    /// `kept` is everything that came so far.
    kept_all: bool,
    keep_at_most: usize,
    /// Bytes that came so far.
    pub received: u64,
}

impl RequestBody {
    pub fn new(length: BodyLength, keep_at_most: usize) -> RequestBody {
        RequestBody {
            length,
            framing: request_framing(length),
            ended: matches!(length, BodyLength::Empty | BodyLength::Known(0)),
            kept: Vec::new(),
            kept_all: true,
            keep_at_most,
            received: 0,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Bytes that are still to come, where their number was announced.
    pub fn missing(&self) -> Option<u64> {
        match self.length {
            BodyLength::Known(length) => Some(length.saturating_sub(self.received)),
            _ => None,
        }
    }

    /// Whether another instance can be given all that came so far.
    pub fn can_replay(&self) -> bool {
        self.kept_all
    }

    /// Appends to `out` what another instance got before.
    pub fn replay(&self, out: &mut Vec<u8>) {
        self.framing.write(&self.kept, out);
        if self.ended {
            self.framing.finish(out);
        }
    }

    /// Takes `data` from the client and appends it to `out`.
    pub fn take(&mut self, data: &[u8], out: &mut Vec<u8>) {
        self.received += data.len() as u64;
        self.framing.write(data, out);
        if !self.kept_all {
            return;
        }
        if self.kept.len() + data.len() <= self.keep_at_most {
            self.kept.extend_from_slice(data);
        } else {
            self.kept_all = false;
            self.kept = Vec::new();
        }
    }

    /// The client sent the end.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if !self.ended {
            self.ended = true;
            self.framing.finish(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_body_can_be_sent_again_and_a_large_one_cannot() {
        let mut body = RequestBody::new(BodyLength::Chunked, 8);
        let mut out = Vec::new();
        body.take(b"abc", &mut out);
        body.take(b"def", &mut out);
        body.end(&mut out);
        assert_eq!(out, b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
        assert!(body.can_replay());
        out.clear();
        body.replay(&mut out);
        assert_eq!(out, b"6\r\nabcdef\r\n0\r\n\r\n");

        let mut body = RequestBody::new(BodyLength::Known(12), 8);
        body.take(b"abcdef", &mut out);
        assert!(body.can_replay());
        body.take(b"ghi", &mut out);
        assert!(!body.can_replay());
        assert_eq!(body.received, 9);
    }
}

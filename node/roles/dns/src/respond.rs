//! From the bytes of a query to the bytes of its answer: a pure function.

use std::net::IpAddr;

use crate::choice::Ticket;
use crate::cookie;
use crate::edns::{Edns, Options, Reply, Subnet};
use crate::question::{self, HEADER, NotOrdinary, QR, RD, TC};
use crate::snapshot::Snapshot;
use crate::{fast, slow};

/// Response codes (RFC 1035 section 4.1.1, RFC 6891 section 9).
pub(crate) mod rcode {
    pub(crate) const NO_ERROR: u16 = 0;
    pub(crate) const FORMAT_ERROR: u16 = 1;
    pub(crate) const SERVER_FAILURE: u16 = 2;
    pub(crate) const NAME_ERROR: u16 = 3;
    pub(crate) const NOT_IMPLEMENTED: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const NOT_AUTHORITATIVE: u16 = 9;
    pub(crate) const BAD_VERSION: u16 = 16;
}

/// How a query came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// One datagram; the answer is as small as the client asks, at most 1232
    /// bytes.
    Udp,
    /// A connection, which also proves the client's address.
    Tcp,
}

/// What an answer depends on besides the query and the zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// Where the query came from; an IPv4 address is never given as IPv6.
    pub address: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Seconds since 1970, modulo 2^32.
    pub now: u32,
    /// One more for each query of a thread; spreads answers over data centers
    /// and addresses.
    pub ticket: u64,
}

impl Asker {
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.ticket)
    }
}

/// What was answered, for limits and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) rcode: u16,
    pub(crate) subject: Subject,
    /// The client showed a valid server cookie.
    pub(crate) cookie_valid: bool,
    pub(crate) truncated: bool,
    pub(crate) prepared: bool,
    /// Where the question ends, and how long the OPT record at the end is.
    pub(crate) question_end: usize,
    pub(crate) opt_length: usize,
}

/// What answers are counted together when their rate is limited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Subject {
    /// Records of a zone.
    Records { zone: usize },
    /// That a name or type does not exist in a zone.
    Nothing { zone: usize },
    /// Errors.
    Error,
}

/// The answer to a query, or `None` for what must not be answered: bytes shorter
/// than a header, and responses. Total: it never panics.
pub fn respond(snapshot: &Snapshot, query: &[u8], asker: &Asker) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    respond_into(snapshot, query, asker, &mut out)?;
    Some(out)
}

/// As `respond`, into a buffer that is cleared first.
pub(crate) fn respond_into(
    snapshot: &Snapshot,
    query: &[u8],
    asker: &Asker,
    out: &mut Vec<u8>,
) -> Option<Outcome> {
    out.clear();
    let asked = match question::parse_question(query) {
        Ok(question) => {
            if let Some(mut outcome) = fast::respond(snapshot, &question, asker, out) {
                fit(out, &mut outcome, question.edns, asker);
                return Some(outcome);
            }
            out.clear();
            slow::Asked::from_question(&question)
        }
        Err(NotOrdinary::Short | NotOrdinary::Response) => return None,
        Err(NotOrdinary::Opcode) => Err(rcode::NOT_IMPLEMENTED),
        Err(NotOrdinary::Unusual) => slow::Asked::decode(query),
    };
    Some(match asked {
        Ok(asked) => slow::respond(snapshot, &asked, asker, out),
        Err(rcode) => bare_error(query, rcode, out),
    })
}

/// Truncates an answer that is longer than the client takes.
pub(crate) fn fit(out: &mut Vec<u8>, outcome: &mut Outcome, edns: Option<Edns>, asker: &Asker) {
    if out.len() > limit(edns, asker) {
        truncate(out, outcome);
    }
}

/// The longest answer that the client takes.
pub(crate) fn limit(edns: Option<Edns>, asker: &Asker) -> usize {
    match (asker.transport, edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => usize::from(crate::edns::PLAIN_PAYLOAD),
        (Transport::Udp, Some(edns)) => edns.udp_limit(),
    }
}

/// Takes all records but OPT out of an answer and marks it as truncated.
pub(crate) fn truncate(out: &mut Vec<u8>, outcome: &mut Outcome) {
    let opt_start = out.len() - outcome.opt_length;
    out.drain(outcome.question_end..opt_start);
    out[2] |= TC;
    out[6..HEADER].copy_from_slice(&[0, 0, 0, 0, 0, u8::from(outcome.opt_length > 0)]);
    outcome.truncated = true;
}

/// What the answer's OPT record says, and whether the client's cookie is valid.
pub(crate) fn reply_to(
    snapshot: &Snapshot,
    edns: &Edns,
    options: Option<&Options>,
    asker: &Asker,
    scope: u8,
) -> (Reply, bool) {
    let mut reply = Reply { dnssec_ok: edns.dnssec_ok, ..Reply::default() };
    let Some(options) = options else { return (reply, false) };
    reply.subnet = options.subnet.map(|subnet| (subnet, scope));
    if options.keepalive && asker.transport == Transport::Tcp {
        reply.keepalive = Some(snapshot.tcp_idle);
    }
    let mut valid = false;
    if let Some(cookie) = options.cookie {
        let judged = cookie::judge(&snapshot.cookies, &cookie, asker.address, asker.now);
        valid = judged.valid;
        reply.cookie = Some((cookie.client, judged.answer));
    }
    (reply, valid)
}

/// The order of data centers for a client, and the scope to answer with.
pub(crate) fn locate(snapshot: &Snapshot, subnet: Option<Subnet>, asker: &Asker) -> (usize, u8) {
    match subnet.and_then(|subnet| subnet.location()) {
        Some(address) => {
            let place = snapshot.locations.find(address);
            (place.order, place.scope)
        }
        // The answer is for the resolver itself, so it says nothing of networks.
        None => (snapshot.locations.find(asker.address).order, 0),
    }
}

/// An error that has only a header, for a query of which no more can be read than
/// its first three bytes.
pub(crate) fn bare_error(query: &[u8], rcode: u16, out: &mut Vec<u8>) -> Outcome {
    out.clear();
    let opcode_and_rd = query[2] & (0x78 | RD);
    out.extend_from_slice(&[query[0], query[1], QR | opcode_and_rd, rcode as u8]);
    out.extend_from_slice(&[0; 8]);
    Outcome {
        rcode,
        subject: Subject::Error,
        cookie_valid: false,
        truncated: false,
        prepared: false,
        question_end: HEADER,
        opt_length: 0,
    }
}

#[cfg(test)]
mod tests;

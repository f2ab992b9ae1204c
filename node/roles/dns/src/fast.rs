//! The fast path: addresses, what the apex has, and the proof that there is
//! nothing else, written from prepared answers. `slow` gives the same answers and is its oracle.

use crate::choice::Family;
use crate::edns::OPT;
use crate::name::Lower;
use crate::prepared::{AddressList, ApexAnswer};
use crate::question::{A, AA, AAAA, CD, CLASS_IN, HEADER, NS, QR, Question, RD, SOA};
use crate::respond::{self, Asker, Outcome, Subject, rcode};
use crate::snapshot::{Found, Holds, ServedZone, Snapshot};

/// From here on types are questions about many records, or no questions at all
/// (RFC 6895 section 3.1).
const FIRST_META_TYPE: u16 = 128;
const LAST_META_TYPE: u16 = 255;

/// The body of an answer before it is written.
enum Body<'a> {
    Addresses { list: &'a AddressList, zone: &'a ServedZone, scope: u8 },
    Apex { answer: &'a ApexAnswer, zone: &'a ServedZone },
    NoData(&'a ServedZone),
    NoName(&'a ServedZone),
    Refused,
}

/// Writes the answer to an ordinary question; `None` when it is for the slow
/// path, with nothing promised about `out`.
pub(crate) fn respond(
    snapshot: &Snapshot,
    question: &Question<'_>,
    asker: &Asker,
    out: &mut Vec<u8>,
) -> Option<Outcome> {
    let options = match &question.edns {
        None => None,
        Some(edns) if edns.version != 0 => return None,
        Some(edns) => Some(edns.options.as_ref()?),
    };
    let body = choose(snapshot, question, asker)?;
    let flags = QR | if question.recursion_desired { RD } else { 0 };
    let checking = if question.checking_disabled { CD } else { 0 };
    let [id_high, id_low] = question.id.to_be_bytes();
    out.extend_from_slice(&[id_high, id_low, flags, checking, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(question.name);
    out.extend_from_slice(&question.kind.to_be_bytes());
    out.extend_from_slice(&question.class.to_be_bytes());
    let question_end = out.len();
    let (rcode, subject, scope) = write_body(&body, question, asker, out);
    out[3] |= rcode as u8;
    let opt_start = out.len();
    let mut cookie_valid = false;
    if let Some(edns) = &question.edns {
        let (reply, valid) = respond::reply_to(snapshot, edns, options, asker, scope);
        reply.write(out);
        cookie_valid = valid;
    }
    let opt_length = out.len() - opt_start;
    let mut additionals = u16::from(opt_length > 0);
    if let Body::Apex { answer, .. } = &body {
        if out.len() > respond::limit(question.edns, asker) {
            out.drain(question_end + answer.answers_length..opt_start);
        } else {
            additionals += answer.additionals;
        }
    }
    out[10..12].copy_from_slice(&additionals.to_be_bytes());
    let truncated = false;
    let prepared = true;
    Some(Outcome { rcode, subject, cookie_valid, truncated, prepared, question_end, opt_length })
}

fn choose<'a>(snapshot: &'a Snapshot, question: &Question<'_>, asker: &Asker) -> Option<Body<'a>> {
    let kind = question.kind;
    if question.class != CLASS_IN
        || kind == OPT
        || (FIRST_META_TYPE..=LAST_META_TYPE).contains(&kind)
    {
        return None;
    }
    let name = Lower::new(question.name);
    let (zone, holds) = match snapshot.find(name.as_bytes()) {
        Found::Foreign => return Some(Body::Refused),
        Found::Missing(zone) => return Some(Body::NoName(zone)),
        Found::Present(zone, holds) => (zone, holds),
    };
    let family = match kind {
        A => Family::V4,
        AAAA => Family::V6,
        NS | SOA if question.name.len() == zone.apex.len() => {
            let apex = &snapshot.apexes[zone.index];
            let answer = if kind == NS { &apex.name_servers } else { &apex.soa };
            return Some(Body::Apex { answer: answer.as_ref()?, zone });
        }
        _ => return Some(Body::NoData(zone)),
    };
    let list = match holds {
        Holds::Nothing => None,
        Holds::NameServer(index) => {
            let list = snapshot.servers[index].list(family);
            (!list.is_empty()).then_some((list, 0))
        }
        Holds::Balancers => balancers(snapshot, zone, family, question, asker),
    };
    Some(match list {
        Some((list, scope)) => Body::Addresses { list, zone, scope },
        None => Body::NoData(zone),
    })
}

fn balancers<'a>(
    snapshot: &Snapshot,
    zone: &'a ServedZone,
    family: Family,
    question: &Question<'_>,
    asker: &Asker,
) -> Option<(&'a AddressList, u8)> {
    let options = question.edns.and_then(|edns| edns.options);
    let subnet = options.and_then(|options| options.subnet);
    let mut scope = 0;
    let list = zone.table(family).choose(asker.ticket().weight_draw(), || {
        let (order, found_scope) = respond::locate(snapshot, subnet, asker);
        scope = found_scope;
        order
    })?;
    Some((list, scope))
}

/// Appends the records and says code, subject and scope.
fn write_body(
    body: &Body<'_>,
    question: &Question<'_>,
    asker: &Asker,
    out: &mut Vec<u8>,
) -> (u16, Subject, u8) {
    let (zone, rcode) = match body {
        Body::Refused => return (rcode::REFUSED, Subject::Error, 0),
        Body::Addresses { list, zone, scope } => {
            let count = list.write(asker.ticket().rotation_draw(), out);
            out[2] |= AA;
            out[6..8].copy_from_slice(&count.to_be_bytes());
            return (rcode::NO_ERROR, Subject::Records { zone: zone.index }, *scope);
        }
        Body::Apex { answer, zone } => {
            out.extend_from_slice(&answer.bytes);
            out[2] |= AA;
            out[6..8].copy_from_slice(&answer.answers.to_be_bytes());
            return (rcode::NO_ERROR, Subject::Records { zone: zone.index }, 0);
        }
        Body::NoData(zone) => (zone, rcode::NO_ERROR),
        Body::NoName(zone) => (zone, rcode::NAME_ERROR),
    };
    // The apex is the tail of the name that was asked for.
    zone.soa.write(HEADER + question.name.len() - zone.apex.len(), out);
    out[2] |= AA;
    out[9] = 1;
    (rcode, Subject::Nothing { zone: zone.index }, 0)
}

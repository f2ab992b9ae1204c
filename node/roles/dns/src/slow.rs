//! The slow path: questions read and answers written by hickory-proto. It serves
//! what is rare, and is the oracle that the fast path is tested against.

use std::net::IpAddr;

use hickory_proto::op::{Edns as HickoryEdns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::rdata::{A, AAAA, HINFO, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable};

use crate::choice::{self, Family};
use crate::edns::{self, Edns, Options, Reply};
use crate::name;
use crate::prepared::{ApexAnswer, ApexAnswers, SOA_EXPIRE, SOA_REFRESH, SOA_RETRY};
use crate::question::{self, HEADER, Question};
use crate::respond::{self, Asker, Outcome, Subject, rcode};
use crate::snapshot::{Found, Holds, NAME_SERVER_TTL, ServedZone, ServerAddresses, Snapshot};

/// Seconds that the answer to ANY may be cached; it never changes (RFC 8482).
const ANY_TTL: u32 = 3600;

/// A query as both parsers see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    id: u16,
    recursion_desired: bool,
    checking_disabled: bool,
    /// `None` for a query for a cookie only (RFC 7873 section 5.4).
    question: Option<Asking>,
    edns: Option<Edns>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Asking {
    name: Name,
    kind: u16,
    class: u16,
}

impl Asked {
    /// Takes over what the hand parser read; the error is a response code.
    pub(crate) fn from_question(question: &Question<'_>) -> Result<Self, u16> {
        let name = Name::from_bytes(question.name).map_err(|_| rcode::FORMAT_ERROR)?;
        Ok(Self {
            id: question.id,
            recursion_desired: question.recursion_desired,
            checking_disabled: question.checking_disabled,
            question: Some(Asking { name, kind: question.kind, class: question.class }),
            edns: question.edns,
        })
    }

    /// Decodes a whole query with hickory-proto; the error is a response code.
    pub(crate) fn decode(query: &[u8]) -> Result<Self, u16> {
        let mut decoder = BinDecoder::new(query);
        let message = Message::read(&mut decoder).map_err(|_| rcode::FORMAT_ERROR)?;
        if !decoder.is_empty() {
            return Err(rcode::FORMAT_ERROR);
        }
        let is_signature =
            |record: &Record| matches!(record.record_type(), RecordType::TSIG | RecordType::SIG);
        if message.signature.is_some() || message.additionals.iter().any(is_signature) {
            // We know no key (RFC 8945 section 5.2.1).
            return Err(rcode::NOT_AUTHORITATIVE);
        }
        let edns = message.edns.as_ref().map(read_edns);
        let question = match message.queries.as_slice() {
            [] if edns.and_then(|e| e.options).is_some_and(|o| o.cookie.is_some()) => None,
            // A name in the question has nothing before it to point to.
            [query_] if name::measure(&query[HEADER..]).is_some() => Some(Asking {
                name: query_.name.clone(),
                kind: query_.query_type.into(),
                class: query_.query_class.into(),
            }),
            _ => return Err(rcode::FORMAT_ERROR),
        };
        let is_ixfr = question.as_ref().is_some_and(|asking| asking.kind == question::IXFR);
        if !message.answers.is_empty() || !(message.authorities.is_empty() || is_ixfr) {
            return Err(rcode::FORMAT_ERROR);
        }
        Ok(Self {
            id: message.metadata.id,
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            question,
            edns,
        })
    }
}

fn read_edns(edns: &HickoryEdns) -> Edns {
    let mut options = Some(Options::default());
    for (code, option) in &edns.options().options {
        let taken = Vec::<u8>::try_from(option).ok();
        options = options.and_then(|mut options| {
            options.take((*code).into(), &taken?)?;
            Some(options)
        });
    }
    Edns {
        payload: edns.max_payload(),
        version: edns.version(),
        dnssec_ok: edns.flags().dnssec_ok,
        options,
    }
}

/// Sections of an answer before they are encoded.
#[derive(Default)]
struct Sections {
    rcode: u16,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    subject: Option<Subject>,
    scope: u8,
}

impl Sections {
    fn error(rcode: u16) -> Self {
        Self { rcode, ..Self::default() }
    }
}

/// Writes the answer to any query that could be read.
pub(crate) fn respond(
    snapshot: &Snapshot,
    asked: &Asked,
    asker: &Asker,
    out: &mut Vec<u8>,
) -> Outcome {
    let sections = answer(snapshot, asked, asker);
    let subject = sections.subject.unwrap_or(Subject::Error);
    let rcode = sections.rcode;
    let (reply, cookie_valid) = match &asked.edns {
        None => (None, false),
        Some(edns) => {
            // The options of an unknown version mean nothing to us.
            let options = if edns.version == 0 { edns.options.as_ref() } else { None };
            let (reply, valid) = respond::reply_to(snapshot, edns, options, asker, sections.scope);
            (Some(reply), valid)
        }
    };
    let mut message = build(asked, sections, reply.as_ref());
    let question_end =
        HEADER + asked.question.as_ref().map_or(0, |asking| wire(&asking.name).len() + 4);
    let mut opt = Vec::new();
    if let Some(reply) = reply {
        reply.write(&mut opt);
    }
    let mut outcome = Outcome {
        rcode,
        subject,
        cookie_valid,
        truncated: false,
        prepared: false,
        question_end,
        opt_length: opt.len(),
    };
    let mut encoded = encode(&message, out);
    if encoded && out.len() > respond::limit(asked.edns, asker) {
        // Addresses of name servers only save the resolver a question.
        message.additionals.clear();
        encoded = encode(&message, out);
    }
    if !encoded {
        return server_failure(asked, out);
    }
    respond::fit(out, &mut outcome, asked.edns, asker);
    outcome
}

/// Encodes the name servers and the SOA record of a zone for the fast path. The
/// compression pointers hold for every question with the apex as its name, since
/// all of those have one length.
pub(crate) fn prepare_apex(snapshot: &Snapshot, zone: &ServedZone) -> ApexAnswers {
    let prepare = |kind: u16| {
        let name = Name::from_bytes(&zone.apex).unwrap_or_else(|_| Name::root());
        let asking = Asking { name, kind, class: question::CLASS_IN };
        let asked = Asked {
            id: 0,
            recursion_desired: false,
            checking_disabled: false,
            question: Some(asking.clone()),
            edns: None,
        };
        let mut sections = Sections { authoritative: true, ..Sections::default() };
        match kind {
            question::NS => name_servers(snapshot, zone, &asking, &mut sections),
            _ => sections.answers.push(soa_record(zone, &asking)),
        }
        let answers = sections.answers.len() as u16;
        let additionals = sections.additionals.len() as u16;
        let mut message = build(&asked, sections, None);
        let mut whole = Vec::new();
        let mut bare = Vec::new();
        let encoded = encode(&message, &mut whole);
        message.additionals.clear();
        if !encoded || !encode(&message, &mut bare) {
            return None;
        }
        let start = HEADER + zone.apex.len() + 4;
        let answers_length = bare.len() - start;
        Some(ApexAnswer { bytes: whole.split_off(start), answers, additionals, answers_length })
    };
    ApexAnswers { name_servers: prepare(question::NS), soa: prepare(question::SOA) }
}

fn encode(message: &Message, out: &mut Vec<u8>) -> bool {
    out.clear();
    match message.to_vec() {
        Ok(bytes) => {
            out.extend_from_slice(&bytes);
            true
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded");
            false
        }
    }
}

/// What hickory-proto cannot encode becomes SERVFAIL, so that the client tries
/// another server at once.
fn server_failure(asked: &Asked, out: &mut Vec<u8>) -> Outcome {
    let [id_high, id_low] = asked.id.to_be_bytes();
    let rd = if asked.recursion_desired { question::RD } else { 0 };
    respond::bare_error(&[id_high, id_low, rd], rcode::SERVER_FAILURE, out)
}

fn build(asked: &Asked, sections: Sections, reply: Option<&Reply>) -> Message {
    let mut message = Message::response(asked.id, OpCode::Query);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.checking_disabled = asked.checking_disabled;
    message.metadata.authoritative = sections.authoritative;
    message.metadata.response_code =
        ResponseCode::from((sections.rcode >> 4) as u8, (sections.rcode & 15) as u8);
    if let Some(asking) = &asked.question {
        let mut query = Query::query(asking.name.clone(), RecordType::from(asking.kind));
        query.set_query_class(DNSClass::from(asking.class));
        message.add_query(query);
    }
    message.add_answers(sections.answers);
    message.add_authorities(sections.authorities);
    message.add_additionals(sections.additionals);
    if let Some(reply) = reply {
        message.set_edns(write_edns(reply));
    }
    message
}

fn write_edns(reply: &Reply) -> HickoryEdns {
    let mut edns = HickoryEdns::new();
    edns.set_max_payload(edns::UDP_PAYLOAD);
    edns.set_dnssec_ok(reply.dnssec_ok);
    let options = edns.options_mut();
    if let Some((subnet, scope)) = reply.subnet {
        options.insert(match subnet.address {
            Some(address) => EdnsOption::Subnet(ClientSubnet::new(address, subnet.source, scope)),
            None => EdnsOption::Unknown(edns::SUBNET, vec![0; 4]),
        });
    }
    if let Some((client, server)) = reply.cookie {
        let both = [&client[..], &server[..]].concat();
        options.insert(EdnsOption::Unknown(edns::COOKIE, both));
    }
    if let Some(units) = reply.keepalive {
        options.insert(EdnsOption::Unknown(edns::KEEPALIVE, units.to_be_bytes().to_vec()));
    }
    edns
}

fn answer(snapshot: &Snapshot, asked: &Asked, asker: &Asker) -> Sections {
    if let Some(edns) = &asked.edns {
        if edns.version != 0 {
            return Sections::error(rcode::BAD_VERSION);
        }
        if edns.options.is_none() {
            return Sections::error(rcode::FORMAT_ERROR);
        }
    }
    let Some(asking) = &asked.question else { return Sections::default() };
    match asking.kind {
        edns::OPT => return Sections::error(rcode::FORMAT_ERROR),
        question::AXFR | question::IXFR => return Sections::error(rcode::REFUSED),
        _ if asking.class != question::CLASS_IN => return Sections::error(rcode::REFUSED),
        question::ANY => {}
        128..=255 => return Sections::error(rcode::NOT_IMPLEMENTED),
        _ => {}
    }
    let lower = wire(&asking.name.to_lowercase());
    match snapshot.find(&lower) {
        Found::Foreign => Sections::error(rcode::REFUSED),
        Found::Missing(zone) => nothing(zone, asking, rcode::NAME_ERROR),
        Found::Present(zone, holds) => {
            let at_apex = lower == zone.apex;
            present(snapshot, asked, asking, asker, zone, holds, at_apex)
        }
    }
}

fn present(
    snapshot: &Snapshot,
    asked: &Asked,
    asking: &Asking,
    asker: &Asker,
    zone: &ServedZone,
    holds: Holds,
    at_apex: bool,
) -> Sections {
    let mut sections = Sections {
        authoritative: true,
        subject: Some(Subject::Records { zone: zone.index }),
        ..Sections::default()
    };
    match asking.kind {
        question::A | question::AAAA => {
            let family = if asking.kind == question::A { Family::V4 } else { Family::V6 };
            let (addresses, ttl, scope) = addresses(snapshot, asked, asker, zone, holds, family);
            sections.scope = scope;
            sections.answers = address_records(&asking.name, &addresses, ttl);
        }
        question::NS if at_apex => name_servers(snapshot, zone, asking, &mut sections),
        question::SOA if at_apex => sections.answers.push(soa_record(zone, asking)),
        question::ANY => {
            let minimal = HINFO::new("RFC8482".to_owned(), String::new());
            let record = Record::from_rdata(asking.name.clone(), ANY_TTL, RData::HINFO(minimal));
            sections.answers.push(record);
        }
        _ => {}
    }
    if sections.answers.is_empty() {
        return nothing(zone, asking, rcode::NO_ERROR);
    }
    sections
}

/// The addresses of an answer, their TTL and the scope that they hold for.
fn addresses(
    snapshot: &Snapshot,
    asked: &Asked,
    asker: &Asker,
    served: &ServedZone,
    holds: Holds,
    family: Family,
) -> (Vec<IpAddr>, u32, u8) {
    let rotation = asker.ticket().rotation_draw();
    let zone = &served.zone;
    match holds {
        Holds::Nothing => (Vec::new(), 0, 0),
        Holds::NameServer(index) => {
            let addresses = &snapshot.servers[index].addresses;
            let candidates = ServerAddresses::candidates(addresses, family);
            (candidates.pick(usize::MAX, rotation), NAME_SERVER_TTL, 0)
        }
        Holds::Balancers => {
            let limit = usize::from(zone.max_addresses);
            let shares = choice::shares(zone, family);
            let draw = asker.ticket().weight_draw();
            if let Some(dc) = choice::choose_data_center(&shares, draw) {
                let candidates = choice::in_data_center(zone, family, dc);
                return (candidates.pick(limit, rotation), zone.ttl, 0);
            }
            let subnet = asked.edns.and_then(|e| e.options).and_then(|o| o.subnet);
            let (order, scope) = respond::locate(snapshot, subnet, asker);
            let orders = snapshot.locations.orders();
            let candidates = choice::by_location(zone, family, &orders[order]);
            let same_for_all =
                orders.iter().all(|o| choice::by_location(zone, family, o) == candidates);
            let scope = if same_for_all || candidates.near.is_empty() { 0 } else { scope };
            (candidates.pick(limit, rotation), zone.ttl, scope)
        }
    }
}

fn address_records(name: &Name, addresses: &[IpAddr], ttl: u32) -> Vec<Record> {
    let record = |address: &IpAddr| {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(*v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
        };
        Record::from_rdata(name.clone(), ttl, data)
    };
    addresses.iter().map(record).collect()
}

/// The name servers, and the addresses of those whose names are ours.
fn name_servers(snapshot: &Snapshot, zone: &ServedZone, asking: &Asking, sections: &mut Sections) {
    for wire_name in &zone.name_servers {
        let Ok(name) = Name::from_bytes(wire_name) else { continue };
        let data = RData::NS(NS(name.clone()));
        sections.answers.push(Record::from_rdata(asking.name.clone(), NAME_SERVER_TTL, data));
        if let Found::Present(_, Holds::NameServer(index)) = snapshot.find(wire_name) {
            let addresses = &snapshot.servers[index].addresses;
            sections.additionals.extend(address_records(&name, addresses, NAME_SERVER_TTL));
        }
    }
}

/// No such name, or nothing of that type, with the SOA record that says how long
/// this may be cached (RFC 2308).
fn nothing(zone: &ServedZone, asking: &Asking, rcode: u16) -> Sections {
    Sections {
        rcode,
        authoritative: true,
        authorities: vec![soa_record(zone, asking)],
        subject: Some(Subject::Nothing { zone: zone.index }),
        ..Sections::default()
    }
}

fn soa_record(served: &ServedZone, asking: &Asking) -> Record {
    let owner = asking.name.trim_to(name::count_labels(&served.apex));
    let read = |wire: &[u8]| Name::from_bytes(wire).unwrap_or_else(|_| Name::root());
    let data = SOA::new(
        read(&served.name_servers[0]),
        read(&served.contact),
        served.zone.serial,
        SOA_REFRESH.cast_signed(),
        SOA_RETRY.cast_signed(),
        SOA_EXPIRE.cast_signed(),
        served.zone.ttl,
    );
    Record::from_rdata(owner, served.zone.ttl, RData::SOA(data))
}

/// A name in wire format. Names that were decoded always encode.
fn wire(name: &Name) -> Vec<u8> {
    name.to_bytes().unwrap_or_else(|_| vec![0])
}

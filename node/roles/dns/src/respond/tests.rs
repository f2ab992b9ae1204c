//! The fast path against its oracle, and each rule of the protocol by example.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinEncodable;
use proptest::prelude::*;

use super::*;
use crate::cookie::CookieSecret;
use crate::locations::Locations;
use crate::slow::Asked;
use crate::zones::{FarTargets, LbTarget, NameServer, Zone, Zones};

fn target(address: &str, dc: &str) -> LbTarget {
    LbTarget { address: address.parse().unwrap(), dc: dc.to_owned() }
}

fn photos() -> Zone {
    let server = |name: &str, addresses: &[&str]| NameServer {
        name: name.to_owned(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    };
    let servers = vec![
        server("ns1.photos.test", &["192.0.2.53", "2001:db8::53"]),
        server("ns2.photos.test", &["198.51.100.53"]),
        server("ns.elsewhere.example", &["203.0.113.53"]),
    ];
    let mut zone = Zone::new("photos.test", servers);
    zone.serial = 7;
    zone.names = ["@", "www", "cdn", "*.preview"].map(str::to_owned).to_vec();
    zone.targets = vec![
        target("192.0.2.1", "east"),
        target("192.0.2.2", "east"),
        target("198.51.100.1", "west"),
        target("2001:db8::1", "east"),
    ];
    zone
}

fn locations() -> Locations {
    let order = |first: &str, then: &str| vec![first.to_owned(), then.to_owned()];
    Locations {
        default: order("east", "west"),
        entries: vec![
            ("10.20.0.0/16".parse().unwrap(), order("west", "east")),
            ("2001:db8:20::/48".parse().unwrap(), order("west", "east")),
        ],
    }
}

fn snapshot(zones: Vec<Zone>) -> Snapshot {
    let zones = Zones { version: 1, zones, locations: locations() };
    let secret = CookieSecret { current: [9; 16], previous: None };
    Snapshot::new(zones, secret, Duration::from_secs(10)).unwrap()
}

fn asker(transport: Transport) -> Asker {
    Asker { address: "203.0.113.9".parse().unwrap(), transport, now: 1_000_000, ticket: 0 }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_options(mut message: Message, options: Vec<EdnsOption>) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    options.into_iter().for_each(|option| edns.options_mut().insert(option));
    message.set_edns(edns);
    message
}

fn ask_over(transport: Transport, snapshot: &Snapshot, query: &Message) -> Message {
    let bytes = respond(snapshot, &query.to_vec().unwrap(), &asker(transport)).unwrap();
    Message::from_vec(&bytes).unwrap()
}

fn ask(snapshot: &Snapshot, query: &Message) -> Message {
    ask_over(Transport::Udp, snapshot, query)
}

fn addresses(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match &record.data {
        RData::A(a) => Some(a.to_string()),
        RData::AAAA(aaaa) => Some(aaaa.to_string()),
        _ => None,
    };
    records.iter().filter_map(text).collect()
}

fn soa_of(answer: &Message) -> (String, u32, u32) {
    assert_eq!(answer.authorities.len(), 1, "{answer}");
    let record = &answer.authorities[0];
    let RData::SOA(soa) = &record.data else { panic!("no SOA: {answer}") };
    (record.name.to_string(), record.ttl, soa.serial)
}

#[test]
fn addresses_come_with_their_ttl_and_the_near_data_center_first() {
    let snapshot = snapshot(vec![photos()]);
    for name in ["photos.test.", "www.photos.test.", "x.preview.photos.test."] {
        let answer = ask(&snapshot, &query(name, RecordType::A));
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative);
        assert!(answer.metadata.recursion_desired && !answer.metadata.recursion_available);
        assert_eq!(addresses(&answer.answers), ["192.0.2.1", "192.0.2.2", "198.51.100.1"]);
        assert!(answer.answers.iter().all(|r| r.ttl == 5 && r.name.to_string() == name));
    }
    let answer = ask(&snapshot, &query("photos.test.", RecordType::AAAA));
    assert_eq!(addresses(&answer.answers), ["2001:db8::1"]);
}

#[test]
fn the_case_of_the_question_comes_back() {
    let snapshot = snapshot(vec![photos()]);
    for kind in [RecordType::A, RecordType::TXT, RecordType::SOA, RecordType::NS] {
        let bytes = query("PhOtOs.TeSt.", kind).to_vec().unwrap();
        let answer = respond(&snapshot, &bytes, &asker(Transport::Udp)).unwrap();
        assert_eq!(answer[12..29], bytes[12..29], "{kind}");
        let answer = Message::from_vec(&answer).unwrap();
        let owner = &answer.answers.iter().chain(&answer.authorities).next().unwrap().name;
        assert!(owner.eq_case(&answer.queries[0].name), "{kind}: {owner}");
    }
}

#[test]
fn other_types_of_a_name_have_no_data_and_unknown_names_do_not_exist() {
    let snapshot = snapshot(vec![photos()]);
    let absent = [
        ("photos.test.", RecordType::TXT, ResponseCode::NoError),
        ("www.photos.test.", RecordType::CAA, ResponseCode::NoError),
        ("www.photos.test.", RecordType::HTTPS, ResponseCode::NoError),
        ("www.photos.test.", RecordType::CNAME, ResponseCode::NoError),
        ("www.photos.test.", RecordType::NS, ResponseCode::NoError),
        ("www.photos.test.", RecordType::SOA, ResponseCode::NoError),
        ("www.photos.test.", RecordType::Unknown(65280), ResponseCode::NoError),
        ("preview.photos.test.", RecordType::A, ResponseCode::NoError),
        ("ns2.photos.test.", RecordType::AAAA, ResponseCode::NoError),
        ("nope.photos.test.", RecordType::A, ResponseCode::NXDomain),
        ("nope.photos.test.", RecordType::ANY, ResponseCode::NXDomain),
        ("a.b.c.www.photos.test.", RecordType::NS, ResponseCode::NXDomain),
    ];
    for (name, kind, code) in absent {
        let answer = ask(&snapshot, &query(name, kind));
        assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
        assert!(answer.metadata.authoritative && answer.answers.is_empty());
        assert_eq!(soa_of(&answer), ("photos.test.".to_owned(), 5, 7), "{name} {kind}");
    }
}

#[test]
fn the_apex_has_its_name_servers_with_addresses_and_its_soa() {
    let snapshot = snapshot(vec![photos()]);
    let answer = ask(&snapshot, &query("photos.test.", RecordType::NS));
    assert_eq!(answer.answers.len(), 3);
    let glue = ["192.0.2.53", "2001:db8::53", "198.51.100.53"];
    assert_eq!(addresses(&answer.additionals), glue, "no addresses for a foreign name");
    let answer = ask(&snapshot, &query("photos.test.", RecordType::SOA));
    let RData::SOA(soa) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!(soa.mname.to_string(), "ns1.photos.test.");
    assert_eq!(soa.rname.to_string(), "hostmaster.photos.test.");
    assert_eq!((soa.serial, soa.minimum), (7, 5));
    let answer = ask(&snapshot, &query("ns1.photos.test.", RecordType::A));
    assert_eq!(addresses(&answer.answers), ["192.0.2.53"]);
}

#[test]
fn foreign_names_classes_and_transfers_are_refused() {
    let snapshot = snapshot(vec![photos()]);
    let refused = [
        query("example.com.", RecordType::A),
        query("example.com.", RecordType::NS),
        query(".", RecordType::NS),
        query("photos.test.", RecordType::AXFR),
        query("photos.test.", RecordType::IXFR),
    ];
    let mut chaos = query("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut any_class = query("photos.test.", RecordType::A);
    any_class.queries[0].set_query_class(DNSClass::ANY);
    for message in refused.iter().chain([&chaos, &any_class]) {
        let answer = ask_over(Transport::Tcp, &snapshot, message);
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{message}");
        assert!(!answer.metadata.authoritative && answer.all_sections().next().is_none());
    }
}

#[test]
fn any_gets_one_small_record() {
    let snapshot = snapshot(vec![photos()]);
    let answer = ask(&snapshot, &query("www.photos.test.", RecordType::ANY));
    assert_eq!(answer.answers.len(), 1);
    let RData::HINFO(hinfo) = &answer.answers[0].data else { panic!("{answer}") };
    assert_eq!((&*hinfo.cpu, &*hinfo.os), (&b"RFC8482"[..], &b""[..]));
}

#[test]
fn malformed_queries_get_a_format_error_and_responses_nothing() {
    let snapshot = snapshot(vec![photos()]);
    let udp = asker(Transport::Udp);
    let code = |bytes: &[u8]| {
        let answer = respond(&snapshot, bytes, &udp)?;
        let message = Message::from_vec(&answer).unwrap();
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(answer[..2], bytes[..2], "the id comes back");
        Some(message.metadata.response_code)
    };
    let good = query("photos.test.", RecordType::A).to_vec().unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(code(&good[..11]), None, "shorter than a header");
    assert_eq!(code(&changed(2, 0x81)), None, "a response");
    assert_eq!(code(&good[..20]), Some(ResponseCode::FormErr), "cut in the name");
    assert_eq!(code(&[&good[..], b"x"].concat()), Some(ResponseCode::FormErr), "trailing bytes");
    assert_eq!(code(&changed(5, 0)), Some(ResponseCode::FormErr), "no question");
    assert_eq!(code(&changed(5, 2)), Some(ResponseCode::FormErr), "one question too few");
    let mut two = query("photos.test.", RecordType::A);
    two.add_query(two.queries[0].clone());
    assert_eq!(code(&two.to_vec().unwrap()), Some(ResponseCode::FormErr), "two questions");
    assert_eq!(code(&changed(12, 0xC0)), Some(ResponseCode::FormErr), "a pointer as name");
    let mut with_answer = query("photos.test.", RecordType::A);
    with_answer.add_answer(Record::from_rdata(
        Name::root(),
        0,
        RData::A(Ipv4Addr::LOCALHOST.into()),
    ));
    assert_eq!(code(&with_answer.to_vec().unwrap()), Some(ResponseCode::FormErr));
    for opcode in [1u8, 2, 4, 5, 6, 15] {
        let answer = respond(&snapshot, &changed(2, opcode << 3), &udp).unwrap();
        assert_eq!(answer[2] >> 3 & 15, opcode, "the opcode comes back");
        assert_eq!(answer[3] & 15, 4, "NOTIMP for opcode {opcode}");
    }
}

#[test]
fn extra_records_in_a_query_do_not_change_its_answer() {
    let snapshot = snapshot(vec![photos()]);
    let mut message = query("www.photos.test.", RecordType::A);
    let record = Record::from_rdata(Name::root(), 0, RData::A(Ipv4Addr::LOCALHOST.into()));
    message.add_additional(record);
    let answer = ask(&snapshot, &message);
    assert_eq!(addresses(&answer.answers), ["192.0.2.1", "192.0.2.2", "198.51.100.1"]);
}

#[test]
fn a_signed_query_gets_notauth_since_we_know_no_key() {
    let snapshot = snapshot(vec![photos()]);
    let mut bytes = query("www.photos.test.", RecordType::A).to_vec().unwrap();
    bytes[11] = 1;
    bytes.extend_from_slice(b"\x01k\0\0\xfa\0\xff\0\0\0\0\0\x19\x0bhmac-sha256\0");
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0, 5, 0, 0, 0x12, 0x34]);
    let answer = respond(&snapshot, &bytes, &asker(Transport::Udp)).unwrap();
    assert!(matches!(answer[3] & 15, 1 | 9), "{answer:?}");
}

#[test]
fn an_unknown_edns_version_gets_badvers_with_ours() {
    let snapshot = snapshot(vec![photos()]);
    let mut message = with_options(query("photos.test.", RecordType::A), Vec::new());
    message.edns.as_mut().unwrap().set_version(1);
    let answer = ask(&snapshot, &message);
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    assert_eq!(answer.edns.as_ref().unwrap().version(), 0);
    assert!(answer.answers.is_empty());
}

#[test]
fn edns_is_answered_with_our_payload_and_the_dnssec_bit() {
    let snapshot = snapshot(vec![photos()]);
    for name in ["photos.test.", "nope.photos.test.", "example.com."] {
        for kind in [RecordType::A, RecordType::NS] {
            let mut message = with_options(query(name, kind), Vec::new());
            message.edns.as_mut().unwrap().set_dnssec_ok(true).set_max_payload(4096);
            let edns = ask(&snapshot, &message).edns.unwrap();
            assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
            assert!(edns.flags().dnssec_ok);
            assert!(ask(&snapshot, &query(name, kind)).edns.is_none(), "only when asked");
        }
    }
}

fn subnet_of(answer: &Message) -> Option<ClientSubnet> {
    match answer.edns.as_ref()?.option(EdnsCode::Subnet)? {
        EdnsOption::Subnet(subnet) => Some(*subnet),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_subnet_decides_the_location_and_comes_back_with_its_scope() {
    let snapshot = snapshot(vec![photos()]);
    let with_subnet = |address: &str, source: u8, name: &str, kind: RecordType| {
        let subnet = ClientSubnet::new(address.parse().unwrap(), source, 0);
        ask(&snapshot, &with_options(query(name, kind), vec![EdnsOption::Subnet(subnet)]))
    };
    let west_first = ["198.51.100.1", "192.0.2.1", "192.0.2.2"];
    let answer = with_subnet("10.20.30.0", 24, "photos.test.", RecordType::A);
    assert_eq!(addresses(&answer.answers), west_first);
    let scope = subnet_of(&answer).unwrap();
    assert_eq!((scope.source_prefix(), scope.scope_prefix()), (24, 16));
    let answer = with_subnet("2001:db8:20::", 56, "photos.test.", RecordType::A);
    assert_eq!(addresses(&answer.answers), west_first);
    assert_eq!(subnet_of(&answer).unwrap().scope_prefix(), 48);
    let answer = with_subnet("10.21.0.0", 16, "photos.test.", RecordType::A);
    assert_eq!(addresses(&answer.answers)[0], "192.0.2.1");
    assert_eq!(subnet_of(&answer).unwrap().scope_prefix(), 16, "its neighbour differs");
    // What does not depend on the location holds everywhere.
    for (name, kind) in [
        ("photos.test.", RecordType::AAAA),
        ("photos.test.", RecordType::TXT),
        ("nope.photos.test.", RecordType::A),
        ("photos.test.", RecordType::NS),
    ] {
        let answer = with_subnet("10.20.30.0", 24, name, kind);
        assert_eq!(subnet_of(&answer).unwrap().scope_prefix(), 0, "{name} {kind}");
    }
    let answer = with_subnet("0.0.0.0", 0, "photos.test.", RecordType::A);
    assert_eq!(subnet_of(&answer).unwrap().scope_prefix(), 0, "the client wants no location");
}

#[test]
fn malformed_options_get_a_format_error_that_still_has_edns() {
    let snapshot = snapshot(vec![photos()]);
    for (code, data) in [
        (10, vec![1; 7]),
        (10, vec![1; 12]),
        (10, vec![1; 41]),
        (8, vec![0, 1, 24, 0, 10, 0]),
        (8, vec![0, 1, 20, 0, 10, 0, 0x0F]),
        (8, vec![0, 9, 0, 0]),
    ] {
        let options = vec![EdnsOption::Unknown(code, data)];
        let answer = ask(&snapshot, &with_options(query("photos.test.", RecordType::A), options));
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr, "option {code}");
        assert!(answer.edns.is_some());
    }
}

#[test]
fn a_cookie_is_made_and_then_accepted() {
    let snapshot = snapshot(vec![photos()]);
    let udp = asker(Transport::Udp);
    let with_cookie = |data: Vec<u8>| {
        let options = vec![EdnsOption::Unknown(10, data)];
        let bytes = with_options(query("photos.test.", RecordType::A), options).to_vec().unwrap();
        let mut out = Vec::new();
        let outcome = respond_into(&snapshot, &bytes, &udp, &mut out).unwrap();
        let answer = Message::from_vec(&out).unwrap();
        let cookie = match answer.edns.unwrap().option(EdnsCode::Cookie) {
            Some(EdnsOption::Unknown(10, cookie)) => cookie.clone(),
            other => panic!("{other:?}"),
        };
        (cookie, outcome.cookie_valid)
    };
    let (first, valid) = with_cookie(vec![1; 8]);
    assert_eq!((first.len(), valid), (24, false));
    assert_eq!(first[..8], [1; 8]);
    assert_eq!(with_cookie(first.clone()), (first.clone(), true));
    let mut forged = first.clone();
    forged[23] ^= 1;
    assert_eq!(with_cookie(forged), (first, false), "a wrong one counts as none");
}

#[test]
fn a_query_for_a_cookie_alone_gets_one() {
    let snapshot = snapshot(vec![photos()]);
    let mut message = Message::new(5, MessageType::Query, OpCode::Query);
    message = with_options(message, vec![EdnsOption::Unknown(10, vec![3; 8])]);
    let answer = ask(&snapshot, &message);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.queries.is_empty());
    assert!(answer.edns.unwrap().option(EdnsCode::Cookie).is_some());
}

#[test]
fn keepalive_is_answered_over_tcp_only() {
    let snapshot = snapshot(vec![photos()]);
    let message =
        with_options(query("photos.test.", RecordType::A), vec![EdnsOption::Unknown(11, vec![])]);
    let keepalive = |transport| {
        let edns = ask_over(transport, &snapshot, &message).edns.unwrap();
        edns.option(EdnsCode::Keepalive).cloned()
    };
    assert_eq!(keepalive(Transport::Tcp), Some(EdnsOption::Unknown(11, vec![0, 100])));
    assert_eq!(keepalive(Transport::Udp), None);
}

#[test]
fn what_does_not_fit_is_truncated_over_udp_and_whole_over_tcp() {
    let mut zone = photos();
    zone.max_addresses = 200;
    zone.targets = (0..100u8).map(|n| target(&format!("192.0.2.{n}"), "east")).collect();
    let snapshot = snapshot(vec![zone]);
    let plain = query("www.photos.test.", RecordType::A);
    let edns = with_options(plain.clone(), vec![EdnsOption::Unknown(10, vec![1; 8])]);
    for message in [&plain, &edns] {
        let answer = ask(&snapshot, message);
        assert!(answer.metadata.truncation && answer.answers.is_empty());
        assert_eq!(answer.edns.is_some(), message.edns.is_some());
        let answer = ask_over(Transport::Tcp, &snapshot, message);
        assert!(!answer.metadata.truncation);
        assert_eq!(answer.answers.len(), 100);
    }
}

#[test]
fn addresses_of_name_servers_are_left_out_before_the_servers_are() {
    let mut zone = photos();
    zone.name_servers = (0..13u8)
        .map(|n| NameServer {
            name: format!("ns-{n}.photos.test"),
            addresses: vec![[192, 0, 2, n].into(), IpAddr::V6(Ipv6Addr::from(u128::from(n)))],
        })
        .collect();
    let snapshot = snapshot(vec![zone]);
    let message = query("photos.test.", RecordType::NS);
    let answer = ask(&snapshot, &message);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (13, 0));
    assert!(!answer.metadata.truncation);
    assert_eq!(ask_over(Transport::Tcp, &snapshot, &message).additionals.len(), 26);
}

#[test]
fn without_a_load_balancer_there_is_no_address_for_as_short_as_the_ttl() {
    let mut zone = photos();
    zone.targets.clear();
    let answer = ask(&snapshot(vec![zone]), &query("photos.test.", RecordType::A));
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert_eq!(soa_of(&answer).1, 5);
}

#[test]
fn shares_decide_the_data_center_of_an_answer() {
    let mut zone = photos();
    zone.weights = [("east".to_owned(), 70), ("west".to_owned(), 30)].into_iter().collect();
    let snapshot = snapshot(vec![zone]);
    let bytes = query("photos.test.", RecordType::A).to_vec().unwrap();
    let mut west = 0;
    for ticket in 0..10_000 {
        let asker = Asker { ticket, ..asker(Transport::Udp) };
        let answer = Message::from_vec(&respond(&snapshot, &bytes, &asker).unwrap()).unwrap();
        match addresses(&answer.answers).as_slice() {
            [one] if one == "198.51.100.1" => west += 1,
            [_, _] => {}
            other => panic!("{other:?}"),
        }
    }
    assert!((2800..=3200).contains(&west), "{west} of 10000 for a share of 30%");
}

fn some_zone() -> impl Strategy<Value = Zone> {
    let target = (any::<bool>(), 0u8..12, 0usize..3).prop_map(|(v4, n, dc)| LbTarget {
        address: if v4 {
            IpAddr::from([192, 0, 2, n])
        } else {
            IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(n)))
        },
        dc: ["east", "west", "south"][dc].to_owned(),
    });
    let weights = prop::collection::vec(0u32..50, 3);
    (
        prop::collection::vec(target, 0..12),
        prop::option::of(weights),
        any::<bool>(),
        1u16..14,
        any::<bool>(),
    )
        .prop_map(|(targets, weights, far, max_addresses, wildcard)| {
            let mut zone = photos();
            zone.targets = targets;
            zone.max_addresses = max_addresses;
            zone.far = if far { FarTargets::Listed } else { FarTargets::Omitted };
            if wildcard {
                zone.names.push("*".to_owned());
            }
            let dcs = ["east", "west", "south"].map(str::to_owned);
            zone.weights = dcs.into_iter().zip(weights.unwrap_or_default()).collect();
            zone
        })
}

fn some_name() -> impl Strategy<Value = Name> {
    let known = prop::sample::select(vec![
        "photos.test.",
        "wWw.photos.test.",
        "CDN.photoS.test.",
        "preview.photos.test.",
        "a.preview.photos.test.",
        "a.b.preview.photos.test.",
        "ns1.photos.test.",
        "ns2.photos.test.",
        "nope.photos.test.",
        "x.www.photos.test.",
        "test.",
        ".",
        "ns.elsewhere.example.",
        "*.photos.test.",
        "x.*.photos.test.",
        "*.preview.photos.test.",
        "*.",
    ]);
    let text = prop_oneof![
        4 => known.prop_map(str::to_owned),
        1 => "[a-zA-Z0-9_-]{1,63}(\\.[a-zA-Z0-9]{1,20}){0,4}\\.photos\\.test\\.",
        1 => "[a-z]{1,20}\\.[a-z]{1,5}\\.",
    ];
    // Labels may hold any bytes, dots included.
    let label = prop::collection::vec(any::<u8>(), 1..=63);
    let binary = prop::collection::vec(label, 0..4).prop_map(|mut labels| {
        labels.extend([b"photos".to_vec(), b"Test".to_vec()]);
        Name::from_labels(labels.iter().map(Vec::as_slice))
    });
    prop_oneof![5 => text.prop_map(Name::from_ascii), 1 => binary]
        .prop_filter_map("the name is too long", Result::ok)
}

fn some_option() -> impl Strategy<Value = EdnsOption> {
    let v4 = (any::<[u8; 2]>(), 0u8..=32).prop_map(|([a, b], length)| {
        let address = IpAddr::from([10, 18 + (a & 3), b, 0]);
        ClientSubnet::new(crate::locations::mask(address, length).unwrap(), length, 0)
    });
    let v6 = (any::<u8>(), 0u8..=128).prop_map(|(a, length)| {
        let address = Ipv6Addr::from(0x2001_0db8_0020 << 80 | u128::from(a) << 72);
        ClientSubnet::new(crate::locations::mask(address.into(), length).unwrap(), length, 0)
    });
    prop_oneof![
        v4.prop_map(EdnsOption::Subnet),
        v6.prop_map(EdnsOption::Subnet),
        prop::collection::vec(any::<u8>(), 8).prop_map(|data| EdnsOption::Unknown(10, data)),
        prop::collection::vec(any::<u8>(), 16..=40).prop_map(|d| EdnsOption::Unknown(10, d)),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|d| EdnsOption::Unknown(10, d)),
        Just(EdnsOption::Unknown(11, Vec::new())),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|data| EdnsOption::Unknown(12, data)),
    ]
}

fn some_query() -> impl Strategy<Value = Message> {
    let kind =
        prop::sample::select(vec![1u16, 28, 2, 6, 16, 5, 257, 65, 255, 43, 252, 64, 0, 4242]);
    let edns =
        prop::option::of((prop::collection::vec(some_option(), 0..4), any::<bool>(), 0u16..5000));
    let class = prop::sample::select(vec![1u16, 1, 1, 1, 3, 255]);
    (some_name(), kind, class, any::<(u16, bool, bool)>(), edns).prop_map(
        |(name, kind, class, (id, rd, cd), edns)| {
            let mut message = Message::new(id, MessageType::Query, OpCode::Query);
            message.metadata.recursion_desired = rd;
            message.metadata.checking_disabled = cd;
            let mut query = Query::query(name, RecordType::from(kind));
            query.set_query_class(DNSClass::from(class));
            message.add_query(query);
            if let Some((options, dnssec_ok, payload)) = edns {
                message = with_options(message, options);
                let edns = message.edns.as_mut().unwrap();
                edns.set_dnssec_ok(dnssec_ok).set_max_payload(payload);
            }
            message
        },
    )
}

/// Everything of an answer that a client sees, the order of addresses included,
/// but not the case of names, which compression decides.
fn seen(bytes: &[u8]) -> (Message, Vec<(String, u32, String)>) {
    let message = Message::from_vec(bytes).expect("the oracle can read the answer");
    let records = message
        .all_sections()
        .map(|record| {
            (
                record.name.to_ascii().to_lowercase(),
                record.ttl,
                record.data.to_string().to_lowercase(),
            )
        })
        .collect();
    (message, records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_paths_read_and_answer_every_query_alike(
        zone in some_zone(),
        message in some_query(),
        address in any::<u16>(),
        ticket in any::<u64>(),
        tcp in any::<bool>(),
    ) {
        let inner = Zone { names: vec!["@".into(), "www".into()], ..photos() };
        let inner = Zone { apex: "eu.photos.test".into(), ..inner };
        let snapshot = snapshot(vec![zone, inner]);
        let [a, b] = address.to_be_bytes();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let address = IpAddr::from([10, 18 + (a & 3), b, 1]);
        let asker = Asker { address, transport, now: 77, ticket };
        let bytes = message.to_vec().unwrap();

        let question = question::parse_question(&bytes).expect("an ordinary question");
        let by_hand = Asked::from_question(&question).unwrap();
        let by_hickory = Asked::decode(&bytes).unwrap();
        prop_assert_eq!(&by_hand, &by_hickory);

        let mut slow_answer = Vec::new();
        let slow_outcome = slow::respond(&snapshot, &by_hickory, &asker, &mut slow_answer);
        let mut fast_answer = Vec::new();
        let outcome = respond_into(&snapshot, &bytes, &asker, &mut fast_answer).unwrap();
        prop_assert_eq!(seen(&fast_answer), seen(&slow_answer));
        prop_assert_eq!(outcome.subject, slow_outcome.subject);
        prop_assert_eq!(outcome.truncated, slow_outcome.truncated);
        prop_assert_eq!(outcome.cookie_valid, slow_outcome.cookie_valid);
        prop_assert!(fast_answer.len() <= limit(question.edns, &asker));
        prop_assert!(fast_answer.starts_with(&bytes[..2]));
        // Names are compressed as by the oracle, which can also point into the
        // first label of the question.
        prop_assert!(fast_answer.len() <= slow_answer.len() + 4);
    }

    #[test]
    fn any_bytes_are_answered_without_a_panic(
        zone in some_zone(),
        message in some_query(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let snapshot = snapshot(vec![zone]);
        let mut bytes = message.to_vec().unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let cut = cut.index(bytes.len() + 1);
        for query in [&bytes[..], &bytes[..cut], &noise[..], &[&bytes[..], &noise[..]].concat()] {
            for transport in [Transport::Udp, Transport::Tcp] {
                if let Some(answer) = respond(&snapshot, query, &asker(transport)) {
                    prop_assert_eq!(answer[2] & 0x80, 0x80);
                    prop_assert!(Message::from_vec(&answer).is_ok());
                }
            }
        }
    }

    #[test]
    fn a_decoded_name_encodes_to_the_same_bytes(message in some_query()) {
        let bytes = message.to_vec().unwrap();
        let question = question::parse_question(&bytes).unwrap();
        prop_assert_eq!(question.name, message.queries[0].name.to_bytes().unwrap());
    }
}

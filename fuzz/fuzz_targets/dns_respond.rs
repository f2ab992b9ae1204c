//! From any query to its answer: what is answered must be a message that hickory
//! reads, that belongs to the query, and that is no longer than allowed.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use rung_dns::{
    Asker, CookieSecret, FarTargets, LbTarget, Locations, NameServer, Snapshot, Transport, Zone,
    Zones, parse_question, respond,
};

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let order = |first: &str, then: &str| vec![first.to_owned(), then.to_owned()];
    let locations = Locations {
        default: order("east", "west"),
        entries: vec![
            ("10.20.0.0/16".parse().expect("a prefix"), order("west", "east")),
            ("2001:db8:20::/48".parse().expect("a prefix"), order("west", "east")),
        ],
    };
    let zones = Zones { version: 1, zones: vec![small(), large()], locations };
    let cookies = CookieSecret { current: [9; 16], previous: Some([8; 16]) };
    Snapshot::new(zones, cookies, Duration::from_secs(10)).expect("zones that can be served")
});

/// A zone as a cluster of two data centers has it.
fn small() -> Zone {
    let server = |name: &str, addresses: &[&str]| NameServer {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
    };
    let servers = vec![
        server("ns1.a.test", &["192.0.2.53", "2001:db8::53"]),
        server("ns.elsewhere.example", &["203.0.113.53"]),
    ];
    let mut zone = Zone::new("a.test", servers);
    zone.names = ["@", "www", "*.p"].map(str::to_owned).to_vec();
    let target = |address: &str, dc: &str| LbTarget {
        address: address.parse().expect("an address"),
        dc: dc.to_owned(),
    };
    zone.targets = vec![
        target("192.0.2.1", "east"),
        target("198.51.100.1", "west"),
        target("2001:db8::1", "east"),
    ];
    zone
}

/// A zone whose answers do not fit into small datagrams.
fn large() -> Zone {
    let servers = (0..20)
        .map(|n| NameServer {
            name: format!("a-name-server-with-a-long-name-{n}.b.test"),
            addresses: (0..4).map(|m| IpAddr::from([192, 0, n, m])).collect(),
        })
        .collect();
    let mut zone = Zone::new("b.test", servers);
    zone.far = FarTargets::Omitted;
    zone.max_addresses = 200;
    zone.weights = [("east".to_owned(), 3), ("west".to_owned(), 1)].into();
    zone.targets = (0..100)
        .map(|n| LbTarget {
            address: IpAddr::from([198, 51, 100, n]),
            dc: if n % 2 == 0 { "east" } else { "west" }.to_owned(),
        })
        .collect();
    zone
}

// The first two bytes choose who asks and how.
fuzz_target!(|input: &[u8]| {
    let [choice, ticket, query @ ..] = input else { return };
    let address: IpAddr = match choice >> 1 & 3 {
        0 => [203, 0, 113, 9].into(),
        1 => [10, 20, 1, 1].into(),
        2 => [0x2001, 0xdb8, 0x20, 0, 0, 0, 0, 1].into(),
        _ => [0xfe80, 0, 0, 0, 0, 0, 0, 1].into(),
    };
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let asker = Asker { address, transport, now: 1_000_000, ticket: u64::from(*ticket) };
    let Some(answer) = respond(&SNAPSHOT, query, &asker) else {
        assert!(query.len() < 12 || query[2] & 0x80 != 0, "a query without an answer");
        return;
    };
    check(query, &answer, transport);
    assert_eq!(respond(&SNAPSHOT, query, &asker), Some(answer), "it depends on nothing else");
});

fn check(query: &[u8], answer: &[u8], transport: Transport) {
    assert!(answer.len() >= 12);
    assert_eq!(answer[..2], query[..2], "the id");
    assert!(answer[2] & 0x80 != 0, "no response");
    assert_eq!(answer[2] & 0x79, query[2] & 0x79, "the opcode and the recursion bit");
    let longest = match transport {
        Transport::Tcp => 65_535,
        Transport::Udp => 1232,
    };
    assert!(answer.len() <= longest, "{} bytes", answer.len());
    let read = Message::from_vec(answer).expect("hickory reads what we answer");
    if let Ok(question) = parse_question(query) {
        let end = 12 + question.name.len() + 4;
        assert_eq!(answer.get(12..end), query.get(12..end), "the question comes back");
        assert_eq!(read.edns.is_some(), question.edns.is_some());
        if transport == Transport::Udp {
            let allowed = question.edns.map_or(512, |edns| usize::from(edns.payload.max(512)));
            assert!(answer.len() <= allowed, "{} bytes of {allowed}", answer.len());
        }
    }
}

//! A whole server on real sockets, asked with messages of hickory-proto.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, RecordType};
use rung_dns::{DnsConfig, DnsError, DnsServer, LbTarget, NameServer, Zone, Zones};
use rung_proto::{Code, Failure};

const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> DnsConfig {
    let mut config = DnsConfig::new("127.0.0.1:0".parse().unwrap());
    config.threads = 2;
    config
}

fn zones(version: u64, targets: &[&str]) -> Zones {
    let server =
        NameServer { name: "ns1.photos.test".to_owned(), addresses: vec![[127, 0, 0, 1].into()] };
    let mut zone = Zone::new("photos.test", vec![server]);
    zone.max_addresses = 200;
    zone.targets = targets
        .iter()
        .map(|a| LbTarget { address: a.parse().unwrap(), dc: "east".to_owned() })
        .collect();
    Zones { version, zones: vec![zone], ..Zones::default() }
}

fn started(config: DnsConfig, targets: &[&str]) -> DnsServer {
    let server = DnsServer::start(config).unwrap();
    server.update(zones(1, targets)).unwrap();
    server
}

fn question(id: u16, name: &str) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn with_cookie(mut message: Message, cookie: &[u8]) -> Message {
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
    message.set_edns(edns);
    message
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).expect("an answer in time");
    Message::from_vec(&buffer[..length]).unwrap()
}

fn ask(socket: &UdpSocket, message: &Message) -> Message {
    socket.send(&message.to_vec().unwrap()).unwrap();
    let answer = receive(socket);
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

fn addresses(answer: &Message) -> Vec<String> {
    let text = |record: &hickory_proto::rr::Record| match &record.data {
        RData::A(a) => a.to_string(),
        other => panic!("not an address: {other}"),
    };
    let mut addresses: Vec<String> = answer.answers.iter().map(text).collect();
    addresses.sort();
    addresses
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer in time");
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// Whether the other side closes the connection without sending anything.
fn is_closed(mut stream: TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn an_update_takes_effect_with_the_next_query() {
    let server = DnsServer::start(config()).unwrap();
    let socket = client(server.local_addr());
    let refused = ask(&socket, &question(1, "photos.test."));
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused, "no zones yet");
    server.update(zones(1, &["192.0.2.1", "192.0.2.2"])).unwrap();
    let both = ["192.0.2.1", "192.0.2.2"];
    assert_eq!(addresses(&ask(&socket, &question(2, "photos.test."))), both);
    server.update(zones(2, &["192.0.2.2"])).unwrap();
    assert_eq!(addresses(&ask(&socket, &question(3, "photos.test."))), ["192.0.2.2"]);
    assert_eq!(server.metrics().zones_version, 2);
}

#[test]
fn zones_that_cannot_be_served_leave_the_former_ones() {
    let server = started(config(), &["192.0.2.1"]);
    let mut bad = zones(2, &["192.0.2.2"]);
    bad.zones[0].name_servers.clear();
    assert!(matches!(server.update(bad), Err(DnsError::Zones(_))));
    let socket = client(server.local_addr());
    assert_eq!(addresses(&ask(&socket, &question(1, "photos.test."))), ["192.0.2.1"]);
    assert_eq!(server.metrics().zones_version, 1);
}

#[test]
fn many_clients_get_their_own_answers() {
    let mut config = config();
    config.limits.rate.per_second = 0;
    let server = started(config, &["192.0.2.1"]);
    let sockets: Vec<UdpSocket> = (0..40).map(|_| client(server.local_addr())).collect();
    for round in 0..20u16 {
        for (index, socket) in sockets.iter().enumerate() {
            let id = round * 40 + index as u16;
            socket.send(&question(id, "www.photos.test.").to_vec().unwrap()).unwrap();
        }
        for (index, socket) in sockets.iter().enumerate() {
            let answer = receive(socket);
            assert_eq!(answer.metadata.id, round * 40 + index as u16);
            assert_eq!(addresses(&answer), ["192.0.2.1"]);
        }
    }
    let metrics = server.metrics();
    assert_eq!((metrics.udp_queries, metrics.answers.no_error, metrics.prepared), (800, 800, 800));
}

#[test]
fn garbage_and_responses_do_not_disturb_the_answers_after_them() {
    let server = started(config(), &["192.0.2.1"]);
    let socket = client(server.local_addr());
    let mut response = question(9, "photos.test.");
    response.metadata.message_type = MessageType::Response;
    for junk in [&[][..], &[1; 5], &response.to_vec().unwrap()] {
        socket.send(junk).unwrap();
    }
    assert_eq!(ask(&socket, &question(10, "photos.test.")).metadata.id, 10);
    socket.send(&[0; 3000]).unwrap();
    assert_eq!(receive(&socket).metadata.response_code, ResponseCode::FormErr);
    assert_eq!(server.metrics().ignored, 3);
}

#[test]
fn queries_in_a_row_on_one_connection_are_answered_in_order() {
    let server = started(config(), &["192.0.2.1"]);
    let mut stream = connect(server.local_addr());
    let all: Vec<u8> = (0..500).flat_map(|id| framed(&question(id, "photos.test."))).collect();
    // Cut at odd places, so that lengths and queries arrive in pieces.
    for piece in all.chunks(77) {
        stream.write_all(piece).unwrap();
    }
    for id in 0..500 {
        let answer = read_framed(&mut stream);
        assert_eq!(answer.metadata.id, id);
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
    }
    assert_eq!(server.metrics().tcp_queries, 500);
}

#[test]
fn what_udp_truncates_tcp_gives_whole() {
    let targets: Vec<String> = (0..150).map(|n| format!("192.0.2.{n}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let server = started(config(), &targets);
    let answer = ask(&client(server.local_addr()), &question(1, "photos.test."));
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut stream = connect(server.local_addr());
    stream.write_all(&framed(&question(2, "photos.test."))).unwrap();
    assert_eq!(read_framed(&mut stream).answers.len(), 150);
    assert_eq!(server.metrics().truncated, 1);
}

#[test]
fn idle_connections_are_closed_also_when_they_send_a_byte_now_and_then() {
    let mut config = config();
    config.limits.tcp_idle = Duration::from_millis(300);
    let server = started(config, &["192.0.2.1"]);
    let begun = Instant::now();
    let idle = connect(server.local_addr());
    let mut slow = connect(server.local_addr());
    wait_until("both are open", || server.metrics().tcp_open == 2);
    // One byte of a query does not count as progress.
    slow.write_all(&[0]).unwrap();
    assert!(is_closed(idle) && is_closed(slow));
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    wait_until("both are counted out", || server.metrics().tcp_open == 0);
}

#[test]
fn a_client_gets_no_more_connections_than_its_limit() {
    let mut config = config();
    config.limits.tcp_per_client = 2;
    let server = started(config, &["192.0.2.1"]);
    let mut kept: Vec<TcpStream> = (0..2).map(|_| connect(server.local_addr())).collect();
    wait_until("two are open", || server.metrics().tcp_open == 2);
    assert!(is_closed(connect(server.local_addr())));
    assert_eq!(server.metrics().tcp_refused, 1);
    kept[0].write_all(&framed(&question(1, "photos.test."))).unwrap();
    assert_eq!(addresses(&read_framed(&mut kept[0])), ["192.0.2.1"]);
    drop(kept.pop());
    wait_until("one is open", || server.metrics().tcp_open == 1);
    let mut again = connect(server.local_addr());
    again.write_all(&framed(&question(2, "photos.test."))).unwrap();
    assert_eq!(read_framed(&mut again).metadata.id, 2);
}

#[test]
fn a_flood_is_limited_but_not_for_clients_with_a_cookie_or_over_tcp() {
    let mut config = config();
    config.limits.rate.per_second = 1;
    config.limits.rate.burst_seconds = 5;
    let server = started(config, &["192.0.2.1"]);
    let socket = client(server.local_addr());
    // A cookie takes one answer of the allowance.
    let first = ask(&socket, &with_cookie(question(1, "photos.test."), &[7; 8]));
    let cookie = match first.edns.unwrap().option(EdnsCode::Cookie) {
        Some(EdnsOption::Unknown(10, cookie)) => cookie.clone(),
        other => panic!("{other:?}"),
    };
    for id in 0..200 {
        socket.send(&question(id, "photos.test.").to_vec().unwrap()).unwrap();
        wait_until("the query is counted", || {
            let metrics = server.metrics();
            metrics.rate_dropped + metrics.answers.no_error == u64::from(id) + 2
        });
    }
    let metrics = server.metrics();
    assert!(metrics.rate_dropped > 80 && metrics.rate_slipped > 80, "{metrics:?}");
    let whole = metrics.answers.no_error - metrics.rate_slipped;
    assert!(whole <= 10, "{whole} whole answers");

    for id in 1000..1050 {
        let other = client(server.local_addr());
        let answer = ask(&other, &with_cookie(question(id, "photos.test."), &cookie));
        assert_eq!(addresses(&answer), ["192.0.2.1"]);
    }
    let mut stream = connect(server.local_addr());
    for id in 0..50 {
        stream.write_all(&framed(&question(id, "photos.test."))).unwrap();
        assert_eq!(addresses(&read_framed(&mut stream)), ["192.0.2.1"]);
    }
}

#[test]
fn on_all_addresses_the_answer_comes_from_the_one_that_was_asked() {
    let mut config = config();
    config.listen = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let server = started(config, &["192.0.2.1"]);
    for host in [[127, 0, 0, 1], [127, 0, 0, 77], [127, 9, 9, 9]] {
        let asked = SocketAddr::new(host.into(), server.local_addr().port());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question(4, "photos.test.").to_vec().unwrap(), asked).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 512]).unwrap();
        assert_eq!(from, asked);
    }
}

#[test]
fn one_socket_for_both_families_answers_both() {
    let mut config = config();
    config.listen = "[::]:0".parse().unwrap();
    let server = started(config, &["192.0.2.1"]);
    let port = server.local_addr().port();
    for (local, host) in [("127.0.0.1:0", "127.0.0.5"), ("[::1]:0", "::1")] {
        let asked = SocketAddr::new(host.parse::<IpAddr>().unwrap(), port);
        let socket = UdpSocket::bind(local).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question(4, "photos.test.").to_vec().unwrap(), asked).unwrap();
        let (_, from) = socket.recv_from(&mut [0; 512]).unwrap();
        assert_eq!(from, asked);
        let mut stream = connect(asked);
        stream.write_all(&framed(&question(5, "photos.test."))).unwrap();
        assert_eq!(read_framed(&mut stream).metadata.id, 5);
    }
}

#[test]
fn a_taken_port_is_an_error_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = DnsConfig::new(taken.local_addr().unwrap());
    let error = DnsServer::start(config).err().expect("the port is taken");
    let failure = Failure::from(error);
    assert_eq!(failure.code, Code::PortTaken);
    let first = started(self::config(), &[]);
    let second = DnsServer::start(DnsConfig::new(first.local_addr()));
    assert!(matches!(second, Err(DnsError::Listen { .. })), "also when a Rung has it");
}

#[test]
fn a_stopped_server_frees_its_port_at_once() {
    let server = started(config(), &["192.0.2.1"]);
    let address = server.local_addr();
    let mut open = connect(address);
    open.write_all(&framed(&question(1, "photos.test."))).unwrap();
    read_framed(&mut open);
    let begun = Instant::now();
    block_on(server.stop());
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    let again = started(DnsConfig::new(address), &["192.0.2.2"]);
    assert_eq!(addresses(&ask(&client(address), &question(2, "photos.test."))), ["192.0.2.2"]);
    block_on(again.stop());
}

//! Encrypted connections: what real clients need, and what hostile ones try.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rung_db::{ServerConfig, ServerTls};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::Client;
use crate::cluster::{Cluster, PASSWORD, PATIENCE, eventually};
use crate::tools;

/// A certificate of its own for loopback, shown by the server from now on.
fn certify(cluster: &Cluster) -> rcgen::CertifiedKey<rcgen::KeyPair> {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let tls = ServerTls::new(vec![made.cert.der().clone()], key).unwrap();
    cluster.nodes[0].server().set_tls(tls);
    made
}

/// One node that listens for others as well.
fn open(change: impl Fn(&mut ServerConfig)) -> Cluster {
    Cluster::start(1, 1, |config| {
        config.listen_private = Some("127.0.0.1:0".parse().unwrap());
        change(config);
    })
}

fn private(cluster: &Cluster) -> SocketAddr {
    cluster.nodes[0].server().private_address().unwrap()
}

fn asking(address: SocketAddr) -> Client {
    let mut client = Client::raw(address);
    client.write(frontend::ssl_request);
    client
}

/// Asks for TLS and is promised it.
fn promised(address: SocketAddr) -> Client {
    let mut client = asking(address);
    let mut answer = [0];
    client.stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"S");
    client
}

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

fn encrypt(stream: TcpStream, certificate: &CertificateDer<'static>, alpn: &[&[u8]]) -> Encrypted {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// What the server says to a startup message, by its kind.
fn begin(stream: &mut impl ReadWrite) -> std::io::Result<u8> {
    let mut out = BytesMut::new();
    frontend::startup_message([("user", "app")], &mut out).unwrap();
    stream.write_all(&out)?;
    stream.flush()?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    Ok(kind[0])
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Everything until the server closes.
fn rest(client: &mut Client) -> Vec<u8> {
    let mut rest = Vec::new();
    // It may also be reset.
    let _ = client.stream.read_to_end(&mut rest);
    rest
}

#[test]
fn psql_is_encrypted_when_it_wants_to_be_and_verifies_who_answers() {
    let cluster = open(|_| {});
    if !tools::is_installed("psql") {
        return;
    }
    let certificate = certify(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("root.crt");
    std::fs::write(&file, certificate.cert.pem()).unwrap();
    let psql = |address: SocketAddr, settings: &str| {
        let url = format!(
            "host=127.0.0.1 port={} sslrootcert={} {settings}",
            address.port(),
            file.display()
        );
        let mut psql = tools::command(&cluster, "psql");
        psql.args(["-X", "-Atc", "SELECT 1 + 1", &url]).output().unwrap()
    };
    let (local, private) = (cluster.address(), private(&cluster));
    for (address, settings) in [
        (local, "sslmode=disable"),
        (local, "sslmode=prefer"),
        (local, "sslmode=verify-full channel_binding=require"),
        (private, "sslmode=require"),
        (private, "sslmode=verify-full channel_binding=require"),
        (private, "sslmode=require channel_binding=disable ssl_max_protocol_version=TLSv1.2"),
    ] {
        let output = psql(address, settings);
        assert_eq!(tools::text(&output).trim(), "2", "{settings}");
    }
    let refused = psql(private, "sslmode=disable");
    let said = tools::text(&refused);
    assert!(!refused.status.success() && said.contains("without encryption"), "{said}");
    // Somebody else's certificate is noticed, and the server's next one is shown.
    certify(&cluster);
    let said = tools::text(&psql(private, "sslmode=verify-full"));
    assert!(said.contains("certificate verify failed"), "{said}");
}

#[test]
fn nobody_speaks_in_the_clear_with_the_address_for_others() {
    let cluster = open(|_| {});
    // Not even before there is a certificate.
    for certified in [false, true] {
        if certified {
            certify(&cluster);
        }
        let refused = Client::connect(private(&cluster), "app", PASSWORD, &[]).err().unwrap();
        assert_eq!(refused, "28000");
    }
    cluster.client();
}

#[test]
fn tls_without_asking_for_it_must_be_meant_for_this_protocol() {
    let cluster = open(|_| {});
    let certificate = certify(&cluster);
    let connect = |alpn: &[&[u8]]| {
        let stream = Client::raw(private(&cluster)).stream;
        encrypt(stream, certificate.cert.der(), alpn)
    };
    assert_eq!(begin(&mut connect(&[b"postgresql"])).unwrap(), b'R');
    assert!(begin(&mut connect(&[])).is_err());
    assert!(begin(&mut connect(&[b"http/1.1"])).is_err());
}

#[test]
fn bytes_ahead_of_the_handshake_are_never_taken_for_encrypted_ones() {
    let cluster = open(|_| {});
    certify(&cluster);
    let mut bystander = cluster.client();
    for address in [cluster.address(), private(&cluster)] {
        let mut startup = BytesMut::new();
        frontend::ssl_request(&mut startup);
        frontend::startup_message([("user", "app")], &mut startup).unwrap();
        let mut client = Client::raw(address);
        client.send(&startup);
        assert_eq!(rest(&mut client), b"", "not even TLS is promised");
        // Sent after the promise they are no handshake.
        let mut client = promised(address);
        client.send(&startup[8..]);
        let said = rest(&mut client);
        // An alert of TLS at most.
        assert!(said.is_empty() || said[0] == 0x15, "{said:?}");
    }
    assert_eq!(bystander.value("SELECT 1"), "1");
}

#[test]
fn asking_for_tls_within_tls_ends_the_connection() {
    let cluster = open(|_| {});
    let certificate = certify(&cluster);
    let client = promised(private(&cluster));
    let mut stream = encrypt(client.stream, certificate.cert.der(), &[]);
    let mut out = BytesMut::new();
    frontend::ssl_request(&mut out);
    stream.write_all(&out).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    assert_eq!(said, b"");
}

#[test]
fn a_handshake_that_does_not_end_is_given_up() {
    let cluster = open(|config| config.limits.startup = Duration::from_millis(300));
    certify(&cluster);
    // A ClientHello of 512 bytes, of which a few come.
    for beginning in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = promised(private(&cluster));
        client.send(beginning);
        assert!(rest(&mut client).len() < 64);
    }
    let mut silent = Client::raw(private(&cluster));
    assert_eq!(rest(&mut silent), b"");
}

#[test]
fn strangers_who_dawdle_keep_nobody_out() {
    let cluster = open(|config| config.limits.strangers = 3);
    let certificate = certify(&cluster);
    let mut strangers: Vec<Client> = (0..3).map(|_| promised(private(&cluster))).collect();
    // Programs on the machine do not notice.
    assert_eq!(cluster.client().value("SELECT 1"), "1");
    let client = promised(private(&cluster));
    let mut stream = encrypt(client.stream, certificate.cert.der(), &[]);
    assert_eq!(begin(&mut stream).unwrap(), b'R');
    assert_eq!(rest(&mut strangers[0]), b"", "the oldest one had to go");
    let refused = || cluster.nodes[0].server().statistics().counters().connections_refused;
    eventually("it is counted", || refused() == 1);
    strangers[2].stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let still = strangers[2].stream.read(&mut [0]).unwrap_err();
    assert_eq!(still.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let cluster = open(|_| {});
    let first = certify(&cluster);
    let client = promised(private(&cluster));
    let mut old = encrypt(client.stream, first.cert.der(), &[]);
    assert_eq!(begin(&mut old).unwrap(), b'R');
    let second = certify(&cluster);
    let seen = |certificate: &CertificateDer<'static>| {
        let client = promised(private(&cluster));
        begin(&mut encrypt(client.stream, certificate, &[]))
    };
    assert_eq!(seen(second.cert.der()).unwrap(), b'R');
    assert!(seen(first.cert.der()).is_err());
    // The old one goes on with its exchange: a wrong password is told.
    let mut out = BytesMut::new();
    frontend::sasl_initial_response("SCRAM-SHA-256", b"junk", &mut out).unwrap();
    old.write_all(&out).unwrap();
    let mut said = Vec::new();
    let _ = old.read_to_end(&mut said);
    assert!(String::from_utf8_lossy(&said).contains("malformed SCRAM"), "{said:?}");
}

#[test]
fn a_statement_is_cancelled_through_an_encrypted_connection() {
    let cluster = open(|_| {});
    let certificate = certify(&cluster);
    let mut client = cluster.client();
    let (process, secret) = client.key;
    let endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT \
                   count(*) FROM r";
    client.write(|out| frontend::query(endless, out).unwrap());
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // It may have to be asked again, since it may come before the statement.
    eventually("it is cancelled", || {
        let stream = promised(cluster.address()).stream;
        let mut stream = encrypt(stream, certificate.cert.der(), &[]);
        let mut out = BytesMut::new();
        frontend::cancel_request(process, secret, &mut out);
        stream.write_all(&out).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        client.stream.peek(&mut [0]).is_ok()
    });
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.until_ready()[0].state(), "57014");
}

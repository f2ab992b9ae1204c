//! Requests from balancers on other nodes, over QUIC streams.

use std::sync::Arc;
use std::time::Duration;

use bench::{Bench, eventually, policy, session, split_answer};
use bytes::Bytes;
use quinn::{ReadError, RecvStream, SendStream};
use rung_proto::InstanceId;
use rung_proto::soft::InstanceState;
use rung_transport::MeshStream;
use rung_web::WebRole;
use rung_web::relay::{REFUSED, UNREACHABLE, stream_header};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::bench;

/// A balancer's connection to the node of the role. A stream starts with the
/// length of the header and the header, as the mesh would carry it.
struct Balancer {
    connection: quinn::Connection,
    _endpoints: [quinn::Endpoint; 2],
}

impl Balancer {
    async fn connect(role: &WebRole) -> Balancer {
        let key = rcgen::generate_simple_self_signed(vec!["node".into()]).unwrap();
        let certificate = CertificateDer::from(key.cert.der().to_vec());
        let private =
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
        let config =
            quinn::ServerConfig::with_single_cert(vec![certificate.clone()], private).unwrap();
        let server = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        client.set_default_client_config(
            quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap(),
        );
        let address = server.local_addr().unwrap();
        let (accepting, role) = (server.clone(), role.clone());
        tokio::spawn(async move {
            let connection = accepting.accept().await.unwrap().await.unwrap();
            while let Ok((send, mut recv)) = connection.accept_bi().await {
                let mut header = vec![0; 1];
                recv.read_exact(&mut header).await.unwrap();
                let mut header = vec![0; header[0].into()];
                recv.read_exact(&mut header).await.unwrap();
                role.serve_stream(&Bytes::from(header), MeshStream { send, recv });
            }
        });
        let connection = client.connect(address, "node").unwrap().await.unwrap();
        Balancer { connection, _endpoints: [server, client] }
    }

    async fn open(&self, header: &[u8]) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(&[u8::try_from(header.len()).unwrap()]).await.unwrap();
        send.write_all(header).await.unwrap();
        (send, recv)
    }
}

async fn ask(send: &mut SendStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n");
    send.write_all(request.as_bytes()).await.unwrap();
}

/// Reads one answer of at most a few bytes with a length.
async fn answer(recv: &mut RecvStream) -> Result<(u16, String), ReadError> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let length = text.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next());
        let length = length.and_then(|digits| digits.parse::<usize>().ok());
        let (status, body) = split_answer(&text);
        if length.is_some_and(|length| text.contains("\r\n\r\n") && body.len() >= length) {
            return Ok((status, body));
        }
        match recv.read_chunk(1000, true).await? {
            Some(chunk) => bytes.extend_from_slice(&chunk.bytes),
            None => return Ok((status, body)),
        }
    }
}

fn reset_code(result: Result<(u16, String), ReadError>) -> Option<u64> {
    match result {
        Err(ReadError::Reset(code)) => Some(code.into_inner()),
        other => panic!("expected a reset, got {other:?}"),
    }
}

#[tokio::test]
async fn one_stream_carries_many_requests() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    bench.healthy(1).await;
    let balancer = Balancer::connect(&bench.role).await;
    let (mut send, mut recv) = balancer.open(&stream_header(InstanceId(1), false)).await;
    for number in 1..20 {
        ask(&mut send, "/served").await;
        assert_eq!(answer(&mut recv).await.unwrap(), (200, number.to_string()));
    }
    assert_eq!(bench.role.metrics().streams_accepted, 1);
    assert_eq!(bench.role.metrics().streams_open, 1);
    send.finish().unwrap();
    assert_eq!(recv.read_chunk(1000, true).await.unwrap(), None);
    eventually("closed", || bench.role.metrics().streams_open == 0).await;
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn an_instance_that_is_not_here_is_refused() {
    let bench = Bench::start(policy()).await;
    let balancer = Balancer::connect(&bench.role).await;
    for header in [stream_header(InstanceId(9), false).as_slice(), b"x", &[0; 12]] {
        let (_send, mut recv) = balancer.open(header).await;
        assert_eq!(reset_code(answer(&mut recv).await), Some(REFUSED.into()));
    }
    assert_eq!(bench.role.metrics().streams_refused, 3);
}

#[tokio::test]
async fn an_instance_that_accepts_nothing_is_told_apart() {
    let slow = rung_web::Policy { health_interval: Duration::from_secs(600), ..policy() };
    let bench = Bench::start(slow).await;
    // It listens for two checks, then closes its listener and stays alive.
    let code = "import os,socket,time\n\
        s=socket.socket(); s.bind((os.environ['HOST'],int(os.environ['PORT']))); s.listen()\n\
        s.accept(); s.accept(); time.sleep(0.3)\n\
        s.close()\nopen('closed','w').close()\ntime.sleep(600)\n";
    let mut spec = bench.spec_of(1, "cd $TMPDIR && exec python3 -c \"$CODE\"", &[], "");
    spec.manifest.web.health = None;
    spec.env.insert("CODE".into(), code.into());
    bench.reconcile(&[&spec]);
    let (_, address) = bench.healthy(1).await;
    eventually("closed", || std::net::TcpStream::connect(address).is_err()).await;
    let balancer = Balancer::connect(&bench.role).await;
    let (_send, mut recv) = balancer.open(&stream_header(InstanceId(1), false)).await;
    assert_eq!(reset_code(answer(&mut recv).await), Some(UNREACHABLE.into()));
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_drain_finishes_what_has_begun_and_refuses_what_has_not() {
    let bench = Bench::start(policy()).await;
    let spec = bench.spec(1, &[]);
    bench.reconcile(&[&spec]);
    let (status, _) = bench.healthy(1).await;
    let balancer = Balancer::connect(&bench.role).await;
    let header = stream_header(InstanceId(1), false);

    // A pooled stream with a finished request, one with a request in progress,
    // and one that carried nothing yet.
    let (mut pooled_send, mut pooled_recv) = balancer.open(&header).await;
    ask(&mut pooled_send, "/served").await;
    assert_eq!(answer(&mut pooled_recv).await.unwrap(), (200, "1".into()));
    let (mut busy_send, mut busy_recv) = balancer.open(&header).await;
    let before = bench.role.metrics().bytes_to_instances;
    ask(&mut busy_send, "/slow?s=1.0").await;
    let (_unused_send, mut unused_recv) = balancer.open(&header).await;
    eventually("in progress", || bench.role.metrics().bytes_to_instances > before).await;
    eventually("all there", || bench.role.metrics().streams_open == 3).await;

    bench.reconcile(&[]);
    bench.until("draining", |all| all[0].state == InstanceState::Draining).await;
    assert_eq!(reset_code(answer(&mut unused_recv).await), Some(REFUSED.into()));
    let forwarded = bench.role.metrics().bytes_to_instances;
    ask(&mut pooled_send, "/served").await;
    assert_eq!(reset_code(answer(&mut pooled_recv).await), Some(REFUSED.into()));
    assert_eq!(bench.role.metrics().bytes_to_instances, forwarded);
    let (_late_send, mut late_recv) = balancer.open(&header).await;
    assert_eq!(reset_code(answer(&mut late_recv).await), Some(REFUSED.into()));

    assert_eq!(answer(&mut busy_recv).await.unwrap(), (200, "slow".into()));
    // The stream is still open, so the instance waits for it.
    assert_eq!(session(status.pid.unwrap()), 1);
    busy_send.finish().unwrap();
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn an_upgraded_stream_goes_on_while_its_instance_drains() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    bench.healthy(1).await;
    let balancer = Balancer::connect(&bench.role).await;
    let (mut send, mut recv) = balancer.open(&stream_header(InstanceId(1), true)).await;
    ask(&mut send, "/upgrade").await;
    let head = recv.read_chunk(1000, true).await.unwrap().unwrap();
    assert!(head.bytes.starts_with(b"HTTP/1.1 101"), "{head:?}");
    bench.reconcile(&[]);
    bench.until("draining", |all| all[0].state == InstanceState::Draining).await;
    send.write_all(b"still here").await.unwrap();
    let echoed = recv.read_chunk(1000, true).await.unwrap().unwrap();
    assert_eq!(&echoed.bytes[..], b"still here");
    send.finish().unwrap();
    assert_eq!(recv.read_chunk(1000, true).await.unwrap(), None);
    bench.until("forgotten", Vec::is_empty).await;
}

#[tokio::test]
async fn a_balancer_that_gives_up_takes_the_connection_with_it() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    bench.healthy(1).await;
    let balancer = Balancer::connect(&bench.role).await;
    let (mut send, recv) = balancer.open(&stream_header(InstanceId(1), false)).await;
    ask(&mut send, "/slow?s=600").await;
    eventually("begun", || bench.role.metrics().bytes_to_instances > 0).await;
    send.reset(1u32.into()).unwrap();
    drop(recv);
    eventually("given up", || bench.role.metrics().streams_open == 0).await;
    bench.role.stop(Duration::from_secs(30)).await;
}

#[tokio::test]
async fn a_crash_ends_the_streams_of_its_instance() {
    let bench = Bench::start(policy()).await;
    bench.reconcile(&[&bench.spec(1, &[])]);
    bench.healthy(1).await;
    let balancer = Balancer::connect(&bench.role).await;
    let header = stream_header(InstanceId(1), false);
    let (mut send, mut recv) = balancer.open(&header).await;
    ask(&mut send, "/slow?s=600").await;
    eventually("begun", || bench.role.metrics().bytes_to_instances > 0).await;
    let (mut other, _other_recv) = balancer.open(&header).await;
    ask(&mut other, "/crash").await;
    // Either an early end or a reset, never a complete answer.
    if let Ok((status, _)) = answer(&mut recv).await {
        assert_eq!(status, 0);
    }
    bench.role.stop(Duration::from_secs(30)).await;
}

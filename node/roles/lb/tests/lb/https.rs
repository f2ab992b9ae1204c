//! TLS, server names, and HTTP/2 by the h2 crate as client.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response, StatusCode};
use rung_lb::{AppRoute, Balancer, Certificate, LbConfig, RoutingTable};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::*;

fn https_config() -> LbConfig {
    LbConfig { https: Some("127.0.0.1:0".parse().unwrap()), ..config() }
}

/// A self-signed certificate for `domain`, and the root that trusts it.
fn certificate(domain: &str) -> Certificate {
    let made = rcgen::generate_simple_self_signed(vec![domain.to_owned()]).unwrap();
    Certificate {
        domains: vec![domain.to_owned()],
        chain: vec![made.cert.der().clone()],
        key: PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
    }
}

struct Secure {
    balancer: Balancer,
    roots: rustls::RootCertStore,
}

async fn secure(table: RoutingTable, domains: &[&str]) -> Secure {
    let balancer = Balancer::start(https_config(), None).unwrap();
    let certificates: Vec<_> = domains.iter().map(|domain| certificate(domain)).collect();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.chain[0].clone()).unwrap();
    }
    balancer.set_certificates(certificates).unwrap();
    balancer.update(table).await;
    Secure { balancer, roots }
}

impl Secure {
    async fn connect(&self, name: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.balancer.https_address().unwrap()).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    async fn http2(&self, name: &str) -> SendRequest<Bytes> {
        let stream = self.connect(name, b"h2").await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        send
    }
}

fn request(method: Method, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://shop.test{path}")).body(()).unwrap()
}

async fn body(response: Response<h2::RecvStream>) -> (StatusCode, Vec<u8>) {
    let status = response.status();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = within(stream.data()).await {
        let data = data.unwrap();
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    (status, body)
}

async fn get(send: &mut SendRequest<Bytes>, path: &str) -> (StatusCode, Vec<u8>) {
    let (response, _) = send.send_request(request(Method::GET, path), true).unwrap();
    body(within(response).await.unwrap()).await
}

#[tokio::test]
async fn http1_over_tls_says_https_to_the_instance() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            let https =
                head.contains("x-forwarded-proto: https\r\n") && head.contains(";proto=https;");
            let text = if https { "https" } else { "plain" };
            upstream
                .send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}").as_bytes())
                .await;
        }
    })
    .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let stream = secure.connect("shop.test", b"http/1.1").await;
    let mut client = Client { stream, buffer: Vec::new() };
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(client.response().await.unwrap().text(), "https");
    }
}

#[tokio::test]
async fn each_name_has_its_certificate_and_a_connection_serves_its_own_app_only() {
    let (shop, blog) = (Instance::answering("shop").await, Instance::answering("blog").await);
    let apps = vec![
        AppRoute::new(
            "shop",
            vec!["shop.test".into(), "www.shop.test".into()],
            vec![local(1, shop.address)],
        ),
        AppRoute::new("blog", vec!["blog.test".into()], vec![local(2, blog.address)]),
    ];
    let table = RoutingTable { version: 1, apps };
    let secure = secure(table, &["shop.test", "blog.test"]).await;
    // The handshakes verify the names.
    let stream = secure.connect("blog.test", b"http/1.1").await;
    let mut client = Client { stream, buffer: Vec::new() };
    client.send("GET / HTTP/1.1\r\nHost: blog.test\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "blog");
    client.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().status, 421);
    let stream = secure.connect("shop.test", b"http/1.1").await;
    let mut client = Client { stream, buffer: Vec::new() };
    client.send("GET / HTTP/1.1\r\nHost: www.shop.test\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().text(), "shop");
}

#[tokio::test]
async fn http2_requests_become_http1_and_run_side_by_side() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            let lower = head.to_ascii_lowercase();
            assert!(lower.starts_with("get /"), "{head}");
            assert!(lower.contains("\r\nhost: shop.test\r\n"), "{head}");
            assert!(lower.contains("\r\ncookie: a=1; b=2\r\n"), "{head}");
            assert!(!lower.contains("\r\nte:") && !lower.contains("\r\nconnection:"), "{head}");
            let path = head.split(' ').nth(1).unwrap();
            let response = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Kept: 1\r\n\r\n{path}",
                path.len()
            );
            upstream.send(response.as_bytes()).await;
        }
    })
    .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let send = secure.http2("shop.test").await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..50 {
        let mut send = send.clone();
        running.spawn(async move {
            let request = Request::builder()
                .uri(format!("https://shop.test/{number}"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (response, _) = send.send_request(request, true).unwrap();
            let response = within(response).await.unwrap();
            assert!(response.headers().get("x-hop").is_none());
            assert!(response.headers().get("connection").is_none());
            assert_eq!(response.headers()["x-kept"], "1");
            assert_eq!(response.headers()["x-request-id"].len(), 32);
            assert_eq!(body(response).await.1, format!("/{number}").into_bytes());
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn http2_bodies_pass_both_ways_with_flow_control() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
            let raw = upstream.read_until(b"0\r\n\r\n").await;
            let data = rung_lb::body::decode_body(&raw, rung_lb::head::BodyLength::Chunked);
            let data = data.unwrap().unwrap().0;
            upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for piece in data.chunks(50_000) {
                upstream.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
                upstream.send(piece).await;
                upstream.send(b"\r\n").await;
            }
            upstream.send(b"0\r\n\r\n").await;
        }
    })
    .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let mut send = secure.http2("shop.test").await;
    let data = vec![b'x'; 2_000_000];
    for _ in 0..2 {
        let (response, mut stream) = send.send_request(request(Method::POST, "/"), false).unwrap();
        let mut left = Bytes::from(data.clone());
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let capacity = within(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await;
            let piece = left.split_to(capacity.unwrap().unwrap().min(left.len()));
            stream.send_data(piece, left.is_empty()).unwrap();
        }
        let (status, back) = body(within(response).await.unwrap()).await;
        assert_eq!((status, back.len()), (StatusCode::OK, data.len()));
        assert!(back == data);
    }
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn http2_requests_that_break_the_rules_do_not_reach_the_instance() {
    let instance = Instance::answering("ok").await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let mut send = secure.http2("shop.test").await;
    let ask = async |send: &mut SendRequest<Bytes>, request: Request<()>| {
        let (response, _) = send.send_request(request, true).unwrap();
        within(response).await.map(|response| response.status())
    };
    let connect = Request::builder().method(Method::CONNECT).uri("shop.test:443").body(()).unwrap();
    assert_eq!(ask(&mut send, connect).await.unwrap(), StatusCode::METHOD_NOT_ALLOWED);
    let two_hosts =
        Request::builder().uri("https://shop.test/").header("host", "b").body(()).unwrap();
    assert_eq!(ask(&mut send, two_hosts).await.unwrap(), StatusCode::BAD_REQUEST);
    let long = request(Method::GET, &format!("/{}", "x".repeat(9000)));
    assert_eq!(ask(&mut send, long).await.unwrap(), StatusCode::URI_TOO_LONG);
    let chunked = Request::builder()
        .uri("https://shop.test/")
        .header("transfer-encoding", "chunked")
        .body(())
        .unwrap();
    // Our own client may refuse to send it, too.
    if let Ok((response, _)) = send.send_request(chunked, true) {
        assert!(within(response).await.is_err());
    }
    let short = Request::builder()
        .method(Method::PUT)
        .uri("https://shop.test/")
        .header("content-length", "10")
        .body(())
        .unwrap();
    let mut send = secure.http2("shop.test").await;
    let (response, mut stream) = send.send_request(short, false).unwrap();
    stream.send_data(Bytes::from_static(b"short"), true).unwrap();
    let refused = within(response).await;
    assert!(refused.is_err() || refused.unwrap().status() == StatusCode::BAD_REQUEST);
    let mut send = secure.http2("shop.test").await;
    assert_eq!(get(&mut send, "/").await, (StatusCode::OK, b"ok".to_vec()));
}

#[tokio::test]
async fn a_stream_that_its_client_resets_lets_go_of_the_instance() {
    let instance =
        Instance::start(
            |mut upstream| async move { while upstream.read_head().await.is_some() {} },
        )
        .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let mut send = secure.http2("shop.test").await;
    let (_response, mut stream) = send.send_request(request(Method::GET, "/"), true).unwrap();
    let in_flight = || secure.balancer.in_flight(rung_proto::InstanceId(1));
    eventually("it is at the instance", || in_flight() == 1).await;
    stream.send_reset(h2::Reason::CANCEL);
    eventually("it was taken back", || in_flight() == 0).await;
}

#[tokio::test]
async fn a_client_that_resets_stream_after_stream_is_cut_off() {
    let instance =
        Instance::start(
            |mut upstream| async move { while upstream.read_head().await.is_some() {} },
        )
        .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let stream = secure.connect("shop.test", b"h2").await;
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..5_000 {
        let Ok(ready) = within(send.clone().ready()).await else { break };
        send = ready;
        let Ok((_, mut stream)) = send.send_request(request(Method::GET, "/"), true) else { break };
        // The request goes out, and so does the reset.
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    assert!(within(send.clone().ready()).await.is_err(), "the connection goes on");
    // Its own writes may fail before it reads why.
    within(connection).await.unwrap().unwrap_err();
    eventually("it is gone", || secure.balancer.metrics().connections == 0).await;
}

#[tokio::test]
async fn so_is_one_that_waits_for_each_request_to_be_taken_up() {
    let instance =
        Instance::start(
            |mut upstream| async move { while upstream.read_head().await.is_some() {} },
        )
        .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let mut send = secure.http2("shop.test").await;
    let in_flight = || secure.balancer.in_flight(rung_proto::InstanceId(1));
    let mut given_up = 0;
    while let Ok(ready) = within(send.clone().ready()).await {
        send = ready;
        let Ok((_, mut stream)) = send.send_request(request(Method::GET, "/"), true) else { break };
        while in_flight() == 0 && secure.balancer.metrics().bad_requests == 0 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(h2::Reason::CANCEL);
        while in_flight() > 0 {
            tokio::task::yield_now().await;
        }
        if secure.balancer.metrics().bad_requests > 0 {
            break;
        }
        given_up += 1;
        assert!(given_up < 2_000, "it may go on for ever");
    }
    assert!(given_up >= 200, "cut off after {given_up}");
    eventually("it is gone", || secure.balancer.metrics().connections == 0).await;
}

#[tokio::test]
async fn a_cut_off_response_resets_the_stream_only() {
    let instance = Instance::start(|mut upstream| async move {
        if upstream.read_head().await.is_some_and(|head| head.starts_with("GET /cut")) {
            upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        } else {
            upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let secure = secure(one_app(&[instance.address]), &["shop.test"]).await;
    let mut send = secure.http2("shop.test").await;
    let (response, _) = send.send_request(request(Method::GET, "/cut"), true).unwrap();
    // The reset may overtake the head.
    let broken = match within(response).await {
        Err(_) => true,
        Ok(response) => {
            let mut stream = response.into_body();
            loop {
                match within(stream.data()).await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => break true,
                    None => break false,
                }
            }
        }
    };
    assert!(broken);
    assert_eq!(get(&mut send, "/").await.0, StatusCode::OK);
}

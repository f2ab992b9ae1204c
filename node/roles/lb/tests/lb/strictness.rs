//! What is ambiguous or broken never reaches the other side.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use crate::harness::*;

/// Requests that another parser may read differently: each is answered with the
/// status and then the connection is closed.
const VECTORS: &[(&str, u16)] = &[
    // Two lengths (CL.CL).
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nabcde", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nabcde", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    // Length and chunks (CL.TE and TE.CL).
    (
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    // Disguised codings (TE.TE).
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    (
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        400,
    ),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    // Lines.
    ("GET / HTTP/1.1\nHost: a\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX y: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    ("GET /\r\nHost: a\r\n\r\n", 400),
    ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 505),
    ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ("GET / http/1.1\r\nHost: a\r\n\r\n", 505),
    ("\x16\x03\x01\x02\x00\x01", 400),
    // Host.
    ("GET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n", 400),
    // Targets.
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
    // Bodies where there must be none, and expectations.
    ("TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: \"close\"\r\n\r\n", 400),
];

#[tokio::test]
async fn nothing_ambiguous_is_forwarded() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let instance = Instance::start(move |mut upstream| {
        let heads = heads.clone();
        async move {
            while let Some(head) = upstream.read_head().await {
                heads.lock().unwrap().push(head);
                upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    for (vector, status) in VECTORS {
        let mut client = Client::connect(&balancer).await;
        // What follows would be the smuggled request.
        client.send(vector).await;
        client.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let response = client.response().await.unwrap_or_else(|| panic!("{vector:?}"));
        assert_eq!(response.status, *status, "{vector:?}: {}", response.text());
        assert_eq!(response.header("connection"), Some("close"), "{vector:?}");
        assert!(client.is_closed().await, "{vector:?}");
    }
    assert_eq!(*seen.lock().unwrap(), Vec::<String>::new());
    assert_eq!(balancer.metrics().bad_requests, VECTORS.len() as u64);
}

#[tokio::test]
async fn a_broken_chunked_body_is_refused_and_the_instance_sees_its_request_break() {
    let complete = Arc::new(AtomicUsize::new(0));
    let counter = complete.clone();
    let instance = Instance::start(move |mut upstream| {
        let counter = counter.clone();
        async move {
            while upstream.read_head().await.is_some() {
                if upstream.read_until(b"0\r\n\r\n").await.ends_with(b"0\r\n\r\n") {
                    counter.fetch_add(1, SeqCst);
                    upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                }
            }
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        "5\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n",
        "3;a=\x01\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
        "\r\n0\r\n\r\n",
    ] {
        let mut client = Client::connect(&balancer).await;
        client.send(format!("{head}{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, 400, "{body:?}");
        assert!(client.is_closed().await, "{body:?}");
    }
    assert_eq!(complete.load(SeqCst), 0);
    let mut client = Client::connect(&balancer).await;
    client.send(format!("{head}3;x=\"y\"\r\nabc\r\n0\r\nTrailer: dropped\r\n\r\n")).await;
    assert_eq!(client.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_response_that_breaks_http_becomes_a_502_and_its_connection_is_not_used_again() {
    const BROKEN: &[&str] = &[
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200",
    ];
    let instance = Instance::start(|mut upstream| async move {
        if let Some(head) = upstream.read_head().await {
            let number: usize = head[5..].split(' ').next().unwrap().parse().unwrap();
            upstream.send(BROKEN[number].as_bytes()).await;
        }
    })
    .await;
    let mut config = config();
    config.health.bad_responses = u32::MAX;
    let balancer = balancer(config, &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for (number, broken) in BROKEN.iter().enumerate() {
        let response = client.get(&format!("/{number}")).await;
        assert_eq!(response.status, 502, "{broken:?}");
    }
    assert_eq!(instance.connections(), BROKEN.len());
}

#[tokio::test]
async fn bytes_behind_a_response_are_not_taken_for_the_next_one() {
    let instance = Instance::start(|mut upstream| async move {
        while upstream.read_head().await.is_some() {
            upstream
                .send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
                .await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(instance.connections(), 3);
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let instance = Instance::answering("x").await;
    let balancer = balancer(config(), &[instance.address]).await;
    let many: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(9000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "v".repeat(33_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "v".repeat(200_000)), 431),
    ] {
        let mut client = Client::connect(&balancer).await;
        client.send(request).await;
        assert_eq!(client.response().await.unwrap().status, status);
        assert!(client.is_closed().await);
    }
    assert_eq!(instance.connections(), 0);
}

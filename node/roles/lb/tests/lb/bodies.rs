//! Bodies in both directions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

const LARGE: usize = 24 * 1024 * 1024;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Sends back the body of each request, chunked where `chunked`.
async fn echo(chunked: bool) -> Instance {
    Instance::start(move |mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map(|length| length.parse().unwrap());
            let body = match length {
                Some(length) => upstream.read_body(length).await,
                None => {
                    let raw = upstream.read_until(b"0\r\n\r\n").await;
                    let chunked = rung_lb::head::BodyLength::Chunked;
                    rung_lb::body::decode_body(&raw, chunked).unwrap().unwrap().0
                }
            };
            if chunked {
                upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                for piece in body.chunks(100_000) {
                    upstream.send(format!("{:X};ext=1\r\n", piece.len()).as_bytes()).await;
                    upstream.send(piece).await;
                    upstream.send(b"\r\n").await;
                }
                upstream.send(b"0\r\nTrailer: x\r\n\r\n").await;
            } else {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                upstream.send(head.as_bytes()).await;
                upstream.send(&body).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn bodies_of_every_size_and_framing_arrive_whole() {
    for chunked_response in [false, true] {
        let instance = echo(chunked_response).await;
        let balancer = balancer(config(), &[instance.address]).await;
        let mut client = Client::connect(&balancer).await;
        for size in [0, 1, 100, 8_000, 16_384, 65_537, 1_000_000] {
            let body = pattern(size);
            client
                .send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"))
                .await;
            client.send(&body).await;
            let response = client.response().await.unwrap();
            assert!(response.body == body, "{size} bytes came back as {}", response.body.len());
            // The data must not hold the pattern that the echo looks for.
            let zeros = vec![b'z'; size];
            client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for piece in zeros.chunks(7_777) {
                client.send(format!("{:x}\r\n", piece.len())).await;
                client.send(piece).await;
                client.send("\r\n").await;
            }
            client.send("0\r\nX-Trailer: 1\r\n\r\n").await;
            let response = client.response().await.unwrap();
            assert!(response.body == zeros, "{size} bytes came back as {}", response.body.len());
        }
        assert_eq!(instance.connections(), 1, "every body ended where it should");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_instance_back() {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let instance = Instance::start(move |mut upstream| {
        let counter = counter.clone();
        async move {
            upstream.read_head().await;
            upstream
                .send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n").as_bytes())
                .await;
            for piece in pattern(LARGE).chunks(64 * 1024) {
                upstream.stream.write_all(piece).await.unwrap();
                counter.fetch_add(piece.len(), SeqCst);
            }
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("something is written", || written.load(SeqCst) > 0).await;
    // It stands still once the buffers of the kernel are full.
    let mut before = 0;
    while before != written.load(SeqCst) {
        before = written.load(SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < LARGE, "all {LARGE} bytes were buffered somewhere");
    assert!(client.response().await.unwrap().body == pattern(LARGE));
}

#[tokio::test]
async fn an_instance_that_does_not_read_holds_the_client_back() {
    let (release, released) = tokio::sync::watch::channel(false);
    let instance = Instance::start(move |mut upstream| {
        let mut released = released.clone();
        async move {
            upstream.read_head().await;
            released.wait_for(|released| *released).await.unwrap();
            let whole = upstream.read_body(LARGE).await == pattern(LARGE);
            let text = if whole { "whole" } else { "wrong" };
            upstream
                .send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}").as_bytes())
                .await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let body = pattern(LARGE);
    let mut sent = 0;
    while let Ok(count) =
        tokio::time::timeout(Duration::from_millis(500), client.stream.write(&body[sent..])).await
    {
        sent += count.unwrap();
        assert!(sent < LARGE, "all {LARGE} bytes were buffered somewhere");
    }
    release.send(true).unwrap();
    within(client.stream.write_all(&body[sent..])).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "whole");
}

#[tokio::test]
async fn the_balancer_itself_says_continue_and_the_instance_is_not_asked() {
    let instance = Instance::start(|mut upstream| async move {
        let head = upstream.read_head().await.unwrap();
        assert!(!head.to_ascii_lowercase().contains("expect"), "{head}");
        let body = upstream.read_body(5).await;
        upstream
            .send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            .await;
        upstream.send(&body).await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .await;
    assert_eq!(client.head().await.unwrap().0, 100);
    client.send("12345").await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.text()), (200, "12345"));
}

#[tokio::test]
async fn a_response_may_come_before_the_request_has_ended() {
    let instance = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
        let mut rest = Vec::new();
        let _ = upstream.stream.read_to_end(&mut rest).await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.text()), (413, "big"));
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn both_directions_stream_at_the_same_time() {
    let instance = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            let chunk = upstream.read_until(b"ping\r\n").await;
            assert!(chunk.ends_with(b"4\r\nping\r\n"));
            upstream.send(b"4\r\npong\r\n").await;
        }
        upstream.read_until(b"0\r\n\r\n").await;
        upstream.send(b"0\r\n\r\n").await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().0, 200);
    for _ in 0..3 {
        client.send("4\r\nping\r\n").await;
        while find(&client.buffer, b"4\r\npong\r\n").is_none() {
            assert!(within(client.stream.read_buf(&mut client.buffer)).await.unwrap() > 0);
        }
        client.buffer.clear();
    }
    client.send("0\r\n\r\n").await;
    within(client.stream.read_buf(&mut client.buffer)).await.unwrap();
    assert_eq!(client.buffer, b"0\r\n\r\n");
}

#[tokio::test]
async fn a_response_that_is_cut_off_looks_cut_off() {
    let instance = Instance::start(|mut upstream| async move {
        let head = upstream.read_head().await.unwrap();
        let response: &[u8] = if head.starts_with("GET /counted") {
            b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"
        } else {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"
        };
        upstream.send(response).await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    for path in ["/counted", "/chunked"] {
        let mut client = Client::connect(&balancer).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut all = Vec::new();
        // An end or a reset, but nothing that looks complete.
        let _ = within(client.stream.read_to_end(&mut all)).await;
        assert!(find(&all, b"0\r\n\r\n").is_none());
        assert!(!all.ends_with(b"halfhalf"));
    }
    eventually("both are counted", || balancer.metrics().apps[0].requests.requests() == 2).await;
}

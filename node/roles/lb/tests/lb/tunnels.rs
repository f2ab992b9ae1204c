//! Upgrades.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::*;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn after_101_bytes_pass_both_ways_as_they_are() {
    let instance = Instance::start(|mut upstream| async move {
        let head = upstream.read_head().await.unwrap();
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{head}");
        assert!(lower.contains("sec-websocket-key: "), "{head}");
        assert!(upstream.buffer.is_empty(), "bytes before the upgrade: {:?}", upstream.buffer);
        upstream
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nfirst")
            .await;
        let mut echo = std::mem::take(&mut upstream.buffer);
        loop {
            if echo.is_empty() && upstream.stream.read_buf(&mut echo).await.unwrap() == 0 {
                break;
            }
            upstream.send(&std::mem::take(&mut echo)).await;
        }
        upstream.send(b"last").await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    // A frame sent before the 101 waits for it.
    client.send(format!("{UPGRADE}early")).await;
    let (status, head) = client.head().await.unwrap();
    assert_eq!(status, 101);
    assert!(head.contains("upgrade: websocket\n") && head.contains("sec-websocket-accept: "));
    let mut frames: Vec<u8> = (0..=255).collect();
    frames.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n\n\r\0");
    client.send(&frames).await;
    let expected = [b"firstearly".as_slice(), &frames].concat();
    while client.buffer.len() < expected.len() {
        assert!(within(client.stream.read_buf(&mut client.buffer)).await.unwrap() > 0);
    }
    assert_eq!(client.buffer, expected);
    assert_eq!(balancer.in_flight(rung_proto::InstanceId(1)), 1);
    // One side ends, the other may still speak.
    client.stream.shutdown().await.unwrap();
    client.buffer.clear();
    within(client.stream.read_to_end(&mut client.buffer)).await.unwrap();
    assert_eq!(client.buffer, b"last");
    eventually("the tunnel has ended", || balancer.in_flight(rung_proto::InstanceId(1)) == 0).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    let instance = Instance::answering("no").await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.unwrap().text(), "no");
    assert_eq!(client.get("/").await.text(), "no");
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            let lower = head.to_ascii_lowercase();
            let clean = !lower.contains("upgrade") && !lower.contains("http2-settings");
            let text = if clean { "clean" } else { "dirty" };
            upstream
                .send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{text}").as_bytes())
                .await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for protocol in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0"] {
        client
            .send(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: x\r\n\r\n"))
            .await;
        assert_eq!(client.response().await.unwrap().text(), "clean", "{protocol}");
    }
}

#[tokio::test]
async fn an_instance_may_not_choose_another_protocol() {
    let instance = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
            .await;
        upstream.read_head().await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send(UPGRADE).await;
    assert_eq!(client.response().await.unwrap().status, 502);
}

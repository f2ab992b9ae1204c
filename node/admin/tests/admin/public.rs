//! What strangers and browsers can do on the TCP port.

use std::net::SocketAddr;
use std::time::Duration;

use rung_admin::Limits;
use rung_proto::Failure;
use rung_proto::api::{SessionLink, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{Fake, serve};
use crate::wire::{Answered, PATIENCE, over_tcp, over_unix};

async fn get(address: SocketAddr, path: &str) -> Answered {
    over_tcp(address, "GET", path, &["host: 127.0.0.1"]).await
}

#[tokio::test]
async fn strangers_see_health_readiness_and_metrics() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let server = serve(root.path(), &fake, Limits::default()).await;
    let address = server.tcp_addr();
    assert_eq!(over_tcp(address, "GET", "/healthz", &["host: probe.example"]).await.status, 200);
    assert_eq!(get(address, "/readyz").await.status, 200);
    fake.state().not_ready = vec!["the log is replayed".to_owned()];
    let not_ready = get(address, "/readyz").await;
    assert_eq!(not_ready.status, 503);
    assert!(not_ready.body.contains("the log is replayed"));
    let metrics = get(address, "/metrics").await;
    assert!(metrics.body.contains("rung_nodes{state=\"alive\"} 2\n"));
    assert!(metrics.body.contains("rung_admin_requests_total{listener=\"tcp\"} 4\n"));
    assert_eq!(over_unix(root.path(), "GET", "/readyz", "").await.status, 503);
}

#[tokio::test]
async fn strangers_see_nothing_else_and_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let server = serve(root.path(), &fake, Limits::default()).await;
    let address = server.tcp_addr();
    for path in ["/", "/api/v1/status", "/api/v1/tokens", "/ui", "/ui?ticket=", "/ui?ticket=00"] {
        let answer = get(address, path).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(!answer.body.contains("photos") && answer.header("set-cookie").is_none());
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let headers = ["host: 127.0.0.1", "content-length: 0"];
        let answer = over_tcp(address, method, "/api/v1/sessions", &headers).await;
        assert_eq!(answer.status, 405, "{method}");
    }
    for path in ["/metrics", "/readyz", "/", "/api/v1/status"] {
        let answer = over_tcp(address, "GET", path, &["host: evil.example:7401"]).await;
        assert_eq!(answer.status, 421, "{path}");
    }
    assert!(fake.state().changes.is_empty());
}

/// Opens a session and returns its cookie.
async fn log_in(directory: &std::path::Path, address: SocketAddr) -> String {
    let link = over_unix(directory, "POST", "/api/v1/sessions", "").await.json::<SessionLink>();
    let (base, path) = link.url.split_at(format!("http://{address}").len());
    assert_eq!(base, format!("http://{address}"));
    // A preview does not use the link up, and opening it does.
    assert_eq!(over_tcp(address, "HEAD", path, &["host: 127.0.0.1"]).await.status, 405);
    let opened = get(address, path).await;
    assert_eq!(opened.status, 200);
    assert_eq!(get(address, path).await.status, 401);
    let cookie = opened.header("set-cookie").unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Max-Age=900", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    cookie.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_link_opens_the_dashboard_once_and_read_only() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    let server = serve(root.path(), &fake, Limits::default()).await;
    let address = server.tcp_addr();
    let cookie = format!("cookie: other=1; {}", log_in(root.path(), address).await);
    let with = |path: &'static str, extra: &'static str| {
        let headers = ["host: 127.0.0.1".to_owned(), cookie.clone(), extra.to_owned()];
        async move {
            let headers: Vec<&str> =
                headers.iter().map(String::as_str).filter(|h| !h.is_empty()).collect();
            over_tcp(address, "GET", path, &headers).await
        }
    };
    let page = with("/", "").await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(page.body.contains(&format!("<script nonce=\"{nonce}\">")));
    assert_eq!(with("/api/v1/status", "").await.json::<Status>().cluster.name, "shop");
    for path in ["/api/v1/events?since=0", "/api/v1/operations", "/api/v1/top"] {
        assert_eq!(with(path, "").await.status, 200, "{path}");
    }
    for path in ["/api/v1/tokens", "/api/v1/audit", "/api/v1/logs", "/api/v1/apps/photos/env"] {
        assert_eq!(with(path, "").await.status, 404, "{path}");
    }
    assert_eq!(with("/api/v1/events?follow=true", "").await.status, 400);
    let foreign = with("/api/v1/status", "sec-fetch-site: same-site").await;
    assert_eq!(foreign.status, 403);
    foreign.json::<Failure>();
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_cut_off() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
    let server = serve(root.path(), &Fake::new(), limits).await;
    let mut silent = TcpStream::connect(server.tcp_addr()).await.unwrap();
    let mut slow = TcpStream::connect(server.tcp_addr()).await.unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: ").await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection stays open");
    }
}

#[tokio::test]
async fn a_connection_ends_when_it_is_idle_after_an_answer_or_old() {
    let root = tempfile::tempdir().unwrap();
    let short = Duration::from_millis(200);
    for limits in [
        Limits { head: short, ..Limits::default() },
        Limits { lifetime: short, ..Limits::default() },
    ] {
        let server = serve(root.path(), &Fake::new(), limits).await;
        let mut stream = TcpStream::connect(server.tcp_addr()).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection stays open");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut_off() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    fake.state().not_ready = vec!["x".repeat(30_000_000)];
    let short = Duration::from_millis(100);
    let limits = Limits { lifetime: short, stalled: short, connections: 1, ..Limits::default() };
    let server = serve(root.path(), &fake, limits).await;
    let mut stream = TcpStream::connect(server.tcp_addr()).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await.unwrap();
    // The only place is free again although nothing was read.
    assert_eq!(get(server.tcp_addr(), "/healthz").await.status, 200);
    drop(stream);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_and_are_served_later() {
    let root = tempfile::tempdir().unwrap();
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = serve(root.path(), &Fake::new(), limits).await;
    let first = TcpStream::connect(server.tcp_addr()).await.unwrap();
    let address = server.tcp_addr();
    let mut second = tokio::spawn(async move { get(address, "/healthz").await.status });
    let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
    assert!(early.is_err(), "served beyond the limit");
    // The first has the only place until it goes.
    drop(first);
    let status = tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn noise_is_answered_or_cut_off_and_the_server_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(root.path(), &Fake::new(), Limits::default()).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    for noise in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "\u{16}\u{3}\u{1}", long.as_str()] {
        let mut stream = TcpStream::connect(server.tcp_addr()).await.unwrap();
        let _ = stream.write_all(noise.as_bytes()).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok());
    }
    assert_eq!(get(server.tcp_addr(), "/healthz").await.status, 200);
}

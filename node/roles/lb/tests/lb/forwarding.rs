//! Ordinary requests and responses.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use rung_lb::{AppRoute, Balancer, RoutingTable};

use crate::harness::*;

#[tokio::test]
async fn a_request_reaches_the_instance_and_its_response_the_client() {
    let instance = Instance::answering("hello").await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..3 {
        let response = client.get("/").await;
        assert_eq!((response.status, response.text()), (200, "hello"));
        assert_eq!(response.header("x-request-id").unwrap().len(), 32);
    }
    assert_eq!(instance.connections(), 1, "the connection is used again");
    // Counting comes after answering.
    eventually("all are counted", || balancer.metrics().apps[0].requests.requests() == 3).await;
    let metrics = balancer.metrics();
    assert_eq!(metrics.apps[0].requests.by_status, [0, 0, 3, 0, 0, 0]);
    assert_eq!(metrics.instances[0].requests.sent, 15);
    assert_eq!(metrics.instances[0].requests.in_flight, 0);
}

#[tokio::test]
async fn heads_are_written_anew_with_what_the_balancer_knows() {
    let seen = Arc::new(Mutex::new(String::new()));
    let heads = seen.clone();
    let instance = Instance::start(move |mut upstream| {
        let heads = heads.clone();
        async move {
            while let Some(head) = upstream.read_head().await {
                *heads.lock().unwrap() = head;
                upstream
                    .send(b"HTTP/1.1 200 Fine\r\nContent-Length: 0\r\nConnection: X-Secret\r\nX-Secret: 1\r\nX-Public: 2\r\nKeep-Alive: timeout=5\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client
        .send(
            "GET /a?b=c HTTP/1.1\r\nHost: shop.test:8080\r\nX-Forwarded-For: 6.6.6.6\r\n\
             X_Forwarded_Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
             Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: close\r\nProxy: evil\r\nX-Kept: yes\r\nX-Request-Id: given-id-1\r\n\r\n",
        )
        .await;
    let response = client.response().await.unwrap();
    assert_eq!(response.header("x-public"), Some("2"));
    for gone in ["x-secret", "connection", "keep-alive"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    assert_eq!(response.header("x-request-id"), Some("given-id-1"));
    let head = seen.lock().unwrap().to_ascii_lowercase();
    let lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines[0], "get /a?b=c http/1.1");
    for present in [
        "host: shop.test:8080",
        "x-kept: yes",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: shop.test:8080",
        "forwarded: for=127.0.0.1;proto=http;host=\"shop.test:8080\"",
        "x-request-id: given-id-1",
    ] {
        assert_eq!(lines.iter().filter(|line| **line == present).count(), 1, "{present} in {head}");
    }
    for gone in ["6.6.6.6", "x-hop", "te:", "keep-alive", "proxy", "x_forwarded", "connection:"] {
        let found = lines.iter().find(|line| line.contains(gone));
        assert!(found.is_none(), "{found:?}");
    }
    assert!(head.contains("\r\ntraceparent: 00-"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_never_pipelined_on() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            assert!(upstream.buffer.is_empty(), "two requests at once");
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let response =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
            upstream.send(response.as_bytes()).await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    let requests: String =
        (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(format!("\r\n{requests}")).await;
    for n in 0..20 {
        assert_eq!(client.response().await.unwrap().text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn http10_clients_get_what_they_understand() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            assert!(head.contains(" HTTP/1.1\r\nhost: shop\r\n"), "{head}");
            upstream
                .send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
                .await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.text(), "abcde");
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(response.header("connection"), Some("close"));

    let counted = Instance::answering("counted").await;
    balancer.update(one_app(&[counted.address])).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let response = client.response().await.unwrap();
        assert_eq!(response.text(), "counted");
        assert_eq!(response.header("connection"), Some("keep-alive"));
    }
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().header("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn responses_without_a_body_leave_the_connection_usable() {
    let instance = Instance::start(|mut upstream| async move {
        while let Some(head) = upstream.read_head().await {
            let response: &[u8] = match head.split(' ').next().unwrap() {
                "HEAD" => b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n",
                "PUT" => b"HTTP/1.1 204 No Content\r\n\r\n",
                "OPTIONS" => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n",
                _ => b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            };
            upstream.send(response).await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let response = client.response_to(true).await.unwrap();
    assert_eq!(response.header("content-length"), Some("12345"));
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("content-length")), (204, None));
    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().status, 304);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let hints = client.response().await.unwrap();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</a>")));
    assert_eq!(client.response().await.unwrap().text(), "ok");
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_response_that_ends_by_closing_is_chunked_for_the_client() {
    let instance = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream.send(b"HTTP/1.0 200 OK\r\n\r\nto the end").await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..2 {
        assert_eq!(client.get("/").await.text(), "to the end");
    }
    assert_eq!(instance.connections.load(SeqCst), 2);
}

#[tokio::test]
async fn apps_are_found_by_host_and_path() {
    let (shop, blog) = (Instance::answering("shop").await, Instance::answering("blog").await);
    let balancer = Balancer::start(config(), None).unwrap();
    let ask = async |host: &str, path: &str| {
        let mut client = Client::connect(&balancer).await;
        client
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\r\n"
            ))
            .await;
        let response = client.response().await.unwrap();
        (response.status, response.text().to_owned())
    };
    let (status, text) = ask("shop.test", "/").await;
    assert_eq!(status, 404);
    assert!(text.contains("No app is deployed"), "{text}");
    let apps = vec![
        AppRoute::new("shop", vec!["shop.test".into()], vec![local(1, shop.address)]),
        AppRoute {
            paths: vec!["/blog".into()],
            ..AppRoute::new("blog", vec!["shop.test".into()], vec![local(2, blog.address)])
        },
    ];
    balancer.update(RoutingTable { version: 2, apps }).await;
    assert_eq!(ask("shop.test", "/").await, (200, "shop".into()));
    assert_eq!(ask("Shop.Test:80", "/blog/1").await, (200, "blog".into()));
    assert_eq!(ask("shop.test", "http://shop.test/blog").await, (200, "blog".into()));
    let (status, text) = ask("other.test", "/").await;
    assert_eq!(status, 404);
    assert!(text.starts_with("{\"status\":404"), "{text}");
    assert_eq!(ask("shop.test", "/x/../blog").await.0, 400);
    assert_eq!(balancer.metrics().unrouted, 3);
}

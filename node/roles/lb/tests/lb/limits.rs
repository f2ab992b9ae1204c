//! Timeouts, limits, sticky clients and the access log.

use std::time::{Duration, Instant};

use rung_lb::{AccessLog, Balancer, LbError, RateLimit};

use crate::harness::*;

/// Reads requests and never answers.
async fn silent() -> Instance {
    Instance::start(|mut upstream| async move { while upstream.read_head().await.is_some() {} })
        .await
}

#[tokio::test]
async fn a_client_that_drips_its_head_is_cut_off() {
    let instance = Instance::answering("x").await;
    let mut config = config();
    config.timeouts.client_head = Duration::from_millis(300);
    config.timeouts.client_idle = Duration::from_millis(600);
    let balancer = balancer(config, &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    let start = Instant::now();
    client.send("GET / HT").await;
    while client.buffer.is_empty() && start.elapsed() < PATIENCE {
        client.send("x").await;
        let dripped = tokio::time::timeout(
            Duration::from_millis(20),
            tokio::io::AsyncReadExt::read_buf(&mut client.stream, &mut client.buffer),
        );
        let _ = dripped.await;
    }
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.response().await.unwrap().status, 408);

    let mut idle = Client::connect(&balancer).await;
    assert!(idle.is_closed().await, "silently");
    let mut idle = Client::connect(&balancer).await;
    idle.get("/").await;
    assert!(idle.is_closed().await, "also after a request");
}

#[tokio::test]
async fn each_phase_has_its_time() {
    let instance = silent().await;
    let mut config = config();
    config.timeouts.first_byte = Duration::from_millis(200);
    config.timeouts.body_idle = Duration::from_millis(200);
    let balancer = balancer(config, &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    assert_eq!(client.get("/").await.status, 504);
    assert_eq!(client.get("/").await.status, 504, "the connection goes on");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf").await;
    let response = client.response().await.unwrap();
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));

    let pausing = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        upstream.read_head().await;
    })
    .await;
    balancer.update(one_app(&[pausing.address])).await;
    let mut client = Client::connect(&balancer).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().0, 200);
    let mut rest = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut rest)).await;
    assert!(rest.len() < 10);
}

#[tokio::test]
async fn an_app_gets_no_more_requests_than_it_may_have() {
    let instance = silent().await;
    let balancer = balancer(config(), &[]).await;
    let mut table = one_app(&[instance.address]);
    table.apps[0].max_in_flight = Some(2);
    balancer.update(table).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&balancer).await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        waiting.push(client);
    }
    eventually("two are there", || balancer.metrics().apps[0].requests.in_flight == 2).await;
    let mut client = Client::connect(&balancer).await;
    let response = client.get("/").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    assert_eq!(balancer.metrics().apps[0].requests.shed, 1);
}

#[tokio::test]
async fn a_client_address_is_held_to_its_rate() {
    let instance = Instance::answering("x").await;
    let mut config = config();
    config.limits.rate = Some(RateLimit { per_second: 0.01, burst: 3 });
    let balancer = balancer(config, &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let response = client.get("/").await;
    assert_eq!(response.status, 429);
    let seconds: u32 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((90..=100).contains(&seconds), "{seconds}");
    assert_eq!(balancer.metrics().rate_limited, 1);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let instance = Instance::answering("x").await;
    let mut config = config();
    config.limits.connections = 2;
    let balancer = balancer(config, &[instance.address]).await;
    let mut first = Client::connect(&balancer).await;
    first.get("/").await;
    let mut second = Client::connect(&balancer).await;
    second.get("/").await;
    let mut third = Client::connect(&balancer).await;
    assert!(third.is_closed().await);
    drop(first);
    eventually("there is room", || balancer.metrics().connections == 1).await;
    let mut fourth = Client::connect(&balancer).await;
    assert_eq!(fourth.get("/").await.status, 200);
    assert_eq!(balancer.metrics().connections_refused, 1);
}

#[tokio::test]
async fn a_sticky_client_stays_with_its_instance_while_that_is_there() {
    let (one, two) = (Instance::answering("1").await, Instance::answering("2").await);
    let balancer = balancer(config(), &[]).await;
    let mut table = one_app(&[one.address, two.address]);
    table.apps[0].sticky = true;
    balancer.update(table.clone()).await;
    let mut client = Client::connect(&balancer).await;
    let response = client.get("/").await;
    let cookie = response.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let instance = response.text().to_owned();
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {cookie}\r\n\r\n");
    for _ in 0..20 {
        client.send(&request).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.text(), instance);
        assert_eq!(response.header("set-cookie"), None);
    }
    table.apps[0].instances.retain(|target| target.id.0.to_string() != instance);
    balancer.update(table).await;
    client.send(&request).await;
    let response = client.response().await.unwrap();
    assert_ne!(response.text(), instance);
    assert!(response.header("set-cookie").is_some(), "it is bound anew");
}

#[tokio::test]
async fn every_request_is_a_line_of_the_access_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let instance = Instance::answering("body").await;
    let mut config = config();
    config.access_log = AccessLog::File { path: path.clone(), max_bytes: 1 << 20, keep: 2 };
    let balancer = balancer(config, &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    client
        .send("GET /a?\"b HTTP/1.1\r\nHost: shop.test\r\nUser-Agent: x\"\\y\r\nX-Request-Id: log-line-1\r\n\r\n")
        .await;
    client.response().await.unwrap();
    balancer.stop(PATIENCE).await;
    let log = std::fs::read_to_string(&path).unwrap();
    let line: serde_json::Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!(line["status"], 200);
    assert_eq!(line["path"], "/a?\"b");
    assert_eq!(line["agent"], "x\"\\y");
    assert_eq!(line["app"], "shop");
    assert_eq!(line["id"], "log-line-1");
    assert_eq!(line["out"], 4);
    assert_eq!(line["instance"], 1);
    assert_eq!(line["client"], "127.0.0.1");
}

#[tokio::test]
async fn a_port_that_another_has_is_a_clear_error() {
    let first = Balancer::start(config(), None).unwrap();
    let mut second = config();
    second.http = first.http_address();
    let error = Balancer::start(second, None).err().unwrap();
    assert!(matches!(error, LbError::Listen { .. }));
    let failure = error.failure();
    assert_eq!(failure.code, rung_proto::Code::PortTaken);
    assert!(failure.next.contains("ss -ltnp"), "{failure}");
}

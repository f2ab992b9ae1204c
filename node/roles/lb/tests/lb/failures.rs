//! Instances that die, drain, refuse or hang.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rung_lb::{Policy, RoutingTable, TargetState};
use rung_proto::InstanceId;
use tokio::net::TcpListener;

use crate::harness::*;

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Closes each connection after it read a request, without a word.
async fn mute() -> (Instance, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let instance = Instance::start(move |mut upstream| {
        let counter = counter.clone();
        async move {
            if upstream.read_head().await.is_some() {
                counter.fetch_add(1, SeqCst);
            }
        }
    })
    .await;
    (instance, seen)
}

fn round_robin(mut table: RoutingTable) -> RoutingTable {
    table.apps[0].policy = Policy::RoundRobin;
    table
}

#[tokio::test]
async fn any_request_goes_elsewhere_when_an_instance_takes_no_connection() {
    let good = Instance::answering("good").await;
    let balancer = balancer(config(), &[]).await;
    balancer.update(round_robin(one_app(&[nobody().await, good.address]))).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..10 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(client.response().await.unwrap().text(), "good");
        // The instance here does not read bodies.
        client = Client::connect(&balancer).await;
    }
    let metrics = balancer.metrics();
    assert!(metrics.instances[0].ejected, "{metrics:?}");
    assert_eq!(metrics.instances[0].requests.connect_failures, 2, "then it is left out");
}

#[tokio::test]
async fn a_safe_request_is_repeated_elsewhere_and_an_unsafe_one_is_not() {
    let ((mute, seen), good) = (mute().await, Instance::answering("good").await);
    let mut config = config();
    config.health.connect_failures = u32::MAX;
    let balancer = balancer(config, &[]).await;
    balancer.update(round_robin(one_app(&[mute.address, good.address]))).await;
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        for _ in 0..2 {
            let mut client = Client::connect(&balancer).await;
            client
                .send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))
                .await;
            assert_eq!(client.response().await.unwrap().text(), "good", "{method}");
        }
    }
    let before = seen.load(SeqCst);
    assert!(before > 0);
    let mut refused = 0;
    for _ in 0..2 {
        let mut client = Client::connect(&balancer).await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
        refused += usize::from(client.response().await.unwrap().status == 502);
    }
    assert_eq!((refused, seen.load(SeqCst) - before), (1, 1));
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_not_repeated() {
    let (mute, seen) = mute().await;
    let balancer = balancer(config(), &[mute.address, mute.address]).await;
    let mut client = Client::connect(&balancer).await;
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n").await;
    client.send(vec![b'x'; 200_000]).await;
    assert_eq!(client.response().await.unwrap().status, 502);
    assert_eq!(seen.load(SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_instance_closed_costs_nobody_anything() {
    let instance = Instance::start(|mut upstream| async move {
        // One request a connection, and no word of closing.
        upstream.read_head().await;
        upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        // The next request on it is read and not answered.
        upstream.read_head().await;
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    eventually("all are counted", || balancer.metrics().apps[0].requests.by_status[2] == 6).await;
    assert_eq!(balancer.metrics().instances[0].ejections, 0);
}

#[tokio::test]
async fn at_most_three_instances_see_a_request() {
    let (mute, seen) = mute().await;
    let mut config = config();
    config.health.connect_failures = u32::MAX;
    let balancer = balancer(config, &[mute.address; 6]).await;
    let mut client = Client::connect(&balancer).await;
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!(seen.load(SeqCst), 3);
}

#[tokio::test]
async fn a_request_waits_for_an_instance_that_is_just_coming() {
    let balancer = Arc::new(balancer(config(), &[]).await);
    let late = balancer.clone();
    let waiting = tokio::spawn(async move {
        let mut client = Client::connect(&late).await;
        client.get("/").await
    });
    eventually("the request waits", || balancer.metrics().waiting == 1).await;
    let instance = Instance::answering("just in time").await;
    balancer.update(one_app(&[instance.address])).await;
    assert_eq!(within(waiting).await.unwrap().text(), "just in time");
}

#[tokio::test]
async fn without_an_instance_the_answer_is_503_with_retry_after() {
    let mut config = config();
    config.timeouts.wait = Duration::from_millis(100);
    let balancer = balancer(config, &[nobody().await]).await;
    let mut client = Client::connect(&balancer).await;
    let response = client.get("/").await;
    assert_eq!((response.status, response.header("retry-after")), (503, Some("2")));
    assert!(response.text().contains(response.header("x-request-id").unwrap()));
    assert_eq!(client.get("/").await.status, 503, "the connection goes on");
}

#[tokio::test]
async fn an_instance_that_answers_500_is_left_out_and_tried_again() {
    let healthy = Arc::new(AtomicBool::new(false));
    let state = healthy.clone();
    let sick = Instance::start(move |mut upstream| {
        let state = state.clone();
        async move {
            while upstream.read_head().await.is_some() {
                let status = if state.load(SeqCst) { "200 OK" } else { "500 Oops" };
                let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                upstream.send(response.as_bytes()).await;
            }
        }
    })
    .await;
    let good = Instance::answering("").await;
    let mut config = config();
    config.health.bad_responses = 3;
    config.health.eject = Duration::from_millis(100);
    let balancer = balancer(config, &[]).await;
    balancer.update(round_robin(one_app(&[sick.address, good.address]))).await;
    let mut client = Client::connect(&balancer).await;
    while !balancer.metrics().instances[0].ejected {
        client.get("/").await;
    }
    assert_eq!(balancer.metrics().instances[0].requests.by_status[5], 3);
    healthy.store(true, SeqCst);
    let before = balancer.metrics().instances[0].requests.by_status[2];
    let end = std::time::Instant::now() + PATIENCE;
    while balancer.metrics().instances[0].requests.by_status[2] < before + 3 {
        assert!(std::time::Instant::now() < end, "it did not come back");
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(!balancer.metrics().instances[0].ejected);
}

#[tokio::test]
async fn an_update_acknowledges_that_a_draining_instance_gets_nothing_more() {
    let (release, released) = tokio::sync::watch::channel(false);
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    let old = Instance::start(move |mut upstream| {
        let (counter, mut released) = (counter.clone(), released.clone());
        async move {
            while let Some(head) = upstream.read_head().await {
                counter.fetch_add(1, SeqCst);
                if head.starts_with("GET /slow") {
                    released.wait_for(|released| *released).await.unwrap();
                }
                upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
            }
        }
    })
    .await;
    let new = Instance::answering("new").await;
    let balancer = Arc::new(balancer(config(), &[old.address]).await);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(&balancer).await;
        assert_eq!(client.get("/").await.text(), "old");
        clients.push(client);
    }
    let mut slow = clients.pop().unwrap();
    slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the slow one is there", || requests.load(SeqCst) == 9).await;
    assert_eq!(balancer.in_flight(InstanceId(1)), 1);

    let mut table = one_app(&[old.address, new.address]);
    table.apps[0].instances[0].state = TargetState::Draining;
    balancer.update(table).await;
    let before = requests.load(SeqCst);
    let idle = |id: usize| balancer.metrics().instances[id].idle_connections;
    assert_eq!(idle(0), 0, "kept connections to it are closed");
    for client in &mut clients {
        assert_eq!(client.get("/").await.text(), "new");
    }
    assert_eq!(requests.load(SeqCst), before);
    assert_eq!(balancer.in_flight(InstanceId(1)), 1, "the slow one goes on");
    release.send(true).unwrap();
    assert_eq!(slow.response().await.unwrap().text(), "old");
    eventually("nothing is there any more", || balancer.in_flight(InstanceId(1)) == 0).await;
    assert_eq!(idle(0), 0, "nor was its connection kept");
    balancer.update(one_app(&[])).await;
    assert_eq!(balancer.metrics().instances, vec![]);
}

#[tokio::test]
async fn killing_one_of_two_instances_under_load_fails_no_safe_request() {
    let (first, second) = (Instance::answering("1").await, Instance::answering("2").await);
    let balancer = Arc::new(balancer(config(), &[first.address, second.address]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (balancer, stop) = (balancer.clone(), stop.clone());
        load.spawn(async move {
            let mut client = Client::connect(&balancer).await;
            let (mut good, mut bad) = (0, 0);
            while !stop.load(SeqCst) {
                if client.get("/").await.status == 200 { good += 1 } else { bad += 1 }
            }
            (good, bad)
        });
    }
    let served = |id: usize| balancer.metrics().instances[id].requests.by_status[2];
    eventually("both serve", || served(0) > 500 && served(1) > 500).await;
    first.kill().await;
    let before = served(1);
    eventually("the other one serves on", || served(1) > before + 2000).await;
    stop.store(true, SeqCst);
    let (mut good, mut bad) = (0, 0);
    while let Some(one) = load.join_next().await {
        let one = one.unwrap();
        (good, bad) = (good + one.0, bad + one.1);
    }
    assert_eq!(bad, 0, "of {}", good + bad);
    assert!(balancer.metrics().instances[0].ejected);
}

#[tokio::test]
async fn restarting_the_only_instance_under_load_fails_no_safe_request() {
    let first = Instance::answering("1").await;
    let balancer = Arc::new(balancer(config(), &[first.address]).await);
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (balancer, stop) = (balancer.clone(), stop.clone());
        load.spawn(async move {
            let mut client = Client::connect(&balancer).await;
            let mut bad = 0;
            while !stop.load(SeqCst) {
                bad += usize::from(client.get("/").await.status != 200);
            }
            bad
        });
    }
    let served = || balancer.metrics().apps[0].requests.by_status[2];
    eventually("it serves", || served() > 500).await;
    first.kill().await;
    eventually("requests wait", || balancer.metrics().waiting > 0).await;
    let again = Instance::answering("2").await;
    let mut table = one_app(&[again.address]);
    table.apps[0].instances[0].id = InstanceId(2);
    balancer.update(table).await;
    let before = served();
    eventually("it serves again", || served() > before + 500).await;
    stop.store(true, SeqCst);
    while let Some(bad) = load.join_next().await {
        assert_eq!(bad.unwrap(), 0);
    }
}

#[tokio::test]
async fn stopping_lets_requests_end_and_takes_no_new_connection() {
    let (release, released) = tokio::sync::watch::channel(false);
    let instance = Instance::start(move |mut upstream| {
        let mut released = released.clone();
        async move {
            upstream.read_head().await;
            released.wait_for(|released| *released).await.unwrap();
            upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let balancer = balancer(config(), &[instance.address]).await;
    let address = balancer.http_address();
    let mut client = Client::connect(&balancer).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is there", || balancer.in_flight(InstanceId(1)) == 1).await;
    let stopping = tokio::spawn(balancer.stop(PATIENCE));
    let end = std::time::Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(std::time::Instant::now() < end, "it still listens");
    }
    release.send(true).unwrap();
    let response = client.response().await.unwrap();
    assert_eq!((response.text(), response.header("connection")), ("done", Some("close")));
    within(stopping).await.unwrap();
}

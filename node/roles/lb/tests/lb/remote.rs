//! Instances on other nodes, over a real mesh.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rung_lb::{
    AppRoute, Balancer, PROXY_STREAM, Place, REFUSED, RoutingTable, Target, TargetState,
    UNREACHABLE, parse_stream_header,
};
use rung_proto::{ClusterId, Generation, Incarnation, InstanceId, NodeId};
use rung_transport::{
    CertificateAuthority, Handlers, KeyPair, Mesh, MeshConfig, MeshLimits, NodeIdentity,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::*;

/// A node that owns instances, as the web role does.
struct Owner {
    mesh: Mesh,
    instances: Arc<Mutex<HashMap<u64, SocketAddr>>>,
    /// Takes streams and does nothing with them, as a node that hangs.
    hangs: Arc<AtomicBool>,
    streams: Arc<AtomicUsize>,
}

fn mesh(ca: &CertificateAuthority, node: u64, stream: rung_transport::StreamHandler) -> Mesh {
    let key = KeyPair::generate().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let hour = Duration::from_secs(3600);
    let certificate = ca.sign(&key.to_csr().unwrap(), NodeId(node), "here", hour, now_ms).unwrap();
    let identity = NodeIdentity::new(&key, certificate, ca.certificate_der().to_vec()).unwrap();
    let config = MeshConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity,
        incarnation: Incarnation(1),
        generation: Generation(1),
        authorise: Arc::new(|_| Ok(())),
        limits: MeshLimits::default(),
    };
    let handlers = Handlers {
        call: Arc::new(|_| Box::pin(async { Ok(bytes::Bytes::new()) })),
        stream,
        datagram: mpsc::channel(1).0,
        join: Arc::new(|_, _| {
            let failure = rung_proto::Failure::new(rung_proto::Code::TokenInvalid, "no joins");
            Box::pin(async { Err(failure) })
        }),
        closed: mpsc::channel(8).0,
    };
    Mesh::start(config, handlers).unwrap()
}

impl Owner {
    fn start(ca: &CertificateAuthority, node: u64) -> Owner {
        let instances: Arc<Mutex<HashMap<u64, SocketAddr>>> = Arc::default();
        let (hangs, streams) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (known, hanging, counter) = (instances.clone(), hangs.clone(), streams.clone());
        let stream = Arc::new(
            move |_, kind, header: bytes::Bytes, mut stream: rung_transport::MeshStream| {
                assert_eq!(kind, PROXY_STREAM);
                counter.fetch_add(1, SeqCst);
                let (id, _flags) = parse_stream_header(&header).unwrap();
                let address = known.lock().unwrap().get(&id.0).copied();
                let hangs = hanging.load(SeqCst);
                tokio::spawn(async move {
                    if hangs {
                        return std::future::pending().await;
                    }
                    let Some(address) = address else { return stream.abort(REFUSED) };
                    match TcpStream::connect(address).await {
                        Ok(mut instance) => {
                            let _ = tokio::io::copy_bidirectional(&mut stream, &mut instance).await;
                        }
                        Err(_) => stream.abort(UNREACHABLE),
                    }
                });
            },
        );
        Owner { mesh: mesh(ca, node, stream), instances, hangs, streams }
    }

    fn has(&self, id: u64, address: SocketAddr) {
        self.instances.lock().unwrap().insert(id, address);
    }
}

fn remote(id: u64, node: u64) -> Target {
    Target {
        id: InstanceId(id),
        node: NodeId(node),
        dc: "here".into(),
        place: Place::Remote,
        state: TargetState::Ready,
        since_ms: 0,
    }
}

fn table(instances: Vec<Target>) -> RoutingTable {
    let app = AppRoute {
        policy: rung_lb::Policy::RoundRobin,
        ..AppRoute::new("shop", vec!["shop.test".into()], instances)
    };
    RoutingTable { version: 1, apps: vec![app] }
}

/// A balancer on node 1 and owners on nodes 2 and 3.
fn cluster() -> (Balancer, Owner, Owner) {
    let ca = CertificateAuthority::create(ClusterId(7)).unwrap();
    let (two, three) = (Owner::start(&ca, 2), Owner::start(&ca, 3));
    let own = mesh(&ca, 1, Arc::new(|_, _, _, _| {}));
    own.set_peer(NodeId(2), two.mesh.local_addr());
    own.set_peer(NodeId(3), three.mesh.local_addr());
    (Balancer::start(config(), Some(own)).unwrap(), two, three)
}

#[tokio::test]
async fn requests_reach_instances_of_other_nodes_and_streams_are_used_again() {
    let (balancer, two, _three) = cluster();
    let instance = Instance::answering("far").await;
    two.has(1, instance.address);
    balancer.update(table(vec![remote(1, 2)])).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.text(), "far");
    }
    assert_eq!(two.streams.load(SeqCst), 1);
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn large_bodies_pass_the_mesh_both_ways() {
    let (balancer, two, _three) = cluster();
    let instance = Instance::start(|mut upstream| async move {
        while upstream.read_head().await.is_some() {
            let body = upstream.read_body(3_000_000).await;
            upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n").await;
            upstream.send(&body).await;
        }
    })
    .await;
    two.has(1, instance.address);
    balancer.update(table(vec![remote(1, 2)])).await;
    let mut client = Client::connect(&balancer).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| at as u8).collect();
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n").await;
        client.send(&body).await;
        assert!(client.response().await.unwrap().body == body);
    }
}

#[tokio::test]
async fn any_request_goes_elsewhere_when_the_owner_refuses_it() {
    let (balancer, two, three) = cluster();
    let instance = Instance::start(|mut upstream| async move {
        while upstream.read_head().await.is_some() {
            let body = upstream.read_body(4).await;
            upstream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await;
            upstream.send(&body).await;
        }
    })
    .await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // Node 2 does not have instance 1, and instance 2 takes no connections.
    two.has(2, dead);
    three.has(3, instance.address);
    balancer.update(table(vec![remote(1, 2), remote(2, 2), remote(3, 3)])).await;
    let mut client = Client::connect(&balancer).await;
    for _ in 0..12 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd").await;
        let response = client.response().await.unwrap();
        assert_eq!((response.status, response.text()), (200, "abcd"));
    }
    assert!(two.streams.load(SeqCst) >= 2, "it was asked");
}

#[tokio::test]
async fn a_safe_request_that_waits_at_a_suspected_node_is_tried_elsewhere() {
    let (balancer, two, three) = cluster();
    let instance = Instance::answering("alive").await;
    two.hangs.store(true, SeqCst);
    three.has(2, instance.address);
    balancer.update(table(vec![remote(1, 2)])).await;
    let balancer = Arc::new(balancer);
    let waiting: Vec<_> = ["GET", "POST"]
        .into_iter()
        .map(|method| {
            let balancer = balancer.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(&balancer).await;
                client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                client.response().await.unwrap().status
            })
        })
        .collect();
    eventually("both wait", || two.streams.load(SeqCst) == 2).await;
    balancer.update(table(vec![remote(1, 2), remote(2, 3)])).await;
    balancer.avoid_node(NodeId(2), true);
    let mut waiting = waiting.into_iter();
    assert_eq!(within(waiting.next().unwrap()).await.unwrap(), 200);
    assert_eq!(balancer.in_flight(InstanceId(1)), 1, "the unsafe one waits on");
    let mut client = Client::connect(&balancer).await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.text(), "alive");
    }
    assert_eq!(two.streams.load(SeqCst), 2, "nothing more goes there");
    // The mesh gives the connection up: now the unsafe one knows, too.
    two.mesh.close().await;
    assert_eq!(within(waiting.next().unwrap()).await.unwrap(), 502);
}

#[tokio::test]
async fn upgrades_pass_the_mesh_on_a_stream_of_their_own() {
    let (balancer, two, _three) = cluster();
    let instance = Instance::start(|mut upstream| async move {
        upstream.read_head().await;
        upstream
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        let frame = upstream.read_body(5).await;
        upstream.send(&frame).await;
    })
    .await;
    two.has(1, instance.address);
    balancer.update(table(vec![remote(1, 2)])).await;
    let mut client = Client::connect(&balancer).await;
    client
        .send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe")
        .await;
    assert_eq!(client.head().await.unwrap().0, 101);
    let mut echoed = std::mem::take(&mut client.buffer);
    within(tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut echoed)).await.unwrap();
    assert_eq!(echoed, b"frame");
}

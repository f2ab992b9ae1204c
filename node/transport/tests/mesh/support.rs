//! Nodes for the tests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rung_proto::{ClusterId, Code, Failure, Generation, Incarnation, NodeId};
use rung_transport::{
    CallRefusal, CertificateAuthority, Datagram, Handlers, IncomingCall, KeyPair, Lane, Mesh,
    MeshConfig, MeshLimits, MeshStream, NodeIdentity, PeerIdentity, StreamKind,
};
use tokio::sync::{Notify, mpsc};

pub const HOUR: Duration = Duration::from_secs(3600);
/// Nothing in these tests takes that long unless it is broken.
pub const LONG: Duration = Duration::from_secs(20);

/// Answers with the body it got.
pub const ECHO: u16 = 1;
/// Answers when the node's `release` is notified.
pub const HELD: u16 = 2;
/// Answers with the number of posts that arrived.
pub const FAIL: u16 = 3;
pub const PANIC: u16 = 4;
/// Answers with a body of that many zeros.
pub const LARGE: u16 = 5;
/// Is written down by the node.
pub const NOTE: u16 = 6;

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

pub struct Cluster {
    pub ca: CertificateAuthority,
}

/// A node and what it was given.
pub struct Node {
    pub id: NodeId,
    pub mesh: Mesh,
    pub seen: Arc<Seen>,
    pub datagrams: mpsc::Receiver<Datagram>,
    pub closed: mpsc::Receiver<PeerIdentity>,
    pub streams: mpsc::Receiver<(PeerIdentity, StreamKind, Bytes, MeshStream)>,
}

#[derive(Default)]
pub struct Seen {
    /// The bodies of posts and notes, in the order in which they arrived.
    pub notes: Mutex<Vec<Bytes>>,
    pub started: AtomicU64,
    pub release: Notify,
}

#[derive(Clone)]
pub struct Setup {
    pub incarnation: u64,
    pub generation: u64,
    pub lifetime: Duration,
    pub dc: &'static str,
    pub limits: MeshLimits,
    pub refuses: Arc<Mutex<Vec<NodeId>>>,
    pub bind: SocketAddr,
    pub identity: Option<NodeIdentity>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            incarnation: 1,
            generation: 1,
            lifetime: HOUR,
            dc: "east",
            limits: MeshLimits::default(),
            refuses: Arc::default(),
            bind: "127.0.0.1:0".parse().unwrap(),
            identity: None,
        }
    }
}

impl Cluster {
    pub fn new() -> Self {
        Self { ca: CertificateAuthority::create(ClusterId(77)).unwrap() }
    }

    pub fn identity(&self, id: u64, dc: &str, lifetime: Duration) -> NodeIdentity {
        let key = KeyPair::generate().unwrap();
        self.identity_for(&key, id, dc, lifetime, now_ms())
    }

    pub fn identity_for(
        &self,
        key: &KeyPair,
        id: u64,
        dc: &str,
        lifetime: Duration,
        now_ms: u64,
    ) -> NodeIdentity {
        let csr = key.to_csr().unwrap();
        let certificate = self.ca.sign(&csr, NodeId(id), dc, lifetime, now_ms).unwrap();
        NodeIdentity::new(key, certificate, self.ca.certificate_der().to_vec()).unwrap()
    }

    pub fn node(&self, id: u64) -> Node {
        self.node_with(id, Setup::default())
    }

    pub fn node_with(&self, id: u64, setup: Setup) -> Node {
        self.try_node(id, setup).unwrap()
    }

    pub fn try_node(&self, id: u64, setup: Setup) -> Result<Node, rung_transport::MeshError> {
        let seen = Arc::new(Seen::default());
        let (datagram, datagrams) = mpsc::channel(1000);
        let (closed_sender, closed) = mpsc::channel(100);
        let (stream_sender, streams) = mpsc::channel(1000);
        let handlers = Handlers {
            call: call_handler(seen.clone()),
            stream: Arc::new(move |from, kind, header, stream| {
                stream_sender.try_send((from, kind, header, stream)).unwrap();
            }),
            datagram,
            join: Arc::new(|request, _| Box::pin(join_answer(request))),
            closed: closed_sender,
        };
        let refuses = setup.refuses;
        let identity =
            setup.identity.unwrap_or_else(|| self.identity(id, setup.dc, setup.lifetime));
        let config = MeshConfig {
            bind: setup.bind,
            identity,
            incarnation: Incarnation(setup.incarnation),
            generation: Generation(setup.generation),
            authorise: Arc::new(move |peer| {
                let refused = refuses.lock().unwrap().contains(&peer.node);
                if refused { Err(format!("{} was removed", peer.node)) } else { Ok(()) }
            }),
            limits: setup.limits,
        };
        let mesh = Mesh::start(config, handlers)?;
        Ok(Node { id: NodeId(id), mesh, seen, datagrams, closed, streams })
    }
}

fn call_handler(seen: Arc<Seen>) -> rung_transport::CallHandler {
    Arc::new(move |call: IncomingCall| {
        seen.started.fetch_add(1, Ordering::SeqCst);
        if call.one_way || call.service == NOTE {
            seen.notes.lock().unwrap().push(call.body.clone());
        }
        assert_ne!(call.service, PANIC, "as the test asks for");
        Box::pin(answer(seen.clone(), call))
    })
}

async fn answer(seen: Arc<Seen>, call: IncomingCall) -> Result<Bytes, CallRefusal> {
    match call.service {
        ECHO | NOTE => Ok(call.body),
        HELD => {
            seen.release.notified().await;
            Ok(call.body)
        }
        FAIL => Err(Failure::new(Code::NoQuorum, "as the test asks for").into()),
        LARGE => {
            let size: usize = std::str::from_utf8(&call.body).unwrap().parse().unwrap();
            Ok(vec![0; size].into())
        }
        other => Err(CallRefusal::UnknownService(other)),
    }
}

async fn join_answer(request: Bytes) -> Result<Bytes, Failure> {
    if request == "let me in" {
        return Ok("welcome".into());
    }
    Err(Failure::new(Code::TokenInvalid, "the token is not known"))
}

impl Node {
    pub fn knows(&self, other: &Node) {
        self.mesh.set_peer(other.id, other.mesh.local_addr());
    }

    pub async fn echo(&self, to: &Node) -> Result<Bytes, rung_transport::CallError> {
        self.mesh.call(to.id, Lane::Calls, ECHO, "hello".into(), LONG).await
    }

    pub fn connected_to(&self, other: &Node) -> bool {
        self.mesh.peers().iter().any(|link| link.node == other.id && link.connected)
    }
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < until, "this never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

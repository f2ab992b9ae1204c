//! Nodes with copies of one database, and servers for their clients.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rung_consensus::{
    ByteStream, Consensus, ConsensusConfig, GroupConfig, MeshNetwork, SNAPSHOT_STREAM,
};
use rung_db::{
    Copy, Database, Directory, Limits, ScramVerifier, Server, ServerConfig, ShardPlace, UserRecord,
};
use rung_proto::{ClusterId, Generation, GroupId, Incarnation, NodeId};
use rung_shard::{CopyState, First, Shard, ShardConfig};
use rung_transport::{
    CertificateAuthority, Handlers, IncomingCall, KeyPair, Mesh, MeshConfig, MeshLimits,
    NodeIdentity, StreamKind,
};
use rung_wal::disk::RealDisk;
use rung_wal::{Wal, WalConfig};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::client::Client;

/// Nothing in these tests takes that long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const PASSWORD: &str = "correct horse";
const SERVICE: u16 = 3;
const SQL_STREAM: StreamKind = StreamKind(6);

pub struct Node {
    pub id: NodeId,
    pub mesh: Mesh,
    pub server: Arc<OnceLock<Server>>,
    pub shard: Option<Shard>,
    pub directory: watch::Sender<Arc<Directory>>,
    consensus: Consensus,
    wal: Wal,
}

/// Some nodes. The first ones hold copies of the database `app`.
pub struct Cluster {
    pub runtime: Runtime,
    pub nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

/// Of one iteration, so that thousands of clients of a test get in soon.
const VERIFIER: &str = "SCRAM-SHA-256$1:MDEyMzQ1Njc4OWFiY2RlZg==$\
                        Wmmhj45Nue8NrsYDbtU+KyrFOFsDqD29KMHYrLDk3bE=:0jdS90P8cvF2I/Ju4EYJ6EV5ZGo92TrLttAjR39uJFE=";

impl Cluster {
    /// One node with one copy.
    pub fn single() -> Self {
        Self::start(1, 1, |_| {})
    }

    /// Starts `nodes` nodes of which the first `copies` hold a copy.
    pub fn start(nodes: u64, copies: u64, change: impl Fn(&mut ServerConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let ca = CertificateAuthority::create(ClusterId(5)).unwrap();
        let nodes = runtime.block_on(async {
            let mut all = Vec::new();
            for id in 1..=nodes {
                all.push(start_node(&ca, id, &dir.path().join(id.to_string()), &change).await);
            }
            for node in &all {
                for other in all.iter().filter(|other| other.id != node.id) {
                    node.mesh.set_peer(other.id, other.mesh.local_addr());
                }
            }
            let voters: BTreeSet<NodeId> = (1..=copies).map(NodeId).collect();
            for node in all.iter_mut().take(copies as usize) {
                let mut group = GroupConfig::new(GroupId(9), "db/app/0");
                group.heartbeat = Duration::from_millis(100);
                group.election = (Duration::from_millis(400), Duration::from_millis(800));
                let dir = dir.path().join(format!("shard-{}", node.id.0));
                let config = ShardConfig::new(dir, group, node.id);
                let first = First::Create { voters: voters.clone() };
                node.shard = Some(Shard::open(config, &node.consensus, first).await.unwrap());
            }
            all
        });
        let cluster = Self { runtime, nodes, _dir: dir };
        let primary = cluster.primary();
        cluster.announce(Some(primary));
        cluster
    }

    /// Tells every node where the copies are.
    pub fn announce(&self, primary: Option<NodeId>) {
        let holders = self.nodes.iter().filter(|node| node.shard.is_some());
        let copies: Vec<Copy> =
            holders.map(|node| Copy { node: node.id, dc: "dc".to_owned(), serves: true }).collect();
        for node in &self.nodes {
            let place = ShardPlace { primary, copies: copies.clone(), local: node.shard.clone() };
            let database = Database { shards: BTreeMap::from([(0, place)]) };
            node.directory.send_replace(Arc::new(Directory {
                databases: HashMap::from([("app".to_owned(), database)]),
                nodes: self.nodes.iter().map(|node| node.id).collect(),
            }));
        }
    }

    /// Waits for a primary.
    pub fn primary(&self) -> NodeId {
        let until = Instant::now() + PATIENCE;
        loop {
            let found = self.nodes.iter().find(|node| {
                let shard = node.shard.as_ref();
                shard.is_some_and(|s| matches!(*s.state().borrow(), CopyState::Primary { .. }))
            });
            if let Some(node) = found {
                return node.id;
            }
            assert!(Instant::now() < until, "no copy became the primary");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    pub fn address(&self) -> SocketAddr {
        self.nodes[0].server().address()
    }

    /// A connection of the app to the first node.
    pub fn client(&self) -> Client {
        self.nodes[0].client()
    }
}

impl Node {
    pub fn server(&self) -> &Server {
        self.server.get().unwrap()
    }

    pub fn client(&self) -> Client {
        self.client_with(&[])
    }

    pub fn client_with(&self, settings: &[(&str, &str)]) -> Client {
        Client::connect(self.server().address(), "app", PASSWORD, settings).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        self.runtime.block_on(async {
            for node in nodes {
                if let Some(shard) = &node.shard {
                    shard.close().await;
                }
                node.consensus.shutdown().await;
                node.mesh.close().await;
                let wal = node.wal.clone();
                tokio::task::spawn_blocking(move || wal.close()).await.unwrap();
            }
        });
    }
}

async fn start_node(
    ca: &CertificateAuthority,
    id: u64,
    dir: &std::path::Path,
    change: &impl Fn(&mut ServerConfig),
) -> Node {
    std::fs::create_dir_all(dir).unwrap();
    let consensus: Arc<OnceLock<Consensus>> = Arc::default();
    let server: Arc<OnceLock<Server>> = Arc::default();
    let id = NodeId(id);
    let mesh = mesh(ca, id, Arc::clone(&consensus), Arc::clone(&server));
    let (wal, _) = Wal::open(Arc::new(RealDisk), WalConfig::new(dir.join("wal"))).unwrap();
    let config = ConsensusConfig {
        node: id,
        generation: Generation(1),
        dir: dir.join("groups"),
        disk: Arc::new(RealDisk),
        wal: wal.clone(),
        network: Arc::new(MeshNetwork::new(mesh.clone(), SERVICE)),
    };
    let started = consensus.get_or_init(|| Consensus::start(config)).clone();
    let directory = watch::Sender::new(Arc::default());
    let mut config = ServerConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        listen_private: None,
        threads: 2,
        node: id,
        node_name: format!("n{id}"),
        dc: "dc".to_owned(),
        directory: directory.subscribe(),
        mesh: Some(mesh.clone()),
        stream_kind: SQL_STREAM,
        spool: dir.to_owned(),
        limits: Limits { startup: PATIENCE, ..Limits::default() },
    };
    change(&mut config);
    let listening = Server::start(config).unwrap();
    let user = |name: &str, databases, is_operator| UserRecord {
        name: name.to_owned(),
        verifier: VERIFIER.parse::<ScramVerifier>().unwrap(),
        databases,
        is_operator,
    };
    listening.set_users(vec![
        user("app", Some(vec!["app".to_owned()]), false),
        user("other", Some(vec!["other".to_owned()]), false),
        user("rung", None, true),
    ]);
    assert!(server.set(listening).is_ok());
    Node { id, mesh, server, shard: None, directory, consensus: started, wal }
}

fn mesh(
    ca: &CertificateAuthority,
    id: NodeId,
    consensus: Arc<OnceLock<Consensus>>,
    server: Arc<OnceLock<Server>>,
) -> Mesh {
    let key = KeyPair::generate().unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let csr = key.to_csr().unwrap();
    let certificate = ca.sign(&csr, id, "dc", Duration::from_secs(3600), now_ms).unwrap();
    let identity = NodeIdentity::new(&key, certificate, ca.certificate_der().to_vec()).unwrap();
    let config = MeshConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity,
        incarnation: Incarnation(1),
        generation: Generation(1),
        authorise: Arc::new(|_| Ok(())),
        limits: MeshLimits::default(),
    };
    let for_calls = Arc::clone(&consensus);
    let handlers = Handlers {
        call: Arc::new(move |call: IncomingCall| {
            let consensus = for_calls.get().expect("nobody knows our address before the start");
            let answer = consensus.handle(call.from.node, call.body);
            Box::pin(async move { answer.await.map_err(Into::into) })
        }),
        stream: Arc::new(move |from, kind, header, stream| {
            if kind == SQL_STREAM {
                server.get().expect("as above").serve_stream(from, header, stream);
                return;
            }
            assert_eq!(kind, SNAPSHOT_STREAM);
            let consensus = consensus.get().expect("as above").clone();
            tokio::spawn(async move {
                // The sender learns of a failure by the stream's end.
                let _ = consensus.serve_stream(from.node, header, ByteStream::from(stream)).await;
            });
        }),
        datagram: mpsc::channel(1).0,
        join: Arc::new(|request: Bytes, _| Box::pin(std::future::ready(Ok(request)))),
        closed: mpsc::channel(1).0,
    };
    Mesh::start(config, handlers).unwrap()
}

/// Waits until the condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "this never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

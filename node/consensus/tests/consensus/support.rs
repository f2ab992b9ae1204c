//! Nodes in one process: real meshes on 127.0.0.1, real files.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rung_consensus::{
    ByteStream, Committed, Consensus, ConsensusConfig, Group, GroupConfig, GroupStatus,
    MeshNetwork, ProposeError, SNAPSHOT_STREAM, SnapshotSource, StateMachine,
};
use rung_proto::{ClusterId, Generation, GroupId, Incarnation, NodeId};
use rung_transport::{
    CertificateAuthority, Handlers, IncomingCall, KeyPair, Mesh, MeshConfig, MeshLimits,
    NodeIdentity,
};
use rung_wal::disk::RealDisk;
use rung_wal::{Wal, WalConfig};
use tokio::sync::mpsc;

pub const SERVICE: u16 = 3;
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps all payloads in their order.
#[derive(Clone, Default)]
pub struct List(pub Arc<Mutex<Vec<Bytes>>>);

impl List {
    pub fn items(&self) -> Vec<Bytes> {
        self.0.lock().unwrap().clone()
    }
}

impl StateMachine for List {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        let mut items = self.0.lock().unwrap();
        let answers = entries.iter().map(|entry| {
            items.push(entry.payload.clone());
            Bytes::copy_from_slice(&(items.len() as u64).to_be_bytes())
        });
        Ok(answers.collect())
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        let mut bytes = Vec::new();
        for item in self.0.lock().unwrap().iter() {
            bytes.extend((item.len() as u32).to_be_bytes());
            bytes.extend_from_slice(item);
        }
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut items = Vec::new();
        let mut size = [0; 4];
        loop {
            match source.read_exact(&mut size) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            let mut item = vec![0; u32::from_be_bytes(size) as usize];
            source.read_exact(&mut item)?;
            items.push(Bytes::from(item));
        }
        *self.0.lock().unwrap() = items;
        Ok(())
    }
}

/// A node: its mesh, its log and its groups.
pub struct Node {
    pub id: NodeId,
    pub mesh: Mesh,
    pub wal: Wal,
    pub consensus: Consensus,
}

impl Node {
    /// Starts a node on a directory.
    pub fn start(ca: &CertificateAuthority, id: u64, dir: &Path) -> Self {
        let consensus: Arc<OnceLock<Consensus>> = Arc::default();
        let mesh = mesh(ca, NodeId(id), Arc::clone(&consensus));
        let (wal, _) = Wal::open(Arc::new(RealDisk), WalConfig::new(dir.join("wal"))).unwrap();
        let config = ConsensusConfig {
            node: NodeId(id),
            generation: Generation(1),
            dir: dir.join("groups"),
            disk: Arc::new(RealDisk),
            wal: wal.clone(),
            network: Arc::new(MeshNetwork::new(mesh.clone(), SERVICE)),
        };
        let started = consensus.get_or_init(|| Consensus::start(config)).clone();
        Self { id: NodeId(id), mesh, wal, consensus: started }
    }

    pub async fn stop(self) {
        self.consensus.shutdown().await;
        self.mesh.close().await;
        let wal = self.wal.clone();
        tokio::task::spawn_blocking(move || wal.close()).await.unwrap();
    }
}

fn mesh(ca: &CertificateAuthority, id: NodeId, consensus: Arc<OnceLock<Consensus>>) -> Mesh {
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
            assert_eq!(kind, SNAPSHOT_STREAM);
            let consensus = consensus.get().expect("as above").clone();
            tokio::spawn(async move {
                // The sender learns of a failure by the stream's end.
                let _ = consensus.serve_stream(from.node, header, ByteStream::from(stream)).await;
            });
        }),
        datagram: mpsc::channel(1).0,
        join: Arc::new(|request, _| Box::pin(std::future::ready(Ok(request)))),
        closed: mpsc::channel(1).0,
    };
    Mesh::start(config, handlers).unwrap()
}

/// Several nodes that know each other's addresses.
pub struct Cluster {
    ca: CertificateAuthority,
    root: tempfile::TempDir,
    pub nodes: Vec<Node>,
}

impl Cluster {
    pub fn start(count: u64) -> Self {
        let ca = CertificateAuthority::create(ClusterId(1)).unwrap();
        let root = tempfile::tempdir().unwrap();
        let mut cluster = Self { ca, root, nodes: Vec::new() };
        (1..=count).for_each(|id| cluster.start_node(id));
        cluster
    }

    pub fn dir(&self, id: u64) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    pub fn start_node(&mut self, id: u64) {
        let node = Node::start(&self.ca, id, &self.dir(id));
        for other in &self.nodes {
            other.mesh.set_peer(node.id, node.mesh.local_addr());
            node.mesh.set_peer(other.id, other.mesh.local_addr());
        }
        self.nodes.push(node);
    }

    pub async fn stop_node(&mut self, id: u64) {
        let at = self.nodes.iter().position(|node| node.id.0 == id).unwrap();
        self.nodes.remove(at).stop().await;
    }

    pub async fn stop_all(&mut self) {
        for node in self.nodes.drain(..) {
            node.stop().await;
        }
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id.0 == id).unwrap()
    }

    /// Makes a group on these nodes.
    pub async fn create(&self, config: &GroupConfig, voters: &[u64]) -> Vec<(Group, List)> {
        let ids: BTreeSet<NodeId> = voters.iter().map(|id| NodeId(*id)).collect();
        let mut opened = Vec::new();
        for id in &voters[1..] {
            let list = List::default();
            let consensus = &self.node(*id).consensus;
            opened.push((consensus.open(config.clone(), list.clone()).await.unwrap(), list));
        }
        let list = List::default();
        let consensus = &self.node(voters[0]).consensus;
        let group = consensus.create(config.clone(), list.clone(), &ids).await.unwrap();
        opened.insert(0, (group, list));
        opened
    }
}

/// A configuration with short timeouts.
pub fn quick(group: u64) -> GroupConfig {
    GroupConfig {
        heartbeat: Duration::from_millis(100),
        election: (Duration::from_millis(400), Duration::from_millis(800)),
        ..GroupConfig::new(GroupId(group), format!("test-{group}"))
    }
}

/// Waits until the group's state on this node is as wanted.
pub async fn wait_for(
    group: &Group,
    what: &str,
    wanted: impl Fn(&GroupStatus) -> bool,
) -> GroupStatus {
    let mut status = group.status();
    match tokio::time::timeout(PATIENCE, status.wait_for(&wanted)).await {
        Ok(found) => found.unwrap().clone(),
        Err(_) => panic!("{group:?} never {what}: {:?}", group.status().borrow()),
    }
}

/// The one of these groups that leads and whose lead a quorum confirms.
pub async fn leader(groups: &[(Group, List)]) -> &(Group, List) {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        for group in groups {
            let leads = group.0.status().borrow().is_leader();
            if leads && group.0.read_barrier(Duration::from_secs(2)).await.is_ok() {
                return group;
            }
        }
        assert!(
            tokio::time::Instant::now() < until,
            "nobody leads {groups:?}",
            groups =
                groups.iter().map(|(group, _)| group.status().borrow().clone()).collect::<Vec<_>>()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Proposes on whoever leads until it is known to be applied. Returns whether it
/// had to be asked again after an unknown outcome.
pub async fn propose(groups: &[(Group, List)], payload: impl Into<Bytes>) -> u64 {
    let payload = payload.into();
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut last = None;
        for (group, _) in groups {
            match group.propose(payload.clone(), Duration::from_secs(5)).await {
                Ok(applied) => return applied.index,
                Err(error @ (ProposeError::NotLeader { .. } | ProposeError::NoQuorum { .. })) => {
                    last = Some(error);
                }
                Err(error) => panic!("a proposal failed: {error}"),
            }
        }
        assert!(tokio::time::Instant::now() < until, "no proposal was taken: {last:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

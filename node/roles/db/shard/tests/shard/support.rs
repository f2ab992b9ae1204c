//! Nodes in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rung_consensus::{
    ByteStream, Consensus, ConsensusConfig, GroupConfig, GroupStatus, Network, NetworkError,
    OpenError,
};
use rung_proto::{Generation, GroupId, NodeId};
use rung_shard::{
    Cancel, CopyState, First, ReadLevel, Shard, ShardConfig, ShardError, Token, Verdict,
};
use rung_sql::Executor;
use rung_wal::disk::RealDisk;
use rung_wal::{Wal, WalConfig};
use tokio::sync::watch;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(15);
const GROUP: GroupId = GroupId(5);

/// Who can reach whom.
#[derive(Default)]
struct Links {
    nodes: Mutex<BTreeMap<NodeId, Consensus>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Streams that were opened, and whether their content is kept back.
    streams: Mutex<usize>,
    holds_streams: watch::Sender<bool>,
}

impl Links {
    fn reach(&self, from: NodeId, to: NodeId) -> Option<Consensus> {
        if self.cut.lock().unwrap().contains(&(from, to)) {
            return None;
        }
        self.nodes.lock().unwrap().get(&to).cloned()
    }
}

struct Link {
    links: Arc<Links>,
    from: NodeId,
}

impl Network for Link {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let (links, from) = (Arc::clone(&self.links), self.from);
        async move {
            let Some(peer) = links.reach(from, to) else {
                return Err(NetworkError::Unreachable(to, "it is cut off".to_owned()));
            };
            let answer = tokio::time::timeout(deadline, peer.handle(from, body)).await;
            if links.reach(to, from).is_none() {
                return Err(NetworkError::NoAnswer(to, "it was cut off".to_owned()));
            }
            match answer {
                Err(_) => Err(NetworkError::NoAnswer(to, "too late".to_owned())),
                Ok(Err(refusal)) => Err(NetworkError::Refused(to, refusal.to_string())),
                Ok(Ok(answer)) => Ok(answer),
            }
        }
        .boxed()
    }

    fn open_stream(
        &self,
        to: NodeId,
        header: Bytes,
        _deadline: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetworkError>> {
        let (links, from) = (Arc::clone(&self.links), self.from);
        async move {
            let Some(peer) = links.reach(from, to) else {
                return Err(NetworkError::Unreachable(to, "it is cut off".to_owned()));
            };
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let stream = |end| {
                let (receive, send) = tokio::io::split(end);
                ByteStream { send: Box::new(send), receive: Box::new(receive) }
            };
            let theirs = stream(theirs);
            *links.streams.lock().unwrap() += 1;
            let mut held = links.holds_streams.subscribe();
            // The sender learns of a failure by the stream's end.
            tokio::spawn(async move {
                let _ = held.wait_for(|held| !held).await;
                drop(peer.serve_stream(from, header, theirs).await)
            });
            Ok(stream(ours))
        }
        .boxed()
    }
}

/// A node with a copy of the shard.
pub struct Node {
    pub consensus: Consensus,
    pub shard: Shard,
    wal: Wal,
}

/// Nodes with copies of one shard.
pub struct Cluster {
    root: tempfile::TempDir,
    links: Arc<Links>,
    pub nodes: BTreeMap<u64, Node>,
    pub change: fn(&mut ShardConfig),
}

pub fn id(node: u64) -> NodeId {
    NodeId(node)
}

impl Cluster {
    /// Nodes 1 to `voters`, with a primary.
    pub async fn start(voters: u64) -> Self {
        Self::start_with(voters, |_| {}).await
    }

    /// The same with another configuration.
    pub async fn start_with(voters: u64, change: fn(&mut ShardConfig)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut cluster = Self { root, links: Arc::default(), nodes: BTreeMap::new(), change };
        let all: BTreeSet<NodeId> = (1..=voters).map(NodeId).collect();
        for node in 2..=voters {
            cluster.open(node, First::Open).await;
        }
        cluster.open(1, First::Create { voters: all }).await;
        cluster.primary().await;
        cluster
    }

    /// One node with a table, that makes checkpoints often and purges its log after them.
    pub async fn start_purging() -> (Self, Shard) {
        let cluster = Self::start_with(1, |config| {
            config.limits.checkpoint_bytes = 256 << 10;
            config.group.keep_entries = 10;
        })
        .await;
        let (_, shard) = cluster.primary().await;
        write(&shard, "CREATE TABLE t(x)").await.unwrap();
        (cluster, shard)
    }

    pub fn dir(&self, node: u64) -> PathBuf {
        self.root.path().join(node.to_string())
    }

    fn config(&self, node: u64) -> ShardConfig {
        let group = GroupConfig {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(400), Duration::from_millis(800)),
            ..GroupConfig::new(GROUP, format!("db/test/{node}"))
        };
        let mut config = ShardConfig::new(self.dir(node).join("shard"), group, id(node));
        (self.change)(&mut config);
        config
    }

    /// Starts a node.
    pub async fn open(&mut self, node: u64, first: First) {
        self.try_open(node, first).await.unwrap();
    }

    pub async fn try_open(&mut self, node: u64, first: First) -> Result<(), OpenError> {
        let dir = self.dir(node);
        let (wal, _) = tokio::task::spawn_blocking(move || {
            Wal::open(Arc::new(RealDisk), WalConfig::new(dir.join("wal"))).unwrap()
        })
        .await
        .unwrap();
        let consensus = Consensus::start(ConsensusConfig {
            node: id(node),
            generation: Generation(1),
            dir: self.dir(node).join("groups"),
            disk: Arc::new(RealDisk),
            wal: wal.clone(),
            network: Arc::new(Link { links: Arc::clone(&self.links), from: id(node) }),
        });
        self.links.nodes.lock().unwrap().insert(id(node), consensus.clone());
        let shard = Shard::open(self.config(node), &consensus, first).await?;
        self.nodes.insert(node, Node { consensus, shard, wal });
        Ok(())
    }

    /// Cuts the primary off until another one leads, and it follows that one.
    pub async fn depose(&self, node: u64) {
        self.isolate(node);
        let others: Vec<_> = self.nodes.iter().filter(|(id, _)| **id != node).collect();
        eventually("another copy is the primary", || {
            others.iter().any(|(_, it)| it.shard.state().borrow().is_primary())
        })
        .await;
        self.mend();
        let old = self.shard(node);
        eventually("the old primary follows", || !old.state().borrow().is_primary()).await;
    }

    /// Ends a node at once: nobody hears of it any more, and what is not on its disk
    /// is gone.
    pub async fn kill(&mut self, node: u64) {
        self.links.nodes.lock().unwrap().remove(&id(node));
        let Some(Node { consensus, shard, wal }) = self.nodes.remove(&node) else { return };
        shard.close().await;
        consensus.shutdown().await;
        drop(shard);
        tokio::task::spawn_blocking(move || wal.close()).await.unwrap();
    }

    /// Starts a node that was killed.
    pub async fn restart(&mut self, node: u64) {
        self.open(node, First::Open).await;
    }

    /// Cuts a node off from all others, in both directions.
    pub fn isolate(&self, node: u64) {
        let mut cut = self.links.cut.lock().unwrap();
        for other in (1..=9).filter(|other| *other != node) {
            cut.insert((id(node), id(other)));
            cut.insert((id(other), id(node)));
        }
    }

    /// Keeps back what is sent on streams, or no longer.
    pub fn hold_streams(&self, hold: bool) {
        self.links.holds_streams.send_replace(hold);
    }

    /// How many streams were opened.
    pub fn streams(&self) -> usize {
        *self.links.streams.lock().unwrap()
    }

    pub fn mend(&self) {
        self.links.cut.lock().unwrap().clear();
    }

    pub fn shard(&self, node: u64) -> &Shard {
        &self.nodes[&node].shard
    }

    /// The primary that a quorum confirms, and its node.
    pub async fn primary(&self) -> (u64, Shard) {
        let until = Instant::now() + PATIENCE;
        loop {
            for (node, Node { shard, .. }) in &self.nodes {
                let is_primary = matches!(*shard.state().borrow(), CopyState::Primary { .. });
                let barrier = Duration::from_millis(500);
                if is_primary && shard.group().read_barrier(barrier).await.is_ok() {
                    return (*node, shard.clone());
                }
            }
            assert!(Instant::now() < until, "there is no primary: {:?}", self.states());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn states(&self) -> Vec<(u64, CopyState, GroupStatus)> {
        let state = |(node, it): (&u64, &Node)| {
            let group = it.shard.group().status().borrow().clone();
            (*node, it.shard.state().borrow().clone(), group)
        };
        self.nodes.iter().map(state).collect()
    }

    pub async fn stop(mut self) {
        let nodes: Vec<u64> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.kill(node).await;
        }
    }
}

/// Executes statements as one autocommit write.
pub async fn write(shard: &Shard, sql: impl Into<String>) -> Result<Token, ShardError> {
    write_until(shard, sql, PATIENCE).await
}

pub async fn write_until(
    shard: &Shard,
    sql: impl Into<String>,
    deadline: Duration,
) -> Result<Token, ShardError> {
    let sql = sql.into();
    let work = move |executor: &mut Executor| match executor.connection().execute_batch(&sql) {
        Ok(()) => Verdict::Keep(Ok(())),
        Err(error) => Verdict::Undo(Err(error.to_string())),
    };
    let (result, token) = shard.write(deadline, &Cancel::new(), work).await?;
    result.map_err(ShardError::Failed).map(|()| token)
}

/// Inserts rows of 3 kB.
pub async fn fill(shard: &Shard, rows: usize) {
    for _ in 0..rows {
        write(shard, "INSERT INTO t VALUES (randomblob(3000))").await.unwrap();
    }
}

/// Reads one number.
pub fn number(executor: &mut Executor, sql: &str) -> i64 {
    executor.connection().query_row(sql, [], |row| row.get(0)).unwrap_or(-1)
}

pub async fn read(shard: &Shard, level: ReadLevel, sql: &'static str) -> Result<i64, ShardError> {
    let work = move |executor: &mut Executor, _: &rung_shard::Turn| number(executor, sql);
    shard.read(level, PATIENCE, &Cancel::new(), work).await.map(|(value, _)| value)
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "it never came that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! The mesh: one UDP port on which a node speaks with all others.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rung_proto::{Failure, Generation, Incarnation, NodeId};
use tokio::sync::{mpsc, watch};

use crate::error::{CallError, CallRefusal, MeshError};
use crate::frame::{LinkClass, MAX_STREAM_HEADER, encode_stream_start};
use crate::identity::{NodeIdentity, PeerIdentity};
use crate::lane::Lane;
use crate::link::{CloseCode, Link};
use crate::peer::{BulkLink, Outgoing, Peer, Submitted};
use crate::serve::LocalServer;
use crate::shape::{LinkShape, LinkShapes};
use crate::stream::{MeshStream, StreamKind};
use crate::sync::lock;
use crate::tls::Credentials;
use crate::{endpoint, join};

/// The largest datagram, in bytes: what surely fits a QUIC packet of 1200 bytes.
pub const MAX_DATAGRAM: usize = 1100;

/// Decides whether a peer may talk to us; the text says why not.
pub type Authorise = Arc<dyn Fn(&PeerIdentity) -> Result<(), String> + Send + Sync>;

/// How the mesh is set up.
pub struct MeshConfig {
    /// The UDP address to listen on.
    pub bind: SocketAddr,
    pub identity: NodeIdentity,
    pub incarnation: Incarnation,
    pub generation: Generation,
    /// Asked on both sides, once for each connection, after the peer has proved
    /// who it is.
    pub authorise: Authorise,
    pub limits: MeshLimits,
}

/// Bounds of everything that a peer or our own callers can make grow.
#[derive(Clone, Debug)]
pub struct MeshLimits {
    /// Bytes in the body of a call, an answer or a post; at most 64 MiB.
    pub max_frame: usize,
    /// Bytes that wait to be sent on each lane of each peer.
    pub queue_bytes: usize,
    /// Messages that wait for a connection to each peer.
    pub queue_frames: usize,
    /// Calls of one peer that are worked on at a time, on each lane.
    pub max_calls: usize,
    /// Streams that a peer may have open at a time.
    pub max_streams: u32,
    /// Bytes that a peer may send on one stream ahead of our reading.
    pub stream_window: u32,
    /// Bytes that a peer may send on all streams together ahead of our reading.
    /// It should be many times `stream_window`, or a few streams that nobody
    /// reads hold up all others.
    pub connection_window: u32,
    /// Bytes that we send ahead of the peer's acknowledgements.
    pub send_window: u64,
    /// A connection on which nothing arrives for that long has ended. The
    /// smaller value of the two sides counts.
    pub idle_timeout: Duration,
    /// How often an idle connection is shown to be alive.
    pub keep_alive: Duration,
    /// For connecting, with all greetings.
    pub connect_timeout: Duration,
    /// Between attempts to connect that fail; it doubles up to the second value.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// Connections with peers, of both directions, and entries in the address
    /// book.
    pub max_connections: usize,
    /// Connections that have not yet proved who they are.
    pub max_handshakes: usize,
    /// Joins that are worked on at a time, and that may begin in a second.
    pub max_joins: usize,
    pub joins_per_second: f64,
    /// How long a join may take.
    pub join_timeout: Duration,
    /// How long the handler of a post may take.
    pub post_timeout: Duration,
}

impl Default for MeshLimits {
    fn default() -> Self {
        Self {
            max_frame: 4 * 1024 * 1024,
            queue_bytes: 16 * 1024 * 1024,
            queue_frames: 8192,
            max_calls: 1024,
            max_streams: 4096,
            stream_window: 2 * 1024 * 1024,
            connection_window: 256 * 1024 * 1024,
            send_window: 16 * 1024 * 1024,
            idle_timeout: Duration::from_secs(8),
            keep_alive: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            max_connections: 4096,
            max_handshakes: 128,
            max_joins: 8,
            joins_per_second: 20.0,
            join_timeout: Duration::from_secs(30),
            post_timeout: Duration::from_secs(10),
        }
    }
}

/// A call or a post from another node.
#[derive(Clone, Debug)]
pub struct IncomingCall {
    pub from: PeerIdentity,
    pub from_incarnation: Incarnation,
    pub lane: Lane,
    pub service: u16,
    pub body: Bytes,
    /// When the caller gives up. The handler's future is dropped then: what must
    /// be finished belongs into a task of its own.
    pub deadline: Instant,
    /// Nobody waits for the result.
    pub one_way: bool,
}

/// A datagram from another node.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub from: PeerIdentity,
    pub address: SocketAddr,
    pub body: Bytes,
}

pub type CallHandler =
    Arc<dyn Fn(IncomingCall) -> BoxFuture<'static, Result<Bytes, CallRefusal>> + Send + Sync>;
pub type StreamHandler = Arc<dyn Fn(PeerIdentity, StreamKind, Bytes, MeshStream) + Send + Sync>;
pub type JoinHandler =
    Arc<dyn Fn(Bytes, SocketAddr) -> BoxFuture<'static, Result<Bytes, Failure>> + Send + Sync>;

/// What is done with what arrives. None of these functions may block.
#[derive(Clone)]
pub struct Handlers {
    /// The function is called, and its future polled for the first time, in the
    /// order of arrival on a lane. Futures that are not ready then run at the
    /// same time, each in a task.
    pub call: CallHandler,
    /// A stream, its kind and header.
    pub stream: StreamHandler,
    /// Where datagrams go; what finds it full is dropped and counted.
    pub datagram: mpsc::Sender<Datagram>,
    /// A request of one who has no certificate.
    pub join: JoinHandler,
    /// The main connection with a peer ended and there is no other: a hint, no
    /// proof, that it is gone. Dropped when full.
    pub closed: mpsc::Sender<PeerIdentity>,
}

/// The state of the connection with one peer.
#[derive(Clone, Debug)]
pub struct PeerLink {
    pub node: NodeId,
    pub dc: Option<String>,
    /// Where it is connected, or would be looked for.
    pub address: Option<SocketAddr>,
    pub connected: bool,
    pub incarnation: Option<Incarnation>,
    pub generation: Option<Generation>,
    /// Smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// UDP payload bytes of the current connections, both classes.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub packets_lost: u64,
    /// Bytes that wait to be written to the lanes.
    pub queued_bytes: u64,
    pub datagrams_dropped: u64,
    pub posts_dropped: u64,
}

/// What counts for the mesh as a whole.
#[derive(Default)]
pub(crate) struct Counters {
    /// Datagrams that arrived and found the receiver full.
    pub datagrams_dropped: AtomicU64,
    /// Calls that were refused because too many were worked on.
    pub calls_refused: AtomicU64,
    /// Connections that were refused, for whatever reason.
    pub connections_refused: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshCounters {
    pub datagrams_dropped: u64,
    pub calls_refused: u64,
    pub connections_refused: u64,
    /// Packets that simulated links lost.
    pub packets_shaped_away: u64,
}

pub(crate) struct Inner {
    pub me: PeerIdentity,
    pub incarnation: Incarnation,
    pub limits: MeshLimits,
    authorise: Authorise,
    pub handlers: Handlers,
    pub endpoint: quinn::Endpoint,
    pub local_addr: SocketAddr,
    pub credentials: Arc<Credentials>,
    pub client_main: quinn::ClientConfig,
    pub client_bulk: quinn::ClientConfig,
    /// The runtime of the mesh; callers may be on another one.
    pub runtime: tokio::runtime::Handle,
    pub shapes: Arc<LinkShapes>,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    dc_hints: Mutex<HashMap<NodeId, String>>,
    generation: AtomicU64,
    generation_seen: watch::Sender<Generation>,
    pub connections: AtomicUsize,
    pub counters: Counters,
    pub joins: join::JoinGate,
    local: LocalServer,
}

/// A node's place in the mesh. Clones are the same mesh. It lives until
/// [`Mesh::close`].
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl Mesh {
    /// Listens, and accepts peers from now on.
    ///
    /// # Errors
    /// When the address cannot be listened on, the certificate is not usable, or
    /// there is no tokio runtime.
    pub fn start(config: MeshConfig, handlers: Handlers) -> Result<Mesh, MeshError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| MeshError::NoRuntime)?;
        let shapes = Arc::new(LinkShapes::default());
        let parts = endpoint::open(&config, &shapes, &runtime)?;
        let inner = Arc::new(Inner {
            me: config.identity.peer(),
            incarnation: config.incarnation,
            joins: join::JoinGate::new(&config.limits),
            local: LocalServer::new(&config.limits),
            limits: config.limits,
            authorise: config.authorise,
            handlers,
            endpoint: parts.endpoint,
            local_addr: parts.local_addr,
            credentials: parts.credentials,
            client_main: parts.client_main,
            client_bulk: parts.client_bulk,
            runtime: runtime.clone(),
            shapes,
            peers: Mutex::default(),
            dc_hints: Mutex::default(),
            generation: AtomicU64::new(config.generation.0),
            generation_seen: watch::Sender::new(config.generation),
            connections: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        runtime.spawn(endpoint::accept_all(inner.clone()));
        tracing::info!(node = %inner.me.node, address = %inner.local_addr, "mesh listens");
        Ok(Mesh { inner })
    }

    /// The UDP address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Who we are.
    pub fn identity(&self) -> PeerIdentity {
        self.inner.me.clone()
    }

    /// Enters a node into the address book.
    pub fn set_peer(&self, node: NodeId, address: SocketAddr) {
        if node == self.inner.me.node {
            return;
        }
        let Some(peer) = self.inner.peer_or_new(node) else {
            tracing::error!(peer = %node, "the address book is full");
            return;
        };
        peer.set_address(address);
        let dc = lock(&self.inner.dc_hints).get(&node).cloned();
        if let Some(dc) = dc {
            self.inner.shapes.learn(address, &dc);
        }
    }

    /// Tells in which data center a node is, before there was a connection with
    /// it. Only simulated links need to know.
    pub fn set_peer_dc(&self, node: NodeId, dc: &str) {
        let peer = self.inner.peer(node);
        if let Some(address) = peer.and_then(|peer| peer.address()) {
            self.inner.shapes.learn(address, dc);
        }
        let mut hints = lock(&self.inner.dc_hints);
        if hints.len() < self.inner.limits.max_connections || hints.contains_key(&node) {
            hints.insert(node, dc.to_owned());
        }
    }

    /// Takes a node out of the address book and closes its connections.
    pub fn remove_peer(&self, node: NodeId) {
        let peer = lock(&self.inner.peers).remove(&node);
        lock(&self.inner.dc_hints).remove(&node);
        let Some(peer) = peer else { return };
        for link in peer.remove() {
            link.close(CloseCode::Refused, "the node was removed");
        }
    }

    /// Where a node is looked for.
    pub fn address_of(&self, node: NodeId) -> Option<SocketAddr> {
        self.inner.peer(node)?.address()
    }

    /// Ends the connections with a node whose process has ended, so that nobody waits
    /// for answers of it. It stays in the address book.
    pub fn disconnect(&self, node: NodeId) {
        let links = self.inner.peer(node).map(|peer| peer.links());
        for link in links.into_iter().flatten() {
            link.close(CloseCode::Done, "the process at the other end is gone");
        }
    }

    /// Uses another certificate for new connections; those that exist go on.
    /// One that TLS cannot use is logged and the old one kept.
    pub fn replace_identity(&self, identity: NodeIdentity) {
        if identity.peer() != self.inner.me {
            tracing::error!(identity = %identity.peer(), "a certificate of another node was not taken");
            return;
        }
        if let Err(error) = self.inner.credentials.replace(&identity) {
            tracing::error!(%error, "the renewed certificate was not taken");
        }
    }

    /// Greets with another generation from now on.
    pub fn set_generation(&self, generation: Generation) {
        self.inner.generation.store(generation.0, Ordering::Release);
        self.inner.meet_generation(generation);
    }

    /// The highest generation that was met so far, our own included. Whoever
    /// finds it above its own must not act on its own logs any more.
    pub fn generation_seen(&self) -> watch::Receiver<Generation> {
        self.inner.generation_seen.subscribe()
    }

    /// Asks a node and waits for the answer. It is done at most once; where
    /// [`CallError::outcome_unknown`] is true it may have been done.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        to: NodeId,
        lane: Lane,
        service: u16,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let inner = &self.inner;
        inner.check_size(&body)?;
        let deadline = Instant::now() + deadline.min(MAX_DEADLINE);
        if to == inner.me.node {
            return inner.local.call(inner, lane, service, body, deadline).await;
        }
        let peer = inner.peer(to).ok_or(CallError::UnknownPeer)?;
        let (call, answer) = peer.register(lane);
        let outgoing = Outgoing::Call { id: call.id, service, body, deadline };
        inner.submit(&peer, lane, outgoing)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::ConnectionLost),
            Err(_) if call.give_up() => Err(CallError::Deadline),
            Err(_) => {
                Err(CallError::Unreachable("there was no connection before the deadline".into()))
            }
        }
    }

    /// Sends one way, in order with the other posts and calls on that lane. It
    /// never waits.
    ///
    /// # Errors
    /// When the node is unknown, the message too large or the queue full. That
    /// it was sent does not mean that it arrives.
    pub fn post(&self, to: NodeId, lane: Lane, service: u16, body: Bytes) -> Result<(), CallError> {
        let inner = &self.inner;
        inner.check_size(&body)?;
        if to == inner.me.node {
            return inner.local.post(inner, lane, service, body);
        }
        let peer = inner.peer(to).ok_or(CallError::UnknownPeer)?;
        inner.submit(&peer, lane, Outgoing::Post { service, body })
    }

    /// Opens a stream of its own on the bulk connection, without waiting for the
    /// peer once that connection is there. The header, at most
    /// [`MAX_STREAM_HEADER`] bytes, comes with its first packet.
    ///
    /// # Errors
    /// See [`CallError`]. A node cannot open a stream to itself.
    pub async fn open_stream(
        &self,
        to: NodeId,
        kind: StreamKind,
        header: Bytes,
        deadline: Duration,
    ) -> Result<MeshStream, CallError> {
        if header.len() > MAX_STREAM_HEADER {
            return Err(CallError::TooLarge { size: header.len(), limit: MAX_STREAM_HEADER });
        }
        let peer = self.inner.peer(to).ok_or(CallError::UnknownPeer)?;
        let open = async {
            let (send, recv) = self.inner.open_bi(&peer).await?;
            let mut stream = MeshStream { send, recv };
            stream
                .send
                .write_chunk(encode_stream_start(kind.0, &header))
                .await
                .map_err(|_| CallError::ConnectionLost)?;
            Ok(stream)
        };
        tokio::time::timeout(deadline.min(MAX_DEADLINE), open).await.unwrap_or_else(|_| {
            Err(CallError::Unreachable("no stream could be opened before the deadline".into()))
        })
    }

    /// Sends at most [`MAX_DATAGRAM`] bytes, which may get lost. It connects on
    /// demand, to `address` where the address book has none.
    pub fn send_datagram(&self, to: NodeId, address: SocketAddr, body: Bytes) {
        if to == self.inner.me.node {
            return;
        }
        let Some(peer) = self.inner.peer_or_new(to) else {
            return;
        };
        if body.len() > MAX_DATAGRAM {
            tracing::debug!(size = body.len(), limit = MAX_DATAGRAM, "datagram too large");
            peer.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if peer.send_datagram(address, body) {
            self.inner.start_dial(&peer, LinkClass::Main);
        }
    }

    /// All peers, for metrics.
    pub fn peers(&self) -> Vec<PeerLink> {
        let peers: Vec<_> = lock(&self.inner.peers).values().cloned().collect();
        peers.iter().map(|peer| describe(peer)).collect()
    }

    /// Counters of the whole mesh.
    pub fn counters(&self) -> MeshCounters {
        let counters = &self.inner.counters;
        MeshCounters {
            datagrams_dropped: counters.datagrams_dropped.load(Ordering::Relaxed),
            calls_refused: counters.calls_refused.load(Ordering::Relaxed),
            connections_refused: counters.connections_refused.load(Ordering::Relaxed),
            packets_shaped_away: self.inner.shapes.lost(),
        }
    }

    /// Simulates the link to a data center: what we send there is late, lost or
    /// cut off. `None` ends it.
    pub fn shape(&self, dc: &str, shape: Option<LinkShape>) {
        self.inner.shapes.set(dc, shape);
    }

    /// Ends all connections, tells the peers so, and stops listening.
    pub async fn close(&self) {
        self.inner.endpoint.close((CloseCode::Shutdown as u32).into(), b"the node shuts down");
        // The peers learn of it by the closing packets; one that does not
        // acknowledge them must not hold us up.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.inner.endpoint.wait_idle()).await;
    }
}

/// No call waits longer than that.
const MAX_DEADLINE: Duration = Duration::from_secs(3600);

fn describe(peer: &Peer) -> PeerLink {
    let links = peer.links();
    let main = links.iter().find(|link| link.class == LinkClass::Main);
    let first = links.first();
    let mut described = PeerLink {
        node: peer.node,
        dc: first.map(|link| link.identity.dc.clone()),
        address: first.map(|link| link.connection.remote_address()).or_else(|| peer.address()),
        connected: main.is_some(),
        incarnation: first.map(|link| link.incarnation),
        generation: first.map(|link| link.generation),
        rtt: first.map(|link| link.connection.rtt()),
        bytes_sent: 0,
        bytes_received: 0,
        packets_lost: 0,
        queued_bytes: 0,
        datagrams_dropped: peer.datagrams_dropped.load(Ordering::Relaxed),
        posts_dropped: peer.posts_dropped.load(Ordering::Relaxed),
    };
    for link in &links {
        let stats = link.connection.stats();
        described.bytes_sent += stats.udp_tx.bytes;
        described.bytes_received += stats.udp_rx.bytes;
        described.packets_lost += stats.path.lost_packets;
        for lane in Lane::ALL {
            described.queued_bytes += link.outbox(lane).waiting() as u64;
        }
    }
    described
}

impl Inner {
    pub(crate) fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned()
    }

    /// The peer, as a new one if need be; nothing when there are too many.
    pub(crate) fn peer_or_new(&self, node: NodeId) -> Option<Arc<Peer>> {
        let mut peers = lock(&self.peers);
        if let Some(peer) = peers.get(&node) {
            return Some(peer.clone());
        }
        if peers.len() >= self.limits.max_connections {
            return None;
        }
        let peer = Peer::new(node);
        peers.insert(node, peer.clone());
        Some(peer)
    }

    /// Whether a peer that greets us is welcome.
    pub(crate) fn admit(
        &self,
        identity: &PeerIdentity,
        incarnation: Incarnation,
    ) -> Result<(), String> {
        self.authorise(identity)?;
        if self.connections.load(Ordering::Relaxed) >= self.limits.max_connections {
            return Err("there are too many connections".to_owned());
        }
        self.peer(identity.node).map_or(Ok(()), |peer| peer.check_incarnation(incarnation))
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(crate) fn meet_generation(&self, generation: Generation) {
        self.generation_seen.send_if_modified(|seen| {
            let higher = generation > *seen;
            if higher {
                *seen = generation;
            }
            higher
        });
    }

    pub(crate) fn authorise(&self, identity: &PeerIdentity) -> Result<(), String> {
        (self.authorise)(identity)
    }

    pub(crate) fn client_config(&self, class: LinkClass) -> quinn::ClientConfig {
        match class {
            LinkClass::Main => self.client_main.clone(),
            LinkClass::Bulk => self.client_bulk.clone(),
        }
    }

    fn check_size(&self, body: &Bytes) -> Result<(), CallError> {
        let (size, limit) = (body.len(), self.limits.max_frame);
        if size > limit { Err(CallError::TooLarge { size, limit }) } else { Ok(()) }
    }

    fn submit(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        lane: Lane,
        outgoing: Outgoing,
    ) -> Result<(), CallError> {
        if let Submitted::Waiting { dial: true } = peer.submit(lane, outgoing, &self.limits)? {
            self.start_dial(peer, LinkClass::Main);
        }
        Ok(())
    }

    async fn bulk_link(self: &Arc<Self>, peer: &Arc<Peer>) -> Result<Arc<Link>, CallError> {
        match peer.bulk_link()? {
            BulkLink::Ready(link) => Ok(link),
            BulkLink::Waiting { link, dial } => {
                if dial {
                    self.start_dial(peer, LinkClass::Bulk);
                }
                let stopped = || CallError::Unreachable("the mesh was closed".into());
                link.await.map_err(|_| stopped())?
            }
        }
    }

    async fn open_bi(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
    ) -> Result<(quinn::SendStream, quinn::RecvStream), CallError> {
        let link = self.bulk_link(peer).await?;
        if let Ok(stream) = link.connection.open_bi().await {
            return Ok(stream);
        }
        // It ended before anything was sent, so another one may be tried.
        link.mark_closed();
        let link = self.bulk_link(peer).await?;
        let ended = |error| CallError::Unreachable(crate::tls::explain(&error));
        link.connection.open_bi().await.map_err(ended)
    }

    /// Connects in the background, on the mesh's own runtime.
    fn start_dial(self: &Arc<Self>, peer: &Arc<Peer>, class: LinkClass) {
        let dial = endpoint::dial(self.clone(), peer.clone(), class);
        self.runtime.spawn(dial);
    }
}

//! Simulated links: late, lost, doubled, out of order, cut in one direction or both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, ready};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rung_proto::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::consensus::Consensus;
use crate::message::{Request, decode_request};
use crate::network::{ByteStream, Network, NetworkError};

/// How all links are.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// How likely a message is lost, from 0 to 1.
    pub loss: f64,
    /// How likely it arrives twice.
    pub doubling: f64,
    /// Most messages take the first, some anything up to the second.
    pub delay: (Duration, Duration),
}

impl Weather {
    /// Nothing is lost, and 2 ms are the longest.
    pub const FAIR: Weather = Weather {
        loss: 0.0,
        doubling: 0.0,
        delay: (Duration::from_micros(300), Duration::from_millis(2)),
    };
}

struct State {
    rng: SmallRng,
    weather: Weather,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose messages are held back until then.
    paused: BTreeMap<NodeId, Instant>,
    /// The life that each running node is in.
    up: BTreeMap<NodeId, (u64, Consensus)>,
}

/// Told of everybody who speaks as a leader: the term, and who.
type Heard = Box<dyn Fn(u64, NodeId) + Send + Sync>;

/// All links of a simulated cluster. Time is Tokio's, be it paused or not.
pub struct Links {
    state: Mutex<State>,
    heard: Heard,
}

/// What one life of a node sends with.
#[derive(Clone)]
pub struct Link {
    links: Arc<Links>,
    node: NodeId,
    life: u64,
}

impl Links {
    /// Fair links without nodes. `heard` is told of everybody who speaks as a leader.
    pub fn new(seed: u64, heard: impl Fn(u64, NodeId) + Send + Sync + 'static) -> Arc<Self> {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            weather: Weather::FAIR,
            cut: BTreeSet::new(),
            paused: BTreeMap::new(),
            up: BTreeMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), heard: Box::new(heard) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What a life of a node sends with, until it is unplugged.
    pub fn link(self: &Arc<Self>, node: NodeId, life: u64) -> Link {
        Link { links: Arc::clone(self), node, life }
    }

    /// Messages to a node reach this life of it.
    pub fn plug(&self, node: NodeId, life: u64, consensus: Consensus) {
        self.state().up.insert(node, (life, consensus));
    }

    /// Nothing reaches a node, and nothing that it says is heard.
    pub fn unplug(&self, node: NodeId) {
        self.state().up.remove(&node);
    }

    /// Changes how all links are.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Cuts one direction between two nodes.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state().cut.insert((from, to));
    }

    /// Ends all cuts and pauses.
    pub fn mend(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.paused.clear();
    }

    /// Holds back all messages to and from a node.
    pub fn pause(&self, node: NodeId, time: Duration) {
        self.state().paused.insert(node, Instant::now() + time);
    }

    fn life(&self, node: NodeId) -> Option<(u64, Consensus)> {
        self.state().up.get(&node).cloned()
    }

    fn lives(&self, node: NodeId, life: u64) -> bool {
        self.state().up.get(&node).is_some_and(|(current, _)| *current == life)
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.state().cut.contains(&(from, to))
    }

    fn copies(&self) -> usize {
        let mut state = self.state();
        let doubling = state.weather.doubling;
        1 + usize::from(state.rng.random_bool(doubling))
    }

    /// Takes the time that a message takes; false if it does not arrive.
    async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let delay = {
            let mut state = self.state();
            let Weather { loss, delay: (usual, longest), .. } = state.weather;
            if state.rng.random_bool(loss) {
                return false;
            }
            let share = if state.rng.random_bool(0.1) { state.rng.random::<f64>() } else { 0.0 };
            let jitter = state.rng.random_range(0.5..1.5);
            usual.mul_f64(jitter) + longest.mul_f64(share)
        };
        sleep(delay).await;
        for node in [from, to] {
            let paused = self.state().paused.get(&node).copied();
            if let Some(until) = paused {
                sleep_until(until).await;
            }
        }
        !self.is_cut(from, to)
    }

    /// Whoever speaks as a leader is noted.
    fn note(&self, body: &Bytes) {
        if let Ok((header, _)) = decode_request(body.clone())
            && let Request::Append { ballot, .. } = header.request
            && ballot.granted
        {
            (self.heard)(ballot.term, ballot.node);
        }
    }

    /// Brings a message to a node and its answer back.
    async fn deliver(
        self: Arc<Self>,
        from: NodeId,
        to: NodeId,
        body: Bytes,
    ) -> Option<Result<Bytes, NetworkError>> {
        if !self.travel(from, to).await {
            return None;
        }
        let (life, consensus) = self.life(to)?;
        let answer = consensus.handle(from, body).await;
        // What a node says after it crashed is not said.
        if !self.lives(to, life) || !self.travel(to, from).await {
            return None;
        }
        Some(answer.map_err(|refusal| NetworkError::Refused(to, refusal.to_string())))
    }
}

impl Network for Link {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let Link { links, node: from, life } = self.clone();
        if !links.lives(from, life) {
            return ready(Err(NetworkError::Unreachable(to, "crashed".to_owned()))).boxed();
        }
        links.note(&body);
        let (sender, answer) = oneshot::channel();
        let sender = Arc::new(Mutex::new(Some(sender)));
        for _ in 0..links.copies() {
            let (links, body, sender) = (Arc::clone(&links), body.clone(), Arc::clone(&sender));
            tokio::spawn(async move {
                if let Some(answer) = links.deliver(from, to, body).await
                    && let Some(sender) = sender.lock().unwrap().take()
                {
                    // The caller may have given up.
                    let _ = sender.send(answer);
                }
            });
        }
        async move {
            match timeout(deadline, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => {
                    // Lost: a real caller would not know before its deadline either.
                    sleep(deadline).await;
                    Err(NetworkError::NoAnswer(to, "lost".to_owned()))
                }
                Err(_) => Err(NetworkError::NoAnswer(to, "deadline".to_owned())),
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
        let Link { links, node: from, life } = self.clone();
        async move {
            let unreachable = |what: &str| NetworkError::Unreachable(to, what.to_owned());
            if !links.lives(from, life) || !links.travel(from, to).await {
                return Err(unreachable("cut off"));
            }
            let Some((to_life, consensus)) = links.life(to) else {
                return Err(unreachable("down"));
            };
            let route = Route { links: Arc::clone(&links), ends: [(from, life), (to, to_life)] };
            let (there, at_peer) = tokio::io::duplex(4 << 10);
            let (back, from_peer) = tokio::io::duplex(4 << 10);
            let ours = ByteStream {
                send: Box::new(Routed { inner: there, route: route.clone() }),
                receive: Box::new(Routed { inner: from_peer, route: route.clone() }),
            };
            let theirs = ByteStream {
                send: Box::new(Routed { inner: back, route: route.clone() }),
                receive: Box::new(Routed { inner: at_peer, route }),
            };
            tokio::spawn(async move { consensus.serve_stream(from, header, theirs).await });
            Ok(ours)
        }
        .boxed()
    }
}

#[derive(Clone)]
struct Route {
    links: Arc<Links>,
    ends: [(NodeId, u64); 2],
}

impl Route {
    fn check(&self) -> io::Result<()> {
        let [(from, from_life), (to, to_life)] = self.ends;
        let works = self.links.lives(from, from_life)
            && self.links.lives(to, to_life)
            && !self.links.is_cut(from, to)
            && !self.links.is_cut(to, from);
        if works { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }
}

/// One end of a stream that breaks with its route.
struct Routed {
    inner: tokio::io::DuplexStream,
    route: Route,
}

impl AsyncRead for Routed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.route.check()?;
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Routed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.route.check()?;
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.route.check()?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.route.check()?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

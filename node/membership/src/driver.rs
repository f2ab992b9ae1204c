//! Drives [`Swim`] over the mesh: a task that owns the timers, sends what the
//! protocol wants sent and publishes what it learns.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rung_proto::{Incarnation, NodeId};
use rung_transport::{Datagram, Lane, Mesh, PeerIdentity};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::codec::DecodeError;
use crate::identity::{Identity, InvalidText, Text};
use crate::settings::Settings;
use crate::swim::{Counters, Output, Seed, Swim};
use crate::view::{Event, MemberState, MembershipView};

/// A peer that does not answer an exchange for so long does not count on it.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(2);
/// So many datagrams are read before the timers are looked at again.
const BATCH: usize = 64;
/// How many commands may wait for the task.
const COMMANDS: usize = 16;

/// What a node needs to take part.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    pub node: NodeId,
    pub incarnation: Incarnation,
    /// Where peers reach this node's mesh.
    pub address: SocketAddr,
    /// At most 63 bytes.
    pub dc: String,
    /// At most 63 bytes.
    pub name: String,
    /// Whom to join by; nodes known from before. Empty in a new cluster.
    pub seeds: Vec<Seed>,
    pub settings: Settings,
    /// The mesh service of [`Membership::exchange`], the same on every node.
    pub service: u16,
    /// All the randomness there is.
    pub random_seed: u64,
}

/// Why a node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error("the data center of this node cannot be used: {0}")]
    DataCenter(#[source] InvalidText),
    #[error("the name of this node cannot be used: {0}")]
    Name(#[source] InvalidText),
    #[error("membership must be started inside a tokio runtime")]
    NoRuntime,
}

/// A node's part in the cluster. Clones are the same part; it ends when it
/// leaves or when the last clone is dropped.
#[derive(Clone)]
pub struct Membership {
    shared: Arc<Shared>,
    view: watch::Receiver<Arc<MembershipView>>,
    commands: mpsc::Sender<Command>,
}

struct Shared {
    swim: Mutex<Swim>,
    /// Something was put into `swim` that may have outputs.
    poked: Notify,
    clock: Clock,
}

/// Milliseconds since 1970 at the start, monotonic from then on.
struct Clock {
    began: Instant,
    began_unix: Duration,
}

enum Command {
    Leave(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

struct Driver {
    shared: Arc<Shared>,
    mesh: Mesh,
    service: u16,
    node: NodeId,
    view: watch::Sender<Arc<MembershipView>>,
    exchanges: JoinSet<(NodeId, Option<Bytes>)>,
}

impl Membership {
    /// Begins to take part. `datagrams` and `closed` are what the mesh was given
    /// the other ends of.
    ///
    /// # Errors
    /// When a name is too long, or outside of a tokio runtime.
    pub fn start(
        config: MembershipConfig,
        mesh: Mesh,
        datagrams: mpsc::Receiver<Datagram>,
        closed: mpsc::Receiver<PeerIdentity>,
    ) -> Result<Self, MembershipError> {
        let runtime =
            tokio::runtime::Handle::try_current().map_err(|_| MembershipError::NoRuntime)?;
        let identity = Identity {
            node: config.node,
            incarnation: config.incarnation,
            renewal: 0,
            left: false,
            address: config.address,
            dc: Text::new(&config.dc).map_err(MembershipError::DataCenter)?,
            name: Text::new(&config.name).map_err(MembershipError::Name)?,
        };
        config.seeds.iter().for_each(|seed| mesh.set_peer(seed.node, seed.address));
        let clock = Clock::start();
        let now = clock.now();
        let swim = Swim::new(identity, config.settings, config.seeds, config.random_seed, now);
        let (view_sender, view) = watch::channel(Arc::new(swim.view()));
        let shared = Arc::new(Shared { swim: Mutex::new(swim), poked: Notify::new(), clock });
        let (commands, commands_receiver) = mpsc::channel(COMMANDS);
        let driver = Driver {
            shared: shared.clone(),
            mesh,
            service: config.service,
            node: config.node,
            view: view_sender,
            exchanges: JoinSet::new(),
        };
        runtime.spawn(driver.run(datagrams, closed, commands_receiver));
        Ok(Self { shared, view, commands })
    }

    /// What is known now.
    pub fn view(&self) -> Arc<MembershipView> {
        self.view.borrow().clone()
    }

    /// Follows what is known.
    pub fn watch(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.view.clone()
    }

    /// Answers the call by which a peer exchanges its state; the handler of the
    /// configured service.
    ///
    /// # Errors
    /// When the body is malformed or not the peer's own.
    pub fn exchange(&self, from: &PeerIdentity, body: &[u8]) -> Result<Bytes, DecodeError> {
        let now = self.shared.clock.now();
        let answer = self.shared.swim().exchange(now, from.node, body);
        self.shared.poked.notify_one();
        answer
    }

    /// Something suggests that a node is gone; it is probed soon.
    pub fn hint(&self, node: NodeId) {
        let now = self.shared.clock.now();
        self.shared.swim().hint(now, node);
        self.shared.poked.notify_one();
    }

    /// Spreads that a node was removed from the cluster.
    pub fn remove(&self, node: NodeId) {
        let now = self.shared.clock.now();
        self.shared.swim().remove(now, node);
        self.shared.poked.notify_one();
    }

    /// Says goodbye and ends. Returns when peers know, or after two seconds.
    pub async fn leave(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Leave(done)).await.is_ok() {
            // An error means that the task has ended, which is what is wanted.
            let _ = finished.await;
        }
    }

    /// Ends without a goodbye, for a node that is about to be back: peers miss it
    /// as if it had crashed, and hear of its next incarnation.
    pub async fn stop(&self) {
        let (done, finished) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).await.is_ok() {
            // As above.
            let _ = finished.await;
        }
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.shared.swim().counters()
    }
}

impl Shared {
    /// A panic of the protocol would leave it in an unknown state; but there is
    /// nothing better to go on with, and its watchers must not panic too.
    fn swim(&self) -> MutexGuard<'_, Swim> {
        self.swim.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn start() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self { began: Instant::now(), began_unix: unix.unwrap_or_default() }
    }

    fn now(&self) -> Duration {
        self.began_unix + self.began.elapsed()
    }

    fn instant(&self, time: Duration) -> Instant {
        self.began + time.saturating_sub(self.began_unix)
    }
}

impl Driver {
    async fn run(
        mut self,
        mut datagrams: mpsc::Receiver<Datagram>,
        mut closed: mpsc::Receiver<PeerIdentity>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let (mut datagrams_open, mut closed_open) = (true, true);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let next = self.run_timers();
            self.carry_out();
            tokio::select! {
                biased;
                command = commands.recv() => {
                    let done = match command {
                        Some(Command::Leave(done)) => {
                            self.leave().await;
                            done
                        }
                        Some(Command::Stop(done)) => done,
                        None => return,
                    };
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                    return;
                }
                read = datagrams.recv_many(&mut batch, BATCH), if datagrams_open => {
                    datagrams_open = read > 0;
                    self.take_datagrams(&mut batch);
                }
                peer = closed.recv(), if closed_open => match peer {
                    Some(peer) => self.hint(peer.node),
                    None => closed_open = false,
                },
                Some(done) = self.exchanges.join_next() => self.exchanged(done),
                () = self.shared.poked.notified() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Runs what is due; when the next is.
    fn run_timers(&self) -> Instant {
        let now = self.shared.clock.now();
        let mut swim = self.shared.swim();
        if swim.next_timeout().is_some_and(|due| due <= now) {
            swim.handle_timeout(now);
        }
        let idle = now + Duration::from_secs(3600);
        self.shared.clock.instant(swim.next_timeout().unwrap_or(idle))
    }

    fn take_datagrams(&self, batch: &mut Vec<Datagram>) {
        let now = self.shared.clock.now();
        let mut swim = self.shared.swim();
        for datagram in batch.drain(..) {
            if let Err(error) = swim.handle_datagram(now, datagram.from.node, &datagram.body) {
                tracing::debug!(
                    node = %self.node, peer = %datagram.from.node, %error,
                    "a membership datagram was refused"
                );
            }
        }
    }

    fn hint(&self, node: NodeId) {
        let now = self.shared.clock.now();
        self.shared.swim().hint(now, node);
    }

    fn exchanged(&self, done: Result<(NodeId, Option<Bytes>), tokio::task::JoinError>) {
        // A task that panicked is given up by the protocol after its deadline.
        let Ok((peer, answer)) = done else { return };
        let now = self.shared.clock.now();
        let result = self.shared.swim().exchanged(now, peer, answer.as_deref());
        if let Err(error) = result {
            tracing::warn!(node = %self.node, %peer, %error, "a membership answer was refused");
        }
    }

    /// Does what the protocol wants done and publishes what changed.
    fn carry_out(&mut self) {
        let (outputs, view) = {
            let mut swim = self.shared.swim();
            let outputs: Vec<_> = std::iter::from_fn(|| swim.poll_output()).collect();
            let version = swim.version();
            let changed = self.view.borrow().version != version;
            (outputs, changed.then(|| swim.view()))
        };
        for output in outputs {
            match output {
                Output::Send { to, address, body } => self.mesh.send_datagram(to, address, body),
                Output::Exchange { to, address, body } => self.start_exchange(to, address, body),
                Output::Event(event) => self.follow(&event),
            }
        }
        if let Some(view) = view {
            self.view.send_replace(Arc::new(view));
        }
    }

    fn start_exchange(&mut self, to: NodeId, address: SocketAddr, body: Bytes) {
        self.mesh.set_peer(to, address);
        let (mesh, service) = (self.mesh.clone(), self.service);
        self.exchanges.spawn(async move {
            let answer = mesh.call(to, Lane::Control, service, body, EXCHANGE_DEADLINE).await;
            if let Err(error) = &answer {
                tracing::debug!(peer = %to, %error, "a membership exchange failed");
            }
            (to, answer.ok())
        });
    }

    /// Keeps the address book of the mesh, and the log.
    fn follow(&self, event: &Event) {
        match event {
            Event::Changed { member, before } => {
                self.mesh.set_peer_dc(member.node, member.dc.as_str());
                self.mesh.set_peer(member.node, member.address);
                let before = before.map_or("unknown", MemberState::name);
                tracing::info!(
                    node = %self.node, member = %member.node, name = %member.name,
                    incarnation = %member.incarnation, address = %member.address, before,
                    state = member.state.name(), "a member changed"
                );
            }
            Event::Forgotten(member) => self.mesh.remove_peer(*member),
            Event::Renewed => {
                tracing::warn!(node = %self.node, "the cluster had taken this node for down");
            }
            // The protocol has logged it as the error it is.
            Event::Superseded(_) => {}
        }
    }

    async fn leave(&mut self) {
        let now = self.shared.clock.now();
        self.shared.swim().leave(now);
        self.carry_out();
        let told = async { while self.exchanges.join_next().await.is_some() {} };
        if tokio::time::timeout(EXCHANGE_DEADLINE, told).await.is_err() {
            tracing::warn!(node = %self.node, "left, but not every peer asked has confirmed it");
        }
    }
}

#[cfg(test)]
mod tests;

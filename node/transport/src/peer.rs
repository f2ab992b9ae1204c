//! What is kept for one peer: its connections, what waits for them, and the
//! calls that wait for answers.
//!
//! Locks are taken in the order: peer state, pending calls, outbox.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_proto::{Incarnation, NodeId};
use tokio::sync::oneshot;

use crate::error::CallError;
use crate::frame::{Frame, LinkClass};
use crate::lane::{Lane, PushError};
use crate::link::Link;
use crate::mesh::MeshLimits;
use crate::sync::lock;

/// Datagrams that wait for a connection; older ones are dropped for newer ones.
const MAX_WAITING_DATAGRAMS: usize = 16;
/// Streams that wait for a connection.
const MAX_WAITING_STREAMS: usize = 4096;

/// A message for a peer before it is given to a connection.
pub(crate) enum Outgoing {
    Call { id: u64, service: u16, body: Bytes, deadline: Instant },
    Post { service: u16, body: Bytes },
}

impl Outgoing {
    fn size(&self) -> usize {
        match self {
            Outgoing::Call { body, .. } | Outgoing::Post { body, .. } => body.len(),
        }
    }
}

type Answer = Result<Bytes, CallError>;

struct Pending {
    answer: oneshot::Sender<Answer>,
    /// The serial number of the link that the call went out on.
    sent_on: Option<u64>,
}

pub(crate) type LinkWaiter = oneshot::Sender<Result<Arc<Link>, CallError>>;

/// The connections of one class.
struct Slot {
    /// The one that new messages take; it is kept as long as it lives, so that
    /// messages stay in order when both sides connected at the same moment and
    /// there are two.
    current: Option<Arc<Link>>,
    dialled: Option<Arc<Link>>,
    accepted: Option<Arc<Link>>,
    dialling: bool,
    backoff: Duration,
    next_attempt: Instant,
}

impl Slot {
    fn new() -> Self {
        Self {
            current: None,
            dialled: None,
            accepted: None,
            dialling: false,
            backoff: Duration::ZERO,
            next_attempt: Instant::now(),
        }
    }

    fn live(&mut self) -> Option<Arc<Link>> {
        let usable = |link: &Option<Arc<Link>>| link.clone().filter(|link| !link.is_closed());
        self.current = usable(&self.current)
            .or_else(|| usable(&self.dialled))
            .or_else(|| usable(&self.accepted));
        self.current.clone()
    }

    fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.dialled.iter().chain(&self.accepted)
    }

    /// Puts a link in its place and returns the one that was there.
    fn put(&mut self, link: Arc<Link>) -> Option<Arc<Link>> {
        if link.dialled { self.dialled.replace(link) } else { self.accepted.replace(link) }
    }

    fn forget(&mut self, serial: u64) {
        for place in [&mut self.current, &mut self.dialled, &mut self.accepted] {
            if place.as_ref().is_some_and(|link| link.serial == serial) {
                *place = None;
            }
        }
    }
}

struct PeerState {
    /// From the address book.
    address: Option<SocketAddr>,
    /// Where a datagram was last sent to; used while the address book is silent.
    hint: Option<SocketAddr>,
    /// The highest that was seen; connections of an older start are refused.
    incarnation: Incarnation,
    removed: bool,
    main: Slot,
    bulk: Slot,
    waiting: VecDeque<(Lane, Outgoing)>,
    waiting_bytes: usize,
    datagrams: VecDeque<Bytes>,
    streams: Vec<LinkWaiter>,
}

impl PeerState {
    fn slot(&mut self, class: LinkClass) -> &mut Slot {
        match class {
            LinkClass::Main => &mut self.main,
            LinkClass::Bulk => &mut self.bulk,
        }
    }

    fn target(&self) -> Option<SocketAddr> {
        self.address.or(self.hint)
    }

    /// Whether the caller has to start connecting.
    fn begin_dial(&mut self, class: LinkClass) -> bool {
        let slot = self.slot(class);
        !std::mem::replace(&mut slot.dialling, true)
    }
}

/// How a message or stream goes on.
pub(crate) enum Submitted {
    /// It is on its way.
    Sent,
    /// It waits for a connection; when `dial` is set, the caller has to start
    /// one.
    Waiting { dial: bool },
}

/// What is kept for one peer.
pub(crate) struct Peer {
    pub node: NodeId,
    state: Mutex<PeerState>,
    pending: [Mutex<HashMap<u64, Pending>>; 2],
    next_id: AtomicU64,
    pub datagrams_dropped: AtomicU64,
    pub posts_dropped: AtomicU64,
}

impl Peer {
    pub(crate) fn new(node: NodeId) -> Arc<Self> {
        let state = PeerState {
            address: None,
            hint: None,
            incarnation: Incarnation(0),
            removed: false,
            main: Slot::new(),
            bulk: Slot::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            datagrams: VecDeque::new(),
            streams: Vec::new(),
        };
        Arc::new(Self {
            node,
            state: Mutex::new(state),
            pending: [Mutex::default(), Mutex::default()],
            next_id: AtomicU64::new(1),
            datagrams_dropped: AtomicU64::new(0),
            posts_dropped: AtomicU64::new(0),
        })
    }

    pub(crate) fn set_address(&self, address: SocketAddr) {
        let mut state = lock(&self.state);
        if state.address.replace(address) != Some(address) {
            // What failed at the old address says nothing of the new one.
            for class in [LinkClass::Main, LinkClass::Bulk] {
                let slot = state.slot(class);
                slot.backoff = Duration::ZERO;
                slot.next_attempt = Instant::now();
            }
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        lock(&self.state).target()
    }

    /// Takes note of a call that is about to be submitted.
    pub(crate) fn register(
        self: &Arc<Self>,
        lane: Lane,
    ) -> (PendingCall, oneshot::Receiver<Answer>) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        lock(&self.pending[lane.index()]).insert(id, Pending { answer, sent_on: None });
        (PendingCall { peer: self.clone(), lane, id }, receiver)
    }

    /// Gives a message to a connection, or lets it wait for one.
    pub(crate) fn submit(
        &self,
        lane: Lane,
        outgoing: Outgoing,
        limits: &MeshLimits,
    ) -> Result<Submitted, CallError> {
        loop {
            let link = {
                let mut state = lock(&self.state);
                let Some(link) = state.main.live() else {
                    return self.wait(&mut state, lane, outgoing, limits);
                };
                link
            };
            match self.push(&link, lane, &outgoing) {
                Ok(()) => return Ok(Submitted::Sent),
                Err(PushError::Full) => return Err(CallError::QueueFull),
                // The link is marked as closed, so the next round finds another
                // one or waits.
                Err(PushError::Closed) => {}
            }
        }
    }

    fn wait(
        &self,
        state: &mut PeerState,
        lane: Lane,
        outgoing: Outgoing,
        limits: &MeshLimits,
    ) -> Result<Submitted, CallError> {
        if state.removed || state.target().is_none() {
            return Err(CallError::UnknownPeer);
        }
        let bytes = state.waiting_bytes + outgoing.size();
        let over = bytes > limits.queue_bytes && !state.waiting.is_empty();
        if over || state.waiting.len() >= limits.queue_frames {
            return Err(CallError::QueueFull);
        }
        state.waiting_bytes = bytes;
        state.waiting.push_back((lane, outgoing));
        Ok(Submitted::Waiting { dial: state.begin_dial(LinkClass::Main) })
    }

    fn push(&self, link: &Link, lane: Lane, outgoing: &Outgoing) -> Result<(), PushError> {
        let frame = match outgoing {
            Outgoing::Post { service, body } => {
                Frame::Post { service: *service, body: body.clone() }
            }
            Outgoing::Call { id, service, body, deadline } => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                // Noted first: the answer may arrive before the push returns.
                if remaining.is_zero() || !self.note_sent(lane, *id, Some(link.serial)) {
                    return Ok(());
                }
                let remaining_ms = u32::try_from(remaining.as_millis()).unwrap_or(u32::MAX).max(1);
                Frame::Request { id: *id, service: *service, remaining_ms, body: body.clone() }
            }
        };
        let pushed = link.outbox(lane).push(&frame, outgoing.size());
        if let (Err(_), Outgoing::Call { id, .. }) = (pushed, outgoing) {
            self.note_sent(lane, *id, None);
        }
        pushed
    }

    /// False when nobody waits for that call any more.
    fn note_sent(&self, lane: Lane, id: u64, sent_on: Option<u64>) -> bool {
        let mut pending = lock(&self.pending[lane.index()]);
        let Some(call) = pending.get_mut(&id) else {
            return false;
        };
        call.sent_on = sent_on;
        true
    }

    /// Hands an answer to its caller. An answer that came by another link than
    /// its call went out on is not one.
    pub(crate) fn complete(&self, lane: Lane, link: u64, id: u64, answer: Answer) {
        let call = {
            let mut pending = lock(&self.pending[lane.index()]);
            if pending.get(&id).is_none_or(|call| call.sent_on != Some(link)) {
                return;
            }
            pending.remove(&id)
        };
        if let Some(call) = call {
            // The caller may have given up this instant.
            let _ = call.answer.send(answer);
        }
    }

    /// A live bulk connection, or a place in the queue for one.
    pub(crate) fn bulk_link(&self) -> Result<BulkLink, CallError> {
        let mut state = lock(&self.state);
        if let Some(link) = state.bulk.live() {
            return Ok(BulkLink::Ready(link));
        }
        if state.removed || state.target().is_none() {
            return Err(CallError::UnknownPeer);
        }
        state.streams.retain(|waiter| !waiter.is_closed());
        if state.streams.len() >= MAX_WAITING_STREAMS {
            return Err(CallError::QueueFull);
        }
        let (waiter, link) = oneshot::channel();
        state.streams.push(waiter);
        let dial = state.begin_dial(LinkClass::Bulk);
        Ok(BulkLink::Waiting { link, dial })
    }

    /// Sends a datagram, or keeps it until there is a connection. True when the
    /// caller has to start connecting.
    pub(crate) fn send_datagram(&self, address: SocketAddr, body: Bytes) -> bool {
        let mut state = lock(&self.state);
        state.hint = Some(address);
        let Some(link) = state.main.live() else {
            if state.removed {
                return false;
            }
            if state.datagrams.len() >= MAX_WAITING_DATAGRAMS {
                state.datagrams.pop_front();
                self.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
            }
            state.datagrams.push_back(body);
            return state.begin_dial(LinkClass::Main);
        };
        drop(state);
        if link.connection.send_datagram(body).is_err() {
            self.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    /// When the next attempt to connect may begin.
    pub(crate) fn next_attempt(&self, class: LinkClass) -> Instant {
        lock(&self.state).slot(class).next_attempt
    }

    /// Where to connect to; nothing when there is no need any more.
    pub(crate) fn dial_target(&self, class: LinkClass) -> Option<SocketAddr> {
        let mut state = lock(&self.state);
        let target = state.target();
        let removed = state.removed;
        let slot = state.slot(class);
        if removed || slot.live().is_some() || target.is_none() {
            slot.dialling = false;
            return None;
        }
        target
    }

    /// Ends an attempt that failed: what waited for it fails.
    pub(crate) fn dial_failed(&self, class: LinkClass, why: &str, limits: &MeshLimits) {
        let error = CallError::Unreachable(why.to_owned());
        let abandoned = {
            let mut state = lock(&self.state);
            let slot = state.slot(class);
            slot.dialling = false;
            slot.backoff = (slot.backoff * 2).clamp(limits.backoff_min, limits.backoff_max);
            let jitter = 0.5 + rand::random::<f64>() / 2.0;
            slot.next_attempt = Instant::now() + slot.backoff.mul_f64(jitter);
            Abandoned::take(&mut state, class)
        };
        self.fail(abandoned, &error);
    }

    fn fail(&self, abandoned: Abandoned, error: &CallError) {
        for (lane, outgoing) in abandoned.waiting {
            match outgoing {
                Outgoing::Call { id, .. } => {
                    let call = lock(&self.pending[lane.index()]).remove(&id);
                    if let Some(call) = call {
                        let _ = call.answer.send(Err(error.clone()));
                    }
                }
                Outgoing::Post { .. } => {
                    self.posts_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.datagrams_dropped.fetch_add(abandoned.datagrams as u64, Ordering::Relaxed);
        for waiter in abandoned.streams {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// Whether a connection of that start of the node would be taken.
    pub(crate) fn check_incarnation(&self, incarnation: Incarnation) -> Result<(), String> {
        check_incarnation(incarnation, lock(&self.state).incarnation)
    }

    /// Takes a new connection into use and hands it what waited. Returns the
    /// connections whose place it took.
    pub(crate) fn install(&self, link: &Arc<Link>) -> Result<Vec<Arc<Link>>, String> {
        let mut state = lock(&self.state);
        if state.removed {
            return Err("the node was removed".to_owned());
        }
        check_incarnation(link.incarnation, state.incarnation)?;
        let mut replaced = Vec::new();
        if link.incarnation > state.incarnation {
            state.incarnation = link.incarnation;
            for class in [LinkClass::Main, LinkClass::Bulk] {
                let slot = state.slot(class);
                replaced.extend(slot.links().cloned());
                replaced.iter().for_each(|old| slot.forget(old.serial));
            }
        }
        let slot = state.slot(link.class);
        replaced.extend(slot.put(link.clone()));
        if link.dialled {
            slot.dialling = false;
        }
        slot.backoff = Duration::ZERO;
        slot.next_attempt = Instant::now();
        // Those that are replaced must not be chosen in what follows.
        replaced.iter().for_each(|old| old.mark_closed());
        let current = slot.live();
        if let Some(current) = current {
            self.hand_over(&mut state, &current);
        }
        Ok(replaced)
    }

    fn hand_over(&self, state: &mut PeerState, link: &Arc<Link>) {
        let waiting = Abandoned::take(state, link.class);
        for (lane, outgoing) in waiting.waiting {
            // A fresh outbox holds as much as may wait, so this fails only when
            // the connection has ended already.
            if self.push(link, lane, &outgoing).is_err() {
                let failed =
                    Abandoned { waiting: [(lane, outgoing)].into(), ..Abandoned::default() };
                self.fail(failed, &CallError::Unreachable("the connection ended at once".into()));
            }
        }
        for body in waiting.kept_datagrams {
            if link.connection.send_datagram(body).is_err() {
                self.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        for waiter in waiting.streams {
            let _ = waiter.send(Ok(link.clone()));
        }
    }

    /// Forgets a connection that ended; its calls fail with an unknown outcome.
    /// True when no other one of its class is left.
    pub(crate) fn link_ended(&self, link: &Link) -> bool {
        link.mark_closed();
        let was_last = {
            let mut state = lock(&self.state);
            let slot = state.slot(link.class);
            slot.forget(link.serial);
            slot.live().is_none()
        };
        for pending in &self.pending {
            let lost: Vec<Pending> = lock(pending)
                .extract_if(|_, call| call.sent_on == Some(link.serial))
                .map(|(_, call)| call)
                .collect();
            for call in lost {
                let _ = call.answer.send(Err(CallError::ConnectionLost));
            }
        }
        was_last
    }

    /// Makes the peer unusable and returns its connections.
    pub(crate) fn remove(&self) -> Vec<Arc<Link>> {
        let (links, main, bulk) = {
            let mut state = lock(&self.state);
            state.removed = true;
            let links: Vec<_> = state.main.links().chain(state.bulk.links()).cloned().collect();
            let main = Abandoned::take(&mut state, LinkClass::Main);
            (links, main, Abandoned::take(&mut state, LinkClass::Bulk))
        };
        self.fail(main, &CallError::UnknownPeer);
        self.fail(bulk, &CallError::UnknownPeer);
        links
    }

    /// The connections in use, main first.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let mut state = lock(&self.state);
        let main = state.main.live();
        main.into_iter().chain(state.bulk.live()).collect()
    }
}

fn check_incarnation(connecting: Incarnation, seen: Incarnation) -> Result<(), String> {
    if connecting < seen {
        return Err(format!(
            "start {connecting} of the node is older than start {seen}, which was seen already"
        ));
    }
    Ok(())
}

/// What waited for a connection.
#[derive(Default)]
struct Abandoned {
    waiting: VecDeque<(Lane, Outgoing)>,
    datagrams: usize,
    kept_datagrams: VecDeque<Bytes>,
    streams: Vec<LinkWaiter>,
}

impl Abandoned {
    fn take(state: &mut PeerState, class: LinkClass) -> Self {
        match class {
            LinkClass::Main => {
                state.waiting_bytes = 0;
                Self {
                    waiting: std::mem::take(&mut state.waiting),
                    datagrams: state.datagrams.len(),
                    kept_datagrams: std::mem::take(&mut state.datagrams),
                    streams: Vec::new(),
                }
            }
            LinkClass::Bulk => {
                Self { streams: std::mem::take(&mut state.streams), ..Self::default() }
            }
        }
    }
}

/// A bulk connection, or the wait for one.
pub(crate) enum BulkLink {
    Ready(Arc<Link>),
    Waiting { link: oneshot::Receiver<Result<Arc<Link>, CallError>>, dial: bool },
}

/// A call that waits for its answer. Dropping it is giving up.
pub(crate) struct PendingCall {
    peer: Arc<Peer>,
    lane: Lane,
    pub id: u64,
}

impl PendingCall {
    /// Gives up; true when the call was handed to a connection before.
    pub(crate) fn give_up(self) -> bool {
        let call = lock(&self.peer.pending[self.lane.index()]).remove(&self.id);
        call.is_none_or(|call| call.sent_on.is_some())
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        lock(&self.peer.pending[self.lane.index()]).remove(&self.id);
    }
}

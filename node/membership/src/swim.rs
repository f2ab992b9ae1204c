//! The protocol as a state machine without I/O.

mod exchange;
mod suspicion;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use foca::{
    AccumulatingRuntime, Foca, Message, NoCustomBroadcast, OwnedNotification, State, Timer,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_proto::{Incarnation, NodeId};

use crate::codec::{DecodeError, Packet, WireCodec, decode_packet};
use crate::health::{Health, Symptom};
use crate::identity::Identity;
use crate::settings::Settings;
use crate::timers::Timers;
use crate::view::{Event, Member, MemberState, MembershipView};
use suspicion::{Hint, Suspicion};

/// A node to join by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seed {
    pub node: NodeId,
    pub address: SocketAddr,
}

/// What the caller is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this datagram; it may get lost.
    Send { to: NodeId, address: SocketAddr, body: Bytes },
    /// Call the peer's [`Swim::exchange`] with this body and give what comes
    /// back to [`Swim::exchanged`].
    Exchange { to: NodeId, address: SocketAddr, body: Bytes },
    /// Tell whoever watches.
    Event(Event),
}

/// What was counted since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Datagrams and states that were malformed or whose sender was not who it
    /// claimed to be.
    pub refused: u64,
    /// Suspicions that this node raised.
    pub suspicions: u64,
    /// Members that this node itself declared down.
    pub declared_down: u64,
    /// Exchanges that failed or were not answered.
    pub failed_exchanges: u64,
    /// How often this node was declared down while it was not.
    pub renewals: u64,
}

#[derive(Clone, Debug)]
struct Known {
    identity: Identity,
    swim_incarnation: foca::Incarnation,
    state: MemberState,
    since: Duration,
}

#[derive(Debug)]
enum Job {
    Foca(Timer<Identity>),
    Suspicion(NodeId),
    Hint(NodeId),
    Exchange,
    Join,
    Sweep,
}

type Runtime = AccumulatingRuntime<Identity>;

/// The membership of one node. Every input carries `now`, a time that never
/// goes back; only differences of it matter.
pub struct Swim {
    settings: Settings,
    seeds: Vec<Seed>,
    foca: Foca<Identity, WireCodec, StdRng, NoCustomBroadcast>,
    rng: StdRng,
    timers: Timers<Job>,
    outputs: VecDeque<Output>,
    known: BTreeMap<NodeId, Known>,
    suspicions: BTreeMap<NodeId, Suspicion>,
    hints: BTreeMap<NodeId, Hint>,
    /// Exchanges under way and when they are given up.
    exchanges: BTreeMap<NodeId, Duration>,
    exchanges_done: u32,
    join_delay: Duration,
    health: Health,
    /// Whom foca probes now.
    probed: Option<NodeId>,
    /// The last member that did not answer, if none did since.
    unanswered: Option<NodeId>,
    suspected_at: Option<Duration>,
    timer_token: foca::TimerToken,
    transmissions: usize,
    started: Duration,
    left: bool,
    superseded_by: Option<Incarnation>,
    version: u64,
    counters: Counters,
}

/// Foca's own generator and ours must not repeat each other.
const OWN_STREAM: u64 = 0x5eed_0f0c_a000_0001;

impl Swim {
    /// A node that knows nobody yet. `seed` is all the randomness it uses.
    pub fn new(
        identity: Identity,
        settings: Settings,
        seeds: Vec<Seed>,
        seed: u64,
        now: Duration,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ OWN_STREAM);
        let node = identity.node;
        let foca = Foca::new(
            identity,
            settings.foca(1),
            StdRng::seed_from_u64(seed),
            WireCodec::default(),
        );
        let mut timers = Timers::new();
        timers.add(now, Job::Join);
        timers.add(now + jittered(&mut rng, settings.exchange_period / 5), Job::Exchange);
        timers.add(now + settings.exchange_period, Job::Sweep);
        Self {
            seeds: seeds.into_iter().filter(|seed| seed.node != node).collect(),
            foca,
            rng,
            timers,
            outputs: VecDeque::new(),
            known: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            hints: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            exchanges_done: 0,
            join_delay: settings.announce_period,
            health: Health::default(),
            probed: None,
            unanswered: None,
            suspected_at: None,
            timer_token: 0,
            transmissions: 0,
            started: now,
            left: false,
            superseded_by: None,
            version: 0,
            counters: Counters::default(),
            settings,
        }
    }

    /// Takes a datagram that the transport says came from `from`.
    ///
    /// # Errors
    /// When it is malformed, or speaks in another node's name. It is counted and
    /// has no other effect.
    pub fn handle_datagram(
        &mut self,
        now: Duration,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(), DecodeError> {
        if self.left {
            return Ok(());
        }
        self.notice_pause(now);
        let packet = match self.check(from, bytes) {
            Ok(packet) => packet,
            Err(error) => {
                self.counters.refused += 1;
                return Err(error);
            }
        };
        if self.is_superseded(packet.updates.iter().map(foca::Member::id)) {
            return Ok(());
        }
        self.notice_sender(now, &packet);
        let mut runtime = Runtime::new();
        let result = self.foca.handle_data(bytes, &mut runtime);
        let news = !packet.updates.is_empty() || self.is_news(&packet);
        self.absorb(now, runtime, news);
        result.map_err(|error| {
            self.counters.refused += 1;
            tracing::debug!(node = %self.node(), %from, %error, "refused a membership datagram");
            DecodeError::Invalid("message")
        })
    }

    /// When [`Swim::handle_timeout`] is to be called next.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.notice_pause(now) {
            return;
        }
        if let Some(due) = self.timers.next()
            && now.saturating_sub(due) >= self.settings.late
        {
            self.observe(Symptom::Late);
        }
        while let Some(job) = self.timers.take_due(now) {
            match job {
                Job::Foca(timer) => self.foca_timer(now, timer),
                Job::Suspicion(node) => self.check_suspicion(now, node),
                Job::Hint(node) => self.check_hint(now, node),
                Job::Exchange => self.periodic_exchange(now),
                Job::Join => self.join(now),
                Job::Sweep => self.sweep(now),
            }
        }
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Says goodbye. Afterwards the node takes no more part; only
    /// [`Swim::exchange`] still answers that it left.
    pub fn leave(&mut self, now: Duration) {
        if self.left {
            return;
        }
        let leaving = self.foca.identity().leaving();
        let mut runtime = Runtime::new();
        if let Err(error) = self.foca.change_identity(leaving, &mut runtime) {
            tracing::warn!(node = %self.node(), %error, "could not announce leaving");
        }
        if let Err(error) = self.foca.leave_cluster(&mut runtime) {
            tracing::warn!(node = %self.node(), %error, "could not leave in order");
        }
        self.absorb(now, runtime, false);
        self.left = true;
        self.timers.clear();
        // Datagrams may be lost; two of the peers hear it over a reliable call.
        for _ in 0..2 {
            if let Some(peer) = self.random_known(MemberState::is_active) {
                self.start_exchange(now, peer.node, peer.address);
            }
        }
        self.version += 1;
    }

    /// Makes the cluster forget a node that was removed by decision.
    pub fn remove(&mut self, now: Duration, node: NodeId) {
        let Some(known) = self.known.get(&node).filter(|known| known.state != MemberState::Left)
        else {
            return;
        };
        let gone = foca::Member::down(known.identity.leaving());
        self.apply(now, vec![gone], true);
    }

    /// Who this node is now.
    pub fn identity(&self) -> &Identity {
        self.foca.identity()
    }

    /// How far this node trusts itself.
    pub fn health(&self) -> Health {
        self.health
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The version of [`Swim::view`]; it rises with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many members are alive or suspect, the local node not counted.
    pub fn active_count(&self) -> usize {
        self.foca.num_members()
    }

    /// How a member seems.
    pub fn state(&self, node: NodeId) -> Option<MemberState> {
        self.known.get(&node).map(|known| known.state)
    }

    /// Everything that is known, the local node included.
    pub fn view(&self) -> MembershipView {
        let local = self.foca.identity();
        let state = if self.left { MemberState::Left } else { MemberState::Alive };
        let mut members: BTreeMap<_, _> =
            self.known.iter().map(|(node, known)| (*node, known.public())).collect();
        members.insert(local.node, Member::new(local, state, millis(self.started)));
        MembershipView {
            version: self.version,
            local: local.node,
            members,
            health: self.health.score(),
            superseded_by: self.superseded_by,
        }
    }

    fn node(&self) -> NodeId {
        self.foca.identity().node
    }

    /// What timeouts are multiplied by.
    fn factor(&self) -> u32 {
        if self.settings.damping { self.health.factor() } else { 1 }
    }

    fn observe(&mut self, symptom: Symptom) {
        let before = self.health;
        self.health.observe(symptom);
        if self.health != before {
            self.version += 1;
        }
    }

    /// After the process stood still, everything is overdue although nobody else
    /// did anything wrong: time is taken to have stood still.
    fn notice_pause(&mut self, now: Duration) -> bool {
        let Some(due) = self.timers.next() else { return false };
        let late = now.saturating_sub(due);
        if !self.settings.damping || late < self.settings.pause {
            return false;
        }
        tracing::info!(node = %self.node(), ?late, "this process stood still, its timers wait");
        self.observe(Symptom::Paused);
        // A moment longer than the pause, so that datagrams which arrived during
        // it are read before anybody is judged.
        let shift = late + self.settings.probe_period;
        self.timers.shift(shift);
        for suspicion in self.suspicions.values_mut() {
            suspicion.started += shift;
            suspicion.next += shift;
        }
        self.hints.values_mut().for_each(|hint| hint.next += shift);
        true
    }

    fn check(&self, from: NodeId, bytes: &[u8]) -> Result<Packet, DecodeError> {
        let packet = decode_packet(bytes)?;
        let header = &packet.header;
        if header.src.node != from || from == self.node() {
            return Err(DecodeError::Invalid("sender"));
        }
        let target_is_us = match &header.message {
            Message::PingReq { target: other, .. }
            | Message::IndirectPing { origin: other, .. }
            | Message::IndirectAck { target: other, .. }
            | Message::ForwardedAck { origin: other, .. } => other.node == self.node(),
            _ => false,
        };
        if target_is_us {
            return Err(DecodeError::Invalid("target"));
        }
        let unknown = packet.updates.iter().filter(|m| !self.known.contains_key(&m.id().node));
        if self.known.len() + unknown.count() > self.settings.max_members {
            return Err(DecodeError::NoRoom);
        }
        Ok(packet)
    }

    /// Whether a later start of this node is spoken of.
    fn is_superseded<'a>(&mut self, mut seen: impl Iterator<Item = &'a Identity>) -> bool {
        let own = self.foca.identity();
        let later =
            seen.find(|other| other.node == own.node && other.incarnation > own.incarnation);
        let Some(incarnation) = later.map(|identity| identity.incarnation) else { return false };
        if self.superseded_by != Some(incarnation) {
            tracing::error!(
                node = %self.node(), own = %self.identity().incarnation, seen = %incarnation,
                "a later start of this node is in the cluster: another process uses its \
                 identity, or its data directory is an old copy; stop one of the two"
            );
            self.superseded_by = Some(incarnation);
            self.emit(Event::Superseded(incarnation));
        }
        true
    }

    fn notice_sender(&mut self, now: Duration, packet: &Packet) {
        if packet.header.dst == *self.foca.identity() {
            self.hints.remove(&packet.header.src.node);
        }
        let own = self.foca.identity();
        let suspected = packet.updates.iter().any(|m| m.id() == own && m.state() == State::Suspect);
        // The same suspicion arrives many times; it counts once.
        let counted = self.suspected_at.is_some_and(|at| now < at + self.settings.suspicion);
        if suspected && !counted {
            self.suspected_at = Some(now);
            self.observe(Symptom::Suspected);
        }
    }

    fn is_news(&self, packet: &Packet) -> bool {
        let header = &packet.header;
        self.known.get(&header.src.node).is_none_or(|known| {
            known.identity != header.src
                || known.swim_incarnation != header.src_incarnation
                || known.state != MemberState::Alive
        })
    }

    fn foca_timer(&mut self, now: Duration, timer: Timer<Identity>) {
        let probe_ends = matches!(timer, Timer::ProbeRandomMember(_));
        let judged = if probe_ends { self.probed.take() } else { None };
        let mut runtime = Runtime::new();
        let suspicions = self.counters.suspicions;
        if let Err(error) = self.foca.handle_timer(timer, &mut runtime) {
            tracing::debug!(node = %self.node(), %error, "a membership timer came at a wrong time");
        }
        self.absorb(now, runtime, false);
        if let Some(member) = judged {
            self.judge_probe(member, self.counters.suspicions > suspicions);
        }
    }

    fn judge_probe(&mut self, member: NodeId, failed: bool) {
        if !failed {
            self.unanswered = None;
            self.observe(Symptom::Answered);
        } else if self.unanswered.replace(member).is_some_and(|last| last != member) {
            self.observe(Symptom::Unanswered);
        }
    }

    /// Gives members to foca as if they had been gossiped.
    fn apply(&mut self, now: Duration, members: Vec<foca::Member<Identity>>, broadcast: bool) {
        let mut runtime = Runtime::new();
        if let Err(error) = self.foca.apply_many(members.into_iter(), broadcast, &mut runtime) {
            tracing::warn!(node = %self.node(), %error, "could not apply members");
        }
        self.absorb(now, runtime, true);
    }

    /// Carries out what foca asked for.
    fn absorb(&mut self, now: Duration, mut runtime: Runtime, mut news: bool) {
        while let Some((to, body)) = runtime.to_send() {
            self.outputs.push_back(Output::Send { to: to.node, address: to.address, body });
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            match timer {
                Timer::ChangeSuspectToDown { ref member_id, incarnation, .. } => {
                    self.counters.suspicions += 1;
                    news = true;
                    let (identity, timer) = (member_id.clone(), timer.clone());
                    self.suspect(now, identity, incarnation, timer);
                }
                Timer::SendIndirectProbe { ref probed_id, .. } => {
                    self.probed = Some(probed_id.node);
                    self.timers.add(now + after * self.factor(), Job::Foca(timer));
                }
                Timer::ProbeRandomMember(token) => {
                    self.timer_token = token;
                    self.timers.add(now + after * self.factor(), Job::Foca(timer));
                }
                timer => self.timers.add(now + after, Job::Foca(timer)),
            }
        }
        while let Some(notification) = runtime.to_notify() {
            news = true;
            if let OwnedNotification::Rejoin(_) = notification {
                self.counters.renewals += 1;
                self.emit(Event::Renewed);
            }
        }
        if news {
            self.reconcile(now);
        }
    }

    /// Brings what is known to others up to what foca knows.
    fn reconcile(&mut self, now: Duration) {
        let own = self.node();
        let mut changed = Vec::new();
        for member in self.foca.iter_membership_state() {
            let identity = member.id();
            if identity.node == own {
                continue;
            }
            let state = match member.state() {
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down if identity.left => MemberState::Left,
                State::Down => MemberState::Down,
            };
            let known = self.known.get(&identity.node);
            let same = known.is_some_and(|known| {
                known.identity == *identity
                    && known.state == state
                    && known.swim_incarnation == member.incarnation()
            });
            if !same {
                changed.push((identity.clone(), member.incarnation(), state));
            }
        }
        for (identity, swim_incarnation, state) in changed {
            self.record(now, identity, swim_incarnation, state);
        }
        self.tune();
    }

    fn record(
        &mut self,
        now: Duration,
        identity: Identity,
        swim_incarnation: foca::Incarnation,
        state: MemberState,
    ) {
        let node = identity.node;
        let before = self.known.get(&node);
        let visible = before.is_none_or(|known| {
            known.state != state
                || known.identity.incarnation != identity.incarnation
                || known.identity.address != identity.address
        });
        let since = if visible { now } else { before.map_or(now, |known| known.since) };
        let state_before = before.map(|known| known.state);
        let known = Known { identity, swim_incarnation, state, since };
        let member = known.public();
        self.known.insert(node, known);
        if state == MemberState::Suspect {
            self.doubt(now, node);
        }
        if visible {
            self.emit(Event::Changed { member, before: state_before });
        }
    }

    /// Adapts how often news is repeated to the size of the cluster.
    fn tune(&mut self) {
        let wanted = usize::from(Settings::transmissions(self.foca.num_members()).get());
        if wanted != self.transmissions {
            let config = self.settings.foca(self.foca.num_members());
            match self.foca.set_config(config) {
                Ok(()) => self.transmissions = wanted,
                Err(error) => tracing::warn!(node = %self.node(), %error, "could not tune gossip"),
            }
        }
    }

    fn emit(&mut self, event: Event) {
        self.version += 1;
        self.outputs.push_back(Output::Event(event));
    }

    /// Forgets members that have been down for long, or that are too many.
    fn sweep(&mut self, now: Duration) {
        self.timers.add(now + self.settings.exchange_period, Job::Sweep);
        self.exchanges.retain(|_, given_up| *given_up > now);
        let mut down: Vec<_> = self
            .known
            .values()
            .filter(|known| !known.state.is_active())
            .map(|known| (known.since, known.identity.clone()))
            .collect();
        down.sort_by_key(|(since, identity)| (*since, identity.node));
        let too_many = down.len().saturating_sub(self.settings.max_down);
        for (index, (since, identity)) in down.into_iter().enumerate() {
            if index < too_many || now.saturating_sub(since) > self.settings.remember_down {
                self.forget(now, identity);
            }
        }
    }

    fn forget(&mut self, now: Duration, identity: Identity) {
        let node = identity.node;
        let mut runtime = Runtime::new();
        if let Err(error) = self.foca.handle_timer(Timer::RemoveDown(identity), &mut runtime) {
            tracing::warn!(node = %self.node(), %error, "could not forget a member");
        }
        self.known.remove(&node);
        self.emit(Event::Forgotten(node));
        self.absorb(now, runtime, false);
    }

    /// A random member in such a state.
    fn random_known(&mut self, wanted: impl Fn(MemberState) -> bool) -> Option<Seed> {
        let candidates: Vec<_> = self.known.values().filter(|known| wanted(known.state)).collect();
        if candidates.is_empty() {
            return None;
        }
        let chosen = candidates[self.rng.random_range(0..candidates.len())];
        Some(Seed { node: chosen.identity.node, address: chosen.identity.address })
    }
}

impl Known {
    fn public(&self) -> Member {
        Member::new(&self.identity, self.state, millis(self.since))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Between nine and eleven tenths of a time, so that nodes that started together
/// drift apart.
fn jittered(rng: &mut StdRng, time: Duration) -> Duration {
    time.mul_f64(rng.random_range(0.9..1.1))
}

#[cfg(test)]
mod tests;

//! A whole cluster in simulated time: loss, latency, pauses, crashes, partitions.
//!
//! The same seed gives the same run, event by event. There is no I/O here and no
//! clock; the tests and the benchmark of this crate are built on it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rung_proto::{Incarnation, NodeId};

use crate::identity::{Identity, Text};
use crate::settings::Settings;
use crate::swim::{Output, Seed, Swim};
use crate::view::{Event, MemberState};

/// How many datagrams wait for a process that stands still; the kernel drops
/// the rest.
const SOCKET_BUFFER: usize = 256;
/// After how long a call to a peer that does not answer fails.
const CALL_DEADLINE: Duration = Duration::from_secs(1);
/// What a lost packet costs a reliable call.
const RETRANSMISSION: Duration = Duration::from_millis(100);

/// What the network between all nodes does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Network {
    /// The share of datagrams that are lost, 0.0 to 1.0.
    pub loss: f64,
    pub shortest: Duration,
    pub longest: Duration,
}

impl Network {
    /// A local network that loses such a share of datagrams.
    pub fn lan(loss: f64) -> Self {
        Self { loss, shortest: Duration::from_micros(200), longest: Duration::from_micros(1500) }
    }
}

/// A change of one member's state as one node saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    pub at: Duration,
    pub observer: usize,
    pub subject: usize,
    pub state: MemberState,
}

enum Happening {
    Wake(usize),
    Datagram { from: usize, to: usize, body: Bytes },
    Request { from: usize, to: usize, body: Bytes, asked: Duration },
    Answer { from: usize, to: usize, body: Option<Bytes> },
    Resume(usize),
}

struct Node {
    swim: Option<Swim>,
    incarnation: u64,
    wake: Option<Duration>,
    paused: bool,
    resumes: Duration,
    waiting: VecDeque<Happening>,
    side: u8,
    bytes_sent: u64,
    seeds: Vec<Seed>,
}

/// Nodes, the network between them, and what they saw.
pub struct Cluster {
    settings: Settings,
    network: Network,
    nodes: Vec<Node>,
    queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    rng: StdRng,
    seed: u64,
    now: Duration,
    sightings: Vec<Sighting>,
    trace: u64,
}

impl Cluster {
    /// `size` nodes, none of them started; the first is the seed of all others.
    pub fn new(size: usize, settings: Settings, network: Network, seed: u64) -> Self {
        let first = Seed { node: node_id(0), address: address(0) };
        let nodes = (0..size).map(|index| Node::new(if index == 0 { None } else { Some(first) }));
        Self {
            settings,
            network,
            nodes: nodes.collect(),
            queue: BTreeMap::new(),
            sequence: 0,
            rng: StdRng::seed_from_u64(seed),
            seed,
            now: Duration::ZERO,
            sightings: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// A cluster whose nodes have all joined and settled for ten seconds.
    pub fn settled(size: usize, settings: Settings, network: Network, seed: u64) -> Self {
        let mut cluster = Self::new(size, settings, network, seed);
        cluster.start_all(Duration::from_secs(1));
        cluster.run_for(Duration::from_secs(10));
        cluster
    }

    /// Changes the network from now on.
    pub fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    /// Everything that was seen so far.
    pub fn sightings(&self) -> &[Sighting] {
        &self.sightings
    }

    /// A hash over all that happened.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Bytes of datagrams and exchanges that all nodes sent so far.
    pub fn bytes_sent(&self) -> u64 {
        self.nodes.iter().map(|node| node.bytes_sent).sum()
    }

    /// A node's membership, while it runs.
    pub fn swim(&self, index: usize) -> Option<&Swim> {
        self.nodes[index].swim.as_ref()
    }

    /// Starts all nodes, the first at once, the others spread over a time.
    pub fn start_all(&mut self, over: Duration) {
        self.start(0);
        let began = self.now;
        let mut starts: Vec<_> = (1..self.nodes.len())
            .map(|index| (began + over.mul_f64(self.rng.random::<f64>()), index))
            .collect();
        starts.sort();
        for (at, index) in starts {
            self.run_until(at);
            self.start(index);
        }
    }

    /// Starts a node, or starts it again, with its next incarnation.
    pub fn start(&mut self, index: usize) {
        let (now, settings) = (self.now, self.settings.clone());
        let node = &mut self.nodes[index];
        node.incarnation += 1;
        let identity = Identity {
            node: node_id(index),
            incarnation: Incarnation(node.incarnation),
            renewal: 0,
            left: false,
            address: address(index),
            dc: Text::new("east").expect("short"),
            name: Text::new(&format!("n{index}")).expect("short"),
        };
        let seed = self.seed.wrapping_mul(1_000_003) ^ (index as u64) << 20 ^ node.incarnation;
        node.swim = Some(Swim::new(identity, settings, node.seeds.clone(), seed, now));
        node.wake = None;
        self.after_input(index);
    }

    /// Kills a process without a word.
    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.swim = None;
        node.wake = None;
        node.waiting.clear();
    }

    /// Stops a process for a while, as SIGSTOP does.
    pub fn pause(&mut self, index: usize, length: Duration) {
        let resumes = self.now + length;
        let node = &mut self.nodes[index];
        node.paused = true;
        node.resumes = node.resumes.max(resumes);
        self.push(resumes, Happening::Resume(index));
    }

    /// Puts a node on one side of a partition; nodes of different sides do not
    /// reach each other. All start on side 0.
    pub fn set_side(&mut self, index: usize, side: u8) {
        self.nodes[index].side = side;
    }

    /// Gives one node something to do, then carries out what follows from it.
    pub fn command(&mut self, index: usize, command: impl FnOnce(&mut Swim, Duration)) {
        let now = self.now;
        if let Some(swim) = &mut self.nodes[index].swim {
            command(swim, now);
        }
        self.after_input(index);
    }

    /// Whether each running node has each other running node as alive, and
    /// nobody else as active.
    pub fn agrees(&self) -> bool {
        let running: Vec<_> = (0..self.nodes.len()).filter(|i| self.swim(*i).is_some()).collect();
        running.iter().all(|index| {
            let swim = self.nodes[*index].swim.as_ref().expect("it runs");
            swim.active_count() + 1 == running.len()
                && running.iter().all(|other| {
                    other == index || swim.state(node_id(*other)) == Some(MemberState::Alive)
                })
        })
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Runs until a condition holds, checked every 20 ms; how long it took, or
    /// `None` if it did not happen in time.
    pub fn run_to(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        while !done(self) {
            if self.now >= began + limit {
                return None;
            }
            self.run_for(Duration::from_millis(20));
        }
        Some(self.now - began)
    }

    pub fn run_until(&mut self, until: Duration) {
        while let Some(((at, _), _)) = self.queue.first_key_value() {
            if *at > until {
                break;
            }
            let ((at, _), happening) = self.queue.pop_first().expect("it was just seen");
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    fn push(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), happening);
    }

    fn note(&mut self, what: u64) {
        for part in [self.now.as_nanos() as u64, what] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn happen(&mut self, happening: Happening) {
        let index = happening.whom();
        if matches!(happening, Happening::Resume(_)) {
            self.resume(index);
            return;
        }
        let node = &mut self.nodes[index];
        if node.paused {
            if node.waiting.len() < SOCKET_BUFFER {
                node.waiting.push_back(happening);
            }
            return;
        }
        self.deliver(happening);
    }

    /// The worst order: what is overdue runs before what arrived is read.
    fn resume(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if self.now < node.resumes {
            return;
        }
        node.paused = false;
        let waiting = std::mem::take(&mut node.waiting);
        self.deliver(Happening::Wake(index));
        waiting.into_iter().for_each(|happening| self.deliver(happening));
    }

    fn deliver(&mut self, happening: Happening) {
        let index = happening.whom();
        let now = self.now;
        self.note(happening.fingerprint());
        let mut answer = None;
        let Some(swim) = &mut self.nodes[index].swim else {
            return;
        };
        // What a node refuses, it counts itself.
        match happening {
            Happening::Wake(_) => {
                if swim.next_timeout().is_some_and(|due| due <= now) {
                    swim.handle_timeout(now);
                }
                self.nodes[index].wake = None;
            }
            Happening::Datagram { from, body, .. } => {
                let _ = swim.handle_datagram(now, node_id(from), &body);
            }
            Happening::Request { from, body, asked, .. } => {
                let reply = swim.exchange(now, node_id(from), &body).ok();
                // A caller that gave up was told so when it asked.
                if now < asked + CALL_DEADLINE {
                    answer = Some((from, reply));
                }
            }
            Happening::Answer { from, body, .. } => {
                let _ = swim.exchanged(now, node_id(from), body.as_deref());
            }
            Happening::Resume(_) => unreachable!("handled by happen"),
        }
        if let Some((to, body)) = answer {
            let delay = self.reliable_delay();
            self.nodes[index].bytes_sent += body.as_ref().map_or(0, |body| body.len() as u64);
            self.push(now + delay, Happening::Answer { from: index, to, body });
        }
        self.after_input(index);
    }

    fn after_input(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].swim.as_mut().and_then(Swim::poll_output) {
            match output {
                Output::Send { to, body, .. } => self.send(index, node_index(to), body),
                Output::Exchange { to, body, .. } => self.call(index, node_index(to), body),
                Output::Event(event) => self.see(index, &event),
            }
        }
        let node = &mut self.nodes[index];
        let Some(next) = node.swim.as_ref().and_then(Swim::next_timeout) else { return };
        let next = next.max(self.now);
        if node.wake.is_none_or(|wake| next < wake) {
            node.wake = Some(next);
            self.push(next, Happening::Wake(index));
        }
    }

    fn see(&mut self, observer: usize, event: &Event) {
        if let Event::Changed { member, .. } = event {
            let subject = node_index(member.node);
            self.note((observer as u64) << 32 | (subject as u64) << 8 | member.state as u64);
            let (at, state) = (self.now, member.state);
            self.sightings.push(Sighting { at, observer, subject, state });
        }
    }

    fn send(&mut self, from: usize, to: usize, body: Bytes) {
        self.nodes[from].bytes_sent += body.len() as u64;
        let lost = self.rng.random::<f64>() < self.network.loss;
        let latency = self.rng.random_range(self.network.shortest..=self.network.longest);
        if !lost && self.reaches(from, to) {
            self.push(self.now + latency, Happening::Datagram { from, to, body });
        }
    }

    fn call(&mut self, from: usize, to: usize, body: Bytes) {
        self.nodes[from].bytes_sent += body.len() as u64;
        let delay = self.reliable_delay();
        let answers = self.nodes.get(to).is_some_and(|node| node.swim.is_some() && !node.paused);
        let asked = self.now;
        if !self.reaches(from, to) || !answers {
            let failed = Happening::Answer { from: to, to: from, body: None };
            self.push(asked + CALL_DEADLINE, failed);
        }
        if self.reaches(from, to) {
            let asked = if answers { asked } else { asked.saturating_sub(CALL_DEADLINE) };
            self.push(self.now + delay, Happening::Request { from, to, body, asked });
        }
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.nodes.get(to).is_some_and(|node| node.side == self.nodes[from].side)
    }

    fn reliable_delay(&mut self) -> Duration {
        let mut delay = self.rng.random_range(self.network.shortest..=self.network.longest);
        while self.rng.random::<f64>() < self.network.loss.min(0.9) {
            delay += RETRANSMISSION;
        }
        delay
    }
}

impl Node {
    fn new(seed: Option<Seed>) -> Self {
        Self {
            swim: None,
            incarnation: 0,
            wake: None,
            paused: false,
            resumes: Duration::ZERO,
            waiting: VecDeque::new(),
            side: 0,
            bytes_sent: 0,
            seeds: seed.into_iter().collect(),
        }
    }
}

impl Happening {
    fn whom(&self) -> usize {
        match self {
            Happening::Wake(index) | Happening::Resume(index) => *index,
            Happening::Datagram { to, .. }
            | Happening::Request { to, .. }
            | Happening::Answer { to, .. } => *to,
        }
    }

    fn fingerprint(&self) -> u64 {
        let (kind, length) = match self {
            Happening::Wake(_) => (0, 0),
            Happening::Resume(_) => (1, 0),
            Happening::Datagram { body, .. } => (2, body.len()),
            Happening::Request { body, .. } => (3, body.len()),
            Happening::Answer { body, .. } => (4, body.as_ref().map_or(0, Bytes::len)),
        };
        kind << 56 | (self.whom() as u64) << 32 | length as u64
    }
}

/// The id of the node at an index; never zero.
pub fn node_id(index: usize) -> NodeId {
    NodeId(index as u64 + 1)
}

fn node_index(node: NodeId) -> usize {
    (node.0 - 1) as usize
}

fn address(index: usize) -> SocketAddr {
    let [.., high, low] = (index as u32).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(10, 0, high, low), 7400))
}

//! Simulated links: delay, loss, bandwidth and cuts between data centers,
//! applied to the UDP packets that this node sends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::sync::lock;

/// Packets on the simulated wire hold at most this many bytes; what does not fit
/// is lost, as in a router whose buffer is full.
const MAX_QUEUED: usize = 8 * 1024 * 1024;
/// The most that packets wait because of a limited bandwidth before they are
/// lost. Real buffers are of this order.
const MAX_BANDWIDTH_DELAY: Duration = Duration::from_millis(300);
/// Addresses whose data center is remembered.
const MAX_ADDRESSES: usize = 16_384;
/// Longer delays are of no use and would hold packets for too long.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// How a simulated link treats what we send to a data center. Both sides shape
/// their own sending, so a delay of 25 ms on both makes a round trip of 50 ms.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkShape {
    /// Milliseconds that each packet is late, at most 10 000.
    pub delay_ms: u32,
    /// The share of packets that are lost, 0.0 to 1.0.
    pub loss: f64,
    /// Bytes per second, for all nodes of that data center together.
    pub bandwidth: Option<u64>,
    /// Nothing arrives.
    pub cut: bool,
}

/// A packet that is under way on a simulated link.
struct Queued {
    due: Instant,
    /// Keeps packets with the same due time in order.
    sequence: u64,
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    contents: Vec<u8>,
}

impl Queued {
    fn order(&self) -> (Instant, u64) {
        (self.due, self.sequence)
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

struct ShapedLink {
    shape: LinkShape,
    /// When the link has sent what it was given so far.
    free_at: Instant,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Lost,
    /// Sent at that time.
    At(Instant),
}

impl ShapedLink {
    fn fate(&mut self, size: usize, now: Instant, chance: f64) -> Fate {
        if self.shape.cut || chance < self.shape.loss {
            return Fate::Lost;
        }
        let mut due = now;
        if let Some(bandwidth) = self.shape.bandwidth {
            let start = self.free_at.max(now);
            if start - now > MAX_BANDWIDTH_DELAY {
                return Fate::Lost;
            }
            let seconds = size as f64 / bandwidth.max(1) as f64;
            self.free_at = start + Duration::from_secs_f64(seconds.min(3600.0));
            due = self.free_at;
        }
        let delay = Duration::from_millis(self.shape.delay_ms.into()).min(MAX_DELAY);
        Fate::At(due + delay)
    }
}

#[derive(Default)]
struct ShapeState {
    links: HashMap<String, ShapedLink>,
    dc_of: HashMap<SocketAddr, String>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued_bytes: usize,
    sequence: u64,
}

/// The shapes of all links, shared by the socket and those who set them.
#[derive(Default)]
pub(crate) struct LinkShapes {
    /// False while no link is shaped, so that a node without simulation pays
    /// one atomic load a packet.
    active: AtomicBool,
    state: Mutex<ShapeState>,
    changed: Notify,
    lost: AtomicU64,
}

impl LinkShapes {
    pub(crate) fn set(&self, dc: &str, shape: Option<LinkShape>) {
        let mut state = lock(&self.state);
        match shape {
            Some(shape) => {
                let link = ShapedLink { shape, free_at: Instant::now() };
                state.links.insert(dc.to_owned(), link);
            }
            None => {
                state.links.remove(dc);
            }
        }
        self.active.store(!state.links.is_empty(), Ordering::Release);
    }

    /// Learns in which data center an address is.
    pub(crate) fn learn(&self, address: SocketAddr, dc: &str) {
        let mut state = lock(&self.state);
        if state.dc_of.len() >= MAX_ADDRESSES && !state.dc_of.contains_key(&address) {
            return;
        }
        state.dc_of.insert(address, dc.to_owned());
    }

    /// Packets that simulated links lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Takes the packets for a shaped link. False when the link is not shaped.
    fn take(&self, transmit: &Transmit<'_>) -> bool {
        let mut state = lock(&self.state);
        let ShapeState { links, dc_of, queue, queued_bytes, sequence } = &mut *state;
        let dc = dc_of.get(&transmit.destination);
        let Some(link) = dc.and_then(|dc| links.get_mut(dc)) else {
            return false;
        };
        let now = Instant::now();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(size) {
            let fate = link.fate(packet.len(), now, rand::random::<f64>());
            let Fate::At(due) = fate else {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            if *queued_bytes + packet.len() > MAX_QUEUED {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            *queued_bytes += packet.len();
            *sequence += 1;
            queue.push(Reverse(Queued {
                due,
                sequence: *sequence,
                destination: transmit.destination,
                ecn: transmit.ecn,
                src_ip: transmit.src_ip,
                contents: packet.to_vec(),
            }));
        }
        drop(state);
        self.changed.notify_one();
        true
    }

    /// The next packet that is due, or when the next one will be.
    fn due(&self, now: Instant) -> Result<Queued, Option<Instant>> {
        let mut state = lock(&self.state);
        let next = state.queue.peek().map(|Reverse(packet)| packet.due);
        match next {
            Some(due) if due <= now => {
                let Some(Reverse(packet)) = state.queue.pop() else {
                    return Err(None);
                };
                state.queued_bytes -= packet.contents.len();
                Ok(packet)
            }
            later => Err(later),
        }
    }

    /// Sends what is due, until the mesh is dropped.
    pub(crate) async fn pump(self: Arc<Self>, socket: Arc<dyn AsyncUdpSocket>) {
        let mut poller = socket.clone().create_io_poller();
        loop {
            match self.due(Instant::now()) {
                Ok(packet) => send(&*socket, &mut poller, &packet).await,
                Err(Some(due)) => {
                    let due = tokio::time::Instant::from_std(due);
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.changed.notified() => {}
                    }
                }
                Err(None) => self.changed.notified().await,
            }
        }
    }
}

async fn send(socket: &dyn AsyncUdpSocket, poller: &mut Pin<Box<dyn UdpPoller>>, packet: &Queued) {
    let transmit = Transmit {
        destination: packet.destination,
        ecn: packet.ecn,
        contents: &packet.contents,
        segment_size: None,
        src_ip: packet.src_ip,
    };
    loop {
        match socket.try_send(&transmit) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let writable = std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await;
                if writable.is_err() {
                    return;
                }
            }
            // Any other error is the loss of a packet, which QUIC repairs.
            _ => return,
        }
    }
}

/// The mesh's UDP socket, with the simulated links between it and the network.
pub(crate) struct ShapedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    shapes: Arc<LinkShapes>,
}

impl ShapedSocket {
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, shapes: Arc<LinkShapes>) -> Self {
        Self { inner, shapes }
    }
}

impl fmt::Debug for ShapedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShapedSocket").finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for ShapedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.shapes.active.load(Ordering::Acquire) && self.shapes.take(transmit) {
            return Ok(());
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(shape: LinkShape, now: Instant) -> ShapedLink {
        ShapedLink { shape, free_at: now }
    }

    #[test]
    fn a_delay_is_added_and_bandwidth_spaces_packets_out() {
        let now = Instant::now();
        let shape = LinkShape { delay_ms: 20, bandwidth: Some(100_000), ..LinkShape::default() };
        let mut link = link(shape, now);
        let first = link.fate(1000, now, 0.5);
        let second = link.fate(1000, now, 0.5);
        assert_eq!(first, Fate::At(now + Duration::from_millis(30)));
        assert_eq!(second, Fate::At(now + Duration::from_millis(40)));
    }

    #[test]
    fn a_link_that_is_far_behind_loses_packets() {
        let now = Instant::now();
        let mut link = link(LinkShape { bandwidth: Some(1000), ..LinkShape::default() }, now);
        assert!(matches!(link.fate(1000, now, 0.5), Fate::At(_)));
        assert_eq!(link.fate(1000, now, 0.5), Fate::Lost);
        let later = now + Duration::from_secs(2);
        assert!(matches!(link.fate(1000, later, 0.5), Fate::At(_)));
    }

    #[test]
    fn loss_and_cuts_lose_packets() {
        let now = Instant::now();
        let mut lossy = link(LinkShape { loss: 0.3, ..LinkShape::default() }, now);
        assert_eq!(lossy.fate(1, now, 0.29), Fate::Lost);
        assert_eq!(lossy.fate(1, now, 0.31), Fate::At(now));
        let mut cut = link(LinkShape { cut: true, ..LinkShape::default() }, now);
        assert_eq!(cut.fate(1, now, 0.99), Fate::Lost);
    }

    #[test]
    fn packets_leave_in_the_order_of_their_due_times() {
        let shapes = LinkShapes::default();
        let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
        shapes.learn(address, "east");
        let contents: Vec<u8> = (0..10).collect();
        let transmit = Transmit {
            destination: address,
            ecn: None,
            contents: &contents,
            segment_size: Some(4),
            src_ip: None,
        };
        assert!(!shapes.take(&transmit), "a link without a shape was shaped");
        shapes.set("east", Some(LinkShape { delay_ms: 5, ..LinkShape::default() }));
        assert!(shapes.take(&transmit));
        let now = Instant::now();
        assert!(matches!(shapes.due(now), Err(Some(due)) if due > now));
        let late = now + Duration::from_secs(1);
        let packets: Vec<Vec<u8>> =
            std::iter::from_fn(|| shapes.due(late).ok()).map(|packet| packet.contents).collect();
        assert_eq!(packets, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }
}

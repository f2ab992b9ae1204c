//! The times and limits of the protocol.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

/// The largest datagram, in bytes: what fits the first packets of a QUIC
/// connection.
pub const MAX_PACKET: usize = 1100;

/// Times and limits. Every node of a cluster should have the same times, though
/// the protocol tolerates that they differ while they are being changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How often a random member is probed.
    pub probe_period: Duration,
    /// After how long without an answer others are asked to probe it too.
    pub probe_rtt: Duration,
    /// How many others are asked.
    pub indirect_probes: NonZeroUsize,
    /// How long a suspect has to speak for itself.
    pub suspicion: Duration,
    /// How often a suspect is pinged and told that it is suspected.
    pub suspect_ping: Duration,
    /// How often news is gossiped, while there is any.
    pub gossip_period: Duration,
    /// To how many members.
    pub gossip_fanout: NonZeroUsize,
    /// How often the full state is exchanged with a random peer.
    pub exchange_period: Duration,
    /// How soon joining is tried again; it doubles up to `exchange_period`.
    pub announce_period: Duration,
    /// From how late a timer counts against the node's health.
    pub late: Duration,
    /// From how late a timer means that the whole process stood still.
    pub pause: Duration,
    /// For how long members that are down or left are remembered.
    pub remember_down: Duration,
    /// How many of those, the oldest are forgotten first.
    pub max_down: usize,
    /// How many members in all; news of more is refused.
    pub max_members: usize,
    /// Whether timeouts grow while the node's own health is poor.
    pub damping: bool,
}

impl Settings {
    /// For data centers within some 50 ms of each other.
    pub fn lan() -> Self {
        Self {
            probe_period: Duration::from_millis(250),
            probe_rtt: Duration::from_millis(60),
            indirect_probes: NonZeroUsize::new(3).expect("not zero"),
            suspicion: Duration::from_millis(900),
            suspect_ping: Duration::from_millis(200),
            gossip_period: Duration::from_millis(100),
            gossip_fanout: NonZeroUsize::new(3).expect("not zero"),
            exchange_period: Duration::from_secs(5),
            announce_period: Duration::from_millis(500),
            late: Duration::from_millis(100),
            pause: Duration::from_secs(1),
            remember_down: Duration::from_secs(24 * 3600),
            max_down: 1024,
            max_members: 4096,
            damping: true,
        }
    }

    /// For data centers up to some 400 ms apart: everything about five times
    /// slower.
    pub fn wan() -> Self {
        Self {
            probe_period: Duration::from_millis(1200),
            probe_rtt: Duration::from_millis(500),
            suspicion: Duration::from_millis(4500),
            suspect_ping: Duration::from_millis(900),
            gossip_period: Duration::from_millis(250),
            exchange_period: Duration::from_secs(10),
            announce_period: Duration::from_secs(1),
            late: Duration::from_millis(300),
            pause: Duration::from_secs(3),
            ..Self::lan()
        }
    }

    /// How often each piece of news is sent by a node that knows `members`.
    pub(crate) fn transmissions(members: usize) -> NonZeroU8 {
        let wanted = 5.0 * ((members + 1) as f64).log10();
        NonZeroU8::new(wanted.clamp(3.0, 40.0) as u8).expect("at least 3")
    }

    pub(crate) fn foca(&self, members: usize) -> foca::Config {
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_rtt,
            num_indirect_probes: self.indirect_probes,
            max_transmissions: Self::transmissions(members),
            suspect_to_down_after: self.suspicion,
            // What is down is forgotten by us, so that there is a bound.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::new(MAX_PACKET).expect("not zero"),
            notify_down_members: true,
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(foca::PeriodicParams {
                frequency: self.gossip_period,
                num_members: self.gossip_fanout,
            }),
        }
    }
}

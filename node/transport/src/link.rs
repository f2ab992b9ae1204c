//! One authenticated connection to a peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rung_proto::{Generation, Incarnation};

use crate::frame::LinkClass;
use crate::identity::PeerIdentity;
use crate::lane::{Lane, Outbox};

/// Why we close connections, as the QUIC application error code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum CloseCode {
    Shutdown = 0,
    Refused = 1,
    /// Another connection took its place.
    Superseded = 2,
    Protocol = 3,
    /// A joining node's only exchange is over.
    Done = 4,
}

static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

/// A connection after both sides have greeted.
pub(crate) struct Link {
    /// Unlike every other link of this process.
    pub serial: u64,
    pub connection: quinn::Connection,
    pub identity: PeerIdentity,
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub class: LinkClass,
    /// Whether we made it.
    pub dialled: bool,
    outboxes: [Outbox; 2],
    closed: AtomicBool,
}

/// What is known of a connection when it is made.
pub(crate) struct LinkFacts {
    pub identity: PeerIdentity,
    pub incarnation: Incarnation,
    pub generation: Generation,
    pub class: LinkClass,
    pub dialled: bool,
}

impl Link {
    pub(crate) fn new(
        connection: quinn::Connection,
        facts: LinkFacts,
        queue_bytes: usize,
    ) -> Arc<Self> {
        Arc::new(Self {
            serial: NEXT_SERIAL.fetch_add(1, Ordering::Relaxed),
            connection,
            identity: facts.identity,
            incarnation: facts.incarnation,
            generation: facts.generation,
            class: facts.class,
            dialled: facts.dialled,
            outboxes: [Outbox::new(queue_bytes), Outbox::new(queue_bytes)],
            closed: AtomicBool::new(false),
        })
    }

    pub(crate) fn outbox(&self, lane: Lane) -> &Outbox {
        &self.outboxes[lane.index()]
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes nothing more. Called when the connection has ended or is ended.
    pub(crate) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Release);
        self.outboxes.iter().for_each(Outbox::close);
    }

    /// Ends the connection and tells the peer why.
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.mark_closed();
        close(&self.connection, code, reason);
    }
}

/// Ends a connection and tells the peer why.
pub(crate) fn close(connection: &quinn::Connection, code: CloseCode, reason: &str) {
    connection.close((code as u32).into(), reason.as_bytes());
}

//! What a group replicates: the trait that its users implement.

use std::io::{self, Read};

use bytes::Bytes;

use crate::status::Position;

/// One committed entry, as the state machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the log. Places rise, but not by one: entries that belong
    /// to the protocol (memberships, the blank entry of a new leader) are not
    /// shown.
    pub index: u64,
    /// The term of the leader that wrote it.
    pub term: u64,
    /// What was proposed.
    pub payload: Bytes,
}

/// Where a state machine that keeps its state on a disk by itself is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnCopy {
    /// The last entry whose effects survive a crash of this process without the
    /// log. Entries after it are applied again at a start, and the log keeps them.
    /// It must be that of one consistent state.
    pub durable: Option<Position>,
    /// The last entry in what [`StateMachine::snapshot`] would copy now: applied,
    /// and not before `durable`. Nothing while there is no state.
    pub current: Option<Position>,
}

/// A stable copy of a state machine's state, read while later entries are applied.
pub type SnapshotSource = Box<dyn Read + Send>;

/// The deterministic state that a group replicates.
///
/// Every replica applies the same entries in the same order, so `apply` may
/// depend on nothing but the state and the entries: no clock, no randomness, no
/// iteration order of a hash map.
///
/// All methods run on the group's own task and delay only that group. They may
/// block for as long as a disk takes (see [`StateMachine::waits_for_disk`]), not
/// for as long as a network does.
pub trait StateMachine: Send + 'static {
    /// Applies committed entries in order and returns one answer for each. An
    /// answer reaches the proposer if it still waits on this node.
    ///
    /// # Errors
    /// An error says that this replica can no longer be trusted to be equal to
    /// the others. It stops the group on this node; the other replicas go on.
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>>;

    /// A stable copy of everything applied so far. It is called between two
    /// calls of [`StateMachine::apply`] and should take a view, not copy; the
    /// source is read later, on another thread.
    ///
    /// # Errors
    /// The group stops on this node.
    fn snapshot(&mut self) -> io::Result<SnapshotSource>;

    /// Replaces the whole state by that of a snapshot, made by this or another
    /// replica. Chunks are verified before `source` returns them; an error of
    /// `source` must be returned.
    ///
    /// # Errors
    /// The group stops on this node and asks for repair.
    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()>;

    /// Whether [`StateMachine::apply`] would wait for a disk, or for somebody who does,
    /// with these entries. The other tasks of the thread are then moved to another one
    /// meanwhile, which wakes several threads for each call.
    fn waits_for_disk(&self, entries: &[Committed]) -> bool {
        let _ = entries;
        false
    }

    /// Says that the state machine keeps its state by itself. Then no snapshots are
    /// written: the log is purged up to what is durable, and a replica that needs
    /// more than the log has is sent what [`StateMachine::snapshot`] yields while it
    /// is read. What [`StateMachine::restore`] took must be durable, whole or not at
    /// all, when it returns. Asked often, so it must be cheap.
    fn own_copy(&self) -> Option<OwnCopy> {
        None
    }
}

//! What a group replicates: the trait that its users implement.

use std::any::Any;
use std::io::{self, Read};
use std::sync::Arc;

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

/// Where a state of another replica lands: beside the state in use, which it leaves
/// alone. It must not keep the state machine.
pub trait Landing: Send + Sync + 'static {
    /// Begins to receive what [`StateMachine::snapshot`] yielded elsewhere. Several may
    /// come at once.
    ///
    /// # Errors
    /// This snapshot is not taken; it will come again.
    fn begin(&self) -> io::Result<Box<dyn Arrival>>;
}

/// A state that is being received. Dropped, it leaves nothing.
pub trait Arrival: Send {
    /// Takes the next bytes, which are verified. May block for as long as a disk takes.
    ///
    /// # Errors
    /// The snapshot is not taken.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes it durable after the last bytes.
    ///
    /// # Errors
    /// It is not whole, or the disk failed.
    fn finish(self: Box<Self>) -> io::Result<Landed>;
}

/// A state that has landed, for [`StateMachine::take_over`]. Dropped, it leaves nothing;
/// nor does a crash leave it.
pub type Landed = Box<dyn Any + Send>;

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

    /// Where states of others land, for a state machine that keeps its state by itself.
    /// They are then written once, and this replica goes on with what it has until one
    /// is whole. Without it they are written to a file for [`StateMachine::restore`].
    /// Asked once.
    fn landing(&self) -> Option<Arc<dyn Landing>> {
        None
    }

    /// Replaces the whole state by one that has landed. It must be durable, whole or not
    /// at all, when this returns.
    ///
    /// # Errors
    /// The group stops on this node and asks for repair.
    fn take_over(&mut self, landed: Landed) -> io::Result<()> {
        drop(landed);
        Err(io::Error::new(io::ErrorKind::Unsupported, "states of others do not land here"))
    }
}

//! One SQLite database as the state of a replicated log.
//!
//! The primary executes and commits; what its commit changed becomes an entry:
//! the pages, compressed against what they were, with the position they start
//! from. Every copy, the primary's included, hands the committed entries to
//! [`PageStore::apply`]. Readers see exactly what is committed, through a [`Gate`].
//!
//! One [`PageStore`] owns the files of a copy. A primary takes its connection from
//! [`PageStore::writer`], calls [`PageStore::capture`] after each commit, proposes
//! the [`Parts`], and starts its epoch with [`PageStore::barrier`]. Readers on any
//! thread use [`Gate::connect`], [`Gate::begin`] and [`Reading::end`].
//!
//! It is *not* a log: what is not checkpointed is lost in a crash, and the log
//! gives it again. It executes no SQL, and it has no threads.
//!
//! `DESIGN.md` has the formats and what every crash leaves.

#[macro_use]
mod hand_on;

mod apply;
pub mod archive;
mod capture;
mod checkpoint;
mod connection;
mod delta;
mod disk;
mod draft;
mod draft_vfs;
mod entry;
mod error;
mod frozen;
mod gate;
mod landing;
mod marker;
mod open;
mod overlay;
mod page;
mod plan;
mod position;
#[cfg(feature = "simulation")]
pub mod simulation;

mod snapshot;
mod snapshot_handle;
mod spool;
mod store;
mod stream;
mod undo;
mod wal_file;
mod write;

pub use apply::Outcome;
pub use capture::{Captured, Parts};
pub use checkpoint::Checkpoint;
pub use disk::Disk;
pub use draft::draft_bytes;
pub use entry::{Entry, EntryError, MAX_PART_BYTES, MAX_PART_PAGES, MAX_PARTS, Part};
pub use error::PagesError;
pub use gate::{Gate, Reader, ReaderTicket, Reading};
pub use landing::{Arrival, Landed, Landing};
pub use marker::{Marker, MarkerError};
pub use page::PAGE_BYTES;
pub use position::Position;
pub use snapshot::{PagesHash, Snapshot};
pub use spool::Pending;
pub use store::{Faults, Load, Options, PageStore, Writer, WriterTicket};
pub use stream::{SnapshotHeader, check_snapshot};

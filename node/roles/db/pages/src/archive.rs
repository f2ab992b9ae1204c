//! The archive of a database: a directory from which it can be had as it was at any
//! moment since the archive began.
//!
//! - `base-GENERATION-SEQUENCE-MS.rung`: all pages at a position, taken at a time.
//! - `entries-GENERATION-AFTER-LAST-FIRST_MS-LAST_MS.rung`: the committed entries after
//!   the position with the sequence AFTER up to LAST, with their times.
//! - `NAME.partial`: what somebody is writing, or died over. Of entries, those that are
//!   whole count.
//!
//! Files are written aside, synced, renamed, and the directory is synced; a file with a
//! whole name never changes. A file of entries begins with the position that it
//! continues, so the files form chains: where one is missing the chain ends, and a new
//! base begins another. What is written was committed, so that two who write at the same
//! time write the same: nothing is lost by it.
//!
//! DESIGN.md has the formats.

mod catalog;
mod format;
mod replay;
mod segment;
mod writer;

pub use catalog::{BaseFile, Catalog, Damage, EntriesFile, Range};
pub use format::{ArchiveId, BaseHeader, SegmentEnd, SegmentHeader};
pub use replay::{Moment, Restored, Target, replay};
pub use segment::{Record, SegmentReader};
pub use writer::{ArchiveWriter, BaseJob, Intake, WriterOptions};

use std::io;
use std::path::PathBuf;

use crate::error::PagesError;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory is not there: it is never made, since it may be a share that is
    /// not mounted.
    #[error("the directory {0} is not there; mount or make it")]
    Missing(PathBuf),
    /// The directory has files of something else.
    #[error("{0} is of another database or another cluster; give this one a directory of its own")]
    Foreign(PathBuf),
    /// A file is not what was written.
    #[error("{file} is damaged at byte {offset}: {what}{}", restorable(.before))]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What was seen.
        what: String,
        /// The last moment before the damage that can be restored, if there is one:
        /// milliseconds since 1970 and the sequence
        /// of its position.
        before: Option<(u64, u64)>,
    },
    /// What is asked for is not there.
    #[error("{0}")]
    NotThere(String),
    /// A file operation failed.
    #[error("could not {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database that is made of it failed.
    #[error(transparent)]
    Pages(#[from] PagesError),
}

fn restorable(before: &Option<(u64, u64)>) -> String {
    let Some((at_ms, sequence)) = before else { return String::new() };
    let at = Moment(*at_ms);
    format!("; position {sequence} of {at} is the last before it that can be restored")
}

pub(crate) fn io_error(
    what: &'static str,
    path: &std::path::Path,
) -> impl Fn(io::Error) -> ArchiveError + use<> {
    let path = path.to_path_buf();
    move |source| ArchiveError::Io { what, path: path.clone(), source }
}

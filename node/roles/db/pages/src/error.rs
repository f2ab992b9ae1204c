//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::entry::EntryError;
use crate::position::Position;

/// Why a call of [`crate::PageStore`] or [`crate::Gate`] failed.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// The writer's connection is inside a transaction; nothing was changed. Roll
    /// it back and call again with the same entries.
    #[error("the writer is inside a transaction; roll it back and try again")]
    WriterBusy,
    /// The connection was opened before an undo, a foreign entry or a restore.
    /// What it caches may be of another history: open a new one.
    #[error(
        "this connection was opened before the database was set back or replaced; open a new one"
    )]
    Stale,
    /// The commit cannot become an entry: undo it. The last entry is of another
    /// epoch, so somebody else may be the primary.
    #[error(
        "the last entry {tip} is not of epoch {epoch}; undo, and wait for a barrier of the epoch"
    )]
    NotPrimary {
        /// The last entry, of another epoch.
        tip: Position,
        /// The epoch of the commit.
        epoch: u64,
    },
    /// The commit changed more pages than may be replicated: undo it.
    #[error("the transaction changed {pages} pages of 4 KiB, the most is {most}; split it")]
    TooLarge {
        /// Pages that it changed.
        pages: u64,
        /// [`crate::Options::max_transaction_pages`].
        most: u32,
    },
    /// A capture has failed before: undo first.
    #[error("the database holds a commit that could not be captured; undo first")]
    Uncaptured,
    /// Entries must be given in the order of their log indexes, each once.
    #[error("entry {index} was given after entry {applied} had been applied")]
    OutOfOrder {
        /// The index that came.
        index: u64,
        /// The last applied one.
        applied: u64,
    },
    /// A committed entry cannot be read. This copy must stop.
    #[error("entry {index} of the log cannot be read: {source}")]
    Entry {
        /// Its log index.
        index: u64,
        /// What is wrong with it.
        source: EntryError,
    },
    /// This copy differs from the primary's: stop serving, fetch a snapshot.
    #[error("this copy differs from the primary's at {position}: {what}; it needs a snapshot")]
    Divergence {
        /// The position before the entry that showed it.
        position: Position,
        /// What differs.
        what: String,
    },
    /// The disk is full; nothing was changed. The call can be made again.
    #[error("no space left on the disk of {0}")]
    DiskFull(PathBuf),
    /// Files on the disk are damaged, which a power failure cannot explain: delete
    /// the directory and fetch a snapshot from another copy.
    #[error("{file} is damaged: {what}; remove this copy and let it be fetched from another one")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was seen.
        what: String,
    },
    /// The stream is not a snapshot, or was cut. The database is as before.
    #[error("the snapshot cannot be restored: {0}")]
    Snapshot(String),
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
    /// SQLite failed.
    #[error("SQLite could not {what}: {source}")]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// An earlier failure left the store unusable; nothing is lost: close it and
    /// open it again, the log repeats what is missing.
    #[error("the database's files cannot be used any more since an earlier failure: {0}")]
    Broken(String),
}

impl PagesError {
    /// Wraps an error of SQLite, telling a busy writer and a full disk apart.
    pub(crate) fn sqlite(
        what: &'static str,
        dir: &std::path::Path,
    ) -> impl Fn(rusqlite::Error) -> PagesError + use<> {
        let dir = dir.to_path_buf();
        move |source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => PagesError::WriterBusy,
            Some(rusqlite::ErrorCode::DiskFull) => PagesError::DiskFull(dir.clone()),
            _ => PagesError::Sqlite { what, source },
        }
    }

    pub(crate) fn io(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl Fn(io::Error) -> PagesError + use<> {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => PagesError::DiskFull(path.clone()),
            _ => PagesError::Io { what, path: path.clone(), source },
        }
    }
}

//! What can go wrong.

use std::io;
use std::path::PathBuf;

use rung_proto::GroupId;

use crate::segment::FORMAT_VERSION;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("the log cannot be opened with this configuration: {0}")]
    Config(String),
    /// Another process has the log open.
    #[error("another process has the log in {dir} open; stop it first")]
    InUse {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// A newer version of Rung wrote the log.
    #[error(
        "{file} has format version {found}, this program reads up to {FORMAT_VERSION}; \
         start the newer version of the program"
    )]
    Newer {
        /// The segment that says so.
        file: PathBuf,
        /// The version it says.
        found: u32,
    },
    /// There is no room for the segment that a start writes.
    #[error("no space left on the disk of {dir} to start the log; free some and start again")]
    DiskFull {
        /// The directory of the log.
        dir: PathBuf,
    },
    /// The disk failed.
    #[error("the log could not {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a write did not become durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Syncing or writing failed, now or earlier. What was written may or may
    /// not be durable, and nothing will be any more: end the process.
    #[error("the log is dead and the process must end: {reason}")]
    Dead {
        /// What failed.
        reason: String,
    },
    /// There was no room for a new segment. Nothing of this write is in the
    /// log, nor of later writes of the same group that waited behind it; the
    /// group's state is as if they had never been queued. Purging still works,
    /// and appending works again as soon as there is space.
    #[error("no space left on the disk of the log; nothing of this write was kept")]
    DiskFull,
    /// Too much is waiting to be written. Nothing was queued.
    #[error("{queued} bytes wait to be written to the log, more than allowed; try later")]
    QueueFull {
        /// How many bytes wait.
        queued: usize,
    },
    /// The write is larger than the log can take. Nothing was queued.
    #[error("{what} has {bytes} bytes, the log takes at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The first entry appended does not follow the last one. Nothing was
    /// queued.
    #[error("group {group}: an entry with index {index} cannot follow {}", last_text(.expected))]
    Gap {
        /// Whose log.
        group: GroupId,
        /// The index given.
        index: u64,
        /// The index that would have been right.
        expected: u64,
    },
    /// The group's log is damaged: only [`crate::Write::DropGroup`] is taken.
    #[error("the log of group {group} is damaged; drop it and fetch it from its peers")]
    Corrupt {
        /// Whose log.
        group: GroupId,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

fn last_text(expected: &u64) -> String {
    match expected.checked_sub(1) {
        Some(last) => format!("index {last}"),
        None => "an empty log, which starts at 0".to_owned(),
    }
}

/// Why entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What is on the disk is not what was written there.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// Which file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What was seen.
        what: String,
    },
    /// The disk failed.
    #[error("{file} could not be read at offset {offset}: {source}")]
    Io {
        /// Which file.
        file: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime ended while the read was running.
    #[error("the read was given up because the runtime is shutting down")]
    Cancelled,
}

/// True if there was no room, as opposed to a disk that fails.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

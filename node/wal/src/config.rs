//! What a log is told when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;

/// The bytes at the end of each segment that only small records may use, so
/// that a full disk can still take the purge that frees it.
pub(crate) fn reserve_bytes(segment_bytes: u64) -> u64 {
    (segment_bytes / 8).min(256 * 1024)
}

/// Where a log lives and what bounds it.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// The directory of the log; nothing else may be kept in it.
    pub dir: PathBuf,
    /// The size of a segment file in bytes: 64 KiB to 2 GiB. One call of
    /// [`crate::Wal::write`] holds at most half of it.
    pub segment_bytes: u64,
    /// The largest payload of one entry, in bytes.
    pub max_record_bytes: usize,
    /// How many bytes may wait to be written; beyond it a write is refused
    /// with [`crate::WalError::QueueFull`].
    pub max_queue_bytes: usize,
    /// How many bytes of written entries stay in memory for readers.
    pub cache_bytes: usize,
    /// Who writes what is queued.
    pub driver: Driver,
}

/// Who writes what is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Threads of the log's own: the one for production.
    Threads,
    /// A task on the tokio runtime in which the log is opened; each batch takes
    /// `delay` on that runtime's clock before it is synced. For simulations:
    /// no thread, so the same seed gives the same run.
    Task {
        /// How long a batch takes, from written to synced.
        delay: Duration,
    },
    /// Whoever opened the log calls [`crate::Wal::write_batch`] and
    /// [`crate::Wal::sync_batch`].
    Manual,
}

impl WalConfig {
    /// The usual bounds: segments of 64 MiB, entries up to 16 MiB, 64 MiB
    /// waiting, 32 MiB kept for readers, threads of its own.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            max_record_bytes: 16 << 20,
            max_queue_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            driver: Driver::Threads,
        }
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let wrong = |what: String| Err(OpenError::Config(what));
        if self.segment_bytes < 64 << 10 || self.segment_bytes > 2 << 30 {
            return wrong(format!(
                "segment_bytes is {}, it must be from 64 KiB to 2 GiB",
                self.segment_bytes
            ));
        }
        if self.max_record_bytes as u64 + 1024 > self.max_write_bytes() {
            return wrong(format!(
                "max_record_bytes is {}, it must be 1 KiB less than half of segment_bytes ({})",
                self.max_record_bytes, self.segment_bytes
            ));
        }
        Ok(())
    }

    /// The most that one write may take in the file.
    pub(crate) fn max_write_bytes(&self) -> u64 {
        self.segment_bytes / 2
    }

    /// The most that the state of all groups may take at the head of a segment.
    pub(crate) fn max_head_bytes(&self) -> u64 {
        self.segment_bytes / 4
    }
}

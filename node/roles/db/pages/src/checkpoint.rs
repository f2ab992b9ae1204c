//! Making the settled state durable, and emptying the `-wal`.

use std::time::{Duration, Instant};

use crate::error::PagesError;
use crate::marker::Marker;
use crate::open::{sync_main, write_marker};
use crate::store::{PageStore, backfill, empty_wal};
use crate::wal_file::WalIndex;

/// A blocked checkpoint is tried again after this long.
const RETRY: Duration = Duration::from_millis(200);

/// What a checkpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checkpoint {
    /// The `-wal` is small, or readers blocked the last attempt a moment ago.
    NotDue,
    /// Something is in flight. Stop writing until it is settled, then call again.
    InFlight,
    /// The settled state is durable, but readings that began before it, or an open
    /// transaction of the writer, keep the `-wal` from being emptied. It is tried
    /// again when called later; interrupt them if [`crate::Load::stop_writing`].
    Blocked {
        /// Readings that have not ended.
        readers: usize,
    },
    /// The settled state is durable, and the `-wal` is empty.
    Done,
}

impl PageStore {
    /// Makes a checkpoint if the `-wal` has grown to its size. Nothing may commit on
    /// the writer's connection meanwhile; readers go on.
    ///
    /// # Errors
    /// The disk failed: this copy cannot go on until it is opened again. With
    /// [`PagesError::DiskFull`] it can.
    pub fn checkpoint_if_due(&mut self) -> Result<Checkpoint, PagesError> {
        if !self.load().checkpoint_due {
            return Ok(Checkpoint::NotDue);
        }
        if let Some((when, frames)) = self.retry
            && Instant::now() < when
            && self.index.frames < frames
        {
            return Ok(Checkpoint::NotDue);
        }
        self.checkpoint()
    }

    /// Makes a checkpoint whatever the size of the `-wal`.
    ///
    /// # Errors
    /// As [`PageStore::checkpoint_if_due`].
    pub fn checkpoint(&mut self) -> Result<Checkpoint, PagesError> {
        self.usable()?;
        if !self.in_flight.is_empty() {
            return Ok(Checkpoint::InFlight);
        }
        let done = match self.checkpoint_settled() {
            Err(error @ PagesError::DiskFull(_)) => Err(error),
            other => self.breaking(other),
        };
        self.retry = match done {
            Ok(Checkpoint::Blocked { .. }) => {
                Some((Instant::now() + RETRY, self.index.frames.saturating_mul(5) / 4))
            }
            _ => None,
        };
        done
    }

    fn checkpoint_settled(&mut self) -> Result<Checkpoint, PagesError> {
        // First the state is made durable where it is, in the -wal: from here on
        // the main file may be torn.
        let marker = Marker {
            file: self.files.number,
            log_index: self.durable_candidate(),
            position: self.position,
            frames: self.index.frames,
            salts: self.index.salts,
        };
        if marker != self.marker {
            self.sync_wal()?;
            self.set_marker(marker)?;
        }
        // Snapshots cannot be opened beside a checkpoint. What they show is the
        // newest commit, so readers begin there without one.
        let snapshot = self.gate.state().snapshot.clone();
        self.set_gate(None);
        let emptied = self.empty();
        let snapshot = match emptied {
            Ok(true) => self.take_snapshot().map(Some),
            _ => Ok(snapshot),
        };
        self.set_gate(snapshot?);
        let readers = self.gate.readers();
        Ok(if emptied? { Checkpoint::Done } else { Checkpoint::Blocked { readers } })
    }

    /// Moves everything into the main file; false if readers did not let it.
    fn empty(&mut self) -> Result<bool, PagesError> {
        let (observer, files, patience) = (&self.observer, &self.files, self.options.reader_patience);
        let filled = self.gate.wait_until(patience, || backfill(observer, &files.main))?;
        if !filled || std::sync::Arc::strong_count(&self.images) > 1 {
            return Ok(false);
        }
        sync_main(&self.files, &self.options)?;
        self.set_marker(Marker { frames: 0, salts: [0; 8], ..self.marker })?;
        let emptied = self.gate.wait_until(patience, || empty_wal(observer_of(self), &self.files.main))?;
        if emptied {
            self.index = WalIndex::empty(self.index.size);
        }
        Ok(emptied)
    }

    /// The last log index that need not be given again. The parts of a commit are
    /// not durable, so from the first one on they must be.
    pub(crate) fn durable_candidate(&self) -> u64 {
        let first_kept = self.spool.pending.map(|pending| pending.first_index - 1);
        first_kept.unwrap_or(self.applied_index)
    }

    fn sync_wal(&self) -> Result<(), PagesError> {
        if self.faults().skip_marker_sync {
            return Ok(());
        }
        let disk = &self.options.disk;
        let failed = PagesError::io("make durable", &self.files.wal);
        disk.sync(&self.files.wal, &self.images.wal).map_err(&failed)?;
        disk.sync_dir(&self.dir).map_err(failed)
    }

    fn set_marker(&mut self, marker: Marker) -> Result<(), PagesError> {
        write_marker(&self.dir, &marker, &self.options)?;
        self.marker = marker;
        Ok(())
    }
}

fn observer_of(store: &PageStore) -> &rusqlite::Connection {
    &store.observer
}

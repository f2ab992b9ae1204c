//! Making the settled state durable, and emptying the `-wal`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::PagesError;
use crate::marker::Marker;
use crate::open::{sync_main, write_marker};
use crate::snapshot_handle::SnapshotHandle;
use crate::store::{PageStore, backfill, begin_wal, empty_wal};
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
    /// Makes a checkpoint if the `-wal` has grown to its size. The writer must not
    /// begin or commit a transaction meanwhile; readers go on.
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
        if !self.in_flight.is_empty() || self.deferred {
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
            log_index: self.applied_index,
            position: self.position,
            frames: self.index.frames,
            salts: self.index.salts,
            parts: self.spool.pending.map(|pending| (pending, self.spool.bytes)),
        };
        if marker != self.marker {
            self.sync_wal()?;
            self.set_marker(marker)?;
        }
        // Snapshots cannot be opened beside a checkpoint. What they show is the
        // newest commit, so readers begin there without one.
        let snapshot = self.gate.state().snapshot.clone();
        self.set_gate(None);
        self.gate.end_kept();
        self.unpin()?;
        let emptied = match self.empty() {
            Ok(true) => self.begin_wal().map(|()| true),
            Ok(false) => self.pin(snapshot).map(|()| false),
            Err(error) => self.pin(snapshot).and(Err(error)),
        };
        let readers = self.gate.readers();
        Ok(if emptied? { Checkpoint::Done } else { Checkpoint::Blocked { readers } })
    }

    /// Lets readers begin at the snapshot again, and keeps SQLite from beginning the
    /// `-wal` anew once it has all been copied, which would end the snapshot.
    fn pin(&mut self, snapshot: Option<Arc<SnapshotHandle>>) -> Result<(), PagesError> {
        if let Some(snapshot) = &snapshot {
            let begun = self.pin.execute_batch("BEGIN").and_then(|()| snapshot.open(&self.pin));
            if let Err(error) = begun {
                self.gate.close();
                return Err(PagesError::Broken(format!("a snapshot was lost: {error}")));
            }
        }
        self.set_gate(snapshot);
        Ok(())
    }

    fn unpin(&self) -> Result<(), PagesError> {
        if self.pin.is_autocommit() {
            return Ok(());
        }
        let failed = PagesError::sqlite("end a reading", &self.files.main);
        self.pin.execute_batch("ROLLBACK").map_err(failed)
    }

    /// Begins the emptied `-wal`, since snapshots need a commit in it.
    fn begin_wal(&mut self) -> Result<(), PagesError> {
        let begun = begin_wal(&self.applier, &self.files.main)
            .and_then(|()| self.absorb())
            .and_then(|_| self.take_snapshot());
        match begun {
            Ok(snapshot) => {
                self.set_gate(Some(snapshot));
                Ok(())
            }
            Err(error) => {
                // The next commit would be seen by everybody.
                self.gate.close();
                Err(PagesError::Broken(error.to_string()))
            }
        }
    }

    /// Moves everything into the main file; false if readers did not let it.
    fn empty(&mut self) -> Result<bool, PagesError> {
        if Arc::strong_count(&self.images) > 1 {
            // Somebody still makes entries of what is in the -wal.
            return Ok(false);
        }
        self.copies.keep(&self.index);
        let (observer, files, patience) =
            (&self.observer, &self.files, self.options.reader_patience);
        let filled = self.gate.wait_until(patience, || backfill(observer, &files.main))?;
        if !filled {
            return Ok(false);
        }
        sync_main(&self.files, &self.options)?;
        self.set_marker(Marker { frames: 0, salts: [0; 8], ..self.marker })?;
        let (observer, files) = (&self.observer, &self.files);
        let emptied = self.gate.wait_until(patience, || empty_wal(observer, &files.main))?;
        if emptied {
            self.index = WalIndex::empty(self.index.size);
        }
        Ok(emptied)
    }

    fn sync_wal(&self) -> Result<(), PagesError> {
        if self.faults().skip_marker_sync {
            return Ok(());
        }
        let disk = &self.options.disk;
        let failed = PagesError::io("make durable", &self.files.wal);
        disk.sync(&self.files.wal, &self.images.wal).map_err(&failed)?;
        self.spool.sync().map_err(&failed)?;
        disk.sync_dir(&self.dir).map_err(failed)
    }

    pub(crate) fn set_marker(&mut self, marker: Marker) -> Result<(), PagesError> {
        write_marker(&self.dir, &marker, &self.options)?;
        self.marker = marker;
        let named = marker.parts.map(|(pending, _)| pending.first_index);
        let before = std::mem::replace(&mut self.spool.marked, named);
        if let Some(before) = before.filter(|before| Some(*before) != named) {
            // What could not be removed is removed by the next start.
            let _ = self.options.disk.remove(&self.spool.path(before));
        }
        Ok(())
    }
}

//! Drafts: write transactions that are never committed, each on a snapshot of its own.

use rusqlite::{Connection, ffi};

use crate::connection::{self, Purpose};
use crate::draft_vfs;
use crate::error::PagesError;
use crate::gate::{Gate, Reader, ReaderTicket, Reading};
use crate::snapshot_handle::SnapshotHandle;

impl Gate {
    /// Opens a connection for drafts, the first of which can only begin at this reading.
    /// Nothing if there can be none now.
    ///
    /// # Errors
    /// SQLite could not open the file.
    pub fn connect_draft(&self, reading: &Reading) -> Result<Option<Reader>, PagesError> {
        let Some(snapshot) = reading.snapshot() else { return Ok(None) };
        let main = reading.main();
        let failed = PagesError::sqlite("open a connection for drafts", main);
        let opened = draft_vfs::over(self.vfs()).and_then(|vfs| {
            let connection = connection::open(main, Some(&vfs), Purpose::Draft)?;
            if !is_shown(&connection, snapshot)? {
                return Ok(None);
            }
            // What was changed is in the cache alone, however much it is.
            connection.execute_batch("PRAGMA cache_spill=OFF; PRAGMA cache_size=-256")?;
            Ok(Some(connection))
        });
        let connection = opened.map_err(failed)?;
        Ok(connection.map(|connection| Reader { connection, ticket: reading.ticket() }))
    }

    /// Begins a transaction that may change everything, and changes nothing: what it does
    /// is seen by its connection alone, and taken back by ROLLBACK, with which it must be
    /// ended. It begins at what `reading` sees, which must be held until then. It waits for
    /// nobody, and nobody for it, but checkpoints for its reading.
    ///
    /// Says whether it was begun: there are no drafts while a checkpoint is made, and on a
    /// `-wal` of more than some 100 MiB.
    ///
    /// # Errors
    /// [`PagesError::Stale`]: the file was replaced; [`Gate::connect_draft`] again.
    pub fn begin_draft(
        &self,
        connection: &Connection,
        ticket: ReaderTicket,
        reading: &Reading,
    ) -> Result<bool, PagesError> {
        if ticket != reading.ticket() {
            return Err(PagesError::Stale);
        }
        let Some(snapshot) = reading.snapshot() else { return Ok(false) };
        let begun = is_shown(connection, snapshot)
            .and_then(|shown| if shown { begin(connection).map(|()| true) } else { Ok(false) });
        begun.map_err(PagesError::sqlite("begin a draft", reading.main()))
    }
}

/// Bytes of memory that a draft takes. What it has changed stays in memory.
pub fn draft_bytes(connection: &Connection) -> u64 {
    draft_vfs::cache_bytes(connection)
}

fn is_shown(connection: &Connection, snapshot: &SnapshotHandle) -> rusqlite::Result<bool> {
    match draft_vfs::show(connection, snapshot.header()) {
        Ok(()) => Ok(true),
        Err(error) if code_of(&error) == Some(ffi::SQLITE_TOOBIG) => Ok(false),
        Err(error) => Err(error),
    }
}

fn code_of(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
}

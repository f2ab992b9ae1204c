//! Copies while serving, and hashes of what is settled.

use std::io::{self, Read};
use std::sync::Arc;

use rusqlite::Connection;

use crate::error::PagesError;
use crate::frozen::Frozen;
use crate::gate::{Gate, Reading};
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE, mask};
use crate::position::Position;
use crate::spool::SpoolReader;
use crate::store::PageStore;
use crate::stream::{CHUNK, END, SnapshotHeader};

/// Pages that are read at once.
const RUN: u32 = 256;

/// The bytes of a consistent copy. It is read from the files themselves; see `frozen`.
pub struct Snapshot {
    pages: Arc<Frozen>,
    parts: Option<SpoolReader>,
    header: SnapshotHeader,
    next: u32,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
    taken: usize,
    ended: bool,
}

/// What some pages hash to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagesHash {
    /// Where they were read.
    pub position: Position,
    /// Pages of the database there.
    pub size: u32,
    /// blake3 of their images.
    pub hash: [u8; 32],
}

/// Reads every page at the settled position, with the fields that differ between
/// equal copies as zero.
struct SettledPages {
    connection: Connection,
    reading: Reading,
}

impl SettledPages {
    fn begin(gate: &Gate) -> Result<SettledPages, PagesError> {
        let reader = gate.connect()?;
        let reading = gate.begin(&reader.connection, reader.ticket)?;
        Ok(SettledPages { connection: reader.connection, reading })
    }

    fn count(&self) -> rusqlite::Result<u32> {
        self.connection.query_row("PRAGMA main.page_count", [], |row| row.get(0))
    }

    /// Adds so many pages to the bytes.
    fn read(&self, first: u32, count: u32, out: &mut Vec<u8>) -> rusqlite::Result<()> {
        let mut select = self
            .connection
            .prepare_cached("SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?")?;
        for page in first..first + count {
            let start = out.len();
            if page == PENDING_BYTE_PAGE {
                out.resize(start + PAGE_BYTES, 0);
                continue;
            }
            select.query_row([page], |row| {
                out.extend_from_slice(row.get_ref(0)?.as_blob()?);
                Ok(())
            })?;
            if out.len() != start + PAGE_BYTES {
                return Err(rusqlite::Error::InvalidQuery);
            }
            mask(page, &mut out[start..]);
        }
        Ok(())
    }
}

impl PageStore {
    /// A copy at [`PageStore::applied_index`], to be read on any thread while this
    /// store goes on, checkpoints included.
    ///
    /// # Errors
    /// The files could not be opened once more.
    pub fn snapshot(&self) -> Result<Snapshot, PagesError> {
        self.usable()?;
        let failed = PagesError::io("copy", &self.files.main);
        let in_flight = self.in_flight.iter();
        let pages = self.copies.freeze(&self.dir, &self.images, &self.index, in_flight);
        let pages = pages.map_err(failed)?;
        let failed = PagesError::io("read the kept parts of a commit in", &self.dir);
        let pending = self.spool.pending;
        let parts = pending.map(|pending| self.spool.read(pending.first_index, pending.parts));
        let parts = parts.transpose().map_err(failed)?;
        let header = SnapshotHeader {
            position: self.position,
            log_index: self.applied_index,
            size: pages.size,
            parts: pending,
        };
        let (hasher, buffer) = (blake3::Hasher::new(), header.encode());
        Ok(Snapshot { pages, parts, header, next: 1, hasher, buffer, taken: 0, ended: false })
    }

    /// A hash over all pages at the settled position: equal on copies that are
    /// equal. Reads the whole database.
    ///
    /// # Errors
    /// SQLite could not read.
    pub fn scrub(&self) -> Result<[u8; 32], PagesError> {
        let pages = SettledPages::begin(&self.gate)?;
        let failed = || PagesError::sqlite("read all pages", &self.files.main);
        let size = pages.count().map_err(failed())?;
        let mut hasher = blake3::Hasher::new();
        let mut images = Vec::new();
        let mut next = 1;
        while next <= size {
            let count = CHUNK.min(size - next + 1);
            images.clear();
            pages.read(next, count, &mut images).map_err(failed())?;
            hasher.update(&images);
            next += count;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// A hash over some pages at the settled position, equal on copies that are equal.
    /// It reads them from the disk, or from what the system has of it in memory.
    ///
    /// # Errors
    /// SQLite could not read.
    pub fn hash_pages(&self, first: u32, count: u32) -> Result<PagesHash, PagesError> {
        let pages = SettledPages::begin(&self.gate)?;
        let failed = || PagesError::sqlite("read pages", &self.files.main);
        let size = pages.count().map_err(failed())?;
        let end = first.saturating_add(count).min(size.saturating_add(1));
        let mut hasher = blake3::Hasher::new();
        let mut images = Vec::new();
        let mut next = first.max(1);
        while next < end {
            let some = CHUNK.min(end - next);
            images.clear();
            pages.read(next, some, &mut images).map_err(failed())?;
            hasher.update(&images);
            next += some;
        }
        let (position, hash) = (pages.reading.position(), *hasher.finalize().as_bytes());
        Ok(PagesHash { position, size, hash })
    }
}

impl Snapshot {
    /// What it holds.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Fills the buffer with what comes next.
    fn fill(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.buffer.clear();
        self.taken = 0;
        let size = self.header.size;
        if self.next <= size {
            let count = RUN.min(size - self.next + 1);
            self.pages.read(self.next, count, &mut self.buffer)?;
            self.next += count;
            return Ok(());
        }
        if let Some(parts) = &mut self.parts {
            if let Some(bytes) = parts.next()? {
                self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.buffer.extend_from_slice(&bytes);
                return Ok(());
            }
            self.parts = None;
        }
        if !self.ended {
            self.ended = true;
            self.buffer.extend_from_slice(END);
            self.buffer.extend_from_slice(self.hasher.finalize().as_bytes());
        }
        Ok(())
    }
}

impl Read for Snapshot {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.buffer.len() && !out.is_empty() {
            self.fill()?;
        }
        let left = &self.buffer[self.taken..];
        let count = left.len().min(out.len());
        out[..count].copy_from_slice(&left[..count]);
        self.taken += count;
        Ok(count)
    }
}

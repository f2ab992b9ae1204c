//! Copies while serving, and replacing a copy by one.

use std::fs::File;
use std::io::{self, Read, Write};

use rusqlite::Connection;

use crate::disk::NewFile;
use crate::error::PagesError;
use crate::gate::{Gate, Reading};
use crate::marker::Marker;
use crate::open::remove_others;
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE, mask};
use crate::position::Position;
use crate::spool::{Spool, SpoolReader};
use crate::store::{Connections, Files, PageStore};
use crate::stream::{CHUNK, END, Piece, SnapshotHeader, read_stream};

/// The bytes of a consistent copy. Holds back the emptying of the `-wal` until it
/// is dropped.
pub struct Snapshot {
    pages: SettledPages,
    parts: Option<SpoolReader>,
    header: SnapshotHeader,
    size: u32,
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
    /// store goes on.
    ///
    /// # Errors
    /// SQLite could not begin to read.
    pub fn snapshot(&self) -> Result<Snapshot, PagesError> {
        self.usable()?;
        let pages = SettledPages::begin(&self.gate)?;
        let failed = PagesError::sqlite("count the pages", &self.files.main);
        let size = pages.count().map_err(failed)?;
        let failed = PagesError::io("read the kept parts of a commit in", &self.dir);
        let pending = self.spool.pending;
        let parts = pending.map(|pending| self.spool.read(pending.first_index, pending.parts));
        let parts = parts.transpose().map_err(failed)?;
        let header = SnapshotHeader {
            position: pages.reading.position(),
            log_index: self.applied_index,
            size,
            parts: pending,
        };
        let (hasher, buffer) = (blake3::Hasher::new(), header.encode());
        Ok(Snapshot { pages, parts, header, size, next: 1, hasher, buffer, taken: 0, ended: false })
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

    /// Replaces the copy by that of a snapshot, durably: when it returns, and after
    /// any crash in between, it is the old or the new one. Everything in flight is
    /// forgotten. All connections go stale; readings that have begun end on the old
    /// file.
    ///
    /// # Errors
    /// [`PagesError::Snapshot`], [`PagesError::DiskFull`]: the copy is as it was.
    pub fn restore(&mut self, source: &mut dyn Read) -> Result<(), PagesError> {
        let files = Files::new(&self.dir, self.files.number + 1);
        let received = self.receive(&files, source);
        let (header, spool) = match received {
            Ok(received) => received,
            Err(error) => {
                // What could not be removed is removed by the next start.
                let _ = self.options.disk.remove(&files.main);
                return Err(error);
            }
        };
        let replaced = self.replace(files, &header, spool);
        if replaced.is_ok() {
            self.broken = None;
        }
        self.breaking(replaced)
    }

    /// Writes the files of a snapshot beside those in use.
    fn receive(
        &self,
        files: &Files,
        source: &mut dyn Read,
    ) -> Result<(SnapshotHeader, Spool), PagesError> {
        let disk = &self.options.disk;
        let failed = PagesError::io("write a snapshot to", &files.main);
        let mut main: NewFile = disk.create(&files.main).map_err(&failed)?;
        let mut spool = Spool::new(self.dir.clone(), files.number, disk.clone());
        let mut first_index = 0;
        let header = read_stream(source, &mut |piece| match piece {
            Piece::Header(header) => {
                first_index = header.parts.map_or(0, |pending| pending.first_index);
                Ok(())
            }
            Piece::Pages(images) => main.write_all(images).map_err(&failed),
            Piece::Part(part, bytes) => spool.add(part, first_index, bytes).map_err(&failed),
        })?;
        spool.pending = header.parts;
        spool.sync().map_err(&failed)?;
        main.sync().map_err(&failed)?;
        disk.cut(&files.wal, 0).map_err(&failed)?;
        let wal = File::open(&files.wal).map_err(&failed)?;
        disk.sync(&files.wal, &wal).map_err(&failed)?;
        disk.sync_dir(&self.dir).map_err(&failed)?;
        Ok((header, spool))
    }

    fn replace(
        &mut self,
        files: Files,
        header: &SnapshotHeader,
        spool: Spool,
    ) -> Result<(), PagesError> {
        let open = Connections::open(&files, &self.options.disk)?.start(&files)?;
        let marker = Marker {
            file: files.number,
            log_index: header.log_index,
            position: header.position,
            frames: 0,
            salts: [0; 8],
            parts: spool.pending.map(|pending| (pending, spool.bytes)),
        };
        self.spool = spool;
        self.set_marker(marker)?;
        self.files = files;
        (self.images, self.index) = (open.images, open.index);
        (self.applier, self.observer, self.pin) = (open.applier, open.observer, open.pin);
        (self.position, self.applied_index) = (header.position, header.log_index);
        self.in_flight.clear();
        self.deferred = false;
        self.retry = None;
        self.writer.0 += 1;
        self.set_gate(Some(open.snapshot));
        let parts = self.spool.pending.map(|pending| self.spool.path(pending.first_index));
        remove_others(&self.dir, &self.files, parts.as_deref(), &self.options)
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
        if self.next <= self.size {
            let count = CHUNK.min(self.size - self.next + 1);
            self.pages.read(self.next, count, &mut self.buffer).map_err(io::Error::other)?;
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

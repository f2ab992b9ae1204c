//! Pages being written: in memory until there are many, then in SQLite's open
//! transaction.

use std::collections::{BTreeMap, HashSet};

use rusqlite::Connection;

use crate::connection::ATTACHED;
use crate::error::PagesError;
use crate::page::{PAGE_BYTES, mask};
use crate::wal_file::{Images, WalIndex};

/// The most images in memory: 16 MiB.
pub(crate) const MOST_IMAGES: usize = 4096;

const WHAT: &str = "write pages";

/// A write transaction on the applying connection.
pub(crate) struct Overlay<'a> {
    pub applier: &'a Connection,
    pub index: &'a WalIndex,
    pub images: &'a Images,
    /// Pages of the database as it will be. It may change only once in a transaction
    /// of more than [`MOST_IMAGES`] pages: SQLite cuts a database only to less than it
    /// had when the transaction began.
    pub size: u32,
    waiting: BTreeMap<u32, Box<[u8]>>,
    /// What SQLite's transaction holds already.
    written: HashSet<u32>,
}

impl<'a> Overlay<'a> {
    /// Begins the transaction.
    ///
    /// # Errors
    /// [`PagesError::WriterBusy`].
    pub fn begin(
        applier: &'a Connection,
        index: &'a WalIndex,
        images: &'a Images,
    ) -> Result<Overlay<'a>, PagesError> {
        let begun = applier.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(PagesError::sqlite(WHAT, ATTACHED.as_ref()))?;
        let (waiting, written) = (BTreeMap::new(), HashSet::new());
        Ok(Overlay { applier, index, images, size: index.size, waiting, written })
    }

    /// Reads an image as it is with what was put so far, changed counters as zero.
    pub fn read(&self, page: u32, image: &mut [u8]) -> Result<(), PagesError> {
        if let Some(waiting) = self.waiting.get(&page) {
            image.copy_from_slice(waiting);
        } else if self.written.contains(&page) {
            self.read_written(page, image).map_err(failed())?;
        } else {
            let read = self.images.read(page, self.index.place(page), image);
            read.map_err(PagesError::io("read a page of", ATTACHED.as_ref()))?;
        }
        mask(page, image);
        Ok(())
    }

    fn read_written(&self, page: u32, image: &mut [u8]) -> rusqlite::Result<()> {
        let sql = format!("SELECT data FROM sqlite_dbpage('{ATTACHED}') WHERE pgno = ?");
        self.applier.prepare_cached(&sql)?.query_row([page], |row| {
            let data = row.get_ref(0)?.as_blob()?;
            if data.len() != PAGE_BYTES {
                return Err(rusqlite::Error::InvalidQuery);
            }
            image.copy_from_slice(data);
            Ok(())
        })
    }

    /// Sets an image.
    pub fn put(&mut self, page: u32, image: &[u8]) -> Result<(), PagesError> {
        self.waiting.insert(page, image.into());
        if self.waiting.len() >= MOST_IMAGES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), PagesError> {
        let waiting = std::mem::take(&mut self.waiting);
        let failed = failed();
        let sql =
            format!("INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?, ?, '{ATTACHED}')");
        let mut insert = self.applier.prepare_cached(&sql).map_err(&failed)?;
        for (page, image) in waiting.range(..=self.size) {
            insert.execute((page, &image[..])).map_err(&failed)?;
            self.written.insert(*page);
        }
        Ok(())
    }

    /// Commits everything.
    pub fn commit(mut self) -> Result<(), PagesError> {
        self.write()?;
        let failed = failed();
        if self.size < self.index.size {
            let sql = format!(
                "INSERT INTO sqlite_dbpage(pgno, data, schema) VALUES (?, NULL, '{ATTACHED}')"
            );
            self.applier.execute(&sql, [i64::from(self.size) + 1]).map_err(&failed)?;
        }
        self.applier.execute_batch("COMMIT").map_err(&failed)
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        if !self.applier.is_autocommit() {
            // It fails only where SQLite has rolled back already.
            let _ = self.applier.execute_batch("ROLLBACK");
        }
    }
}

fn failed() -> impl Fn(rusqlite::Error) -> PagesError {
    PagesError::sqlite(WHAT, ATTACHED.as_ref())
}

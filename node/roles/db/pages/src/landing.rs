//! Replacing a copy by a snapshot, which is written beside the files in use while they
//! are used.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::NewFile;
use crate::error::PagesError;
use crate::marker::Marker;
use crate::spool::Spool;
use crate::store::{Connections, Files, Options, PageStore};
use crate::stream::{Piece, SnapshotHeader, StreamDecoder, read_exact};

/// Where snapshots for a copy land: beside its files. Used from any thread, while the
/// copy is used.
#[derive(Clone)]
pub struct Landing {
    dir: PathBuf,
    options: Options,
    /// The number of the next files.
    next: Arc<AtomicU64>,
}

/// A snapshot that comes: it is written once, to files of its own, as it comes. They are
/// removed with it, and a crash leaves nothing of them.
pub struct Arrival {
    decoder: StreamDecoder,
    main: NewFile,
    spool: Spool,
    first_index: u64,
    files: LandedFiles,
}

/// A snapshot that has landed: whole, verified and durable. Its files are removed with
/// it unless [`PageStore::take_over`] takes it.
pub struct Landed {
    header: SnapshotHeader,
    files: LandedFiles,
    spool: Spool,
}

/// Files that are removed unless they were taken.
struct LandedFiles {
    files: Files,
    dir: PathBuf,
    options: Options,
    taken: bool,
}

impl Landing {
    pub(crate) fn new(dir: &Path, options: &Options, number: u64) -> Landing {
        let next = Arc::new(AtomicU64::new(number + 1));
        Landing { dir: dir.to_path_buf(), options: options.clone(), next }
    }

    /// Begins to receive a snapshot.
    ///
    /// # Errors
    /// The disk failed or is full.
    pub fn begin(&self) -> Result<Arrival, PagesError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (dir, options) = (self.dir.clone(), self.options.clone());
        let spool = Spool::new(dir.clone(), number, options.disk.clone());
        let files = LandedFiles { files: Files::new(&dir, number), dir, options, taken: false };
        let failed = files.failed();
        let main = files.options.disk.create(&files.files.main).map_err(failed)?;
        Ok(Arrival { decoder: StreamDecoder::new(), main, spool, first_index: 0, files })
    }
}

impl Arrival {
    /// Takes the next bytes, which are written at once.
    ///
    /// # Errors
    /// [`PagesError::Snapshot`]: they are not those of a snapshot. The disk failed or is
    /// full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), PagesError> {
        let Arrival { decoder, main, spool, first_index, files } = self;
        let failed = files.failed();
        decoder.push(bytes, &mut |piece| match piece {
            Piece::Header(header) => {
                *first_index = header.parts.map_or(0, |pending| pending.first_index);
                Ok(())
            }
            Piece::Pages(images) => main.write_all(images).map_err(&failed),
            Piece::Part(part, bytes) => spool.add(part, *first_index, bytes).map_err(&failed),
        })
    }

    /// Makes it durable after the last bytes.
    ///
    /// # Errors
    /// [`PagesError::Snapshot`]: it is not whole. The disk failed or is full.
    pub fn finish(self) -> Result<Landed, PagesError> {
        let Arrival { decoder, main, mut spool, files, .. } = self;
        let header = decoder.finish()?;
        let (disk, failed) = (&files.options.disk, files.failed());
        spool.pending = header.parts;
        spool.sync().map_err(&failed)?;
        main.sync().map_err(&failed)?;
        let wal = &files.files.wal;
        disk.cut(wal, 0).map_err(&failed)?;
        disk.sync(wal, &File::open(wal).map_err(&failed)?).map_err(&failed)?;
        disk.sync_dir(&files.dir).map_err(&failed)?;
        Ok(Landed { header, files, spool })
    }

    /// Bytes that must come before anything is to be done; 0 at the end.
    fn needs(&self) -> usize {
        self.decoder.needs()
    }
}

impl LandedFiles {
    fn failed(&self) -> impl Fn(io::Error) -> PagesError + use<> {
        PagesError::io("write a snapshot to", &self.files.main)
    }
}

impl Drop for LandedFiles {
    fn drop(&mut self) {
        if !self.taken {
            // What could not be removed is removed by the next start.
            let _ = remove_files(&self.dir, self.files.number, &self.options);
        }
    }
}

impl Landed {
    /// What it holds.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }
}

impl PageStore {
    /// Where snapshots for this copy land.
    pub fn landing(&self) -> Landing {
        self.landing.clone()
    }

    /// Replaces the copy by a snapshot that has landed beside it, durably: when it
    /// returns, and after any crash in between, it is the old or the new one.
    /// Everything in flight is forgotten. All connections go stale; readings that have
    /// begun end on the old file.
    ///
    /// # Errors
    /// The disk failed: this copy cannot go on until it is opened again.
    pub fn take_over(&mut self, landed: Landed) -> Result<(), PagesError> {
        let replaced = self.replace(landed);
        if replaced.is_ok() {
            self.broken = None;
        }
        self.breaking(replaced)
    }

    /// Receives a snapshot and replaces the copy by it.
    ///
    /// # Errors
    /// [`PagesError::Snapshot`], [`PagesError::DiskFull`]: the copy is as it was. As
    /// [`PageStore::take_over`].
    pub fn restore(&mut self, source: &mut dyn Read) -> Result<(), PagesError> {
        let mut arrival = self.landing.begin()?;
        let mut bytes = Vec::new();
        while arrival.needs() > 0 {
            bytes.resize(arrival.needs(), 0);
            read_exact(source, &mut bytes)?;
            arrival.write(&bytes)?;
        }
        self.take_over(arrival.finish()?)
    }

    fn replace(&mut self, landed: Landed) -> Result<(), PagesError> {
        let Landed { header, files: mut landed, spool } = landed;
        let files = landed.files.clone();
        let open = Connections::open(&files, &self.options.disk)?.start(&files)?;
        let marker = Marker {
            file: files.number,
            log_index: header.log_index,
            position: header.position,
            frames: 0,
            salts: [0; 8],
            parts: spool.pending.map(|pending| (pending, spool.bytes)),
        };
        // Also should it fail: nobody knows which state is durable then.
        landed.taken = true;
        self.spool = spool;
        self.set_marker(marker)?;
        self.copies.give_up("the database was replaced");
        let old = std::mem::replace(&mut self.files, files);
        (self.images, self.index) = (open.images, open.index);
        (self.applier, self.observer, self.pin) = (open.applier, open.observer, open.pin);
        (self.position, self.applied_index) = (header.position, header.log_index);
        self.in_flight.clear();
        self.deferred = false;
        self.retry = None;
        self.writer.0 += 1;
        self.set_gate(Some(open.snapshot));
        remove_files(&self.dir, old.number, &self.options)
    }
}

/// Removes the files of one number. Those of others may be landing.
fn remove_files(dir: &Path, number: u64, options: &Options) -> Result<(), PagesError> {
    let failed = |path: &Path| PagesError::io("remove old files of", path);
    let (pages, parts) = (format!("pages-{number}.db"), format!("parts-{number}-"));
    for found in fs::read_dir(dir).map_err(failed(dir))? {
        let path = found.map_err(failed(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&pages) || name.starts_with(&parts) {
            options.disk.remove(&path).map_err(failed(&path))?;
        }
    }
    Ok(())
}

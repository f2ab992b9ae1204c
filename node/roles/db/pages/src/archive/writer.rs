//! Writing an archive.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::catalog::{Catalog, EntriesFile, rank};
use super::format::{ArchiveId, BaseHeader, END_BYTES, SegmentEnd, SegmentHeader};
use super::segment::Record;
use super::{ArchiveError, io_error};
use crate::entry::Entry;
use crate::plan::{Decision, Plan};
use crate::position::Position;
use crate::stream::SnapshotHeader;

/// zstd's level for bases.
const LEVEL: i32 = 1;

/// After a writer's name, in the name of what it finishes for another.
const RESCUE: &str = "-finished";

/// How an archive is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// A file of entries ends at about so many bytes.
    pub segment_bytes: u64,
    /// A file of entries ends when its first entry is so old, in milliseconds.
    pub segment_ms: u64,
    /// Every moment of the last so many milliseconds can be restored; older files go.
    pub keep_ms: u64,
    /// A new base is due after so many milliseconds.
    pub base_ms: u64,
    /// A new base is due after so many bytes of entries, or as many as the last base
    /// has if that is more.
    pub base_bytes: u64,
}

impl Default for WriterOptions {
    fn default() -> WriterOptions {
        WriterOptions {
            segment_bytes: 16 << 20,
            segment_ms: 300_000,
            keep_ms: 7 * 86_400_000,
            base_ms: 86_400_000,
            base_bytes: 1 << 30,
        }
    }
}

/// What became of entries that were given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intake {
    /// They are in the archive, on the disk.
    Taken,
    /// They do not continue what is there: a new base is needed.
    Gap,
}

/// Writes the archive in a directory.
pub struct ArchiveWriter {
    dir: PathBuf,
    id: ArchiveId,
    /// Tells this writer's unfinished files from others.
    writer: String,
    options: WriterOptions,
    /// Where it is; nothing while there is no base to go on from.
    place: Option<Place>,
    open: Option<OpenSegment>,
    /// When the newest base was taken, its bytes, and bytes of entries since.
    last_base: Option<(u64, u64)>,
    since_base: u64,
}

struct Place {
    plan: Plan,
    next_index: u64,
    last_ms: u64,
}

/// A base that is being written, beside the entries.
pub struct BaseJob {
    dir: PathBuf,
    header: BaseHeader,
}

impl ArchiveWriter {
    /// Goes on with what is in the directory. `writer` names this writer among those
    /// who may write there: letters and digits.
    ///
    /// # Errors
    /// The directory is missing, cannot be read or written, or is another's.
    pub fn open(
        dir: &Path,
        id: ArchiveId,
        writer: &str,
        options: WriterOptions,
    ) -> Result<ArchiveWriter, ArchiveError> {
        let catalog = Catalog::read(dir)?;
        if catalog.id.is_some_and(|found| found != id) {
            return Err(ArchiveError::Foreign(dir.to_path_buf()));
        }
        let mut opened = ArchiveWriter {
            dir: dir.to_path_buf(),
            id,
            writer: writer.to_owned(),
            options,
            place: None,
            open: None,
            last_base: None,
            since_base: 0,
        };
        if let Some(base) = catalog.bases.iter().max_by_key(|base| rank(&base.header.position)) {
            let header = &base.header;
            opened.last_base = Some((header.taken_ms, base.bytes));
            opened.begin(header.position, header.log_index, header.taken_ms);
            for file in catalog.chain(&header.position) {
                opened.since_base += file.bytes;
                if !file.is_whole {
                    opened.rescue(file)?;
                }
                opened.begin(file.end, file.log_index, file.last_ms);
            }
        }
        opened.remove_leftovers(&catalog);
        Ok(opened)
    }

    fn begin(&mut self, position: Position, log_index: u64, last_ms: u64) {
        let last_ms = self.place.as_ref().map_or(last_ms, |place| place.last_ms.max(last_ms));
        let plan = Plan::new(position, None, Default::default(), false);
        self.place = Some(Place { plan, next_index: log_index + 1, last_ms });
    }

    /// Makes a whole file of what counts of one that somebody died over.
    fn rescue(&self, file: &EntriesFile) -> Result<(), ArchiveError> {
        let failed = io_error("finish", &file.path);
        let mut source = BufReader::new(File::open(&file.path).map_err(&failed)?);
        let mut header = [0; super::format::HEADER_BYTES];
        source.read_exact(&mut header).map_err(&failed)?;
        let writer = format!("{}{RESCUE}", self.writer);
        let mut segment = OpenSegment::create(&self.dir, file.header, &writer)?;
        let mut left = file.bytes.saturating_sub(header.len() as u64);
        let mut piece = vec![0; 1 << 20];
        while left > 0 {
            let some = &mut piece[..usize::try_from(left).unwrap_or(usize::MAX).min(1 << 20)];
            source.read_exact(some).map_err(&failed)?;
            segment.write(some)?;
            left -= some.len() as u64;
        }
        segment.records = file.records;
        segment.first_ms = file.header.from_ms;
        segment.finish(&self.dir, file.end, file.log_index, file.last_ms)
    }

    /// Removes what was made whole, and what nobody can finish. Who still writes to
    /// such a file writes to a file without a name.
    fn remove_leftovers(&self, catalog: &Catalog) {
        let is_partial = |path: &&PathBuf| path.extension().is_some_and(|it| it == "partial");
        let entries = catalog.entries.iter().map(|file| &file.path).filter(is_partial);
        let paths = entries.chain(&catalog.unfinished);
        for path in paths.filter(|path| self.is_stale(path)) {
            // What could not be removed is looked at by the next writer.
            let _ = fs::remove_file(path);
        }
    }

    /// Whether nobody has written to a file for so long that its writer has gone; what
    /// has this writer's name is of an earlier life.
    fn is_stale(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let age = fs::metadata(path).and_then(|file| file.modified()).ok();
        let is_old = age.and_then(|at| at.elapsed().ok()).is_some_and(|age| {
            age.as_millis() > u128::from(self.options.segment_ms.saturating_mul(2))
        });
        let is_own = |ending| name.ends_with(&format!("-{}{ending}.partial", self.writer));
        is_old || is_own("") || is_own(RESCUE)
    }

    /// The first entry of the log that the archive lacks; nothing: it needs a base.
    pub fn next_index(&self) -> Option<u64> {
        self.place.as_ref().map(|place| place.next_index)
    }

    /// The last position that is in the archive, and its time.
    pub fn last(&self) -> Option<(Position, u64)> {
        self.place.as_ref().map(|place| (place.plan.position, place.last_ms))
    }

    /// When the newest base was taken, milliseconds since 1970.
    pub fn base_ms(&self) -> Option<u64> {
        self.last_base.map(|(taken_ms, _)| taken_ms)
    }

    /// Whether a new base is due.
    pub fn is_base_due(&self, now_ms: u64) -> bool {
        let Some((taken_ms, bytes)) = self.last_base else { return true };
        self.place.is_none()
            || now_ms.saturating_sub(taken_ms) >= self.options.base_ms && self.since_base > 0
            || self.since_base >= self.options.base_bytes.max(bytes)
    }

    /// Adds committed entries of the log: all from [`ArchiveWriter::next_index`] to
    /// before `next`, each with its index and time.
    ///
    /// # Errors
    /// After any the writer must be opened again.
    pub fn take<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (u64, Option<u64>, &'a [u8])>,
        next: u64,
    ) -> Result<Intake, ArchiveError> {
        for (index, at_ms, bytes) in entries {
            if !self.take_one(index, at_ms, bytes)? {
                self.end_chain()?;
                return Ok(Intake::Gap);
            }
        }
        if let Some(open) = &mut self.open {
            open.sync()?;
        }
        if let Some(place) = &mut self.place {
            place.next_index = next;
        }
        self.finish_if(|options, open| open.bytes >= options.segment_bytes)?;
        Ok(Intake::Taken)
    }

    /// Whether it continues what is there, or is known not to count.
    fn take_one(
        &mut self,
        index: u64,
        at_ms: Option<u64>,
        bytes: &[u8],
    ) -> Result<bool, ArchiveError> {
        let Some(place) = &mut self.place else { return Ok(false) };
        let Ok(entry) = Entry::decode(bytes) else { return Ok(false) };
        let before = place.plan.position;
        let header = SegmentHeader {
            id: self.id,
            parent: before,
            log_index: place.next_index - 1,
            from_ms: place.last_ms,
        };
        match place.plan.decide(index, &entry, bytes).0 {
            Decision::Skip | Decision::Settle => {
                let is_later = match entry {
                    Entry::Pages(part) => rank(&part.parent) > rank(&before),
                    Entry::Barrier { .. } => false,
                };
                return Ok(!is_later);
            }
            Decision::Keep | Decision::Write { .. } | Decision::Barrier => {}
        }
        place.last_ms = place.last_ms.max(at_ms.unwrap_or(0));
        let last_ms = place.last_ms;
        if self.open.is_none() {
            self.open = Some(OpenSegment::create(&self.dir, header, &self.writer)?);
        }
        if let Some(open) = &mut self.open {
            let record = Record::encode(last_ms, index, bytes);
            open.write(&record)?;
            if open.records == 0 {
                open.first_ms = last_ms;
            }
            (open.records, open.last_index) = (open.records + 1, index);
            self.since_base += record.len() as u64;
        }
        Ok(true)
    }

    /// Makes a file whole when its time has come.
    ///
    /// # Errors
    /// As [`ArchiveWriter::take`].
    pub fn rest(&mut self, now_ms: u64) -> Result<(), ArchiveError> {
        self.finish_if(|options, open| now_ms.saturating_sub(open.first_ms) >= options.segment_ms)
    }

    fn finish_if(
        &mut self,
        is_due: impl Fn(&WriterOptions, &OpenSegment) -> bool,
    ) -> Result<(), ArchiveError> {
        let between_commits = self.place.as_ref().is_some_and(|it| it.plan.pending.is_none());
        let due = self.open.as_ref().is_some_and(|open| is_due(&self.options, open));
        if due && between_commits { self.finish_segment() } else { Ok(()) }
    }

    fn finish_segment(&mut self) -> Result<(), ArchiveError> {
        let (Some(open), Some(place)) = (self.open.take(), &self.place) else { return Ok(()) };
        let last_index = open.last_index;
        open.finish(&self.dir, place.plan.position, last_index, place.last_ms)
    }

    /// Ends the chain: what comes next in the log is not to be had.
    ///
    /// # Errors
    /// As [`ArchiveWriter::take`].
    pub fn end_chain(&mut self) -> Result<(), ArchiveError> {
        let between_commits = self.place.as_ref().is_some_and(|it| it.plan.pending.is_none());
        if between_commits {
            self.finish_segment()?;
        }
        (self.open, self.place) = (None, None);
        Ok(())
    }

    /// Begins a base of a snapshot; entries go on from there. Without a gap only once
    /// everything up to the snapshot's last entry was taken. Nothing when the snapshot is
    /// in the middle of a commit, or of another history: take another one.
    ///
    /// # Errors
    /// As [`ArchiveWriter::take`].
    pub fn begin_base(
        &mut self,
        snapshot: &SnapshotHeader,
        taken_ms: u64,
    ) -> Result<Option<BaseJob>, ArchiveError> {
        if snapshot.parts.is_some() {
            return Ok(None);
        }
        if self.place.as_ref().is_some_and(|it| it.plan.position != snapshot.position) {
            self.end_chain()?;
        }
        self.finish_segment()?;
        let taken_ms = self.place.as_ref().map_or(taken_ms, |place| place.last_ms.max(taken_ms));
        self.begin(snapshot.position, snapshot.log_index, taken_ms);
        let (position, log_index) = (snapshot.position, snapshot.log_index);
        let header = BaseHeader { id: self.id, position, log_index, taken_ms };
        self.since_base = 0;
        Ok(Some(BaseJob { dir: self.dir.clone(), header }))
    }

    /// Notes a base that is whole, and removes what is older than has to be kept.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn note_base(
        &mut self,
        bytes: u64,
        taken_ms: u64,
        now_ms: u64,
    ) -> Result<(), ArchiveError> {
        self.last_base = Some((taken_ms, bytes));
        let catalog = Catalog::read(&self.dir)?;
        let until = now_ms.saturating_sub(self.options.keep_ms);
        let Some(oldest) = catalog.bases.iter().rfind(|base| base.header.taken_ms <= until) else {
            return Ok(());
        };
        let (first, at) = (oldest.header.taken_ms, rank(&oldest.header.position));
        let bases = catalog.bases.iter().filter(|base| base.header.taken_ms < first);
        let entries = catalog
            .entries
            .iter()
            .filter(|file| file.is_whole && file.last_ms <= first && rank(&file.end) <= at);
        for path in bases.map(|base| &base.path).chain(entries.map(|file| &file.path)) {
            fs::remove_file(path).map_err(io_error("remove", path))?;
        }
        Ok(())
    }
}

impl BaseJob {
    /// When the base was taken, milliseconds since 1970.
    pub fn taken_ms(&self) -> u64 {
        self.header.taken_ms
    }

    /// Writes the base, and gives its size. It may be given up between two reads of the
    /// source.
    ///
    /// # Errors
    /// The source or the directory failed; nothing is left.
    pub fn write(self, source: &mut dyn Read) -> Result<u64, ArchiveError> {
        let path = self.dir.join(self.header.name());
        let partial = path.with_extension("partial");
        let written = self.write_to(&partial, source);
        if written.is_err() {
            // What could not be removed is known by its name.
            let _ = fs::remove_file(&partial);
        }
        let bytes = written?;
        fs::rename(&partial, &path).map_err(io_error("name", &path))?;
        sync_dir(&self.dir)?;
        Ok(bytes)
    }

    fn write_to(&self, partial: &Path, source: &mut dyn Read) -> Result<u64, ArchiveError> {
        let failed = io_error("write", partial);
        let mut write = || -> io::Result<u64> {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(partial)?);
            file.write_all(&self.header.encode())?;
            let mut encoder = zstd::Encoder::new(file, LEVEL)?;
            io::copy(source, &mut encoder)?;
            let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        };
        write().map_err(failed)
    }
}

/// A file of entries that is being written.
struct OpenSegment {
    file: File,
    path: PathBuf,
    header: SegmentHeader,
    hasher: blake3::Hasher,
    bytes: u64,
    records: u64,
    first_ms: u64,
    last_index: u64,
}

impl OpenSegment {
    fn create(
        dir: &Path,
        header: SegmentHeader,
        writer: &str,
    ) -> Result<OpenSegment, ArchiveError> {
        let path = dir.join(header.partial_name(writer));
        let failed = io_error("create", &path);
        // One of an earlier life of this writer: whoever reads it has it open.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = File::create_new(&path).map_err(failed)?;
        let mut segment = OpenSegment {
            file,
            path,
            header,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            records: 0,
            first_ms: header.from_ms,
            last_index: header.log_index,
        };
        segment.write(&header.encode())?;
        segment.sync()?;
        sync_dir(dir)?;
        Ok(segment)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.file.write_all(bytes).map_err(io_error("write", &self.path))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&self) -> Result<(), ArchiveError> {
        self.file.sync_data().map_err(io_error("make durable", &self.path))
    }

    fn finish(
        mut self,
        dir: &Path,
        position: Position,
        log_index: u64,
        last_ms: u64,
    ) -> Result<(), ArchiveError> {
        let mut end = SegmentEnd {
            position,
            log_index,
            records: self.records,
            first_ms: self.first_ms,
            last_ms,
            hash: [0; 32],
        };
        let encoded = end.encode();
        self.hasher.update(&encoded[..END_BYTES - 32]);
        end.hash = *self.hasher.finalize().as_bytes();
        self.file.write_all(&end.encode()).map_err(io_error("write", &self.path))?;
        self.sync()?;
        let path = dir.join(self.header.name(&end));
        fs::rename(&self.path, &path).map_err(io_error("name", &path))?;
        sync_dir(dir)
    }
}

fn sync_dir(dir: &Path) -> Result<(), ArchiveError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("make durable", dir))
}

//! What a directory has: files, chains of them, and the moments that can be restored.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::format::{
    ArchiveId, BaseHeader, END_BYTES, HEADER_BYTES, Kind, SegmentEnd, SegmentHeader, kind_of,
};
use super::segment::{Next, SegmentReader};
use super::{ArchiveError, io_error};
use crate::entry::Entry;
use crate::plan::{Decision, Plan};
use crate::position::Position;

/// A base.
#[derive(Clone, Debug)]
pub struct BaseFile {
    /// The file.
    pub path: PathBuf,
    /// How it begins.
    pub header: BaseHeader,
    /// Its size.
    pub bytes: u64,
}

/// A file of entries, whole or not.
#[derive(Clone, Debug)]
pub struct EntriesFile {
    /// The file.
    pub path: PathBuf,
    /// How it begins.
    pub header: SegmentHeader,
    /// The position after its last whole commit.
    pub end: Position,
    /// The last entry of the log in it.
    pub log_index: u64,
    /// When its last whole commit was proposed, milliseconds since 1970.
    pub last_ms: u64,
    /// Bytes that count.
    pub bytes: u64,
    /// How many entries count.
    pub records: u64,
    /// Whether it has its end. Otherwise somebody writes it, died over it, or it is among
    /// those that are damaged.
    pub is_whole: bool,
}

/// Something that cannot be used.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where it is wrong.
    pub offset: u64,
    /// What is wrong with it.
    pub what: String,
    /// Of entries: the sequence that it continues, by its name.
    pub after: Option<u64>,
}

/// Moments that can be restored, from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Milliseconds since 1970.
    pub from_ms: u64,
    /// The position at that moment.
    pub from: Position,
    /// Milliseconds since 1970.
    pub to_ms: u64,
    /// The last position.
    pub to: Position,
    /// Bases in it.
    pub bases: usize,
    /// Bytes of its files.
    pub bytes: u64,
}

/// The files of an archive.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The oldest first.
    pub bases: Vec<BaseFile>,
    /// In no order.
    pub entries: Vec<EntriesFile>,
    /// What cannot be used.
    pub damaged: Vec<Damage>,
    /// Bases that nobody finished.
    pub unfinished: Vec<PathBuf>,
    /// Whose it is; nothing while there is no file.
    pub id: Option<ArchiveId>,
}

impl Catalog {
    /// Looks at every file of a directory; of whole ones at their beginning and end.
    ///
    /// # Errors
    /// The directory cannot be read, or has files of two databases.
    pub fn read(dir: &Path) -> Result<Catalog, ArchiveError> {
        let mut catalog = Catalog::default();
        let listed = fs::read_dir(dir).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ArchiveError::Missing(dir.to_path_buf()),
            _ => io_error("list", dir)(error),
        })?;
        for listed in listed {
            let listed = listed.map_err(io_error("list", dir))?;
            let Some(kind) = listed.file_name().to_str().and_then(kind_of) else { continue };
            catalog.add(kind, listed.path(), dir)?;
        }
        catalog.bases.sort_by_key(|base| {
            let Position { generation, sequence, .. } = base.header.position;
            (base.header.taken_ms, generation, sequence)
        });
        Ok(catalog)
    }

    fn add(&mut self, kind: Kind, path: PathBuf, dir: &Path) -> Result<(), ArchiveError> {
        let found = match kind {
            Kind::PartialBase => {
                self.unfinished.push(path);
                return Ok(());
            }
            Kind::Base => read_base(&path).map(|base| {
                let id = base.header.id;
                self.bases.push(base);
                id
            }),
            Kind::Entries => read_whole(&path).map(|file| self.keep(file)),
            Kind::PartialEntries => read_partial(&path).map(|file| self.keep(file)),
        };
        match found {
            Ok(id) if self.id.is_some_and(|known| known != id) => {
                Err(ArchiveError::Foreign(dir.to_path_buf()))
            }
            Ok(id) => {
                self.id = Some(id);
                Ok(())
            }
            // Renamed or pruned since it was listed.
            Err(_) if !path.exists() => Ok(()),
            Err(what) => {
                self.keep_damaged(kind, path, what);
                Ok(())
            }
        }
    }

    /// Notes a file that is damaged, and keeps the entries before the damage.
    fn keep_damaged(&mut self, kind: Kind, path: PathBuf, what: String) {
        let rest = (kind == Kind::Entries).then(|| read_partial(&path).ok()).flatten();
        let offset = rest.as_ref().map_or(0, |rest| rest.bytes);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let after = name.split('-').nth(2).and_then(|after| after.parse().ok());
        let after = after.filter(|_| kind == Kind::Entries);
        self.entries.extend(rest);
        self.damaged.push(Damage { path, offset, what, after });
    }

    fn keep(&mut self, file: EntriesFile) -> ArchiveId {
        let id = file.header.id;
        self.entries.push(file);
        id
    }

    /// The files that continue a position, one after the other.
    pub fn chain(&self, from: &Position) -> Vec<&EntriesFile> {
        let mut chain = Vec::new();
        let mut at = *from;
        loop {
            let next = self
                .entries
                .iter()
                .filter(|file| file.header.parent == at && rank(&file.end) > rank(&at));
            let Some(next) = next.max_by_key(|file| (rank(&file.end), file.is_whole)) else {
                return chain;
            };
            at = next.end;
            chain.push(next);
        }
    }

    /// What can be restored, oldest first.
    pub fn ranges(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for base in &self.bases {
            let (header, chain) = (&base.header, self.chain(&base.header.position));
            let position = header.position;
            let bytes = base.bytes + chain.iter().map(|file| file.bytes).sum::<u64>();
            let last = chain.last();
            let to = last.map_or(position, |last| last.end);
            let to_ms = last.map_or(header.taken_ms, |last| last.last_ms.max(header.taken_ms));
            let continued = ranges
                .last_mut()
                .filter(|range| range.to == to && rank(&range.from) <= rank(&position));
            match continued {
                Some(range) => {
                    range.bases += 1;
                    range.bytes += base.bytes;
                    range.to_ms = range.to_ms.max(to_ms);
                }
                None => ranges.push(Range {
                    from_ms: header.taken_ms,
                    from: position,
                    to_ms,
                    to,
                    bases: 1,
                    bytes,
                }),
            }
        }
        ranges
    }
}

/// What of two positions is later.
pub(crate) fn rank(position: &Position) -> (u64, u64) {
    (position.generation, position.sequence)
}

fn open(path: &Path) -> Result<(File, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    Ok((file, bytes))
}

fn read_header(file: &mut File) -> Result<[u8; HEADER_BYTES], String> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|error| format!("its header: {error}"))?;
    Ok(header)
}

fn read_base(path: &Path) -> Result<BaseFile, String> {
    let (mut file, bytes) = open(path)?;
    let header = BaseHeader::decode(&read_header(&mut file)?)?;
    Ok(BaseFile { path: path.to_path_buf(), header, bytes })
}

fn read_whole(path: &Path) -> Result<EntriesFile, String> {
    let (mut file, bytes) = open(path)?;
    let header = SegmentHeader::decode(&read_header(&mut file)?)?;
    let mut end = [0; END_BYTES];
    file.seek(SeekFrom::End(-(END_BYTES as i64)))
        .and_then(|_| file.read_exact(&mut end))
        .map_err(|error| format!("its end: {error}"))?;
    let end = SegmentEnd::decode(&end)?;
    Ok(EntriesFile {
        path: path.to_path_buf(),
        header,
        end: end.position,
        log_index: end.log_index,
        last_ms: end.last_ms,
        bytes,
        records: end.records,
        is_whole: true,
    })
}

/// Reads a file that nobody has finished: what counts ends with a whole commit.
fn read_partial(path: &Path) -> Result<EntriesFile, String> {
    let (file, _) = open(path)?;
    let mut reader = SegmentReader::begin(BufReader::new(file))?;
    let header = *reader.header();
    let mut counts = EntriesFile {
        path: path.to_path_buf(),
        header,
        end: header.parent,
        log_index: header.log_index,
        last_ms: header.from_ms,
        bytes: reader.offset(),
        records: 0,
        is_whole: false,
    };
    let mut plan = Plan::new(header.parent, None, Default::default(), false);
    let mut records = 0;
    while let Next::Record(record) = reader.next() {
        records += 1;
        let Ok(entry) = Entry::decode(&record.entry) else { break };
        match plan.decide(record.index, &entry, &record.entry).0 {
            Decision::Keep => {}
            Decision::Write { .. } | Decision::Barrier => {
                (counts.end, counts.log_index) = (plan.position, record.index);
                (counts.last_ms, counts.bytes) = (record.at_ms, reader.offset());
                counts.records = records;
            }
            Decision::Skip | Decision::Settle => break,
        }
    }
    Ok(counts)
}

//! Making a database of an archive, as it was at a moment.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::catalog::{BaseFile, Catalog, EntriesFile, rank};
use super::format::HEADER_BYTES;
use super::segment::{Next, Record, SegmentReader};
use super::{ArchiveError, io_error};
use crate::apply::Outcome;
use crate::entry::Entry;
use crate::error::PagesError;
use crate::position::Position;
use crate::store::{Options, PageStore};

/// Entries that are applied at once.
const TOGETHER: usize = 256;
const TOGETHER_BYTES: usize = 4 << 20;

/// Which moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The last one that there is.
    Latest,
    /// With every entry that was proposed up to this time, milliseconds since 1970.
    At(u64),
    /// At the position with this sequence.
    Sequence(u64),
}

/// A database as it was.
pub struct Restored {
    /// Its pages, in the directory that was given.
    pub store: PageStore,
    /// When its last entry was proposed, or its base was taken: milliseconds since 1970.
    pub at_ms: u64,
    /// Bases that were damaged, so that an older one was begun with.
    pub passed_over: Vec<PathBuf>,
}

/// Makes the database of an archive in an empty directory, as it was at a moment. Every
/// page and the chain of positions are verified.
///
/// # Errors
/// What is missing or damaged, and what can be restored instead.
pub fn replay(dir: &Path, scratch: &Path, target: Target) -> Result<Restored, ArchiveError> {
    let catalog = Catalog::read(dir)?;
    let reaches = |base: &&BaseFile| match target {
        Target::Latest => true,
        Target::At(at_ms) => base.header.taken_ms <= at_ms,
        Target::Sequence(sequence) => base.header.position.sequence <= sequence,
    };
    let bases: Vec<&BaseFile> = catalog.bases.iter().rev().filter(reaches).collect();
    let mut passed_over = Vec::new();
    let mut failed = None;
    for (number, base) in bases.into_iter().enumerate() {
        let scratch = scratch.join(number.to_string());
        let mut replay = match Replay::begin(base, &scratch) {
            Ok(replay) => replay,
            Err(error @ ArchiveError::Damaged { .. }) => {
                failed.get_or_insert(error);
                passed_over.push(base.path.clone());
                continue;
            }
            Err(error) => return Err(error),
        };
        replay.follow(&catalog, target)?;
        return Ok(Restored { store: replay.store, at_ms: replay.at_ms, passed_over });
    }
    Err(failed.unwrap_or_else(|| too_early(dir, &catalog)))
}

fn too_early(dir: &Path, catalog: &Catalog) -> ArchiveError {
    let begins = catalog.bases.first().map(|base| base.header);
    ArchiveError::NotThere(match (begins, catalog.damaged.first()) {
        (Some(begins), _) => format!(
            "the archive in {} begins at position {} of {}",
            dir.display(),
            begins.position.sequence,
            Moment(begins.taken_ms)
        ),
        (None, Some(damage)) => {
            format!("{} has no base; {}: {}", dir.display(), damage.path.display(), damage.what)
        }
        (None, None) => format!("{} has no base of an archive", dir.display()),
    })
}

/// A time as people read it: milliseconds since 1970.
pub struct Moment(pub u64);

impl std::fmt::Display for Moment {
    /// RFC 3339 in UTC, by the civil calendar of Howard Hinnant's `civil_from_days`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, ms) = ((self.0 / 86_400_000) as i64, self.0 % 86_400_000);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
        let (second, ms) = (ms / 1000 % 60, ms % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
    }
}

struct Replay {
    store: PageStore,
    at_ms: u64,
}

/// Counts what was read, to say where something was wrong.
struct Counting<R> {
    source: R,
    count: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(out)?;
        self.count += read as u64;
        Ok(read)
    }
}

impl Replay {
    fn begin(base: &BaseFile, scratch: &Path) -> Result<Replay, ArchiveError> {
        let failed = io_error("read", &base.path);
        let mut file = File::open(&base.path).map_err(&failed)?;
        file.seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(&failed)?;
        let mut counting = Counting { source: BufReader::new(file), count: HEADER_BYTES as u64 };
        let mut store = PageStore::open(scratch, Options::default())?;
        let restored = match zstd::Decoder::with_buffer(BufReader::new(&mut counting)) {
            Ok(mut decoder) => store.restore(&mut decoder),
            Err(error) => Err(PagesError::Snapshot(error.to_string())),
        };
        let damaged = |offset, what| ArchiveError::Damaged {
            file: base.path.clone(),
            offset,
            what,
            before: None,
        };
        match restored {
            Err(PagesError::Snapshot(what)) => return Err(damaged(counting.count, what)),
            other => other?,
        }
        if store.position() != base.header.position {
            return Err(damaged(0, "its pages are of another position".to_owned()));
        }
        Ok(Replay { store, at_ms: base.header.taken_ms })
    }

    /// Applies what follows, up to the target.
    fn follow(&mut self, catalog: &Catalog, target: Target) -> Result<(), ArchiveError> {
        let from = self.store.position();
        let chain = catalog.chain(&from);
        for file in &chain {
            if target == Target::Sequence(self.store.position().sequence) {
                return Ok(());
            }
            if self.apply_file(file, target)? {
                return Ok(());
            }
        }
        let position = self.store.position();
        match target {
            Target::At(at_ms) if at_ms == self.at_ms => return Ok(()),
            Target::Sequence(sequence) if position.sequence == sequence => return Ok(()),
            _ => {}
        }
        let ends_there = |path: &Path| chain.last().is_some_and(|last| last.path == path);
        let damage = catalog.damaged.iter().find(|damage| {
            damage.after.is_some_and(|after| after >= position.sequence) || ends_there(&damage.path)
        });
        if let Some(damage) = damage {
            return Err(ArchiveError::Damaged {
                file: damage.path.clone(),
                offset: damage.offset,
                what: damage.what.clone(),
                before: Some((self.at_ms, position.sequence)),
            });
        }
        match target {
            Target::Latest => Ok(()),
            Target::At(_) | Target::Sequence(_) => {
                let later = self.next_range(catalog, &position);
                Err(ArchiveError::NotThere(format!(
                    "the archive has nothing after position {} of {}{later}; `latest` restores \
                     what it has",
                    position.sequence,
                    Moment(self.at_ms)
                )))
            }
        }
    }

    fn next_range(&self, catalog: &Catalog, position: &Position) -> String {
        let later = catalog.bases.iter().find(|base| rank(&base.header.position) > rank(position));
        later.map_or_else(String::new, |base| {
            format!(" until {}, where it begins again", Moment(base.header.taken_ms))
        })
    }

    /// Applies a file's entries; true when the target lies before one of them.
    fn apply_file(&mut self, file: &EntriesFile, target: Target) -> Result<bool, ArchiveError> {
        let opened = File::open(&file.path).map_err(io_error("read", &file.path))?;
        let begun = SegmentReader::begin(BufReader::new(opened));
        let mut reader = begun.map_err(|what| self.damaged(file, 0, what))?;
        let mut batch: Vec<(u64, Record)> = Vec::new();
        let (mut bytes, mut sequence) = (0, self.store.position().sequence);
        loop {
            let offset = reader.offset();
            let is_over = !file.is_whole && offset >= file.bytes;
            match reader.next() {
                _ if is_over => break,
                Next::End(_) => break,
                Next::Broken { offset, what } => {
                    self.apply(file, &mut batch)?;
                    return Err(self.damaged(file, offset, what));
                }
                Next::Record(record) => {
                    sequence = sequence_after(&record, sequence);
                    let is_beyond = match target {
                        Target::Latest => false,
                        Target::At(at_ms) => record.at_ms > at_ms,
                        Target::Sequence(last) => sequence > last,
                    };
                    if is_beyond {
                        self.apply(file, &mut batch)?;
                        return Ok(true);
                    }
                    bytes += record.entry.len();
                    batch.push((offset, record));
                }
            }
            if batch.len() >= TOGETHER || bytes >= TOGETHER_BYTES {
                self.apply(file, &mut batch)?;
                bytes = 0;
            }
        }
        self.apply(file, &mut batch)?;
        if self.store.position() != file.end {
            let what = "its entries do not lead to its last position".to_owned();
            return Err(self.damaged(file, file.bytes, what));
        }
        Ok(false)
    }

    fn apply(
        &mut self,
        file: &EntriesFile,
        batch: &mut Vec<(u64, Record)>,
    ) -> Result<(), ArchiveError> {
        let Some(last) = batch.last().map(|(_, record)| record.at_ms) else { return Ok(()) };
        let first = self.store.applied_index() + 1;
        let numbered = batch.iter().zip(first..);
        let entries: Vec<(u64, &[u8])> =
            numbered.map(|((_, record), index)| (index, record.entry.as_slice())).collect();
        let offset = |at: usize| batch.get(at).map_or(file.bytes, |(offset, _)| *offset);
        match self.store.apply(&entries) {
            Ok(outcomes) => {
                let skipped = outcomes.iter().position(|outcome| *outcome == Outcome::Skipped);
                if let Some(at) = skipped {
                    let what = "an entry does not continue the one before".to_owned();
                    return Err(self.damaged(file, offset(at), what));
                }
            }
            Err(
                error @ (PagesError::Entry { .. }
                | PagesError::Divergence { .. }
                | PagesError::Damaged { .. }),
            ) => {
                let done = self.store.applied_index().saturating_sub(first - 1);
                let at = offset(usize::try_from(done).unwrap_or(usize::MAX));
                return Err(self.damaged(file, at, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
        self.at_ms = self.at_ms.max(last);
        batch.clear();
        Ok(())
    }

    fn damaged(&self, file: &EntriesFile, offset: u64, what: String) -> ArchiveError {
        let before = Some((self.at_ms, self.store.position().sequence));
        ArchiveError::Damaged { file: file.path.clone(), offset, what, before }
    }
}

/// The sequence that an entry leads to.
fn sequence_after(record: &Record, before: u64) -> u64 {
    match Entry::decode(&record.entry) {
        Ok(Entry::Pages(part)) => part.position.sequence,
        Ok(Entry::Barrier { .. }) => before.saturating_add(1),
        // It is found when it is applied.
        Err(_) => before,
    }
}

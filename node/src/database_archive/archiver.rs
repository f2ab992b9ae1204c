//! Writing one archive: what the log has goes into it, and now and then a base.

use std::path::PathBuf;
use std::time::Duration;

use rung_pages::Snapshot;
use rung_pages::archive::{ArchiveError, ArchiveId, ArchiveWriter, Intake, WriterOptions};
use rung_proto::api::ArchiveSetting;
use rung_proto::soft::ArchiveStatus;
use rung_shard::{LoggedEntries, LoggedEntry, Shard, Token};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

use super::shard_dir;
use crate::clock::now_ms;

/// Bytes that are read of the log at once.
const PIECE: usize = 4 << 20;
/// Pieces in one step.
const PIECES: usize = 16;
/// A base that could not be made is tried again after this, in milliseconds.
const BASE_AGAIN_MS: u64 = 30_000;
/// How long a group may take to tell what it has applied, and between two looks.
const TOLD: Duration = Duration::from_secs(5);
const TOLD_AGAIN: Duration = Duration::from_millis(10);
/// What cannot be read after so long, in milliseconds, does not come any more.
const OTHER_MS: u64 = 10_000;

/// The size of a base and when it was taken.
type Base = Result<(u64, u64), ArchiveError>;

/// Writes the archive of a shard.
pub struct Archiver {
    writer: Box<ArchiveWriter>,
    base: Option<JoinHandle<Base>>,
    base_again_ms: u64,
    /// What the copy showed and the archive did not have, and since when.
    lacks: Option<(Token, u64)>,
    status: ArchiveStatus,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, String> {
    let done = spawn_blocking(work).await.map_err(|error| error.to_string())?;
    done.map_err(|error| error.to_string())
}

impl Archiver {
    /// Goes on with what is in the directory.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn open(
        setting: ArchiveSetting,
        shard: u32,
        id: ArchiveId,
        writer: String,
    ) -> Result<Self, String> {
        let options = WriterOptions {
            keep_ms: setting.keep_ms,
            base_ms: setting.base_ms,
            ..WriterOptions::default()
        };
        let status = ArchiveStatus { dir: setting.dir.clone(), ..ArchiveStatus::default() };
        let dir = PathBuf::from(setting.dir);
        let writer = blocking(move || {
            if !dir.is_dir() {
                return Err(ArchiveError::Missing(dir));
            }
            let dir = shard_dir(&dir, shard);
            if let Err(source) = std::fs::create_dir_all(&dir) {
                return Err(ArchiveError::Io { what: "create", path: dir, source });
            }
            ArchiveWriter::open(&dir, id, &writer, options)
        });
        let mut opened = Self {
            writer: Box::new(writer.await?),
            base: None,
            base_again_ms: 0,
            lacks: None,
            status,
        };
        opened.note();
        Ok(opened)
    }

    pub fn status(&self) -> ArchiveStatus {
        self.status.clone()
    }

    /// Archives what is new.
    ///
    /// # Errors
    /// Why it could not; it must be opened again.
    pub async fn step(mut self, shard: &Shard) -> Result<Self, String> {
        self.finish_base().await?;
        if self.base.is_none()
            && self.writer.is_base_due(now_ms())
            && now_ms() >= self.base_again_ms
        {
            self = self.begin_base(shard).await?;
        }
        for _ in 0..PIECES {
            let Some(from) = self.writer.next_index() else { return Ok(self) };
            let (settled, asked_ms) = (shard.position(), now_ms());
            match shard.read_log(from, PIECE).await.map_err(|error| error.to_string())? {
                LoggedEntries::Purged => {
                    self.status.gaps += 1;
                    self.writer.end_chain().map_err(|error| error.to_string())?;
                }
                LoggedEntries::Next(entries, next) if entries.is_empty() && next == from => {
                    self.compare(settled, asked_ms)?;
                    break;
                }
                LoggedEntries::Next(entries, next) => self = self.take(entries, next).await?,
            }
        }
        let rested = blocking(move || {
            self.writer.rest(now_ms())?;
            Ok(self)
        });
        let mut rested = rested.await?;
        rested.note();
        Ok(rested)
    }

    /// Looks whether the archive has what the copy shows, when there was nothing to read.
    /// What the group tells of itself may be a moment older. A copy of another history,
    /// after a recovery, never comes to what is archived: it needs a base of its own.
    fn compare(&mut self, settled: Token, asked_ms: u64) -> Result<(), String> {
        let Some((last, _)) = self.writer.last() else { return Ok(()) };
        let has = |seen: &Token| last.sequence >= seen.sequence && last.epoch >= seen.epoch;
        if let Some((_, at_ms)) = self.lacks.take_if(|(seen, _)| has(seen)) {
            self.status.complete_ms = at_ms;
        }
        if has(&settled) {
            (self.status.complete_ms, self.lacks) = (asked_ms, None);
            return Ok(());
        }
        let (_, since_ms) = *self.lacks.get_or_insert((settled, asked_ms));
        if asked_ms.saturating_sub(since_ms) < OTHER_MS {
            return Ok(());
        }
        (self.lacks, self.status.gaps) = (None, self.status.gaps + 1);
        self.writer.end_chain().map_err(|error| error.to_string())
    }

    async fn take(mut self, entries: Vec<LoggedEntry>, next: u64) -> Result<Self, String> {
        blocking(move || {
            let entries = entries.iter().map(|one| (one.index, one.at_ms, &one.entry[..]));
            if self.writer.take(entries, next)? == Intake::Gap {
                self.status.gaps += 1;
            }
            Ok(self)
        })
        .await
    }

    /// Takes the pages as they are now, after everything that they have, and writes them
    /// while entries go on.
    async fn begin_base(mut self, shard: &Shard) -> Result<Self, String> {
        self.base_again_ms = now_ms().saturating_add(BASE_AGAIN_MS);
        let snapshot = shard.snapshot().await.map_err(|error| error.to_string())?;
        let header = *snapshot.header();
        let until = Instant::now() + TOLD;
        while let Some(from) = self.writer.next_index().filter(|next| *next <= header.log_index) {
            let piece = shard.read_log(from, PIECE).await.map_err(|error| error.to_string())?;
            match piece {
                LoggedEntries::Next(mut entries, next) if next > from => {
                    entries.retain(|entry| entry.index <= header.log_index);
                    self = self.take(entries, next.min(header.log_index + 1)).await?;
                }
                // The group has not told yet that it applied them.
                LoggedEntries::Next(..) if Instant::now() < until => sleep(TOLD_AGAIN).await,
                // The base closes the gap.
                LoggedEntries::Next(..) | LoggedEntries::Purged => {
                    self.status.gaps += 1;
                    self.writer.end_chain().map_err(|error| error.to_string())?;
                }
            }
        }
        let newest_ms = match shard.newest_entry_ms() {
            0 => now_ms(),
            newest => newest,
        };
        let job = self.writer.begin_base(&header, newest_ms).map_err(|error| error.to_string())?;
        match job {
            // In the middle of a large commit: it is over in a moment.
            None => self.base_again_ms = 0,
            Some(job) => {
                let mut snapshot: Snapshot = snapshot;
                self.base = Some(spawn_blocking(move || {
                    let taken_ms = job.taken_ms();
                    job.write(&mut snapshot).map(|bytes| (bytes, taken_ms))
                }));
            }
        }
        Ok(self)
    }

    async fn finish_base(&mut self) -> Result<(), String> {
        let Some(base) = self.base.take_if(|base| base.is_finished()) else { return Ok(()) };
        let done = base.await.map_err(|error| error.to_string())?;
        match done {
            Ok((bytes, taken_ms)) => {
                tracing::info!(bytes, "an archive has a new base");
                let noted = self.writer.note_base(bytes, taken_ms, now_ms());
                noted.map_err(|error| error.to_string())
            }
            Err(error) => {
                // What follows is worth nothing without a base.
                Err(error.to_string())
            }
        }
    }

    fn note(&mut self) {
        let status = &mut self.status;
        status.problem = None;
        status.base_ms = self.writer.base_ms();
        // Nothing that an unfinished base stands for may be forgotten.
        if self.base.is_none() {
            status.log_index = self.writer.next_index().map_or(0, |next| next - 1);
        }
        if let Some((position, at_ms)) = self.writer.last() {
            (status.sequence, status.at_ms) = (position.sequence, at_ms);
        }
    }

    /// Leaves a whole file to who goes on.
    pub fn end(mut self) {
        spawn_blocking(move || {
            if let Err(error) = self.writer.end_chain() {
                tracing::warn!(%error, "a file of an archive could not be finished");
            }
        });
    }
}

//! From an archive back into a database.

use std::path::{Path, PathBuf};

use rung_pages::archive::{ArchiveError, Catalog, Moment, Restored, Target, replay};
use rung_pages::{PagesError, Position};
use rung_proto::api::{ArchiveContent, ArchiveMoment, ArchiveRange, RestoreDone};
use rung_proto::{Code, Failure};
use tokio::task::spawn_blocking;

use super::shard_dir;
use crate::database_backup::{self, BACKUPS, write_backup};
use crate::node::Node;

/// The first shard, which holds a whole database for as long as there are no more.
const SHARD: u32 = 0;

fn failure(dir: &Path, error: ArchiveError) -> Failure {
    let next = match &error {
        ArchiveError::Damaged { before: Some((_, sequence)), .. } => {
            format!("`--at position:{sequence}` restores what is before it")
        }
        ArchiveError::NotThere(_) | ArchiveError::Damaged { .. } => {
            format!("`ctl db archive ls {}` shows what can be restored", dir.display())
        }
        _ => "see `ctl explain archive-unusable`".to_owned(),
    };
    let code = match &error {
        ArchiveError::Damaged { .. } => Code::DataCorrupt,
        ArchiveError::NotThere(_) => Code::NotFound,
        ArchiveError::Pages(PagesError::DiskFull(_)) => Code::DiskFull,
        _ => Code::ArchiveUnusable,
    };
    Failure::new(code, "the archive does not give back that moment").because(error).next(next)
}

/// Where the files are: in the folder of the first shard, or right here.
fn files(dir: PathBuf) -> PathBuf {
    let shard = shard_dir(&dir, SHARD);
    if shard.is_dir() { shard } else { dir }
}

/// What can be restored from an archive.
///
/// # Errors
/// When the directory cannot be read.
pub async fn content(dir: PathBuf) -> Result<ArchiveContent, Failure> {
    let read = spawn_blocking(move || {
        let catalog = Catalog::read(&files(dir.clone())).map_err(|error| failure(&dir, error))?;
        let range = |range: rung_pages::archive::Range| ArchiveRange {
            from_ms: range.from_ms,
            from_position: range.from.sequence,
            to_ms: range.to_ms,
            to_position: range.to.sequence,
            bases: range.bases as u64,
            bytes: range.bytes,
        };
        let damaged = catalog.damaged.iter().map(|damage| {
            format!("{} at byte {}: {}", damage.path.display(), damage.offset, damage.what)
        });
        Ok(ArchiveContent {
            dir: dir.to_string_lossy().into_owned(),
            ranges: catalog.ranges().into_iter().map(range).collect(),
            damaged: damaged.collect(),
        })
    });
    read.await.map_err(|error| Failure::new(Code::Internal, error.to_string()))?
}

/// Puts what a database was at a moment in the place of what it holds.
///
/// # Errors
/// When the archive does not have that moment, or the database cannot be replaced.
pub async fn restore(
    node: &Node,
    database: &str,
    dir: PathBuf,
    at: ArchiveMoment,
) -> Result<RestoreDone, Failure> {
    let backups = node.data.make_private_dir(BACKUPS)?;
    let target = match at {
        ArchiveMoment::Latest => Target::Latest,
        ArchiveMoment::Time(at_ms) => Target::At(at_ms),
        ArchiveMoment::Position(sequence) => Target::Sequence(sequence),
    };
    let unwritable = |error: &dyn std::fmt::Display| {
        Failure::new(Code::DiskFailed, "the database of the archive cannot be written here")
            .because(error)
    };
    let scratch = tempfile::tempdir_in(backups).map_err(|error| unwritable(&error))?;
    let work = scratch.path().to_path_buf();
    let made = spawn_blocking(move || {
        let made =
            replay(&files(dir.clone()), &work, target).map_err(|error| failure(&dir, error))?;
        let path = work.join("moment.db");
        let position = extract(&made, &path).map_err(|error| unwritable(&error))?;
        for base in &made.passed_over {
            tracing::warn!(base = %base.display(), "a base of an archive is damaged");
        }
        Ok::<_, Failure>((path, position, made.at_ms))
    });
    let (path, position, at_ms) =
        made.await.map_err(|error| Failure::new(Code::Internal, error.to_string()))??;
    let moment = Moment(at_ms).to_string();
    tracing::info!(database, position = position.sequence, moment, "made a database of an archive");
    let done = database_backup::restore(node, database, path).await?;
    Ok(RestoreDone { from_archive: Some((position.sequence, at_ms)), ..done })
}

/// Writes what a store has as a file that stands by itself.
fn extract(made: &Restored, path: &Path) -> Result<Position, String> {
    let gate = made.store.gate();
    let reader = gate.connect().map_err(|error| error.to_string())?;
    let reading =
        gate.begin(&reader.connection, reader.ticket).map_err(|error| error.to_string())?;
    let written = write_backup(&reader.connection, path).map_err(|error| error.to_string());
    reading.end(&reader.connection).map_err(|error| error.to_string())?;
    written.map(|()| made.store.position())
}

//! The snapshot files of one group: `snapshot-<index>` in the group's directory,
//! written under another name, synced and renamed. The last two are kept.

use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rung_proto::GroupId;
use rung_wal::disk::{Disk, DiskFile};

use crate::raft_types::RaftSnapshotMeta;
use crate::snapshot_format::{SnapshotHeader, SnapshotReader, write_snapshot};
use crate::state_machine::SnapshotSource;

const PREFIX: &str = "snapshot-";
const KEPT: usize = 2;
/// A large snapshot is given to the disk in steps of so many bytes, so that the syncs
/// of logs never wait for gigabytes.
const STEP: u64 = 16 << 20;

/// A snapshot in a file, complete and synced.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    pub bytes: u64,
    handled: Arc<AtomicU64>,
}

/// A file that is being written.
pub(crate) struct UnfinishedFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    /// Of them, those before the last step.
    stepped: u64,
    handled: Arc<AtomicU64>,
}

/// The snapshot files of one group.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    group: GroupId,
    temporary: Arc<AtomicU64>,
    /// Bytes of snapshots that were written or read through, since the start.
    handled: Arc<AtomicU64>,
}

/// Runs what waits for a disk without stopping the other tasks, where there are
/// other threads to run them.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl SnapshotStore {
    /// Makes the directory if there is none and removes what was never finished.
    pub(crate) fn open(disk: Arc<dyn Disk>, dir: PathBuf, group: GroupId) -> io::Result<Self> {
        blocking(|| {
            disk.create_dir(&dir)?;
            for name in disk.list(&dir)? {
                if index_of(&name).is_none() {
                    disk.remove(&dir.join(name))?;
                }
            }
            disk.sync_dir(&dir)
        })
        .map_err(|error| naming(&dir, &error))?;
        Ok(Self { disk, dir, group, temporary: Arc::default(), handled: Arc::default() })
    }

    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// Bytes of snapshots that were written or read through since the start.
    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Notes that so many bytes of a snapshot were received.
    pub(crate) fn note_handled(&self, bytes: usize) {
        self.handled.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The indices of the snapshots, the newest last.
    fn indices(&self) -> io::Result<Vec<u64>> {
        let names = self.disk.list(&self.dir)?;
        let mut indices: Vec<u64> = names.iter().filter_map(|name| index_of(name)).collect();
        indices.sort_unstable();
        Ok(indices)
    }

    fn path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{index:020}"))
    }

    /// The newest snapshot. Its header is verified; its content is when it is read.
    pub(crate) fn newest(&self) -> io::Result<Option<(RaftSnapshotMeta, SnapshotFile)>> {
        blocking(|| {
            let Some(index) = self.indices()?.pop() else { return Ok(None) };
            let path = self.path(index);
            let file = self.disk.open(&path).map_err(|error| naming(&path, &error))?;
            let bytes = file.bytes()?;
            let handled = Arc::clone(&self.handled);
            let file = SnapshotFile { path, file, bytes, handled };
            let meta = self.verify_header(&file)?;
            if meta.last_log_id.map_or(0, |last| last.index) != index {
                return Err(damaged(&file.path, "its name does not fit its content"));
            }
            Ok(Some((meta, file)))
        })
    }

    fn verify_header(&self, file: &SnapshotFile) -> io::Result<RaftSnapshotMeta> {
        let (header, _) = file.reader().map_err(|error| naming(&file.path, &error))?;
        if header.group != self.group {
            return Err(damaged(&file.path, "it is of another group"));
        }
        Ok(header.meta()?)
    }

    /// Writes a new snapshot. Nothing of it is left when it fails.
    pub(crate) fn write(
        &self,
        meta: &RaftSnapshotMeta,
        source: SnapshotSource,
    ) -> io::Result<SnapshotFile> {
        blocking(|| {
            let mut out = self.create()?;
            let path = out.path().to_owned();
            let header = SnapshotHeader::new(self.group, meta);
            let mut buffered = io::BufWriter::with_capacity(128 << 10, &mut out);
            let written =
                write_snapshot(&header, source, &mut buffered).and_then(|_| buffered.flush());
            drop(buffered);
            let written = written.and_then(|()| out.finish()).and_then(|file| self.publish(file));
            if written.is_err() {
                self.discard(&path);
            }
            written
        })
    }

    /// A file for a snapshot that comes from elsewhere.
    pub(crate) fn create(&self) -> io::Result<UnfinishedFile> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("unfinished-{number}"));
        // It grows as it is written; the disk makes no empty files.
        let file = self.disk.create(&path, 1).map_err(|error| naming(&path, &error))?;
        let handled = Arc::clone(&self.handled);
        Ok(UnfinishedFile { path, file, bytes: 0, stepped: 0, handled })
    }

    /// Reads a received file to its end and verifies it.
    pub(crate) fn verify(&self, file: &SnapshotFile) -> io::Result<RaftSnapshotMeta> {
        blocking(|| {
            let meta = self.verify_header(file)?;
            let (_, reader) = file.reader()?;
            reader.verify_rest()?;
            Ok(meta)
        })
    }

    /// Gives a finished file its place and removes all but the last two.
    pub(crate) fn publish(&self, file: SnapshotFile) -> io::Result<SnapshotFile> {
        blocking(|| {
            let (header, _) = file.reader()?;
            let index = header.last.map_or(0, |last| last.index);
            let path = self.path(index);
            if file.path != path {
                self.disk.rename(&file.path, &path)?;
                self.disk.sync_dir(&self.dir)?;
            }
            let indices = self.indices()?;
            let excess = indices.len().saturating_sub(KEPT);
            for index in &indices[..excess] {
                self.disk.remove(&self.path(*index))?;
            }
            Ok(SnapshotFile { path, ..file })
        })
    }

    /// Removes a received file unless it was given a place.
    pub(crate) fn discard(&self, path: &Path) {
        match blocking(|| self.disk.remove(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "an unused snapshot stays");
            }
            _ => {}
        }
    }

    /// Removes all snapshots.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        blocking(|| {
            for name in self.disk.list(&self.dir)? {
                self.disk.remove(&self.dir.join(name))?;
            }
            self.disk.sync_dir(&self.dir)
        })
    }
}

fn index_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {what}", path.display()))
}

impl SnapshotFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The header, and the content behind it.
    pub(crate) fn reader(&self) -> io::Result<(SnapshotHeader, SnapshotReader<impl Read + use<>>)> {
        let bytes = FileReader {
            file: Arc::clone(&self.file),
            offset: 0,
            bytes: self.bytes,
            handled: Arc::clone(&self.handled),
        };
        SnapshotReader::open(BufReader::with_capacity(128 << 10, bytes))
            .map_err(|error| naming(&self.path, &error))
    }

    /// A piece of the file as it is.
    pub(crate) fn piece(&self, offset: u64, size: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; size.min(left)];
        blocking(|| self.file.read_at(offset, &mut piece))?;
        Ok(piece)
    }
}

impl UnfinishedFile {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it durable under its temporary name.
    pub(crate) fn finish(self) -> io::Result<SnapshotFile> {
        blocking(|| self.file.sync())?;
        let Self { path, file, bytes, handled, .. } = self;
        Ok(SnapshotFile { path, file, bytes, handled })
    }
}

impl Write for UnfinishedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        blocking(|| self.file.write_at(self.bytes, bytes))?;
        self.bytes += bytes.len() as u64;
        self.handled.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.bytes - self.stepped >= STEP {
            self.stepped = self.bytes;
            blocking(|| self.file.sync())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct FileReader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    bytes: u64,
    handled: Arc<AtomicU64>,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.bytes - self.offset).unwrap_or(usize::MAX);
        let size = buffer.len().min(left);
        self.file.read_at(self.offset, &mut buffer[..size])?;
        self.offset += size as u64;
        self.handled.fetch_add(size as u64, Ordering::Relaxed);
        Ok(size)
    }
}

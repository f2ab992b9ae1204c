//! Bundles on this node's disk, by hash.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rung_proto::{Code, Digest, Failure};

use crate::archive::{ArchiveError, Limits, Summary};
use crate::unpack::unpack_if;

const SUFFIX: &str = ".tar.zst";
const TEMPORARY: &str = ".tmp-";
/// Bundles are for this user alone: apps run under other ids on the machine.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the bundle {0} is not stored here")]
    Missing(Digest),
    #[error("the bundle {wanted} arrived with the hash {got}")]
    WrongDigest { wanted: Digest, got: Digest },
    #[error("the bundle is larger than {0} bytes")]
    TooLarge(u64),
    #[error("{path}: {source}")]
    Disk { path: PathBuf, source: io::Error },
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Missing(_) => Code::NotFound,
            StoreError::WrongDigest { .. } | StoreError::TooLarge(_) => Code::InvalidBundle,
            StoreError::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Code::DiskFull
            }
            StoreError::Disk { .. } => Code::DiskFailed,
        };
        Failure::new(code, "the bundle store failed").because(error)
    }
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Disk { path, source }
}

/// A directory of bundles. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    dir: Arc<Path>,
    limits: Limits,
}

impl Store {
    /// Opens the store, creating its directory, and removes what an interrupted
    /// write left behind. One process at a time may have it open.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let make = || {
            fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)?;
            // One that was there before may be open to others.
            fs::set_permissions(dir, fs::Permissions::from_mode(DIRECTORY_MODE))
        };
        make().map_err(disk(dir))?;
        remove_temporaries(dir).map_err(disk(dir))?;
        Ok(Self { dir: dir.into(), limits })
    }

    /// The limits that bundles are held to here.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.dir.join(format!("{digest}{SUFFIX}"))
    }

    /// Whether the bundle is here.
    pub fn has(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Its size in bytes, if it is here.
    pub fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Stores a bundle and returns its hash. Durable when it returns.
    ///
    /// # Errors
    /// When it is too large or the disk fails.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest(*blake3::hash(bytes).as_bytes());
        let mut incoming = self.begin()?;
        incoming.write(bytes)?;
        incoming.finish(digest)?;
        Ok(digest)
    }

    /// Starts to receive a bundle in pieces.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin(&self) -> Result<Incoming, StoreError> {
        let path = temporary_beside(&self.dir.join("incoming"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(FILE_MODE);
        let file = options.open(&path).map_err(disk(&path))?;
        Ok(Incoming { store: self.clone(), path, file, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    /// Opens a stored bundle for reading. The bytes are as they are on the disk;
    /// whoever receives them checks the hash.
    ///
    /// # Errors
    /// When it is not here or the disk fails.
    pub fn open_bundle(&self, digest: Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(digest)),
            Err(e) => Err(disk(&path)(e)),
        }
    }

    /// Reads a whole stored bundle and checks its hash.
    ///
    /// # Errors
    /// When it is not here, is damaged, or the disk fails.
    pub fn get(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let file = self.open_bundle(digest)?;
        let path = self.path(digest);
        let limit = self.limits.compressed;
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(disk(&path))?;
        let got = Digest(*blake3::hash(&bytes).as_bytes());
        if got == digest { Ok(bytes) } else { Err(StoreError::WrongDigest { wanted: digest, got }) }
    }

    /// Every stored bundle.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(disk(&self.dir))? {
            let name = entry.map_err(disk(&self.dir))?.file_name();
            let digest: Option<Digest> =
                name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            found.extend(digest);
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes every bundle that is not in `keep` and was stored more than
    /// `older_than` ago: a fresh one may be an upload whose release is still to
    /// be made. Returns the bytes freed.
    ///
    /// # Errors
    /// When the directory cannot be read or a file not removed.
    pub fn gc(&self, keep: &BTreeSet<Digest>, older_than: Duration) -> Result<u64, StoreError> {
        let mut freed = 0;
        let now = SystemTime::now();
        for digest in self.list()?.into_iter().filter(|digest| !keep.contains(digest)) {
            let path = self.path(digest);
            let metadata = match fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result.map_err(disk(&path))?,
            };
            // A time of storing that lies ahead, after the clock was set, is no age.
            let stored = metadata.modified().map_err(disk(&path))?;
            if now.duration_since(stored).is_ok_and(|age| age >= older_than) {
                fs::remove_file(&path).map_err(disk(&path))?;
                freed += metadata.len();
            }
        }
        Ok(freed)
    }

    /// Unpacks a stored bundle into the new directory `target`, which appears
    /// only if the bundle still has its hash. A damaged one is removed from the
    /// store, so that it is fetched again.
    ///
    /// # Errors
    /// When the bundle is not here or refused, or the disk fails.
    pub fn unpack(&self, digest: Digest, target: &Path) -> Result<Summary, ArchiveError> {
        let file = self.open_bundle(digest).map_err(|e| ArchiveError::Write {
            path: digest.to_string(),
            source: io::Error::other(e.to_string()),
        })?;
        let reader = HashingReader { inner: file, hasher: blake3::Hasher::new() };
        let result = unpack_if(reader, target, &self.limits, |reader| {
            // Bytes after the zstd frame belong to the hash too.
            io::copy(reader, &mut io::sink()).map_err(ArchiveError::Damaged)?;
            let got = Digest(*reader.hasher.finalize().as_bytes());
            if got == digest { Ok(()) } else { Err(ArchiveError::WrongDigest { got }) }
        });
        let damaged = !matches!(&result, Ok(_) | Err(ArchiveError::Write { .. }));
        if damaged && matches!(self.get(digest), Err(StoreError::WrongDigest { .. })) {
            let _ = fs::remove_file(self.path(digest));
        }
        result
    }
}

/// A bundle that is being received. Dropped unfinished, it leaves nothing.
#[derive(Debug)]
pub struct Incoming {
    store: Store,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Incoming {
    /// Appends a piece.
    ///
    /// # Errors
    /// When the bundle becomes too large or the disk fails.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let limit = self.store.limits.compressed;
        self.bytes = self.bytes.saturating_add(piece.len() as u64);
        if self.bytes > limit {
            return Err(StoreError::TooLarge(limit));
        }
        self.hasher.update(piece);
        self.file.write_all(piece).map_err(disk(&self.path))
    }

    /// Checks the hash and gives the bundle its name. Durable when it returns.
    ///
    /// # Errors
    /// When the bytes are not those of `wanted`, or the disk fails.
    pub fn finish(self, wanted: Digest) -> Result<(), StoreError> {
        let got = Digest(*self.hasher.finalize().as_bytes());
        if got != wanted {
            return Err(StoreError::WrongDigest { wanted, got });
        }
        let target = self.store.path(wanted);
        // The time of the last write of a slow upload may be long ago.
        self.file.set_modified(SystemTime::now()).map_err(disk(&self.path))?;
        self.file.sync_all().map_err(disk(&self.path))?;
        fs::rename(&self.path, &target).map_err(disk(&target))?;
        sync_parent(&target).map_err(disk(&target))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // After a successful rename there is nothing of that name.
        let _ = fs::remove_file(&self.path);
    }
}

struct HashingReader<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A name beside `target` that no other writer of this process has and that
/// [`remove_temporaries`] recognises.
pub(crate) fn temporary_beside(target: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    target.with_file_name(format!("{TEMPORARY}{}-{number}", std::process::id()))
}

/// Removes what interrupted writes left in `dir`.
///
/// # Errors
/// When the directory cannot be read or an entry not removed.
pub fn remove_temporaries(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;

//! Makes a bundle of an app's folder. The same files give the same bytes: the
//! entries are sorted, and times, owners and all but the executable bit of a
//! mode are left out.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rung_proto::{Code, Digest, Failure};

use crate::archive::{self, ArchiveError, Limits};
use crate::ignore::{self, IgnoreList};
use crate::manifest::{self, Manifest, ManifestError, parse_manifest};

const LEVEL: i32 = 3;
/// A folder with this file in it is a cache, by bford.info/cachedir.
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no rung.toml in {0}")]
    NoManifest(PathBuf),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(".rungignore: {0}")]
    Ignore(String),
    #[error("{0} is neither a file, a directory nor a symbolic link")]
    Special(PathBuf),
    #[error("the name of {0} is not UTF-8")]
    Name(PathBuf),
    #[error("{0} changed while it was read; pack again")]
    Changed(PathBuf),
    #[error(transparent)]
    Entry(#[from] ArchiveError),
    #[error(
        "the folder exceeds the limit of {limit} {what}; name what it does not need in .rungignore"
    )]
    TooLarge { what: &'static str, limit: u64 },
    #[error("cannot write the bundle: {0}")]
    Write(#[source] io::Error),
}

impl From<PackError> for Failure {
    fn from(error: PackError) -> Self {
        match error {
            PackError::Manifest(error) => error.into(),
            _ => Failure::new(Code::InvalidBundle, "the folder cannot be packed").because(error),
        }
    }
}

/// A bundle that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packed {
    pub digest: Digest,
    /// Compressed bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: usize,
    pub manifest: Manifest,
}

/// Packs `folder` into memory.
///
/// # Errors
/// See [`pack`].
pub fn pack_to_vec(folder: &Path, limits: &Limits) -> Result<(Packed, Vec<u8>), PackError> {
    let mut bytes = Vec::new();
    let packed = pack(folder, &mut bytes, limits)?;
    Ok((packed, bytes))
}

/// Packs `folder` into `out`.
///
/// # Errors
/// When the folder has no usable manifest, holds what a bundle cannot, or is
/// larger than the limits.
pub fn pack<W: Write>(folder: &Path, out: W, limits: &Limits) -> Result<Packed, PackError> {
    let manifest = read_manifest(folder)?;
    let ignore = read_ignore_list(folder)?;
    let mut found = Vec::new();
    collect(folder, "", &ignore, limits, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let hashing =
        Hashing { inner: out, hasher: blake3::Hasher::new(), bytes: 0, limit: limits.compressed };
    let encoder = zstd::Encoder::new(hashing, LEVEL).map_err(PackError::Write)?;
    let mut builder = tar::Builder::new(encoder);
    let mut total = 0u64;
    for entry in &found {
        total = total.saturating_add(entry.size).saturating_add(1024);
        if total > limits.decompressed {
            return Err(PackError::TooLarge { what: "bytes", limit: limits.decompressed });
        }
        append(&mut builder, folder, entry)?;
    }
    let finish = |builder: tar::Builder<zstd::Encoder<'_, Hashing<W>>>| {
        let mut hashing = builder.into_inner()?.finish()?;
        hashing.inner.flush()?;
        Ok(hashing)
    };
    let hashing = finish(builder).map_err(PackError::Write)?;
    if hashing.bytes > limits.compressed {
        return Err(PackError::TooLarge { what: "compressed bytes", limit: limits.compressed });
    }
    let digest = Digest(*hashing.hasher.finalize().as_bytes());
    Ok(Packed { digest, bytes: hashing.bytes, entries: found.len(), manifest })
}

fn read_manifest(folder: &Path) -> Result<Manifest, PackError> {
    let path = folder.join(manifest::FILE_NAME);
    match read_small(&path, manifest::MAX_BYTES)? {
        Some(text) => Ok(parse_manifest(&text)?),
        None => Err(PackError::NoManifest(folder.to_owned())),
    }
}

fn read_ignore_list(folder: &Path) -> Result<IgnoreList, PackError> {
    let standard = IgnoreList::standard();
    match read_small(&folder.join(ignore::FILE_NAME), 1024 * 1024)? {
        Some(text) => standard.with_file(&text).map_err(PackError::Ignore),
        None => Ok(standard),
    }
}

/// A small text file, one byte more than `max` at most; `None` if it is not there.
fn read_small(path: &Path, max: usize) -> Result<Option<String>, PackError> {
    let error = |source| PackError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(error(source)),
    };
    let mut text = String::new();
    file.take(max as u64 + 1).read_to_string(&mut text).map_err(error)?;
    Ok(Some(text))
}

struct Found {
    path: String,
    kind: FoundKind,
    size: u64,
}

enum FoundKind {
    Directory,
    File { executable: bool },
    Symlink { target: String },
}

/// Lists what is below `prefix`, which is a path relative to `folder`.
fn collect(
    folder: &Path,
    prefix: &str,
    ignore: &IgnoreList,
    limits: &Limits,
    found: &mut Vec<Found>,
) -> Result<(), PackError> {
    let directory = folder.join(prefix);
    let error = |path: &Path, source| PackError::Read { path: path.to_owned(), source };
    for entry in fs::read_dir(&directory).map_err(|e| error(&directory, e))? {
        let entry = entry.map_err(|e| error(&directory, e))?;
        let full = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(PackError::Name(full));
        };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let metadata = fs::symlink_metadata(&full).map_err(|e| error(&full, e))?;
        let is_directory = metadata.is_dir();
        if ignore.matches(&path, is_directory) || (is_directory && is_build_output(&full)) {
            continue;
        }
        archive::check_path(&path)?;
        if found.len() >= limits.entries {
            return Err(PackError::TooLarge { what: "entries", limit: limits.entries as u64 });
        }
        let (kind, size) = classify(&path, &full, &metadata)?;
        found.push(Found { path: path.clone(), kind, size });
        if is_directory {
            collect(folder, &path, ignore, limits, found)?;
        }
    }
    Ok(())
}

fn classify(
    path: &str,
    full: &Path,
    metadata: &fs::Metadata,
) -> Result<(FoundKind, u64), PackError> {
    use std::os::unix::fs::PermissionsExt;
    if metadata.is_dir() {
        return Ok((FoundKind::Directory, 0));
    }
    if metadata.is_symlink() {
        let target = fs::read_link(full)
            .map_err(|source| PackError::Read { path: full.to_owned(), source })?;
        let target = target.into_os_string().into_string();
        let target = target.map_err(|_| PackError::Name(full.to_owned()))?;
        archive::check_link(path, &target)?;
        return Ok((FoundKind::Symlink { target }, 0));
    }
    if metadata.is_file() {
        let executable = metadata.permissions().mode() & 0o111 != 0;
        return Ok((FoundKind::File { executable }, metadata.len()));
    }
    Err(PackError::Special(full.to_owned()))
}

/// Build output: a tagged cache directory, or cargo's `target`.
fn is_build_output(directory: &Path) -> bool {
    let is_target = directory.file_name().is_some_and(|name| name == "target")
        && directory.with_file_name("Cargo.toml").is_file();
    is_target || directory.join(CACHE_TAG).is_file()
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    folder: &Path,
    entry: &Found,
) -> Result<(), PackError> {
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(entry.size);
    match &entry.kind {
        FoundKind::Directory => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, &entry.path, io::empty()).map_err(PackError::Write)
        }
        FoundKind::Symlink { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, &entry.path, target).map_err(PackError::Write)
        }
        FoundKind::File { executable } => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            let full = folder.join(&entry.path);
            let file = File::open(&full)
                .map_err(|source| PackError::Read { path: full.clone(), source })?;
            let mut content = Counted { inner: file.take(entry.size), bytes: 0 };
            builder
                .append_data(&mut header, &entry.path, &mut content)
                .map_err(PackError::Write)?;
            // The header promised a size. A file that shrank would shift all
            // that follows it.
            if content.bytes == entry.size { Ok(()) } else { Err(PackError::Changed(full)) }
        }
    }
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }
}

struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
    limit: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if self.bytes > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;

//! Writes a bundle's files beneath a directory and nowhere else.
//!
//! [`crate::archive`] has already refused every name that leads outside. As a
//! second barrier files are created relative to directory handles that were
//! opened component by component without following links, in a new directory
//! that is renamed into place once all is on the disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::archive::{ArchiveError, Item, Limits, Summary, visit};

const DIRECTORY_MODE: u32 = 0o755;

/// Unpacks `bundle` into the new directory `target`. Its parent must exist.
/// Files get mode 0644 or 0755 and belong to the caller.
///
/// # Errors
/// When the archive is refused or cannot be written; nothing is left behind
/// then. A `target` that exists is an error.
pub fn unpack<R: Read>(bundle: R, target: &Path, limits: &Limits) -> Result<Summary, ArchiveError> {
    unpack_if(bundle, target, limits, |_| Ok(()))
}

/// Like [`unpack`], but asks `accept` about the reader's end state before the
/// directory gets its name.
pub(crate) fn unpack_if<R: Read>(
    mut bundle: R,
    target: &Path,
    limits: &Limits,
    accept: impl FnOnce(&mut R) -> Result<(), ArchiveError>,
) -> Result<Summary, ArchiveError> {
    let building = Building::create(target)?;
    let root = building.open()?;
    let summary = visit(&mut bundle, limits, &mut |item| write_item(&root, item))?;
    accept(&mut bundle)?;
    // One flush of the whole file system instead of one for each file: after a
    // power cut a release directory is either absent or complete.
    rustix::fs::syncfs(&root).map_err(|e| write_error(&building.path, e.into()))?;
    building.rename(target)?;
    Ok(summary)
}

fn write_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Write { path: path.display().to_string(), source }
}

/// A directory that disappears unless it is renamed.
struct Building {
    path: PathBuf,
    done: bool,
}

impl Building {
    fn create(target: &Path) -> Result<Self, ArchiveError> {
        use std::os::unix::fs::DirBuilderExt;
        let path = crate::store::temporary_beside(target);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| write_error(&path, e))?;
        Ok(Self { path, done: false })
    }

    fn open(&self) -> Result<OwnedFd, ArchiveError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::openat(CWD, &self.path, flags, Mode::empty())
            .map_err(|e| write_error(&self.path, e.into()))
    }

    fn rename(mut self, target: &Path) -> Result<(), ArchiveError> {
        let error = |e: Errno| write_error(target, e.into());
        rustix::fs::chmod(&self.path, Mode::from_raw_mode(DIRECTORY_MODE)).map_err(error)?;
        rustix::fs::renameat_with(CWD, &self.path, CWD, target, rustix::fs::RenameFlags::NOREPLACE)
            .map_err(error)?;
        self.done = true;
        crate::store::sync_parent(target).map_err(|e| write_error(target, e))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done {
            // What stays behind is removed when the store is opened again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn write_item(root: &OwnedFd, item: Item<'_>) -> Result<(), ArchiveError> {
    let path = match &item {
        Item::Directory { path } | Item::File { path, .. } | Item::Symlink { path, .. } => *path,
    };
    let error = |source: io::Error| write_error(Path::new(path), source);
    let (parent, name) = open_parent(root, path).map_err(|e| error(e.into()))?;
    match item {
        Item::Directory { .. } => {
            let mode = Mode::from_raw_mode(DIRECTORY_MODE);
            rustix::fs::mkdirat(&parent, name, mode).map_err(|e| error(e.into()))?;
            // The umask may have taken bits away that the app's user needs.
            rustix::fs::chmodat(&parent, name, mode, AtFlags::empty()).map_err(|e| error(e.into()))
        }
        Item::Symlink { target, .. } => {
            rustix::fs::symlinkat(target, &parent, name).map_err(|e| error(e.into()))
        }
        Item::File { executable, content, .. } => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
                .map_err(|e| error(e.into()))?;
            let mut file = File::from(fd);
            copy(content, &mut file, path)?;
            let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
            rustix::fs::fchmod(&file, mode).map_err(|e| error(e.into()))
        }
    }
}

/// Copies and tells a damaged bundle from a disk that does not take the bytes.
fn copy(content: &mut dyn Read, file: &mut File, path: &str) -> Result<(), ArchiveError> {
    use std::io::Write;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = content.read(&mut buffer).map_err(ArchiveError::Damaged)?;
        if count == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..count]).map_err(|e| write_error(Path::new(path), e))?;
    }
}

/// The directory that `path` is created in, reached without following a link.
fn open_parent<'a>(root: &OwnedFd, path: &'a str) -> Result<(OwnedFd, &'a str), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
    let mut directory = rustix::io::fcntl_dupfd_cloexec(root.as_fd(), 0)?;
    let mut rest = path;
    while let Some((first, after)) = rest.split_once('/') {
        directory = rustix::fs::openat(&directory, first, flags, Mode::empty())?;
        rest = after;
    }
    Ok((directory, rest))
}

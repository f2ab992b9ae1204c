//! What this crate does to files by itself, past SQLite.
//!
//! Reads go to the files directly. Everything that changes them goes through
//! here, so that a simulated power failure covers it as it covers SQLite.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
#[cfg(feature = "simulation")]
use std::sync::Arc;

#[cfg(feature = "simulation")]
use crate::simulation::Power;

/// A large file is given to the disk in steps of so many bytes. Left to the system,
/// gigabytes would be written at once by the sync at the end, and every other sync
/// of the machine, those of commits among them, would wait for that.
const STEP: u64 = 16 << 20;

/// Where the files of a database are: the system's disk, or a simulated one.
#[derive(Clone, Default)]
pub struct Disk {
    #[cfg(feature = "simulation")]
    power: Option<Arc<Power>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.vfs().unwrap_or("the system's disk"))
    }
}

/// A file that is written from its start to its end.
pub(crate) struct NewFile {
    file: File,
    /// Bytes since the last step.
    unwritten: u64,
    #[cfg(feature = "simulation")]
    at: u64,
    #[cfg(feature = "simulation")]
    simulated: Option<(Arc<Power>, std::path::PathBuf)>,
}

impl Disk {
    /// The system's disk.
    pub fn system() -> Disk {
        Disk::default()
    }

    /// A disk under this power.
    #[cfg(feature = "simulation")]
    pub fn simulated(power: Arc<Power>) -> Disk {
        Disk { power: Some(power) }
    }

    /// The VFS that SQLite must use on it, if not its own.
    pub(crate) fn vfs(&self) -> Option<&str> {
        #[cfg(feature = "simulation")]
        return self.power.as_ref().map(|power| power.vfs_name());
        #[cfg(not(feature = "simulation"))]
        None
    }

    /// Reads a small file; `None` if there is none.
    pub(crate) fn read(&self, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(most).read_to_end(&mut bytes).map(|_| Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a small file, so that after a power failure it is the old or the
    /// new one; if it shall be durable, the new one once this returns.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = self.create(&new)?;
        file.write_all(bytes)?;
        if durable {
            file.sync()?;
        }
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            power.rename(&new, path)?;
        }
        fs::rename(&new, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new(".")))
    }

    pub(crate) fn create(&self, path: &Path) -> io::Result<NewFile> {
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            power.truncate(path, 0)?;
        }
        Ok(NewFile {
            file: File::create(path)?,
            unwritten: 0,
            #[cfg(feature = "simulation")]
            at: 0,
            #[cfg(feature = "simulation")]
            simulated: self.power.clone().map(|power| (power, path.to_path_buf())),
        })
    }

    /// Opens a file to add to its first `bytes` bytes.
    pub(crate) fn resume(&self, path: &Path, bytes: u64) -> io::Result<NewFile> {
        self.cut(path, bytes)?;
        let mut file = File::options().write(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(NewFile {
            file,
            unwritten: 0,
            #[cfg(feature = "simulation")]
            at: bytes,
            #[cfg(feature = "simulation")]
            simulated: self.power.clone().map(|power| (power, path.to_path_buf())),
        })
    }

    /// Cuts a file, or makes an empty one.
    pub(crate) fn cut(&self, path: &Path, bytes: u64) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            power.truncate(path, bytes)?;
        }
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        file.set_len(bytes)
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            power.remove(path)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes the content of a file durable, through a handle on it.
    pub(crate) fn sync(&self, _path: &Path, file: &File) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            return power.sync(_path);
        }
        file.sync_all()
    }

    /// Makes names in a directory durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some(power) = &self.power {
            return power.sync_dir();
        }
        File::open(dir)?.sync_all()
    }
}

impl NewFile {
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if let Some((power, path)) = &self.simulated {
            return power.sync(path);
        }
        self.file.sync_all()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(feature = "simulation")]
        if let Some((power, path)) = &self.simulated {
            power.write(path, self.at, bytes)?;
            self.file.write_all(bytes)?;
            self.at += bytes.len() as u64;
            return Ok(bytes.len());
        }
        let written = self.file.write(bytes)?;
        self.unwritten += written as u64;
        if self.unwritten >= STEP {
            self.unwritten = 0;
            self.file.sync_data()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! The disk under the log: real files, or a simulated disk that loses, tears
//! and refuses as real ones do.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

mod real;
mod sim;

pub use real::RealDisk;
pub use sim::{Faults, SimDisk};

/// Files and directories, as far as a log needs them.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and those above it.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock file at `path` until the result is dropped. Fails with
    /// [`io::ErrorKind::WouldBlock`] if another process or another holder has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Makes a file of `bytes` zeros with all its blocks allocated, in place of
    /// one that may be there. Nothing is left behind if there is no room.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of the files in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file; those who have it open can go on reading.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes what was created, renamed and deleted in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// A number that no other log has.
    fn fresh_id(&self) -> u64;
}

/// An open file. Positions are in bytes from its start.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `buffer` from `offset`; fails with
    /// [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// The length of the file.
    fn bytes(&self) -> io::Result<u64>;
}

//! Real files.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

use super::{Disk, DiskFile};

/// The files of this machine. Other users cannot read them: apps run under
/// other ids on the same machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const STEP_BYTES: u64 = 4 << 20;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir)?;
        // One that was there before may be open to others.
        fs::set_permissions(dir, fs::Permissions::from_mode(DIRECTORY_MODE))?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => Ok(()),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(FILE_MODE);
        let file = options.open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true).mode(FILE_MODE);
        let file = options.open(path)?;
        match allocate(&file, bytes) {
            Ok(()) => Ok(Arc::new(file)),
            Err(error) => {
                fs::remove_file(path)?;
                Err(error)
            }
        }
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn fresh_id(&self) -> u64 {
        RandomState::new().hash_one(std::process::id())
    }
}

/// Reserves the blocks first, so that a full disk shows before anything is
/// written, then writes zeros, because a sync into blocks that were reserved
/// and never written has to update the file system's own records each time.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    // In steps, or the syncs of the log would wait behind all of it.
    let mut offset = 0;
    while offset < bytes {
        let step = (bytes - offset).min(STEP_BYTES);
        for start in (offset..offset + step).step_by(ZEROS.len()) {
            let count = (offset + step - start).min(ZEROS.len() as u64);
            file.write_all_at(&ZEROS[..count as usize], start)?;
        }
        file.sync_data()?;
        offset += step;
    }
    file.sync_all()
}

impl DiskFile for File {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

//! The simulated disk of one life of a node.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rung_wal::disk::{Disk, DiskFile, SimDisk};

/// Snapshots of the simulation are smaller than this.
const SNAPSHOT_BYTES: u64 = 16 << 10;

/// A node's disk until the node crashes. The tasks of a crashed node run on for
/// a moment and must not touch the files of its next life.
#[derive(Debug)]
pub(super) struct LifeDisk {
    pub disk: SimDisk,
    pub alive: Arc<AtomicBool>,
    /// Makes every file as large as any snapshot, because files of the simulated
    /// disk do not grow. What follows the end of a snapshot is not read.
    pub for_snapshots: bool,
}

impl LifeDisk {
    fn disk(&self) -> io::Result<&SimDisk> {
        if self.alive.load(Ordering::Relaxed) {
            Ok(&self.disk)
        } else {
            Err(io::Error::other("the node has crashed"))
        }
    }
}

impl Disk for LifeDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk()?.create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk()?.lock(path)
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.disk()?.create(path, if self.for_snapshots { SNAPSHOT_BYTES } else { bytes })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk()?.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk()?.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk()?.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk()?.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk()?.sync_dir(dir)
    }

    fn fresh_id(&self) -> u64 {
        self.disk.fresh_id()
    }
}

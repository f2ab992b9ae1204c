//! A simulated disk for the snapshots that a group receives.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rung_wal::disk::{Disk, DiskFile, SimDisk};

/// Databases of the simulation are smaller than this.
const SNAPSHOT_BYTES: u64 = 2 << 20;

/// Makes every file as large as any snapshot, because files of the simulated disk do
/// not grow. What follows the end of a snapshot is not read.
#[derive(Debug)]
pub struct SnapshotDisk(pub SimDisk);

impl Disk for SnapshotDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.0.lock(path)
    }

    fn create(&self, path: &Path, _bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path, SNAPSHOT_BYTES)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn fresh_id(&self) -> u64 {
        self.0.fresh_id()
    }
}

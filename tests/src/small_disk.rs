//! A file system of its own for a node, which can be filled.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, gone when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one on a new directory, if this user may; says so if not.
    ///
    /// # Panics
    /// When the directory cannot be made.
    pub fn mount(place: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir(place).expect("a directory to mount on");
        let options = format!("size={mebibytes}m,mode=0711");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place);
        if mount.output().is_ok_and(|mounted| mounted.status.success()) {
            return Some(Self { place: place.to_owned() });
        }
        eprintln!("not run: mounting a file system needs root");
        None
    }

    fn filler(&self) -> PathBuf {
        self.place.join("filler")
    }

    /// Leaves no byte free.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file");
        for size in [1 << 20, 4 << 10, 1] {
            let piece = vec![0; size];
            while filler.write_all(&piece).is_ok() {}
        }
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("the file that fills the disk");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still uses it keeps it until then.
        let gone = Command::new("umount").arg("--lazy").arg(&self.place).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.place.display());
        }
    }
}

//! The data directory: who holds it, what version wrote it, what is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rung_proto::{Code, Failure, Incarnation, NodeId};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::options::Settings;

/// The layout that this build reads and writes.
const FORMAT: u32 = 1;

/// What makes a data directory a node's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeFile {
    pub node: NodeId,
    pub settings: Settings,
    /// Set once the node belongs to a cluster.
    pub joined: bool,
    /// The seed that the node began to join by, until it has joined.
    #[serde(default)]
    pub joining: Option<String>,
}

/// A data directory that this process holds until it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked for as long as the process lives.
    _lock: File,
}

/// A failure of the file system, as a person should read it.
pub fn disk_failure(what: &str, path: &Path, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
        _ => Code::DiskFailed,
    };
    let failure = Failure::new(code, format!("{what} failed"))
        .because(format!("{}: {error}", path.display()));
    match code {
        Code::DiskFull => failure.next("free space on that file system, then start again"),
        _ => failure.next("check that the path is right and writable by this user"),
    }
}

impl DataDir {
    /// Takes the directory, making it if it is not there.
    ///
    /// # Errors
    /// When another process holds it, a newer Rung wrote it, or the disk fails.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut builder = fs::DirBuilder::new();
        // Apps run as other users and pass through here; what is private below is
        // closed to them by itself.
        builder.recursive(true).mode(0o711);
        builder
            .create(path)
            .map_err(|error| disk_failure("making the data directory", path, &error))?;
        let path = path
            .canonicalize()
            .map_err(|error| disk_failure("opening the data directory", path, &error))?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| disk_failure("opening the lock file", &lock_path, &error))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Failure::new(
                Code::DataInUse,
                format!("{} is used by another rungd", path.display()),
            )
            .next("stop that one, or give this one its own --data"));
        }
        let directory = Self { path, _lock: lock };
        directory.check_format()?;
        Ok(directory)
    }

    fn check_format(&self) -> Result<(), Failure> {
        let Some(found) = self.read_json::<u32>("format")? else {
            self.refuse_foreign()?;
            return self.write_json("format", &FORMAT);
        };
        if found > FORMAT {
            return Err(Failure::new(
                Code::DataNewer,
                format!("{} was written by a newer Rung", self.path.display()),
            )
            .because(format!("its format is {found}, this build knows up to {FORMAT}"))
            .next("start it with that version or a newer one; nothing was changed"));
        }
        Ok(())
    }

    /// Refuses a directory without a format that holds something: it is somebody
    /// else's, or lost a part of itself. Only what may stand beside a node's data
    /// before its first start is taken for nothing.
    fn refuse_foreign(&self) -> Result<(), Failure> {
        let read =
            |error: io::Error| disk_failure("reading the data directory", &self.path, &error);
        for entry in fs::read_dir(&self.path).map_err(read)? {
            let name = entry.map_err(read)?.file_name();
            let name = name.to_string_lossy();
            let beside = matches!(&*name, "lock" | "format.new" | "lost+found");
            if !beside && !name.starts_with("rungd.") {
                return Err(Failure::new(
                    Code::Config,
                    format!("{} is not a data directory of Rung", self.path.display()),
                )
                .because(format!("it holds {name:?} and no file named format"))
                .next("give an empty directory, or restore the lost files; nothing was changed"));
            }
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory that only this user may enter.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make_private_dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let path = self.join(name);
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&path);
        made.map_err(|error| disk_failure("making a directory", &path, &error))?;
        Ok(path)
    }

    /// A path in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a JSON file, if it is there.
    ///
    /// # Errors
    /// When it cannot be read or is not what it should be.
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let path = self.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk_failure("reading", &path, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Failure::new(Code::DataCorrupt, format!("{} is damaged", path.display()))
                .because(error)
                .next("restore the data directory, or join as a new node with an empty one")
        })
    }

    /// Replaces a JSON file so that a crash leaves the old or the new one.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(value).map_err(|error| {
            Failure::new(Code::Internal, format!("{name} cannot be encoded")).because(error)
        })?;
        self.write_private(name, &bytes)
    }

    /// Replaces a file that only this user may read.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.join(name);
        let replaced = replace_file(&path, bytes);
        replaced.map_err(|error| disk_failure("writing", &path, &error))
    }

    /// Removes a file; it may not be there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.join(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(disk_failure("removing", &path, &error)),
        }
    }

    /// What this directory is known as, if it was used before.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn node_file(&self) -> Result<Option<NodeFile>, Failure> {
        self.read_json("node.json")
    }

    /// Counts this start. The number is on the disk before it is used.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn next_incarnation(&self) -> Result<Incarnation, Failure> {
        let last: u64 = self.read_json("incarnation")?.unwrap_or(0);
        self.write_json("incarnation", &(last + 1))?;
        Ok(Incarnation(last + 1))
    }
}

fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_use_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let held = DataDir::open(place.path()).unwrap();
        assert_eq!(DataDir::open(place.path()).unwrap_err().code, Code::DataInUse);
        drop(held);
        assert!(DataDir::open(place.path()).is_ok());
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("format"), "99").unwrap();
        assert_eq!(DataDir::open(place.path()).unwrap_err().code, Code::DataNewer);
        assert_eq!(fs::read(place.path().join("format")).unwrap(), b"99");
    }

    #[test]
    fn a_directory_of_something_else_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("secrets")).unwrap();
        fs::write(place.path().join("secrets/mine"), "x").unwrap();
        assert_eq!(DataDir::open(place.path()).unwrap_err().code, Code::Config);
        assert_eq!(fs::read(place.path().join("secrets/mine")).unwrap(), b"x");
    }

    #[test]
    fn each_start_counts() {
        let place = tempfile::tempdir().unwrap();
        let directory = DataDir::open(place.path()).unwrap();
        assert_eq!(directory.next_incarnation().unwrap(), Incarnation(1));
        assert_eq!(directory.next_incarnation().unwrap(), Incarnation(2));
    }
}

//! Parts of a commit that came before its last one, in a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, NewFile};
use crate::entry::MAX_PART_BYTES;
use crate::position::Position;

/// The parts so far of one commit. They become durable only with a checkpoint:
/// until then the log gives them again after a crash.
pub(crate) struct Spool {
    dir: PathBuf,
    /// Of the main file that the parts are for.
    number: u64,
    disk: Disk,
    file: Option<NewFile>,
    pub pending: Option<Pending>,
    /// Bytes of the file.
    pub bytes: u64,
    /// The file that the durable marker names must stay: its `first_index`.
    pub marked: Option<u64>,
}

/// Which parts there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The position after the commit.
    pub target: Position,
    /// Parts so far.
    pub parts: u32,
    /// The log index of the first one; it names the file.
    pub first_index: u64,
}

impl Spool {
    pub fn new(dir: PathBuf, number: u64, disk: Disk) -> Spool {
        Spool { dir, number, disk, file: None, pending: None, bytes: 0, marked: None }
    }

    /// Takes up the parts that a marker names.
    pub fn resume(&mut self, pending: Pending, bytes: u64) -> io::Result<()> {
        let path = self.path(pending.first_index);
        if std::fs::metadata(&path)?.len() < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file = Some(self.disk.resume(&path, bytes)?);
        (self.pending, self.bytes) = (Some(pending), bytes);
        self.marked = Some(pending.first_index);
        Ok(())
    }

    pub fn path(&self, first_index: u64) -> PathBuf {
        self.dir.join(format!("parts-{}-{first_index}", self.number))
    }

    /// The directory of the files, for messages.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Says what has been decided about which parts are kept.
    pub fn set(&mut self, pending: Option<Pending>) {
        let replaced =
            self.pending.filter(|old| pending.is_none_or(|new| new.first_index != old.first_index));
        if let Some(old) = replaced.filter(|old| self.marked != Some(old.first_index)) {
            // What could not be removed is removed by the next start.
            let _ = self.disk.remove(&self.path(old.first_index));
        }
        self.pending = pending;
        if pending.is_none() {
            (self.file, self.bytes) = (None, 0);
        }
    }

    /// Adds a part to the file named by the index of the first one; the first one
    /// begins the file anew.
    pub fn add(&mut self, part: u32, first_index: u64, bytes: &[u8]) -> io::Result<()> {
        if part == 0 {
            self.file = Some(self.disk.create(&self.path(first_index))?);
            self.bytes = 0;
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let mut record = Vec::with_capacity(bytes.len() + 4);
        record.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(bytes);
        file.write_all(&record)?;
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Makes the parts durable.
    pub fn sync(&self) -> io::Result<()> {
        match (&self.file, self.pending) {
            (Some(file), Some(_)) => file.sync(),
            _ => Ok(()),
        }
    }

    /// Reads so many parts in order.
    pub fn read(&self, first_index: u64, parts: u32) -> io::Result<SpoolReader> {
        let file = File::open(self.path(first_index))?;
        Ok(SpoolReader { file: BufReader::new(file), left: parts })
    }
}

pub(crate) struct SpoolReader {
    file: BufReader<File>,
    left: u32,
}

impl SpoolReader {
    /// The next part.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PART_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }
}

//! Parts of a commit that came before its last one, in a file.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::entry::MAX_PART_BYTES;
use crate::position::Position;

/// The parts so far of one commit. The file needs no sync: after a crash the log
/// gives the parts again.
pub(crate) struct Spool {
    path: PathBuf,
    file: Option<File>,
    pub pending: Option<Pending>,
}

/// Which parts there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pending {
    /// The position after the commit.
    pub target: Position,
    /// Parts so far.
    pub parts: u32,
    /// Of the first one.
    pub first_index: u64,
}

impl Spool {
    pub fn new(path: PathBuf) -> Spool {
        Spool { path, file: None, pending: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets the parts.
    pub fn clear(&mut self) {
        if self.pending.take().is_some() || self.file.is_some() {
            self.file = None;
            // What could not be removed is overwritten by the next commit.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Adds a part; the first one replaces what there was.
    pub fn add(&mut self, first: bool, bytes: &[u8]) -> io::Result<()> {
        if first {
            self.file = Some(File::options().create(true).truncate(true).write(true).open(&self.path)?);
        }
        let file = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(&(bytes.len() as u32).to_le_bytes())?;
        file.write_all(bytes)
    }

    /// Reads so many parts in order.
    pub fn read(&self, parts: u32) -> io::Result<SpoolReader> {
        Ok(SpoolReader { file: BufReader::new(File::open(&self.path)?), left: parts })
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

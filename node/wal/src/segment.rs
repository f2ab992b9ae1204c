//! Segment files: `<number in 16 hexadecimal digits>.wal`.
//!
//! | offset | what |
//! | --- | --- |
//! | 0 | the preamble: magic, version, checksum, log id, segment number |
//! | 4096 | the head: a manifest of older segments, an image of every group, copies of entries, a mark that the head is complete; all with batch number zero |
//! | behind | batches: a batch record, then what was written, then the next one |
//!
//! A segment gets its name only when its head is on the disk, and it is started
//! only when all of the previous one is. So everything up to the end that a
//! later manifest gives is known to have been on the disk, and the last segment
//! alone says what the state of every group is; older ones are only looked
//! through for entries. That is why they can be deleted in any order.
//!
//! A write that the disk refused for want of space is abandoned: the start of its
//! batch is overwritten with zeros and synced, and the next batch goes to the same
//! offset under a higher number. What the abandoned one left behind it has a lower
//! number and is never taken for a continuation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rung_proto::GroupId;

use crate::disk::{Disk, DiskFile};
use crate::group::Image;
use crate::record::{self, OlderSegment, Position, Record, Run, Seed};

/// The version of the format that this program writes.
pub const FORMAT_VERSION: u32 = 1;
/// Where the head starts.
pub const PREAMBLE_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"rung-wal";
const PREAMBLE_USED: usize = 32;

/// What a segment file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Which log it belongs to, a random number.
    pub log_id: u64,
    /// Its own number.
    pub segment: u64,
}

/// Why the preamble of a segment cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// It is not one, or it is damaged.
    #[error("the preamble of the segment is damaged")]
    Damaged,
    /// It is one of a version that this program does not know.
    #[error("the segment has format version {0}, newer than {FORMAT_VERSION}")]
    Newer(u32),
}

impl Preamble {
    fn encode(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.to_le_bytes());
        let checksum = preamble_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the preamble at the start of a segment. Total.
    pub fn decode(bytes: &[u8]) -> Result<Self, PreambleError> {
        let used: &[u8; PREAMBLE_USED] = bytes.first_chunk().ok_or(PreambleError::Damaged)?;
        let word =
            |at: usize| u32::from_le_bytes([used[at], used[at + 1], used[at + 2], used[at + 3]]);
        let number = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if used[0..8] != MAGIC || word(12) != preamble_checksum(used) {
            return Err(PreambleError::Damaged);
        }
        match word(8) {
            FORMAT_VERSION => Ok(Self { log_id: number(16), segment: number(24) }),
            newer if newer > FORMAT_VERSION => Err(PreambleError::Newer(newer)),
            _ => Err(PreambleError::Damaged),
        }
    }
}

fn preamble_checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[0..12]);
    hasher.update(&bytes[16..PREAMBLE_USED]);
    hasher.finalize()
}

/// The file of a segment.
pub(crate) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.wal"))
}

/// The name that a segment file has until its head is on the disk.
pub(crate) fn unfinished_path(dir: &Path) -> PathBuf {
    dir.join("next.tmp")
}

/// The name of a segment file made in advance.
pub(crate) fn spare_path(dir: &Path) -> PathBuf {
    dir.join("spare.tmp")
}

/// The name of the file of a former segment that waits to become another one.
pub(crate) fn reused_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.tmp"))
}

/// The name under which a damaged segment is kept for people to look at.
pub(crate) fn damaged_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.damaged"))
}

/// The number and the extension in the name of a file of the log.
pub(crate) fn parse_name(name: &str) -> Option<(u64, &str)> {
    let (stem, extension) = name.split_once('.')?;
    let plain = stem.len() == 16 && stem.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(stem, 16).ok()).flatten().map(|id| (id, extension))
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// The same file opened a second time, if it is the current segment. A write
    /// that fails behind our back is reported once to each opening: two syncs at
    /// the same time through one would leave it open which of them is told.
    pub twin: Arc<dyn DiskFile>,
    pub seed: Seed,
    /// The length of the file.
    pub bytes: u64,
    /// Where its records end; for the current one where the next batch goes.
    pub end: u64,
    /// How many entries in it are still part of a group's log.
    pub live: u64,
    /// How many bytes these take.
    pub live_bytes: u64,
    /// Part of it is damaged: it is kept under another name when it is freed.
    pub damaged: bool,
    /// A record that it may be deleted is under way.
    pub freeing: bool,
}

/// The first bytes of a new segment, in the making.
pub(crate) struct HeadWriter {
    pub out: Vec<u8>,
    seed: Seed,
}

impl HeadWriter {
    pub fn new(log_id: u64, id: u64, older: Vec<OlderSegment>, damage: Option<Position>) -> Self {
        let out = Preamble { log_id, segment: id }.encode().to_vec();
        let mut writer = Self { out, seed: Seed::new(log_id, id) };
        writer.push(&Record::Manifest { older, damage });
        writer
    }

    pub fn image(&mut self, group: GroupId, image: &Image, runs: Vec<Run>) {
        self.push(&Record::Image { group, image: image.clone(), runs });
    }

    /// Adds a record; returns its offset and length.
    pub fn push(&mut self, record: &Record<'_>) -> (u64, usize) {
        let offset = self.out.len() as u64;
        let bytes = record::encode(&mut self.out, 0, self.seed, 0, record);
        (offset, bytes)
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.push(&Record::HeadEnd);
        self.out
    }
}

/// What failed, on which file, and how.
pub(crate) type Failure = (&'static str, PathBuf, io::Error);

/// Makes a file of zeros that will become a segment by [`finish`].
pub(crate) fn create(
    disk: &dyn Disk,
    path: &Path,
    bytes: u64,
) -> Result<Arc<dyn DiskFile>, Failure> {
    disk.create(path, bytes).map_err(|error| ("create", path.to_owned(), error))
}

/// Writes the head of a segment and gives it its name; all of it is on the disk
/// afterwards. Returns the file and its twin: see [`Segment::twin`].
pub(crate) fn finish(
    disk: &dyn Disk,
    dir: &Path,
    id: u64,
    (from, file): (&Path, Arc<dyn DiskFile>),
    head: &[u8],
) -> Result<[Arc<dyn DiskFile>; 2], Failure> {
    let failed = |what| move |error| (what, from.to_owned(), error);
    file.write_at(0, head).map_err(failed("write"))?;
    file.sync().map_err(failed("sync"))?;
    let path = path(dir, id);
    disk.rename(from, &path).map_err(failed("rename"))?;
    disk.sync_dir(dir).map_err(|error| ("sync", dir.to_owned(), error))?;
    let twin = disk.open(&path).map_err(|error| ("open", path, error))?;
    Ok([file, twin])
}

/// Deletes a segment that nobody needs, or keeps it aside if it is damaged.
pub(crate) fn remove(disk: &dyn Disk, dir: &Path, id: u64, damaged: bool) -> io::Result<()> {
    let path = path(dir, id);
    if damaged {
        disk.rename(&path, &damaged_path(dir, id))?;
    } else {
        disk.remove(&path)?;
    }
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preamble_reads_back_and_any_flipped_bit_is_noticed() {
        let preamble = Preamble { log_id: 7, segment: 9 };
        let bytes = preamble.encode();
        assert_eq!(Preamble::decode(&bytes), Ok(preamble));
        for bit in 0..PREAMBLE_USED * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Preamble::decode(&flipped), Err(PreambleError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = Preamble { log_id: 7, segment: 9 }.encode();
        bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        let checksum = preamble_checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(Preamble::decode(&bytes), Err(PreambleError::Newer(FORMAT_VERSION + 1)));
    }

    #[test]
    fn file_names_read_back() {
        let name = path(Path::new(""), 0x1f).display().to_string();
        assert_eq!(name, "000000000000001f.wal");
        assert_eq!(parse_name(&name), Some((0x1f, "wal")));
        assert_eq!(parse_name("lock"), None);
        assert_eq!(parse_name("+00000000000001f.wal"), None);
    }
}

//! SQLite's `-wal` file, as documented in "WAL-mode File Format": a header of 32
//! bytes, then frames of 24 bytes and a page each.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::page::{PAGE_BYTES, page_offset};

pub(crate) const HEADER_BYTES: u64 = 32;
pub(crate) const FRAME_BYTES: u64 = 24 + PAGE_BYTES as u64;
/// Frames that are read at once.
const RUN: u64 = 64;

/// Two random numbers that the header and every frame of one filling of the file
/// carry.
pub(crate) type Salts = [u8; 8];

/// Where an image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// In this frame of the `-wal`, counted from 1.
    Frame(u32),
    /// In the main file, or nowhere: all zero.
    Main,
}

/// What commits have changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// Pages of the database before.
    pub size_before: u32,
    /// Pages of the database after.
    pub size_after: u32,
    /// The pages in new frames: the newest frame, and where the image before is.
    pub pages: BTreeMap<u32, (u32, Place)>,
}

/// Where the newest image of every page is.
pub(crate) struct WalIndex {
    newest: HashMap<u32, u32>,
    /// Frames that are known.
    pub frames: u32,
    /// Of this filling; meaningless while there are no frames.
    pub salts: Salts,
    /// Pages of the database.
    pub size: u32,
}

/// The two files, for reading.
pub(crate) struct Images {
    pub main: File,
    pub wal: File,
}

impl WalIndex {
    /// Of an empty `-wal`.
    pub fn empty(size: u32) -> WalIndex {
        WalIndex { newest: HashMap::new(), frames: 0, salts: [0; 8], size }
    }

    pub fn place(&self, page: u32) -> Place {
        self.newest.get(&page).map_or(Place::Main, |&frame| Place::Frame(frame))
    }

    /// The pages that are in the `-wal`.
    pub fn pages(&self) -> impl Iterator<Item = u32> + '_ {
        self.newest.keys().copied()
    }

    /// Takes in the frames up to `frames`, whose last one ends a commit.
    pub fn absorb(&mut self, wal: &File, frames: u32) -> io::Result<Change> {
        let salts = if self.frames == 0 { read_salts(wal)? } else { self.salts };
        let (newest, size_after) = self.scan(wal, frames, salts)?;
        let mut change = Change { size_before: self.size, size_after, pages: BTreeMap::new() };
        for (page, frame) in newest {
            let before = self.newest.insert(page, frame).map_or(Place::Main, Place::Frame);
            change.pages.insert(page, (frame, before));
        }
        (self.frames, self.salts, self.size) = (frames, salts, size_after);
        Ok(change)
    }

    fn scan(&self, wal: &File, frames: u32, salts: Salts) -> io::Result<(BTreeMap<u32, u32>, u32)> {
        let mut newest = BTreeMap::new();
        let mut size = 0;
        let mut at = u64::from(self.frames);
        let longest = RUN.min(u64::from(frames).saturating_sub(at));
        let mut run = vec![0; (longest * FRAME_BYTES) as usize];
        while at < u64::from(frames) {
            let count = RUN.min(u64::from(frames) - at);
            let bytes = &mut run[..(count * FRAME_BYTES) as usize];
            wal.read_exact_at(bytes, HEADER_BYTES + at * FRAME_BYTES)?;
            for frame in bytes.chunks_exact(FRAME_BYTES as usize) {
                at += 1;
                if frame[8..16] != salts {
                    return Err(unexpected(format!("frame {at} is of another filling")));
                }
                newest.insert(be32(&frame[..4]), at as u32);
                size = be32(&frame[4..8]);
            }
        }
        if size == 0 || newest.contains_key(&0) {
            return Err(unexpected(format!("frame {frames} does not end a commit")));
        }
        Ok((newest, size))
    }
}

impl Images {
    /// Reads one image, or several that follow each other in the main file. Beyond the end of the main file pages are all zero.
    pub fn read(&self, page: u32, place: Place, image: &mut [u8]) -> io::Result<()> {
        match place {
            Place::Frame(frame) => {
                let start = HEADER_BYTES + u64::from(frame - 1) * FRAME_BYTES;
                self.wal.read_exact_at(image, start + 24)
            }
            Place::Main => read_or_zero(&self.main, page_offset(page), image),
        }
    }
}

fn read_or_zero(file: &File, offset: u64, mut image: &mut [u8]) -> io::Result<()> {
    let mut at = offset;
    while !image.is_empty() {
        match file.read_at(image, at) {
            Ok(0) => {
                image.fill(0);
                return Ok(());
            }
            Ok(read) => {
                at += read as u64;
                image = &mut image[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_salts(wal: &File) -> io::Result<Salts> {
    let mut header = [0; HEADER_BYTES as usize];
    wal.read_exact_at(&mut header, 0)?;
    let mut salts = [0; 8];
    salts.copy_from_slice(&header[16..24]);
    Ok(salts)
}

/// Checks that the file holds `frames` frames of this filling, with right
/// checksums, the last of which ends a commit.
///
/// # Errors
/// `InvalidData` says what is wrong; others are of the disk.
pub(crate) fn validate(wal: &File, salts: Salts, frames: u32) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES as usize];
    wal.read_exact_at(&mut header, 0).map_err(cut)?;
    let big_endian = match be32(&header[..4]) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        other => return Err(unexpected(format!("it begins with {other:#x}"))),
    };
    let mut sum = checksum(big_endian, [0, 0], &header[..24]);
    if header[16..24] != salts || read_sum(&header[24..]) != sum {
        return Err(unexpected("its header is of another filling".to_owned()));
    }
    let mut frame = vec![0; FRAME_BYTES as usize];
    for number in 1..=u64::from(frames) {
        wal.read_exact_at(&mut frame, HEADER_BYTES + (number - 1) * FRAME_BYTES).map_err(cut)?;
        sum = checksum(big_endian, checksum(big_endian, sum, &frame[..8]), &frame[24..]);
        if frame[8..16] != salts || read_sum(&frame[16..24]) != sum {
            return Err(unexpected(format!("frame {number} of {frames} has a wrong checksum")));
        }
    }
    if frames == 0 || be32(&frame[4..8]) == 0 {
        return Err(unexpected(format!("frame {frames} does not end a commit")));
    }
    Ok(())
}

fn checksum(big_endian: bool, [mut one, mut two]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let word = |bytes: &[u8]| if big_endian { be32(bytes) } else { be32(bytes).swap_bytes() };
    for pair in bytes.chunks_exact(8) {
        one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
        two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
    }
    [one, two]
}

fn read_sum(bytes: &[u8]) -> [u32; 2] {
    [be32(&bytes[..4]), be32(&bytes[4..8])]
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => unexpected("it is shorter than it was".to_owned()),
        _ => error,
    }
}

fn unexpected(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

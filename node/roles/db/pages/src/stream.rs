//! A whole copy as a stream of bytes.
//!
//! A header with its checksum; the pages, ascending; the kept parts of an
//! unfinished commit, each with its length; an end mark with a hash over
//! everything before it. DESIGN.md has the layout.

use std::io::{self, Read};

use crate::entry::{MAX_PART_BYTES, MAX_PARTS};
use crate::error::PagesError;
use crate::page::PAGE_BYTES;
use crate::position::{POSITION_BYTES, Position};
use crate::spool::Pending;

const MAGIC: &[u8; 8] = b"rungsnap";
pub(crate) const END: &[u8; 8] = b"rungsend";
const VERSION: u32 = 1;
/// Pages that are handed on at once.
pub(crate) const CHUNK: u32 = 32;
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 4 + 2 * POSITION_BYTES + 8 + 4 + 4 + 8 + 4;

/// What a snapshot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The position of the copy.
    pub position: Position,
    /// The last log index that was applied.
    pub log_index: u64,
    /// Pages of the database.
    pub size: u32,
    /// Parts of a commit whose last part has not come.
    pub parts: Option<Pending>,
}

/// A piece of a snapshot.
pub(crate) enum Piece<'a> {
    Header(&'a SnapshotHeader),
    /// The next pages.
    Pages(&'a [u8]),
    /// A kept part, by its number.
    Part(u32, &'a [u8]),
}

impl SnapshotHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let none = Pending { target: Position::default(), parts: 0, first_index: 0 };
        let pending = self.parts.unwrap_or(none);
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        self.position.encode(&mut out);
        pending.target.encode(&mut out);
        out.extend_from_slice(&self.log_index.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&pending.parts.to_le_bytes());
        out.extend_from_slice(&pending.first_index.to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<SnapshotHeader, PagesError> {
        let (body, sum) = bytes.split_at(HEADER_BYTES - 4);
        if body[..8] != *MAGIC || sum != crc32fast::hash(body).to_le_bytes() {
            return Err(damaged("it does not begin with the header of a snapshot"));
        }
        let version = u32::from_le_bytes(field(body, 8));
        if version != VERSION {
            let what = format!("its version is {version}, this program reads {VERSION}");
            return Err(damaged(&what));
        }
        if u32::from_le_bytes(field(body, 12)) != PAGE_BYTES as u32 {
            return Err(damaged("its pages have another size"));
        }
        let rest = 16 + 2 * POSITION_BYTES;
        let parts = u32::from_le_bytes(field(body, rest + 12));
        let pending = Pending {
            target: Position::decode(&field(body, 16 + POSITION_BYTES)),
            parts,
            first_index: u64::from_le_bytes(field(body, rest + 16)),
        };
        let header = SnapshotHeader {
            position: Position::decode(&field(body, 16)),
            log_index: u64::from_le_bytes(field(body, rest)),
            size: u32::from_le_bytes(field(body, rest + 8)),
            parts: (parts > 0).then_some(pending),
        };
        if header.size == 0 || header.size == u32::MAX || parts >= MAX_PARTS {
            return Err(damaged("its number of pages or parts cannot be right"));
        }
        Ok(header)
    }
}

/// Checks a snapshot as [`crate::PageStore::restore`] does, without keeping it. Any
/// bytes may be given.
///
/// # Errors
/// [`PagesError::Snapshot`], or the source failed.
pub fn check_snapshot(source: &mut dyn Read) -> Result<SnapshotHeader, PagesError> {
    read_stream(source, &mut |_| Ok(()))
}

/// Reads a snapshot and hands on its pieces. Only when it returns have they been
/// proven to be what was sent.
pub(crate) fn read_stream(
    source: &mut dyn Read,
    keep: &mut dyn FnMut(Piece<'_>) -> Result<(), PagesError>,
) -> Result<SnapshotHeader, PagesError> {
    let mut hasher = blake3::Hasher::new();
    let mut read = |bytes: &mut [u8]| -> Result<(), PagesError> {
        source.read_exact(bytes).map_err(cut)?;
        hasher.update(bytes);
        Ok(())
    };
    let mut bytes = [0; HEADER_BYTES];
    read(&mut bytes)?;
    let header = SnapshotHeader::decode(&bytes)?;
    keep(Piece::Header(&header))?;
    let mut chunk = vec![0; CHUNK as usize * PAGE_BYTES];
    let mut page = 1;
    while page <= header.size {
        let pages = CHUNK.min(header.size - page + 1);
        let images = &mut chunk[..pages as usize * PAGE_BYTES];
        read(images)?;
        keep(Piece::Pages(images))?;
        page += pages;
    }
    for part in 0..header.parts.map_or(0, |pending| pending.parts) {
        let mut length = [0; 4];
        read(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PART_BYTES {
            return Err(damaged("a part is longer than parts are"));
        }
        let mut bytes = vec![0; length];
        read(&mut bytes)?;
        keep(Piece::Part(part, &bytes))?;
    }
    let hash = *hasher.finalize().as_bytes();
    let mut end = [0; 40];
    source.read_exact(&mut end).map_err(cut)?;
    if end[..8] != *END || end[8..] != hash {
        return Err(damaged("its end does not fit what came before"));
    }
    Ok(header)
}

fn cut(error: io::Error) -> PagesError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => PagesError::Snapshot(format!("reading it failed: {error}")),
    }
}

fn damaged(what: &str) -> PagesError {
    PagesError::Snapshot(what.to_owned())
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

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
    let mut decoder = StreamDecoder::new();
    let mut bytes = Vec::new();
    while decoder.needs() > 0 {
        bytes.resize(decoder.needs(), 0);
        read_exact(source, &mut bytes)?;
        decoder.push(&bytes, &mut |_| Ok(()))?;
    }
    decoder.finish()
}

/// Reads the next bytes of a snapshot.
pub(crate) fn read_exact(source: &mut dyn Read, bytes: &mut [u8]) -> Result<(), PagesError> {
    source.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
        _ => PagesError::Snapshot(format!("reading it failed: {error}")),
    })
}

/// Takes the pieces of a snapshot. Only when its end has come have they been proven to
/// be what was sent.
pub(crate) type Keep<'a> = &'a mut dyn FnMut(Piece<'_>) -> Result<(), PagesError>;

/// Reads a snapshot as it comes.
pub(crate) struct StreamDecoder {
    hasher: blake3::Hasher,
    header: Option<SnapshotHeader>,
    expects: Expects,
    /// What has come of that.
    begun: Vec<u8>,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Expects {
    Header,
    /// The pages from this one on.
    Pages(u32),
    /// The length of the part of this number.
    Length(u32),
    /// This part, and its bytes.
    Part(u32, usize),
    End,
    Nothing,
}

impl StreamDecoder {
    pub fn new() -> StreamDecoder {
        let (hasher, begun) = (blake3::Hasher::new(), Vec::new());
        StreamDecoder { hasher, header: None, expects: Expects::Header, begun }
    }

    /// Bytes of what is expected next that have not come; 0 behind the end.
    pub fn needs(&self) -> usize {
        self.whole() - self.begun.len()
    }

    /// Takes the next bytes, and hands on what they complete.
    pub fn push(&mut self, mut bytes: &[u8], keep: Keep<'_>) -> Result<(), PagesError> {
        while !bytes.is_empty() {
            let whole = self.whole();
            if whole == 0 {
                return Err(damaged("something follows its end"));
            }
            if self.begun.is_empty() && bytes.len() >= whole {
                let (item, rest) = bytes.split_at(whole);
                bytes = rest;
                self.take(item, keep)?;
                continue;
            }
            let (some, rest) = bytes.split_at(bytes.len().min(self.needs()));
            bytes = rest;
            self.begun.extend_from_slice(some);
            if self.begun.len() == whole {
                let item = std::mem::take(&mut self.begun);
                self.take(&item, keep)?;
                self.begun = item;
                self.begun.clear();
            }
        }
        Ok(())
    }

    /// What it was, once all of it has come.
    pub fn finish(self) -> Result<SnapshotHeader, PagesError> {
        match (self.expects, self.header) {
            (Expects::Nothing, Some(header)) => Ok(header),
            _ => Err(damaged("it is cut off")),
        }
    }

    fn size(&self) -> u32 {
        self.header.map_or(0, |header| header.size)
    }

    /// Bytes of what is expected.
    fn whole(&self) -> usize {
        match self.expects {
            Expects::Header => HEADER_BYTES,
            Expects::Pages(first) => CHUNK.min(self.size() - first + 1) as usize * PAGE_BYTES,
            Expects::Length(_) => 4,
            Expects::Part(_, length) => length,
            Expects::End => 40,
            Expects::Nothing => 0,
        }
    }

    fn take(&mut self, item: &[u8], keep: Keep<'_>) -> Result<(), PagesError> {
        if !matches!(self.expects, Expects::End) {
            self.hasher.update(item);
        }
        self.expects = match self.expects {
            Expects::Header => {
                let header = SnapshotHeader::decode(&field(item, 0))?;
                keep(Piece::Header(&header))?;
                self.header = Some(header);
                Expects::Pages(1)
            }
            Expects::Pages(first) => {
                keep(Piece::Pages(item))?;
                let next = first + (item.len() / PAGE_BYTES) as u32;
                if next <= self.size() { Expects::Pages(next) } else { self.part_or_end(0) }
            }
            Expects::Length(part) => match u32::from_le_bytes(field(item, 0)) as usize {
                0 => return Err(damaged("a part is empty")),
                length if length > MAX_PART_BYTES => {
                    return Err(damaged("a part is longer than parts are"));
                }
                length => Expects::Part(part, length),
            },
            Expects::Part(part, _) => {
                keep(Piece::Part(part, item))?;
                self.part_or_end(part + 1)
            }
            Expects::End
                if item[..8] != *END || item[8..] != *self.hasher.finalize().as_bytes() =>
            {
                return Err(damaged("its end does not fit what came before"));
            }
            Expects::End | Expects::Nothing => Expects::Nothing,
        };
        Ok(())
    }

    /// What is expected before this part.
    fn part_or_end(&self, part: u32) -> Expects {
        let parts = self.header.and_then(|header| header.parts).map_or(0, |kept| kept.parts);
        if part < parts { Expects::Length(part) } else { Expects::End }
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

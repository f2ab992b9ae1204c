//! What travels in the log: the changed pages of a commit, or a barrier.
//!
//! A commit of more than [`MAX_PART_PAGES`] pages travels as several parts, each
//! an entry of its own; the last one makes all of them take effect. DESIGN.md has
//! the layout.

use zstd::zstd_safe::compress_bound;

use crate::delta;
use crate::page::{PAGE_BYTES, PENDING_BYTE_PAGE};
use crate::position::{POSITION_BYTES, Position};

/// The most pages in a part; the images of so many need less than 1 MiB however
/// badly they compress.
pub const MAX_PART_PAGES: usize = 240;
/// The most bytes of an encoded entry.
pub const MAX_PART_BYTES: usize = 1 << 20;
/// The most parts of a transaction; 15 GiB of pages.
pub const MAX_PARTS: u32 = 1 << 14;

const VERSION: u8 = 2;
const KIND_PAGES: u8 = 0;
const KIND_BARRIER: u8 = 1;

/// A decoded entry of the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// Pages of a commit, or of a part of one.
    Pages(Part<'a>),
    /// Starts an epoch. What its predecessors have not had committed by now will
    /// be skipped, since its parent is from before the barrier.
    Barrier {
        /// The generation it is in.
        generation: u64,
        /// The epoch it starts.
        epoch: u64,
    },
}

/// Pages of a commit, or of a part of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The position that it changes.
    pub parent: Position,
    /// The position after the last part.
    pub position: Position,
    /// Which part of `parts` it is, from 0.
    pub part: u32,
    /// How many parts the commit has.
    pub parts: u32,
    /// Pages of the database after the commit.
    pub size: u32,
    /// The changed pages, ascending.
    pub pages: Vec<u32>,
    /// Over the images before, of those pages that were there before.
    pub before: [u8; 16],
    /// Over the images after.
    pub after: [u8; 16],
    /// The images after, packed with those before; see `delta`.
    pub images: &'a [u8],
}

/// Why bytes are not an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Another version of Rung wrote it.
    #[error("its format version is {0}, and this version of Rung reads {VERSION} alone")]
    Version(u8),
    /// It ends too early, or holds more than it should.
    #[error("it is cut off or has bytes behind its end")]
    Length,
    /// A field has a value that it cannot have.
    #[error("its {0} cannot be right")]
    Field(&'static str),
    /// The images do not decompress to the pages.
    #[error("its page images cannot be decompressed")]
    Images,
}

impl<'a> Entry<'a> {
    /// Reads an entry. Any bytes may be given.
    ///
    /// # Errors
    /// The bytes are not exactly one entry.
    pub fn decode(bytes: &'a [u8]) -> Result<Entry<'a>, EntryError> {
        if bytes.len() > MAX_PART_BYTES {
            return Err(EntryError::Length);
        }
        let mut input = Input(bytes);
        match (input.u8()?, input.u8()?) {
            (VERSION, KIND_BARRIER) => {
                let entry = Entry::Barrier { generation: input.u64()?, epoch: input.u64()? };
                if input.0.is_empty() { Ok(entry) } else { Err(EntryError::Length) }
            }
            (VERSION, KIND_PAGES) => decode_part(input).map(Entry::Pages),
            (VERSION, _) => Err(EntryError::Field("kind")),
            (version, _) => Err(EntryError::Version(version)),
        }
    }
}

fn decode_part(mut input: Input<'_>) -> Result<Part<'_>, EntryError> {
    let parent = Position::decode(input.array::<POSITION_BYTES>()?);
    let epoch = input.u64()?;
    let hash = *input.array::<32>()?;
    let (part, parts, size) = (input.u32()?, input.u32()?, input.u32()?);
    if epoch < parent.epoch || parent.sequence == u64::MAX {
        return Err(EntryError::Field("epoch or sequence"));
    }
    if part >= parts || parts > MAX_PARTS {
        return Err(EntryError::Field("part number"));
    }
    if size == 0 || size == u32::MAX {
        return Err(EntryError::Field("database size"));
    }
    let pages = decode_numbers(&mut input, size)?;
    let (before, after) = (*input.array::<16>()?, *input.array::<16>()?);
    let images = input.0;
    if images.is_empty() || images.len() > compress_bound(pages.len() * PAGE_BYTES) {
        return Err(EntryError::Length);
    }
    let position =
        Position { generation: parent.generation, epoch, sequence: parent.sequence + 1, hash };
    Ok(Part { parent, position, part, parts, size, pages, before, after, images })
}

/// Ascending page numbers, each as the distance from the one before.
fn decode_numbers(input: &mut Input<'_>, size: u32) -> Result<Vec<u32>, EntryError> {
    let count = usize::from(input.u8()?);
    if count == 0 || count > MAX_PART_PAGES {
        return Err(EntryError::Field("page count"));
    }
    let mut pages = Vec::with_capacity(count);
    let mut last = 0u32;
    for _ in 0..count {
        let distance = input.varint()?;
        let page = last.checked_add(distance).ok_or(EntryError::Field("page number"))?;
        if distance == 0 || page > size || page == PENDING_BYTE_PAGE {
            return Err(EntryError::Field("page number"));
        }
        pages.push(page);
        last = page;
    }
    Ok(pages)
}

impl Part<'_> {
    /// Whether the commit takes effect with this part.
    pub fn is_last(&self) -> bool {
        self.part + 1 == self.parts
    }

    /// The entry's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160 + 2 * self.pages.len() + self.images.len());
        out.extend_from_slice(&[VERSION, KIND_PAGES]);
        self.parent.encode(&mut out);
        out.extend_from_slice(&self.position.epoch.to_le_bytes());
        out.extend_from_slice(&self.position.hash);
        for number in [self.part, self.parts, self.size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        encode_numbers(&self.pages, &mut out);
        out.extend_from_slice(&self.before);
        out.extend_from_slice(&self.after);
        out.extend_from_slice(self.images);
        out
    }

    /// The images after the commit, one behind the other, given those before.
    pub(crate) fn images_after(&self, before: &[u8]) -> Result<Vec<u8>, EntryError> {
        let expected = self.pages.len() * PAGE_BYTES;
        delta::unpack(before, self.images, expected).map_err(|_| EntryError::Images)
    }

    /// This part's share of the commit's content, for the hash chain.
    pub(crate) fn digest(&self) -> [u8; 32] {
        digest(&self.pages, &self.before, &self.after)
    }
}

/// The bytes of a barrier.
pub(crate) fn encode_barrier(generation: u64, epoch: u64) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_BARRIER];
    out.extend_from_slice(&generation.to_le_bytes());
    out.extend_from_slice(&epoch.to_le_bytes());
    out
}

fn encode_numbers(pages: &[u32], out: &mut Vec<u8>) {
    out.push(pages.len() as u8);
    let mut last = 0;
    for &page in pages {
        let mut distance = page - last;
        while distance >= 0x80 {
            out.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        out.push(distance as u8);
        last = page;
    }
}

pub(crate) fn digest(pages: &[u32], before: &[u8; 16], after: &[u8; 16]) -> [u8; 32] {
    let mut numbers = Vec::with_capacity(2 * pages.len() + 33);
    encode_numbers(pages, &mut numbers);
    numbers.extend_from_slice(before);
    numbers.extend_from_slice(after);
    *blake3::hash(&numbers).as_bytes()
}

/// What the hash chain covers of a commit.
pub(crate) fn content(size: u32, digests: &[[u8; 32]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    digests.iter().for_each(|digest| {
        hasher.update(digest);
    });
    *hasher.finalize().as_bytes()
}

/// What is left of the bytes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], EntryError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(EntryError::Length)?;
        self.0 = rest;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, EntryError> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, EntryError> {
        Ok(u32::from_le_bytes(*self.array::<4>()?))
    }

    fn u64(&mut self) -> Result<u64, EntryError> {
        Ok(u64::from_le_bytes(*self.array::<8>()?))
    }

    /// At most five bytes, in the shortest form only.
    fn varint(&mut self) -> Result<u32, EntryError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let longest_needed = shift == 0 || byte != 0;
                let value = u32::try_from(value).map_err(|_| EntryError::Field("page number"))?;
                return longest_needed.then_some(value).ok_or(EntryError::Field("page number"));
            }
        }
        Err(EntryError::Field("page number"))
    }
}

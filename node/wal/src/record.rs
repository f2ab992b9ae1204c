//! The records of a segment, byte for byte. All numbers are little-endian.
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | CRC-32 of log id, segment id, offset in the segment, and all that follows |
//! | 4 | length of the body |
//! | 8 | number of the batch that the record was written in; it only rises |
//! | n | body: one byte for the kind, then the fields |
//! | 0-7 | zeros up to a multiple of eight |
//!
//! The checksum covers the place, so that a record which was copied, moved or
//! left behind by an earlier file does not pass anywhere else. What an abandoned
//! write left behind at its own place fails by its batch number: see
//! [`crate::segment`].

use std::collections::BTreeMap;

use bytes::Bytes;
use rung_proto::GroupId;

use crate::group::{Bounds, Image};

/// What precedes the body.
pub const HEADER_BYTES: usize = 16;
const ALIGNMENT: usize = 8;
/// Lets a search for batch starts pass over almost everything without
/// computing a checksum.
const BATCH_MAGIC: [u8; 7] = *b"rungwal";
const BATCH_BODY_BYTES: u32 = 16;

const KIND_BATCH: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_COPY: u8 = 3;
const KIND_TRUNCATE: u8 = 4;
const KIND_PURGE: u8 = 5;
const KIND_META: u8 = 6;
const KIND_DROP: u8 = 7;
const KIND_FREE: u8 = 8;
const KIND_CLEARED: u8 = 9;
const KIND_MANIFEST: u8 = 10;
const KIND_IMAGE: u8 = 11;
const KIND_HEAD_END: u8 = 12;

/// A segment that was in use when another one was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OlderSegment {
    /// Its number.
    pub id: u64,
    /// Where its records end; what lies behind is void.
    pub end: u64,
}

/// Entries of one group, one after the other, that lie in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The segment.
    pub segment: u64,
    /// The first index.
    pub first: u64,
    /// The last index.
    pub last: u64,
}

/// A position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number.
    pub segment: u64,
    /// The offset in its file, in bytes.
    pub offset: u64,
}

/// One record; payloads are borrowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Starts a batch. Everything in this segment before `synced` was on the
    /// disk when the batch was written.
    Batch {
        /// An offset in this segment.
        synced: u64,
    },
    /// An entry that was appended.
    Entry {
        /// Whose.
        group: GroupId,
        /// Its index.
        index: u64,
        /// Its term.
        header: u64,
        /// Its content.
        payload: &'a [u8],
    },
    /// An entry that already existed, brought here from an older segment.
    Copy {
        /// Whose.
        group: GroupId,
        /// Its index.
        index: u64,
        /// Its term.
        header: u64,
        /// Its content.
        payload: &'a [u8],
    },
    /// Entries from `index` on were dropped.
    Truncate {
        /// Whose.
        group: GroupId,
        /// The first one dropped.
        index: u64,
    },
    /// Entries up to `index` were dropped.
    Purge {
        /// Whose.
        group: GroupId,
        /// The last one dropped.
        index: u64,
    },
    /// A value was set.
    Meta {
        /// Whose.
        group: GroupId,
        /// Which.
        key: u8,
        /// Its content.
        value: &'a [u8],
    },
    /// The group was forgotten.
    Drop {
        /// Which.
        group: GroupId,
    },
    /// An older segment holds nothing that is needed and may be deleted.
    Free {
        /// Which.
        segment: u64,
    },
    /// A damage that may have concerned any group was repaired.
    Cleared,
    /// First record of a segment: which older ones are in use.
    Manifest {
        /// The older segments, by rising number.
        older: Vec<OlderSegment>,
        /// The place of a damage that may concern any group and is not yet
        /// repaired.
        damage: Option<Position>,
    },
    /// In the head of a segment: a group as it was when the segment was started.
    Image {
        /// Which group.
        group: GroupId,
        /// Its bounds and values.
        image: Image,
        /// Where its entries are, by rising index.
        runs: Vec<Run>,
    },
    /// The head of the segment is complete.
    HeadEnd,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// There are fewer bytes than the record says.
    #[error("the record reaches beyond the end")]
    Short,
    /// Only zeros: nothing was ever written here.
    #[error("nothing was written here")]
    Blank,
    /// The checksum is another one.
    #[error("the checksum does not match")]
    Checksum,
    /// The checksum is right but the content makes no sense.
    #[error("the record has an unknown kind or a field of an impossible value")]
    Content,
}

/// A record as found in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The batch it was written in; zero in the head of a segment.
    pub batch: u64,
    /// The record.
    pub record: Record<'a>,
    /// How many bytes it takes in the file, a multiple of eight.
    pub bytes: usize,
}

/// What ties the records of one segment to it.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u32);

impl Seed {
    /// The seed of a segment of a log.
    pub fn new(log_id: u64, segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&log_id.to_le_bytes());
        hasher.update(&segment.to_le_bytes());
        Self(hasher.finalize())
    }

    fn checksum(self, offset: u64, rest: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0);
        hasher.update(&offset.to_le_bytes());
        hasher.update(rest);
        hasher.finalize()
    }
}

/// How many bytes a record with a body of `body` bytes takes in the file.
pub fn framed(body: usize) -> usize {
    (HEADER_BYTES + body).next_multiple_of(ALIGNMENT)
}

/// How many bytes an entry or a copy with this payload takes.
pub fn entry_bytes(payload: usize) -> usize {
    framed(1 + 24 + payload)
}

/// Where the payload lies in the record of an entry.
pub(crate) const ENTRY_PAYLOAD_OFFSET: usize = HEADER_BYTES + 1 + 24;

/// How many bytes the record that starts a batch takes.
pub const BATCH_BYTES: usize = HEADER_BYTES + BATCH_BODY_BYTES as usize;

/// Appends a record to `out`, whose first byte will lie at `base` in the
/// segment. Returns the number of bytes added.
pub fn encode(out: &mut Vec<u8>, base: u64, seed: Seed, batch: u64, record: &Record<'_>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    encode_body(out, record);
    let body = (out.len() - start - HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&body.to_le_bytes());
    out[start + 8..start + 16].copy_from_slice(&batch.to_le_bytes());
    let checksum = seed.checksum(base + start as u64, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    out.resize(start + framed(body as usize), 0);
    out.len() - start
}

fn encode_body(out: &mut Vec<u8>, record: &Record<'_>) {
    let numbers = |out: &mut Vec<u8>, kind: u8, numbers: &[u64]| {
        out.push(kind);
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    };
    match record {
        Record::Batch { synced } => {
            out.push(KIND_BATCH);
            out.extend_from_slice(&BATCH_MAGIC);
            out.extend_from_slice(&synced.to_le_bytes());
        }
        Record::Entry { group, index, header, payload } => {
            numbers(out, KIND_ENTRY, &[group.0, *index, *header]);
            out.extend_from_slice(payload);
        }
        Record::Copy { group, index, header, payload } => {
            numbers(out, KIND_COPY, &[group.0, *index, *header]);
            out.extend_from_slice(payload);
        }
        Record::Truncate { group, index } => numbers(out, KIND_TRUNCATE, &[group.0, *index]),
        Record::Purge { group, index } => numbers(out, KIND_PURGE, &[group.0, *index]),
        Record::Meta { group, key, value } => {
            numbers(out, KIND_META, &[group.0]);
            out.push(*key);
            out.extend_from_slice(value);
        }
        Record::Drop { group } => numbers(out, KIND_DROP, &[group.0]),
        Record::Free { segment } => numbers(out, KIND_FREE, &[*segment]),
        Record::Cleared => out.push(KIND_CLEARED),
        Record::Manifest { older, damage } => {
            numbers(out, KIND_MANIFEST, &[]);
            out.push(u8::from(damage.is_some()));
            if let Some(Position { segment, offset }) = damage {
                out.extend_from_slice(&segment.to_le_bytes());
                out.extend_from_slice(&offset.to_le_bytes());
            }
            for OlderSegment { id, end } in older {
                out.extend_from_slice(&id.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
            }
        }
        Record::Image { group, image, runs } => {
            numbers(out, KIND_IMAGE, &[group.0]);
            encode_image(out, image, runs);
        }
        Record::HeadEnd => out.push(KIND_HEAD_END),
    }
}

const HAS_RANGE: u8 = 1;
const HAS_PURGED: u8 = 2;
const IS_CORRUPT: u8 = 4;

fn encode_image(out: &mut Vec<u8>, image: &Image, runs: &[Run]) {
    let Bounds { range, purged, corrupt } = image.bounds;
    let mut flags = 0;
    let mut numbers = Vec::with_capacity(3);
    if let Some((first, last)) = range {
        flags |= HAS_RANGE;
        numbers.extend([first, last]);
    }
    if let Some(purged) = purged {
        flags |= HAS_PURGED;
        numbers.push(purged);
    }
    if corrupt {
        flags |= IS_CORRUPT;
    }
    out.push(flags);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(&(image.meta.len() as u16).to_le_bytes());
    for (key, value) in &image.meta {
        out.push(*key);
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    for Run { segment, first, last } in runs {
        for number in [segment, first, last] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// Reads the record at the start of `bytes`, which lie at `offset` in the
/// segment. Total: any bytes give a record or an error.
pub fn decode(bytes: &[u8], offset: u64, seed: Seed) -> Result<Decoded<'_>, Invalid> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Invalid::Short)?;
    let (checksum, length, batch) = split_header(header);
    if checksum == 0 && length == 0 && batch == 0 {
        return Err(Invalid::Blank);
    }
    let end = HEADER_BYTES.checked_add(length as usize).ok_or(Invalid::Short)?;
    let covered = bytes.get(4..end).ok_or(Invalid::Short)?;
    if seed.checksum(offset, covered) != checksum {
        return Err(Invalid::Checksum);
    }
    let record = decode_body(&bytes[HEADER_BYTES..end])?;
    Ok(Decoded { batch, record, bytes: framed(length as usize).min(bytes.len()) })
}

fn split_header(header: &[u8; HEADER_BYTES]) -> (u32, u32, u64) {
    let [a, b, c, d, e, f, g, h, batch @ ..] = *header;
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]), u64::from_le_bytes(batch))
}

/// Finds batch starts in a damaged stretch: the first one at or behind `from`
/// in `bytes`, the content of a whole segment from its first byte. Gives its
/// offset and what it says was synced.
pub fn find_batch(bytes: &[u8], from: usize, seed: Seed) -> Option<(usize, u64)> {
    let mut offset = from.checked_next_multiple_of(ALIGNMENT)?;
    while let Some(candidate) = bytes.get(offset..offset.checked_add(BATCH_BYTES)?) {
        let looks_right = candidate[4..8] == BATCH_BODY_BYTES.to_le_bytes()
            && candidate[HEADER_BYTES] == KIND_BATCH
            && candidate[HEADER_BYTES + 1..HEADER_BYTES + 8] == BATCH_MAGIC;
        if looks_right
            && let Ok(Decoded { record: Record::Batch { synced }, .. }) =
                decode(candidate, offset as u64, seed)
        {
            return Some((offset, synced));
        }
        offset += ALIGNMENT;
    }
    None
}

/// Reads the body of a record, the part that the checksum vouches for. Total.
pub fn decode_body(body: &[u8]) -> Result<Record<'_>, Invalid> {
    let mut fields = Fields(body);
    let kind = fields.byte()?;
    let record = match kind {
        KIND_BATCH => {
            if fields.take(BATCH_MAGIC.len())? != BATCH_MAGIC {
                return Err(Invalid::Content);
            }
            Record::Batch { synced: fields.number()? }
        }
        KIND_ENTRY | KIND_COPY => {
            let group = GroupId(fields.number()?);
            let (index, header) = (fields.number()?, fields.number()?);
            let payload = fields.rest();
            match kind {
                KIND_ENTRY => Record::Entry { group, index, header, payload },
                _ => Record::Copy { group, index, header, payload },
            }
        }
        KIND_TRUNCATE => {
            Record::Truncate { group: GroupId(fields.number()?), index: fields.number()? }
        }
        KIND_PURGE => Record::Purge { group: GroupId(fields.number()?), index: fields.number()? },
        KIND_META => Record::Meta {
            group: GroupId(fields.number()?),
            key: fields.byte()?,
            value: fields.rest(),
        },
        KIND_DROP => Record::Drop { group: GroupId(fields.number()?) },
        KIND_FREE => Record::Free { segment: fields.number()? },
        KIND_CLEARED => Record::Cleared,
        KIND_MANIFEST => decode_manifest(&mut fields)?,
        KIND_IMAGE => decode_image(&mut fields)?,
        KIND_HEAD_END => Record::HeadEnd,
        _ => return Err(Invalid::Content),
    };
    if fields.0.is_empty() { Ok(record) } else { Err(Invalid::Content) }
}

fn decode_manifest(fields: &mut Fields<'_>) -> Result<Record<'static>, Invalid> {
    let damage = match fields.byte()? {
        0 => None,
        1 => Some(Position { segment: fields.number()?, offset: fields.number()? }),
        _ => return Err(Invalid::Content),
    };
    let mut older: Vec<OlderSegment> = Vec::new();
    while !fields.0.is_empty() {
        let next = OlderSegment { id: fields.number()?, end: fields.number()? };
        if older.last().is_some_and(|last| last.id >= next.id) {
            return Err(Invalid::Content);
        }
        older.push(next);
    }
    Ok(Record::Manifest { older, damage })
}

fn decode_image(fields: &mut Fields<'_>) -> Result<Record<'static>, Invalid> {
    let group = GroupId(fields.number()?);
    let flags = fields.byte()?;
    if flags & !(HAS_RANGE | HAS_PURGED | IS_CORRUPT) != 0 {
        return Err(Invalid::Content);
    }
    let mut bounds = Bounds { corrupt: flags & IS_CORRUPT != 0, ..Bounds::default() };
    if flags & HAS_RANGE != 0 {
        let (first, last) = (fields.number()?, fields.number()?);
        if first > last || last == u64::MAX {
            return Err(Invalid::Content);
        }
        bounds.range = Some((first, last));
    }
    if flags & HAS_PURGED != 0 {
        bounds.purged = Some(fields.number()?).filter(|purged| *purged != u64::MAX);
    }
    let mut meta = BTreeMap::new();
    for _ in 0..fields.short()? {
        let key = fields.byte()?;
        let length = fields.word()?;
        meta.insert(key, Bytes::copy_from_slice(fields.take(length as usize)?));
    }
    let runs = decode_runs(fields, bounds.range)?;
    Ok(Record::Image { group, image: Image { bounds, meta }, runs })
}

/// The runs must cover the range exactly, in order.
fn decode_runs(fields: &mut Fields<'_>, range: Option<(u64, u64)>) -> Result<Vec<Run>, Invalid> {
    let mut runs = Vec::new();
    let mut next = range.map(|(first, _)| first);
    while !fields.0.is_empty() {
        let run =
            Run { segment: fields.number()?, first: fields.number()?, last: fields.number()? };
        if next != Some(run.first) || run.last < run.first {
            return Err(Invalid::Content);
        }
        next = Some(run.last.checked_add(1).ok_or(Invalid::Content)?);
        runs.push(run);
    }
    let end = range.map(|(_, last)| last + 1);
    if next == end { Ok(runs) } else { Err(Invalid::Content) }
}

/// The fields of a body that are not yet read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Invalid::Content)?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Invalid::Content)?;
        self.0 = tail;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Invalid> {
        self.array().map(|[byte]| byte)
    }

    fn short(&mut self) -> Result<u16, Invalid> {
        self.array().map(u16::from_le_bytes)
    }

    fn word(&mut self) -> Result<u32, Invalid> {
        self.array().map(u32::from_le_bytes)
    }

    fn number(&mut self) -> Result<u64, Invalid> {
        self.array().map(u64::from_le_bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests;

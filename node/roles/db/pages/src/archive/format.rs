//! Names and headers of an archive's files. Any bytes may be given to what reads.

use crate::position::{POSITION_BYTES, Position};

/// 2: entries have differences of images.
const VERSION: u32 = 2;
const BASE_MAGIC: &[u8; 8] = b"rungbase";
const SEGMENT_MAGIC: &[u8; 8] = b"rungarch";
const END_MAGIC: &[u8; 8] = b"rungaend";
/// Magic, version, whose it is, position, a number; then a checksum.
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 16 + POSITION_BYTES + 8 + 8 + 4;
/// The length that says that no record follows, magic, position, log index, records,
/// two times, blake3 of everything before.
pub(crate) const END_BYTES: usize = 4 + 8 + POSITION_BYTES + 8 + 8 + 8 + 8 + 32;
/// Where a record's length would be.
pub(crate) const END_MARK: u32 = u32::MAX;

/// Whose archive it is: of which shard of which database of which cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArchiveId([u8; 16]);

impl ArchiveId {
    /// The identity of what is described so.
    pub fn of(description: &str) -> ArchiveId {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(description.as_bytes()).as_bytes()[..16]);
        ArchiveId(id)
    }
}

impl std::fmt::Debug for ArchiveId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The beginning of a base; a zstd frame with a snapshot follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BaseHeader {
    /// Whose it is.
    pub id: ArchiveId,
    /// The position of the pages.
    pub position: Position,
    /// The last entry of the log that they have.
    pub log_index: u64,
    /// When it was taken, milliseconds since 1970: no earlier than its newest entry.
    pub taken_ms: u64,
}

/// The beginning of a file of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose it is.
    pub id: ArchiveId,
    /// The position that the first entry starts from.
    pub parent: Position,
    /// The last entry of the log before.
    pub log_index: u64,
    /// No entry is older, milliseconds since 1970.
    pub from_ms: u64,
}

/// The end of a whole file of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEnd {
    /// The position after the last entry.
    pub position: Position,
    /// The last entry of the log.
    pub log_index: u64,
    /// How many entries there are.
    pub records: u64,
    /// When the first was proposed, milliseconds since 1970.
    pub first_ms: u64,
    /// When the last was proposed.
    pub last_ms: u64,
    /// blake3 of everything before it.
    pub hash: [u8; 32],
}

fn encode_header(
    magic: &[u8; 8],
    id: &ArchiveId,
    position: &Position,
    numbers: [u64; 2],
) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&id.0);
    position.encode(&mut out);
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

fn decode_header(
    magic: &[u8; 8],
    bytes: &[u8; HEADER_BYTES],
) -> Result<(ArchiveId, Position, [u64; 2]), String> {
    let (body, sum) = bytes.split_at(HEADER_BYTES - 4);
    if body[..8] != *magic || *sum != crc32fast::hash(body).to_le_bytes() {
        return Err("it does not begin as a file of an archive does".to_owned());
    }
    let version = u32::from_le_bytes(field(body, 8));
    if version != VERSION {
        return Err(format!(
            "its version is {version}, and this version of Rung reads {VERSION} alone"
        ));
    }
    let rest = 28 + POSITION_BYTES;
    let numbers = [rest, rest + 8].map(|at| u64::from_le_bytes(field(body, at)));
    Ok((ArchiveId(field(body, 12)), Position::decode(&field(body, 28)), numbers))
}

impl BaseHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_header(BASE_MAGIC, &self.id, &self.position, [self.log_index, self.taken_ms])
    }

    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<BaseHeader, String> {
        let (id, position, [log_index, taken_ms]) = decode_header(BASE_MAGIC, bytes)?;
        Ok(BaseHeader { id, position, log_index, taken_ms })
    }

    pub(crate) fn name(&self) -> String {
        let Position { generation, sequence, .. } = self.position;
        format!("base-{generation:06}-{sequence:020}-{:014}.rung", self.taken_ms)
    }
}

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_header(SEGMENT_MAGIC, &self.id, &self.parent, [self.log_index, self.from_ms])
    }

    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<SegmentHeader, String> {
        let (id, parent, [log_index, from_ms]) = decode_header(SEGMENT_MAGIC, bytes)?;
        Ok(SegmentHeader { id, parent, log_index, from_ms })
    }

    /// The name while it is written, by this writer.
    pub(crate) fn partial_name(&self, writer: &str) -> String {
        let Position { generation, sequence, .. } = self.parent;
        format!("entries-{generation:06}-{sequence:020}-{writer}.partial")
    }

    pub(crate) fn name(&self, end: &SegmentEnd) -> String {
        let (generation, after) = (end.position.generation, self.parent.sequence);
        let last = end.position.sequence;
        let times = format!("{:014}-{:014}", end.first_ms, end.last_ms);
        format!("entries-{generation:06}-{after:020}-{last:020}-{times}.rung")
    }
}

impl SegmentEnd {
    /// The end's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(END_BYTES);
        out.extend_from_slice(&END_MARK.to_le_bytes());
        out.extend_from_slice(END_MAGIC);
        self.position.encode(&mut out);
        for number in [self.log_index, self.records, self.first_ms, self.last_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.hash);
        out
    }

    /// Reads an end. That the hash fits is for who has read what is before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; END_BYTES]) -> Result<SegmentEnd, String> {
        if bytes[..4] != END_MARK.to_le_bytes() || bytes[4..12] != *END_MAGIC {
            return Err("it does not end as a whole file of entries does".to_owned());
        }
        let numbers = 12 + POSITION_BYTES;
        let number = |at: usize| u64::from_le_bytes(field(bytes, numbers + 8 * at));
        Ok(SegmentEnd {
            position: Position::decode(&field(bytes, 12)),
            log_index: number(0),
            records: number(1),
            first_ms: number(2),
            last_ms: number(3),
            hash: field(bytes, numbers + 32),
        })
    }
}

/// What a file's name says that it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Base,
    Entries,
    PartialEntries,
    /// A base that nobody finished.
    PartialBase,
}

pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    let (stem, ending) = name.rsplit_once('.')?;
    Some(match (stem.split_once('-')?.0, ending) {
        ("base", "rung") => Kind::Base,
        ("base", "partial") => Kind::PartialBase,
        ("entries", "rung") => Kind::Entries,
        ("entries", "partial") => Kind::PartialEntries,
        _ => return None,
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

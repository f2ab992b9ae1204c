//! A snapshot as bytes, the same in a file and on a stream.
//!
//! ```text
//! "RUNGSNAP"  version u32  header length u32  header crc u32  header (MessagePack)
//! then chunks: length u32 (1 to 65536)  crc u32  bytes
//! then the end: length u32 = 0  crc u32  number of chunks u64  number of bytes u64
//! ```
//!
//! Integers are big-endian. A chunk's CRC-32 also covers its number, so that
//! chunks can be neither exchanged nor left out. A reader hands out a chunk only
//! after it has verified it, and reports the end only after the end was verified.

use std::io::{self, Read, Write};

use rung_proto::GroupId;
use rung_proto::encoding;
use serde::{Deserialize, Serialize};

use crate::entry::MembershipForm;
use crate::raft_types::{RaftSnapshotMeta, RaftStoredMembership, log_id, position};
use crate::state_machine::SnapshotSource;
use crate::status::Position;

const MAGIC: &[u8; 8] = b"RUNGSNAP";
const VERSION: u32 = 1;
const CHUNK: usize = 64 << 10;
const MAX_HEADER: usize = 64 << 10;

/// What is wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotDamage {
    /// Something else than a snapshot.
    #[error("it does not begin with RUNGSNAP")]
    Magic,
    /// Written by a newer version.
    #[error("its version is {0}; this Rung reads {VERSION}")]
    Version(u32),
    /// A header that cannot be read.
    #[error("its header is damaged: {0}")]
    Header(String),
    /// A chunk whose checksum is wrong, or whose length is impossible.
    #[error("chunk {chunk} at byte {offset} is damaged: {what}")]
    Chunk {
        /// The number of the chunk, from zero.
        chunk: u64,
        /// Where it begins in the content.
        offset: u64,
        /// What was seen.
        what: &'static str,
    },
}

impl From<SnapshotDamage> for io::Error {
    fn from(damage: SnapshotDamage) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, damage)
    }
}

/// What a snapshot contains.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub group: GroupId,
    pub last: Option<Position>,
    membership_at: Option<Position>,
    membership: MembershipForm,
}

impl SnapshotHeader {
    pub(crate) fn new(group: GroupId, meta: &RaftSnapshotMeta) -> Self {
        Self {
            group,
            last: meta.last_log_id.as_ref().map(position),
            membership_at: meta.last_membership.log_id().as_ref().map(position),
            membership: MembershipForm::from(meta.last_membership.membership()),
        }
    }

    pub(crate) fn meta(&self) -> Result<RaftSnapshotMeta, SnapshotDamage> {
        let membership = self
            .membership
            .clone()
            .into_raft()
            .map_err(|error| SnapshotDamage::Header(error.to_string()))?;
        Ok(RaftSnapshotMeta {
            last_log_id: self.last.map(log_id),
            last_membership: RaftStoredMembership::new(self.membership_at.map(log_id), membership),
        })
    }
}

/// Turns what a source yields into a snapshot, piece by piece.
pub(crate) struct SnapshotEncoder {
    source: SnapshotSource,
    /// Taken by the first piece.
    header: Option<Vec<u8>>,
    chunk: Vec<u8>,
    chunks: u64,
    content: u64,
    ended: bool,
}

impl SnapshotEncoder {
    pub(crate) fn new(header: &SnapshotHeader, source: SnapshotSource) -> Self {
        let encoded = encoding::encode(header);
        let length = u32::try_from(encoded.len()).expect("a membership has a few hundred bytes");
        let mut header = Vec::with_capacity(20 + encoded.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_be_bytes());
        header.extend_from_slice(&length.to_be_bytes());
        header.extend_from_slice(&crc32fast::hash(&encoded).to_be_bytes());
        header.extend_from_slice(&encoded);
        let chunk = vec![0; CHUNK];
        Self { source, header: Some(header), chunk, chunks: 0, content: 0, ended: false }
    }

    /// The next piece: the header, then one chunk after the other, then the end.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(header) = self.header.take() {
            return Ok(Some(header));
        }
        if self.ended {
            return Ok(None);
        }
        let size = fill(&mut self.source, &mut self.chunk)?;
        if size == 0 {
            self.ended = true;
            let mut end = [0; 16];
            end[..8].copy_from_slice(&self.chunks.to_be_bytes());
            end[8..].copy_from_slice(&self.content.to_be_bytes());
            return Ok(Some(piece(0, chunk_checksum(u64::MAX, &end), &end)));
        }
        let bytes = &self.chunk[..size];
        let piece = piece(size, chunk_checksum(self.chunks, bytes), bytes);
        self.chunks += 1;
        self.content += size as u64;
        Ok(Some(piece))
    }
}

fn piece(size: usize, checksum: u32, bytes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(size).expect("a chunk has at most 65536 bytes");
    [&size.to_be_bytes()[..], &checksum.to_be_bytes(), bytes].concat()
}

/// Writes a snapshot: header, everything that `source` yields, end. Returns the
/// length in bytes of what was written.
pub(crate) fn write_snapshot(
    header: &SnapshotHeader,
    source: SnapshotSource,
    out: &mut dyn Write,
) -> io::Result<u64> {
    let mut encoder = SnapshotEncoder::new(header, source);
    let mut written = 0;
    while let Some(piece) = encoder.next_piece()? {
        out.write_all(&piece)?;
        written += piece.len() as u64;
    }
    Ok(written)
}

fn chunk_checksum(number: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// Reads until the buffer is full or the source ends.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(size) => filled += size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Takes the content of a snapshot.
pub(crate) type Keep<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// Reads a snapshot as it comes, and hands on what it has verified of its content.
pub(crate) struct SnapshotDecoder {
    header: Option<SnapshotHeader>,
    expects: Expects,
    /// What has come of that.
    begun: Vec<u8>,
    chunks: u64,
    content: u64,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Expects {
    Fixed,
    Header { size: usize, checksum: u32 },
    ChunkHead,
    Chunk { size: usize, checksum: u32 },
    End { checksum: u32 },
    Nothing,
}

impl SnapshotDecoder {
    pub(crate) fn new() -> Self {
        let (header, begun) = (None, Vec::new());
        Self { header, expects: Expects::Fixed, begun, chunks: 0, content: 0 }
    }

    /// The header, once it has come.
    pub(crate) fn header(&self) -> Option<&SnapshotHeader> {
        self.header.as_ref()
    }

    /// Whether the end has come.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.expects, Expects::Nothing)
    }

    /// What is wrong if nothing more comes.
    pub(crate) fn cut(&self) -> io::Error {
        match self.expects {
            Expects::Fixed => SnapshotDamage::Magic.into(),
            Expects::Header { .. } => SnapshotDamage::Header("it is cut off".to_owned()).into(),
            Expects::End { .. } => self.damage("the end is cut off"),
            Expects::ChunkHead | Expects::Chunk { .. } | Expects::Nothing => {
                self.damage("it is cut off")
            }
        }
    }

    /// Takes the next bytes, and hands on the content that they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], keep: Keep<'_>) -> io::Result<()> {
        while !bytes.is_empty() {
            let whole = self.whole();
            if whole == 0 {
                return Err(self.damage("something follows the end"));
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

    /// Bytes of what is expected next that have not come; 0 behind the end.
    fn needs(&self) -> usize {
        self.whole() - self.begun.len()
    }

    /// Bytes of what is expected.
    fn whole(&self) -> usize {
        match self.expects {
            Expects::Fixed => 20,
            Expects::Header { size, .. } | Expects::Chunk { size, .. } => size,
            Expects::ChunkHead => 8,
            Expects::End { .. } => 16,
            Expects::Nothing => 0,
        }
    }

    fn damage(&self, what: &'static str) -> io::Error {
        SnapshotDamage::Chunk { chunk: self.chunks, offset: self.content, what }.into()
    }

    fn take(&mut self, item: &[u8], keep: Keep<'_>) -> io::Result<()> {
        self.expects = match self.expects {
            Expects::Fixed => fixed(item)?,
            Expects::Header { checksum, .. } => {
                self.header = Some(header(item, checksum)?);
                Expects::ChunkHead
            }
            Expects::ChunkHead => match (field(item, 0) as usize, field(item, 4)) {
                (0, checksum) => Expects::End { checksum },
                (size, _) if size > CHUNK => {
                    return Err(self.damage("its length is impossible"));
                }
                (size, checksum) => Expects::Chunk { size, checksum },
            },
            Expects::Chunk { checksum, .. } => {
                if chunk_checksum(self.chunks, item) != checksum {
                    return Err(self.damage("its checksum is wrong"));
                }
                keep(item)?;
                self.chunks += 1;
                self.content += item.len() as u64;
                Expects::ChunkHead
            }
            Expects::End { checksum } => {
                let expected = [self.chunks.to_be_bytes(), self.content.to_be_bytes()].concat();
                if item != expected || chunk_checksum(u64::MAX, item) != checksum {
                    return Err(self.damage("the end does not fit the chunks before it"));
                }
                Expects::Nothing
            }
            Expects::Nothing => Expects::Nothing,
        };
        Ok(())
    }
}

/// What follows the first bytes.
fn fixed(item: &[u8]) -> Result<Expects, SnapshotDamage> {
    if &item[..8] != MAGIC {
        return Err(SnapshotDamage::Magic);
    }
    if field(item, 8) != VERSION {
        return Err(SnapshotDamage::Version(field(item, 8)));
    }
    match field(item, 12) as usize {
        0 => Err(SnapshotDamage::Header("it is empty".to_owned())),
        size if size > MAX_HEADER => Err(SnapshotDamage::Header(format!("it claims {size} bytes"))),
        size => Ok(Expects::Header { size, checksum: field(item, 16) }),
    }
}

fn header(item: &[u8], checksum: u32) -> Result<SnapshotHeader, SnapshotDamage> {
    if crc32fast::hash(item) != checksum {
        return Err(SnapshotDamage::Header("its checksum is wrong".to_owned()));
    }
    encoding::decode(item).map_err(|error| SnapshotDamage::Header(error.to_string()))
}

fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads the content of a snapshot and verifies it on the way.
pub(crate) struct SnapshotReader<R> {
    inner: R,
    decoder: SnapshotDecoder,
    piece: Vec<u8>,
    chunk: Vec<u8>,
    at: usize,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads and verifies the header.
    pub(crate) fn open(inner: R) -> io::Result<(SnapshotHeader, Self)> {
        let decoder = SnapshotDecoder::new();
        let mut reader = Self { inner, decoder, piece: Vec::new(), chunk: Vec::new(), at: 0 };
        loop {
            reader.step()?;
            if let Some(header) = reader.decoder.header() {
                return Ok((header.clone(), reader));
            }
        }
    }

    /// Reads what is expected next.
    fn step(&mut self) -> io::Result<()> {
        self.piece.resize(self.decoder.needs(), 0);
        if fill(&mut self.inner, &mut self.piece)? < self.piece.len() {
            return Err(self.decoder.cut());
        }
        let (chunk, at) = (&mut self.chunk, &mut self.at);
        self.decoder.push(&self.piece, &mut |content| {
            *at = 0;
            chunk.clear();
            chunk.extend_from_slice(content);
            Ok(())
        })
    }

    /// Reads what is left and verifies it.
    pub(crate) fn verify_rest(mut self) -> io::Result<()> {
        while !self.decoder.is_whole() {
            self.step()?;
        }
        Ok(())
    }
}

impl<R: Read> Read for SnapshotReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.decoder.is_whole() {
            self.step()?;
        }
        let size = buffer.len().min(self.chunk.len() - self.at);
        buffer[..size].copy_from_slice(&self.chunk[self.at..self.at + size]);
        self.at += size;
        Ok(size)
    }
}

/// Checks that bytes are one whole snapshot. For fuzzing, and for tools.
///
/// # Errors
/// When they are not: an [`io::ErrorKind::InvalidData`] error that holds a [`SnapshotDamage`].
pub fn check_snapshot(bytes: &[u8]) -> io::Result<()> {
    let (header, reader) = SnapshotReader::open(bytes)?;
    header.meta()?;
    reader.verify_rest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(content: &[u8]) -> Vec<u8> {
        let meta = RaftSnapshotMeta {
            last_log_id: Some(log_id(Position { term: 2, index: 7 })),
            last_membership: RaftStoredMembership::default(),
        };
        let mut out = Vec::new();
        let header = SnapshotHeader::new(GroupId(5), &meta);
        let source = Box::new(io::Cursor::new(content.to_vec()));
        let written = write_snapshot(&header, source, &mut out).unwrap();
        assert_eq!(written, out.len() as u64);
        out
    }

    #[test]
    fn content_of_several_chunks_is_read_back() {
        let content: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let bytes = snapshot(&content);
        let (header, mut reader) = SnapshotReader::open(&bytes[..]).unwrap();
        assert_eq!(header.last, Some(Position { term: 2, index: 7 }));
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, content);
    }

    #[test]
    fn it_may_come_in_pieces_of_any_size() {
        let content: Vec<u8> = (0..150_000_u32).map(|i| (i % 249) as u8).collect();
        let bytes = snapshot(&content);
        for size in [1, 7, 4096, CHUNK + 8, bytes.len()] {
            let (mut decoder, mut read) = (SnapshotDecoder::new(), Vec::new());
            for piece in bytes.chunks(size) {
                assert!(!decoder.is_whole());
                let mut keep = |content: &[u8]| {
                    read.extend_from_slice(content);
                    Ok(())
                };
                decoder.push(piece, &mut keep).unwrap();
            }
            assert!(decoder.is_whole());
            assert_eq!(decoder.header().unwrap().group, GroupId(5));
            assert_eq!(read, content);
            assert!(decoder.push(b"x", &mut |_| Ok(())).is_err(), "nothing follows the end");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = snapshot(b"some content");
        for cut in 0..bytes.len() {
            assert!(check_snapshot(&bytes[..cut]).is_err(), "a cut at {cut} was not noticed");
        }
        check_snapshot(&bytes).unwrap();
    }

    proptest! {
        #[test]
        fn every_flipped_byte_is_noticed(at in any::<proptest::sample::Index>(), by in 1..=255_u8) {
            let mut bytes = snapshot(&[9; 70_000]);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert!(check_snapshot(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_a_snapshot_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = check_snapshot(&bytes);
        }
    }
}

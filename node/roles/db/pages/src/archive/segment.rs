//! A file of entries, read from its beginning.

use std::io::{self, Read};

use super::format::{ArchiveId, END_BYTES, END_MARK, HEADER_BYTES, SegmentEnd, SegmentHeader};
use crate::entry::MAX_PART_BYTES;

/// Length and checksum before a record, time and log index in it.
const PREFIX_BYTES: usize = 8;
const FIELDS_BYTES: usize = 16;

/// An entry in an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// When it was proposed, milliseconds since 1970; never less than that of the one
    /// before.
    pub at_ms: u64,
    /// Its place in the log.
    pub index: u64,
    /// See [`crate::Entry`].
    pub entry: Vec<u8>,
}

impl Record {
    pub(crate) fn encode(at_ms: u64, index: u64, entry: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(PREFIX_BYTES + FIELDS_BYTES + entry.len());
        body.extend_from_slice(&[0; PREFIX_BYTES]);
        body.extend_from_slice(&at_ms.to_le_bytes());
        body.extend_from_slice(&index.to_le_bytes());
        body.extend_from_slice(entry);
        let length = (body.len() - PREFIX_BYTES) as u32;
        let sum = crc32fast::hash(&body[PREFIX_BYTES..]);
        body[..4].copy_from_slice(&length.to_le_bytes());
        body[4..8].copy_from_slice(&sum.to_le_bytes());
        body
    }
}

/// What comes next in a file of entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Record(Record),
    /// The file is whole.
    End(SegmentEnd),
    /// From this byte on it is cut off or damaged.
    Broken {
        offset: u64,
        what: String,
    },
}

/// Reads a file of entries. Any bytes may be given.
pub struct SegmentReader<R> {
    source: R,
    header: SegmentHeader,
    offset: u64,
    hasher: blake3::Hasher,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// What is wrong with it, or the source failed.
    pub fn begin(mut source: R) -> Result<SegmentReader<R>, String> {
        let mut bytes = [0; HEADER_BYTES];
        source.read_exact(&mut bytes).map_err(|error| cut(&error))?;
        let header = SegmentHeader::decode(&bytes)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        Ok(SegmentReader { source, header, offset: HEADER_BYTES as u64, hasher })
    }

    /// How the file begins.
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Whose it is.
    pub fn id(&self) -> ArchiveId {
        self.header.id
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// All records, and the end if the file is whole; otherwise where and why it is
    /// not. For checks: it keeps everything in memory.
    pub fn read_all(mut self) -> (Vec<Record>, Result<SegmentEnd, (u64, String)>) {
        let mut records = Vec::new();
        loop {
            match self.next() {
                Next::Record(record) => records.push(record),
                Next::End(end) => return (records, Ok(end)),
                Next::Broken { offset, what } => return (records, Err((offset, what))),
            }
        }
    }

    pub(crate) fn next(&mut self) -> Next {
        let offset = self.offset;
        match self.read_next() {
            Ok(next) => next,
            Err(what) => Next::Broken { offset, what },
        }
    }

    fn read_next(&mut self) -> Result<Next, String> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        if u32::from_le_bytes(length) == END_MARK {
            return self.read_end(&length);
        }
        let mut sum = [0; 4];
        self.read(&mut sum)?;
        let bytes = u32::from_le_bytes(length) as usize;
        if !(FIELDS_BYTES..=FIELDS_BYTES + MAX_PART_BYTES).contains(&bytes) {
            return Err(format!("a record of {bytes} bytes cannot be"));
        }
        let mut body = vec![0; bytes];
        self.read(&mut body)?;
        if crc32fast::hash(&body).to_le_bytes() != sum {
            return Err("a record's checksum is wrong".to_owned());
        }
        let number = |at: usize| {
            let mut one = [0; 8];
            one.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(one)
        };
        let (at_ms, index) = (number(0), number(8));
        self.hasher.update(&length).update(&sum).update(&body);
        self.offset += (PREFIX_BYTES + bytes) as u64;
        body.drain(..FIELDS_BYTES);
        Ok(Next::Record(Record { at_ms, index, entry: body }))
    }

    fn read_end(&mut self, mark: &[u8; 4]) -> Result<Next, String> {
        let mut bytes = [0; END_BYTES];
        bytes[..4].copy_from_slice(mark);
        self.read(&mut bytes[4..])?;
        let end = SegmentEnd::decode(&bytes)?;
        self.hasher.update(&bytes[..END_BYTES - 32]);
        if *self.hasher.finalize().as_bytes() != end.hash {
            return Err("its end does not fit what came before".to_owned());
        }
        let mut more = [0; 1];
        match self.source.read(&mut more) {
            Ok(0) => Ok(Next::End(end)),
            Ok(_) => Err("bytes follow its end".to_owned()),
            Err(error) => Err(cut(&error)),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.source.read_exact(bytes).map_err(|error| cut(&error))
    }
}

fn cut(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it is cut off".to_owned(),
        _ => format!("reading it failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::position::Position;

    fn whole(records: &[Record]) -> Vec<u8> {
        let parent = Position { generation: 1, epoch: 2, sequence: 3, hash: [4; 32] };
        let id = ArchiveId::of("test");
        let mut bytes = SegmentHeader { id, parent, log_index: 7, from_ms: 1 }.encode();
        for record in records {
            bytes.extend(Record::encode(record.at_ms, record.index, &record.entry));
        }
        let mut end = SegmentEnd {
            position: parent,
            log_index: 9,
            records: records.len() as u64,
            first_ms: 1,
            last_ms: 2,
            hash: [0; 32],
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        hasher.update(&end.encode()[..END_BYTES - 32]);
        end.hash = *hasher.finalize().as_bytes();
        bytes.extend(end.encode());
        bytes
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let entry = proptest::collection::vec(any::<u8>(), 0..60);
        let record = (any::<u64>(), any::<u64>(), entry);
        let record = record.prop_map(|(at_ms, index, entry)| Record { at_ms, index, entry });
        proptest::collection::vec(record, 0..6)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(records in records()) {
            let bytes = whole(&records);
            let (read, end) = SegmentReader::begin(bytes.as_slice()).unwrap().read_all();
            prop_assert_eq!(&read, &records);
            prop_assert_eq!(end.unwrap().records, records.len() as u64);
        }

        #[test]
        fn a_cut_or_changed_file_is_not_whole_and_what_is_before_the_damage_is_right(
            records in records(), at: prop::sample::Index, bit in 0..8u8, cut: bool,
        ) {
            let mut bytes = whole(&records);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1u8 << bit }
            match SegmentReader::begin(bytes.as_slice()) {
                Err(_) => prop_assert!(at < HEADER_BYTES),
                Ok(reader) => {
                    let (read, end) = reader.read_all();
                    let (offset, _) = end.expect_err("it is not whole");
                    prop_assert!(offset as usize <= at);
                    prop_assert_eq!(&read[..], &records[..read.len()]);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(reader) = SegmentReader::begin(bytes.as_slice()) {
                let _ = reader.read_all();
            }
        }
    }
}

//! Files of an archive: any bytes are read to an end, and what is accepted is written the
//! same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_pages::archive::{BaseHeader, SegmentEnd, SegmentHeader, SegmentReader};

const HEADER: usize = 104;

fuzz_target!(|input: &[u8]| {
    let [what, bytes @ ..] = input else { return };
    match what % 3 {
        0 => headers(bytes),
        1 => end(bytes),
        _ => segment(bytes),
    }
});

/// With a right checksum, so that the fields are reached.
fn headers(bytes: &[u8]) {
    let Some(body) = bytes.first_chunk::<{ HEADER - 4 }>() else { return };
    let mut header = [0; HEADER];
    header[..HEADER - 4].copy_from_slice(body);
    header[HEADER - 4..].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    if let Ok(read) = BaseHeader::decode(&header) {
        assert_eq!(read.encode(), header);
    }
    if let Ok(read) = SegmentHeader::decode(&header) {
        assert_eq!(read.encode(), header);
    }
}

fn end(bytes: &[u8]) {
    let Some(bytes) = bytes.first_chunk() else { return };
    if let Ok(read) = SegmentEnd::decode(bytes) {
        assert_eq!(read.encode(), bytes);
    }
}

/// As it is, and with right checksums of header and records.
fn segment(bytes: &[u8]) {
    if let Ok(reader) = SegmentReader::begin(bytes) {
        let _ = reader.read_all();
    }
    let mut whole = bytes.to_vec();
    if whole.len() < HEADER {
        return;
    }
    let sum = crc32fast::hash(&whole[..HEADER - 4]).to_le_bytes();
    whole[HEADER - 4..HEADER].copy_from_slice(&sum);
    let mut at = HEADER;
    while let Some(length) = whole.get(at..at + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let Some(body) = whole.get(at + 8..at.saturating_add(8).saturating_add(length)) else {
            break;
        };
        let sum = crc32fast::hash(body).to_le_bytes();
        whole[at + 4..at + 8].copy_from_slice(&sum);
        at += 8 + length;
    }
    if let Ok(reader) = SegmentReader::begin(whole.as_slice()) {
        let (records, end) = reader.read_all();
        if let Err((offset, _)) = end {
            assert!(offset as usize <= whole.len());
        }
        assert!(records.len() <= whole.len() / 24);
    }
}

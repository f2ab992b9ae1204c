//! Puts right checksums around arbitrary bytes. A mutation would otherwise
//! hardly ever get past them to what lies behind.

/// A record of the write-ahead log with this body, as it would lie at `offset`
/// in a segment.
pub fn wal_record(log_id: u64, segment: u64, offset: u64, batch: u64, body: &[u8]) -> Vec<u8> {
    let mut seed = crc32fast::Hasher::new();
    seed.update(&log_id.to_le_bytes());
    seed.update(&segment.to_le_bytes());
    let mut rest = Vec::with_capacity(12 + body.len());
    rest.extend_from_slice(&(body.len() as u32).to_le_bytes());
    rest.extend_from_slice(&batch.to_le_bytes());
    rest.extend_from_slice(body);
    let mut hasher = crc32fast::Hasher::new_with_initial(seed.finalize());
    hasher.update(&offset.to_le_bytes());
    hasher.update(&rest);
    let mut out = hasher.finalize().to_le_bytes().to_vec();
    out.extend_from_slice(&rest);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// The preamble of a segment of the write-ahead log.
pub fn wal_preamble(version: u32, log_id: u64, segment: u64) -> Vec<u8> {
    let mut out = b"rung-wal".to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    let numbers = [log_id.to_le_bytes(), segment.to_le_bytes()].concat();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&out);
    hasher.update(&numbers);
    out.extend_from_slice(&hasher.finalize().to_le_bytes());
    out.extend_from_slice(&numbers);
    out.resize(4096, 0);
    out
}

/// A snapshot with this header, in MessagePack, and these chunks.
pub fn snapshot<'a>(header: &[u8], chunks: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = b"RUNGSNAP".to_vec();
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&(header.len() as u32).to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(header).to_be_bytes());
    out.extend_from_slice(header);
    let (mut count, mut content) = (0_u64, 0_u64);
    for chunk in chunks.filter(|chunk| !chunk.is_empty()) {
        put_chunk(&mut out, chunk.len() as u32, count, chunk);
        count += 1;
        content += chunk.len() as u64;
    }
    let end = [count.to_be_bytes(), content.to_be_bytes()].concat();
    put_chunk(&mut out, 0, u64::MAX, &end);
    out
}

fn put_chunk(out: &mut Vec<u8>, length: u32, number: u64, bytes: &[u8]) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_be_bytes());
    hasher.update(bytes);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&hasher.finalize().to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Walks over the headers of a tar archive as a reader does and sets the
/// checksum of each.
pub fn fix_tar(archive: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = archive.get_mut(at..at + 512) {
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits: String = header[124..136]
            .iter()
            .map(|byte| char::from(*byte))
            .skip_while(|c| *c == ' ')
            .take_while(|c| c.is_digit(8))
            .collect();
        let size = usize::from_str_radix(&digits, 8).unwrap_or(0);
        let Some(next) = size.checked_next_multiple_of(512).and_then(|n| n.checked_add(at + 512))
        else {
            return;
        };
        at = next;
    }
}

/// One zstd frame (RFC 8878) with raw blocks: as good as compressed bytes to a
/// reader, and fast.
pub fn zstd_frame(content: &[u8]) -> Vec<u8> {
    // A window of 1 MiB, no content size, no checksum.
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 10 << 3];
    let mut blocks = content.chunks(128 * 1024).peekable();
    if content.is_empty() {
        out.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let header = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        out.extend_from_slice(&header.to_le_bytes()[..3]);
        out.extend_from_slice(block);
    }
    out
}

//! Preambles of segments, and the search for batches in damaged ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_fuzz::checksums::{wal_preamble, wal_record};
use rung_wal::record::{Record, Seed, decode, find_batch};
use rung_wal::segment::{Preamble, PreambleError};

// The first byte is the version of the preamble, the next two say where a whole
// batch is put into the rest.
fuzz_target!(|input: &[u8]| {
    let _ = Preamble::decode(input);
    let [version, high, low, rest @ ..] = input else { return };
    let preamble = Preamble::decode(&wal_preamble(u32::from(*version), 7, 9));
    match version {
        0 => assert_eq!(preamble, Err(PreambleError::Damaged)),
        1 => assert_eq!(preamble, Ok(Preamble { log_id: 7, segment: 9 })),
        newer => assert_eq!(preamble, Err(PreambleError::Newer(u32::from(*newer)))),
    }

    let seed = Seed::new(7, 9);
    assert_eq!(find_batch(rest, usize::MAX, seed), None);
    let from = usize::from(*version);
    check(rest, find_batch(rest, from, seed), from, seed);

    let mut segment = rest.to_vec();
    let at = usize::from(u16::from_be_bytes([*high, *low])) % 4096 & !7;
    let batch = wal_record(7, 9, at as u64, 3, b"\x01rungwal\0\0\0\0\0\0\0\0");
    segment.resize(segment.len().max(at + batch.len()), 0);
    segment[at..at + batch.len()].copy_from_slice(&batch);
    let found = find_batch(&segment, 0, seed);
    check(&segment, found, 0, seed);
    assert!(found.is_some_and(|(offset, _)| offset <= at), "a whole batch was not found");
});

fn check(bytes: &[u8], found: Option<(usize, u64)>, from: usize, seed: Seed) {
    let Some((offset, synced)) = found else { return };
    assert!(offset >= from && offset % 8 == 0);
    let read = decode(&bytes[offset..], offset as u64, seed).expect("what was found");
    assert_eq!(read.record, Record::Batch { synced });
}

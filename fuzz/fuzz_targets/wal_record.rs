//! Records of the write-ahead log. With a right checksum, decoding a record is
//! decoding its body, and what was read is written the same way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_fuzz::checksums::wal_record;
use rung_wal::record::{Decoded, Invalid, Record, Seed, decode, decode_body, encode};

fuzz_target!(|body: &[u8]| {
    let seed = Seed::new(7, 9);
    let _ = decode(body, 4096, seed);
    let record = wal_record(7, 9, 4096, 3, body);
    let (decoded, read) = (decode(&record, 4096, seed), decode_body(body));
    match (&decoded, &read) {
        (Ok(Decoded { batch: 3, record: one, bytes }), Ok(other)) => {
            assert_eq!(one, other);
            assert_eq!(*bytes, record.len());
            check(one, seed);
        }
        (Err(one), Err(other)) => assert_eq!(one, other),
        _ => panic!("{decoded:?} with a checksum, {read:?} without"),
    }
    assert_eq!(decode(&record, 4104, seed), Err(Invalid::Checksum), "at another place");
    let other = Seed::new(7, 10);
    assert_eq!(decode(&record, 4096, other), Err(Invalid::Checksum), "in another segment");
});

fn check(record: &Record<'_>, seed: Seed) {
    let mut out = vec![0; 8];
    let bytes = encode(&mut out, 4088, seed, 3, record);
    assert_eq!(
        decode(&out[8..], 4096, seed),
        Ok(Decoded { batch: 3, record: record.clone(), bytes })
    );
}

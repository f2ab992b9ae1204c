//! Entries, markers and snapshots of a database: what is accepted is written the
//! same way, and a byte too many is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_pages::{Entry, Marker, check_snapshot};

fuzz_target!(|input: &[u8]| {
    let [what, bytes @ ..] = input else { return };
    match what % 3 {
        0 => entry(bytes),
        1 => marker(bytes),
        _ => snapshot(bytes),
    }
});

fn entry(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    match entry {
        Entry::Pages(part) => {
            assert_eq!(part.encode(), bytes);
            assert!(part.pages.windows(2).all(|pair| pair[0] < pair[1]));
        }
        Entry::Barrier { .. } => {
            let longer = [bytes, &[0]].concat();
            assert!(Entry::decode(&longer).is_err());
        }
    }
}

/// With a right checksum, so that the fields are reached.
fn marker(bytes: &[u8]) {
    let sum = crc32fast::hash(bytes).to_le_bytes();
    let whole = [bytes, &sum].concat();
    if let Ok(marker) = Marker::decode(&whole) {
        assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
    }
}

fn snapshot(bytes: &[u8]) {
    let _ = check_snapshot(&mut &*bytes);
    let header = bytes
        .get(..152)
        .map(|header| [header, &crc32fast::hash(header).to_le_bytes(), &bytes[152..]].concat());
    if let Some(whole) = header {
        let _ = check_snapshot(&mut whole.as_slice());
    }
}

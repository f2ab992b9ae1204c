//! Snapshots of a group, as they are and with right checksums.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_consensus::check_snapshot;
use rung_fuzz::checksums::snapshot;

// The first byte chooses between bytes as they are and, with the second for its
// length, a header and chunks that get right checksums.
fuzz_target!(|input: &[u8]| {
    let [choice, length, bytes @ ..] = input else { return };
    if choice % 2 == 0 {
        let _ = check_snapshot(bytes);
        return;
    }
    let (header, content) = bytes.split_at(usize::from(*length).min(bytes.len()));
    let whole = snapshot(header, content.chunks(usize::from(*choice)));
    if check_snapshot(&whole).is_ok() {
        let cut = whole.len() - 1 - content.len() % 24;
        assert!(check_snapshot(&whole[..cut]).is_err(), "a cut at {cut}");
        let mut flipped = whole;
        let at = usize::from(*length) * 7 % flipped.len();
        flipped[at] ^= 1 << (choice >> 5);
        assert!(check_snapshot(&flipped).is_err(), "a flipped bit in byte {at}");
    }
});

//! Requests between the replicas of a group.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_consensus::check_request;

// With an odd first byte the rest gets the length of its header from the second
// and third, so that a change of the header does not have to guess it.
fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    let accepted = check_request(bytes).is_ok();
    if accepted {
        assert!(check_request(&[bytes, &[0]].concat()).is_err(), "a byte too many");
        assert!(check_request(&bytes[..bytes.len() - 1]).is_err(), "a byte too few");
    }
    if choice % 2 == 1 && bytes.len() > 2 {
        let length = usize::from(bytes[0]) % (bytes.len() - 1);
        let framed = [&(length as u32).to_be_bytes(), &bytes[1..]].concat();
        let _ = check_request(&framed);
    }
});

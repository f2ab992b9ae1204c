//! Membership datagrams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_membership::decode_packet;

fuzz_target!(|input: &[u8]| {
    let Ok(packet) = decode_packet(input) else { return };
    assert!(packet.updates.len() <= input.len() / 20);
    assert!(decode_packet(&input[..input.len() - 1]).is_err(), "a byte too few");
    if !packet.updates.is_empty() {
        assert!(decode_packet(&[input, &[0]].concat()).is_err(), "a byte too many");
    }
});

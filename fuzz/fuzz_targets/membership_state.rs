//! The state that members exchange.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_membership::decode_state;

fuzz_target!(|input: &[u8]| {
    let Ok(members) = decode_state(input) else { return };
    assert!(!members.is_empty() && members.len() <= 8192);
    assert!(decode_state(&input[..input.len() - 1]).is_err());
    assert!(decode_state(&[input, &[0]].concat()).is_err());
});

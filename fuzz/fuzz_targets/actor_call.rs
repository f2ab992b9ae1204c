//! Calls to actors from other nodes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_runtime::decode_call;

fuzz_target!(|input: &[u8]| {
    if let Ok((_, _, name, body)) = decode_call(input) {
        assert!(name.len() + body.len() <= input.len());
        assert!(decode_call(&[input, &[0]].concat()).is_err(), "a byte too many");
        assert!(decode_call(&input[..input.len() - 1]).is_err(), "a byte too few");
    }
});

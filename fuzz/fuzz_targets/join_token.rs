//! Join tokens: one text for each token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_transport::JoinToken;

fuzz_target!(|text: &str| {
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string(), text);
    }
});

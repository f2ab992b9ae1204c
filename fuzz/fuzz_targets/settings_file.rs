//! The settings file of `rungd`, and what `--roles` takes.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The node is a program, so its module is taken from its source.
#[expect(dead_code, reason = "only the parsers are called here")]
#[path = "../../node/src/options.rs"]
mod options;

fuzz_target!(|text: &str| {
    let _ = options::parse_settings(text);
    let _ = options::parse_pins(text);
});

//! What clients of databases send, from the first message and SCRAM on: every body is
//! read within its own bytes, and nobody gets in by chance.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rung_db::parse_any(bytes));

//! What nodes send each other for their clients' sessions: frames come to the same in
//! any pieces; requests and answers are written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rung_db::parse_link(bytes));

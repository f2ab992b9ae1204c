//! Entries of a group's log.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_consensus::check_entry;

fuzz_target!(|input: &[u8]| {
    let accepted = check_entry(input).is_ok();
    match input.first() {
        None => assert!(!accepted),
        Some(0) => assert_eq!(accepted, input.len() == 1),
        Some(1) => assert!(accepted),
        Some(2) if accepted => assert!(check_entry(&[input, &[0]].concat()).is_err()),
        Some(2) => {}
        Some(_) => assert!(!accepted),
    }
});

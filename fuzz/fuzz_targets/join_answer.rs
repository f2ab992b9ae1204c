//! The answer of a seed that a node asked to be let in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_proto::encoding;
use rung_transport::{JoinError, parse_join_answer};

fuzz_target!(|input: &[u8]| {
    match parse_join_answer(input) {
        Ok(body) => assert_eq!(input, [&[0], &body[..]].concat()),
        Err(JoinError::Refused(failure)) => {
            let again = [vec![1], encoding::encode(&failure)].concat();
            assert_eq!(parse_join_answer(&again), Err(JoinError::Refused(failure)));
            let with_more = [input, &[0]].concat();
            assert!(matches!(parse_join_answer(&with_more), Err(JoinError::NoAnswer(_))));
        }
        Err(JoinError::NoAnswer(why)) => assert!(!why.is_empty()),
        Err(other) => panic!("{other} is no reading of bytes"),
    }
});

//! Heads of responses, compared with a second, naive reading as those of
//! requests are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_fuzz::http::{check_fields, check_lengths, check_split_scan, header_lines};
use rung_lb::head::{BodyLength, HeadLimits};
use rung_lb::request_head::Method;
use rung_lb::response_head::{ResponseHead, parse_response};

// The first byte chooses the method of the request that is answered.
fuzz_target!(|input: &[u8]| {
    let Some((choice, input)) = input.split_first() else { return };
    let method = if choice % 4 == 0 { Method::Head } else { Method::Get };
    let limits = HeadLimits { head_bytes: 4096, target_bytes: 256, fields: 40 };
    check_split_scan(input);
    match parse_response(input, method, &limits) {
        Ok(Some((head, length))) => {
            check(&head, &input[..length], method);
            let alone = parse_response(&input[..length], method, &limits).expect("as above");
            assert_eq!(alone.expect("complete as above").0.raw, head.raw);
        }
        Ok(None) => {
            for cut in 0..input.len() {
                assert!(matches!(parse_response(&input[..cut], method, &limits), Ok(None)));
            }
        }
        Err(error) => assert_eq!(error.status, 400),
    }
});

fn check(head: &ResponseHead, bytes: &[u8], method: Method) {
    assert_eq!(head.raw, bytes);
    let (start, lines) = header_lines(bytes);
    check_fields(&lines, &head.fields, &head.raw);
    assert!(start.starts_with(b"HTTP/1.0 ") || start.starts_with(b"HTTP/1.1 "), "{start:?}");
    let http10 = start[7] == b'0';
    let status = std::str::from_utf8(&start[9..12]).expect("three digits");
    assert_eq!(status.parse(), Ok(head.status));
    let rest = &start[12..];
    assert!(rest.is_empty() || rest[0] == b' ');
    assert!(!rest.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f));

    let announced = check_lengths(&lines);
    let never = matches!(head.status, 100..200 | 204 | 304) || method == Method::Head;
    let expected = match announced {
        _ if never => BodyLength::Empty,
        None => BodyLength::UntilClose,
        Some(length) => length,
    };
    assert_eq!(head.body(), expected);
    assert!(!(http10 && expected == BodyLength::Chunked));
    assert!(!(head.keep_alive && head.body() == BodyLength::UntilClose));
    assert!(head.upgrade.is_none() || head.status == 101);
}

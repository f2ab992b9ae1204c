//! Heads of requests. What is accepted is compared with a second, naive reading
//! of the same bytes: if the two differ, another server behind the balancer may
//! differ too, which is how requests are smuggled.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_fuzz::http::{check_fields, check_lengths, check_split_scan, header_lines};
use rung_lb::fields::FieldKind;
use rung_lb::head::{BodyLength, HeadLimits};
use rung_lb::request_head::{RequestHead, leading_empty_lines, parse_request, split_port};

fuzz_target!(|input: &[u8]| {
    let limits = HeadLimits { head_bytes: 4096, target_bytes: 256, fields: 40 };
    let skipped = leading_empty_lines(input);
    check_split_scan(&input[skipped..]);
    let parsed = parse_request(input, &limits);
    match parsed {
        Ok(Some((head, length))) => {
            check(&head, &input[skipped..length]);
            // What follows a head does not matter to it.
            let alone = parse_request(&input[..length], &limits).expect("as above");
            let (alone, again) = alone.expect("complete as above");
            assert_eq!((alone.raw, again), (head.raw, length));
        }
        // Whatever is a beginning stays one, however much of it is there.
        Ok(None) => {
            for cut in 0..input.len() {
                assert!(matches!(parse_request(&input[..cut], &limits), Ok(None)), "cut at {cut}");
            }
        }
        Err(error) => assert!((400..600).contains(&error.status)),
    }
});

fn check(head: &RequestHead, bytes: &[u8]) {
    assert_eq!(head.raw, bytes);
    let (start, lines) = header_lines(bytes);
    check_fields(&lines, &head.fields, &head.raw);
    let mut words = start.split(|byte| *byte == b' ');
    let [Some(method), Some(target), Some(version), None] =
        [words.next(), words.next(), words.next(), words.next()]
    else {
        panic!("a request line of other than three words");
    };
    assert_eq!(head.bytes(head.method_name), method);
    assert_eq!(version, if head.http10 { b"HTTP/1.0" } else { b"HTTP/1.1" });
    assert!(target.iter().all(u8::is_ascii_graphic));
    let path = head.path();
    assert!(path == b"*" || path[0] == b'/', "the path is {path:?}");
    assert!(target.ends_with(head.bytes(head.path)));

    let hosts = lines.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"host")).count();
    assert!(hosts == 1 || (hosts == 0 && head.http10), "{hosts} hosts");
    let host = head.bytes(head.host);
    assert!(
        host.iter().all(u8::is_ascii_graphic) && !host.contains(&b'/') && !host.contains(&b'@')
    );
    let (name, port) = split_port(host);
    assert!(name.len() + port.len() <= host.len() && port.iter().all(u8::is_ascii_digit));

    let announced = check_lengths(&lines);
    let expected = announced.unwrap_or(BodyLength::Empty);
    assert_eq!(head.body(), expected);
    assert!(!(head.http10 && expected == BodyLength::Chunked));
    assert!(head.upgrade.is_none() || head.is_without_body());
    assert!(head.fields.iter().filter(|f| f.kind == FieldKind::Host).count() <= 1);
}

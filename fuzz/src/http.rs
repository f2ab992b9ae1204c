//! A second reading of HTTP heads, as naive as a simple server's.

use rung_lb::fields::{Field, is_token};
use rung_lb::head::{BodyLength, HeadScanner};

/// A field line: its name and its value without blanks around it.
pub type Line<'a> = (&'a [u8], &'a [u8]);

/// The start line and the field lines of a complete head. Panics where the
/// grammar of RFC 9112 is broken.
pub fn header_lines(head: &[u8]) -> (&[u8], Vec<Line<'_>>) {
    let body = head.strip_suffix(b"\r\n\r\n").expect("a head ends in an empty line");
    let mut lines = Vec::new();
    let mut rest = body;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n");
        lines.push(&rest[..end.unwrap_or(rest.len())]);
        match end {
            Some(end) => rest = &rest[end + 2..],
            None => break,
        }
    }
    for line in &lines {
        let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
        assert!(!line.iter().any(control), "a control character in {line:?}");
    }
    let start = lines.remove(0);
    let fields = lines.into_iter().map(|line| {
        let colon = line.iter().position(|byte| *byte == b':').expect("a field has a colon");
        assert!(is_token(&line[..colon]), "no field name: {line:?}");
        (&line[..colon], line[colon + 1..].trim_ascii())
    });
    (start, fields.collect())
}

/// Both readings must have found the same fields.
pub fn check_fields(lines: &[Line<'_>], fields: &[Field], raw: &[u8]) {
    let found: Vec<Line<'_>> =
        fields.iter().map(|field| (field.name.get(raw), field.value.get(raw))).collect();
    assert_eq!(lines, found);
}

/// The one length that the fields announce; panics when they announce two.
pub fn check_lengths(lines: &[Line<'_>]) -> Option<BodyLength> {
    let values = |wanted: &[u8]| -> Vec<&[u8]> {
        let named = lines.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        named.map(|(_, value)| *value).collect()
    };
    match (&values(b"content-length")[..], &values(b"transfer-encoding")[..]) {
        ([], []) => None,
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit));
            let digits = std::str::from_utf8(length).expect("digits");
            Some(BodyLength::Known(digits.parse().expect("a number")))
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"));
            Some(BodyLength::Chunked)
        }
        (lengths, codings) => panic!("accepted {lengths:?} and {codings:?}"),
    }
}

/// The end of a head is found at the same place whatever the pieces it came in.
pub fn check_split_scan(input: &[u8]) {
    let whole = HeadScanner::default().find_end(input);
    for step in [1, 2, 7] {
        let mut scanner = HeadScanner::default();
        let mut end = 0;
        let pieces = loop {
            end = (end + step).min(input.len());
            match scanner.find_end(&input[..end]) {
                Ok(None) if end < input.len() => {}
                other => break other,
            }
        };
        assert_eq!(pieces, whole, "pieces of {step}");
    }
}

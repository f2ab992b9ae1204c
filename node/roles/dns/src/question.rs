//! The hand parser for ordinary questions: one question, at most an OPT record.
//! It is total: any bytes give a question or the reason why not.

use crate::edns::{self, Edns, Options};
use crate::name;

/// The length of a DNS header.
pub(crate) const HEADER: usize = 12;

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const SOA: u16 = 6;
pub(crate) const AAAA: u16 = 28;
pub(crate) const IXFR: u16 = 251;
pub(crate) const AXFR: u16 = 252;
pub(crate) const ANY: u16 = 255;
pub(crate) const CLASS_IN: u16 = 1;

/// The bits of the header's third and fourth byte.
pub(crate) const QR: u8 = 0x80;
pub(crate) const AA: u8 = 0x04;
pub(crate) const TC: u8 = 0x02;
pub(crate) const RD: u8 = 0x01;
pub(crate) const CD: u8 = 0x10;

/// An ordinary question, as it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question<'a> {
    /// To be returned.
    pub id: u16,
    /// Recursion desired; returned, never acted on.
    pub recursion_desired: bool,
    /// Checking disabled; returned (RFC 4035 section 3.1.6).
    pub checking_disabled: bool,
    /// The name in wire format, its case kept.
    pub name: &'a [u8],
    /// The record type.
    pub kind: u16,
    /// The class; 1 is Internet.
    pub class: u16,
    /// What the OPT record says, if there is one.
    pub edns: Option<Edns>,
}

/// Why bytes are no ordinary question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotOrdinary {
    /// Shorter than a header: nothing can be answered.
    Short,
    /// A response. Answering it could start a loop of two servers.
    Response,
    /// Another operation than a query: NOTIFY, UPDATE, ...
    Opcode,
    /// Something that only a whole decoder can judge: further records,
    /// compressed names, not exactly one question, cut or trailing bytes.
    Unusual,
}

/// Reads an ordinary question.
///
/// # Errors
/// Says why the bytes are none; it never panics.
pub fn parse_question(query: &[u8]) -> Result<Question<'_>, NotOrdinary> {
    let (header, rest) = query.split_first_chunk::<HEADER>().ok_or(NotOrdinary::Short)?;
    if header[2] & QR != 0 {
        return Err(NotOrdinary::Response);
    }
    if header[2] & 0x78 != 0 {
        return Err(NotOrdinary::Opcode);
    }
    // One question, no answers, no authorities, at most 255 additional records.
    if header[4..11] != [0, 1, 0, 0, 0, 0, 0] || header[11] > 1 {
        return Err(NotOrdinary::Unusual);
    }
    let (length, _) = name::measure(rest).ok_or(NotOrdinary::Unusual)?;
    let (name, rest) = rest.split_at(length);
    let &[kind_high, kind_low, class_high, class_low, ref additional @ ..] = rest else {
        return Err(NotOrdinary::Unusual);
    };
    let edns = match (header[11], additional) {
        (0, []) => None,
        (1, record) => Some(read_opt(record).ok_or(NotOrdinary::Unusual)?),
        _ => return Err(NotOrdinary::Unusual),
    };
    Ok(Question {
        id: u16::from_be_bytes([header[0], header[1]]),
        recursion_desired: header[2] & RD != 0,
        checking_disabled: header[3] & CD != 0,
        name,
        kind: u16::from_be_bytes([kind_high, kind_low]),
        class: u16::from_be_bytes([class_high, class_low]),
        edns,
    })
}

/// Reads an OPT record that ends where the bytes end.
fn read_opt(record: &[u8]) -> Option<Edns> {
    let (fixed, data) = record.split_first_chunk::<11>()?;
    let &[root, kind_high, kind_low, size_high, size_low, _, version, flags, _, high, low] = fixed;
    let is_opt = root == 0 && u16::from_be_bytes([kind_high, kind_low]) == edns::OPT;
    if !is_opt || usize::from(u16::from_be_bytes([high, low])) != data.len() {
        return None;
    }
    Some(Edns {
        payload: u16::from_be_bytes([size_high, size_low]),
        version,
        dnssec_ok: flags & 0x80 != 0,
        options: Options::read(data),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: &[u8] = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x03wWw\x01a\0\0\x1c\0\x01";

    #[test]
    fn a_plain_question_is_read() {
        let question = parse_question(PLAIN).unwrap();
        assert_eq!(question.id, 0x1234);
        assert!(question.recursion_desired && question.checking_disabled);
        assert_eq!(question.name, b"\x03wWw\x01a\0");
        assert_eq!((question.kind, question.class, question.edns), (AAAA, CLASS_IN, None));
    }

    #[test]
    fn an_opt_record_is_read_to_its_end() {
        let mut query = PLAIN.to_vec();
        query[11] = 1;
        query.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x04\0\x03\0\0");
        let edns = parse_question(&query).unwrap().edns.unwrap();
        assert_eq!((edns.payload, edns.version, edns.dnssec_ok), (1232, 0, true));
        assert_eq!(edns.options, Some(Options::default()));
        query.push(0);
        assert_eq!(parse_question(&query), Err(NotOrdinary::Unusual));
    }

    #[test]
    fn what_is_no_ordinary_question_is_told_apart() {
        assert_eq!(parse_question(&PLAIN[..11]), Err(NotOrdinary::Short));
        assert_eq!(parse_question(&PLAIN[..20]), Err(NotOrdinary::Unusual));
        let with = |at: usize, byte: u8| {
            let mut query = PLAIN.to_vec();
            query[at] = byte;
            query
        };
        assert_eq!(parse_question(&with(2, 0x80)), Err(NotOrdinary::Response));
        assert_eq!(parse_question(&with(2, 0x28)), Err(NotOrdinary::Opcode));
        for at in [4, 5, 6, 7, 8, 9, 10, 11] {
            let byte = if at == 5 { 2 } else { 1 };
            assert_eq!(parse_question(&with(at, byte)), Err(NotOrdinary::Unusual), "{at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse_question(&bytes);
            let mut ordinary = PLAIN[..12].to_vec();
            ordinary[11] = bytes.len() as u8 & 1;
            ordinary.extend(bytes);
            let _ = parse_question(&ordinary);
        }
    }
}

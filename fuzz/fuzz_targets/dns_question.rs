//! The hand parser of ordinary questions and of EDNS options, against hickory as
//! the oracle.
#![no_main]

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinEncodable;
use libfuzzer_sys::fuzz_target;
use rung_dns::{NotOrdinary, Options, parse_question};

fuzz_target!(|query: &[u8]| {
    let _ = Options::read(query);
    match parse_question(query) {
        Ok(question) => {
            assert!(query.len() >= 12 && query[2] & 0xf8 == 0);
            let end = 12 + question.name.len();
            assert_eq!(&query[12..end], question.name);
            assert!(question.name.len() <= 255 && question.name.last() == Some(&0));
            assert_eq!(question.id.to_be_bytes(), query[..2]);
            let Ok(message) = Message::from_vec(query) else { return };
            assert_eq!(message.queries.len(), 1);
            let asked = &message.queries[0];
            assert_eq!(u16::from(asked.query_type()), question.kind);
            assert_eq!(u16::from(asked.query_class()), question.class);
            let name = asked.name().to_bytes().expect("a name that was read");
            assert!(name.eq_ignore_ascii_case(question.name), "{name:?}");
            assert_eq!(message.edns.is_some(), question.edns.is_some());
            if let (Some(theirs), Some(ours)) = (&message.edns, question.edns) {
                assert_eq!(theirs.version(), ours.version);
                assert_eq!(theirs.flags().dnssec_ok, ours.dnssec_ok);
                // Payloads below 512 mean 512 (RFC 6891 section 6.2.5).
                assert_eq!(theirs.max_payload(), ours.payload.max(512));
            }
        }
        Err(NotOrdinary::Short) => assert!(query.len() < 12),
        Err(NotOrdinary::Response) => assert!(query[2] & 0x80 != 0),
        Err(NotOrdinary::Opcode) => assert!(query[2] & 0x78 != 0),
        Err(NotOrdinary::Unusual) => assert!(query.len() >= 12),
    }
});

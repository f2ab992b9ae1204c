//! The query part of requests to the admin API.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_admin::query::{Query, decode};

const ALLOWED: [&str; 5] = ["since", "follow", "app", "lines", "token"];

fuzz_target!(|text: &str| {
    if let Some(decoded) = decode(text) {
        assert!(decoded.len() <= text.len() && !decoded.contains('\0'));
        assert_eq!(decode(&encode(&decoded)), Some(decoded));
    }
    let Ok(query) = Query::parse(text, &ALLOWED) else { return };
    assert!(text.len() <= Query::MAX_BYTES);
    let _ = (query.flag("follow"), query.value::<u64>("since"), query.value::<usize>("lines"));
    let pairs: Vec<String> = ALLOWED
        .iter()
        .filter_map(|name| Some(format!("{name}={}", encode(&query.text(name)?))))
        .collect();
    let again = pairs.join("&");
    if again.len() <= Query::MAX_BYTES {
        assert_eq!(Query::parse(&again, &ALLOWED), Ok(query));
    }
});

fn encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

//! Values of every type, as text and in binary: what is read is written, and read
//! again as the same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_sql::{Context, PgType, TypeUse, decode_binary, decode_text, encode_binary, encode_text};
use rusqlite::types::{Value, ValueRef};

const TYPES: [PgType; 20] = [
    PgType::Bool,
    PgType::Int2,
    PgType::Int4,
    PgType::Int8,
    PgType::Oid,
    PgType::Float4,
    PgType::Float8,
    PgType::Numeric,
    PgType::Text,
    PgType::Char,
    PgType::Name,
    PgType::Bytea,
    PgType::Date,
    PgType::Time,
    PgType::Timestamp,
    PgType::Timestamptz,
    PgType::Interval,
    PgType::Json,
    PgType::Jsonb,
    PgType::Uuid,
];

fuzz_target!(|input: &[u8]| {
    let [which, bytes @ ..] = input else { return };
    let base = TYPES[usize::from(which % 20)].clone();
    let base = if which & 0x40 == 0 { base } else { PgType::Array(Box::new(base)) };
    let of = TypeUse { base, modifier: -1 };
    let context = Context::new("rung", "fuzz");
    let read = match which & 0x80 {
        0 => decode_text(bytes, &of, &context),
        _ => decode_binary(bytes, &of),
    };
    let Ok(value) = read else { return };
    if matches!(value, Value::Null) {
        return;
    }
    let mut text = Vec::new();
    encode_text(&mut text, ValueRef::from(&value), &of, &context).expect("a value has a text");
    let again = decode_text(&text, &of, &context);
    assert_eq!(again.as_ref(), Ok(&value), "{of:?} {:?}", String::from_utf8_lossy(&text));
    let mut binary = Vec::new();
    if encode_binary(&mut binary, ValueRef::from(&value), &of).is_ok() {
        let again = decode_binary(&binary, &of);
        assert_eq!(again.as_ref(), Ok(&value), "{of:?} {binary:?}");
    }
});

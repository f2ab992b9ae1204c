//! Values against what PostgreSQL 15 makes of them, see `expectations.tsv`: type,
//! text as it is given, text as it is shown or `!` with an error's code and message,
//! binary format in hexadecimal.

use proptest::prelude::*;
use rusqlite::types::{Value, ValueRef};

use super::array::parse_hex;
use super::{decode_binary, decode_text, encode_binary, encode_text};
use crate::{Context, PgType, TypeUse};

const EXPECTATIONS: &str = include_str!("tests/expectations.tsv");

fn types() -> Vec<PgType> {
    use PgType as T;
    let plain = [
        T::Bool,
        T::Int2,
        T::Int4,
        T::Int8,
        T::Oid,
        T::Float4,
        T::Float8,
        T::Numeric,
        T::Text,
        T::Varchar,
        T::Char,
        T::Name,
        T::Bytea,
        T::Date,
        T::Time,
        T::Timestamp,
        T::Timestamptz,
        T::Interval,
        T::Json,
        T::Jsonb,
        T::Uuid,
    ];
    let arrays = plain.iter().map(|element| T::Array(Box::new(element.clone())));
    plain.iter().cloned().chain(arrays).collect()
}

fn shown(value: &Value, data_type: &TypeUse) -> String {
    let mut out = Vec::new();
    encode_text(&mut out, ValueRef::from(value), data_type, &Context::new("", "")).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn values_are_read_and_shown_as_postgresql_does() {
    let context = Context::new("", "");
    let mut wrong = Vec::new();
    for line in EXPECTATIONS.lines() {
        let fields: Vec<String> = line.split('\t').map(|field| field.replace('␤', "\n")).collect();
        let [name, given, expected, binary] = fields.as_slice() else { panic!("{line}") };
        let data_type = TypeUse::plain(PgType::from_name(name).unwrap());
        let value = match decode_text(given.as_bytes(), &data_type, &context) {
            Ok(value) => value,
            Err(error) => {
                let seen = format!("!{} {}", error.state.0, error.message);
                if seen != *expected {
                    wrong.push(format!("{name} {given:?}: {seen} in place of {expected}"));
                }
                continue;
            }
        };
        let seen = shown(&value, &data_type);
        if seen != *expected {
            wrong.push(format!("{name} {given:?}: {seen} in place of {expected}"));
            continue;
        }
        let mut bytes = Vec::new();
        encode_binary(&mut bytes, ValueRef::from(&value), &data_type).unwrap();
        if parse_hex(binary).as_ref() != Some(&bytes) {
            wrong.push(format!("{name} {given:?}: {bytes:02x?} in place of {binary}"));
            continue;
        }
        let back = decode_binary(&bytes, &data_type).unwrap();
        if back != value {
            wrong.push(format!("{name} {given:?}: {back:?} in place of {value:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Both formats give the value back.
fn survives(value: &Value, data_type: &PgType) {
    let data_type = TypeUse::plain(data_type.clone());
    let text = shown(value, &data_type);
    let read = decode_text(text.as_bytes(), &data_type, &Context::new("", "")).unwrap();
    assert_eq!(read, *value, "{} as {text}", data_type.display_name());
    let mut bytes = Vec::new();
    encode_binary(&mut bytes, ValueRef::from(value), &data_type).unwrap();
    assert_eq!(decode_binary(&bytes, &data_type).unwrap(), *value);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn numbers_and_moments_survive_both_formats(
        int in any::<i64>(),
        float in any::<f64>().prop_filter("is stored", |float| !float.is_nan()),
        days in -2_451_545_i64..2_145_031_948,
        time in 0_i64..86_400_000_000,
        moment in -211_813_488_000_000_000_i64..9_223_371_331_200_000_000,
    ) {
        survives(&Value::Integer(int), &PgType::Int8);
        survives(&Value::Integer(i64::from(int as i32)), &PgType::Int4);
        survives(&Value::Real(float), &PgType::Float8);
        survives(&Value::Integer(days), &PgType::Date);
        survives(&Value::Integer(time), &PgType::Time);
        survives(&Value::Integer(moment), &PgType::Timestamp);
        survives(&Value::Integer(moment), &PgType::Timestamptz);
    }

    #[test]
    fn numerics_and_intervals_survive_both_formats(
        digits in "-?[1-9][0-9]{0,40}(\\.[0-9]{1,30})?",
        (months, days, micros) in (any::<i32>(), any::<i32>(), -9_000_000_000_000_000_i64..9_000_000_000_000_000),
    ) {
        survives(&Value::Text(digits), &PgType::Numeric);
        let interval = super::interval::Interval { months, days, micros };
        survives(&Value::Text(interval.to_stored()), &PgType::Interval);
    }

    #[test]
    fn texts_bytes_and_arrays_survive_both_formats(
        text in "[^\\x00]{0,30}",
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        items in proptest::collection::vec(proptest::option::of("[^\\x00]{0,8}"), 1..6),
    ) {
        survives(&Value::Text(text), &PgType::Text);
        survives(&Value::Blob(bytes), &PgType::Bytea);
        let items = items.into_iter().map(|item| item.map_or(Value::Null, Value::Text)).collect();
        let array = super::array::ArrayValue::of(items).to_stored();
        survives(&Value::Text(array), &PgType::Array(Box::new(PgType::Text)));
    }

    #[test]
    fn decoders_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        text in "[-+0-9a-zA-Z:./, {}\\[\\]\"\\\\]{0,40}",
    ) {
        let context = Context::new("", "");
        for base in types() {
            let data_type = TypeUse::plain(base);
            let _ = decode_binary(&bytes, &data_type);
            let _ = decode_text(&bytes, &data_type, &context);
            if let Ok(value) = decode_text(text.as_bytes(), &data_type, &context) {
                let _ = shown(&value, &data_type);
            }
        }
    }
}

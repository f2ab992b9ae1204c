//! Records: stored as arrays of their fields, shown in parentheses.

use rusqlite::types::{Value, ValueRef};

use super::encode;
use super::time_zone::TimeZone;
use crate::{PgType, SqlError};

/// `(1,"a b",)`: nothing stands for NULL.
pub(super) fn write_text(
    out: &mut Vec<u8>,
    fields: &[(String, PgType)],
    items: &[Value],
    zone: &TimeZone,
) -> Result<(), SqlError> {
    out.push(b'(');
    for (place, ((_, data_type), item)) in fields.iter().zip(items).enumerate() {
        if place > 0 {
            out.push(b',');
        }
        if *item != Value::Null {
            let text = encode::to_text(ValueRef::from(item), data_type, zone)?;
            write_field(out, &text);
        }
    }
    out.push(b')');
    Ok(())
}

/// Quotes and backslashes within quotes stand twice.
fn write_field(out: &mut Vec<u8>, text: &str) {
    let is_special =
        |character: char| matches!(character, '"' | '\\' | '(' | ')' | ',' | ' ' | '\t'..='\r');
    if !text.is_empty() && !text.contains(is_special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(byte);
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// The number of fields; each with its type's oid and its length, -1 for NULL.
pub(super) fn write_binary(
    out: &mut Vec<u8>,
    fields: &[(String, PgType)],
    items: &[Value],
) -> Result<(), SqlError> {
    out.extend_from_slice(&(fields.len() as i32).to_be_bytes());
    for ((_, data_type), item) in fields.iter().zip(items) {
        out.extend_from_slice(&data_type.oid().to_be_bytes());
        let start = out.len();
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        if *item != Value::Null {
            encode::write_binary(out, ValueRef::from(item), data_type)?;
            let length = (out.len() - start - 4) as i32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::encode_binary;
    use crate::{Context, TypeUse};

    fn sample() -> (Value, TypeUse) {
        let fields = [("a", PgType::Int2), ("b", PgType::Text), ("c", PgType::Bool)];
        let fields = fields.map(|(name, base)| (name.to_owned(), base));
        let stored = Value::Text("[258,\"a, b\",null]".to_owned());
        (stored, TypeUse::plain(PgType::Record(fields.to_vec())))
    }

    #[test]
    fn a_record_is_shown_in_parentheses() {
        let (stored, data_type) = sample();
        let mut out = Vec::new();
        let context = Context::new("me", "mine");
        encode::encode_text(&mut out, (&stored).into(), &data_type, &context).unwrap();
        assert_eq!(out, b"(258,\"a, b\",)");
    }

    #[test]
    fn a_record_in_binary_tells_the_types_of_its_fields() {
        let (stored, data_type) = sample();
        let mut out = Vec::new();
        encode_binary(&mut out, (&stored).into(), &data_type).unwrap();
        let fields: [&[u8]; 7] = [
            &[0, 0, 0, 3],
            &[0, 0, 0, 21, 0, 0, 0, 2, 1, 2],
            &[0, 0, 0, 25, 0, 0, 0, 4],
            b"a, b",
            &[0, 0, 0, 16],
            &[255, 255, 255, 255],
            &[],
        ];
        assert_eq!(out, fields.concat());
    }

    #[test]
    fn what_is_special_in_a_field_is_quoted() {
        let shown = |text: &str| {
            let mut out = Vec::new();
            write_field(&mut out, text);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown("plain-'é'"), "plain-'é'");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\tb"), "\"a\tb\"");
        assert_eq!(shown("(\"\\"), "\"(\"\"\\\\\"");
    }
}

//! Functions of bytea, digests and encodings.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use md5::{Digest, Md5};
use ring::digest;
use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Strict, Outcome, int, text};
use super::text::{bounded, range};
use crate::signature::Lines;
use crate::values::array::{parse_hex, write_hex};
use crate::values::decode;
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[("||(bytea, bytea) -> bytea", "rung_bytea_cat({0}, {1})")];

pub(crate) const FUNCTIONS: Lines = &[
    ("length(bytea) -> int4", "length({0})"),
    ("octet_length(bytea) -> int4", "length({0})"),
    ("bit_length(bytea) -> int4", "(length({0}) * 8)"),
    ("length(bytea, name) -> int4", "length(rung_convert_from({0}, {1}))"),
    ("substring(bytea, int4) -> bytea", "rung_bytea_substring({0}, {1})"),
    ("substring(bytea, int4, int4) -> bytea", "rung_bytea_substring({0}, {1}, {2})"),
    ("substr(bytea, int4) -> bytea", "rung_bytea_substring({0}, {1})"),
    ("substr(bytea, int4, int4) -> bytea", "rung_bytea_substring({0}, {1}, {2})"),
    ("position(bytea, bytea) -> int4", "instr({0}, {1})"),
    ("get_byte(bytea, int4) -> int4", "rung_get_byte({0}, {1})"),
    ("set_byte(bytea, int4, int4) -> bytea", "rung_set_byte({0}, {1}, {2})"),
    ("md5(text) -> text", "rung_md5({0})"),
    ("md5(bytea) -> text", "rung_md5({0})"),
    ("sha256(bytea) -> bytea", "rung_sha({0}, 256)"),
    ("sha384(bytea) -> bytea", "rung_sha({0}, 384)"),
    ("sha512(bytea) -> bytea", "rung_sha({0}, 512)"),
    ("encode(bytea, text) -> text", "rung_encode({0}, {1})"),
    ("decode(text, text) -> bytea", "rung_decode({0}, {1})"),
    ("convert_from(bytea, name) -> text", "rung_convert_from({0}, {1})"),
    ("convert_to(text, name) -> bytea", "rung_convert_to({0}, {1})"),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_bytea_cat", 2, Strict, |c| {
        bounded(c.bytes(0)?.len() + c.bytes(1)?.len())?;
        Ok(Value::Blob([c.bytes(0)?, c.bytes(1)?].concat()))
    }),
    ("rung_bytea_substring", 2, Strict, substring),
    ("rung_bytea_substring", 3, Strict, substring),
    ("rung_get_byte", 2, Strict, |c| {
        let bytes = c.bytes(0)?;
        int(bytes[index(c, bytes.len())?])
    }),
    ("rung_set_byte", 3, Strict, |c| {
        let mut bytes = c.bytes(0)?.to_vec();
        let index = index(c, bytes.len())?;
        bytes[index] = c.int(2)? as u8;
        Ok(Value::Blob(bytes))
    }),
    ("rung_md5", 1, Strict, |c| {
        let bytes = match c.get(0) {
            rusqlite::types::ValueRef::Blob(bytes) => bytes,
            _ => c.text(0)?.as_bytes(),
        };
        let mut hex = String::new();
        write_hex(&mut hex, &Md5::digest(bytes));
        text(hex)
    }),
    ("rung_sha", 2, Strict, |c| {
        let algorithm = match c.int(1)? {
            256 => &digest::SHA256,
            384 => &digest::SHA384,
            _ => &digest::SHA512,
        };
        Ok(Value::Blob(digest::digest(algorithm, c.bytes(0)?).as_ref().to_vec()))
    }),
    ("rung_encode", 2, Strict, encode),
    ("rung_decode", 2, Strict, decode_text),
    ("rung_convert_from", 2, Strict, |c| {
        utf8(c.text(1)?)?;
        let invalid = || {
            SqlError::new(
                SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                "invalid byte sequence for encoding \"UTF8\"",
            )
        };
        let letters = std::str::from_utf8(c.bytes(0)?).map_err(|_| invalid())?;
        if letters.contains('\0') { Err(invalid()) } else { text(letters) }
    }),
    ("rung_convert_to", 2, Strict, |c| {
        utf8(c.text(1)?)?;
        Ok(Value::Blob(c.text(0)?.as_bytes().to_vec()))
    }),
];

/// # Errors
/// 0A000 for other encodings than UTF-8.
fn utf8(name: &str) -> Result<(), SqlError> {
    if matches!(name.to_ascii_lowercase().replace(['-', '_'], "").as_str(), "utf8" | "unicode") {
        return Ok(());
    }
    Err(SqlError::not_supported(format!("the encoding \"{name}\""), "Use UTF8."))
}

fn index(call: &Call<'_>, length: usize) -> Result<usize, SqlError> {
    let index = call.int(1)?;
    usize::try_from(index).ok().filter(|index| *index < length).ok_or_else(|| {
        SqlError::new(
            SqlState::ARRAY_SUBSCRIPT_ERROR,
            format!("index {index} out of valid range, 0..{}", length as i64 - 1),
        )
    })
}

fn substring(call: &Call<'_>) -> Outcome {
    let bytes = call.bytes(0)?;
    let length = if call.len() > 2 { Some(call.int(2)?) } else { None };
    let (first, count) = range(call.int(1)?, length)?;
    let start = usize::try_from(first).unwrap_or(usize::MAX).min(bytes.len());
    let rest = &bytes[start..];
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
    Ok(Value::Blob(rest[..count].to_vec()))
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, format!("unrecognized encoding: \"{name}\""))
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);
/// Characters in a line of base64.
const LINE: usize = 76;

fn encode(call: &Call<'_>) -> Outcome {
    let (bytes, name) = (call.bytes(0)?, call.text(1)?);
    let mut out = String::new();
    match name.to_ascii_lowercase().as_str() {
        "hex" => write_hex(&mut out, bytes),
        "base64" => {
            let whole = BASE64.encode(bytes);
            for (number, letter) in whole.chars().enumerate() {
                if number > 0 && number % LINE == 0 {
                    out.push('\n');
                }
                out.push(letter);
            }
        }
        "escape" => {
            for byte in bytes {
                match byte {
                    b'\\' => out.push_str("\\\\"),
                    0 | 0x80.. => out.push_str(&format!("\\{byte:03o}")),
                    byte => out.push(char::from(*byte)),
                }
            }
        }
        _ => return Err(unknown(name)),
    }
    text(out)
}

fn decode_text(call: &Call<'_>) -> Outcome {
    let (letters, name) = (call.text(0)?, call.text(1)?);
    let invalid = |message: &str| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
    let plain: String = letters.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    Ok(Value::Blob(match name.to_ascii_lowercase().as_str() {
        "hex" => {
            if let Some(wrong) = plain.chars().find(|c| !c.is_ascii_hexdigit()) {
                return Err(invalid(&format!("invalid hexadecimal digit: \"{wrong}\"")));
            }
            parse_hex(&plain)
                .ok_or_else(|| invalid("invalid hexadecimal data: odd number of digits"))?
        }
        "base64" => BASE64.decode(plain.as_bytes()).map_err(|error| match error {
            base64::DecodeError::InvalidByte(_, byte) => invalid(&format!(
                "invalid symbol \"{}\" found while decoding base64 sequence",
                char::from(byte)
            )),
            _ => invalid("invalid base64 end sequence")
                .hint("Input data is missing padding, is truncated, or is otherwise corrupted."),
        })?,
        "escape" => decode::unescape_bytea(letters).ok_or_else(|| {
            SqlError::new(SqlState::INVALID_TEXT, "invalid input syntax for type bytea")
        })?,
        _ => return Err(unknown(name)),
    }))
}

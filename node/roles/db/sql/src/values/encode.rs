//! Stored values as clients get them.

use rusqlite::types::{Value, ValueRef};

use super::array::{self, ArrayValue};
use super::calendar::{INFINITY, NEGATIVE_INFINITY};
use super::interval::Interval;
use super::time_zone::TimeZone;
use super::{datetime_output, float, numeric, record};
use crate::{Context, PgType, SqlError, SqlState, TypeUse};

/// Writes what PostgreSQL prints; nothing for NULL, which the caller tells apart.
///
/// # Errors
/// XX001 if the value does not have the type's stored form.
pub fn encode_text(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    data_type: &TypeUse,
    context: &Context,
) -> Result<(), SqlError> {
    if data_type.is_vector()
        && let ValueRef::Text(text) = value
    {
        return write_vector(out, utf8(text)?);
    }
    write_text(out, value, &data_type.base, &context.time_zone)
}

/// Integers with spaces between them.
fn write_vector(out: &mut Vec<u8>, stored: &str) -> Result<(), SqlError> {
    for (place, item) in ArrayValue::from_stored(stored)?.items.iter().enumerate() {
        if place > 0 {
            out.push(b' ');
        }
        if let Value::Integer(number) = item {
            out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
        }
    }
    Ok(())
}

/// As [`encode_text`], for those that have only a zone.
pub(crate) fn write_text(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    data_type: &PgType,
    zone: &TimeZone,
) -> Result<(), SqlError> {
    use PgType as T;
    match (data_type, value) {
        (_, ValueRef::Null) => {}
        (T::Bool, ValueRef::Integer(value)) => out.push(if value == 0 { b'f' } else { b't' }),
        (T::Float4, ValueRef::Real(value)) => float::write_float4(out, value),
        (T::Float4, ValueRef::Integer(value)) => float::write_float4(out, value as f64),
        (_, ValueRef::Real(value)) => float::write_float8(out, value),
        (T::Float8, ValueRef::Integer(value)) => float::write_float8(out, value as f64),
        (T::Date, ValueRef::Integer(days)) => datetime_output::write_date(out, days),
        (T::Time, ValueRef::Integer(time)) => datetime_output::write_time(out, time),
        (T::Timestamp, ValueRef::Integer(moment)) => {
            datetime_output::write_timestamp(out, moment);
        }
        (T::Timestamptz, ValueRef::Integer(moment)) => {
            datetime_output::write_timestamptz(out, moment, zone);
        }
        (_, ValueRef::Integer(value)) => {
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        (T::Interval, ValueRef::Text(text)) => {
            use std::io::Write;
            let _ = write!(out, "{}", stored_interval(text)?);
        }
        (T::Array(element), ValueRef::Text(text)) => {
            let array = ArrayValue::from_stored(utf8(text)?)?;
            array::write_text(out, &array, |out, item| {
                write_text(out, ValueRef::from(item), element, zone)
            })?;
        }
        (T::Record(fields), ValueRef::Text(text)) => {
            let items = ArrayValue::from_stored(utf8(text)?)?.items;
            record::write_text(out, fields, &items, zone)?;
        }
        (_, ValueRef::Text(text)) => out.extend_from_slice(text),
        (_, ValueRef::Blob(bytes)) => write_bytea(out, bytes),
    }
    Ok(())
}

fn write_bytea(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + bytes.len() * 2);
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn stored_interval(text: &[u8]) -> Result<Interval, SqlError> {
    Interval::from_stored(utf8(text)?).ok_or_else(|| damaged(&PgType::Interval, "another text"))
}

fn utf8(text: &[u8]) -> Result<&str, SqlError> {
    std::str::from_utf8(text)
        .map_err(|_| SqlError::new(SqlState::DATA_CORRUPTED, "a stored text is not valid UTF-8"))
}

fn damaged(data_type: &PgType, seen: &str) -> SqlError {
    SqlError::new(
        SqlState::DATA_CORRUPTED,
        format!("a value of type {} is stored as {seen}", data_type.name()),
    )
    .hint("The column holds a value that was not written through its type.")
}

/// Writes PostgreSQL's binary format; nothing for NULL, which the caller tells apart.
///
/// # Errors
/// XX001 if the value does not have the type's stored form, 22003 if an integer does
/// not fit its type.
pub fn encode_binary(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    data_type: &TypeUse,
) -> Result<(), SqlError> {
    write_binary(out, value, &data_type.base)
}

pub(super) fn write_binary(
    out: &mut Vec<u8>,
    value: ValueRef<'_>,
    data_type: &PgType,
) -> Result<(), SqlError> {
    use PgType as T;
    let fits =
        |_| SqlError::new(SqlState::OUT_OF_RANGE, format!("{} out of range", data_type.name()));
    match (data_type, value) {
        (_, ValueRef::Null) => {}
        (T::Bool, ValueRef::Integer(value)) => out.push(u8::from(value != 0)),
        (T::Int2, ValueRef::Integer(value)) => {
            out.extend_from_slice(&i16::try_from(value).map_err(fits)?.to_be_bytes());
        }
        (T::Int4, ValueRef::Integer(value)) => {
            out.extend_from_slice(&i32::try_from(value).map_err(fits)?.to_be_bytes());
        }
        (T::Oid | T::Regclass | T::Regtype, ValueRef::Integer(value)) => {
            out.extend_from_slice(&u32::try_from(value).map_err(fits)?.to_be_bytes());
        }
        (T::Date, ValueRef::Integer(days)) => {
            let days = match days {
                INFINITY => i32::MAX,
                NEGATIVE_INFINITY => i32::MIN,
                days => i32::try_from(days).map_err(fits)?,
            };
            out.extend_from_slice(&days.to_be_bytes());
        }
        (T::Int8 | T::Time | T::Timestamp | T::Timestamptz, ValueRef::Integer(value)) => {
            out.extend_from_slice(&value.to_be_bytes());
        }
        (T::Float4, ValueRef::Real(value)) => {
            out.extend_from_slice(&(value as f32).to_be_bytes());
        }
        (T::Float4, ValueRef::Integer(value)) => {
            out.extend_from_slice(&(value as f32).to_be_bytes());
        }
        (T::Float8, ValueRef::Real(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (T::Float8, ValueRef::Integer(value)) => {
            out.extend_from_slice(&(value as f64).to_be_bytes());
        }
        (T::Numeric, ValueRef::Text(text)) => numeric::write_binary(out, utf8(text)?),
        (T::Numeric, ValueRef::Integer(value)) => {
            numeric::write_binary(out, itoa::Buffer::new().format(value));
        }
        (T::Bytea, ValueRef::Blob(bytes)) => out.extend_from_slice(bytes),
        (T::Interval, ValueRef::Text(text)) => {
            let interval = stored_interval(text)?;
            out.extend_from_slice(&interval.micros.to_be_bytes());
            out.extend_from_slice(&interval.days.to_be_bytes());
            out.extend_from_slice(&interval.months.to_be_bytes());
        }
        (T::Uuid, ValueRef::Text(text)) => {
            let uuid = super::decode::parse_uuid(utf8(text)?)
                .ok_or_else(|| damaged(data_type, "another text"))?;
            out.extend_from_slice(&uuid.to_be_bytes());
        }
        (T::Jsonb, ValueRef::Text(text)) => {
            // The version of the format.
            out.push(1);
            out.extend_from_slice(text);
        }
        (T::Array(element), ValueRef::Text(text)) => {
            write_array(out, &ArrayValue::from_stored(utf8(text)?)?, element)?;
        }
        (T::Record(fields), ValueRef::Text(text)) => {
            record::write_binary(out, fields, &ArrayValue::from_stored(utf8(text)?)?.items)?;
        }
        (
            T::Text
            | T::Varchar
            | T::Char
            | T::Name
            | T::InternalChar
            | T::Json
            | T::Unknown
            | T::Void,
            ValueRef::Text(text),
        ) => out.extend_from_slice(text),
        (T::Text | T::Varchar | T::Unknown | T::Void | T::Name, ValueRef::Integer(value)) => {
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        (T::Text | T::Varchar | T::Unknown | T::Void | T::Name, ValueRef::Real(value)) => {
            float::write_float8(out, value);
        }
        (data_type, ValueRef::Integer(_)) => return Err(damaged(data_type, "an integer")),
        (data_type, ValueRef::Real(_)) => return Err(damaged(data_type, "a float")),
        (data_type, ValueRef::Text(_)) => return Err(damaged(data_type, "text")),
        (data_type, ValueRef::Blob(_)) => return Err(damaged(data_type, "bytes")),
    }
    Ok(())
}

/// Dimensions, whether there are NULLs, the elements' type, lengths with lower bounds,
/// elements with their lengths.
fn write_array(out: &mut Vec<u8>, array: &ArrayValue, element: &PgType) -> Result<(), SqlError> {
    let has_null = array.items.contains(&Value::Null);
    out.extend_from_slice(&(array.dimensions.len() as i32).to_be_bytes());
    out.extend_from_slice(&i32::from(has_null).to_be_bytes());
    out.extend_from_slice(&element.oid().to_be_bytes());
    for length in &array.dimensions {
        out.extend_from_slice(&(*length as i32).to_be_bytes());
        out.extend_from_slice(&1_i32.to_be_bytes());
    }
    for item in &array.items {
        let start = out.len();
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        if *item != Value::Null {
            write_binary(out, ValueRef::from(item), element)?;
            let length = (out.len() - start - 4) as i32;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

/// The text of a stored value, for functions.
pub(crate) fn to_text(
    value: ValueRef<'_>,
    data_type: &PgType,
    zone: &TimeZone,
) -> Result<String, SqlError> {
    let mut out = Vec::new();
    write_text(&mut out, value, data_type, zone)?;
    String::from_utf8(out)
        .map_err(|_| SqlError::new(SqlState::DATA_CORRUPTED, "a stored text is not valid UTF-8"))
}

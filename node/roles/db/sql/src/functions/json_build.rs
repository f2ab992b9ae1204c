//! JSON made of other values.

use rusqlite::types::{Value, ValueRef};

use super::call::{Call, Function, Manner::Stable, Outcome, text};
use crate::signature::Lines;
use crate::values::array::ArrayValue;
use crate::values::json::{self, Json};
use crate::values::{datetime_output, encode};
use crate::{PgType, SqlError, SqlState, TimeZone};

pub(crate) const FUNCTIONS: Lines = &[
    ("to_json(any) -> json", "rung_to_json({0}, {t0})"),
    ("to_jsonb(any) -> jsonb", "rung_to_jsonb({0}, {t0})"),
    ("array_to_json(anyarray) -> json", "rung_to_json({0}, {t0})"),
    ("json_build_object(variadic any) -> json", "rung_json_build_object({*t})"),
    ("jsonb_build_object(variadic any) -> jsonb", "rung_jsonb_build_object({*t})"),
    ("json_build_array(variadic any) -> json", "rung_json_build_array({*t})"),
    ("jsonb_build_array(variadic any) -> jsonb", "rung_jsonb_build_array({*t})"),
    ("json_object(_text) -> json", "rung_json_object({0})"),
    ("jsonb_object(_text) -> jsonb", "rung_cast(rung_json_object({0}), 'json', 'jsonb', -1)"),
    ("json_object(_text, _text) -> json", "rung_json_object({0}, {1})"),
    (
        "jsonb_object(_text, _text) -> jsonb",
        "rung_cast(rung_json_object({0}, {1}), 'json', 'jsonb', -1)",
    ),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_to_json", 2, Stable, |c| match c.is_null(0) {
        true => Ok(Value::Null),
        false => text(to_json(c, 0)?),
    }),
    ("rung_to_jsonb", 2, Stable, |c| match c.is_null(0) {
        true => Ok(Value::Null),
        false => text(json::parse_canonical(&to_json(c, 0)?)?.to_jsonb()),
    }),
    ("rung_json_key", 2, Stable, |c| match c.is_null(0) {
        true => Ok(Value::Null),
        false => text(key(c, 0)?),
    }),
    ("rung_json_build_object", -1, Stable, |c| text(build_object(c, " : ")?)),
    ("rung_jsonb_build_object", -1, Stable, |c| {
        text(json::parse_canonical(&build_object(c, ": ")?)?.to_jsonb())
    }),
    ("rung_json_build_array", -1, Stable, |c| text(build_array(c)?)),
    ("rung_jsonb_build_array", -1, Stable, |c| {
        text(json::parse_canonical(&build_array(c)?)?.to_jsonb())
    }),
    ("rung_json_object", -1, Stable, object_of_arrays),
];

/// An argument that is followed by its type's name.
fn to_json(call: &Call<'_>, index: usize) -> Result<String, SqlError> {
    let data_type = call.pg_type(index + 1)?;
    let zone = call.session().time_zone.clone();
    let mut out = String::new();
    write(&mut out, call.get(index), &data_type, &zone)?;
    Ok(out)
}

fn write(
    out: &mut String,
    value: ValueRef<'_>,
    data_type: &PgType,
    zone: &TimeZone,
) -> Result<(), SqlError> {
    use PgType as T;
    match (data_type, value) {
        (_, ValueRef::Null) => out.push_str("null"),
        (T::Bool, ValueRef::Integer(value)) => {
            out.push_str(if value == 0 { "false" } else { "true" });
        }
        (T::Json | T::Jsonb, value) => out.push_str(&encode::to_text(value, data_type, zone)?),
        (T::Array(element), ValueRef::Text(stored)) => {
            let stored = String::from_utf8_lossy(stored);
            write_array(out, &ArrayValue::from_stored(&stored)?, element, zone)?;
        }
        (T::Timestamp | T::Timestamptz, ValueRef::Integer(moment)) => {
            let zone = (*data_type == T::Timestamptz).then_some(zone);
            let mut shown = Vec::new();
            datetime_output::write_json_timestamp(&mut shown, moment, zone);
            json::write_string(out, &String::from_utf8_lossy(&shown));
        }
        (T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric, value) => {
            let shown = encode::to_text(value, data_type, zone)?;
            // What JSON has no number for.
            match shown.ends_with(['y', 'N']) {
                true => json::write_string(out, &shown),
                false => out.push_str(&shown),
            }
        }
        (data_type, value) => json::write_string(out, &encode::to_text(value, data_type, zone)?),
    }
    Ok(())
}

fn write_array(
    out: &mut String,
    array: &ArrayValue,
    element: &PgType,
    zone: &TimeZone,
) -> Result<(), SqlError> {
    out.push('[');
    if array.dimensions.len() > 1 {
        for (index, row) in array.rows().iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_array(out, row, element, zone)?;
        }
    } else {
        for (index, item) in array.items.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write(out, item.into(), element, zone)?;
        }
    }
    out.push(']');
    Ok(())
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// The text of an argument as an object's key.
fn key(call: &Call<'_>, index: usize) -> Result<String, SqlError> {
    let data_type = call.pg_type(index + 1)?;
    if matches!(data_type, PgType::Json | PgType::Jsonb | PgType::Array(_)) {
        return Err(invalid("key value must be scalar, not array, composite, or json"));
    }
    let zone = call.session().time_zone.clone();
    match (&data_type, call.get(index)) {
        (PgType::Bool, ValueRef::Integer(value)) => {
            Ok(if value == 0 { "false" } else { "true" }.to_owned())
        }
        (_, value) => encode::to_text(value, &data_type, &zone),
    }
}

fn build_object(call: &Call<'_>, colon: &str) -> Result<String, SqlError> {
    if !call.len().is_multiple_of(4) {
        return Err(invalid("argument list must have even number of elements").hint(
            "The arguments of json_build_object() must consist of alternating keys and values.",
        ));
    }
    let mut out = String::from("{");
    for index in (0..call.len()).step_by(4) {
        if index > 0 {
            out.push_str(", ");
        }
        if call.is_null(index) {
            return Err(invalid(format!("argument {} cannot be null", index / 2 + 1))
                .hint("Object keys should be text."));
        }
        json::write_string(&mut out, &key(call, index)?);
        out.push_str(colon);
        out.push_str(&to_json(call, index + 2)?);
    }
    out.push('}');
    Ok(out)
}

fn build_array(call: &Call<'_>) -> Result<String, SqlError> {
    let mut out = String::from("[");
    for index in (0..call.len()).step_by(2) {
        if index > 0 {
            out.push_str(", ");
        }
        out.push_str(&to_json(call, index)?);
    }
    out.push(']');
    Ok(out)
}

/// Of an array of keys and values in turn, of pairs, or of keys and another of values.
fn object_of_arrays(call: &Call<'_>) -> Outcome {
    if (0..call.len()).any(|index| call.is_null(index)) {
        return Ok(Value::Null);
    }
    let pairs: Vec<(Value, Value)> = if call.len() > 1 {
        let (keys, values) = (call.array(0)?.items, call.array(1)?.items);
        if keys.len() != values.len() {
            return Err(SqlError::new(
                SqlState::ARRAY_SUBSCRIPT_ERROR,
                "mismatched array dimensions",
            ));
        }
        keys.into_iter().zip(values).collect()
    } else {
        let items = call.array(0)?.items;
        if items.len() % 2 != 0 {
            return Err(SqlError::new(
                SqlState::ARRAY_SUBSCRIPT_ERROR,
                "array must have even number of elements",
            ));
        }
        items.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    };
    let mut out = String::from("{");
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        match key {
            Value::Text(key) => json::write_string(&mut out, key),
            _ => {
                return Err(SqlError::new(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "null value not allowed for object key",
                ));
            }
        }
        out.push_str(" : ");
        match value {
            Value::Text(value) => json::write_string(&mut out, value),
            _ => Json::Null.write_jsonb(&mut out),
        }
    }
    out.push('}');
    text(out)
}

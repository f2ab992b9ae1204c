//! Conversions between types, and what assignments check.
//!
//! `rung_cast(value, from, to, modifier)` converts as an explicit cast does,
//! `rung_assign(value, type, modifier)` applies a modifier as storing does.

use rusqlite::types::{Value, ValueRef};

use super::call::{Call, Function, Manner, Outcome};
use crate::values::array::ArrayValue;
use crate::values::calendar::{self, MICROS_PER_DAY};
use crate::values::datetime_input::InputContext;
use crate::values::decode;
use crate::values::interval::Interval;
use crate::values::json::{self, Json};
use crate::values::numeric::Numeric;
use crate::values::{encode, float};
use crate::{PgType, SqlError, SqlState};

pub(crate) const CALLS: &[Function] = &[
    ("rung_cast", 4, Manner::StrictStable, |call| {
        let (from, to) = (call.pg_type(1)?, call.pg_type(2)?);
        let session = call.session();
        let value = convert(call.value(0), &from, &to, &session.input())?;
        drop(session);
        decode::apply_modifier(value, &to, modifier(call, 3)?, true)
    }),
    ("rung_assign", 3, Manner::Strict, |call| {
        decode::apply_modifier(call.value(0), &call.pg_type(1)?, modifier(call, 2)?, false)
    }),
    ("rung_count", 2, Manner::Pure, row_count),
];

fn modifier(call: &Call<'_>, index: usize) -> Result<i32, SqlError> {
    Ok(i32::try_from(call.int(index)?).unwrap_or(-1))
}

/// The count of LIMIT or OFFSET, as SQLite wants it: NULL is none.
fn row_count(call: &Call<'_>) -> Outcome {
    let clause = call.text(1)?;
    match call.get(0) {
        ValueRef::Null if clause == "LIMIT" => Ok(Value::Integer(-1)),
        ValueRef::Null => Ok(Value::Integer(0)),
        _ => match call.int(0)? {
            ..0 => {
                let state = match clause {
                    "LIMIT" => SqlState::INVALID_LIMIT_COUNT,
                    _ => SqlState::INVALID_OFFSET_COUNT,
                };
                Err(SqlError::new(state, format!("{clause} must not be negative")))
            }
            count => Ok(Value::Integer(count)),
        },
    }
}

fn out_of_range(to: &PgType) -> SqlError {
    SqlError::new(SqlState::OUT_OF_RANGE, format!("{} out of range", to.name()))
}

fn integer(value: Option<i128>, to: &PgType) -> Outcome {
    let (least, most) = match to {
        PgType::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        PgType::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        PgType::Oid | PgType::Regclass | PgType::Regtype => (0, i64::from(u32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    value
        .and_then(|value| i64::try_from(value).ok())
        .filter(|value| (least..=most).contains(value))
        .map(Value::Integer)
        .ok_or_else(|| out_of_range(to))
}

fn is_text(data_type: &PgType) -> bool {
    use PgType as T;
    matches!(data_type, T::Text | T::Varchar | T::Char | T::Name | T::Unknown | T::InternalChar)
}

fn is_integer(data_type: &PgType) -> bool {
    use PgType as T;
    matches!(data_type, T::Int2 | T::Int4 | T::Int8 | T::Oid | T::Regclass | T::Regtype)
}

/// A stored value of one type as the stored value of another.
///
/// # Errors
/// 22003 if it does not fit, what reading a text gives, 42846 if there is no such cast.
pub(crate) fn convert(
    value: Value,
    from: &PgType,
    to: &PgType,
    context: &InputContext<'_>,
) -> Outcome {
    use PgType as T;
    if value == Value::Null || from == to {
        return Ok(value);
    }
    match (from, to, &value) {
        (T::Array(from), T::Array(to), Value::Text(text)) => {
            let mut array = ArrayValue::from_stored(text)?;
            for item in &mut array.items {
                let old = std::mem::replace(item, Value::Null);
                *item = convert(old, from, to, context)?;
            }
            Ok(Value::Text(array.to_stored()))
        }
        (from, to, Value::Text(text)) if is_text(from) && !is_text(to) => {
            decode::parse_text(text, to, context)
        }
        (_, to, _) if is_text(to) => {
            let text = to_text(ValueRef::from(&value), from, context)?;
            let text = if *from == T::Char { text.trim_end_matches(' ') } else { &text };
            decode::parse_text(text, to, context)
        }
        (from, to, _) if is_integer(from) && is_integer(to) => match value {
            Value::Integer(value) => integer(Some(value.into()), to),
            other => Ok(other),
        },
        (_, T::Int2 | T::Int4 | T::Int8 | T::Oid | T::Float4 | T::Float8 | T::Numeric, _) => {
            to_number(value, from, to)
        }
        (T::Int4, T::Bool, Value::Integer(value)) => Ok(Value::Integer(i64::from(*value != 0))),
        (T::Json, T::Jsonb, Value::Text(text)) => {
            Ok(Value::Text(json::parse_canonical(text)?.to_jsonb()))
        }
        (T::Jsonb, T::Json, _) => Ok(value),
        (T::Jsonb, T::Bool, Value::Text(text)) => match json::parse(text)? {
            Json::Bool(value) => Ok(Value::Integer(i64::from(value))),
            other => Err(json_mismatch(&other, to)),
        },
        (_, _, Value::Integer(number)) => between_times(*number, from, to, context),
        (T::Interval, T::Time, Value::Text(text)) => match Interval::from_stored(text) {
            Some(interval) => Ok(Value::Integer(interval.micros.rem_euclid(MICROS_PER_DAY))),
            None => Err(no_cast(from, to)),
        },
        _ => Err(no_cast(from, to)),
    }
}

fn no_cast(from: &PgType, to: &PgType) -> SqlError {
    SqlError::new(
        SqlState::CANNOT_COERCE,
        format!("cannot cast type {} to {}", from.name(), to.name()),
    )
}

/// What a cast to text gives: booleans are words there.
fn to_text(
    value: ValueRef<'_>,
    from: &PgType,
    context: &InputContext<'_>,
) -> Result<String, SqlError> {
    match (from, value) {
        (PgType::Bool, ValueRef::Integer(value)) => {
            Ok(if value == 0 { "false" } else { "true" }.to_owned())
        }
        _ => encode::to_text(value, from, context.zone),
    }
}

fn to_number(value: Value, from: &PgType, to: &PgType) -> Outcome {
    use PgType as T;
    match (from, value) {
        (T::Jsonb, Value::Text(text)) => match json::parse(&text)? {
            Json::Number(digits) => to_number(Value::Text(digits.into_owned()), &T::Numeric, to),
            other => Err(json_mismatch(&other, to)),
        },
        (T::Numeric, Value::Text(text)) => {
            let numeric = Numeric::parse(&text)?;
            match to {
                T::Numeric => Ok(Value::Text(text)),
                T::Float8 => float::parse_float8(&text).map(Value::Real),
                T::Float4 => float::parse_float4(&text).map(Value::Real),
                _ => match numeric {
                    Numeric::NaN => Err(cannot_convert("NaN", to)),
                    Numeric::Infinity | Numeric::NegativeInfinity => {
                        Err(cannot_convert("infinity", to))
                    }
                    Numeric::Finite(_) => integer(numeric.to_i128(), to),
                },
            }
        }
        (_, Value::Integer(value)) => match to {
            T::Float4 => Ok(Value::Real(f64::from(value as f32))),
            T::Float8 => Ok(Value::Real(value as f64)),
            T::Numeric => Ok(Value::Text(value.to_string())),
            _ => integer(Some(value.into()), to),
        },
        (_, Value::Real(value)) => match to {
            T::Float8 => Ok(Value::Real(value)),
            T::Float4 => {
                let narrow = value as f32;
                if narrow.is_infinite() && value.is_finite() {
                    return Err(SqlError::new(
                        SqlState::OUT_OF_RANGE,
                        "value out of range: overflow",
                    ));
                }
                if narrow == 0.0 && value != 0.0 {
                    return Err(SqlError::new(
                        SqlState::OUT_OF_RANGE,
                        "value out of range: underflow",
                    ));
                }
                Ok(Value::Real(f64::from(narrow)))
            }
            T::Numeric => {
                let significant = if *from == T::Float4 { 6 } else { 15 };
                Ok(Value::Text(Numeric::from_float(value, significant).to_string()))
            }
            _ => {
                let rounded = value.round_ties_even();
                let fits = rounded.abs() < 1e19;
                integer(fits.then_some(rounded as i128), to)
            }
        },
        _ => Err(no_cast(from, to)),
    }
}

fn cannot_convert(what: &str, to: &PgType) -> SqlError {
    SqlError::new(SqlState::NOT_SUPPORTED, format!("cannot convert {what} to {}", to.name()))
}

fn json_mismatch(value: &Json<'_>, to: &PgType) -> SqlError {
    let seen = value.type_name();
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("cannot cast jsonb {seen} to type {}", to.name()),
    )
}

/// Between dates, times and timestamps.
fn between_times(value: i64, from: &PgType, to: &PgType, context: &InputContext<'_>) -> Outcome {
    use PgType as T;
    let local = |timestamp| context.zone.to_local(timestamp);
    let utc = |timestamp| calendar::checked_timestamp(context.zone.to_utc(timestamp));
    let time = |timestamp: i64| match calendar::is_infinite(timestamp) {
        true => Value::Null,
        false => Value::Integer(timestamp.rem_euclid(MICROS_PER_DAY)),
    };
    Ok(match (from, to) {
        (T::Date, T::Timestamp) => Value::Integer(calendar::timestamp_of_date(value)?),
        (T::Date, T::Timestamptz) => Value::Integer(utc(calendar::timestamp_of_date(value)?)?),
        (T::Timestamp, T::Timestamptz) => Value::Integer(utc(value)?),
        (T::Timestamptz, T::Timestamp) => Value::Integer(local(value)),
        (T::Timestamp, T::Date) => Value::Integer(calendar::date_of_timestamp(value)),
        (T::Timestamptz, T::Date) => Value::Integer(calendar::date_of_timestamp(local(value))),
        (T::Timestamp, T::Time) => time(value),
        (T::Timestamptz, T::Time) => time(local(value)),
        (T::Time, T::Interval) => {
            Value::Text(Interval { micros: value, ..Interval::default() }.to_stored())
        }
        _ => return Err(no_cast(from, to)),
    })
}

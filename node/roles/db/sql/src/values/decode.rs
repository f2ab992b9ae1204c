//! Stored values of what clients send, and of literals.

use rusqlite::types::Value;

use super::array::{self, ArrayValue};
use super::calendar::{self, INFINITY, MICROS_PER_DAY, NEGATIVE_INFINITY};
use super::datetime_input::{self, DateOrder, InputContext};
use super::interval::Interval;
use super::interval_input;
use super::numeric::{self, Numeric};
use super::{float, json};
use crate::{Context, PgType, SqlError, SqlState, TypeUse};

/// Most elements of an array that is received.
const MAX_ITEMS: usize = 134_217_727;

impl Context {
    pub(crate) fn input(&self) -> InputContext<'_> {
        let style = self.settings.get("datestyle").map_or("", String::as_str);
        let has =
            |word: &str| style.split([',', ' ']).any(|part| part.trim().eq_ignore_ascii_case(word));
        let order = if has("dmy") || has("european") {
            DateOrder::DayMonthYear
        } else if has("ymd") {
            DateOrder::YearMonthDay
        } else {
            DateOrder::MonthDayYear
        };
        InputContext { zone: &self.time_zone, order, now: self.transaction_time }
    }
}

/// The stored form of a text, with the type's modifier applied as an assignment does.
///
/// # Errors
/// 22P02, 22007, 22003 and others as PostgreSQL gives them for what is no such value;
/// 22021 for text that is no UTF-8 or has a zero byte.
pub fn decode_text(
    bytes: &[u8],
    data_type: &TypeUse,
    context: &Context,
) -> Result<Value, SqlError> {
    let text = valid_text(bytes)?;
    let value = parse_text(text, &data_type.base, &context.input())?;
    apply_modifier(value, &data_type.base, data_type.modifier, false)
}

/// # Errors
/// 22021 for what text cannot hold.
fn valid_text(bytes: &[u8]) -> Result<&str, SqlError> {
    let invalid = |byte: u8| {
        SqlError::new(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}"),
        )
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|error| invalid(bytes.get(error.valid_up_to()).copied().unwrap_or(0)))?;
    if text.contains('\0') { Err(invalid(0)) } else { Ok(text) }
}

/// Without a modifier.
pub(crate) fn parse_text(
    text: &str,
    data_type: &PgType,
    context: &InputContext<'_>,
) -> Result<Value, SqlError> {
    use PgType as T;
    Ok(match data_type {
        T::Bool => Value::Integer(i64::from(parse_bool(text)?)),
        T::Int2 => {
            Value::Integer(parse_integer(text, data_type, i16::MIN.into(), i16::MAX.into())?)
        }
        T::Int4 => {
            Value::Integer(parse_integer(text, data_type, i32::MIN.into(), i32::MAX.into())?)
        }
        T::Int8 => Value::Integer(parse_integer(text, data_type, i64::MIN, i64::MAX)?),
        T::Oid => Value::Integer(parse_oid(text)?),
        T::Float4 => Value::Real(float::parse_float4(text)?),
        T::Float8 => Value::Real(float::parse_float8(text)?),
        T::Numeric => Value::Text(Numeric::parse(text)?.to_string()),
        T::Text | T::Varchar | T::Char | T::Unknown | T::Void => Value::Text(text.to_owned()),
        T::Name => Value::Text(cut(text, 63).to_owned()),
        T::InternalChar => Value::Text(text.chars().next().map(String::from).unwrap_or_default()),
        T::Bytea => Value::Blob(parse_bytea(text)?),
        T::Date => Value::Integer(datetime_input::parse_date(text, context)?),
        T::Time => Value::Integer(datetime_input::parse_time(text, context)?),
        T::Timestamp => Value::Integer(datetime_input::parse_timestamp(text, context)?),
        T::Timestamptz => Value::Integer(datetime_input::parse_timestamptz(text, context)?),
        T::Interval => Value::Text(interval_input::parse_interval(text)?.to_stored()),
        T::Json => {
            json::parse(text)?;
            Value::Text(text.to_owned())
        }
        T::Jsonb => Value::Text(json::parse_canonical(text)?.to_jsonb()),
        T::Uuid => {
            let uuid = parse_uuid(text).ok_or_else(|| invalid_syntax("uuid", text))?;
            Value::Text(uuid_text(uuid))
        }
        // Names are looked up by who knows the catalog.
        T::Regclass | T::Regtype => match text.trim().parse::<u32>() {
            Ok(oid) => Value::Integer(oid.into()),
            Err(_) => Value::Text(text.to_owned()),
        },
        T::Array(element) => {
            let array = array::parse_text(text, |item| parse_text(item, element, context))?;
            Value::Text(array.to_stored())
        }
        T::Record(_) => return Err(anonymous()),
    })
}

/// As PostgreSQL says it: nothing tells what the fields would be.
fn anonymous() -> SqlError {
    SqlError::new(SqlState::NOT_SUPPORTED, "input of anonymous composite types is not implemented")
        .hint("Give the fields one by one.")
}

/// At most so many bytes, without cutting a character.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn invalid_syntax(type_name: &str, text: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_TEXT,
        format!("invalid input syntax for type {type_name}: \"{text}\""),
    )
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}')
}

/// # Errors
/// 22P02 for what is neither true nor false.
pub(crate) fn parse_bool(text: &str) -> Result<bool, SqlError> {
    let lower = trimmed(text).to_ascii_lowercase();
    let prefix = |word: &str, least: usize| lower.len() >= least && word.starts_with(&lower);
    if lower == "1" || lower == "on" || prefix("true", 1) || prefix("yes", 1) {
        Ok(true)
    } else if lower == "0" || prefix("off", 2) || prefix("false", 1) || prefix("no", 1) {
        Ok(false)
    } else {
        Err(invalid_syntax("boolean", text))
    }
}

fn parse_integer(text: &str, data_type: &PgType, least: i64, most: i64) -> Result<i64, SqlError> {
    let digits = trimmed(text);
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid_syntax(data_type.name(), text));
    }
    let value = digits.parse::<i64>().ok().filter(|value| (least..=most).contains(value));
    value.ok_or_else(|| {
        SqlError::new(
            SqlState::OUT_OF_RANGE,
            format!("value \"{text}\" is out of range for type {}", data_type.name()),
        )
    })
}

/// PostgreSQL takes negative numbers as their two's complement.
fn parse_oid(text: &str) -> Result<i64, SqlError> {
    let value = parse_integer(text, &PgType::Oid, i32::MIN.into(), u32::MAX.into())?;
    Ok(i64::from(value as u32))
}

fn parse_bytea(text: &str) -> Result<Vec<u8>, SqlError> {
    let invalid = |message: String| SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message);
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: String = hex.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if let Some(wrong) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(invalid(format!("invalid hexadecimal digit: \"{wrong}\"")));
        }
        return array::parse_hex(&digits)
            .ok_or_else(|| invalid("invalid hexadecimal data: odd number of digits".to_owned()));
    }
    unescape_bytea(text)
        .ok_or_else(|| SqlError::new(SqlState::INVALID_TEXT, "invalid input syntax for type bytea"))
}

/// Of the escape format: `\\` and `\ooo`.
pub(crate) fn unescape_bytea(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                out.push(b'\\');
                after
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                after
            }
            (b'\\', _) => return None,
            (byte, after) => {
                out.push(*byte);
                after
            }
        };
    }
    Some(out)
}

/// With hyphens after any group of four digits, and with braces.
pub(crate) fn parse_uuid(text: &str) -> Option<u128> {
    let body = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut value = 0_u128;
    let mut digits = 0;
    let mut bytes = body.bytes().peekable();
    while let Some(byte) = bytes.next() {
        value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
        digits += 1;
        if digits > 32 {
            return None;
        }
        if digits % 4 == 0 && digits < 32 && bytes.peek() == Some(&b'-') {
            bytes.next();
        }
    }
    (digits == 32).then_some(value)
}

pub(crate) fn uuid_text(uuid: u128) -> String {
    let hex = format!("{uuid:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Applies a length, precision or scale. An assignment refuses what is too long, an
/// explicit cast cuts it off.
///
/// # Errors
/// 22001 for text that is too long, 22003 for a number that is too large.
pub(crate) fn apply_modifier(
    value: Value,
    data_type: &PgType,
    modifier: i32,
    explicit: bool,
) -> Result<Value, SqlError> {
    use PgType as T;
    if modifier < 0 {
        return Ok(value);
    }
    Ok(match (data_type, value) {
        (T::Varchar | T::Char, Value::Text(text)) => {
            Value::Text(with_length(text, data_type, modifier - 4, explicit)?)
        }
        (T::Numeric, Value::Text(text)) => {
            Value::Text(Numeric::parse(&text)?.with_modifier(modifier)?.to_string())
        }
        (T::Time | T::Timestamp | T::Timestamptz, Value::Integer(micros)) => {
            Value::Integer(calendar::round_micros(micros, modifier))
        }
        (T::Interval, Value::Text(text)) => match Interval::from_stored(&text) {
            Some(interval) => Value::Text(interval.with_modifier(modifier).to_stored()),
            None => Value::Text(text),
        },
        (T::Array(element), Value::Text(text)) => {
            let mut array = ArrayValue::from_stored(&text)?;
            for item in &mut array.items {
                let plain = std::mem::replace(item, Value::Null);
                *item = apply_modifier(plain, element, modifier, explicit)?;
            }
            Value::Text(array.to_stored())
        }
        (_, value) => value,
    })
}

/// `char(n)` is padded; spaces at the end never make a text too long.
fn with_length(
    mut text: String,
    data_type: &PgType,
    length: i32,
    explicit: bool,
) -> Result<String, SqlError> {
    let Ok(length) = usize::try_from(length) else { return Ok(text) };
    if let Some((end, _)) = text.char_indices().nth(length) {
        if !explicit && !text[end..].bytes().all(|byte| byte == b' ') {
            return Err(SqlError::new(
                SqlState::STRING_TOO_LONG,
                format!("value too long for type {}({length})", data_type.name()),
            ));
        }
        text.truncate(end);
    } else if *data_type == PgType::Char {
        let missing = length - text.chars().count();
        text.extend(std::iter::repeat_n(' ', missing));
    }
    Ok(text)
}

/// The stored form of PostgreSQL's binary format.
///
/// # Errors
/// 22P03 for a wrong format or length, and what [`decode_text`] gives.
pub fn decode_binary(bytes: &[u8], data_type: &TypeUse) -> Result<Value, SqlError> {
    let value = read_binary(bytes, &data_type.base)?;
    apply_modifier(value, &data_type.base, data_type.modifier, false)
}

fn wrong_format(data_type: &PgType) -> SqlError {
    SqlError::new(
        SqlState::INVALID_BINARY,
        format!("incorrect binary data format for type {}", data_type.name()),
    )
}

fn read_binary(bytes: &[u8], data_type: &PgType) -> Result<Value, SqlError> {
    use PgType as T;
    let wrong = || wrong_format(data_type);
    let four = || <[u8; 4]>::try_from(bytes).map_err(|_| wrong());
    let eight = || <[u8; 8]>::try_from(bytes).map_err(|_| wrong());
    Ok(match data_type {
        T::Bool => match bytes {
            [byte] => Value::Integer(i64::from(*byte != 0)),
            _ => return Err(wrong()),
        },
        T::Int2 => {
            let two = <[u8; 2]>::try_from(bytes).map_err(|_| wrong())?;
            Value::Integer(i16::from_be_bytes(two).into())
        }
        T::Int4 => Value::Integer(i32::from_be_bytes(four()?).into()),
        T::Int8 => Value::Integer(i64::from_be_bytes(eight()?)),
        T::Oid | T::Regclass | T::Regtype => Value::Integer(u32::from_be_bytes(four()?).into()),
        T::Float4 => Value::Real(float::refuse_nan(f64::from(f32::from_be_bytes(four()?)))?),
        T::Float8 => Value::Real(float::refuse_nan(f64::from_be_bytes(eight()?))?),
        T::Numeric => Value::Text(numeric::read_binary(bytes)?.to_string()),
        T::Bytea => Value::Blob(bytes.to_vec()),
        T::Date => Value::Integer(match i32::from_be_bytes(four()?) {
            i32::MAX => INFINITY,
            i32::MIN => NEGATIVE_INFINITY,
            days => calendar::checked_date(Some(days.into()))?,
        }),
        T::Time => match i64::from_be_bytes(eight()?) {
            time @ 0..=MICROS_PER_DAY => Value::Integer(time),
            _ => {
                return Err(SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "time out of range"));
            }
        },
        T::Timestamp | T::Timestamptz => {
            Value::Integer(calendar::checked_timestamp(Some(i64::from_be_bytes(eight()?)))?)
        }
        T::Interval => Value::Text(read_interval(bytes).ok_or_else(wrong)?.to_stored()),
        T::Uuid => {
            let uuid = <[u8; 16]>::try_from(bytes).map_err(|_| wrong())?;
            Value::Text(uuid_text(u128::from_be_bytes(uuid)))
        }
        T::Jsonb => match bytes.split_first() {
            Some((1, text)) => Value::Text(json::parse_canonical(valid_text(text)?)?.to_jsonb()),
            Some((version, _)) => {
                return Err(SqlError::new(
                    SqlState::INTERNAL,
                    format!("unsupported jsonb version number {version}"),
                ));
            }
            None => return Err(wrong()),
        },
        T::Json => {
            let text = valid_text(bytes)?;
            json::parse(text)?;
            Value::Text(text.to_owned())
        }
        T::Name => Value::Text(cut(valid_text(bytes)?, 63).to_owned()),
        T::Text | T::Varchar | T::Char | T::InternalChar | T::Unknown | T::Void => {
            Value::Text(valid_text(bytes)?.to_owned())
        }
        T::Array(element) => Value::Text(read_array(bytes, element, data_type)?.to_stored()),
        T::Record(_) => return Err(anonymous()),
    })
}

fn read_interval(bytes: &[u8]) -> Option<Interval> {
    let (micros, rest) = bytes.split_first_chunk::<8>()?;
    let (days, rest) = rest.split_first_chunk::<4>()?;
    let months = <[u8; 4]>::try_from(rest).ok()?;
    Some(Interval {
        micros: i64::from_be_bytes(*micros),
        days: i32::from_be_bytes(*days),
        months: i32::from_be_bytes(months),
    })
}

fn read_array(bytes: &[u8], element: &PgType, data_type: &PgType) -> Result<ArrayValue, SqlError> {
    let wrong = || wrong_format(data_type);
    let mut rest = bytes;
    let mut next = || {
        let (word, after) = rest.split_first_chunk::<4>()?;
        rest = after;
        Some(i32::from_be_bytes(*word))
    };
    let (Some(dimensions), Some(flags), Some(oid)) = (next(), next(), next()) else {
        return Err(wrong());
    };
    let dimensions = usize::try_from(dimensions).map_err(|_| wrong())?;
    if dimensions > array::MAX_DIMENSIONS || !(0..=1).contains(&flags) {
        return Err(wrong());
    }
    if oid as u32 != element.oid() {
        return Err(SqlError::new(
            SqlState::DATATYPE_MISMATCH,
            format!(
                "binary data has array element type {} instead of expected {} ({})",
                oid as u32,
                element.oid(),
                element.name()
            ),
        ));
    }
    let mut value = ArrayValue::default();
    let mut count = usize::from(dimensions > 0);
    for _ in 0..dimensions {
        let length = next().and_then(|length| usize::try_from(length).ok()).ok_or_else(wrong)?;
        match next() {
            Some(1) => {}
            Some(_) if length == 0 => {}
            Some(_) => {
                return Err(SqlError::not_supported(
                    "an array with a lower bound other than 1",
                    "Send the array with lower bounds of 1.",
                ));
            }
            None => return Err(wrong()),
        }
        value.dimensions.push(length);
        count = count.checked_mul(length).filter(|count| *count <= MAX_ITEMS).ok_or_else(wrong)?;
    }
    // Each element takes at least its length's four bytes.
    if count > rest.len() / 4 {
        return Err(wrong());
    }
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(wrong)?;
        rest = after;
        match i32::from_be_bytes(*length) {
            -1 => value.items.push(Value::Null),
            length => {
                let length = usize::try_from(length).map_err(|_| wrong())?;
                let (item, after) = rest.split_at_checked(length).ok_or_else(wrong)?;
                rest = after;
                value.items.push(read_binary(item, element)?);
            }
        }
    }
    if !rest.is_empty() {
        return Err(wrong());
    }
    if count == 0 {
        value.dimensions.clear();
    }
    Ok(value)
}

//! Arrays: stored as JSON of the elements' stored forms, shown in braces.
//!
//! Numbers and NULL are JSON's own. A text is a string, so are numeric, uuid and other
//! types that are stored as text. What JSON has no value for is an object of one
//! member: `{"x":"00ff"}` is bytea, `{"f":"Infinity"}` a float.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use rusqlite::types::Value;

use super::json::{self, Json};
use crate::{SqlError, SqlState};

/// PostgreSQL's limit of dimensions.
pub const MAX_DIMENSIONS: usize = 6;

/// An array's elements in their stored forms, row after row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ArrayValue {
    /// Number of elements by dimension; empty for an empty array.
    pub dimensions: Vec<usize>,
    pub items: Vec<Value>,
}

impl ArrayValue {
    /// With one dimension, or empty.
    pub fn of(items: Vec<Value>) -> Self {
        let dimensions = if items.is_empty() { Vec::new() } else { vec![items.len()] };
        Self { dimensions, items }
    }

    /// # Errors
    /// XX001 if it is no stored array.
    pub fn from_stored(text: &str) -> Result<Self, SqlError> {
        let damaged = || {
            SqlError::new(SqlState::DATA_CORRUPTED, format!("not a stored array: \"{text}\""))
                .hint("A value of another type was read as an array.")
        };
        let Ok(Json::Array(rows)) = json::parse(text) else { return Err(damaged()) };
        let mut array = Self::default();
        array.collect(rows, 0).ok_or_else(damaged)?;
        Ok(array)
    }

    /// Nothing if rows are of different lengths.
    fn collect(&mut self, rows: Vec<Json<'_>>, level: usize) -> Option<()> {
        if rows.is_empty() {
            return (level == 0).then_some(());
        }
        match self.dimensions.get(level) {
            None if level < MAX_DIMENSIONS => self.dimensions.push(rows.len()),
            Some(length) if *length == rows.len() => {}
            _ => return None,
        }
        for row in rows {
            match row {
                Json::Array(rows) => self.collect(rows, level + 1)?,
                item if level + 1 == self.dimensions.len() => self.items.push(stored_item(item)?),
                _ => return None,
            }
        }
        Some(())
    }

    pub fn to_stored(&self) -> String {
        let mut out = String::with_capacity(2 + self.items.len() * 4);
        if self.dimensions.is_empty() {
            out.push_str("[]");
        } else {
            let mut items = self.items.iter();
            write_rows(
                &mut out,
                &self.dimensions,
                &mut |out| {
                    write_item(out, items.next().unwrap_or(&Value::Null));
                },
                ['[', ']'],
            );
        }
        out
    }

    /// Elements of the outermost dimension, as arrays of one dimension less.
    pub fn rows(&self) -> Vec<ArrayValue> {
        let Some((first, rest)) = self.dimensions.split_first() else { return Vec::new() };
        let length = self.items.len() / first.max(&1);
        let chunks = self.items.chunks(length.max(1));
        chunks.map(|items| Self { dimensions: rest.to_vec(), items: items.to_vec() }).collect()
    }

    /// PostgreSQL's order: by elements, then by their number, then by dimensions.
    pub fn compare(&self, other: &Self, item: impl Fn(&Value, &Value) -> Ordering) -> Ordering {
        let pairs = self.items.iter().zip(&other.items);
        let elements = pairs.map(|(left, right)| item(left, right)).find(|order| order.is_ne());
        elements
            .unwrap_or(Ordering::Equal)
            .then_with(|| self.items.len().cmp(&other.items.len()))
            .then_with(|| self.dimensions.len().cmp(&other.dimensions.len()))
            .then_with(|| self.dimensions.cmp(&other.dimensions))
    }
}

/// NULL after everything, numbers by value, texts and bytes by bytes.
pub fn compare_items(left: &Value, right: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Integer(_) | Value::Real(_) => 0,
        Value::Text(_) => 1,
        Value::Blob(_) => 2,
        Value::Null => 3,
    };
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => left.cmp(right),
        (Value::Real(left), Value::Real(right)) => left.total_cmp(right),
        (Value::Integer(left), Value::Real(right)) => (*left as f64).total_cmp(right),
        (Value::Real(left), Value::Integer(right)) => left.total_cmp(&(*right as f64)),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (Value::Blob(left), Value::Blob(right)) => left.cmp(right),
        _ => rank(left).cmp(&rank(right)),
    }
}

fn stored_item(item: Json<'_>) -> Option<Value> {
    Some(match item {
        Json::Null => Value::Null,
        Json::Number(digits) => match digits.parse::<i64>() {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Real(digits.parse().ok()?),
        },
        Json::String(text) => Value::Text(text.into_owned()),
        Json::Object(members) => match members.as_slice() {
            [(Cow::Borrowed("x"), Json::String(hex))] => Value::Blob(parse_hex(hex)?),
            [(Cow::Borrowed("f"), Json::String(float))] => Value::Real(float.parse().ok()?),
            _ => return None,
        },
        Json::Bool(_) | Json::Array(_) => return None,
    })
}

/// One element in an array's stored form.
pub fn write_item(out: &mut String, item: &Value) {
    match item {
        Value::Null => out.push_str("null"),
        Value::Integer(value) => out.push_str(itoa::Buffer::new().format(*value)),
        Value::Real(value) if !value.is_finite() => {
            let _ = write!(out, "{{\"f\":\"{value}\"}}");
        }
        // With a point or an exponent, so that it does not come back as an integer.
        Value::Real(value) => {
            let _ = write!(out, "{value:?}");
        }
        Value::Text(text) => json::write_string(out, text),
        Value::Blob(bytes) => {
            out.push_str("{\"x\":\"");
            write_hex(out, bytes);
            out.push_str("\"}");
        }
    }
}

pub fn write_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

pub fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        })
        .collect()
}

fn write_rows(
    out: &mut String,
    dimensions: &[usize],
    item: &mut dyn FnMut(&mut String),
    [open, close]: [char; 2],
) {
    let Some((length, inner)) = dimensions.split_first() else { return item(out) };
    out.push(open);
    for index in 0..*length {
        if index > 0 {
            out.push(',');
        }
        write_rows(out, inner, item, [open, close]);
    }
    out.push(close);
}

/// In braces, `item` writes an element as PostgreSQL prints it; quotes are added here.
///
/// # Errors
/// What `item` gives.
pub fn write_text(
    out: &mut Vec<u8>,
    array: &ArrayValue,
    mut item: impl FnMut(&mut Vec<u8>, &Value) -> Result<(), SqlError>,
) -> Result<(), SqlError> {
    let mut texts = Vec::with_capacity(array.items.len());
    let mut buffer = Vec::new();
    for value in &array.items {
        buffer.clear();
        match value {
            Value::Null => buffer.extend_from_slice(b"NULL"),
            value => item(&mut buffer, value)?,
        }
        let text = String::from_utf8_lossy(&buffer);
        texts.push(match value {
            Value::Null => text.into_owned(),
            _ => quoted(&text),
        });
    }
    let mut shown = String::new();
    if array.dimensions.is_empty() {
        shown.push_str("{}");
    } else {
        let mut texts = texts.iter();
        let mut next = |out: &mut String| out.push_str(texts.next().map_or("", String::as_str));
        write_rows(&mut shown, &array.dimensions, &mut next, ['{', '}']);
    }
    out.extend_from_slice(shown.as_bytes());
    Ok(())
}

fn quoted(text: &str) -> String {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || is_space(c);
    if !text.is_empty() && !text.eq_ignore_ascii_case("null") && !text.contains(special) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// Of `{1,2,"a b",NULL}`; `item` reads one element.
///
/// # Errors
/// 22P02 for what is no array, 2202E for rows of different lengths, what `item` gives.
pub fn parse_text(
    text: &str,
    mut item: impl FnMut(&str) -> Result<Value, SqlError>,
) -> Result<ArrayValue, SqlError> {
    let malformed = |detail: &str| {
        SqlError::new(SqlState::INVALID_TEXT, format!("malformed array literal: \"{text}\""))
            .detail(detail)
    };
    let mut body = text.trim_matches(is_space);
    if body.starts_with('[') {
        // Lower bounds other than 1 are not kept.
        let (bounds, rest) = body
            .split_once('=')
            .ok_or_else(|| malformed("Missing \"=\" after array dimensions."))?;
        if !bounds.trim_end_matches(is_space).ends_with(']') || !bounds.contains(':') {
            return Err(malformed("Missing \"]\" after array dimensions."));
        }
        if bounds.trim_start_matches('[').split(['[', ']']).any(|bound| {
            bound.split_once(':').is_some_and(|(lower, _)| lower.trim().parse() != Ok(1))
        }) {
            return Err(SqlError::not_supported(
                "an array with a lower bound other than 1",
                "Write the array without bounds.",
            ));
        }
        body = rest.trim_start_matches(is_space);
    }
    if !body.starts_with('{') {
        return Err(malformed("Array value must start with \"{\" or dimension information."));
    }
    let mut reader = Reader { text: body, at: 0, array: ArrayValue::default() };
    reader.rows(0, &mut item).map_err(|fault| match fault {
        Fault::Malformed(detail) => malformed(&detail),
        Fault::Other(error) => error,
    })?;
    if !reader.text[reader.at..].trim_matches(is_space).is_empty() {
        return Err(malformed("Junk after closing right brace."));
    }
    let mut array = reader.array;
    if array.items.is_empty() {
        array.dimensions.clear();
    }
    Ok(array)
}

enum Fault {
    Malformed(String),
    Other(SqlError),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    array: ArrayValue,
}

impl Reader<'_> {
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start_matches(is_space);
        self.at += rest.len() - trimmed.len();
        trimmed.chars().next()
    }

    /// One pair of braces; the cursor is at the opening one.
    fn rows(
        &mut self,
        level: usize,
        item: &mut dyn FnMut(&str) -> Result<Value, SqlError>,
    ) -> Result<(), Fault> {
        if level == MAX_DIMENSIONS {
            return Err(Fault::Other(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!(
                    "number of array dimensions ({}) exceeds the maximum allowed ({})",
                    level + 1,
                    MAX_DIMENSIONS
                ),
            )));
        }
        let malformed = |detail: &str| Fault::Malformed(detail.to_owned());
        let uneven =
            || malformed("Multidimensional arrays must have sub-arrays with matching dimensions.");
        self.at += 1;
        let mut length = 0;
        if self.peek() == Some('}') {
            self.at += 1;
        } else {
            loop {
                match self.peek() {
                    None => return Err(malformed("Unexpected end of input.")),
                    Some('{') => {
                        if self.array.dimensions.len() == level + 1 && !self.array.items.is_empty()
                        {
                            return Err(uneven());
                        }
                        if self.array.dimensions.len() <= level {
                            // The length is known when the brace is closed.
                            self.array.dimensions.push(0);
                        }
                        self.rows(level + 1, item)?;
                    }
                    Some(c @ (',' | '}')) => {
                        return Err(malformed(&format!("Unexpected \"{c}\" character.")));
                    }
                    Some(_) => {
                        if self.array.dimensions.len() > level + 1 {
                            return Err(uneven());
                        }
                        let value = self.element(item)?;
                        if self.array.dimensions.len() <= level {
                            self.array.dimensions.push(0);
                        }
                        self.array.items.push(value);
                    }
                }
                length += 1;
                match self.peek() {
                    Some(',') => self.at += 1,
                    Some('}') => {
                        self.at += 1;
                        break;
                    }
                    None => return Err(malformed("Unexpected end of input.")),
                    Some(_) => return Err(malformed("Unexpected array element.")),
                }
            }
        }
        match self.array.dimensions.get_mut(level) {
            None if length == 0 => Ok(()),
            Some(known @ 0) => {
                *known = length;
                Ok(())
            }
            Some(known) if *known == length => Ok(()),
            _ => Err(uneven()),
        }
    }

    fn element(
        &mut self,
        item: &mut dyn FnMut(&str) -> Result<Value, SqlError>,
    ) -> Result<Value, Fault> {
        let rest = &self.text[self.at..];
        let mut text = String::new();
        let mut chars = rest.char_indices();
        let mut was_quoted = false;
        let mut in_quotes = false;
        let mut closed = false;
        // Spaces at the end belong to it only inside quotes or after a backslash.
        let mut kept = 0;
        let end = loop {
            let Some((index, c)) = chars.next() else {
                return Err(Fault::Malformed("Unexpected end of input.".to_owned()));
            };
            match c {
                '\\' => match chars.next() {
                    Some((_, escaped)) => {
                        text.push(escaped);
                        kept = text.len();
                        was_quoted = true;
                    }
                    None => return Err(Fault::Malformed("Unexpected end of input.".to_owned())),
                },
                '"' if in_quotes => {
                    in_quotes = false;
                    closed = true;
                    kept = text.len();
                }
                '"' if was_quoted || !text.is_empty() => {
                    return Err(Fault::Malformed("Unexpected array element.".to_owned()));
                }
                '"' => {
                    in_quotes = true;
                    was_quoted = true;
                }
                ',' | '}' if !in_quotes => break index,
                '{' if !in_quotes => {
                    return Err(Fault::Malformed("Unexpected \"{\" character.".to_owned()));
                }
                c if closed && !is_space(c) => {
                    return Err(Fault::Malformed("Unexpected array element.".to_owned()));
                }
                c => {
                    text.push(c);
                    if in_quotes || !is_space(c) {
                        kept = text.len();
                    }
                }
            }
        };
        self.at += end;
        text.truncate(kept);
        if !was_quoted && text.eq_ignore_ascii_case("null") {
            return Ok(Value::Null);
        }
        item(&text).map_err(Fault::Other)
    }
}

//! Rows of a tail as JSON, and back.

use rusqlite::types::{Value, ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

/// A row by the names of its columns.
pub type Row = Map<String, Json>;

/// A line of a tail.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Whether a quorum was known to have it, so that a client may have been told.
    pub acknowledged: bool,
    pub table: String,
    pub change: Change,
    /// What the row is known by.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub key: Row,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Row>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Row>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Insert,
    Update,
    Delete,
    /// The table itself: `before` and `after` have its definition as `sql`.
    Schema,
}

/// A value as JSON: what JSON cannot hold is an object with its kind.
pub fn to_json(value: ValueRef<'_>) -> Json {
    match value {
        ValueRef::Null => Json::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) if number.is_finite() => json!(number),
        ValueRef::Real(number) => json!({ "real": if number > 0.0 { "inf" } else { "-inf" } }),
        ValueRef::Text(text) => match std::str::from_utf8(text) {
            Ok(text) => json!(text),
            Err(_) => json!({ "text": hex(text) }),
        },
        ValueRef::Blob(bytes) => json!({ "blob": hex(bytes) }),
    }
}

/// The value of what [`to_json`] wrote.
pub fn from_json(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::String(text) => Value::Text(text.clone()),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::Real(number.as_f64()?),
        },
        Json::Object(kind) => match kind.iter().next()? {
            (kind, Json::String(text)) if kind == "blob" => Value::Blob(unhex(text)?),
            (kind, Json::String(text)) if kind == "real" => Value::Real(text.parse().ok()?),
            _ => return None,
        },
        Json::Bool(_) | Json::Array(_) => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (text.len().is_multiple_of(2)).then(|| pairs.map(byte).collect::<Option<_>>())?
}

/// A name for SQLite, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_their_json() {
        for value in [
            Value::Null,
            Value::Integer(i64::MIN),
            Value::Real(1.0),
            Value::Real(0.1),
            Value::Real(f64::NEG_INFINITY),
            Value::Text("a\n\"b\"".to_owned()),
            Value::Blob(vec![0, 255]),
        ] {
            let json = serde_json::to_string(&to_json(ValueRef::from(&value))).unwrap();
            assert_eq!(from_json(&serde_json::from_str(&json).unwrap()), Some(value), "{json}");
        }
    }

    #[test]
    fn other_json_is_no_value() {
        for text in ["true", "[1]", "{}", r#"{"blob":"0"}"#, r#"{"blob":"zz"}"#, r#"{"x":"1"}"#] {
            assert_eq!(from_json(&serde_json::from_str(text).unwrap()), None, "{text}");
        }
    }
}

//! Aggregates that gather values: strings, arrays, JSON.

use std::collections::VecDeque;

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::{Row, State, register_one, within_memory};
use crate::functions::call::Outcome;
use crate::signature::Lines;
use crate::values::array::ArrayValue;
use crate::values::json;
use crate::{SqlError, SqlState};

pub(crate) const FUNCTIONS: Lines = &[
    ("string_agg(text, text) -> text", "rung_string_agg({0}, {1})"),
    ("string_agg(bytea, bytea) -> bytea", "rung_bytea_agg({0}, {1})"),
    ("array_agg(anynonarray) -> anyarray", "rung_array_agg({0})"),
    ("array_agg(anyarray) -> anyarray", "rung_array_of_arrays_agg({0})"),
    ("json_agg(any) -> json", "rung_json_agg(rung_to_json({0}, {t0}))"),
    ("jsonb_agg(any) -> jsonb", "rung_jsonb_agg(rung_to_jsonb({0}, {t0}))"),
    (
        "json_object_agg(any, any) -> json",
        "rung_json_object_agg(rung_json_key({0}, {t0}), rung_to_json({1}, {t1}))",
    ),
    (
        "jsonb_object_agg(any, any) -> jsonb",
        "rung_jsonb_object_agg(rung_json_key({0}, {t0}), rung_to_jsonb({1}, {t1}))",
    ),
];

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    register_one::<Strings>(connection, "rung_string_agg", 2)?;
    register_one::<Strings>(connection, "rung_bytea_agg", 2)?;
    register_one::<Elements<false>>(connection, "rung_array_agg", 1)?;
    register_one::<Elements<true>>(connection, "rung_array_of_arrays_agg", 1)?;
    register_one::<JsonArray<false>>(connection, "rung_json_agg", 1)?;
    register_one::<JsonArray<true>>(connection, "rung_jsonb_agg", 1)?;
    register_one::<JsonObject<false>>(connection, "rung_json_object_agg", 2)?;
    register_one::<JsonObject<true>>(connection, "rung_jsonb_object_agg", 2)
}

/// Values with the delimiter that came with each; the first one's is not used.
#[derive(Default)]
struct Strings {
    parts: VecDeque<(Vec<u8>, Vec<u8>)>,
    binary: bool,
    /// In `parts`.
    size: usize,
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    }
}

impl State for Strings {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if !row.is_null(0) {
            self.binary = matches!(row.get(0), ValueRef::Blob(_));
            let part = (bytes(row.get(0)).to_vec(), bytes(row.get(1)).to_vec());
            self.size += part.0.len() + part.1.len();
            self.parts.push_back(part);
            within_memory(self.size)?;
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if !row.is_null(0)
            && let Some(part) = self.parts.pop_front()
        {
            self.size -= part.0.len() + part.1.len();
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.parts.is_empty() {
            return Ok(Value::Null);
        }
        let mut out = Vec::new();
        for (index, (value, delimiter)) in self.parts.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(delimiter);
            }
            out.extend_from_slice(value);
        }
        if self.binary {
            return Ok(Value::Blob(out));
        }
        Ok(Value::Text(String::from_utf8_lossy(&out).into_owned()))
    }
}

/// An array of values, or of arrays of equal lengths.
#[derive(Default)]
struct Elements<const ARRAYS: bool> {
    items: VecDeque<Value>,
    size: usize,
}

fn size_of(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() + 24,
        Value::Blob(bytes) => bytes.len() + 24,
        _ => 24,
    }
}

impl<const ARRAYS: bool> State for Elements<ARRAYS> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if ARRAYS && row.is_null(0) {
            return Err(SqlError::new(
                SqlState::NULL_VALUE_NOT_ALLOWED,
                "cannot accumulate null arrays",
            ));
        }
        let item = row.value(0);
        self.size += size_of(&item);
        self.items.push_back(item);
        within_memory(self.size)
    }

    fn remove(&mut self, _: &Row<'_>) -> Result<(), SqlError> {
        if let Some(item) = self.items.pop_front() {
            self.size -= size_of(&item);
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.items.is_empty() {
            return Ok(Value::Null);
        }
        if !ARRAYS {
            let items = self.items.iter().cloned().collect();
            return Ok(Value::Text(ArrayValue::of(items).to_stored()));
        }
        let mut whole = ArrayValue::default();
        for (index, item) in self.items.iter().enumerate() {
            let Value::Text(text) = item else { continue };
            let part = ArrayValue::from_stored(text)?;
            if part.dimensions.is_empty() {
                return Err(SqlError::new(
                    SqlState::ARRAY_SUBSCRIPT_ERROR,
                    "cannot accumulate empty arrays",
                ));
            }
            if index == 0 {
                whole.dimensions = [&[self.items.len()], part.dimensions.as_slice()].concat();
            } else if whole.dimensions[1..] != part.dimensions {
                return Err(SqlError::new(
                    SqlState::ARRAY_SUBSCRIPT_ERROR,
                    "cannot accumulate arrays of different dimensionality",
                ));
            }
            whole.items.extend(part.items);
        }
        Ok(Value::Text(whole.to_stored()))
    }
}

/// Of values that are JSON already; NULL is null.
#[derive(Default)]
struct JsonArray<const BINARY: bool> {
    items: VecDeque<String>,
    size: usize,
}

fn json_text(row: &Row<'_>, index: usize) -> String {
    if row.is_null(index) { "null".to_owned() } else { row.text(index).to_owned() }
}

impl<const BINARY: bool> State for JsonArray<BINARY> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        let item = json_text(row, 0);
        self.size += item.len();
        self.items.push_back(item);
        within_memory(self.size)
    }

    fn remove(&mut self, _: &Row<'_>) -> Result<(), SqlError> {
        self.size -= self.items.pop_front().map_or(0, |item| item.len());
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.items.is_empty() {
            return Ok(Value::Null);
        }
        let mut out = String::from("[");
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            out.push_str(item);
        }
        out.push(']');
        Ok(Value::Text(out))
    }
}

#[derive(Default)]
struct JsonObject<const BINARY: bool> {
    members: VecDeque<(String, String)>,
    size: usize,
}

impl<const BINARY: bool> State for JsonObject<BINARY> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if row.is_null(0) {
            return Err(SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                "field name must not be null",
            ));
        }
        let member = (row.text(0).to_owned(), json_text(row, 1));
        self.size += member.0.len() + member.1.len();
        self.members.push_back(member);
        within_memory(self.size)
    }

    fn remove(&mut self, _: &Row<'_>) -> Result<(), SqlError> {
        if let Some(member) = self.members.pop_front() {
            self.size -= member.0.len() + member.1.len();
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.members.is_empty() {
            return Ok(Value::Null);
        }
        let mut out = String::from("{");
        for (index, (key, value)) in self.members.iter().enumerate() {
            out.push_str(if index > 0 {
                ", "
            } else if BINARY {
                ""
            } else {
                " "
            });
            json::write_string(&mut out, key);
            out.push_str(if BINARY { ": " } else { " : " });
            out.push_str(value);
        }
        out.push_str(if BINARY { "}" } else { " }" });
        Ok(Value::Text(match BINARY {
            true => json::parse_canonical(&out)?.to_jsonb(),
            false => out,
        }))
    }
}

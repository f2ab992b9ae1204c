//! The orders that stored values have where SQLite's own comparison is not it.

use std::cmp::Ordering;

use rusqlite::Connection;

use crate::values::array::{self, ArrayValue};
use crate::values::interval::Interval;
use crate::values::{json, numeric};

/// Makes the collations known to a connection.
pub(crate) fn register(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_collation("rung_numeric", numeric::compare_stored)?;
    connection.create_collation("rung_interval", compare_intervals)?;
    connection.create_collation("rung_jsonb", compare_jsonb)?;
    connection.create_collation("rung_array", compare_arrays)?;
    connection.create_collation("rung_numeric_array", compare_numeric_arrays)
}

// A collation cannot fail: what is no stored form is ordered by its bytes, after all
// that is one.

fn compare_intervals(left: &str, right: &str) -> Ordering {
    match (Interval::from_stored(left), Interval::from_stored(right)) {
        (Some(left), Some(right)) => left.compare(&right),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => left.cmp(right),
    }
}

fn compare_jsonb(left: &str, right: &str) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    match (json::parse(left), json::parse(right)) {
        (Ok(left), Ok(right)) => left.compare(&right),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => left.cmp(right),
    }
}

fn compare_arrays(left: &str, right: &str) -> Ordering {
    compare_arrays_by(left, right, array::compare_items)
}

fn compare_numeric_arrays(left: &str, right: &str) -> Ordering {
    use rusqlite::types::Value;
    compare_arrays_by(left, right, |left, right| match (left, right) {
        (Value::Text(left), Value::Text(right)) => numeric::compare_stored(left, right),
        _ => array::compare_items(left, right),
    })
}

fn compare_arrays_by(
    left: &str,
    right: &str,
    item: fn(&rusqlite::types::Value, &rusqlite::types::Value) -> Ordering,
) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    match (ArrayValue::from_stored(left), ArrayValue::from_stored(right)) {
        (Ok(left), Ok(right)) => left.compare(&right, item),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => left.cmp(right),
    }
}

//! Functions that give rows: what they are called with and which rows they give.

use rusqlite::types::Value;

use super::{intervals, numeric_math, patterns};
use crate::signature::Lines;
use crate::values::array::ArrayValue;
use crate::values::calendar;
use crate::values::interval::Interval;
use crate::values::json::{self, Json};
use crate::values::numeric::Numeric;
use crate::{SharedContext, SqlError, SqlState};

pub(crate) const FUNCTIONS: Lines = &[
    ("generate_series(int4, int4) -> int4", "rung_series({0}, {1}, 1)"),
    ("generate_series(int4, int4, int4) -> int4", "rung_series({0}, {1}, {2})"),
    ("generate_series(int8, int8) -> int8", "rung_series({0}, {1}, 1)"),
    ("generate_series(int8, int8, int8) -> int8", "rung_series({0}, {1}, {2})"),
    ("generate_series(numeric, numeric) -> numeric", "rung_numeric_series({0}, {1}, '1')"),
    ("generate_series(numeric, numeric, numeric) -> numeric", "rung_numeric_series({0}, {1}, {2})"),
    (
        "generate_series(timestamp, timestamp, interval) -> timestamp",
        "rung_time_series({0}, {1}, {2}, 0)",
    ),
    (
        "generate_series(timestamptz, timestamptz, interval) -> timestamptz",
        "rung_time_series({0}, {1}, {2}, 1)",
    ),
    ("generate_subscripts(anyarray, int4) -> int4", "rung_subscripts({0}, {1})"),
    ("unnest(anyarray) -> anyelement", "rung_unnest({0})"),
    ("_pg_expandarray(anyarray) -> record(x anyelement, n int4)", "rung_numbered_items({0})"),
    ("string_to_table(text, text) -> text", "rung_unnest(rung_string_to_array({0}, {1}, NULL))"),
    (
        "string_to_table(text, text, text) -> text",
        "rung_unnest(rung_string_to_array({0}, {1}, {2}))",
    ),
    ("regexp_matches(text, text) -> _text", "rung_regexp_matches({0}, {1}, '')"),
    ("regexp_matches(text, text, text) -> _text", "rung_regexp_matches({0}, {1}, {2})"),
    ("regexp_split_to_table(text, text) -> text", "rung_regexp_rows({0}, {1}, '')"),
    ("regexp_split_to_table(text, text, text) -> text", "rung_regexp_rows({0}, {1}, {2})"),
    ("json_array_elements(json) -> json", "rung_json_elements({0}, 0)"),
    ("jsonb_array_elements(jsonb) -> jsonb", "rung_json_elements({0}, 1)"),
    ("json_array_elements_text(json) -> text", "rung_json_elements({0}, 2)"),
    ("jsonb_array_elements_text(jsonb) -> text", "rung_json_elements({0}, 3)"),
    ("json_each(json) -> record(key text, value json)", "rung_json_each({0}, 0)"),
    ("jsonb_each(jsonb) -> record(key text, value jsonb)", "rung_json_each({0}, 1)"),
    ("json_each_text(json) -> record(key text, value text)", "rung_json_each({0}, 2)"),
    ("jsonb_each_text(jsonb) -> record(key text, value text)", "rung_json_each({0}, 3)"),
    ("json_object_keys(json) -> text", "rung_json_keys({0})"),
    ("jsonb_object_keys(jsonb) -> text", "rung_json_keys({0})"),
];

/// One row, a value for each column.
pub(super) type TableRow = Result<Vec<Value>, SqlError>;
pub(super) type Rows = Box<dyn Iterator<Item = TableRow> + Send>;

/// A function that gives rows, under SQLite's name for it.
pub(super) struct TableFunction {
    pub name: &'static str,
    /// Of the table that SQLite sees: columns, then arguments, which are hidden.
    pub declaration: &'static std::ffi::CStr,
    pub columns: usize,
    pub arguments: usize,
    /// Is called with as many arguments, none of them NULL.
    pub rows: fn(&[Value], &SharedContext) -> Result<Rows, SqlError>,
}

pub(super) const TABLES: &[TableFunction] = &[
    TableFunction {
        name: "rung_series",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN, c HIDDEN)",
        columns: 1,
        arguments: 3,
        rows: series,
    },
    TableFunction {
        name: "rung_numeric_series",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN, c HIDDEN)",
        columns: 1,
        arguments: 3,
        rows: numeric_series,
    },
    TableFunction {
        name: "rung_time_series",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN, c HIDDEN, d HIDDEN)",
        columns: 1,
        arguments: 4,
        rows: time_series,
    },
    TableFunction {
        name: "rung_subscripts",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN)",
        columns: 1,
        arguments: 2,
        rows: |arguments, _| {
            let dimension = usize::try_from(integer(arguments, 1) - 1).ok();
            let array = ArrayValue::from_stored(text(arguments, 0))?;
            let length = dimension.and_then(|index| array.dimensions.get(index).copied());
            values((1..=length.unwrap_or(0)).map(|index| Value::Integer(index as i64)))
        },
    },
    TableFunction {
        name: "rung_unnest",
        declaration: c"CREATE TABLE x(value, a HIDDEN)",
        columns: 1,
        arguments: 1,
        rows: |arguments, _| values(ArrayValue::from_stored(text(arguments, 0))?.items.into_iter()),
    },
    TableFunction {
        name: "rung_numbered_items",
        declaration: c"CREATE TABLE x(x, n, a HIDDEN)",
        columns: 2,
        arguments: 1,
        rows: numbered_items,
    },
    TableFunction {
        name: "rung_regexp_matches",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN, c HIDDEN)",
        columns: 1,
        arguments: 3,
        rows: |arguments, _| {
            let found =
                patterns::matches(text(arguments, 0), text(arguments, 1), text(arguments, 2))?;
            values(found.into_iter().map(|groups| Value::Text(groups.to_stored())))
        },
    },
    TableFunction {
        name: "rung_regexp_rows",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN, c HIDDEN)",
        columns: 1,
        arguments: 3,
        rows: |arguments, _| {
            let (whole, pattern) = (text(arguments, 0), text(arguments, 1));
            let flags = text(arguments, 2);
            let parts = patterns::split(whole, pattern, flags, "regexp_split_to_table")?;
            values(parts.into_iter().map(Value::Text))
        },
    },
    TableFunction {
        name: "rung_json_elements",
        declaration: c"CREATE TABLE x(value, a HIDDEN, b HIDDEN)",
        columns: 1,
        arguments: 2,
        rows: json_elements,
    },
    TableFunction {
        name: "rung_json_each",
        declaration: c"CREATE TABLE x(key, value, a HIDDEN, b HIDDEN)",
        columns: 2,
        arguments: 2,
        rows: json_each,
    },
    TableFunction {
        name: "rung_json_keys",
        declaration: c"CREATE TABLE x(value, a HIDDEN)",
        columns: 1,
        arguments: 1,
        rows: |arguments, _| {
            let Json::Object(members) = json::parse(text(arguments, 0))? else {
                return Err(invalid("cannot call json_object_keys on a non-object"));
            };
            let keys: Vec<Value> =
                members.into_iter().map(|(key, _)| Value::Text(key.into_owned())).collect();
            values(keys.into_iter())
        },
    },
];

fn values(items: impl Iterator<Item = Value> + Send + 'static) -> Result<Rows, SqlError> {
    Ok(Box::new(items.map(|item| Ok(vec![item]))))
}

fn text(arguments: &[Value], index: usize) -> &str {
    match arguments.get(index) {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

fn integer(arguments: &[Value], index: usize) -> i64 {
    match arguments.get(index) {
        Some(Value::Integer(value)) => *value,
        _ => 0,
    }
}

fn invalid(message: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// The elements that one subscript means, NULL in an array of arrays.
fn numbered_items(arguments: &[Value], _: &SharedContext) -> Result<Rows, SqlError> {
    let array = ArrayValue::from_stored(text(arguments, 0))?;
    let items = match array.dimensions.as_slice() {
        [rows, _, ..] => vec![Value::Null; *rows],
        _ => array.items,
    };
    let numbered = (1..).map(Value::Integer).zip(items);
    Ok(Box::new(numbered.map(|(number, item)| Ok(vec![item, number]))))
}

fn series(arguments: &[Value], _: &SharedContext) -> Result<Rows, SqlError> {
    let (first, last, step) = (integer(arguments, 0), integer(arguments, 1), integer(arguments, 2));
    if step == 0 {
        return Err(invalid("step size cannot equal zero"));
    }
    let within = move |value: &i64| if step > 0 { *value <= last } else { *value >= last };
    let all = std::iter::successors(Some(first), move |value| value.checked_add(step));
    values(all.take_while(within).map(Value::Integer))
}

fn numeric_series(arguments: &[Value], _: &SharedContext) -> Result<Rows, SqlError> {
    let names = ["start value", "stop value", "step size"];
    let mut numbers = Vec::with_capacity(3);
    for (index, name) in names.into_iter().enumerate() {
        let number = Numeric::parse(text(arguments, index))?;
        match number {
            Numeric::Finite(_) => numbers.push(number),
            Numeric::NaN => return Err(invalid(&format!("{name} cannot be NaN"))),
            _ => return Err(invalid(&format!("{name} cannot be infinity"))),
        }
    }
    let [first, last, step] = numbers.try_into().map_err(|_| invalid("three numbers"))?;
    let rising = match step.signum() {
        0 => return Err(invalid("step size cannot equal zero")),
        sign => sign > 0,
    };
    let within = move |value: &Numeric| {
        let order = value.compare(&last);
        if rising { order.is_le() } else { order.is_ge() }
    };
    let all =
        std::iter::successors(Some(first), move |value| Some(numeric_math::add(value, &step)));
    values(all.take_while(within).map(|value| Value::Text(value.to_string())))
}

/// The last argument says whether days are those of the session's time zone.
fn time_series(arguments: &[Value], session: &SharedContext) -> Result<Rows, SqlError> {
    let (first, last) = (integer(arguments, 0), integer(arguments, 1));
    let step = Interval::from_stored(text(arguments, 2)).unwrap_or_default();
    let zone = match integer(arguments, 3) {
        0 => crate::TimeZone::utc(),
        _ => session.lock().time_zone.clone(),
    };
    let rising = match step.compare(&Interval::default()) {
        std::cmp::Ordering::Equal => return Err(invalid("step size cannot equal zero")),
        order => order.is_gt(),
    };
    if calendar::is_infinite(first) {
        return Err(SqlError::not_supported(
            "a series from infinity",
            "Begin with a finite moment.",
        ));
    }
    let mut next = Some(Ok(first));
    Ok(Box::new(std::iter::from_fn(move || {
        let moment: i64 = match next.take()? {
            Ok(moment) => moment,
            Err(error) => return Some(Err(error)),
        };
        if if rising { moment > last } else { moment < last } {
            return None;
        }
        next = Some(intervals::add_to_timestamptz(moment, &step, &zone));
        Some(Ok(vec![Value::Integer(moment)]))
    })))
}

/// The first bit of `form` is for jsonb, the second for text.
fn shown(value: &Json<'_>, form: i64) -> Value {
    let mut out = String::new();
    match (form & 2 != 0, value) {
        (true, Json::Null) => return Value::Null,
        (true, Json::String(text)) => return Value::Text(text.to_string()),
        _ if form & 1 != 0 => value.write_jsonb(&mut out),
        _ => value.write_compact(&mut out),
    }
    Value::Text(out)
}

fn json_elements(arguments: &[Value], _: &SharedContext) -> Result<Rows, SqlError> {
    let form = integer(arguments, 1);
    match json::parse(text(arguments, 0))? {
        Json::Array(items) => {
            let items: Vec<Value> = items.iter().map(|item| shown(item, form)).collect();
            values(items.into_iter())
        }
        Json::Object(_) => Err(invalid("cannot extract elements from an object")),
        _ => Err(invalid("cannot extract elements from a scalar")),
    }
}

fn json_each(arguments: &[Value], _: &SharedContext) -> Result<Rows, SqlError> {
    let form = integer(arguments, 1);
    let Json::Object(members) = json::parse(text(arguments, 0))? else {
        return Err(invalid("cannot deconstruct a non-object"));
    };
    let rows: Vec<TableRow> = members
        .into_iter()
        .map(|(key, value)| Ok(vec![Value::Text(key.into_owned()), shown(&value, form)]))
        .collect();
    Ok(Box::new(rows.into_iter()))
}

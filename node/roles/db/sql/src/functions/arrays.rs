//! Functions and operators of arrays.

use rusqlite::types::Value;

use super::call::{
    Call, Function, Manner::Pure, Manner::Stable, Manner::Strict, Outcome, boolean, int, text,
};
use crate::signature::Lines;
use crate::values::array::{ArrayValue, compare_items};
use crate::values::{encode, numeric};
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[
    ("||(anyarray, anyarray) -> anyarray", "rung_array_cat({0}, {1})"),
    ("||(anyarray, anyelement) -> anyarray", "rung_array_append({0}, {1})"),
    ("||(anyelement, anyarray) -> anyarray", "rung_array_prepend({0}, {1})"),
    ("@>(anyarray, anyarray) -> bool", "rung_array_contains({0}, {1}, {t0})"),
    ("<@(anyarray, anyarray) -> bool", "rung_array_contains({1}, {0}, {t0})"),
    ("&&(anyarray, anyarray) -> bool", "rung_array_overlaps({0}, {1}, {t0})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("array_cat(anyarray, anyarray) -> anyarray", "rung_array_cat({0}, {1})"),
    ("array_append(anyarray, anyelement) -> anyarray", "rung_array_append({0}, {1})"),
    ("array_prepend(anyelement, anyarray) -> anyarray", "rung_array_prepend({0}, {1})"),
    ("array_length(anyarray, int4) -> int4", "rung_array_length({0}, {1})"),
    ("array_upper(anyarray, int4) -> int4", "rung_array_length({0}, {1})"),
    ("array_lower(anyarray, int4) -> int4", "(rung_array_length({0}, {1}) > 0 OR NULL)"),
    ("array_ndims(anyarray) -> int4", "rung_array_ndims({0})"),
    ("array_dims(anyarray) -> text", "rung_array_dims({0})"),
    ("cardinality(anyarray) -> int4", "rung_cardinality({0})"),
    ("array_position(anyarray, anyelement) -> int4", "rung_array_position({0}, {1}, {t0}, 1)"),
    (
        "array_position(anyarray, anyelement, int4) -> int4",
        "rung_array_position({0}, {1}, {t0}, {2})",
    ),
    ("array_positions(anyarray, anyelement) -> _int4", "rung_array_positions({0}, {1}, {t0})"),
    ("array_remove(anyarray, anyelement) -> anyarray", "rung_array_remove({0}, {1}, {t0})"),
    (
        "array_replace(anyarray, anyelement, anyelement) -> anyarray",
        "rung_array_replace({0}, {1}, {2}, {t0})",
    ),
    ("array_fill(anyelement, _int4) -> anyarray", "rung_array_fill({0}, {1})"),
    ("trim_array(anyarray, int4) -> anyarray", "rung_trim_array({0}, {1})"),
    ("array_to_string(anyarray, text) -> text", "rung_array_to_string({0}, {t0}, {1}, NULL)"),
    ("array_to_string(anyarray, text, text) -> text", "rung_array_to_string({0}, {t0}, {1}, {2})"),
    ("string_to_array(text, text) -> _text", "rung_string_to_array({0}, {1}, NULL)"),
    ("string_to_array(text, text, text) -> _text", "rung_string_to_array({0}, {1}, {2})"),
];

pub(crate) const CALLS: &[Function] = &[
    // What ARRAY[...] and subscripts are translated to.
    ("rung_array", -1, Pure, array),
    ("rung_array_get", -1, Pure, subscript),
    ("rung_array_item", 1, Pure, |c| match c.value(0) {
        Value::Text(item) => {
            let mut items = ArrayValue::from_stored(&format!("[{item}]"))?.items;
            Ok(items.pop().unwrap_or(Value::Null))
        }
        plain => Ok(plain),
    }),
    ("rung_array_slice", -1, Pure, slice),
    ("rung_array_has", 3, Strict, |c| {
        let compare = equality(c, 2)?;
        let wanted = c.value(1);
        boolean(c.array(0)?.items.iter().any(|item| compare(item, &wanted)))
    }),
    ("rung_array_cat", 2, Pure, concatenate),
    ("rung_array_append", 2, Pure, |c| {
        let mut items = one_dimension(c, 0)?;
        items.push(c.value(1));
        text(ArrayValue::of(items).to_stored())
    }),
    ("rung_array_prepend", 2, Pure, |c| {
        let mut items = one_dimension(c, 1)?;
        items.insert(0, c.value(0));
        text(ArrayValue::of(items).to_stored())
    }),
    ("rung_array_length", 2, Strict, |c| {
        let array = c.array(0)?;
        let dimension = usize::try_from(c.int(1)? - 1).ok();
        let length = dimension.and_then(|dimension| array.dimensions.get(dimension));
        Ok(length.map_or(Value::Null, |length| Value::Integer(*length as i64)))
    }),
    ("rung_array_ndims", 1, Strict, |c| match c.array(0)?.dimensions.len() {
        0 => Ok(Value::Null),
        dimensions => int(dimensions as i64),
    }),
    ("rung_array_dims", 1, Strict, |c| {
        let dimensions = c.array(0)?.dimensions;
        if dimensions.is_empty() {
            return Ok(Value::Null);
        }
        text(dimensions.iter().map(|length| format!("[1:{length}]")).collect::<String>())
    }),
    // All elements in one dimension, in which most arrays have them already.
    ("rung_array_flat", 1, Strict, |c| match c.text(0)? {
        nested if nested.starts_with("[[") => text(ArrayValue::of(c.array(0)?.items).to_stored()),
        flat => text(flat),
    }),
    ("rung_cardinality", 1, Strict, |c| int(c.array(0)?.items.len() as i64)),
    ("rung_array_position", 4, Pure, |c| {
        if c.is_null(0) {
            return Ok(Value::Null);
        }
        let start = usize::try_from(c.int(3)? - 1).unwrap_or(0);
        let found = positions(c)?.into_iter().find(|position| *position >= start);
        Ok(found.map_or(Value::Null, |position| Value::Integer(position as i64 + 1)))
    }),
    ("rung_array_positions", 3, Pure, |c| {
        if c.is_null(0) {
            return Ok(Value::Null);
        }
        let items = positions(c)?.into_iter().map(|at| Value::Integer(at as i64 + 1));
        text(ArrayValue::of(items.collect()).to_stored())
    }),
    ("rung_array_remove", 3, Pure, |c| {
        if c.is_null(0) {
            return Ok(Value::Null);
        }
        let found = positions(c)?;
        let items = one_dimension(c, 0)?.into_iter().enumerate();
        let kept = items.filter(|(index, _)| !found.contains(index)).map(|(_, item)| item);
        text(ArrayValue::of(kept.collect()).to_stored())
    }),
    ("rung_array_replace", 4, Pure, |c| {
        if c.is_null(0) {
            return Ok(Value::Null);
        }
        let compare = equality(c, 3)?;
        let (old, new) = (c.value(1), c.value(2));
        let mut array = c.array(0)?;
        for item in &mut array.items {
            if compare(item, &old) {
                *item = new.clone();
            }
        }
        text(array.to_stored())
    }),
    ("rung_array_fill", 2, Pure, fill),
    ("rung_trim_array", 2, Strict, |c| {
        let (mut items, count) = (one_dimension(c, 0)?, c.int(1)?);
        match usize::try_from(count).ok().and_then(|count| items.len().checked_sub(count)) {
            Some(length) => items.truncate(length),
            None => {
                return Err(SqlError::new(
                    SqlState::ARRAY_SUBSCRIPT_ERROR,
                    format!("number of elements to trim must be between 0 and {}", items.len()),
                ));
            }
        }
        text(ArrayValue::of(items).to_stored())
    }),
    ("rung_array_contains", 3, Strict, |c| {
        let compare = equality(c, 2)?;
        let (whole, part) = (c.array(0)?, c.array(1)?);
        boolean(part.items.iter().all(|wanted| {
            *wanted != Value::Null && whole.items.iter().any(|item| compare(item, wanted))
        }))
    }),
    ("rung_array_overlaps", 3, Strict, |c| {
        let compare = equality(c, 2)?;
        let (left, right) = (c.array(0)?, c.array(1)?);
        boolean(left.items.iter().any(|item| {
            *item != Value::Null && right.items.iter().any(|other| compare(item, other))
        }))
    }),
    ("rung_array_to_string", 4, Stable, to_string),
    ("rung_string_to_array", 3, Pure, from_string),
];

type Equality = fn(&Value, &Value) -> bool;

/// How elements of an array, whose type is an argument, are equal.
fn equality(call: &Call<'_>, index: usize) -> Result<Equality, SqlError> {
    let data_type = call.pg_type(index)?;
    let is_numeric = data_type.element().unwrap_or(&data_type) == &crate::PgType::Numeric;
    Ok(match is_numeric {
        true => |left, right| match (left, right) {
            (Value::Text(left), Value::Text(right)) => numeric::compare_stored(left, right).is_eq(),
            _ => left == right,
        },
        false => |left, right| compare_items(left, right).is_eq(),
    })
}

/// ARRAY[...] of values or of arrays: the first argument says which.
fn array(call: &Call<'_>) -> Outcome {
    let values = (1..call.len()).map(|index| call.value(index));
    if !call.bool(0)? {
        return text(ArrayValue::of(values.collect()).to_stored());
    }
    let mut whole = ArrayValue::default();
    let mut count = 0;
    for value in values {
        // A null is a row without elements.
        let row = match value {
            Value::Text(row) => ArrayValue::from_stored(&row)?,
            _ => ArrayValue::default(),
        };
        if count > 0 && whole.dimensions[1..] != row.dimensions {
            return Err(mismatch());
        }
        count += 1;
        whole.dimensions = [&[count], row.dimensions.as_slice()].concat();
        whole.items.extend(row.items);
    }
    if whole.items.is_empty() {
        whole.dimensions.clear();
    }
    text(whole.to_stored())
}

fn mismatch() -> SqlError {
    SqlError::new(
        SqlState::ARRAY_SUBSCRIPT_ERROR,
        "multidimensional arrays must have array expressions with matching dimensions",
    )
}

/// The element at one index of each dimension, NULL outside of the array.
fn subscript(call: &Call<'_>) -> Outcome {
    if (0..call.len()).any(|index| call.is_null(index)) {
        return Ok(Value::Null);
    }
    let array = call.array(0)?;
    if array.dimensions.len() != call.len() - 1 {
        return Ok(Value::Null);
    }
    let mut place = 0;
    for (index, length) in array.dimensions.iter().enumerate() {
        match usize::try_from(call.int(index + 1)? - 1) {
            Ok(at) if at < *length => place = place * length + at,
            _ => return Ok(Value::Null),
        }
    }
    Ok(array.items.get(place).cloned().unwrap_or(Value::Null))
}

/// What is from one index to another in each dimension that is named, and all of the
/// others.
fn slice(call: &Call<'_>) -> Outcome {
    if (0..call.len()).any(|index| call.is_null(index)) {
        return Ok(Value::Null);
    }
    let array = call.array(0)?;
    let named = (call.len() - 1) / 2;
    if array.dimensions.len() < named {
        return text("[]");
    }
    let mut places = vec![0];
    let mut dimensions = Vec::new();
    for (dimension, length) in array.dimensions.iter().enumerate() {
        let (mut first, mut last) = (1, *length as i64);
        if dimension < named {
            first = call.int(2 * dimension + 1)?.max(first);
            last = call.int(2 * dimension + 2)?.min(last);
        }
        if first > last {
            return text("[]");
        }
        dimensions.push((last - first + 1) as usize);
        let row = |place: usize| (first..=last).map(move |at| place * length + at as usize - 1);
        places = places.into_iter().flat_map(row).collect();
    }
    let items = places.into_iter().filter_map(|place| array.items.get(place).cloned()).collect();
    text(ArrayValue { dimensions, items }.to_stored())
}

/// NULL counts as an empty array.
fn one_dimension(call: &Call<'_>, index: usize) -> Result<Vec<Value>, SqlError> {
    if call.is_null(index) {
        return Ok(Vec::new());
    }
    let array = call.array(index)?;
    if array.dimensions.len() > 1 {
        return Err(SqlError::new(
            SqlState::DATA_EXCEPTION,
            "argument must be empty or one-dimensional array",
        ));
    }
    Ok(array.items)
}

fn concatenate(call: &Call<'_>) -> Outcome {
    if call.is_null(0) {
        return Ok(call.value(1));
    }
    if call.is_null(1) {
        return Ok(call.value(0));
    }
    let (left, right) = (call.array(0)?, call.array(1)?);
    if left.items.is_empty() {
        return text(right.to_stored());
    }
    if right.items.is_empty() {
        return text(left.to_stored());
    }
    let incompatible =
        || SqlError::new(SqlState::ARRAY_SUBSCRIPT_ERROR, "cannot concatenate incompatible arrays");
    let (l, r) = (&left.dimensions, &right.dimensions);
    let dimensions = if l.len() == r.len() && l[1..] == r[1..] {
        [&[l[0] + r[0]], &l[1..]].concat()
    } else if l.len() == r.len() + 1 && l[1..] == r[..] {
        [&[l[0] + 1], &l[1..]].concat()
    } else if r.len() == l.len() + 1 && r[1..] == l[..] {
        [&[r[0] + 1], &r[1..]].concat()
    } else {
        return Err(incompatible());
    };
    let items = [left.items, right.items].concat();
    text(ArrayValue { dimensions, items }.to_stored())
}

/// Where the second argument is in the first, from 0; NULL is found too.
fn positions(call: &Call<'_>) -> Result<Vec<usize>, SqlError> {
    let compare = equality(call, 2)?;
    let wanted = call.value(1);
    let items = one_dimension(call, 0)?;
    let matches = items.iter().enumerate().filter(|(_, item)| compare(item, &wanted));
    Ok(matches.map(|(index, _)| index).collect())
}

fn fill(call: &Call<'_>) -> Outcome {
    if call.is_null(1) {
        return Err(SqlError::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            "dimension array or low bound array cannot be null",
        ));
    }
    let mut dimensions = Vec::new();
    let mut count = 1_usize;
    for length in call.array(1)?.items {
        let Value::Integer(length) = length else {
            return Err(SqlError::new(
                SqlState::NULL_VALUE_NOT_ALLOWED,
                "dimension values cannot be null",
            ));
        };
        let length = usize::try_from(length).unwrap_or(0);
        dimensions.push(length);
        count = count.saturating_mul(length);
    }
    super::text::bounded(count.saturating_mul(8))?;
    if count == 0 || dimensions.is_empty() {
        return text("[]");
    }
    text(ArrayValue { dimensions, items: vec![call.value(0); count] }.to_stored())
}

fn to_string(call: &Call<'_>) -> Outcome {
    if call.is_null(0) || call.is_null(2) {
        return Ok(Value::Null);
    }
    let data_type = call.pg_type(1)?;
    let element = data_type.element().unwrap_or(&data_type);
    let zone = call.session().time_zone.clone();
    let null = if call.is_null(3) { None } else { Some(call.text(3)?) };
    let mut parts = Vec::new();
    for item in call.array(0)?.items {
        match item {
            Value::Null => parts.extend(null.map(str::to_owned)),
            item => parts.push(encode::to_text((&item).into(), element, &zone)?),
        }
    }
    text(parts.join(call.text(2)?))
}

fn from_string(call: &Call<'_>) -> Outcome {
    if call.is_null(0) {
        return Ok(Value::Null);
    }
    let whole = call.text(0)?;
    let null = if call.is_null(2) { None } else { Some(call.text(2)?) };
    let item = |part: &str| match Some(part) == null {
        true => Value::Null,
        false => Value::Text(part.to_owned()),
    };
    let items: Vec<Value> = if whole.is_empty() {
        Vec::new()
    } else if call.is_null(1) {
        whole.chars().map(|letter| item(letter.encode_utf8(&mut [0; 4]))).collect()
    } else {
        match call.text(1)? {
            "" => vec![item(whole)],
            separator => whole.split(separator).map(item).collect(),
        }
    };
    text(ArrayValue::of(items).to_stored())
}

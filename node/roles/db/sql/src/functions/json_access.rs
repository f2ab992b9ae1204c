//! Parts of JSON values, and changes to them.

use std::borrow::Cow;

use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Strict, Outcome, boolean, int, text};
use super::text::text_or_null;
use crate::signature::Lines;
use crate::values::array::ArrayValue;
use crate::values::json::{self, Json};
use crate::values::numeric::compare_stored;
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[
    ("->(json, text) -> json", "rung_json_field({0}, {1}, 0)"),
    ("->(json, int4) -> json", "rung_json_element({0}, {1}, 0)"),
    ("->>(json, text) -> text", "rung_json_field({0}, {1}, 2)"),
    ("->>(json, int4) -> text", "rung_json_element({0}, {1}, 2)"),
    ("#>(json, _text) -> json", "rung_json_path({0}, {1}, 0)"),
    ("#>>(json, _text) -> text", "rung_json_path({0}, {1}, 2)"),
    ("->(jsonb, text) -> jsonb", "rung_json_field({0}, {1}, 1)"),
    ("->(jsonb, int4) -> jsonb", "rung_json_element({0}, {1}, 1)"),
    ("->>(jsonb, text) -> text", "rung_json_field({0}, {1}, 3)"),
    ("->>(jsonb, int4) -> text", "rung_json_element({0}, {1}, 3)"),
    ("#>(jsonb, _text) -> jsonb", "rung_json_path({0}, {1}, 1)"),
    ("#>>(jsonb, _text) -> text", "rung_json_path({0}, {1}, 3)"),
    ("@>(jsonb, jsonb) -> bool", "rung_jsonb_contains({0}, {1})"),
    ("<@(jsonb, jsonb) -> bool", "rung_jsonb_contains({1}, {0})"),
    ("?(jsonb, text) -> bool", "rung_jsonb_has({0}, {1})"),
    ("?|(jsonb, _text) -> bool", "rung_jsonb_has_any({0}, {1})"),
    ("?&(jsonb, _text) -> bool", "rung_jsonb_has_all({0}, {1})"),
    ("||(jsonb, jsonb) -> jsonb", "rung_jsonb_concat({0}, {1})"),
    ("-(jsonb, text) -> jsonb", "rung_jsonb_delete({0}, {1})"),
    ("-(jsonb, _text) -> jsonb", "rung_jsonb_delete_keys({0}, {1})"),
    ("-(jsonb, int4) -> jsonb", "rung_jsonb_delete_index({0}, {1})"),
    ("#-(jsonb, _text) -> jsonb", "rung_jsonb_delete_path({0}, {1})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("json_extract_path(json, variadic text) -> json", "rung_json_extract_path(0, {*})"),
    ("json_extract_path_text(json, variadic text) -> text", "rung_json_extract_path(2, {*})"),
    ("jsonb_extract_path(jsonb, variadic text) -> jsonb", "rung_json_extract_path(1, {*})"),
    ("jsonb_extract_path_text(jsonb, variadic text) -> text", "rung_json_extract_path(3, {*})"),
    ("json_typeof(json) -> text", "rung_json_typeof({0})"),
    ("jsonb_typeof(jsonb) -> text", "rung_json_typeof({0})"),
    ("json_array_length(json) -> int4", "rung_json_array_length({0})"),
    ("jsonb_array_length(jsonb) -> int4", "rung_json_array_length({0})"),
    ("jsonb_pretty(jsonb) -> text", "rung_jsonb_pretty({0})"),
    ("json_strip_nulls(json) -> json", "rung_json_strip_nulls({0}, 0)"),
    ("jsonb_strip_nulls(jsonb) -> jsonb", "rung_json_strip_nulls({0}, 1)"),
    ("jsonb_set(jsonb, _text, jsonb) -> jsonb", "rung_jsonb_set({0}, {1}, {2}, 1)"),
    ("jsonb_set(jsonb, _text, jsonb, bool) -> jsonb", "rung_jsonb_set({0}, {1}, {2}, {3})"),
    ("jsonb_insert(jsonb, _text, jsonb) -> jsonb", "rung_jsonb_insert({0}, {1}, {2}, 0)"),
    ("jsonb_insert(jsonb, _text, jsonb, bool) -> jsonb", "rung_jsonb_insert({0}, {1}, {2}, {3})"),
    ("jsonb_contains(jsonb, jsonb) -> bool", "rung_jsonb_contains({0}, {1})"),
    ("jsonb_exists(jsonb, text) -> bool", "rung_jsonb_has({0}, {1})"),
];

pub(crate) const CALLS: &[Function] = &[
    // The last argument: 1 for jsonb, 2 for a text in place of JSON.
    ("rung_json_field", 3, Strict, |c| {
        let value = c.json(0)?;
        shown(field(&value, c.text(1)?), c.int(2)?)
    }),
    ("rung_json_element", 3, Strict, |c| {
        let value = c.json(0)?;
        shown(element(&value, c.int(1)?), c.int(2)?)
    }),
    ("rung_json_path", 3, Strict, |c| {
        let value = c.json(0)?;
        let path = keys(&c.array(1)?);
        let mut found = Some(&value);
        for step in &path {
            found = found.and_then(|value| descend(value, step.as_deref()));
        }
        shown(found, c.int(2)?)
    }),
    ("rung_json_extract_path", -1, Strict, |c| {
        let value = c.json(1)?;
        let mut found = Some(&value);
        for index in 2..c.len() {
            let step = c.text(index)?;
            found = found.and_then(|value| descend(value, Some(step)));
        }
        shown(found, c.int(0)?)
    }),
    ("rung_json_typeof", 1, Strict, |c| text(c.json(0)?.type_name())),
    ("rung_json_array_length", 1, Strict, |c| match c.json(0)? {
        Json::Array(items) => int(items.len() as i64),
        Json::Object(_) => Err(invalid("cannot get array length of a non-array")),
        _ => Err(invalid("cannot get array length of a scalar")),
    }),
    ("rung_jsonb_pretty", 1, Strict, |c| {
        let mut out = String::new();
        c.json(0)?.write_pretty(&mut out, 0);
        text(out)
    }),
    ("rung_json_strip_nulls", 2, Strict, |c| {
        let stripped = strip_nulls(c.json(0)?);
        let mut out = String::new();
        match c.bool(1)? {
            true => stripped.write_jsonb(&mut out),
            false => stripped.write_compact(&mut out),
        }
        text(out)
    }),
    ("rung_jsonb_contains", 2, Strict, |c| boolean(contains(&c.json(0)?, &c.json(1)?, true))),
    ("rung_jsonb_has", 2, Strict, |c| boolean(has(&c.json(0)?, c.text(1)?))),
    ("rung_jsonb_has_any", 2, Strict, |c| {
        let value = c.json(0)?;
        boolean(keys(&c.array(1)?).iter().flatten().any(|key| has(&value, key)))
    }),
    ("rung_jsonb_has_all", 2, Strict, |c| {
        let value = c.json(0)?;
        boolean(keys(&c.array(1)?).iter().flatten().all(|key| has(&value, key)))
    }),
    ("rung_jsonb_concat", 2, Strict, |c| text(concat(c.json(0)?, c.json(1)?)?.to_jsonb())),
    ("rung_jsonb_delete", 2, Strict, |c| {
        let key = c.text(1)?;
        text(without(c.json(0)?, |name| name == key)?.to_jsonb())
    }),
    ("rung_jsonb_delete_keys", 2, Strict, |c| {
        let keys = keys(&c.array(1)?);
        let listed = |name: &str| keys.iter().flatten().any(|key| key == name);
        text(without(c.json(0)?, listed)?.to_jsonb())
    }),
    ("rung_jsonb_delete_index", 2, Strict, |c| match c.json(0)? {
        Json::Array(mut items) => {
            if let Some(index) = place(c.int(1)?, items.len()) {
                items.remove(index);
            }
            text(Json::Array(items).to_jsonb())
        }
        Json::Object(_) => Err(invalid("cannot delete from object using integer index")),
        _ => Err(invalid("cannot delete from scalar")),
    }),
    ("rung_jsonb_delete_path", 2, Strict, |c| {
        let mut value = c.json(0)?;
        if !matches!(value, Json::Array(_) | Json::Object(_)) {
            return Err(invalid("cannot delete path in scalar"));
        }
        change(&mut value, &keys(&c.array(1)?), 1, &Change::Delete)?;
        text(value.to_jsonb())
    }),
    ("rung_jsonb_set", 4, Strict, |c| {
        let create = c.bool(3)?;
        changed(c, |new| Change::Set { new, create })
    }),
    ("rung_jsonb_insert", 4, Strict, |c| {
        let after = c.bool(3)?;
        changed(c, |new| Change::Insert { new, after })
    }),
];

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

fn keys(array: &ArrayValue) -> Vec<Option<String>> {
    let key = |item: &Value| match item {
        Value::Text(key) => Some(key.clone()),
        _ => None,
    };
    array.items.iter().map(key).collect()
}

/// With the first bit a jsonb, with the second a text.
fn shown(found: Option<&Json<'_>>, form: i64) -> Outcome {
    let Some(value) = found else { return Ok(Value::Null) };
    if form & 2 != 0 {
        return text_or_null(match (value, form & 1) {
            (Json::Array(_) | Json::Object(_), 0) => Some(as_json(value)),
            _ => value.to_text(),
        });
    }
    text(if form & 1 != 0 { value.to_jsonb() } else { as_json(value) })
}

/// PostgreSQL gives the part of the original text; without it, it has no spaces.
fn as_json(value: &Json<'_>) -> String {
    let mut out = String::new();
    value.write_compact(&mut out);
    out
}

fn field<'j, 'a>(value: &'j Json<'a>, key: &str) -> Option<&'j Json<'a>> {
    match value {
        // Of equal keys, the last.
        Json::Object(members) => {
            members.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
        }
        _ => None,
    }
}

/// The place of an index that counts from the end if it is negative.
fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i64 } else { index };
    usize::try_from(index).ok().filter(|index| *index < length)
}

fn element<'j, 'a>(value: &'j Json<'a>, index: i64) -> Option<&'j Json<'a>> {
    match value {
        Json::Array(items) => items.get(place(index, items.len())?),
        _ => None,
    }
}

fn descend<'j, 'a>(value: &'j Json<'a>, step: Option<&str>) -> Option<&'j Json<'a>> {
    match value {
        Json::Object(_) => field(value, step?),
        Json::Array(_) => element(value, step?.trim().parse().ok()?),
        _ => None,
    }
}

fn strip_nulls(value: Json<'_>) -> Json<'_> {
    match value {
        Json::Array(items) => Json::Array(items.into_iter().map(strip_nulls).collect()),
        Json::Object(members) => Json::Object(
            members
                .into_iter()
                .filter(|(_, value)| *value != Json::Null)
                .map(|(key, value)| (key, strip_nulls(value)))
                .collect(),
        ),
        other => other,
    }
}

fn equal(left: &Json<'_>, right: &Json<'_>) -> bool {
    match (left, right) {
        (Json::Number(left), Json::Number(right)) => compare_stored(left, right).is_eq(),
        _ => left.compare(right).is_eq(),
    }
}

/// `@>`: each part of the second is in the first. At the top, an array contains a
/// scalar too.
fn contains(whole: &Json<'_>, part: &Json<'_>, top: bool) -> bool {
    match (whole, part) {
        (Json::Object(_), Json::Object(members)) => members.iter().all(|(key, wanted)| {
            field(whole, key).is_some_and(|found| contains(found, wanted, false))
        }),
        (Json::Array(items), Json::Array(wanted)) => {
            wanted.iter().all(|wanted| items.iter().any(|item| contains(item, wanted, false)))
        }
        (Json::Array(items), scalar) if top && !matches!(scalar, Json::Object(_)) => {
            items.iter().any(|item| equal(item, scalar))
        }
        (Json::Array(_) | Json::Object(_), _) | (_, Json::Array(_) | Json::Object(_)) => false,
        (left, right) => equal(left, right),
    }
}

/// `?`: a key of an object, a string in an array, or the string itself.
fn has(value: &Json<'_>, key: &str) -> bool {
    let is_key = |item: &Json<'_>| matches!(item, Json::String(text) if text == key);
    match value {
        Json::Object(_) => field(value, key).is_some(),
        Json::Array(items) => items.iter().any(is_key),
        other => is_key(other),
    }
}

fn concat<'a>(left: Json<'a>, right: Json<'a>) -> Result<Json<'a>, SqlError> {
    Ok(match (left, right) {
        (Json::Object(mut members), Json::Object(more)) => {
            members.extend(more);
            Json::object(members)
        }
        (Json::Array(mut items), Json::Array(more)) => {
            items.extend(more);
            Json::Array(items)
        }
        (Json::Array(mut items), other) => {
            items.push(other);
            Json::Array(items)
        }
        (other, Json::Array(mut items)) => {
            items.insert(0, other);
            Json::Array(items)
        }
        (Json::Object(_), _) | (_, Json::Object(_)) => {
            return Err(invalid("invalid concatenation of jsonb objects"));
        }
        (left, right) => Json::Array(vec![left, right]),
    })
}

fn without<'a>(value: Json<'a>, listed: impl Fn(&str) -> bool) -> Result<Json<'a>, SqlError> {
    Ok(match value {
        Json::Object(mut members) => {
            members.retain(|(key, _)| !listed(key));
            Json::Object(members)
        }
        Json::Array(mut items) => {
            items.retain(|item| !matches!(item, Json::String(text) if listed(text)));
            Json::Array(items)
        }
        _ => return Err(invalid("cannot delete from scalar")),
    })
}

enum Change<'a> {
    Delete,
    Set { new: Json<'a>, create: bool },
    Insert { new: Json<'a>, after: bool },
}

fn changed<'a>(call: &Call<'a>, make: impl FnOnce(Json<'a>) -> Change<'a>) -> Outcome {
    let mut value = call.json(0)?;
    if !matches!(value, Json::Array(_) | Json::Object(_)) {
        return Err(invalid("cannot set path in scalar"));
    }
    change(&mut value, &keys(&call.array(1)?), 1, &make(call.json(2)?))?;
    text(value.to_jsonb())
}

/// `level` counts the steps of the path from 1, for errors.
fn change<'a>(
    value: &mut Json<'a>,
    path: &[Option<String>],
    level: usize,
    how: &Change<'a>,
) -> Result<(), SqlError> {
    let Some((step, rest)) = path.split_first() else { return Ok(()) };
    let Some(step) = step else {
        return Err(SqlError::new(
            SqlState::NULL_VALUE_NOT_ALLOWED,
            format!("path element at position {level} is null"),
        ));
    };
    match value {
        Json::Object(members) => {
            let found = members.iter().position(|(key, _)| key == step);
            match (found, rest.is_empty()) {
                (Some(index), false) => change(&mut members[index].1, rest, level + 1, how)?,
                (None, false) => {}
                (found, true) => change_member(members, found, step, how)?,
            }
        }
        Json::Array(items) => {
            let index = step.trim().parse::<i64>().map_err(|_| {
                SqlError::new(
                    SqlState::INVALID_TEXT,
                    format!("path element at position {level} is not an integer: \"{step}\""),
                )
            })?;
            match (place(index, items.len()), rest.is_empty()) {
                (Some(index), false) => change(&mut items[index], rest, level + 1, how)?,
                (None, false) => {}
                (found, true) => change_item(items, found, index, how),
            }
        }
        _ => {}
    }
    Ok(())
}

fn change_member<'a>(
    members: &mut Vec<(Cow<'a, str>, Json<'a>)>,
    found: Option<usize>,
    key: &str,
    how: &Change<'a>,
) -> Result<(), SqlError> {
    match (how, found) {
        (Change::Delete, Some(index)) => {
            members.remove(index);
        }
        (Change::Set { new, .. }, Some(index)) => members[index].1 = new.clone(),
        (Change::Insert { .. }, Some(_)) => {
            return Err(invalid("cannot replace existing key")
                .hint("Try using the function jsonb_set to replace key value."));
        }
        (Change::Set { new, create: true } | Change::Insert { new, .. }, None) => {
            members.push((Cow::Owned(key.to_owned()), new.clone()));
            members.sort_by(|(left, _), (right, _)| json::compare_keys(left, right));
        }
        (Change::Delete | Change::Set { .. }, None) => {}
    }
    Ok(())
}

fn change_item<'a>(items: &mut Vec<Json<'a>>, found: Option<usize>, index: i64, how: &Change<'a>) {
    let end = if index < 0 { 0 } else { items.len() };
    match (how, found) {
        (Change::Delete, Some(index)) => {
            items.remove(index);
        }
        (Change::Set { new, .. }, Some(index)) => items[index] = new.clone(),
        (Change::Set { new, create: true }, None) => items.insert(end, new.clone()),
        (Change::Insert { new, after }, Some(index)) => {
            items.insert(index + usize::from(*after), new.clone());
        }
        (Change::Insert { new, .. }, None) => items.insert(end, new.clone()),
        (Change::Delete | Change::Set { .. }, None) => {}
    }
}

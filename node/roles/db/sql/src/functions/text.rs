//! Functions of texts. Positions and lengths count characters.

use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Pure, Manner::Strict, Outcome, boolean, int, text};
use crate::signature::Lines;
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[
    ("||(text, text) -> text", "({0} || {1})"),
    ("||(text, anynonarray) -> text", "({0} || rung_cast({1}, {t1}, 'text', -1))"),
    ("||(anynonarray, text) -> text", "(rung_cast({0}, {t0}, 'text', -1) || {1})"),
    ("^@(text, text) -> bool", "rung_starts_with({0}, {1})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("length(text) -> int4", "length({0})"),
    ("char_length(text) -> int4", "length({0})"),
    ("character_length(text) -> int4", "length({0})"),
    ("octet_length(text) -> int4", "octet_length({0})"),
    ("bit_length(text) -> int4", "(octet_length({0}) * 8)"),
    ("upper(text) -> text", "rung_upper({0})"),
    ("lower(text) -> text", "rung_lower({0})"),
    ("initcap(text) -> text", "rung_initcap({0})"),
    ("substring(text, int4) -> text", "rung_substring({0}, {1})"),
    ("substring(text, int4, int4) -> text", "rung_substring({0}, {1}, {2})"),
    ("substr(text, int4) -> text", "rung_substring({0}, {1})"),
    ("substr(text, int4, int4) -> text", "rung_substring({0}, {1}, {2})"),
    ("position(text, text) -> int4", "instr({0}, {1})"),
    ("strpos(text, text) -> int4", "instr({0}, {1})"),
    ("left(text, int4) -> text", "rung_left({0}, {1})"),
    ("right(text, int4) -> text", "rung_right({0}, {1})"),
    ("lpad(text, int4) -> text", "rung_lpad({0}, {1}, ' ')"),
    ("lpad(text, int4, text) -> text", "rung_lpad({0}, {1}, {2})"),
    ("rpad(text, int4) -> text", "rung_rpad({0}, {1}, ' ')"),
    ("rpad(text, int4, text) -> text", "rung_rpad({0}, {1}, {2})"),
    ("btrim(text) -> text", "trim({0})"),
    ("btrim(text, text) -> text", "rung_trim({0}, {1}, 3)"),
    ("ltrim(text) -> text", "ltrim({0})"),
    ("ltrim(text, text) -> text", "rung_trim({0}, {1}, 1)"),
    ("rtrim(text) -> text", "rtrim({0})"),
    ("rtrim(text, text) -> text", "rung_trim({0}, {1}, 2)"),
    ("replace(text, text, text) -> text", "rung_replace({0}, {1}, {2})"),
    ("translate(text, text, text) -> text", "rung_translate({0}, {1}, {2})"),
    ("overlay(text, text, int4) -> text", "rung_overlay({0}, {1}, {2})"),
    ("overlay(text, text, int4, int4) -> text", "rung_overlay({0}, {1}, {2}, {3})"),
    ("repeat(text, int4) -> text", "rung_repeat({0}, {1})"),
    ("reverse(text) -> text", "rung_reverse({0})"),
    ("split_part(text, text, int4) -> text", "rung_split_part({0}, {1}, {2})"),
    ("starts_with(text, text) -> bool", "rung_starts_with({0}, {1})"),
    ("ascii(text) -> int4", "rung_ascii({0})"),
    ("chr(int4) -> text", "rung_chr({0})"),
    ("to_hex(int4) -> text", "rung_to_hex({0}, 32)"),
    ("to_hex(int8) -> text", "rung_to_hex({0}, 64)"),
    ("quote_ident(text) -> text", "rung_quote_ident({0})"),
    ("quote_literal(text) -> text", "rung_quote_literal({0})"),
    ("quote_literal(any) -> text", "rung_quote_literal(rung_cast({0}, {t0}, 'text', -1))"),
    ("quote_nullable(text) -> text", "rung_quote_nullable({0})"),
    ("quote_nullable(any) -> text", "rung_quote_nullable(rung_cast({0}, {t0}, 'text', -1))"),
    ("concat(variadic any) -> text", "rung_concat({*t})"),
    ("concat_ws(text, variadic any) -> text", "rung_concat_ws({*t})"),
    ("format(text, variadic any) -> text", "rung_format({*t})"),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_upper", 1, Strict, |c| text(mapped(c.text(0)?, char::to_uppercase))),
    ("rung_lower", 1, Strict, |c| text(mapped(c.text(0)?, char::to_lowercase))),
    ("rung_initcap", 1, Strict, |c| text(initcap(c.text(0)?))),
    ("rung_substring", 2, Strict, substring),
    ("rung_substring", 3, Strict, substring),
    ("rung_left", 2, Strict, |c| {
        let (whole, count) = (c.text(0)?, c.int(1)?);
        text(&whole[..offset(whole, if count < 0 { characters(whole) + count } else { count })])
    }),
    ("rung_right", 2, Strict, |c| {
        let (whole, count) = (c.text(0)?, c.int(1)?);
        let length = characters(whole);
        text(&whole[offset(whole, if count < 0 { -count } else { length - count })..])
    }),
    ("rung_lpad", 3, Strict, |c| pad(c, true)),
    ("rung_rpad", 3, Strict, |c| pad(c, false)),
    ("rung_trim", 3, Strict, |c| {
        let (whole, set, sides) = (c.text(0)?, c.text(1)?, c.int(2)?);
        let mut rest = whole;
        if sides & 1 != 0 {
            rest = rest.trim_start_matches(|letter| set.contains(letter));
        }
        if sides & 2 != 0 {
            rest = rest.trim_end_matches(|letter| set.contains(letter));
        }
        text(rest)
    }),
    ("rung_replace", 3, Strict, |c| {
        let (whole, from, to) = (c.text(0)?, c.text(1)?, c.text(2)?);
        if from.is_empty() {
            return text(whole);
        }
        let found = whole.matches(from).count();
        bounded(whole.len().saturating_add(found.saturating_mul(to.len())))?;
        text(whole.replace(from, to))
    }),
    ("rung_translate", 3, Strict, translate),
    ("rung_overlay", 3, Strict, overlay),
    ("rung_overlay", 4, Strict, overlay),
    ("rung_repeat", 2, Strict, |c| {
        let (whole, count) = (c.text(0)?, usize::try_from(c.int(1)?).unwrap_or(0));
        bounded(whole.len().saturating_mul(count))?;
        text(whole.repeat(count))
    }),
    ("rung_reverse", 1, Strict, |c| text(c.text(0)?.chars().rev().collect::<String>())),
    ("rung_split_part", 3, Strict, split_part),
    ("rung_starts_with", 2, Strict, |c| boolean(c.text(0)?.starts_with(c.text(1)?))),
    ("rung_ascii", 1, Strict, |c| {
        int(c.text(0)?.chars().next().map_or(0, |first| i64::from(u32::from(first))))
    }),
    ("rung_chr", 1, Strict, chr),
    ("rung_to_hex", 2, Strict, |c| match c.int(1)? {
        32 => text(format!("{:x}", c.int(0)? as i32)),
        _ => text(format!("{:x}", c.int(0)?)),
    }),
    ("rung_quote_ident", 1, Strict, |c| text(quote_ident(c.text(0)?))),
    ("rung_quote_literal", 1, Strict, |c| text(quote_literal(c.text(0)?))),
    ("rung_quote_nullable", 1, Pure, |c| match c.is_null(0) {
        true => text("NULL"),
        false => text(quote_literal(c.text(0)?)),
    }),
];

/// PostgreSQL's limit of a value.
const MOST_BYTES: usize = (1 << 30) - 1;

/// # Errors
/// 54000 if a result would be larger than a value may be.
pub(super) fn bounded(bytes: usize) -> Result<(), SqlError> {
    match bytes <= MOST_BYTES {
        true => Ok(()),
        false => Err(SqlError::new(SqlState::LIMIT_EXCEEDED, "requested length too large")),
    }
}

pub(super) fn characters(whole: &str) -> i64 {
    whole.chars().count() as i64
}

/// The byte at which so many characters end; 0 for less than none.
pub(super) fn offset(whole: &str, count: i64) -> usize {
    match usize::try_from(count) {
        Ok(count) => whole.char_indices().nth(count).map_or(whole.len(), |(index, _)| index),
        Err(_) => 0,
    }
}

/// Each character by itself, as PostgreSQL does it: one that becomes several stays.
fn mapped<I: Iterator<Item = char>>(whole: &str, map: fn(char) -> I) -> String {
    whole.chars().map(|letter| single(letter, map)).collect()
}

fn single<I: Iterator<Item = char>>(letter: char, map: fn(char) -> I) -> char {
    let mut mapped = map(letter);
    match (mapped.next(), mapped.next()) {
        (Some(only), None) => only,
        _ => letter,
    }
}

pub(super) fn initcap(whole: &str) -> String {
    let mut inside = false;
    whole
        .chars()
        .map(|letter| {
            let mapped = match inside {
                true => single(letter, char::to_lowercase),
                false => single(letter, char::to_uppercase),
            };
            inside = letter.is_alphanumeric();
            mapped
        })
        .collect()
}

/// From a position that may be before the text.
pub(super) fn range(start: i64, length: Option<i64>) -> Result<(i64, i64), SqlError> {
    let end = match length {
        Some(..0) => {
            return Err(SqlError::new(
                SqlState::SUBSTRING_ERROR,
                "negative substring length not allowed",
            ));
        }
        Some(length) => start.saturating_add(length),
        None => i64::MAX,
    };
    let first = start.max(1) - 1;
    Ok((first, (end.saturating_sub(1) - first).max(0)))
}

fn substring(call: &Call<'_>) -> Outcome {
    let whole = call.text(0)?;
    let length = if call.len() > 2 { Some(call.int(2)?) } else { None };
    let (first, count) = range(call.int(1)?, length)?;
    let rest = &whole[offset(whole, first)..];
    text(&rest[..offset(rest, count)])
}

fn pad(call: &Call<'_>, left: bool) -> Outcome {
    let (whole, length, fill) = (call.text(0)?, call.int(1)?.max(0), call.text(2)?);
    bounded(length as usize)?;
    let missing = length - characters(whole);
    if missing <= 0 || fill.is_empty() {
        return text(&whole[..offset(whole, length)]);
    }
    let padding: String = fill.chars().cycle().take(missing as usize).collect();
    bounded(padding.len() + whole.len())?;
    text(if left { padding + whole } else { whole.to_owned() + &padding })
}

fn translate(call: &Call<'_>) -> Outcome {
    let from: Vec<char> = call.text(1)?.chars().collect();
    let to: Vec<char> = call.text(2)?.chars().collect();
    let replaced = call.text(0)?.chars().filter_map(|letter| {
        match from.iter().position(|known| *known == letter) {
            Some(index) => to.get(index).copied(),
            None => Some(letter),
        }
    });
    text(replaced.collect::<String>())
}

fn overlay(call: &Call<'_>) -> Outcome {
    let (whole, new, start) = (call.text(0)?, call.text(1)?, call.int(2)?);
    let length = if call.len() > 3 { call.int(3)? } else { characters(new) };
    if start <= 0 {
        return Err(SqlError::new(
            SqlState::SUBSTRING_ERROR,
            "negative substring length not allowed",
        ));
    }
    let end = start.saturating_add(length);
    let before = &whole[..offset(whole, start - 1)];
    let after = &whole[offset(whole, (end - 1).max(0))..];
    bounded(before.len() + new.len() + after.len())?;
    text([before, new, after].concat())
}

fn split_part(call: &Call<'_>) -> Outcome {
    let (whole, separator, field) = (call.text(0)?, call.text(1)?, call.int(2)?);
    if field == 0 {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "field position must not be zero",
        ));
    }
    let index = usize::try_from(field.unsigned_abs() - 1).unwrap_or(usize::MAX);
    if separator.is_empty() {
        return text(if index == 0 { whole } else { "" });
    }
    let part = match field > 0 {
        true => whole.split(separator).nth(index),
        false => whole.rsplit(separator).nth(index),
    };
    text(part.unwrap_or_default())
}

fn chr(call: &Call<'_>) -> Outcome {
    let code = call.int(0)?;
    let limit = |message: String| Err(SqlError::new(SqlState::LIMIT_EXCEEDED, message));
    match code {
        ..0 => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "character number must be positive",
        )),
        0 => limit("null character not permitted".to_owned()),
        0x11_0000.. => limit(format!("requested character too large for encoding: {code}")),
        _ => match char::from_u32(code as u32) {
            Some(letter) => text(letter),
            None => limit(format!("requested character not valid for encoding: {code}")),
        },
    }
}

/// Words that PostgreSQL puts in quotes though they look like names.
const KEYWORDS: &str = " all analyse analyze and any array as asc asymmetric authorization between \
    bigint binary bit boolean both case cast char character check coalesce collate collation column \
    concurrently constraint create cross current_catalog current_date current_role current_schema \
    current_time current_timestamp current_user dec decimal default deferrable desc distinct do else \
    end except exists extract false fetch float for foreign freeze from full grant greatest group \
    grouping having ilike in initially inner inout int integer intersect interval into is isnull join \
    lateral leading least left like limit localtime localtimestamp national natural nchar none \
    normalize not notnull null nullif numeric offset on only or order out outer overlaps overlay \
    placing position precision primary real references returning right row select session_user setof \
    similar smallint some substring symmetric table tablesample then time timestamp to trailing treat \
    trim true union unique user using values varchar variadic verbose when where window with \
    xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot \
    xmlserialize xmltable ";

pub(crate) fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !KEYWORDS.contains(&format!(" {name} "));
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

pub(crate) fn quote_literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// For functions whose value may be missing.
pub(super) fn text_or_null(value: Option<String>) -> Outcome {
    Ok(value.map_or(Value::Null, Value::Text))
}

//! `format`, `concat` and the like: arguments of any type, each with its type's name.

use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Stable, Outcome, text};
use super::text::{bounded, quote_ident, quote_literal};
use crate::values::encode;
use crate::{SqlError, SqlState};

pub(crate) const CALLS: &[Function] = &[
    ("rung_concat", -1, Stable, |c| {
        let parts = arguments(c, 0)?;
        text(parts.into_iter().flatten().collect::<String>())
    }),
    ("rung_concat_ws", -1, Stable, |c| {
        if c.is_null(0) {
            return Ok(Value::Null);
        }
        let parts: Vec<String> = arguments(c, 2)?.into_iter().flatten().collect();
        text(parts.join(c.text(0)?))
    }),
    ("rung_format", -1, Stable, format),
];

/// What each pair of value and type prints, nothing for NULL.
fn arguments(call: &Call<'_>, first: usize) -> Result<Vec<Option<String>>, SqlError> {
    let zone = call.session().time_zone.clone();
    (first..call.len())
        .step_by(2)
        .map(|index| match call.is_null(index) {
            true => Ok(None),
            false => encode::to_text(call.get(index), &call.pg_type(index + 1)?, &zone).map(Some),
        })
        .collect()
}

struct Specifier {
    /// From 1.
    position: Option<usize>,
    left: bool,
    width: Width,
    conversion: char,
}

enum Width {
    None,
    Fixed(i64),
    /// Of an argument, by its number or the next.
    Argument(Option<usize>),
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

fn unterminated() -> SqlError {
    invalid("unterminated format() type specifier").hint("For a single \"%\" use \"%%\".")
}

fn format(call: &Call<'_>) -> Outcome {
    if call.is_null(0) {
        return Ok(Value::Null);
    }
    let arguments = arguments(call, 2)?;
    let too_few = || invalid("too few arguments for format()");
    let mut out = String::new();
    let mut next = 0;
    let mut rest = call.text(0)?;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (specifier, after) = specifier(rest)?;
        rest = after;
        let (mut width, mut left) = (0, specifier.left);
        match specifier.width {
            Width::None => {}
            Width::Fixed(fixed) => width = fixed,
            Width::Argument(position) => {
                let index = position.map_or(next, |position| position - 1);
                next = index + 1;
                let argument = arguments.get(index).ok_or_else(too_few)?;
                width = match argument.as_deref() {
                    None => 0,
                    Some(digits) => digits.parse::<i32>().map(i64::from).map_err(|_| {
                        SqlError::new(
                            SqlState::INVALID_TEXT,
                            format!("invalid input syntax for type integer: \"{digits}\""),
                        )
                    })?,
                };
                if width < 0 {
                    (width, left) = (-width, true);
                }
            }
        }
        let index = specifier.position.map_or(next, |position| position - 1);
        next = index + 1;
        let argument = arguments.get(index).ok_or_else(too_few)?;
        let shown = match (specifier.conversion, argument) {
            ('s', argument) => argument.clone().unwrap_or_default(),
            ('I', Some(name)) => quote_ident(name),
            ('I', None) => {
                return Err(SqlError::new(
                    SqlState::NULL_VALUE_NOT_ALLOWED,
                    "null values cannot be formatted as an SQL identifier",
                ));
            }
            ('L', argument) => argument.as_deref().map_or("NULL".to_owned(), quote_literal),
            (other, _) => {
                return Err(invalid(format!("unrecognized format() type specifier \"{other}\""))
                    .hint("For a single \"%\" use \"%%\"."));
            }
        };
        let missing = usize::try_from(width - shown.chars().count() as i64).unwrap_or(0);
        bounded(out.len().saturating_add(shown.len()).saturating_add(missing))?;
        if left {
            out.push_str(&shown);
        }
        out.extend(std::iter::repeat_n(' ', missing));
        if !left {
            out.push_str(&shown);
        }
    }
    out.push_str(rest);
    text(out)
}

/// `1$-10s`, after the percent sign; and what follows it.
fn specifier(text: &str) -> Result<(Specifier, &str), SqlError> {
    let mut rest = text;
    let mut position = None;
    let mut width = Width::None;
    let mut left = false;
    if let Some((number, after)) = number(rest)? {
        match after.strip_prefix('$') {
            Some(after) => {
                position = Some(argument_number(number)?);
                rest = after;
            }
            None => {
                width = Width::Fixed(number);
                rest = after;
            }
        }
    }
    if matches!(width, Width::None) {
        while let Some(after) = rest.strip_prefix('-') {
            left = true;
            rest = after;
        }
        if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            width = match number(rest)? {
                None => Width::Argument(None),
                Some((position, after)) => {
                    rest = after
                        .strip_prefix('$')
                        .ok_or_else(|| invalid("width argument position must be ended by \"$\""))?;
                    Width::Argument(Some(argument_number(position)?))
                }
            };
        } else if let Some((fixed, after)) = number(rest)? {
            width = Width::Fixed(fixed);
            rest = after;
        }
    }
    let conversion = rest.chars().next().ok_or_else(unterminated)?;
    Ok((Specifier { position, left, width, conversion }, &rest[conversion.len_utf8()..]))
}

fn number(text: &str) -> Result<Option<(i64, &str)>, SqlError> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if end == 0 {
        return Ok(None);
    }
    match text[..end].parse::<i32>() {
        Ok(number) if end < text.len() => Ok(Some((number.into(), &text[end..]))),
        Ok(_) => Err(unterminated()),
        Err(_) => Err(SqlError::new(SqlState::OUT_OF_RANGE, "number is out of range")),
    }
}

fn argument_number(number: i64) -> Result<usize, SqlError> {
    match usize::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(invalid("format specifies argument 0, but arguments are numbered from 1")),
    }
}

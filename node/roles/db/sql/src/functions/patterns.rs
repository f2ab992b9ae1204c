//! LIKE, SIMILAR TO and POSIX regular expressions.
//!
//! Regular expressions are translated into those of the library, which never takes
//! exponential time. It has neither back references nor looking around; those are
//! refused. Of alternatives it takes the first that matches, PostgreSQL the longest.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use regex::{Regex, RegexBuilder};
use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Pure, Manner::Strict, Outcome, boolean, int, text};
use super::text::{bounded, characters, offset};
use crate::signature::Lines;
use crate::values::array::ArrayValue;
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[
    ("~~(text, text) -> bool", "rung_like({0}, {1})"),
    ("!~~(text, text) -> bool", "(NOT rung_like({0}, {1}))"),
    ("~~*(text, text) -> bool", "rung_ilike({0}, {1})"),
    ("!~~*(text, text) -> bool", "(NOT rung_ilike({0}, {1}))"),
    ("~(text, text) -> bool", "rung_regexp({0}, {1}, '')"),
    ("!~(text, text) -> bool", "(NOT rung_regexp({0}, {1}, ''))"),
    ("~*(text, text) -> bool", "rung_regexp({0}, {1}, 'i')"),
    ("!~*(text, text) -> bool", "(NOT rung_regexp({0}, {1}, 'i'))"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("like(text, text) -> bool", "rung_like({0}, {1})"),
    ("notlike(text, text) -> bool", "(NOT rung_like({0}, {1}))"),
    ("like_escape(text, text) -> text", "rung_like_escape({0}, {1})"),
    ("similar_to_escape(text) -> text", "rung_similar({0}, '\\')"),
    ("similar_to_escape(text, text) -> text", "rung_similar({0}, {1})"),
    ("regexp_like(text, text) -> bool", "rung_regexp({0}, {1}, '')"),
    ("regexp_like(text, text, text) -> bool", "rung_regexp({0}, {1}, {2})"),
    ("regexp_match(text, text) -> _text", "rung_regexp_match({0}, {1}, '')"),
    ("regexp_match(text, text, text) -> _text", "rung_regexp_match({0}, {1}, {2})"),
    ("substring(text, text) -> text", "rung_regexp_part({0}, {1})"),
    ("regexp_replace(text, text, text) -> text", "rung_regexp_replace({0}, {1}, {2}, '', 1, 1)"),
    (
        "regexp_replace(text, text, text, text) -> text",
        "rung_regexp_replace({0}, {1}, {2}, {3}, 1, NULL)",
    ),
    (
        "regexp_replace(text, text, text, int4) -> text",
        "rung_regexp_replace({0}, {1}, {2}, '', {3}, 1)",
    ),
    (
        "regexp_replace(text, text, text, int4, int4) -> text",
        "rung_regexp_replace({0}, {1}, {2}, '', {3}, {4})",
    ),
    (
        "regexp_replace(text, text, text, int4, int4, text) -> text",
        "rung_regexp_replace({0}, {1}, {2}, {5}, {3}, {4})",
    ),
    ("regexp_split_to_array(text, text) -> _text", "rung_regexp_split({0}, {1}, '')"),
    ("regexp_split_to_array(text, text, text) -> _text", "rung_regexp_split({0}, {1}, {2})"),
    ("regexp_count(text, text) -> int4", "rung_regexp_count({0}, {1}, 1, '')"),
    ("regexp_count(text, text, int4) -> int4", "rung_regexp_count({0}, {1}, {2}, '')"),
    ("regexp_count(text, text, int4, text) -> int4", "rung_regexp_count({0}, {1}, {2}, {3})"),
    ("regexp_substr(text, text) -> text", "rung_regexp_substr({0}, {1}, 1, 1, '', 0)"),
    ("regexp_substr(text, text, int4) -> text", "rung_regexp_substr({0}, {1}, {2}, 1, '', 0)"),
    (
        "regexp_substr(text, text, int4, int4) -> text",
        "rung_regexp_substr({0}, {1}, {2}, {3}, '', 0)",
    ),
    (
        "regexp_substr(text, text, int4, int4, text) -> text",
        "rung_regexp_substr({0}, {1}, {2}, {3}, {4}, 0)",
    ),
    (
        "regexp_substr(text, text, int4, int4, text, int4) -> text",
        "rung_regexp_substr({0}, {1}, {2}, {3}, {4}, {5})",
    ),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_like", 2, Strict, |c| boolean(like(c.text(0)?, c.text(1)?)?)),
    ("rung_ilike", 2, Strict, |c| {
        boolean(like(&c.text(0)?.to_lowercase(), &c.text(1)?.to_lowercase())?)
    }),
    ("rung_like_escape", 2, Strict, |c| text(like_escape(c.text(0)?, c.text(1)?)?)),
    ("rung_similar", 2, Strict, |c| text(similar(c.text(0)?, c.text(1)?)?)),
    ("rung_regexp", 3, Strict, |c| {
        boolean(compiled(c.text(1)?, c.text(2)?, "regexp_like")?.regex.is_match(c.text(0)?))
    }),
    ("rung_regexp_match", 3, Strict, |c| {
        let found = compiled(c.text(1)?, c.text(2)?, "regexp_match")?;
        Ok(match found.regex.captures(c.text(0)?) {
            Some(captures) => Value::Text(groups(&captures).to_stored()),
            None => Value::Null,
        })
    }),
    ("rung_regexp_part", 2, Strict, |c| {
        let found = compiled(c.text(1)?, "", "substring")?;
        let captures = found.regex.captures(c.text(0)?);
        let group = usize::from(found.regex.captures_len() > 1);
        let part = captures.as_ref().and_then(|captures| captures.get(group));
        super::text::text_or_null(part.map(|part| part.as_str().to_owned()))
    }),
    ("rung_regexp_replace", 6, Pure, replace),
    ("rung_regexp_split", 3, Strict, |c| {
        let parts = split(c.text(0)?, c.text(1)?, c.text(2)?, "regexp_split_to_array")?;
        let items = parts.into_iter().map(Value::Text).collect();
        text(ArrayValue::of(items).to_stored())
    }),
    ("rung_regexp_count", 4, Strict, |c| {
        let found = compiled(c.text(1)?, c.text(3)?, "regexp_count")?;
        let whole = c.text(0)?;
        let start = offset(whole, positive(c.int(2)?, "start")? - 1);
        int(found.regex.find_iter(&whole[start..]).count() as i64)
    }),
    ("rung_regexp_substr", 6, Strict, substr),
];

/// Whether a pattern with `%`, `_` and `\` matches the whole text.
///
/// # Errors
/// 22025 for a pattern that ends with an escape.
pub(super) fn like(text: &str, pattern: &str) -> Result<bool, SqlError> {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    // Where to go on with one character more for the last `%`.
    let mut back: Option<(usize, usize)> = None;
    let next_character = |mut t: usize| {
        t += 1;
        while text.get(t).is_some_and(|byte| byte & 0xC0 == 0x80) {
            t += 1;
        }
        t
    };
    loop {
        match pattern.get(p) {
            Some(b'%') => {
                p += 1;
                back = Some((p, t));
                continue;
            }
            Some(b'_') if t < text.len() => {
                (t, p) = (next_character(t), p + 1);
                continue;
            }
            Some(b'\\') if t < text.len() => {
                let Some(escaped) = pattern.get(p + 1) else {
                    return Err(SqlError::new(
                        SqlState::INVALID_ESCAPE_SEQUENCE,
                        "LIKE pattern must not end with escape character",
                    ));
                };
                if text.get(t) == Some(escaped) {
                    (t, p) = (t + 1, p + 2);
                    continue;
                }
            }
            Some(letter) if text.get(t) == Some(letter) && *letter != b'_' => {
                (t, p) = (t + 1, p + 1);
                continue;
            }
            None if t == text.len() => return Ok(true),
            _ => {}
        }
        match back {
            Some((after, from)) if from < text.len() => {
                let from = next_character(from);
                back = Some((after, from));
                (t, p) = (from, after);
            }
            _ => return Ok(false),
        }
    }
}

fn escape_character(escape: &str) -> Result<Option<char>, SqlError> {
    let mut letters = escape.chars();
    match (letters.next(), letters.next()) {
        (first, None) => Ok(first),
        _ => Err(SqlError::new(SqlState::INVALID_ESCAPE_SEQUENCE, "invalid escape string")
            .hint("Escape string must be empty or one character.")),
    }
}

/// A pattern with another escape character as one with a backslash.
fn like_escape(pattern: &str, escape: &str) -> Result<String, SqlError> {
    let escape = escape_character(escape)?;
    let mut out = String::with_capacity(pattern.len());
    let mut after_escape = false;
    for letter in pattern.chars() {
        if Some(letter) == escape && !after_escape {
            out.push('\\');
            after_escape = true;
        } else if letter == '\\' {
            out.push('\\');
            if !after_escape {
                out.push('\\');
            }
            after_escape = false;
        } else {
            out.push(letter);
            after_escape = false;
        }
    }
    Ok(out)
}

/// A pattern of SIMILAR TO as a regular expression.
fn similar(pattern: &str, escape: &str) -> Result<String, SqlError> {
    let escape = escape_character(escape)?;
    let mut out = String::from("^(?:");
    let mut after_escape = false;
    let mut in_brackets = false;
    for letter in pattern.chars() {
        if after_escape {
            if letter.is_ascii_alphanumeric() || letter == '_' {
                out.push(letter);
            } else {
                out.push('\\');
                out.push(letter);
            }
            after_escape = false;
        } else if Some(letter) == escape {
            after_escape = true;
        } else if in_brackets {
            if letter == '\\' {
                out.push('\\');
            }
            out.push(letter);
            in_brackets = letter != ']';
        } else {
            match letter {
                '[' => {
                    out.push('[');
                    in_brackets = true;
                }
                '%' => out.push_str(".*"),
                '_' => out.push('.'),
                '(' => out.push_str("(?:"),
                '\\' | '.' | '^' | '$' => {
                    out.push('\\');
                    out.push(letter);
                }
                letter => out.push(letter),
            }
        }
    }
    out.push_str(")$");
    Ok(out)
}

/// A compiled expression and whether `g` was among its flags.
struct Compiled {
    regex: Regex,
    global: bool,
}

/// Expressions kept compiled, of one thread.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Most bytes of one compiled expression.
const MOST_BYTES: usize = 2 << 20;

thread_local! {
    static COMPILED: RefCell<LruCache<(String, String), Rc<Compiled>>> =
        RefCell::new(LruCache::new(KEPT));
}

fn compiled(pattern: &str, flags: &str, function: &str) -> Result<Rc<Compiled>, SqlError> {
    let key = (pattern.to_owned(), flags.to_owned());
    let known = COMPILED.with_borrow_mut(|cache| cache.get(&key).cloned());
    let compiled = match known {
        Some(known) => known,
        None => {
            let compiled = Rc::new(compile(pattern, flags)?);
            COMPILED.with_borrow_mut(|cache| cache.put(key, compiled.clone()));
            compiled
        }
    };
    let takes_global = matches!(function, "regexp_replace" | "regexp_matches");
    if compiled.global && !takes_global {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("{function}() does not support the \"global\" option"),
        ));
    }
    Ok(compiled)
}

fn invalid(message: impl std::fmt::Display) -> SqlError {
    SqlError::new(
        SqlState::INVALID_REGULAR_EXPRESSION,
        format!("invalid regular expression: {message}"),
    )
}

fn compile(pattern: &str, flags: &str) -> Result<Compiled, SqlError> {
    let (mut global, mut insensitive, mut extended, mut literal) = (false, false, false, false);
    let (mut dot_all, mut lines) = (true, false);
    for flag in flags.chars() {
        match flag {
            'g' => global = true,
            'i' => insensitive = true,
            'c' => insensitive = false,
            'x' => extended = true,
            't' => extended = false,
            'n' | 'm' => (dot_all, lines) = (false, true),
            'p' => (dot_all, lines) = (false, false),
            'w' => (dot_all, lines) = (true, true),
            's' => (dot_all, lines) = (true, false),
            'q' => literal = true,
            'e' | 'b' => {}
            _ => {
                return Err(SqlError::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("invalid regular expression option: \"{flag}\""),
                ));
            }
        }
    }
    let translated = if literal { regex::escape(pattern) } else { translate(pattern)? };
    let regex = RegexBuilder::new(&translated)
        .case_insensitive(insensitive)
        .ignore_whitespace(extended)
        .dot_matches_new_line(dot_all)
        .multi_line(lines)
        .size_limit(MOST_BYTES)
        .build();
    regex.map(|regex| Compiled { regex, global }).map_err(|error| {
        let text = error.to_string();
        invalid(text.lines().last().unwrap_or_default().trim_start_matches("error: "))
    })
}

/// PostgreSQL's syntax as the library's.
fn translate(pattern: &str) -> Result<String, SqlError> {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = match pattern.strip_prefix("***=") {
        Some(literal) => return Ok(regex::escape(literal)),
        None => pattern.strip_prefix("***:").unwrap_or(pattern),
    };
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        rest = match letter {
            '\\' => escape_sequence(&mut out, after)?,
            '[' => bracket(&mut out, after)?,
            '(' if after.starts_with("?=")
                || after.starts_with("?!")
                || after.starts_with("?<") =>
            {
                return Err(SqlError::not_supported(
                    "a regular expression that looks around",
                    "Match what is around as well, and take a part of it in parentheses.",
                ));
            }
            '{' if !after.starts_with(|c: char| c.is_ascii_digit()) => {
                out.push_str("\\{");
                after
            }
            letter => {
                out.push(letter);
                after
            }
        };
    }
    Ok(out)
}

/// After a backslash; gives what follows.
fn escape_sequence<'t>(out: &mut String, rest: &'t str) -> Result<&'t str, SqlError> {
    let Some(letter) = rest.chars().next() else {
        return Err(invalid("invalid escape \\ sequence"));
    };
    match letter {
        'y' => out.push_str("\\b"),
        'Y' => out.push_str("\\B"),
        'm' => out.push_str("\\b{start}"),
        'M' => out.push_str("\\b{end}"),
        'A' => out.push_str("\\A"),
        'Z' => out.push_str("\\z"),
        '1'..='9' => {
            return Err(SqlError::not_supported(
                "a back reference in a regular expression",
                "Match the parts one by one and compare them.",
            ));
        }
        'b' => out.push_str("\\x08"),
        'B' => out.push_str("\\\\"),
        'e' => out.push_str("\\x1b"),
        '0' => out.push_str("\\x00"),
        'd' | 'D' | 'w' | 'W' | 's' | 'S' | 'a' | 'f' | 'n' | 'r' | 't' | 'v' | 'x' | 'u' | 'U' => {
            out.push('\\');
            out.push(letter);
        }
        letter if letter.is_ascii_alphanumeric() => {
            return Err(invalid("invalid escape \\ sequence"));
        }
        letter => out.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
    }
    Ok(&rest[letter.len_utf8()..])
}

/// After an opening bracket; gives what follows the closing one.
fn bracket<'t>(out: &mut String, rest: &'t str) -> Result<&'t str, SqlError> {
    if let Some(after) = rest.strip_prefix("[:<:]]") {
        out.push_str("\\b{start}");
        return Ok(after);
    }
    if let Some(after) = rest.strip_prefix("[:>:]]") {
        out.push_str("\\b{end}");
        return Ok(after);
    }
    let mut rest = rest;
    out.push('[');
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    let mut first = true;
    loop {
        let Some(letter) = rest.chars().next() else {
            return Err(invalid("brackets [] not balanced"));
        };
        let after = &rest[letter.len_utf8()..];
        rest = match letter {
            ']' if !first => {
                out.push(']');
                return Ok(after);
            }
            '[' if after.starts_with(':') => {
                let end = after.find(":]").ok_or_else(|| invalid("brackets [] not balanced"))?;
                out.push('[');
                out.push_str(&after[..end + 2]);
                &after[end + 2..]
            }
            '[' if after.starts_with('.') || after.starts_with('=') => {
                return Err(SqlError::not_supported(
                    "a collating element in a regular expression",
                    "Write the character itself.",
                ));
            }
            '[' | ']' | '&' | '~' => {
                out.push('\\');
                out.push(letter);
                after
            }
            '\\' => escape_sequence(out, after)?,
            letter => {
                out.push(letter);
                after
            }
        };
        first = false;
    }
}

/// The parts in parentheses, or the whole if there are none.
pub(super) fn groups(captures: &regex::Captures<'_>) -> ArrayValue {
    let item = |group: Option<regex::Match<'_>>| match group {
        Some(part) => Value::Text(part.as_str().to_owned()),
        None => Value::Null,
    };
    let first = usize::from(captures.len() > 1);
    ArrayValue::of(captures.iter().skip(first).map(item).collect())
}

/// The rows of `regexp_matches`.
pub(super) fn matches(
    whole: &str,
    pattern: &str,
    flags: &str,
) -> Result<Vec<ArrayValue>, SqlError> {
    let found = compiled(pattern, flags, "regexp_matches")?;
    let most = if found.global { usize::MAX } else { 1 };
    Ok(found.regex.captures_iter(whole).take(most).map(|captures| groups(&captures)).collect())
}

/// Between the matches; an empty match at the end or right after another does not split.
pub(super) fn split(
    whole: &str,
    pattern: &str,
    flags: &str,
    function: &str,
) -> Result<Vec<String>, SqlError> {
    let found = compiled(pattern, flags, function)?;
    let mut parts = Vec::new();
    let mut start = 0;
    for part in found.regex.find_iter(whole) {
        let empty = part.is_empty();
        if empty && (part.start() >= whole.len() || part.start() == start) {
            continue;
        }
        parts.push(whole[start..part.start()].to_owned());
        start = part.end();
    }
    parts.push(whole[start..].to_owned());
    Ok(parts)
}

fn positive(value: i64, name: &str) -> Result<i64, SqlError> {
    if value > 0 {
        return Ok(value);
    }
    Err(SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for parameter \"{name}\": {value}"),
    ))
}

/// The arguments are text, pattern, replacement, flags, start, and which match: 0 for
/// all, NULL if flags decide.
fn replace(call: &Call<'_>) -> Outcome {
    if (0..5).any(|index| call.is_null(index)) {
        return Ok(Value::Null);
    }
    let (whole, new) = (call.text(0)?, call.text(2)?);
    let found = compiled(call.text(1)?, call.text(3)?, "regexp_replace")?;
    let start = offset(whole, positive(call.int(4)?, "start")? - 1);
    let which = match call.is_null(5) {
        true if found.global => 0,
        true => 1,
        false => call.int(5)?,
    };
    if which < 0 {
        positive(which, "n")?;
    }
    let mut out = whole[..start].to_owned();
    let mut copied = start;
    for (index, captures) in found.regex.captures_iter(&whole[start..]).enumerate() {
        let Some(all) = captures.get(0) else { continue };
        if which != 0 && index as i64 + 1 != which {
            continue;
        }
        out.push_str(&whole[copied..start + all.start()]);
        insert(&mut out, new, &captures);
        bounded(out.len())?;
        copied = start + all.end();
        if which != 0 {
            break;
        }
    }
    out.push_str(&whole[copied..]);
    text(out)
}

/// The replacement, in which `\1` is a part and `\&` the whole.
fn insert(out: &mut String, new: &str, captures: &regex::Captures<'_>) {
    let mut letters = new.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some(digit @ '1'..='9') => {
                let index = digit as usize - '0' as usize;
                out.push_str(captures.get(index).map_or("", |part| part.as_str()));
            }
            Some('&') => out.push_str(captures.get(0).map_or("", |part| part.as_str())),
            Some('\\') => out.push('\\'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
}

fn substr(call: &Call<'_>) -> Outcome {
    let whole = call.text(0)?;
    let found = compiled(call.text(1)?, call.text(4)?, "regexp_substr")?;
    let start = positive(call.int(2)?, "start")?;
    let which = positive(call.int(3)?, "n")?;
    let group = call.int(5)?;
    if group < 0 {
        positive(group, "subexpr")?;
    }
    if start > characters(whole) + 1 {
        return Ok(Value::Null);
    }
    let rest = &whole[offset(whole, start - 1)..];
    let captures = found.regex.captures_iter(rest).nth(which as usize - 1);
    let part = captures
        .and_then(|captures| captures.get(group as usize).map(|part| part.as_str().to_owned()));
    super::text::text_or_null(part)
}

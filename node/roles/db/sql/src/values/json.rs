//! JSON as PostgreSQL keeps it: numbers keep their digits, `jsonb` has a canonical
//! form.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write;

use super::numeric::{self, Numeric};
use crate::{SqlError, SqlState};

/// Deeper values are refused; PostgreSQL's limit is its stack's.
const MAX_DEPTH: usize = 512;

#[derive(Clone, PartialEq, Debug)]
pub enum Json<'a> {
    Null,
    Bool(bool),
    /// Its digits; of a canonical value in numeric's stored form.
    Number(Cow<'a, str>),
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// In the order of the text, of a canonical value sorted and without duplicates.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// Reads a whole text.
///
/// # Errors
/// 22P02 for what is no JSON, 54001 for what is nested too deeply.
pub fn parse(text: &str) -> Result<Json<'_>, SqlError> {
    let mut parser = Parser { text, at: 0, depth: 0 };
    let value = parser.value()?;
    parser.skip_space();
    match parser.at == text.len() {
        true => Ok(value),
        false => Err(parser.unexpected("end of input")),
    }
}

/// Reads a text and makes it canonical: keys sorted by length and bytes, the last of
/// equal keys kept, numbers as numeric prints them.
///
/// # Errors
/// As [`parse`], and 22P05 for `\u0000`, which text cannot hold.
pub fn parse_canonical(text: &str) -> Result<Json<'_>, SqlError> {
    parse(text)?.canonical()
}

impl<'a> Parser<'a> {
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The error that PostgreSQL gives at this place.
    fn unexpected(&self, expected: &str) -> SqlError {
        let rest = &self.text[self.at..];
        let error = invalid();
        let Some(first) = rest.chars().next() else {
            return error.detail("The input string ended unexpectedly.");
        };
        let length = match first {
            'a'..='z' | 'A'..='Z' | '_' | '0'..='9' | '-' | '\u{80}'.. => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c >= '\u{80}'))
                .filter(|end| *end > 0)
                .unwrap_or(if first == '-' { 1 } else { rest.len() }),
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            _ => first.len_utf8(),
        };
        let token = &rest[..length];
        match expected {
            "" => error.detail(format!("Token \"{token}\" is invalid.")),
            "end of input" => {
                error.detail(format!("Expected end of input, but found \"{token}\"."))
            }
            _ => error.detail(format!("Expected {expected}, but found \"{token}\".")),
        }
    }

    fn value(&mut self) -> Result<Json<'a>, SqlError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Json::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.word(),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Json<'a>, SqlError>,
    ) -> Result<Json<'a>, SqlError> {
        if self.depth == MAX_DEPTH {
            return Err(SqlError::new(
                SqlState::STATEMENT_TOO_COMPLEX,
                "stack depth limit exceeded",
            )
            .hint(format!("JSON may be nested up to {MAX_DEPTH} levels deep.")));
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn word(&mut self) -> Result<Json<'a>, SqlError> {
        let words =
            [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))];
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c >= '\u{80}'))
            .unwrap_or(rest.len());
        for (word, value) in words {
            if &rest[..end] == word {
                self.at += end;
                return Ok(value);
            }
        }
        match rest.bytes().next() {
            Some(b'}' | b']' | b',' | b':') => Err(self.unexpected("JSON value")),
            _ => Err(self.unexpected("")),
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Json<'a>, SqlError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let integer = self.at;
        let mut valid = match self.digits() {
            0 => false,
            1 => true,
            _ => self.text.as_bytes()[integer] != b'0',
        };
        if self.peek() == Some(b'.') {
            self.at += 1;
            valid &= self.digits() > 0;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            valid &= self.digits() > 0;
        }
        let follows = self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid || follows {
            self.at = start;
            return Err(self.unexpected(""));
        }
        Ok(Json::Number(Cow::Borrowed(&self.text[start..self.at])))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, SqlError> {
        let opening = self.at;
        self.at += 1;
        let start = self.at;
        let mut owned: Option<String> = None;
        let mut copied = start;
        loop {
            let Some(byte) = self.peek() else {
                self.at = opening;
                let token = &self.text[opening..];
                return Err(invalid().detail(format!("Token \"{token}\" is invalid.")));
            };
            match byte {
                b'"' => {
                    let rest = &self.text[copied..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(rest),
                        Some(text) => Cow::Owned(text + rest),
                    });
                }
                b'\\' => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[copied..self.at]);
                    let c = self.escape()?;
                    owned.get_or_insert_default().push(c);
                    copied = self.at;
                }
                0..0x20 => {
                    return Err(invalid()
                        .detail(format!("Character with value 0x{byte:02x} must be escaped.")));
                }
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, SqlError> {
        let rest = &self.text[self.at + 1..];
        let Some(c) = rest.chars().next() else {
            return Err(invalid().detail("The input string ended unexpectedly."));
        };
        self.at += 1 + c.len_utf8();
        Ok(match c {
            '"' | '\\' | '/' => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => self.unicode()?,
            _ => return Err(invalid().detail(format!("Escape sequence \"\\{c}\" is invalid."))),
        })
    }

    fn hex4(&mut self) -> Result<u32, SqlError> {
        let digits = self.text.get(self.at..self.at + 4);
        let value = digits
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        value
            .ok_or_else(|| invalid().detail("\"\\u\" must be followed by four hexadecimal digits."))
    }

    fn unicode(&mut self) -> Result<char, SqlError> {
        let first = self.hex4()?;
        let code = match first {
            0xD800..0xDC00 => {
                let follows = self.text.get(self.at..self.at + 2) == Some("\\u");
                if !follows {
                    return Err(
                        invalid().detail("Unicode low surrogate must follow a high surrogate.")
                    );
                }
                self.at += 2;
                match self.hex4()? {
                    low @ 0xDC00..0xE000 => 0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00),
                    _ => {
                        return Err(
                            invalid().detail("Unicode low surrogate must follow a high surrogate.")
                        );
                    }
                }
            }
            code => code,
        };
        char::from_u32(code)
            .ok_or_else(|| invalid().detail("Unicode low surrogate must follow a high surrogate."))
    }

    fn array(&mut self) -> Result<Json<'a>, SqlError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Json::Array(items));
                }
                _ => return Err(self.unexpected("\",\" or \"]\"")),
            }
        }
    }

    fn object(&mut self) -> Result<Json<'a>, SqlError> {
        let mut members = Vec::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Json::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                let expected = if members.is_empty() { "string or \"}\"" } else { "string" };
                return Err(self.unexpected(expected));
            }
            let key = self.string()?;
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("\":\""));
            }
            self.at += 1;
            members.push((key, self.value()?));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Json::Object(members));
                }
                _ => return Err(self.unexpected("\",\" or \"}\"")),
            }
        }
    }
}

fn invalid() -> SqlError {
    SqlError::new(SqlState::INVALID_TEXT, "invalid input syntax for type json")
}

/// The order of keys in jsonb: by length, then by bytes.
pub fn compare_keys(left: &str, right: &str) -> Ordering {
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

impl<'a> Json<'a> {
    /// # Errors
    /// 22P05 for a string with a zero character, 22003 for a number that numeric
    /// cannot hold.
    pub fn canonical(self) -> Result<Self, SqlError> {
        Ok(match self {
            Self::Number(digits) => Self::Number(canonical_number(digits)?),
            Self::String(text) => Self::String(without_zero(text)?),
            Self::Array(items) => {
                Self::Array(items.into_iter().map(Self::canonical).collect::<Result<_, _>>()?)
            }
            Self::Object(members) => {
                let members = members
                    .into_iter()
                    .map(|(key, value)| Ok((without_zero(key)?, value.canonical()?)))
                    .collect::<Result<Vec<_>, SqlError>>()?;
                Self::object(members)
            }
            other => other,
        })
    }

    /// Sorts the members and keeps the last of equal keys.
    pub fn object(mut members: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        members.sort_by(|(left, _), (right, _)| compare_keys(left, right));
        let mut kept: Vec<(Cow<'a, str>, Json<'a>)> = Vec::with_capacity(members.len());
        for (key, value) in members {
            match kept.last_mut() {
                Some(last) if last.0 == key => last.1 = value,
                _ => kept.push((key, value)),
            }
        }
        Self::Object(kept)
    }

    /// As jsonb prints it: a space after each colon and comma.
    pub fn write_jsonb(&self, out: &mut String) {
        self.write(out, ", ", ": ");
    }

    /// Without spaces.
    pub fn write_compact(&self, out: &mut String) {
        self.write(out, ",", ":");
    }

    pub fn to_jsonb(&self) -> String {
        let mut out = String::new();
        self.write_jsonb(&mut out);
        out
    }

    fn write(&self, out: &mut String, comma: &str, colon: &str) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(digits) => out.push_str(digits),
            Self::String(text) => write_string(out, text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push_str(comma);
                    }
                    item.write(out, comma, colon);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push_str(comma);
                    }
                    write_string(out, key);
                    out.push_str(colon);
                    value.write(out, comma, colon);
                }
                out.push('}');
            }
        }
    }

    /// As `jsonb_pretty` prints it.
    pub fn write_pretty(&self, out: &mut String, level: usize) {
        let indent = |out: &mut String, level: usize| {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", level));
        };
        match self {
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    indent(out, level + 1);
                    item.write_pretty(out, level + 1);
                }
                indent(out, level);
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    indent(out, level + 1);
                    write_string(out, key);
                    out.push_str(": ");
                    value.write_pretty(out, level + 1);
                }
                indent(out, level);
                out.push('}');
            }
            other => other.write_jsonb(out),
        }
    }

    /// What `jsonb_typeof` says.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Number(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// What `->>` gives: a string without quotes, nothing for null.
    pub fn to_text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::String(text) => Some(text.to_string()),
            other => Some(other.to_jsonb()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::String(_) => 1,
            Self::Number(_) => 2,
            Self::Bool(_) => 3,
            Self::Array(_) => 4,
            Self::Object(_) => 5,
        }
    }

    /// PostgreSQL's order of canonical jsonb.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::String(left), Self::String(right)) => left.cmp(right),
            (Self::Number(left), Self::Number(right)) => numeric::compare_stored(left, right),
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            // An empty array sorts below everything, by an accident of PostgreSQL's
            // that its indexes now depend on.
            (Self::Array(left), Self::Array(right)) => {
                left.len().cmp(&right.len()).then_with(|| {
                    let pairs = left.iter().zip(right);
                    pairs.map(|(l, r)| l.compare(r)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
                })
            }
            (Self::Array(items), other) if items.is_empty() && other.rank() < 4 => Ordering::Less,
            (other, Self::Array(items)) if items.is_empty() && other.rank() < 4 => {
                Ordering::Greater
            }
            (Self::Object(left), Self::Object(right)) => {
                left.len().cmp(&right.len()).then_with(|| {
                    let pairs = left.iter().zip(right);
                    pairs
                        .map(|((lk, lv), (rk, rv))| {
                            compare_keys(lk, rk).then_with(|| lv.compare(rv))
                        })
                        .find(|order| order.is_ne())
                        .unwrap_or(Ordering::Equal)
                })
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

fn canonical_number(digits: Cow<'_, str>) -> Result<Cow<'_, str>, SqlError> {
    let plain = !digits.bytes().any(|byte| matches!(byte, b'e' | b'E'));
    let zero = digits.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
    if plain && digits.len() < 1000 && !zero {
        return Ok(digits);
    }
    Ok(Cow::Owned(Numeric::parse(&digits)?.to_string()))
}

fn without_zero(text: Cow<'_, str>) -> Result<Cow<'_, str>, SqlError> {
    if text.contains('\0') {
        return Err(SqlError::new(
            SqlState::UNTRANSLATABLE_CHARACTER,
            "unsupported Unicode escape sequence",
        )
        .detail("\\u0000 cannot be converted to text."));
    }
    Ok(text)
}

/// With quotes and escapes, as PostgreSQL's `escape_json` writes it.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut copied = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x8 => "\\b",
            0xC => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[copied..index]);
        match escape {
            "" => {
                let _ = write!(out, "\\u{byte:04x}");
            }
            escape => out.push_str(escape),
        }
        copied = index + 1;
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

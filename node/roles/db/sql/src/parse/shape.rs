//! What statements that differ in constants alone have in common.
//!
//! A scan of the text, much cheaper than parsing it, finds the literals that may be
//! taken out. It leaves in the text what it is not sure about, and literals that say
//! more than a value at their place: after LIMIT and BY, in types, as arguments of
//! most functions. What it takes out nevertheless and the translation cannot do
//! without is found by the translation, which then refuses the shape.

use crate::statement::{Literal, LiteralKind};

/// Literals of one statement that are taken out.
const MAXIMUM_LITERALS: usize = 256;

/// A text without its literals, which are numbered from 0.
pub(super) struct Shape {
    /// The text with a mark at the place of each literal.
    pub key: Vec<u8>,
    pub literals: Vec<Literal>,
    /// Which numbers and strings of the text they are, counted from 0.
    pub ordinals: Vec<usize>,
    /// Numbers and strings of the text.
    pub count: usize,
}

/// Finds the literals of a query or DML without white space and semicolon at its
/// ends. None if it has none that can be taken out, or something in it that needs a
/// real parser, such as parameters and comments.
pub(super) fn scan(text: &str) -> Option<Shape> {
    let first: &str = text.split(|c: char| !c.is_ascii_alphabetic()).next()?;
    let known = ["select", "insert", "update", "delete", "with"];
    if !known.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return None;
    }
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
        copied: 0,
        last: Last::Symbol(b'('),
        levels: vec![Level { takes: true, is_sorted: false }],
        shape: Shape {
            key: Vec::with_capacity(text.len()),
            literals: Vec::new(),
            ordinals: Vec::new(),
            count: 0,
        },
    };
    while scanner.at < scanner.bytes.len() {
        scanner.token()?;
    }
    let mut shape = scanner.shape;
    shape.key.extend_from_slice(&scanner.bytes[scanner.copied..]);
    (!shape.literals.is_empty()).then_some(shape)
}

/// What stands before a token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// A word after which a literal is a value, or parentheses hold values.
    ValueWord,
    /// Any other word: a name, a type, a function.
    Word,
    Literal,
    Symbol(u8),
    /// `->`, `->>`, `#>`, `#>>`: what follows is the name of a part.
    Path,
}

/// Parentheses or brackets that are open.
#[derive(Clone, Copy)]
struct Level {
    /// Whether literals in it are taken out.
    takes: bool,
    /// After ORDER BY and GROUP BY, where numbers name columns.
    is_sorted: bool,
}

struct Scanner<'t> {
    bytes: &'t [u8],
    at: usize,
    /// How much of the text is in the key.
    copied: usize,
    last: Last,
    levels: Vec<Level>,
    shape: Shape,
}

impl Scanner<'_> {
    fn peek(&self, offset: usize) -> u8 {
        self.bytes.get(self.at + offset).copied().unwrap_or(0)
    }

    /// Passes one token. None if the statement must be parsed.
    fn token(&mut self) -> Option<()> {
        match self.peek(0) {
            b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
            b'\'' => self.string()?,
            b'"' => {
                self.at = end_of_quoted(self.bytes, self.at)?;
                self.last = Last::Word;
            }
            b'0'..=b'9' => self.number(),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => self.word(),
            b'-' if self.peek(1) == b'-' => return None,
            b'/' if self.peek(1) == b'*' => return None,
            b'-' | b'#' if self.peek(1) == b'>' => {
                self.at += if self.peek(2) == b'>' { 3 } else { 2 };
                self.last = Last::Path;
            }
            b';' | b'$' | b'\\' | b'`' => return None,
            byte if byte.is_ascii_graphic() => self.symbol(byte)?,
            _ => return None,
        }
        Some(())
    }

    fn symbol(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'(' | b'[' => {
                let level = *self.levels.last()?;
                let takes = match self.last {
                    Last::Word => false,
                    Last::ValueWord => true,
                    _ => byte == b'(',
                };
                self.levels.push(Level { takes, is_sorted: level.is_sorted });
            }
            b')' | b']' => {
                self.levels.pop();
                if self.levels.is_empty() {
                    return None;
                }
            }
            _ => {}
        }
        self.at += 1;
        self.last = Last::Symbol(byte);
        Some(())
    }

    fn word(&mut self) {
        let start = self.at;
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let rest = &self.bytes[start..];
        self.at += rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        let word = &self.bytes[start..self.at];
        let is = |words: &[&str]| words.iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes()));
        self.last = if is(VALUE_WORDS) { Last::ValueWord } else { Last::Word };
        let Some(level) = self.levels.last_mut() else { return };
        if is(&["select", "where"]) {
            *level = Level { takes: true, is_sorted: false };
        } else if is(&["by"]) {
            level.is_sorted = true;
        } else if is(AFTER_SORTING) {
            level.is_sorted = false;
        }
    }

    /// Whether a literal at this place is a value and nothing else.
    fn takes(&self) -> bool {
        let level = self.levels.last().is_some_and(|level| level.takes && !level.is_sorted);
        let place = match self.last {
            Last::ValueWord => true,
            Last::Symbol(byte) => !matches!(byte, b'.' | b':' | b')' | b']'),
            Last::Word | Last::Literal | Last::Path => false,
        };
        level && place && self.shape.literals.len() < MAXIMUM_LITERALS
    }

    fn string(&mut self) -> Option<()> {
        let before = self.at.checked_sub(1).map_or(b' ', |at| self.bytes[at]);
        let is_prefixed = before.is_ascii_alphanumeric() || matches!(before, b'_' | b'&' | b'"');
        if is_prefixed || self.last == Last::Literal {
            return None;
        }
        let end = end_of_quoted(self.bytes, self.at)?;
        let kind = LiteralKind::Text;
        self.literal(Literal { start: self.at + 1, end: end - 1, kind }, end);
        Some(())
    }

    fn number(&mut self) {
        let digits = |at: usize| {
            let rest = self.bytes.get(at..).unwrap_or_default();
            at + rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len())
        };
        let whole = digits(self.at);
        let mut end = whole;
        if self.bytes.get(whole) == Some(&b'.') {
            end = digits(whole + 1);
        }
        let is_more = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        let is_odd = end == whole + 1 || self.bytes.get(end).is_some_and(|byte| is_more(*byte));
        let kind = match is_odd {
            true => None,
            false if end > whole => Some(LiteralKind::Numeric),
            false => kind_of_whole(&self.bytes[self.at..end]),
        };
        if let Some(kind) = kind {
            return self.literal(Literal { start: self.at, end, kind }, end);
        }
        let rest = &self.bytes[end..];
        let end = end + rest.iter().position(|byte| !is_more(*byte)).unwrap_or(rest.len());
        self.pass(end);
    }

    fn literal(&mut self, literal: Literal, end: usize) {
        if !self.takes() {
            return self.pass(end);
        }
        self.shape.key.extend_from_slice(&self.bytes[self.copied..self.at]);
        self.shape.key.push(literal.kind.mark());
        self.copied = end;
        self.shape.literals.push(literal);
        self.shape.ordinals.push(self.shape.count);
        self.pass(end);
    }

    /// A number or a string ends there.
    fn pass(&mut self, end: usize) {
        self.at = end;
        self.shape.count += 1;
        self.last = Last::Literal;
    }
}

/// Words before values, and before parentheses with values in them. SELECT is not
/// one of the first: `SELECT 1` stays as it is.
const VALUE_WORDS: &[&str] = &[
    "and", "or", "not", "in", "values", "like", "ilike", "between", "then", "else", "when",
    "where", "on", "having", "offset", "any", "all", "array", "lower", "upper", "coalesce",
    "nullif",
];

/// Words that end a list of ORDER BY or GROUP BY.
const AFTER_SORTING: &[&str] =
    &["limit", "offset", "fetch", "having", "union", "except", "intersect", "returning", "for"];

/// The type of a whole number, the same with a minus before it. None for the two
/// whose type the minus changes.
fn kind_of_whole(digits: &[u8]) -> Option<LiteralKind> {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    let significant = &digits[zeros..];
    let compare = |limit: &[u8]| significant.len().cmp(&limit.len()).then(significant.cmp(limit));
    use std::cmp::Ordering::{Equal, Less};
    match (compare(b"2147483648"), compare(b"9223372036854775808")) {
        (Less, _) => Some(LiteralKind::Int4),
        (Equal, _) | (_, Equal) => None,
        (_, Less) => Some(LiteralKind::Int8),
        _ => Some(LiteralKind::Numeric),
    }
}

/// One past the quote that closes what the one at `start` opens.
fn end_of_quoted(bytes: &[u8], start: usize) -> Option<usize> {
    let quote = bytes[start];
    let mut at = start + 1;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == quote)?;
        if bytes.get(at + 1) != Some(&quote) {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text with `?` for each literal that is taken out, or as it is.
    fn shape(text: &str) -> String {
        let Some(shape) = scan(text) else { return text.to_owned() };
        let key = shape.key.iter().map(|byte| if *byte < b' ' { '?' } else { *byte as char });
        key.collect()
    }

    #[test]
    fn values_are_taken_out_and_what_means_more_is_not() {
        for (text, expected) in [
            ("SELECT abalance FROM a WHERE aid = 77", "SELECT abalance FROM a WHERE aid = ?"),
            (
                "UPDATE t SET n = n + -3, s='it''s' WHERE id>=2.5",
                "UPDATE t SET n = n + -?, s=? WHERE id>=?",
            ),
            (
                "INSERT INTO t (a) VALUES (1, 'x'), (2, NULL)",
                "INSERT INTO t (a) VALUES (?, ?), (?, NULL)",
            ),
            ("SELECT 1", "SELECT 1"),
            (
                "SELECT a FROM t WHERE b IN (1, 2) ORDER BY 1, 2 LIMIT 5 OFFSET 6",
                "SELECT a FROM t WHERE b IN (?, ?) ORDER BY 1, 2 LIMIT 5 OFFSET ?",
            ),
            (
                "SELECT a::varchar(10), date '2024-01-01' FROM t WHERE c = 'x'",
                "SELECT a::varchar(10), date '2024-01-01' FROM t WHERE c = ?",
            ),
            (
                "SELECT date_trunc('day', a) FROM t WHERE j->>'k' = 'v' GROUP BY 1 HAVING count(*) > 2",
                "SELECT date_trunc('day', a) FROM t WHERE j->>'k' = ? GROUP BY 1 HAVING count(*) > ?",
            ),
            (
                "SELECT \"it's 1\" FROM t1 WHERE a1 = 0x1F AND b = 1e5 AND c = 7",
                "SELECT \"it's 1\" FROM t1 WHERE a1 = 0x1F AND b = 1e5 AND c = ?",
            ),
            (
                "SELECT x FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = 5)",
                "SELECT x FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = ?)",
            ),
            (
                "DELETE FROM t WHERE a = E'\\n' AND b = 3",
                "DELETE FROM t WHERE a = E'\\n' AND b = 3",
            ),
            ("SELECT a FROM t WHERE b = 3 -- 4", "SELECT a FROM t WHERE b = 3 -- 4"),
            ("SELECT a FROM t WHERE b = $1 AND c = 3", "SELECT a FROM t WHERE b = $1 AND c = 3"),
        ] {
            assert_eq!(shape(text), expected);
        }
    }

    #[test]
    fn numbers_are_told_apart_by_their_types() {
        let kind = |digits: &str| kind_of_whole(digits.as_bytes());
        assert_eq!(kind("0002147483647"), Some(LiteralKind::Int4));
        assert_eq!(kind("2147483648"), None);
        assert_eq!(kind("2147483649"), Some(LiteralKind::Int8));
        assert_eq!(kind("9223372036854775808"), None);
        assert_eq!(kind("9223372036854775809"), Some(LiteralKind::Numeric));
    }

    proptest! {
        #[test]
        fn any_text_is_scanned(rest in "[ -~\\n\u{e9}'\"()0-9.]{0,200}") {
            let text = format!("SELECT {rest}");
            if let Some(shape) = scan(&text) {
                let taken: usize = shape.literals.iter().map(|l| l.end - l.start).sum();
                prop_assert!(shape.key.len() + taken <= text.len() + 2 * shape.literals.len());
                prop_assert_eq!(shape.literals.len(), shape.ordinals.len());
                for literal in &shape.literals {
                    prop_assert!(text.get(literal.start..literal.end).is_some());
                }
            }
        }
    }
}

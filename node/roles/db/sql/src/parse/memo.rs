//! What a thread has parsed not long ago. Parsing depends on nothing but the text, so
//! the threads that serve clients need not know of each other's.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use lru::LruCache;

use super::{literals, parse_text, shape};
use crate::SqlError;
use crate::statement::{Form, Kind, Shape, Statement};

/// Longer texts are parsed each time: they are bulk loads, sent once.
const LONGEST_TEXT: usize = 8 << 10;

/// Bytes of all texts that a thread remembers, and how many there may be. What was
/// parsed takes some fifty times as much.
const MAXIMUM_BYTES: usize = 256 << 10;
const MAXIMUM_ENTRIES: usize = 1024;

struct Entry {
    /// The text, or the shape of texts.
    key: Box<[u8]>,
    known: Known,
}

#[derive(Clone)]
enum Known {
    Statements(Vec<Statement>),
    Form(Arc<Form>),
    /// It must be parsed with its literals.
    NoForm,
}

struct Memo {
    entries: LruCache<u64, Entry>,
    bytes: usize,
}

thread_local! {
    static MEMO: RefCell<Memo> =
        RefCell::new(Memo { entries: LruCache::unbounded(), bytes: 0 });
}

/// See [`super::parse`].
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, SqlError> {
    if text.len() > LONGEST_TEXT {
        return parse_text(text);
    }
    let single = without_semicolon(text);
    if let Some(shape) = shape::scan(single)
        && let Some(statement) = of_shape(single, shape)
    {
        return Ok(vec![statement]);
    }
    let hash = hash_of(text.as_bytes(), false);
    if let Some(Known::Statements(statements)) = find(hash, text.as_bytes()) {
        return Ok(statements);
    }
    let statements = parse_text(text)?;
    keep(hash, text.as_bytes(), Known::Statements(statements.clone()));
    Ok(statements)
}

/// The statement by what others of its shape were parsed to.
fn of_shape(text: &str, shape: shape::Shape) -> Option<Statement> {
    let hash = hash_of(&shape.key, true);
    match find(hash, &shape.key) {
        Some(Known::Form(form)) if form.shape.as_ref().is_some_and(Shape::is_refused) => None,
        Some(Known::Form(form)) => Some(Statement::of_shape(text, form, shape.literals)),
        Some(_) => None,
        None => {
            let known = match literals::parse_without(text, &shape) {
                Some(statement) if matches!(statement.kind(), Kind::Read | Kind::Write) => {
                    Known::Form(Arc::new(Form {
                        shape: Some(Shape::new(shape.key.clone(), hash)),
                        ..statement.into_form()?
                    }))
                }
                _ => Known::NoForm,
            };
            keep(hash, &shape.key, known.clone());
            let Known::Form(form) = known else { return None };
            Some(Statement::of_shape(text, form, shape.literals))
        }
    }
}

/// A shape has bytes that no text has, and is told apart by them once more.
fn hash_of(key: &[u8], is_shape: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    is_shape.hash(&mut hasher);
    hasher.write(key);
    hasher.finish()
}

fn find(hash: u64, key: &[u8]) -> Option<Known> {
    MEMO.with_borrow_mut(|memo| {
        let entry = memo.entries.get(&hash)?;
        (*entry.key == *key).then(|| entry.known.clone())
    })
}

fn keep(hash: u64, key: &[u8], known: Known) {
    MEMO.with_borrow_mut(|memo| {
        memo.bytes += key.len();
        if let Some(before) = memo.entries.put(hash, Entry { key: key.into(), known }) {
            memo.bytes -= before.key.len();
        }
        while memo.bytes > MAXIMUM_BYTES || memo.entries.len() > MAXIMUM_ENTRIES {
            let Some((_, oldest)) = memo.entries.pop_lru() else { break };
            memo.bytes -= oldest.key.len();
        }
    });
}

/// Without white space and one semicolon at the ends.
fn without_semicolon(text: &str) -> &str {
    let is_space = |c: char| matches!(c, ' ' | '\n' | '\r' | '\t');
    let text = text.trim_matches(is_space);
    text.strip_suffix(';').map_or(text, |text| text.trim_end_matches(is_space))
}

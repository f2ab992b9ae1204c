//! What a session has prepared: statements, portals, cursors. All are bounded.

use std::collections::HashMap;
use std::sync::Arc;

use rung_sql::{Formats, Parameters, PgType, SqlError, SqlState, Statement};

use crate::rows::RowCursor;

/// Prepared statements of a session, and bytes of all their texts.
const MAX_STATEMENTS: usize = 10_000;
const MAX_TEXT: usize = 64 * 1024 * 1024;
/// Portals, and cursors, of a session.
const MAX_PORTALS: usize = 1000;

/// A statement with the parameter types that its client gave.
#[derive(Debug)]
pub struct Prepared {
    pub statement: Statement,
    pub types: Arc<[Option<PgType>]>,
}

/// The prepared statements of a session, by name. The one without a name is what
/// Parse without a name replaces.
#[derive(Debug, Default)]
pub struct Statements {
    by_name: HashMap<String, Arc<Prepared>>,
    bytes: usize,
}

impl Statements {
    /// # Errors
    /// 42P05 when the name is taken, 54000 when there are too many.
    pub fn add(&mut self, name: &str, prepared: Arc<Prepared>) -> Result<(), SqlError> {
        if name.is_empty() {
            self.remove(name);
        } else if self.by_name.contains_key(name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        let bytes = prepared.statement.text().len();
        if self.by_name.len() >= MAX_STATEMENTS || self.bytes + bytes > MAX_TEXT {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!(
                    "a session has at most {MAX_STATEMENTS} prepared statements of {MAX_TEXT} \
                     bytes together"
                ),
            )
            .hint("deallocate those that are no longer needed"));
        }
        self.bytes += bytes;
        self.by_name.insert(name.to_owned(), prepared);
        Ok(())
    }

    /// # Errors
    /// 26000 when there is none of that name.
    pub fn get(&self, name: &str) -> Result<Arc<Prepared>, SqlError> {
        self.by_name.get(name).cloned().ok_or_else(|| {
            let what = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                name => format!("prepared statement \"{name}\" does not exist"),
            };
            SqlError::new(SqlState::INVALID_STATEMENT_NAME, what)
        })
    }

    /// Whether there was one of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(prepared) = self.by_name.remove(name) else {
            return false;
        };
        self.bytes -= prepared.statement.text().len();
        true
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// How far a portal is.
#[derive(Debug)]
pub enum Progress {
    NotRun,
    /// Some of its rows were given.
    Suspended(Box<RowCursor>),
    Done,
}

/// A statement with its parameters.
#[derive(Debug)]
pub struct Portal {
    pub prepared: Arc<Prepared>,
    pub parameters: Parameters,
    pub formats: Formats,
    pub progress: Progress,
    /// What the end of its execution is told as.
    pub tag: String,
}

/// A cursor of DECLARE: its rows, and where in them it stands.
#[derive(Debug)]
pub struct Cursor {
    pub rows: RowCursor,
    pub scroll: bool,
    /// It outlives its transaction.
    pub hold: bool,
    /// The place: 0 is before the first row, count + 1 after the last.
    pub position: u64,
}

/// Things by name that end with their transaction.
#[derive(Debug)]
pub struct Named<T>(HashMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Named<T> {
    /// # Errors
    /// 42P03 when the name is taken, 54000 when there are too many. The empty name
    /// is always free.
    pub fn add(&mut self, name: &str, thing: T) -> Result<(), SqlError> {
        if !name.is_empty() && self.0.contains_key(name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.0.len() >= MAX_PORTALS {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!("a session has at most {MAX_PORTALS} cursors"),
            )
            .hint("close those that are no longer needed"));
        }
        self.0.insert(name.to_owned(), thing);
        Ok(())
    }

    /// # Errors
    /// 34000 when there is none of that name.
    pub fn get_mut(&mut self, name: &str) -> Result<&mut T, SqlError> {
        self.0.get_mut(name).ok_or_else(|| no_cursor(name))
    }

    /// # Errors
    /// 34000 when there is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<T, SqlError> {
        self.0.remove(name).ok_or_else(|| no_cursor(name))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        if !self.0.is_empty() {
            self.0.retain(|_, thing| keep(thing));
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist"))
}

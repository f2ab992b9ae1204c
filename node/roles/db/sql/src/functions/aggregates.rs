//! Aggregates, which are window functions too.
//!
//! Each keeps a state that rows are added to and, in a window that moves, removed from.

mod collect;
mod moments;
mod sums;

use std::collections::VecDeque;
use std::panic::{RefUnwindSafe, UnwindSafe};

use rusqlite::Connection;
use rusqlite::functions::{Aggregate, Context, FunctionFlags, WindowAggregate};
use rusqlite::types::{Value, ValueRef};

use super::call::Outcome;
use super::raise;
use crate::signature::Lines;
use crate::{SqlError, SqlState};

pub(crate) use collect::FUNCTIONS as COLLECT;
pub(crate) use moments::FUNCTIONS as MOMENTS;
pub(crate) use sums::FUNCTIONS as SUMS;

/// Those that SQLite computes itself.
pub(crate) const NATIVE: Lines =
    &[("count() -> int8", "count(*)"), ("count(any) -> int8", "count({0})")];

/// The state of one aggregate over rows.
pub(super) trait State: Default + Send + RefUnwindSafe + UnwindSafe + 'static {
    /// A row comes into the group or the window's frame.
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError>;
    /// The row that came first leaves the frame.
    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError>;
    fn result(&self) -> Outcome;
}

/// The arguments for one row.
pub(super) struct Row<'a> {
    arguments: &'a Context<'a>,
}

impl Row<'_> {
    pub fn get(&self, index: usize) -> ValueRef<'_> {
        if index < self.arguments.len() { self.arguments.get_raw(index) } else { ValueRef::Null }
    }

    pub fn value(&self, index: usize) -> Value {
        match self.get(index) {
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            other => other.try_into().unwrap_or(Value::Null),
        }
    }

    pub fn real(&self, index: usize) -> Option<f64> {
        match self.get(index) {
            ValueRef::Real(value) => Some(value),
            ValueRef::Integer(value) => Some(value as f64),
            _ => None,
        }
    }

    pub fn is_null(&self, index: usize) -> bool {
        self.get(index) == ValueRef::Null
    }

    /// Empty for what is no text.
    pub fn text(&self, index: usize) -> &str {
        match self.get(index) {
            ValueRef::Text(text) => std::str::from_utf8(text).unwrap_or_default(),
            _ => "",
        }
    }
}

/// Values of a window's frame, kept for when it moves, up to a bound. An aggregate over
/// more rows works too, as long as none leaves.
pub(super) struct Frame<T> {
    values: VecDeque<T>,
    count: usize,
}

impl<T> Default for Frame<T> {
    fn default() -> Self {
        Self { values: VecDeque::new(), count: 0 }
    }
}

impl<T> Frame<T> {
    const MOST: usize = 1 << 20;

    pub fn push(&mut self, value: T) {
        self.count += 1;
        if self.count <= Self::MOST {
            self.values.push_back(value);
        } else {
            self.values = VecDeque::new();
        }
    }

    /// Takes the first out and gives the others.
    ///
    /// # Errors
    /// 54000 if there were too many to keep.
    pub fn pop(&mut self) -> Result<impl Iterator<Item = &T>, SqlError> {
        if self.values.pop_front().is_none() {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!("a moving window of floats has more than {} rows", Self::MOST),
            )
            .hint("Cast the values to numeric."));
        }
        self.count -= 1;
        Ok(self.values.iter())
    }

    pub fn len(&self) -> usize {
        self.count
    }
}

/// Most bytes that an aggregate gathers.
const MOST_BYTES: usize = 256 << 20;

/// # Errors
/// 54000 if an aggregate gathers more than it may.
pub(super) fn within_memory(bytes: usize) -> Result<(), SqlError> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::LIMIT_EXCEEDED,
        format!("an aggregate gathered more than {} MiB", MOST_BYTES >> 20),
    )
    .hint("Aggregate fewer rows at a time."))
}

struct Adapter<S>(std::marker::PhantomData<fn() -> S>);

impl<S: State> Aggregate<S, Value> for Adapter<S> {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<S> {
        Ok(S::default())
    }

    fn step(&self, arguments: &mut Context<'_>, state: &mut S) -> rusqlite::Result<()> {
        state.add(&Row { arguments }).map_err(raise)
    }

    fn finalize(&self, _: &mut Context<'_>, state: Option<S>) -> rusqlite::Result<Value> {
        state.unwrap_or_default().result().and_then(super::call::storable).map_err(raise)
    }
}

impl<S: State> WindowAggregate<S, Value> for Adapter<S> {
    fn value(&self, state: Option<&mut S>) -> rusqlite::Result<Value> {
        let result = match state {
            Some(state) => state.result(),
            None => S::default().result(),
        };
        result.and_then(super::call::storable).map_err(raise)
    }

    fn inverse(&self, arguments: &mut Context<'_>, state: &mut S) -> rusqlite::Result<()> {
        state.remove(&Row { arguments }).map_err(raise)
    }
}

/// Makes one aggregate known to a connection.
fn register_one<S: State>(connection: &Connection, name: &str, arity: i32) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_INNOCUOUS
        | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_window_function(name, arity, flags, Adapter::<S>(std::marker::PhantomData))
}

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    sums::register(connection)?;
    moments::register(connection)?;
    collect::register(connection)
}

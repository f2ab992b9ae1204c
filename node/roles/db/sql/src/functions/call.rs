//! How SQLite calls a function, and what the function sees of it.

use std::sync::MutexGuard;

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Value, ValueRef};

use super::raise;
use crate::values::array::ArrayValue;
use crate::values::interval::Interval;
use crate::values::json::{self, Json};
use crate::values::numeric::Numeric;
use crate::{Context, PgType, SharedContext, SqlError, SqlState};

pub(crate) type Outcome = Result<Value, SqlError>;

/// What a function does when an argument is NULL, and what its value depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// NULL for any NULL; the same arguments always give the same value.
    Strict,
    /// Sees NULLs; the same arguments always give the same value.
    Pure,
    /// NULL for any NULL; depends on the session or the time.
    StrictStable,
    /// Sees NULLs; depends on the session, the time or chance.
    Stable,
}

/// A function of SQLite's: its name, how many arguments (-1 for any), how it behaves,
/// what it does.
pub(crate) type Function = (&'static str, i32, Manner, fn(&Call<'_>) -> Outcome);

/// One call: its arguments and the session it is made for.
pub(crate) struct Call<'a> {
    arguments: &'a rusqlite::functions::Context<'a>,
    session: &'a SharedContext,
}

pub(crate) fn register(
    connection: &Connection,
    session: &SharedContext,
    (name, arity, manner, run): &Function,
) -> rusqlite::Result<()> {
    let (manner, run) = (*manner, *run);
    let mut flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    if matches!(manner, Manner::Strict | Manner::Pure) {
        flags |= FunctionFlags::SQLITE_DETERMINISTIC;
    }
    let strict = matches!(manner, Manner::Strict | Manner::StrictStable);
    let session = session.clone();
    connection.create_scalar_function(*name, *arity, flags, move |arguments| {
        let call = Call { arguments, session: &session };
        if strict && (0..call.len()).any(|index| call.is_null(index)) {
            return Ok(Value::Null);
        }
        run(&call).and_then(storable).map_err(raise)
    })
}

/// SQLite has no NaN, it would become NULL without a word.
pub(crate) fn storable(value: Value) -> Outcome {
    match value {
        Value::Real(real) => crate::values::float::refuse_nan(real).map(Value::Real),
        value => Ok(value),
    }
}

fn unexpected(expected: &str, value: ValueRef<'_>) -> SqlError {
    let seen = value.data_type();
    SqlError::new(
        SqlState::DATA_CORRUPTED,
        format!("a function was given {seen} in place of {expected}"),
    )
}

impl<'a> Call<'a> {
    /// See [`SharedContext::fixed`].
    pub fn fixed(&self, give: impl FnOnce() -> Value) -> Outcome {
        Ok(self.session.fixed(give))
    }

    pub fn len(&self) -> usize {
        self.arguments.len()
    }

    pub fn get(&self, index: usize) -> ValueRef<'a> {
        if index < self.arguments.len() { self.arguments.get_raw(index) } else { ValueRef::Null }
    }

    pub fn value(&self, index: usize) -> Value {
        // SQLite gives texts that are valid UTF-8, or the database was damaged.
        match self.get(index) {
            ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
            other => other.try_into().unwrap_or(Value::Null),
        }
    }

    pub fn is_null(&self, index: usize) -> bool {
        self.get(index) == ValueRef::Null
    }

    pub fn text(&self, index: usize) -> Result<&'a str, SqlError> {
        match self.get(index) {
            ValueRef::Text(text) => std::str::from_utf8(text).map_err(|_| {
                SqlError::new(SqlState::DATA_CORRUPTED, "a stored text is not valid UTF-8")
            }),
            other => Err(unexpected("text", other)),
        }
    }

    pub fn int(&self, index: usize) -> Result<i64, SqlError> {
        match self.get(index) {
            ValueRef::Integer(value) => Ok(value),
            other => Err(unexpected("an integer", other)),
        }
    }

    pub fn bool(&self, index: usize) -> Result<bool, SqlError> {
        self.int(index).map(|value| value != 0)
    }

    pub fn real(&self, index: usize) -> Result<f64, SqlError> {
        match self.get(index) {
            ValueRef::Real(value) => Ok(value),
            ValueRef::Integer(value) => Ok(value as f64),
            other => Err(unexpected("a float", other)),
        }
    }

    pub fn bytes(&self, index: usize) -> Result<&'a [u8], SqlError> {
        match self.get(index) {
            ValueRef::Blob(bytes) => Ok(bytes),
            other => Err(unexpected("bytes", other)),
        }
    }

    pub fn numeric(&self, index: usize) -> Result<Numeric, SqlError> {
        match self.get(index) {
            ValueRef::Integer(value) => Ok(Numeric::from(value)),
            _ => Numeric::parse(self.text(index)?),
        }
    }

    pub fn interval(&self, index: usize) -> Result<Interval, SqlError> {
        Interval::from_stored(self.text(index)?)
            .ok_or_else(|| unexpected("an interval", self.get(index)))
    }

    pub fn array(&self, index: usize) -> Result<ArrayValue, SqlError> {
        ArrayValue::from_stored(self.text(index)?)
    }

    pub fn json(&self, index: usize) -> Result<Json<'a>, SqlError> {
        json::parse(self.text(index)?)
    }

    /// The type whose internal name is an argument.
    pub fn pg_type(&self, index: usize) -> Result<PgType, SqlError> {
        let name = self.text(index)?;
        let found = match name {
            "char" => Some(PgType::InternalChar),
            "_char" => Some(PgType::Array(Box::new(PgType::InternalChar))),
            name => PgType::from_name(name),
        };
        found.ok_or_else(|| {
            SqlError::new(SqlState::INTERNAL, format!("a function was given the type \"{name}\""))
        })
    }

    /// The session; not to be held while another function is called.
    pub fn session(&self) -> MutexGuard<'a, Context> {
        self.session.lock()
    }
}

pub(crate) fn text(text: impl Into<String>) -> Outcome {
    Ok(Value::Text(text.into()))
}

pub(crate) fn int(value: impl Into<i64>) -> Outcome {
    Ok(Value::Integer(value.into()))
}

pub(crate) fn boolean(value: bool) -> Outcome {
    Ok(Value::Integer(i64::from(value)))
}

pub(crate) fn numeric(value: Numeric) -> Outcome {
    Ok(Value::Text(value.checked()?.to_string()))
}

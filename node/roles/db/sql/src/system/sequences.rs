//! `nextval`, `setval`, `currval`, `lastval`.
//!
//! The value of a sequence is a row of the database that the calling connection
//! changes, so it replicates with what was made of it: no committed value is ever
//! given again, whoever is primary next. It is undone with its transaction, so the
//! connections that write remember together what they have given, and go on from there:
//! as in PostgreSQL, what an undone transaction has taken is a gap, and two that run at
//! the same time take different values. Calling back into
//! the connection from a function is the one reason for `unsafe` here.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::functions::{Context as Call, FunctionFlags};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};

use super::System;
use crate::catalog_store::store_error;
use crate::functions::raise;
use crate::{SqlError, SqlState};

const NOT_YET_DEFINED: SqlState = SqlState("55000");
const LIMIT_OF_SEQUENCE: SqlState = SqlState("2200H");

/// The last value that each sequence has given, by oid, also where the transaction that
/// took it was undone or has not ended. Shared by the connections that write one database.
/// Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct SequenceValues(Arc<Mutex<HashMap<i64, i64>>>);

impl SequenceValues {
    /// What was given is in the database, or shall not count.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn register(connection: &Connection, system: &System) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    let own = system.clone();
    connection.create_scalar_function("rung_nextval", 1, flags, move |call| {
        with_sequence(call, |connection, sequence| next(connection, &own, sequence))
    })?;
    let own = system.clone();
    connection.create_scalar_function("rung_setval", 3, flags, move |call| {
        if (0..3).any(|index| call.get_raw(index) == ValueRef::Null) {
            return Ok(Value::Null);
        }
        let (value, is_called): (i64, bool) = (call.get(1)?, call.get(2)?);
        with_sequence(call, |connection, sequence| {
            set(connection, &own, sequence, value, is_called)
        })
    })?;
    let own = system.clone();
    connection.create_scalar_function("rung_restarted", 1, flags, move |call| {
        own.given.lock().remove(&call.get(0)?);
        Ok(false)
    })?;
    let own = system.clone();
    connection.create_scalar_function("rung_currval", 1, flags, move |call| {
        with_sequence(call, |_, sequence| current(&own, &sequence.name))
    })?;
    let own = system.clone();
    connection.create_scalar_function("rung_lastval", 0, flags, move |_| {
        last(&own).map(Value::Integer).map_err(raise)
    })
}

fn with_sequence(
    call: &Call<'_>,
    work: impl FnOnce(&Connection, &State) -> Result<i64, SqlError>,
) -> rusqlite::Result<Value> {
    let oid = match call.get_raw(0) {
        ValueRef::Integer(oid) => oid,
        _ => return Ok(Value::Null),
    };
    // SAFETY: the connection is used for ordinary statements only, on the thread that
    // runs the calling statement, and given up before the function returns. It neither
    // closes nor ends a transaction.
    let connection = unsafe { call.get_connection()? };
    let state = read(&connection, oid).map_err(raise)?;
    work(&connection, &state).map(Value::Integer).map_err(raise)
}

/// A sequence as the database has it at this moment.
struct State {
    oid: i64,
    name: String,
    increment: i64,
    minimum: i64,
    maximum: i64,
    cycle: bool,
    last_value: i64,
    is_called: bool,
}

fn read(connection: &Connection, oid: i64) -> Result<State, SqlError> {
    connection
        .prepare("SELECT * FROM _rung_sequences WHERE oid = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([oid], |row| {
                    Ok(State {
                        oid,
                        name: row.get("name")?,
                        increment: row.get("increment")?,
                        minimum: row.get("minimum")?,
                        maximum: row.get("maximum")?,
                        cycle: row.get("cycle")?,
                        last_value: row.get("last_value")?,
                        is_called: row.get("is_called")?,
                    })
                })
                .optional()
        })
        .map_err(store_error)?
        .ok_or_else(|| {
            SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("the relation with OID {oid} is not a sequence"),
            )
        })
}

fn next(connection: &Connection, system: &System, sequence: &State) -> Result<i64, SqlError> {
    let value = match system.session.recorder.next() {
        Some(Value::Integer(value)) => {
            given_before(connection, system, sequence, value)?;
            value
        }
        _ => {
            let value = given_anew(connection, system, sequence)?;
            system.session.recorder.keep(&Value::Integer(value));
            value
        }
    };
    remember(system, &sequence.name, value);
    Ok(value)
}

fn given_anew(connection: &Connection, system: &System, sequence: &State) -> Result<i64, SqlError> {
    if sequence.cycle {
        // It goes by the database alone, which another transaction cannot see yet.
        system.session.recorder.once()?;
    }
    let mut given = system.given.lock();
    let value = match sequence.last_given(given.get(&sequence.oid).copied()) {
        None => sequence.last_value,
        Some(last) => following(sequence, last)?,
    };
    given.insert(sequence.oid, value);
    drop(given);
    write(connection, sequence, value, true)?;
    Ok(value)
}

/// A value that the first execution was given. Others may have taken later ones since.
fn given_before(
    connection: &Connection,
    system: &System,
    sequence: &State,
    value: i64,
) -> Result<(), SqlError> {
    let last = sequence.last_given(Some(value)).unwrap_or(value);
    system.given.lock().entry(sequence.oid).or_insert(last);
    write(connection, sequence, last, true)
}

impl State {
    /// The last value that was given: by the database's own account, or by that of those
    /// who write where it is further on.
    fn last_given(&self, given: Option<i64>) -> Option<i64> {
        let stored = self.is_called.then_some(self.last_value);
        // One that goes round gives its values again anyway.
        match (stored, given.filter(|_| !self.cycle)) {
            (Some(stored), Some(given)) if self.increment > 0 => Some(stored.max(given)),
            (Some(stored), Some(given)) => Some(stored.min(given)),
            (stored, given) => stored.or(given),
        }
    }
}

/// The value after `last`.
fn following(sequence: &State, last: i64) -> Result<i64, SqlError> {
    let next = last
        .checked_add(sequence.increment)
        .filter(|next| (sequence.minimum..=sequence.maximum).contains(next));
    let ascends = sequence.increment > 0;
    match (next, sequence.cycle) {
        (Some(next), _) => Ok(next),
        (None, true) => Ok(if ascends { sequence.minimum } else { sequence.maximum }),
        (None, false) => {
            let (word, limit) = match ascends {
                true => ("maximum", sequence.maximum),
                false => ("minimum", sequence.minimum),
            };
            Err(SqlError::new(
                LIMIT_OF_SEQUENCE,
                format!(
                    "nextval: reached {word} value of sequence \"{}\" ({limit})",
                    sequence.name
                ),
            ))
        }
    }
}

fn set(
    connection: &Connection,
    system: &System,
    sequence: &State,
    value: i64,
    is_called: bool,
) -> Result<i64, SqlError> {
    if !(sequence.minimum..=sequence.maximum).contains(&value) {
        return Err(SqlError::new(
            SqlState::OUT_OF_RANGE,
            format!(
                "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                sequence.name, sequence.minimum, sequence.maximum
            ),
        ));
    }
    system.session.recorder.once()?;
    write(connection, sequence, value, is_called)?;
    match is_called {
        true => system.given.lock().insert(sequence.oid, value),
        false => system.given.lock().remove(&sequence.oid),
    };
    if is_called {
        remember(system, &sequence.name, value);
    }
    Ok(value)
}

fn write(
    connection: &Connection,
    sequence: &State,
    value: i64,
    is_called: bool,
) -> Result<(), SqlError> {
    connection
        .execute(
            "UPDATE _rung_sequences SET last_value = ?2, is_called = ?3 WHERE oid = ?1",
            params![sequence.oid, value, is_called],
        )
        .map(|_| ())
        .map_err(store_error)
}

/// For `currval`, now and in the session's later statements.
fn remember(system: &System, name: &str, value: i64) {
    system.session.lock().effects.sequence_values.push((name.to_owned(), value));
}

fn current(system: &System, name: &str) -> Result<i64, SqlError> {
    let session = system.session.lock();
    let now = session.effects.sequence_values.iter().rev().find(|(other, _)| other == name);
    match now.map(|(_, value)| *value).or_else(|| session.sequence_values.get(name).copied()) {
        Some(value) => Ok(value),
        None => Err(SqlError::new(
            NOT_YET_DEFINED,
            format!("currval of sequence \"{name}\" is not yet defined in this session"),
        )),
    }
}

fn last(system: &System) -> Result<i64, SqlError> {
    let session = system.session.lock();
    let now = session.effects.sequence_values.last().map(|(_, value)| *value);
    let before = || session.sequence_values.get(session.last_sequence.as_deref()?).copied();
    now.or_else(before)
        .ok_or_else(|| SqlError::new(NOT_YET_DEFINED, "lastval is not yet defined in this session"))
}

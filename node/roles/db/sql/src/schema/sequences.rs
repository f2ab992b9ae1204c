//! `CREATE SEQUENCE`, and the sequences of serial and identity columns.

use rusqlite::params;
use sqlparser::ast::{Expr, SequenceOptions, UnaryOperator, Value};

use super::change::{Change, missing_column, missing_relation};
use super::names;
use crate::{PgType, Sequence, SqlError, SqlState};

/// What a statement said of a sequence. Inner None means the default.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Options {
    pub data_type: Option<PgType>,
    pub increment: Option<i64>,
    pub minimum: Option<Option<i64>>,
    pub maximum: Option<Option<i64>>,
    pub start: Option<i64>,
    pub cycle: Option<bool>,
    /// `RESTART`, and where if that was said.
    pub restart: Option<Option<i64>>,
    /// Inner None is `OWNED BY NONE`.
    pub owned_by: Option<Option<(String, String)>>,
}

impl Options {
    pub fn from_ast(options: &[SequenceOptions]) -> Result<Self, SqlError> {
        let mut all = Self::default();
        for option in options {
            match option {
                SequenceOptions::IncrementBy(value, _) => all.increment = Some(integer(value)?),
                SequenceOptions::MinValue(value) => {
                    all.minimum = Some(value.as_ref().map(integer).transpose()?);
                }
                SequenceOptions::MaxValue(value) => {
                    all.maximum = Some(value.as_ref().map(integer).transpose()?);
                }
                SequenceOptions::StartWith(value, _) => all.start = Some(integer(value)?),
                // Each value is taken for itself, which CACHE 1 asks for and a greater
                // number allows.
                SequenceOptions::Cache(value) => {
                    if integer(value)? < 1 {
                        return Err(invalid("CACHE must be greater than zero"));
                    }
                }
                SequenceOptions::Cycle(cycle) => all.cycle = Some(*cycle),
            }
        }
        Ok(all)
    }
}

fn integer(value: &Expr) -> Result<i64, SqlError> {
    let text = match value {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.clone(),
            _ => String::new(),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => format!("-{expr}"),
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => expr.to_string(),
        _ => String::new(),
    };
    text.parse().map_err(|_| {
        SqlError::new(SqlState::SYNTAX_ERROR, format!("\"{value}\" is not an integer of 8 bytes"))
    })
}

fn invalid(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// `CREATE SEQUENCE`.
pub(super) fn create(
    change: &mut Change<'_>,
    name: &str,
    if_not_exists: bool,
    options: &Options,
) -> Result<(), SqlError> {
    if if_not_exists && names::taken(&change.after, name) == Some(name) {
        return Ok(());
    }
    names::check_new(&change.after, name)?;
    add(change, name.to_owned(), options)
}

/// Adds a sequence of a name that is free.
pub(super) fn add(
    change: &mut Change<'_>,
    name: String,
    options: &Options,
) -> Result<(), SqlError> {
    let blank = Sequence {
        oid: change.oid()?,
        name,
        data_type: PgType::Int8,
        start: 0,
        increment: 1,
        minimum: 0,
        maximum: 0,
        cycle: false,
        owned_by: None,
    };
    let sequence = with_options(change, blank, options, true)?;
    change.put_sequence(sequence);
    Ok(())
}

/// The sequence with what the options say, and the defaults for the rest if `is_new`.
fn with_options(
    change: &Change<'_>,
    mut sequence: Sequence,
    options: &Options,
    is_new: bool,
) -> Result<Sequence, SqlError> {
    let retyped = options.data_type.as_ref().is_some_and(|new| *new != sequence.data_type);
    if let Some(data_type) = &options.data_type {
        sequence.data_type = data_type.clone();
    }
    let (lowest, highest) = match sequence.data_type {
        PgType::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        PgType::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        PgType::Int8 => (i64::MIN, i64::MAX),
        _ => return Err(invalid("sequence type must be smallint, integer, or bigint")),
    };
    sequence.increment = options.increment.unwrap_or(sequence.increment);
    if sequence.increment == 0 {
        return Err(invalid("INCREMENT must not be zero"));
    }
    let ascends = sequence.increment > 0;
    if is_new || retyped || options.minimum.is_some() {
        let default = if ascends { 1 } else { lowest };
        sequence.minimum = options.minimum.flatten().unwrap_or(default);
    }
    if is_new || retyped || options.maximum.is_some() {
        let default = if ascends { highest } else { -1 };
        sequence.maximum = options.maximum.flatten().unwrap_or(default);
    }
    let (minimum, maximum) = (sequence.minimum, sequence.maximum);
    if minimum < lowest || maximum > highest {
        let name = sequence.data_type.name();
        return Err(invalid(format!(
            "limits {minimum} and {maximum} are out of range for sequence data type {name}"
        )));
    }
    if minimum >= maximum {
        return Err(invalid(format!(
            "MINVALUE ({minimum}) must be less than MAXVALUE ({maximum})"
        )));
    }
    if is_new || options.start.is_some() {
        sequence.start = options.start.unwrap_or(if ascends { minimum } else { maximum });
    }
    check_within("START", sequence.start, &sequence)?;
    sequence.cycle = options.cycle.unwrap_or(sequence.cycle);
    if let Some(owner) = &options.owned_by {
        if let Some((table, column)) = owner {
            let relation =
                change.after.relations.get(table).ok_or_else(|| missing_relation(table))?;
            relation.column(column).ok_or_else(|| missing_column(column, table))?;
        }
        sequence.owned_by = owner.clone();
    }
    Ok(sequence)
}

fn check_within(what: &str, value: i64, sequence: &Sequence) -> Result<(), SqlError> {
    if value < sequence.minimum {
        let minimum = sequence.minimum;
        return Err(invalid(format!(
            "{what} value ({value}) cannot be less than MINVALUE ({minimum})"
        )));
    }
    if value > sequence.maximum {
        let maximum = sequence.maximum;
        return Err(invalid(format!(
            "{what} value ({value}) cannot be greater than MAXVALUE ({maximum})"
        )));
    }
    Ok(())
}

/// `ALTER SEQUENCE ... options`.
pub(super) fn alter(
    change: &mut Change<'_>,
    name: &str,
    options: &Options,
) -> Result<(), SqlError> {
    let sequence = change.after.sequences.get(name).ok_or_else(|| missing_relation(name))?;
    let sequence = with_options(change, (**sequence).clone(), options, false)?;
    if let Some(restart) = options.restart {
        let value = restart.unwrap_or(sequence.start);
        check_within("RESTART", value, &sequence)?;
        set_value(change, sequence.oid, value)?;
    }
    change.put_sequence(sequence);
    Ok(())
}

/// The next value will be `value`.
pub(super) fn set_value(change: &Change<'_>, oid: u32, value: i64) -> Result<(), SqlError> {
    change
        .connection
        .prepare_cached(
            "UPDATE _rung_sequences SET last_value = ?2, is_called = rung_restarted(oid) \
             WHERE oid = ?1",
        )
        .and_then(|mut statement| statement.execute(params![oid, value]))
        .map(|_| ())
        .map_err(crate::catalog_store::store_error)
}

/// The sequence for a serial or identity column; gives its name.
pub(super) fn add_owned(
    change: &mut Change<'_>,
    table: &str,
    column: &str,
    data_type: &PgType,
    options: &Options,
) -> Result<String, SqlError> {
    let name = names::choose(table, column, "seq", |name| change.is_taken(name));
    let options = Options { data_type: Some(data_type.clone()), owned_by: None, ..options.clone() };
    add(change, name.clone(), &options)?;
    // The table may be new, so the owner is not looked for.
    if let Some(sequence) = change.after.sequences.get_mut(&name) {
        std::sync::Arc::make_mut(sequence).owned_by = Some((table.to_owned(), column.to_owned()));
    }
    Ok(name)
}

/// The default expression of a serial column.
pub(super) fn nextval_text(sequence: &str) -> String {
    let quoted = names::quote_if_needed(sequence).replace('\'', "''");
    format!("nextval('{quoted}'::regclass)")
}

//! Functions that give rows as virtual tables of SQLite.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};

use rusqlite::types::Value;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection,
    VTabCursor,
};
use rusqlite::{Connection, ffi};

use super::failure::raise_in_module;
use super::tables::{Rows, TABLES, TableFunction};
use crate::{SharedContext, SqlError, SqlState};

/// Makes all functions that give rows known to a connection.
pub(super) fn register(connection: &Connection, session: &SharedContext) -> rusqlite::Result<()> {
    const MODULE: Module<'_, Table> = Module::eponymous_only_module();
    for function in TABLES {
        let source = Source { function, session: session.clone() };
        connection.create_module(function.name, &MODULE, Some(source))?;
    }
    Ok(())
}

#[derive(Clone)]
struct Source {
    function: &'static TableFunction,
    session: SharedContext,
}

#[repr(C)]
struct Table {
    /// SQLite's part, which must come first.
    base: ffi::sqlite3_vtab,
    source: Source,
}

fn error(message: &str) -> rusqlite::Error {
    raise_in_module(&SqlError::new(SqlState::INTERNAL, message))
}

// SAFETY: `Table` is `repr(C)` and begins with the `sqlite3_vtab` that SQLite uses.
unsafe impl<'vtab> VTab<'vtab> for Table {
    type Aux = Source;
    type Cursor = Cursor;

    fn connect(
        db: &mut VTabConnection,
        aux: Option<&Source>,
        _module_name: &[u8],
        _database_name: &[u8],
        _table_name: &[u8],
        _args: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Self)> {
        let source = aux.ok_or_else(|| error("a table function without its source"))?.clone();
        db.config(VTabConfig::Innocuous)?;
        let declaration = Cow::Borrowed(source.function.declaration);
        Ok((declaration, Self { base: ffi::sqlite3_vtab::default(), source }))
    }

    /// Every argument must be known before rows can be given.
    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let TableFunction { columns, arguments, .. } = *self.source.function;
        let mut given: Vec<Option<usize>> = vec![None; arguments];
        for (index, constraint) in info.constraints().enumerate() {
            let column = usize::try_from(constraint.column()).unwrap_or(0);
            let Some(argument) = column.checked_sub(columns) else { continue };
            if !constraint.is_usable() {
                return Ok(false);
            }
            if constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
                && let Some(slot) = given.get_mut(argument)
            {
                *slot = Some(index);
            }
        }
        for (argument, index) in given.iter().enumerate() {
            let index = index.ok_or_else(|| error("a table function without arguments"))?;
            let mut usage = info.constraint_usage(index);
            usage.set_argv_index(argument as c_int + 1);
            usage.set_omit(true);
        }
        info.set_estimated_cost(100.0);
        info.set_estimated_rows(100);
        Ok(true)
    }

    fn open(&'vtab mut self) -> rusqlite::Result<Cursor> {
        Ok(Cursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            source: self.source.clone(),
            arguments: Vec::new(),
            rows: Box::new(std::iter::empty()),
            current: None,
            number: 0,
        })
    }
}

#[repr(C)]
struct Cursor {
    /// SQLite's part, which must come first.
    base: ffi::sqlite3_vtab_cursor,
    source: Source,
    arguments: Vec<Value>,
    rows: Rows,
    current: Option<Vec<Value>>,
    /// Of the row, from 1: its ordinality.
    number: i64,
}

// SAFETY: `Cursor` is `repr(C)` and begins with the `sqlite3_vtab_cursor` that SQLite
// uses.
unsafe impl VTabCursor for Cursor {
    fn filter(&mut self, _: c_int, _: Option<&str>, args: &Filters<'_>) -> rusqlite::Result<()> {
        self.arguments =
            args.iter().map(|argument| Value::try_from(argument).unwrap_or(Value::Null)).collect();
        self.number = 0;
        // No rows for a NULL.
        self.rows = match self.arguments.contains(&Value::Null) {
            true => Box::new(std::iter::empty()),
            false => (self.source.function.rows)(&self.arguments, &self.source.session)
                .map_err(|error| raise_in_module(&error))?,
        };
        self.next()
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.number += 1;
        self.current = self.rows.next().transpose().map_err(|error| raise_in_module(&error))?;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.current.is_none()
    }

    fn column(&self, context: &mut Context, index: c_int) -> rusqlite::Result<()> {
        let index = usize::try_from(index).unwrap_or(0);
        let row = self.current.as_deref().unwrap_or_default();
        let value = match index.checked_sub(self.source.function.columns) {
            None => row.get(index),
            Some(argument) => self.arguments.get(argument),
        };
        context.set_result(value.unwrap_or(&Value::Null))
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.number)
    }
}

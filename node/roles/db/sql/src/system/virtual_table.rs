//! Relations of the system as virtual tables of SQLite.
//!
//! SQLite's interface for them is a set of C structures that must begin with its own,
//! which is why this module may say `unsafe`; it has no other reason to.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::marker::PhantomData;
use std::sync::Arc;

use rusqlite::types::{Value, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection,
    VTabCursor,
};
use rusqlite::{Connection, Error, Result, ffi};

use super::System;
use super::contents::{self, Table};
use crate::Relation;
use crate::schema::names::quote;
use crate::schema::sqlite_text::storage;

/// Makes a relation known to a connection under the relation's name.
pub(super) fn register(
    connection: &Connection,
    relation: &Arc<Relation>,
    system: &System,
) -> Result<()> {
    const MODULE: Module<SystemTable> = Module::eponymous_only_module();
    let source = Source { relation: relation.clone(), system: system.clone() };
    connection.create_module(relation.name.as_str(), &MODULE, Some(source))
}

/// What a table of the system shows.
struct Source {
    relation: Arc<Relation>,
    system: System,
}

#[repr(C)]
struct SystemTable {
    /// SQLite's part, which must be the first.
    base: ffi::sqlite3_vtab,
    relation: Arc<Relation>,
    system: System,
}

// SAFETY: the structure is `repr(C)` and begins with `sqlite3_vtab`.
unsafe impl<'table> VTab<'table> for SystemTable {
    type Aux = Source;
    type Cursor = SystemCursor<'table>;

    fn connect(
        connection: &mut VTabConnection,
        source: Option<&Source>,
        _module_name: &[u8],
        _database_name: &[u8],
        _table_name: &[u8],
        _arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let Some(source) = source else {
            return Err(Error::ModuleError("a relation of the system has no source".to_owned()));
        };
        connection.config(VTabConfig::Innocuous)?;
        let table = Self {
            base: ffi::sqlite3_vtab::default(),
            relation: source.relation.clone(),
            system: source.system.clone(),
        };
        Ok((Cow::Owned(declaration(&source.relation)?), table))
    }

    /// Finds rows by the value of one column, the first that the query compares.
    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let found = info.constraints().enumerate().find(|(_, constraint)| {
            constraint.is_usable()
                && constraint.column() >= 0
                && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ
        });
        let found = found.map(|(index, constraint)| (index, constraint.column()));
        match found {
            Some((index, column)) => {
                // SQLite compares again, by the collation that the query asks for.
                info.constraint_usage(index).set_argv_index(1);
                info.set_idx_num(column + 1);
                info.set_estimated_cost(10.0);
                info.set_estimated_rows(5);
            }
            None => {
                info.set_idx_num(0);
                info.set_estimated_cost(2000.0);
                info.set_estimated_rows(1000);
            }
        }
        Ok(true)
    }

    fn open(&'table mut self) -> Result<SystemCursor<'table>> {
        let table = contents::table(&self.relation, &self.system);
        Ok(SystemCursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            table,
            wanted: Vec::new(),
            next: 0,
            of: PhantomData,
        })
    }
}

fn declaration(relation: &Relation) -> Result<CString> {
    let columns: Vec<String> = relation
        .columns
        .iter()
        .map(|column| format!("{} {}", quote(&column.name), storage(&column.data_type.base).0))
        .collect();
    CString::new(format!("CREATE TABLE x ({})", columns.join(", "))).map_err(Error::NulError)
}

#[repr(C)]
struct SystemCursor<'table> {
    /// SQLite's part, which must be the first.
    base: ffi::sqlite3_vtab_cursor,
    table: Arc<Table>,
    /// Numbers of the rows to be given.
    wanted: Vec<usize>,
    next: usize,
    of: PhantomData<&'table SystemTable>,
}

// SAFETY: the structure is `repr(C)` and begins with `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for SystemCursor<'_> {
    fn filter(
        &mut self,
        column: c_int,
        _plan: Option<&str>,
        arguments: &Filters<'_>,
    ) -> Result<()> {
        self.next = 0;
        let column = usize::try_from(column).unwrap_or(0).checked_sub(1);
        self.wanted = match (column, arguments.iter().next()) {
            (Some(column), Some(value)) => self
                .table
                .rows
                .iter()
                .enumerate()
                .filter(|(_, row)| may_equal(&row[column], value))
                .map(|(index, _)| index)
                .collect(),
            _ => (0..self.table.rows.len()).collect(),
        };
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.next += 1;
        Ok(())
    }

    fn eof(&self) -> bool {
        self.next >= self.wanted.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        let row = self.wanted.get(self.next).and_then(|index| self.table.rows.get(*index));
        let column = usize::try_from(column).unwrap_or(usize::MAX);
        match row.and_then(|row| row.get(column)) {
            Some(value) => context.set_result(value),
            None => context.set_result(Value::Null),
        }
    }

    fn rowid(&self) -> Result<i64> {
        let index = self.wanted.get(self.next).copied().unwrap_or(0);
        Ok(i64::try_from(index).unwrap_or(i64::MAX))
    }
}

/// False only if SQLite's `=` is not true for certain; texts may be equal by a
/// collation and numbers by another form, so only the plain cases decide.
fn may_equal(own: &Value, other: ValueRef<'_>) -> bool {
    match (own, other) {
        (Value::Null, _) | (_, ValueRef::Null) => false,
        (Value::Integer(a), ValueRef::Integer(b)) => *a == b,
        _ => true,
    }
}

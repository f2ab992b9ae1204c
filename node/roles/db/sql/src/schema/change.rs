//! A change of the schema: the catalog before it, and as it shall be after it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;
use sqlparser::ast::{Expr, ObjectName};

use super::{names, translate};
use crate::{
    Catalog, Context, Relation, RelationKind, Sequence, SqlError, SqlState, TypeUse, catalog_store,
};

/// Statements change `after`; [`super::apply`] then makes SQLite's schema follow.
pub(super) struct Change<'a> {
    pub connection: &'a Connection,
    pub context: &'a Context,
    pub before: &'a Catalog,
    pub after: Catalog,
    /// What rows that exist get in a column, by table and column number: an expression
    /// of SQLite's over the table as it was before.
    pub values: HashMap<(u32, i16), String>,
}

impl<'a> Change<'a> {
    pub fn new(connection: &'a Connection, before: &'a Catalog, context: &'a Context) -> Self {
        let (after, values) = (before.clone(), HashMap::new());
        Self { connection, context, before, after, values }
    }

    pub fn oid(&self) -> Result<u32, SqlError> {
        catalog_store::next_oid(self.connection)
    }

    /// A table or view by the name in a statement.
    pub fn relation(&self, name: &ObjectName) -> Result<Arc<Relation>, SqlError> {
        let name = names::object(name)?;
        self.after.relations.get(&name).cloned().ok_or_else(|| missing_relation(&name))
    }

    /// A table by the name in a statement.
    pub fn table(&self, name: &ObjectName) -> Result<Arc<Relation>, SqlError> {
        let relation = self.relation(name)?;
        match relation.kind {
            RelationKind::Table => Ok(relation),
            RelationKind::View => Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!("\"{}\" is not a table", relation.name),
            )),
        }
    }

    pub fn put(&mut self, relation: Relation) {
        self.after.relations.insert(relation.name.clone(), Arc::new(relation));
    }

    pub fn put_sequence(&mut self, sequence: Sequence) {
        self.after.sequences.insert(sequence.name.clone(), Arc::new(sequence));
    }

    /// A default expression as SQLite's, checked to give the column's type and to
    /// mention no column.
    pub fn default_value(&self, default: &Expr, target: &TypeUse) -> Result<String, SqlError> {
        translate::assignment(default, target, None, &self.after, self.context)
    }

    /// Whether a name may be chosen for a relation, an index or a sequence.
    pub fn is_taken(&self, name: &str) -> bool {
        names::taken(&self.after, name).is_some()
    }
}

pub(super) fn missing_relation(name: &str) -> SqlError {
    SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
}

pub(super) fn missing_column(column: &str, table: &str) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_COLUMN,
        format!("column \"{column}\" of relation \"{table}\" does not exist"),
    )
}

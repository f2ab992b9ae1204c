//! What a database holds, as its clients see it: tables, columns, constraints,
//! indexes, views, sequences.
//!
//! The catalog is data of the database itself: a row of JSON for each relation in
//! the table `_rung_relations`, written by the same transaction as the change, so
//! that it travels to replicas with the pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::PgType;

/// Every relation of one database at one version. There is one schema, `public`.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Rises with each change of the schema.
    pub version: u64,
    /// By name, as SQLite knows it too.
    pub relations: BTreeMap<String, Arc<Relation>>,
    pub sequences: BTreeMap<String, Arc<Sequence>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    Table,
    View,
}

/// A table or a view.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Relation {
    /// From 16384 upwards, never used twice in a database.
    pub oid: u32,
    pub name: String,
    pub kind: RelationKind,
    pub columns: Vec<Column>,
    pub constraints: Vec<Constraint>,
    /// Those that no constraint owns.
    pub indexes: Vec<Index>,
    /// A view's query as PostgreSQL's text.
    pub definition: Option<String>,
    pub comment: Option<String>,
    /// The number that the next new column gets; 0 stands for one more than the last
    /// column's.
    #[serde(default)]
    pub next_column: i16,
}

impl Relation {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub fn constraint(&self, name: &str) -> Option<&Constraint> {
        self.constraints.iter().find(|constraint| constraint.name == name)
    }

    pub fn primary_key(&self) -> Option<&Constraint> {
        self.constraints.iter().find(|constraint| constraint.kind == ConstraintKind::PrimaryKey)
    }

    /// The primary key and the unique constraints.
    pub fn keys(&self) -> impl Iterator<Item = &Constraint> {
        self.constraints.iter().filter(|constraint| {
            matches!(constraint.kind, ConstraintKind::PrimaryKey | ConstraintKind::Unique)
        })
    }
}

impl Catalog {
    pub fn relation(&self, name: &str) -> Option<&Arc<Relation>> {
        self.relations.get(name)
    }

    pub fn relation_by_oid(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.relations.values().find(|relation| relation.oid == oid)
    }

    /// The relation that has an index of this name; the index may be a constraint's.
    pub fn relation_of_index(&self, name: &str) -> Option<&Arc<Relation>> {
        self.relations.values().find(|relation| {
            relation.indexes.iter().any(|index| index.name == name)
                || relation.keys().any(|key| key.name == name)
        })
    }
}

/// A type with its modifier, such as the length of a varchar.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TypeUse {
    pub base: PgType,
    /// PostgreSQL's atttypmod, -1 for none.
    pub modifier: i32,
}

impl TypeUse {
    /// The modifier of an array that clients know as int2vector or oidvector, which
    /// some columns of the system catalog are: its text has no braces.
    pub(crate) const VECTOR: i32 = -2;

    pub(crate) fn is_vector(&self) -> bool {
        matches!(self.base, PgType::Array(_)) && self.modifier == Self::VECTOR
    }

    /// By which an array's elements are counted.
    pub(crate) fn first_subscript(&self) -> i32 {
        i32::from(!self.is_vector())
    }

    /// The type's OID as clients are told.
    pub fn oid(&self) -> u32 {
        match &self.base {
            PgType::Array(element) if self.is_vector() => match element.as_ref() {
                PgType::Int2 => 22,
                _ => 30,
            },
            base => base.oid(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    Always,
    ByDefault,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// PostgreSQL's attnum, from 1, never used twice in a table.
    pub number: i16,
    pub data_type: TypeUse,
    pub not_null: bool,
    /// PostgreSQL's text of the default expression, or of a generated column's.
    pub default: Option<String>,
    pub identity: Option<Identity>,
    /// Generated always as (default) stored.
    pub generated: bool,
    /// The sequence that a serial or identity column owns.
    pub sequence: Option<String>,
    pub comment: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintKind {
    PrimaryKey,
    Unique,
    Check {
        expression: String,
    },
    ForeignKey {
        table: String,
        columns: Vec<String>,
        on_update: String,
        on_delete: String,
        deferrable: bool,
        initially_deferred: bool,
    },
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Constraint {
    pub oid: u32,
    pub name: String,
    pub kind: ConstraintKind,
    pub columns: Vec<String>,
    /// The index that enforces a primary key or unique constraint.
    pub index_oid: Option<u32>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Index {
    pub oid: u32,
    pub name: String,
    pub unique: bool,
    /// Column names or expressions, with `DESC` where it was said, as PostgreSQL's text.
    pub keys: Vec<String>,
    /// The condition of a partial index.
    pub predicate: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sequence {
    pub oid: u32,
    pub name: String,
    pub data_type: PgType,
    pub start: i64,
    pub increment: i64,
    pub minimum: i64,
    pub maximum: i64,
    pub cycle: bool,
    /// Table and column that own it.
    pub owned_by: Option<(String, String)>,
}

//! PostgreSQL's language on SQLite.
//!
//! Statements are parsed in PostgreSQL's dialect, checked against the catalog,
//! given types, and translated to SQLite's language. What SQLite cannot do is an
//! error with a hint, never a silent difference. Values have one stored form for
//! each type (see [`PgType`]), so that SQLite compares and indexes them rightly.
//!
//! This crate does not replicate, does not speak the wire protocol and knows no
//! transactions: it executes on a connection that somebody else has put into one.

mod catalog;
mod error;
mod pg_type;

pub use catalog::{
    Catalog, Column, Constraint, ConstraintKind, Identity, Index, Relation, RelationKind,
    Sequence, TypeUse,
};
pub use error::{SqlError, SqlState};
pub use pg_type::PgType;

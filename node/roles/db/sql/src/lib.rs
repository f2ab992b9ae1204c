//! PostgreSQL's language on SQLite.
//!
//! Statements are parsed in PostgreSQL's dialect, checked against the catalog,
//! given types, and translated to SQLite's language. What SQLite cannot do is an
//! error with a hint, never a silent difference. Values have one stored form for
//! each type (see [`PgType`]), so that SQLite compares and indexes them rightly.
//!
//! This crate does not replicate, does not speak the wire protocol and knows no
//! transactions: it executes on a connection that somebody else has put into one.

// An error of PostgreSQL's has many parts; it is made where a statement ends, so its
// size costs nothing.
#![allow(clippy::result_large_err)]

mod analyze;
mod catalog;
mod catalog_store;
mod collations;
mod context;
mod error;
mod executor;
mod functions;
mod parse;
mod pg_type;
mod result;
mod schema;
mod signature;
mod statement;
mod system;
mod tape;
mod values;

pub use catalog::{
    Catalog, Column, Constraint, ConstraintKind, Identity, Index, Relation, RelationKind, Sequence,
    TypeUse,
};
pub use catalog_store::{install, load_catalog, load_version};
pub use context::{Context, Effects, SharedContext};
pub use error::{SqlError, SqlState};
pub use executor::{CopyIn, Executor};
pub use parse::parse;
pub use pg_type::PgType;
pub use result::{Complete, Description, Formats, Parameters, ResultColumn, RowSink};
pub use statement::{
    Control, CopyCommand, CopyDirection, CopyFormat, CopyHeader, CopySource, Discard,
    FetchDirection, Isolation, Kind, Scope, SessionCommand, Statement, TransactionModes,
};
pub use system::SequenceValues;
pub use tape::Tape;
pub use values::{
    TimeZone, decode_binary, decode_text, encode_binary, encode_text, modifier_text,
    numeric_modifier,
};

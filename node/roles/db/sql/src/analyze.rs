//! From PostgreSQL's statements to SQLite's: names are resolved, every expression gets
//! a type, and what is written for SQLite means what PostgreSQL means.

mod types;

pub(crate) use types::type_use;

use sqlparser::ast::{Expr, Query};

use crate::context::Context;
use crate::result::ResultColumn;
use crate::{Catalog, PgType, Relation, SqlError, SqlState, TypeUse};

/// An expression in SQLite's language.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Translated {
    pub sql: String,
    pub data_type: PgType,
}

/// A query in SQLite's language.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct TranslatedQuery {
    pub sql: String,
    pub columns: Vec<ResultColumn>,
}

/// Translates an expression over the columns of one relation: a check constraint, a
/// generated column, an index key, a default. With a target, the value is converted to
/// it as an assignment does.
pub(crate) fn column_expression(
    _catalog: &Catalog,
    _context: &Context,
    _relation: &Relation,
    _expression: &Expr,
    _target: Option<&TypeUse>,
) -> Result<Translated, SqlError> {
    Err(SqlError::new(SqlState::INTERNAL, "expressions cannot be translated yet"))
}

/// Translates a query without parameters: that of a view or of CREATE TABLE AS.
pub(crate) fn stored_query(
    _catalog: &Catalog,
    _context: &Context,
    _query: &Query,
) -> Result<TranslatedQuery, SqlError> {
    Err(SqlError::new(SqlState::INTERNAL, "queries cannot be translated yet"))
}

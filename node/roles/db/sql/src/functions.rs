//! PostgreSQL's functions and operators: what there is, and how SQLite computes it.
//!
//! Each module has signatures, which the analyzer chooses from, and functions with
//! names `rung_...`, which are registered on every connection and take values in their
//! stored forms. Errors travel through SQLite as texts, see [`failure`].

mod aggregates;
mod arrays;
mod binary;
mod call;
mod casts;
mod datetime;
mod failure;
mod format;
mod integers;
mod intervals;
mod json_access;
mod json_build;
mod math;
mod numeric_math;
mod numerics;
mod patterns;
mod session;
mod table_module;
mod tables;
#[cfg(test)]
mod tests;
mod text;
mod to_char;

use rusqlite::Connection;

use crate::SharedContext;
use crate::signature::{FunctionKind, Lines};

pub(crate) use failure::{raise, recognise};

/// All that there is, by kind.
pub(crate) const TABLES: &[(FunctionKind, Lines)] = &[
    (FunctionKind::Operator, integers::OPERATORS),
    (FunctionKind::Operator, numerics::OPERATORS),
    (FunctionKind::Operator, math::OPERATORS),
    (FunctionKind::Operator, arrays::OPERATORS),
    (FunctionKind::Operator, binary::OPERATORS),
    (FunctionKind::Operator, json_access::OPERATORS),
    (FunctionKind::Scalar, arrays::FUNCTIONS),
    (FunctionKind::Scalar, binary::FUNCTIONS),
    (FunctionKind::Scalar, json_access::FUNCTIONS),
    (FunctionKind::Scalar, json_build::FUNCTIONS),
    (FunctionKind::Operator, text::OPERATORS),
    (FunctionKind::Operator, patterns::OPERATORS),
    (FunctionKind::Operator, datetime::OPERATORS),
    (FunctionKind::Scalar, text::FUNCTIONS),
    (FunctionKind::Scalar, patterns::FUNCTIONS),
    (FunctionKind::Scalar, datetime::FUNCTIONS),
    (FunctionKind::Scalar, session::FUNCTIONS),
    (FunctionKind::Scalar, to_char::FUNCTIONS),
    (FunctionKind::Scalar, numerics::FUNCTIONS),
    (FunctionKind::Scalar, math::FUNCTIONS),
    (FunctionKind::Scalar, crate::system::FUNCTIONS),
    (FunctionKind::Table, crate::system::TABLE_FUNCTIONS),
    (FunctionKind::Table, tables::FUNCTIONS),
    (FunctionKind::Aggregate, aggregates::NATIVE),
    (FunctionKind::Aggregate, aggregates::SUMS),
    (FunctionKind::Aggregate, aggregates::MOMENTS),
    (FunctionKind::Aggregate, aggregates::COLLECT),
];

/// Makes functions and collations known to a connection. They read `context` while a
/// statement runs.
///
/// # Errors
/// What SQLite gives, such as for a lack of memory.
pub(crate) fn register(connection: &Connection, context: &SharedContext) -> rusqlite::Result<()> {
    crate::collations::register(connection)?;
    aggregates::register(connection)?;
    table_module::register(connection, context)?;
    let tables: &[&[call::Function]] = &[
        arrays::CALLS,
        binary::CALLS,
        json_access::CALLS,
        json_build::CALLS,
        casts::CALLS,
        integers::CALLS,
        numerics::CALLS,
        math::CALLS,
        text::CALLS,
        format::CALLS,
        patterns::CALLS,
        datetime::CALLS,
        session::CALLS,
        to_char::CALLS,
    ];
    for function in tables.iter().copied().flatten() {
        call::register(connection, context, function)?;
    }
    Ok(())
}

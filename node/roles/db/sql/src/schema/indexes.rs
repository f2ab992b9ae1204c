//! `CREATE INDEX` and what can be altered of an index.

use sqlparser::ast::{CreateIndex, Expr, IndexColumn, IndexType, ObjectName, OrderBySort};

use super::change::{Change, missing_relation};
use super::constraints::nulls_not_distinct;
use super::{names, translate};
use crate::{Index, Relation, SqlError, SqlState};

pub(super) fn create(change: &mut Change<'_>, statement: &CreateIndex) -> Result<(), SqlError> {
    let mut table = (*change.table(&statement.table_name)?).clone();
    if !statement.include.is_empty() {
        return Err(SqlError::not_supported("INCLUDE", "Make the columns part of the index."));
    }
    if statement.nulls_distinct == Some(false) {
        return Err(nulls_not_distinct());
    }
    check_method(statement.using.as_ref())?;
    let keys: Vec<String> =
        statement.columns.iter().map(|column| key(column, &table)).collect::<Result<_, _>>()?;
    let name = match &statement.name {
        Some(name) => {
            let name = names::object(name)?;
            if statement.if_not_exists && names::taken(&change.after, &name) == Some(name.as_str())
            {
                return Ok(());
            }
            names::check_new(&change.after, &name)?;
            name
        }
        None => {
            let parts: Vec<String> =
                statement.columns.iter().map(|column| name_part(&column.column.expr)).collect();
            names::choose(&table.name, &parts.join("_"), "idx", |name| change.is_taken(name))
        }
    };
    let predicate = statement.predicate.as_ref();
    for expression in predicate.into_iter() {
        check_mentioned(expression, &table)?;
    }
    table.indexes.push(Index {
        oid: change.oid()?,
        name,
        unique: statement.unique,
        keys,
        predicate: predicate.map(ToString::to_string),
    });
    change.put(table);
    Ok(())
}

/// Hash indexes are made as btrees, which find all that they would find.
fn check_method(method: Option<&IndexType>) -> Result<(), SqlError> {
    match method {
        None | Some(IndexType::BTree | IndexType::Hash) => Ok(()),
        Some(other) => Err(SqlError::not_supported(
            format!("an index of type {}", other.to_string().to_lowercase()),
            "Use btree, on an expression if need be.",
        )),
    }
}

/// Operator classes that order as the type's own does here, where text is ordered by
/// its bytes.
const OPERATOR_CLASSES: &[&str] = &[
    "text_ops",
    "varchar_ops",
    "bpchar_ops",
    "text_pattern_ops",
    "varchar_pattern_ops",
    "bpchar_pattern_ops",
    "int2_ops",
    "int4_ops",
    "int8_ops",
    "oid_ops",
    "bool_ops",
    "uuid_ops",
    "numeric_ops",
    "float4_ops",
    "float8_ops",
    "date_ops",
    "time_ops",
    "timestamp_ops",
    "timestamptz_ops",
    "interval_ops",
    "bytea_ops",
    "name_ops",
];

fn key(column: &IndexColumn, table: &Relation) -> Result<String, SqlError> {
    if let Some(class) = &column.operator_class {
        let parts = names::parts(class)?;
        if !parts.last().is_some_and(|last| OPERATOR_CLASSES.contains(&last.as_str())) {
            return Err(SqlError::not_supported(
                format!("the operator class {class}"),
                "Leave it out: the type's own order is used.",
            ));
        }
    }
    let expression = strip_collation(&column.column.expr);
    check_mentioned(expression, table)?;
    let mut text = match expression {
        Expr::Identifier(ident) => names::quote_if_needed(&names::ident(ident)),
        Expr::Function(_) | Expr::Nested(_) => expression.to_string(),
        other => format!("({other})"),
    };
    let options = &column.column.options;
    let descends = matches!(options.sort, Some(OrderBySort::Desc));
    if descends {
        text.push_str(" DESC");
    }
    // What follows from the direction is not said again.
    match (descends, options.nulls_first) {
        (true, Some(false)) => text.push_str(" NULLS LAST"),
        (false, Some(true)) => text.push_str(" NULLS FIRST"),
        _ => {}
    }
    Ok(text)
}

fn strip_collation(expression: &Expr) -> &Expr {
    match expression {
        Expr::Collate { expr, collation }
            if collation.to_string().trim_matches('"') == "C"
                || collation.to_string().ends_with("\"default\"") =>
        {
            expr
        }
        other => other,
    }
}

fn check_mentioned(expression: &Expr, table: &Relation) -> Result<(), SqlError> {
    for name in translate::columns_of(expression) {
        if table.column(&name).is_none() && name != table.name {
            return Err(SqlError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{name}\" does not exist"),
            ));
        }
    }
    Ok(())
}

/// What a key contributes to the index's name.
fn name_part(expression: &Expr) -> String {
    match strip_collation(expression) {
        Expr::Identifier(ident) => names::ident(ident),
        Expr::Function(function) => {
            let last = function.name.0.last().and_then(|part| part.as_ident());
            last.map_or_else(|| "expr".to_owned(), names::ident)
        }
        _ => "expr".to_owned(),
    }
}

/// `ALTER INDEX ... RENAME TO`, also for the index of a constraint.
pub(super) fn rename(
    change: &mut Change<'_>,
    old: &ObjectName,
    new: &ObjectName,
) -> Result<(), SqlError> {
    rename_to(change, &names::object(old)?, &names::object(new)?)
}

pub(super) fn rename_to(change: &mut Change<'_>, old: &str, new: &str) -> Result<(), SqlError> {
    let table = change.after.relation_of_index(old).ok_or_else(|| missing_relation(old))?;
    let mut table = (**table).clone();
    names::check_new(&change.after, new)?;
    for index in table.indexes.iter_mut().filter(|index| index.name == old) {
        new.clone_into(&mut index.name);
    }
    for key in table.constraints.iter_mut().filter(|c| c.index_oid.is_some() && c.name == old) {
        new.clone_into(&mut key.name);
    }
    change.put(table);
    Ok(())
}

/// The columns of an index that are columns and not expressions.
pub(super) fn mentioned(index: &Index) -> Result<Vec<String>, SqlError> {
    let mut all = Vec::new();
    for key in &index.keys {
        all.extend(translate::columns_of_text(super::sqlite_text::split_key(key).0)?);
    }
    if let Some(predicate) = &index.predicate {
        all.extend(translate::columns_of_text(predicate)?);
    }
    Ok(all)
}

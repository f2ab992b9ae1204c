//! `CREATE VIEW`.

use sqlparser::ast::CreateView;

use super::change::Change;
use super::names;
use crate::{Column, Relation, RelationKind, SqlError, SqlState, analyze};

pub(super) fn create(change: &mut Change<'_>, statement: &CreateView) -> Result<(), SqlError> {
    if statement.materialized {
        return Err(SqlError::not_supported("CREATE MATERIALIZED VIEW", "Use CREATE TABLE AS."));
    }
    if statement.temporary {
        return Err(SqlError::not_supported("a temporary view", "Use an ordinary view, or WITH."));
    }
    let name = names::object(&statement.name)?;
    let existing = change.after.relations.get(&name).cloned();
    let replaced = existing.filter(|old| statement.or_replace && old.kind == RelationKind::View);
    if replaced.is_none() {
        names::check_new(&change.after, &name)?;
    }
    let translated = analyze::translate_query(&statement.query, &change.after, change.context)?;
    let given: Vec<String> =
        statement.columns.iter().map(|column| names::ident(&column.name)).collect();
    if given.len() > translated.columns.len() {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            "CREATE VIEW specifies more column names than columns",
        ));
    }
    let mut columns: Vec<Column> = Vec::with_capacity(translated.columns.len());
    for (index, column) in translated.columns.iter().enumerate() {
        let name = given.get(index).unwrap_or(&column.name).clone();
        if columns.iter().any(|other| other.name.to_lowercase() == name.to_lowercase()) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
            ));
        }
        super::columns::check_storable(&name, &column.data_type)?;
        columns.push(Column {
            name,
            number: index as i16 + 1,
            data_type: column.data_type.clone(),
            not_null: false,
            default: None,
            identity: None,
            generated: false,
            sequence: None,
            comment: None,
        });
    }
    if let Some(old) = &replaced {
        check_replacement(old, &columns)?;
    }
    let oid = match &replaced {
        Some(old) => old.oid,
        None => change.oid()?,
    };
    change.put(Relation {
        oid,
        name,
        kind: RelationKind::View,
        next_column: columns.len() as i16 + 1,
        columns,
        constraints: Vec::new(),
        indexes: Vec::new(),
        definition: Some(statement.query.to_string()),
        comment: replaced.and_then(|old| old.comment.clone()),
    });
    Ok(())
}

/// A view that is replaced keeps its columns; more may follow them.
fn check_replacement(old: &Relation, columns: &[Column]) -> Result<(), SqlError> {
    let invalid = |message| Err(SqlError::new(SqlState::INVALID_TABLE_DEFINITION, message));
    if columns.len() < old.columns.len() {
        return invalid("cannot drop columns from view".to_owned());
    }
    for (before, after) in old.columns.iter().zip(columns) {
        if before.name != after.name {
            return invalid(format!(
                "cannot change name of view column \"{}\" to \"{}\"",
                before.name, after.name
            ));
        }
        if before.data_type != after.data_type {
            return invalid(format!(
                "cannot change data type of view column \"{}\" from {} to {}",
                before.name,
                before.data_type.base.name(),
                after.data_type.base.name()
            ));
        }
    }
    Ok(())
}

//! Primary keys, unique constraints, checks and foreign keys.

use sqlparser::ast::{
    CheckConstraint, ConstraintCharacteristics, ConstraintReferenceMatchKind, DeferrableInitial,
    Expr, ForeignKeyConstraint, Ident, IndexColumn, IndexType, NullsDistinctOption,
    ReferentialAction, TableConstraint,
};

use super::change::{Change, missing_column, missing_relation};
use super::sqlite_text::storage;
use super::{names, translate};
use crate::{Constraint, ConstraintKind, Relation, RelationKind, SqlError, SqlState};

const INVALID_FOREIGN_KEY: SqlState = SqlState("42830");
const DUPLICATE_COLUMN_IN_KEY: SqlState = SqlState::DUPLICATE_COLUMN;

/// Adds a constraint to a table that is being made or altered.
pub(super) fn add(
    change: &mut Change<'_>,
    table: &mut Relation,
    constraint: &TableConstraint,
) -> Result<(), SqlError> {
    match constraint {
        TableConstraint::PrimaryKey(key) => {
            refuse_characteristics(key.characteristics.as_ref(), "primary keys")?;
            refuse_index_parts(key.index_type.as_ref(), &key.include)?;
            let columns = key_columns(&key.columns)?;
            add_primary_key(change, table, key.name.as_ref(), columns)
        }
        TableConstraint::Unique(key) => {
            refuse_characteristics(key.characteristics.as_ref(), "unique constraints")?;
            refuse_index_parts(key.index_type.as_ref(), &key.include)?;
            if key.nulls_distinct == NullsDistinctOption::NotDistinct {
                return Err(nulls_not_distinct());
            }
            let columns = key_columns(&key.columns)?;
            add_key(change, table, key.name.as_ref(), columns, ConstraintKind::Unique)
        }
        TableConstraint::Check(check) => add_check(change, table, check),
        TableConstraint::ForeignKey(key) => add_foreign_key(change, table, key),
        TableConstraint::Exclude(_) => {
            Err(SqlError::not_supported("EXCLUDE", "Use a unique constraint."))
        }
        TableConstraint::PrimaryKeyUsingIndex(_) | TableConstraint::UniqueUsingIndex(_) => {
            Err(SqlError::not_supported("a constraint USING INDEX", "Name the columns instead."))
        }
        TableConstraint::Index(_) | TableConstraint::FulltextOrSpatial(_) => {
            Err(SqlError::new(SqlState::SYNTAX_ERROR, "an index cannot be declared within a table")
                .hint("Use CREATE INDEX."))
        }
    }
}

pub(super) fn nulls_not_distinct() -> SqlError {
    SqlError::not_supported("NULLS NOT DISTINCT", "Declare the columns NOT NULL.")
}

fn refuse_characteristics(
    characteristics: Option<&ConstraintCharacteristics>,
    what: &str,
) -> Result<(), SqlError> {
    match characteristics {
        Some(c)
            if c.deferrable == Some(true) || c.initially == Some(DeferrableInitial::Deferred) =>
        {
            Err(SqlError::not_supported(
                format!("DEFERRABLE for {what}"),
                "Only foreign keys can be deferred.",
            ))
        }
        Some(c) if c.enforced == Some(false) => {
            Err(SqlError::not_supported("NOT ENFORCED", "Leave the constraint out."))
        }
        _ => Ok(()),
    }
}

fn refuse_index_parts(index_type: Option<&IndexType>, include: &[Ident]) -> Result<(), SqlError> {
    if !include.is_empty() {
        return Err(SqlError::not_supported("INCLUDE", "Make the columns part of an index."));
    }
    match index_type {
        None | Some(IndexType::BTree) => Ok(()),
        Some(other) => {
            Err(SqlError::not_supported(format!("an index of type {other}"), "Use btree."))
        }
    }
}

fn key_columns(columns: &[IndexColumn]) -> Result<Vec<String>, SqlError> {
    columns
        .iter()
        .map(|column| match &column.column.expr {
            Expr::Identifier(ident) => Ok(names::ident(ident)),
            other => Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("\"{other}\" is not the name of a column"),
            )),
        })
        .collect()
}

/// Checks that a key's columns are the table's, each once.
fn check_columns(table: &Relation, columns: &[String], what: &str) -> Result<(), SqlError> {
    for (index, name) in columns.iter().enumerate() {
        if table.column(name).is_none() {
            return Err(SqlError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{name}\" named in key does not exist"),
            ));
        }
        if columns[..index].contains(name) {
            return Err(SqlError::new(
                DUPLICATE_COLUMN_IN_KEY,
                format!("column \"{name}\" appears twice in {what} constraint"),
            ));
        }
    }
    Ok(())
}

fn add_primary_key(
    change: &mut Change<'_>,
    table: &mut Relation,
    name: Option<&Ident>,
    columns: Vec<String>,
) -> Result<(), SqlError> {
    if table.primary_key().is_some() {
        return Err(SqlError::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("multiple primary keys for table \"{}\" are not allowed", table.name),
        ));
    }
    for column in &mut table.columns {
        if columns.contains(&column.name) {
            column.not_null = true;
        }
    }
    add_key(change, table, name, columns, ConstraintKind::PrimaryKey)
}

/// A primary key or a unique constraint. Its index has its name, so the name must be
/// free among relations too.
fn add_key(
    change: &mut Change<'_>,
    table: &mut Relation,
    name: Option<&Ident>,
    columns: Vec<String>,
    kind: ConstraintKind,
) -> Result<(), SqlError> {
    let is_primary = kind == ConstraintKind::PrimaryKey;
    check_columns(table, &columns, if is_primary { "primary key" } else { "unique" })?;
    let has = |table: &Relation, name: &str| {
        table.constraint(name).is_some()
            || table.name == name
            || table.indexes.iter().any(|index| index.name == name)
    };
    let name = match name {
        Some(name) => {
            let name = names::ident(name);
            names::check_new(&change.after, &name)?;
            if has(table, &name) {
                return Err(duplicate(&name, table));
            }
            name
        }
        None => {
            let is_taken = |name: &str| change.is_taken(name) || has(table, name);
            match is_primary {
                true => names::choose(&table.name, "", "pkey", is_taken),
                false => names::choose(&table.name, &columns.join("_"), "key", is_taken),
            }
        }
    };
    let (oid, index_oid) = (change.oid()?, Some(change.oid()?));
    table.constraints.push(Constraint { oid, name, kind, columns, index_oid });
    Ok(())
}

fn duplicate(name: &str, table: &Relation) -> SqlError {
    SqlError::new(
        SqlState::DUPLICATE_OBJECT,
        format!("constraint \"{name}\" for relation \"{}\" already exists", table.name),
    )
}

/// The name that was given, or one that PostgreSQL would choose.
fn constraint_name(
    table: &Relation,
    given: Option<&Ident>,
    second: &str,
    label: &str,
) -> Result<String, SqlError> {
    match given {
        None => {
            Ok(names::choose(&table.name, second, label, |name| table.constraint(name).is_some()))
        }
        Some(name) => {
            let name = names::ident(name);
            if table.constraint(&name).is_some() {
                return Err(duplicate(&name, table));
            }
            Ok(name)
        }
    }
}

fn add_check(
    change: &mut Change<'_>,
    table: &mut Relation,
    check: &CheckConstraint,
) -> Result<(), SqlError> {
    if check.enforced == Some(false) {
        return Err(SqlError::not_supported("NOT ENFORCED", "Leave the constraint out."));
    }
    let mentioned = translate::columns_of(&check.expr);
    let columns: Vec<String> = table
        .columns
        .iter()
        .filter(|column| mentioned.contains(&column.name))
        .map(|column| column.name.clone())
        .collect();
    let second = if let [only] = columns.as_slice() { only } else { "" };
    let name = constraint_name(table, check.name.as_ref(), second, "check")?;
    let expression = check.expr.to_string();
    let kind = ConstraintKind::Check { expression };
    table.constraints.push(Constraint { oid: change.oid()?, name, kind, columns, index_oid: None });
    Ok(())
}

fn add_foreign_key(
    change: &mut Change<'_>,
    table: &mut Relation,
    key: &ForeignKeyConstraint,
) -> Result<(), SqlError> {
    if key.match_kind == Some(ConstraintReferenceMatchKind::Partial)
        || (key.match_kind == Some(ConstraintReferenceMatchKind::Full) && key.columns.len() > 1)
    {
        return Err(SqlError::not_supported(
            "MATCH FULL or PARTIAL",
            "Declare the columns NOT NULL, which MATCH SIMPLE then checks alike.",
        ));
    }
    let columns = names::idents(&key.columns);
    check_columns(table, &columns, "foreign key")?;
    let parent_name = names::object(&key.foreign_table)?;
    let name = constraint_name(table, key.name.as_ref(), &columns.join("_"), "fkey")?;
    let referred = if parent_name == table.name {
        referred_columns(table, table, &columns, &key.referred_columns, &name)?
    } else {
        let parent = change
            .after
            .relations
            .get(&parent_name)
            .ok_or_else(|| missing_relation(&parent_name))?;
        referred_columns(table, parent, &columns, &key.referred_columns, &name)?
    };
    let deferrable = key.characteristics.as_ref().is_some_and(|c| {
        c.deferrable == Some(true) || c.initially == Some(DeferrableInitial::Deferred)
    });
    let initially_deferred = key
        .characteristics
        .as_ref()
        .is_some_and(|c| c.initially == Some(DeferrableInitial::Deferred));
    if key.characteristics.as_ref().is_some_and(|c| c.enforced == Some(false)) {
        return Err(SqlError::not_supported("NOT ENFORCED", "Leave the constraint out."));
    }
    let kind = ConstraintKind::ForeignKey {
        table: parent_name,
        columns: referred,
        on_update: action(key.on_update.as_ref())?,
        on_delete: action(key.on_delete.as_ref())?,
        deferrable,
        initially_deferred,
    };
    table.constraints.push(Constraint { oid: change.oid()?, name, kind, columns, index_oid: None });
    Ok(())
}

fn action(action: Option<&ReferentialAction>) -> Result<String, SqlError> {
    match action {
        None | Some(ReferentialAction::NoAction) => Ok("NO ACTION".to_owned()),
        Some(ReferentialAction::Restrict) => Ok("RESTRICT".to_owned()),
        Some(ReferentialAction::Cascade) => Ok("CASCADE".to_owned()),
        Some(ReferentialAction::SetNull) => Ok("SET NULL".to_owned()),
        // SQLite would not use the column's default of the catalog.
        Some(ReferentialAction::SetDefault) => Err(SqlError::not_supported(
            "SET DEFAULT as a foreign key's action",
            "Use SET NULL, or change the rows in the same transaction.",
        )),
    }
}

/// The columns that a foreign key refers to, which must be a key of the parent and
/// have the same stored forms.
fn referred_columns(
    child: &Relation,
    parent: &Relation,
    columns: &[String],
    referred: &[Ident],
    name: &str,
) -> Result<Vec<String>, SqlError> {
    if parent.kind != RelationKind::Table {
        return Err(SqlError::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!("referenced relation \"{}\" is not a table", parent.name),
        ));
    }
    let referred = match referred {
        [] => match parent.primary_key() {
            Some(key) => key.columns.clone(),
            None => {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("there is no primary key for referenced table \"{}\"", parent.name),
                ));
            }
        },
        given => names::idents(given),
    };
    if referred.len() != columns.len() {
        return Err(SqlError::new(
            INVALID_FOREIGN_KEY,
            "number of referencing and referenced columns for foreign key disagree",
        ));
    }
    let same_set = |key: &[String]| {
        key.len() == referred.len() && key.iter().all(|column| referred.contains(column))
    };
    let has_index = parent.keys().any(|key| same_set(&key.columns))
        || parent
            .indexes
            .iter()
            .any(|index| index.unique && index.predicate.is_none() && same_set(&index.keys));
    for (own, other) in columns.iter().zip(&referred) {
        let other_column =
            parent.column(other).ok_or_else(|| missing_column(other, &parent.name))?;
        let own_column = child.column(own).ok_or_else(|| missing_column(own, &child.name))?;
        let (a, b) = (&own_column.data_type.base, &other_column.data_type.base);
        if storage(a) != storage(b) {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("foreign key constraint \"{name}\" cannot be implemented"),
            )
            .detail(format!(
                "Key columns \"{own}\" and \"{other}\" are of incompatible types: {} and {}.",
                a.name(),
                b.name()
            )));
        }
    }
    if !has_index {
        return Err(SqlError::new(
            INVALID_FOREIGN_KEY,
            format!(
                "there is no unique constraint matching given keys for referenced table \"{}\"",
                parent.name
            ),
        ));
    }
    Ok(referred)
}

//! `DROP`, and what depends on what.

use std::collections::BTreeSet;

use sqlparser::ast::{ObjectName, ObjectType};

use super::change::{Change, missing_relation};
use super::sequences::nextval_text;
use super::{names, translate};
use crate::{Catalog, ConstraintKind, RelationKind, SqlError, SqlState};

/// What goes, and what goes with it.
#[derive(Default)]
pub(super) struct Going {
    pub relations: BTreeSet<String>,
    pub sequences: BTreeSet<String>,
    /// Foreign keys of tables that stay: table and constraint.
    pub foreign_keys: BTreeSet<(String, String)>,
    /// Defaults of columns of tables that stay.
    pub defaults: BTreeSet<(String, String)>,
}

pub(super) fn drop(
    change: &mut Change<'_>,
    object_type: ObjectType,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    if object_type == ObjectType::Index {
        return drop_indexes(change, names, if_exists, cascade);
    }
    let mut going = Going::default();
    for name in names {
        let name = match names::object(name) {
            Err(error) if if_exists && error.state == SqlState::INVALID_SCHEMA_NAME => continue,
            name => name?,
        };
        if object_type == ObjectType::Sequence {
            match change.after.sequences.get(&name) {
                Some(sequence) => {
                    refuse_owned(&change.after, &name, sequence.owned_by.as_ref())?;
                    going.sequences.insert(name);
                }
                None if if_exists && !is_relation(&change.after, &name) => {}
                None => return Err(wrong_or_missing(&change.after, &name, "sequence")),
            }
            continue;
        }
        let (kind, what) = match object_type {
            ObjectType::Table => (RelationKind::Table, "table"),
            ObjectType::View => (RelationKind::View, "view"),
            ObjectType::MaterializedView => {
                if if_exists {
                    continue;
                }
                return Err(missing_relation(&name));
            }
            other => {
                return Err(SqlError::not_supported(
                    format!("DROP {other}"),
                    "A database has tables, views, indexes and sequences.",
                ));
            }
        };
        match change.after.relations.get(&name) {
            Some(relation) if relation.kind == kind => {
                going.relations.insert(name);
            }
            None if if_exists && !change.after.sequences.contains_key(&name) => {}
            _ => return Err(wrong_or_missing(&change.after, &name, what)),
        }
    }
    let what = match (object_type, names) {
        (ObjectType::Sequence, [one]) => format!("sequence {one}"),
        (ObjectType::View, [one]) => format!("view {one}"),
        (_, [one]) => format!("table {one}"),
        _ => "desired object(s)".to_owned(),
    };
    remove(change, going, cascade, &what)
}

fn is_relation(catalog: &Catalog, name: &str) -> bool {
    names::taken(catalog, name) == Some(name)
}

fn wrong_or_missing(catalog: &Catalog, name: &str, what: &str) -> SqlError {
    if is_relation(catalog, name) {
        let kind = match catalog.relations.get(name).map(|relation| relation.kind) {
            Some(RelationKind::Table) => "TABLE to remove a table",
            Some(RelationKind::View) => "VIEW to remove a view",
            None if catalog.sequences.contains_key(name) => "SEQUENCE to remove a sequence",
            None => "INDEX to remove an index",
        };
        return SqlError::new(SqlState::WRONG_OBJECT_TYPE, format!("\"{name}\" is not a {what}"))
            .hint(format!("Use DROP {kind}."));
    }
    let state = SqlState::UNDEFINED_TABLE;
    SqlError::new(state, format!("{what} \"{name}\" does not exist"))
}

fn refuse_owned(
    catalog: &Catalog,
    name: &str,
    owner: Option<&(String, String)>,
) -> Result<(), SqlError> {
    let identity = owner.and_then(|(table, column)| {
        let relation = catalog.relations.get(table)?;
        relation.column(column).filter(|column| column.identity.is_some())
    });
    let (Some(column), Some((table, _))) = (identity, owner) else { return Ok(()) };
    let column = &column.name;
    Err(SqlError::new(
        SqlState::DEPENDENT_OBJECTS,
        format!("cannot drop sequence {name} because column {column} of table {table} requires it"),
    )
    .hint(format!("You can drop column {column} of table {table} instead.")))
}

/// Takes objects out of the catalog with what depends on them, which must be nothing
/// unless `cascade`.
pub(super) fn remove(
    change: &mut Change<'_>,
    mut going: Going,
    cascade: bool,
    what: &str,
) -> Result<(), SqlError> {
    let details = add_dependents(&change.after, &mut going)?;
    if !cascade && !details.is_empty() {
        return Err(dependents(what, &details));
    }
    let after = &mut change.after;
    after.sequences.retain(|name, sequence| {
        let owner = sequence.owned_by.as_ref();
        !going.sequences.contains(name)
            && !owner.is_some_and(|(table, _)| going.relations.contains(table))
    });
    after.relations.retain(|name, _| !going.relations.contains(name));
    for (table, constraint) in &going.foreign_keys {
        if let Some(relation) = change.after.relations.get(table) {
            let mut relation = (**relation).clone();
            relation.constraints.retain(|other| other.name != *constraint);
            change.after.relations.insert(table.clone(), relation.into());
        }
    }
    for (table, column) in &going.defaults {
        if let Some(relation) = change.after.relations.get(table) {
            let mut relation = (**relation).clone();
            for own in relation.columns.iter_mut().filter(|own| own.name == *column) {
                own.default = None;
                own.sequence = None;
            }
            change.after.relations.insert(table.clone(), relation.into());
        }
    }
    Ok(())
}

pub(super) fn dependents(what: &str, details: &[String]) -> SqlError {
    SqlError::new(
        SqlState::DEPENDENT_OBJECTS,
        format!("cannot drop {what} because other objects depend on it"),
    )
    .detail(details.join("\n"))
    .hint("Use DROP ... CASCADE to drop the dependent objects too.")
}

/// Adds what depends on what goes; gives a sentence for each that was added.
fn add_dependents(catalog: &Catalog, going: &mut Going) -> Result<Vec<String>, SqlError> {
    let mut details = Vec::new();
    loop {
        let before = details.len();
        for view in catalog.relations.values().filter(|r| r.kind == RelationKind::View) {
            if going.relations.contains(&view.name) {
                continue;
            }
            let mentions = translate::mentions_of_view(view)?;
            if let Some(other) = mentions.relations.intersection(&going.relations).next() {
                let kind = match catalog.relations.get(other).map(|other| other.kind) {
                    Some(RelationKind::View) => "view",
                    _ => "table",
                };
                details.push(format!("view {} depends on {kind} {other}", view.name));
                going.relations.insert(view.name.clone());
            }
        }
        if details.len() == before {
            break;
        }
    }
    for table in catalog.relations.values() {
        if going.relations.contains(&table.name) {
            continue;
        }
        for constraint in &table.constraints {
            if let ConstraintKind::ForeignKey { table: parent, .. } = &constraint.kind
                && going.relations.contains(parent)
            {
                let (name, own) = (&constraint.name, &table.name);
                details.push(format!("constraint {name} on table {own} depends on table {parent}"));
                going.foreign_keys.insert((table.name.clone(), constraint.name.clone()));
            }
        }
        for column in &table.columns {
            let uses = going.sequences.iter().find(|sequence| {
                column.default.as_deref() == Some(nextval_text(sequence).as_str())
                    || column.sequence.as_ref() == Some(*sequence)
            });
            if let Some(sequence) = uses {
                details.push(format!(
                    "default value for column {} of table {} depends on sequence {sequence}",
                    column.name, table.name
                ));
                going.defaults.insert((table.name.clone(), column.name.clone()));
            }
        }
    }
    Ok(details)
}

fn drop_indexes(
    change: &mut Change<'_>,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<(), SqlError> {
    for name in names {
        let name = names::object(name)?;
        let Some(table) = change.after.relation_of_index(&name).cloned() else {
            if if_exists && !is_relation(&change.after, &name) {
                continue;
            }
            return Err(match is_relation(&change.after, &name) {
                true => wrong_or_missing(&change.after, &name, "index"),
                false => SqlError::new(
                    SqlState::UNDEFINED_OBJECT,
                    format!("index \"{name}\" does not exist"),
                ),
            });
        };
        if table.keys().any(|key| key.name == name) {
            let own = &table.name;
            return Err(SqlError::new(
                SqlState::DEPENDENT_OBJECTS,
                format!(
                    "cannot drop index {name} because constraint {name} on table {own} requires it"
                ),
            )
            .hint(format!("You can drop constraint {name} on table {own} instead.")));
        }
        let mut table = (*table).clone();
        let columns: Vec<Vec<String>> = table
            .indexes
            .iter()
            .filter(|i| i.name == name && i.unique)
            .map(|i| i.keys.clone())
            .collect();
        table.indexes.retain(|index| index.name != name);
        let table_name = table.name.clone();
        change.put(table);
        for key in columns {
            let what = format!("index {name}");
            release_key(change, &table_name, &key, cascade, &what)?;
        }
    }
    Ok(())
}

/// A key of a table goes: foreign keys that refer to it must go too, unless another
/// key of the same columns stays.
pub(super) fn release_key(
    change: &mut Change<'_>,
    parent: &str,
    key: &[String],
    cascade: bool,
    what: &str,
) -> Result<(), SqlError> {
    let same = |other: &[String]| {
        other.len() == key.len() && other.iter().all(|column| key.contains(column))
    };
    if let Some(relation) = change.after.relations.get(parent) {
        let stays = relation.keys().any(|other| same(&other.columns))
            || relation
                .indexes
                .iter()
                .any(|index| index.unique && index.predicate.is_none() && same(&index.keys));
        if stays {
            return Ok(());
        }
    }
    let mut going = Going::default();
    let mut details = Vec::new();
    for table in change.after.relations.values() {
        for constraint in &table.constraints {
            if let ConstraintKind::ForeignKey { table: referred, columns, .. } = &constraint.kind
                && referred == parent
                && same(columns)
            {
                let (name, own) = (&constraint.name, &table.name);
                details.push(format!("constraint {name} on table {own} depends on {what}"));
                going.foreign_keys.insert((own.clone(), name.clone()));
            }
        }
    }
    if !cascade && !details.is_empty() {
        return Err(dependents(what, &details));
    }
    remove(change, going, true, what)
}

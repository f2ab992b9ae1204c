//! Makes SQLite's schema and rows follow a change of the catalog.
//!
//! A table whose rows keep their form gets a new text in SQLite's own schema table,
//! which SQLite documents for changes that do not touch the rows. One whose rows
//! change is copied into a new table, and the two change names there too: a DROP of
//! a table that others refer to would carry out their ON DELETE actions.

use std::collections::BTreeSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::change::Change;
use super::names::quote;
use super::schema_table::{self, Entry};
use super::sqlite_text::{self, layout, storage};
use super::{checks, errors};
use crate::{Catalog, Column, Index, Relation, RelationKind, SqlError};

const REBUILT: &str = "_rung_rebuilt";

/// A relation before and after.
struct Pair<'a> {
    before: &'a Arc<Relation>,
    after: &'a Arc<Relation>,
}

/// Carries out what differs between `before` and `after`.
pub(super) fn apply(change: &Change<'_>) -> Result<(), SqlError> {
    let before: Vec<_> = change.before.relations.values().collect();
    let after: Vec<_> = change.after.relations.values().collect();
    let matching = |oid: u32| after.iter().find(|relation| relation.oid == oid).copied();
    let is_old = |oid: u32| before.iter().any(|relation| relation.oid == oid);
    let (tables, views): (Vec<_>, Vec<_>) =
        before.iter().copied().partition(|relation| relation.kind == RelationKind::Table);
    let kept_views: BTreeSet<u32> = views
        .iter()
        .filter(|view| matching(view.oid).is_some_and(|after| is_same_view(view, after)))
        .map(|view| view.oid)
        .collect();
    for view in &views {
        if !kept_views.contains(&view.oid) {
            run(change.connection, &format!("DROP VIEW {}", quote(&view.name)))?;
        }
    }
    let pairs: Vec<Pair<'_>> = tables
        .iter()
        .filter_map(|&before| matching(before.oid).map(|after| Pair { before, after }))
        .filter(|pair| !Arc::ptr_eq(pair.before, pair.after))
        .collect();
    let (rebuilt, rewritten): (Vec<_>, Vec<_>) =
        pairs.iter().partition(|pair| needs_rebuild(change, pair));
    for pair in &pairs {
        checks::nulls(change, pair.before, pair.after)?;
        drop_indexes(change, pair)?;
    }
    rewrite(change, &rewritten)?;
    for pair in &rebuilt {
        rebuild(change, pair)?;
    }
    let dropped: Vec<_> =
        tables.iter().copied().filter(|table| matching(table.oid).is_none()).collect();
    drop_tables(change, &dropped)?;
    for table in after.iter().filter(|r| r.kind == RelationKind::Table && !is_old(r.oid)) {
        let text = sqlite_text::table(table, &table.name, true, &change.after, change.context)?;
        run(change.connection, &text)?;
        create_indexes(change, table, |_| true)?;
    }
    for pair in &rewritten {
        fill(change, pair)?;
        let had = index_oids(pair.before);
        create_indexes(change, pair.after, |oid| !had.contains(&oid))?;
    }
    for pair in &rebuilt {
        create_indexes(change, pair.after, |_| true)?;
    }
    for pair in &pairs {
        checks::new_constraints(change, pair.before, pair.after)?;
    }
    for view in after.iter().filter(|r| r.kind == RelationKind::View) {
        if !kept_views.contains(&view.oid) {
            run(change.connection, &sqlite_text::view(view, &change.after, change.context)?)?;
        }
    }
    Ok(())
}

fn is_same_view(before: &Relation, after: &Relation) -> bool {
    let names = |view: &Relation| -> Vec<String> {
        view.columns.iter().map(|column| column.name.clone()).collect()
    };
    before.name == after.name
        && before.definition == after.definition
        && names(before) == names(after)
}

/// Drops tables. Their foreign keys go first, since a DROP would look for rows that
/// refer to the table's, and change them as ON DELETE says.
fn drop_tables(change: &Change<'_>, tables: &[&Arc<Relation>]) -> Result<(), SqlError> {
    let mut entries = Vec::new();
    for table in tables {
        let text = sqlite_text::table(table, &table.name, false, change.before, change.context)?;
        entries.push(Entry {
            kind: "table",
            old_name: table.name.clone(),
            name: table.name.clone(),
            table: table.name.clone(),
            text,
        });
    }
    schema_table::rewrite(change.connection, &entries)?;
    for table in tables {
        run(change.connection, &format!("DROP TABLE {}", quote(&table.name)))?;
    }
    Ok(())
}

/// Whether the rows of a table must be written anew.
fn needs_rebuild(change: &Change<'_>, pair: &Pair<'_>) -> bool {
    let (before, after) = (pair.before, pair.after);
    let same_place = |old: &Column, new: &Column| {
        old.number == new.number
            && storage(&old.data_type.base) == storage(&new.data_type.base)
            && old.generated == new.generated
            && (!new.generated || old.default == new.default)
            && !change.values.contains_key(&(after.oid, new.number))
    };
    let keeps_columns = after.columns.len() >= before.columns.len()
        && before.columns.iter().zip(&after.columns).all(|(old, new)| same_place(old, new))
        && after.columns[before.columns.len()..].iter().all(|column| !column.generated);
    !keeps_columns || before.columns.is_empty() || !same_layout(before, after)
}

/// Whether rows lie by the same columns, whatever these are called.
fn same_layout(before: &Relation, after: &Relation) -> bool {
    use sqlite_text::Layout;
    let numbers = |relation: &Relation, names: &[String]| -> Vec<Option<i16>> {
        names.iter().map(|name| relation.column(name).map(|column| column.number)).collect()
    };
    match (layout(before), layout(after)) {
        (Layout::Hidden, Layout::Hidden) => true,
        (Layout::Numbered(a), Layout::Numbered(b)) => numbers(before, &[a]) == numbers(after, &[b]),
        (Layout::Keyed(a), Layout::Keyed(b)) => numbers(before, &a) == numbers(after, &b),
        _ => false,
    }
}

fn index_oids(table: &Relation) -> BTreeSet<u32> {
    let own = table.indexes.iter().map(|index| index.oid);
    own.chain(table.keys().filter_map(|key| key.index_oid)).collect()
}

/// Drops the indexes that go, or all if the table is rebuilt.
fn drop_indexes(change: &Change<'_>, pair: &Pair<'_>) -> Result<(), SqlError> {
    let remaining = match needs_rebuild(change, pair) {
        true => BTreeSet::new(),
        false => index_oids(pair.after),
    };
    let keys = pair.before.keys().filter_map(|key| {
        sqlite_text::key_index(pair.before, key).and(key.index_oid.map(|oid| (oid, &key.name)))
    });
    let own = pair.before.indexes.iter().map(|index| (index.oid, &index.name));
    for (oid, name) in keys.chain(own) {
        if !remaining.contains(&oid) {
            run(change.connection, &format!("DROP INDEX {}", quote(name)))?;
        }
    }
    Ok(())
}

fn create_indexes(
    change: &Change<'_>,
    table: &Relation,
    wanted: impl Fn(u32) -> bool,
) -> Result<(), SqlError> {
    for key in table.keys().filter(|key| key.index_oid.is_some_and(&wanted)) {
        if let Some(text) = sqlite_text::key_index(table, key) {
            create_index(change.connection, &text, &key.name)?;
        }
    }
    for index in table.indexes.iter().filter(|index| wanted(index.oid)) {
        let text = sqlite_text::index(table, index, &change.after, change.context)?;
        create_index(change.connection, &text, &index.name)?;
    }
    Ok(())
}

fn create_index(connection: &Connection, text: &str, name: &str) -> Result<(), SqlError> {
    connection.execute_batch(text).map_err(|error| errors::of_new_index(error, name))
}

/// Gives tables and their indexes new texts, names included.
fn rewrite(change: &Change<'_>, pairs: &[&Pair<'_>]) -> Result<(), SqlError> {
    let mut entries = Vec::new();
    for pair in pairs {
        let (before, after) = (pair.before, pair.after);
        entries.push(Entry {
            kind: "table",
            old_name: before.name.clone(),
            name: after.name.clone(),
            table: after.name.clone(),
            text: sqlite_text::table(after, &after.name, true, &change.after, change.context)?,
        });
        for key in after.keys() {
            let old = before.keys().find(|old| old.index_oid == key.index_oid);
            if let (Some(old), Some(text)) = (old, sqlite_text::key_index(after, key)) {
                entries.push(index_entry(&old.name, &key.name, after, text));
            }
        }
        for index in &after.indexes {
            let same = |old: &&Index| old.oid == index.oid;
            if let Some(old) = before.indexes.iter().find(same) {
                let text = sqlite_text::index(after, index, &change.after, change.context)?;
                entries.push(index_entry(&old.name, &index.name, after, text));
            }
        }
    }
    schema_table::rewrite(change.connection, &entries)
}

fn index_entry(old: &str, name: &str, table: &Relation, text: String) -> Entry {
    Entry {
        kind: "index",
        old_name: old.to_owned(),
        name: name.to_owned(),
        table: table.name.clone(),
        text,
    }
}

/// New columns of a table whose rows were kept.
fn fill(change: &Change<'_>, pair: &Pair<'_>) -> Result<(), SqlError> {
    let new = &pair.after.columns[pair.before.columns.len()..];
    let assignments: Vec<String> = new
        .iter()
        .filter_map(|column| {
            let value = change.values.get(&(pair.after.oid, column.number))?;
            Some(format!("{} = {value}", quote(&column.name)))
        })
        .collect();
    if assignments.is_empty() {
        return Ok(());
    }
    let table = quote(&pair.after.name);
    let text = format!("UPDATE {table} SET {}", assignments.join(", "));
    change
        .connection
        .execute(&text, [])
        .map(|_| ())
        .map_err(|error| errors::of_rows(error, pair.after))
}

/// Copies the rows into a table of the new form, which then takes the old one's name.
fn rebuild(change: &Change<'_>, pair: &Pair<'_>) -> Result<(), SqlError> {
    let (before, after) = (pair.before, pair.after);
    let connection = change.connection;
    run(connection, &sqlite_text::table(after, REBUILT, true, &change.after, change.context)?)?;
    let (mut targets, mut sources) = (Vec::new(), Vec::new());
    for column in after.columns.iter().filter(|column| !column.generated) {
        let old = before.columns.iter().find(|old| old.number == column.number);
        let value = change.values.get(&(after.oid, column.number)).cloned();
        if let Some(source) = value.or_else(|| old.map(|old| quote(&old.name))) {
            targets.push(quote(&column.name));
            sources.push(source);
        }
    }
    if targets.is_empty() {
        targets.push("\"_rung_none\"".to_owned());
        sources.push("NULL".to_owned());
    }
    let copy = format!(
        "INSERT INTO {} ({}) SELECT {} FROM {}",
        quote(REBUILT),
        targets.join(", "),
        sources.join(", "),
        quote(&before.name)
    );
    connection.execute(&copy, []).map_err(|error| errors::of_rows(error, after))?;
    exchange(change.before, change, pair)?;
    run(connection, "DROP TABLE \"_rung_old\"")
}

/// The old table loses its name and its foreign keys, the new one gets the name.
fn exchange(before: &Catalog, change: &Change<'_>, pair: &Pair<'_>) -> Result<(), SqlError> {
    let (old, new) = (pair.before, pair.after);
    let old_text = sqlite_text::table(old, "_rung_old", false, before, change.context)?;
    let new_text = sqlite_text::table(new, &new.name, true, &change.after, change.context)?;
    schema_table::rewrite(
        change.connection,
        &[
            Entry {
                kind: "table",
                old_name: old.name.clone(),
                name: "_rung_old".to_owned(),
                table: "_rung_old".to_owned(),
                text: old_text,
            },
            Entry {
                kind: "table",
                old_name: REBUILT.to_owned(),
                name: new.name.clone(),
                table: new.name.clone(),
                text: new_text,
            },
        ],
    )
}

fn run(connection: &Connection, text: &str) -> Result<(), SqlError> {
    connection.execute_batch(text).map_err(crate::catalog_store::store_error)
}

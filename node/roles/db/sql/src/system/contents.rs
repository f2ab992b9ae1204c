//! What the relations of the system contain: rows made of the catalog when they are
//! asked for, and kept until the catalog changes.

use std::sync::Arc;

use rusqlite::types::Value;

use super::rows::Rows;
use super::{System, information_schema, objects, server, types, views};
use crate::{Catalog, Context, Relation, Sequence};

/// The rows of one relation.
#[derive(Debug)]
pub(super) struct Table {
    pub rows: Vec<Vec<Value>>,
}

/// What rows are made of.
pub(super) struct Source<'a> {
    pub catalog: &'a Catalog,
    pub context: &'a Context,
}

impl Source<'_> {
    /// Tables and views in the order in which they were made.
    pub fn relations(&self) -> Vec<&Relation> {
        let mut all: Vec<&Relation> =
            self.catalog.relations.values().map(|relation| &**relation).collect();
        all.sort_by_key(|relation| relation.oid);
        all
    }

    /// Sequences in the order in which they were made.
    pub fn sequences(&self) -> Vec<&Sequence> {
        let mut all: Vec<&Sequence> =
            self.catalog.sequences.values().map(|sequence| &**sequence).collect();
        all.sort_by_key(|sequence| sequence.oid);
        all
    }
}

/// Relations whose rows are about the session, which are made anew each time.
const OF_SESSION: &[&str] = &["pg_catalog.pg_settings", "pg_catalog.pg_stat_activity"];

pub(super) fn table(relation: &Relation, system: &System) -> Arc<Table> {
    let context = system.context();
    let kept = system.kept(&context, relation.oid);
    if let Some(table) = kept {
        return table;
    }
    let catalog = system.catalog();
    let source = Source { catalog: &catalog, context: &context };
    let mut rows = Rows::new(relation);
    fill(&relation.name, &mut rows, &source);
    let table = Arc::new(Table { rows: rows.rows });
    if !OF_SESSION.contains(&relation.name.as_str()) {
        system.keep(relation.oid, &table);
    }
    table
}

/// Relations that are not named here are about objects that a database cannot have,
/// so they are empty.
fn fill(name: &str, rows: &mut Rows<'_>, source: &Source<'_>) {
    let Some((schema, name)) = name.split_once('.') else { return };
    if schema == "information_schema" {
        return information_schema::fill(name, rows, source);
    }
    match name {
        "pg_class" => objects::classes(rows, source),
        "pg_attribute" => objects::attributes(rows, source),
        "pg_attrdef" => objects::defaults(rows, source),
        "pg_index" => objects::indexes(rows, source),
        "pg_constraint" => objects::constraints(rows, source),
        "pg_sequence" => objects::sequences(rows, source),
        "pg_description" => objects::descriptions(rows, source),
        "pg_depend" => objects::dependencies(rows, source),
        "pg_rewrite" => objects::rules(rows, source),
        "pg_type" => types::types(rows),
        "pg_am" => types::access_methods(rows),
        "pg_opclass" => types::operator_classes(rows),
        "pg_collation" => types::collations(rows),
        "pg_proc" => types::functions(rows),
        "pg_operator" => types::operators(rows),
        "pg_language" => types::languages(rows),
        "pg_namespace" => server::namespaces(rows),
        "pg_database" => server::databases(rows, source),
        "pg_roles" => server::roles(rows, source),
        "pg_user" => server::users(rows, source),
        "pg_settings" => server::settings(rows, source),
        "pg_tablespace" => server::tablespaces(rows),
        "pg_extension" => server::extensions(rows),
        "pg_stat_activity" => server::activity(rows, source),
        "pg_tables" => views::tables(rows, source),
        "pg_views" => views::views(rows, source),
        "pg_indexes" => views::indexes(rows, source),
        "pg_sequences" => views::sequences(rows, source),
        "pg_stat_user_tables" | "pg_stat_all_tables" => views::table_statistics(rows, source),
        _ => {}
    }
}

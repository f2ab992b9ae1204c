//! Views of `pg_catalog` that are easier to read than its tables.

use super::contents::Source;
use super::definitions;
use super::objects::indexes_of;
use super::rows::{Rows, row};
use crate::{ConstraintKind, RelationKind};

pub(super) fn tables(rows: &mut Rows<'_>, source: &Source<'_>) {
    for table in source.relations() {
        if table.kind == RelationKind::Table {
            let refers = table
                .constraints
                .iter()
                .any(|c| matches!(c.kind, ConstraintKind::ForeignKey { .. }));
            row!(rows,
                schemaname: "public", tablename: &table.name, tableowner: &*source.context.user,
                hasindexes: !indexes_of(table).is_empty(), hasrules: false,
                hastriggers: refers, rowsecurity: false,
            );
        }
    }
    for system in super::relations::all() {
        if system.relation.kind == RelationKind::Table {
            row!(rows,
                schemaname: system.schema, tablename: system.name,
                tableowner: &*source.context.user, hasindexes: false, hasrules: false,
                hastriggers: false, rowsecurity: false,
            );
        }
    }
}

pub(super) fn views(rows: &mut Rows<'_>, source: &Source<'_>) {
    for view in source.relations() {
        if view.kind == RelationKind::View {
            row!(rows,
                schemaname: "public", viewname: &view.name, viewowner: &*source.context.user,
                definition: definitions::view(view),
            );
        }
    }
}

pub(super) fn indexes(rows: &mut Rows<'_>, source: &Source<'_>) {
    for table in source.relations() {
        for index in indexes_of(table) {
            row!(rows,
                schemaname: "public", tablename: &table.name, indexname: index.name,
                indexdef: definitions::index(table, &index, false),
            );
        }
    }
}

pub(super) fn sequences(rows: &mut Rows<'_>, source: &Source<'_>) {
    for sequence in source.sequences() {
        row!(rows,
            schemaname: "public", sequencename: &sequence.name,
            sequenceowner: &*source.context.user, data_type: sequence.data_type.oid(),
            start_value: sequence.start, min_value: sequence.minimum,
            max_value: sequence.maximum, increment_by: sequence.increment,
            cycle: sequence.cycle, cache_size: 1i64,
        );
    }
}

/// There are no counts of what happened to a table; the tables are named nevertheless.
pub(super) fn table_statistics(rows: &mut Rows<'_>, source: &Source<'_>) {
    for table in source.relations() {
        if table.kind == RelationKind::Table {
            row!(rows, relid: table.oid, schemaname: "public", relname: &table.name);
        }
    }
}

//! The views of the SQL standard.

use super::contents::Source;
use super::rows::{Rows, row};
use super::{definitions, relations};
use crate::{Column, ConstraintKind, Identity, PgType, Relation, RelationKind};

pub(super) fn fill(name: &str, rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    match name {
        "information_schema_catalog_name" => row!(rows, catalog_name: database),
        "schemata" => schemata(rows, source),
        "tables" => tables(rows, source),
        "columns" => columns(rows, source),
        "views" => views(rows, source),
        "sequences" => sequences(rows, source),
        "table_constraints" => table_constraints(rows, source),
        "key_column_usage" => key_column_usage(rows, source),
        "referential_constraints" => referential_constraints(rows, source),
        "constraint_column_usage" => constraint_column_usage(rows, source),
        "constraint_table_usage" => constraint_table_usage(rows, source),
        "check_constraints" => check_constraints(rows, source),
        "enabled_roles" => row!(rows, role_name: &*source.context.user),
        "table_privileges" | "role_table_grants" => privileges(rows, source),
        _ => {}
    }
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "YES" } else { "NO" }
}

/// Relations with the schema they are in and the name they have there.
fn all<'a>(source: &'a Source<'_>) -> impl Iterator<Item = (&'static str, &'a str, &'a Relation)> {
    let own =
        source.relations().into_iter().map(|relation| ("public", relation.name.as_str(), relation));
    own.chain(relations::all().iter().map(|system| (system.schema, system.name, &*system.relation)))
}

fn schemata(rows: &mut Rows<'_>, source: &Source<'_>) {
    for name in ["pg_catalog", "public", "information_schema"] {
        row!(rows,
            catalog_name: &*source.context.database, schema_name: name,
            schema_owner: &*source.context.user,
        );
    }
}

fn tables(rows: &mut Rows<'_>, source: &Source<'_>) {
    for (schema, name, relation) in all(source) {
        let is_table = relation.kind == RelationKind::Table;
        row!(rows,
            table_catalog: &*source.context.database, table_schema: schema, table_name: name,
            table_type: if is_table { "BASE TABLE" } else { "VIEW" },
            is_insertable_into: yes_or_no(is_table && schema == "public"), is_typed: "NO",
        );
    }
}

/// What the standard tells of a type besides its name.
#[derive(Default)]
struct Measures {
    characters: Option<i32>,
    octets: Option<i32>,
    precision: Option<i32>,
    radix: Option<i32>,
    scale: Option<i32>,
    fraction_digits: Option<i32>,
}

fn measures(column: &Column) -> Measures {
    let modifier = column.data_type.modifier;
    let binary = |bits, scale| Measures {
        precision: Some(bits),
        radix: Some(2),
        scale,
        ..Measures::default()
    };
    match column.data_type.base {
        PgType::Int2 => binary(16, Some(0)),
        PgType::Int4 => binary(32, Some(0)),
        PgType::Int8 => binary(64, Some(0)),
        PgType::Float4 => binary(24, None),
        PgType::Float8 => binary(53, None),
        PgType::Numeric if modifier >= 4 => Measures {
            precision: Some((modifier - 4) >> 16),
            radix: Some(10),
            // The scale is signed, in eleven bits.
            scale: Some((((modifier - 4) & 0x7ff) ^ 1024) - 1024),
            ..Measures::default()
        },
        PgType::Numeric => Measures { radix: Some(10), ..Measures::default() },
        PgType::Varchar | PgType::Char if modifier >= 4 => Measures {
            characters: Some(modifier - 4),
            octets: Some((modifier - 4).saturating_mul(4)),
            ..Measures::default()
        },
        PgType::Text | PgType::Varchar | PgType::Char => {
            Measures { octets: Some(1 << 30), ..Measures::default() }
        }
        PgType::Date => Measures { fraction_digits: Some(0), ..Measures::default() },
        PgType::Time | PgType::Timestamp | PgType::Timestamptz | PgType::Interval => {
            let digits = if modifier >= 0 { modifier } else { 6 };
            Measures { fraction_digits: Some(digits), ..Measures::default() }
        }
        _ => Measures::default(),
    }
}

fn columns(rows: &mut Rows<'_>, source: &Source<'_>) {
    for (schema, name, relation) in all(source) {
        for column in &relation.columns {
            one_column(rows, source, (schema, name, relation), column);
        }
    }
}

fn one_column(
    rows: &mut Rows<'_>,
    source: &Source<'_>,
    (schema, name, relation): (&str, &str, &Relation),
    column: &Column,
) {
    let base = &column.data_type.base;
    let data_type = if matches!(base, PgType::Array(_)) { "ARRAY" } else { base.name() };
    let measures = measures(column);
    let identity = column.identity;
    let sequence = identity
        .and(column.sequence.as_ref())
        .and_then(|sequence| source.catalog.sequences.get(sequence));
    let is_table = relation.kind == RelationKind::Table && schema == "public";
    let database = &*source.context.database;
    row!(rows,
        table_catalog: database, table_schema: schema, table_name: name,
        column_name: &column.name, ordinal_position: i32::from(column.number),
        column_default: column.default.clone().filter(|_| !column.generated),
        is_nullable: yes_or_no(!column.not_null), data_type: data_type,
        character_maximum_length: measures.characters, character_octet_length: measures.octets,
        numeric_precision: measures.precision, numeric_precision_radix: measures.radix,
        numeric_scale: measures.scale, datetime_precision: measures.fraction_digits,
        udt_catalog: database, udt_schema: "pg_catalog", udt_name: base.sql_name(),
        dtd_identifier: column.number.to_string(), is_self_referencing: "NO",
        is_identity: yes_or_no(identity.is_some()),
        identity_generation: identity.map(|identity| match identity {
            Identity::Always => "ALWAYS",
            Identity::ByDefault => "BY DEFAULT",
        }),
        identity_start: sequence.map(|sequence| sequence.start.to_string()),
        identity_increment: sequence.map(|sequence| sequence.increment.to_string()),
        identity_maximum: sequence.map(|sequence| sequence.maximum.to_string()),
        identity_minimum: sequence.map(|sequence| sequence.minimum.to_string()),
        identity_cycle: yes_or_no(sequence.is_some_and(|sequence| sequence.cycle)),
        is_generated: if column.generated { "ALWAYS" } else { "NEVER" },
        generation_expression: column.default.clone().filter(|_| column.generated),
        is_updatable: yes_or_no(is_table),
    );
}

fn views(rows: &mut Rows<'_>, source: &Source<'_>) {
    for view in source.relations() {
        if view.kind == RelationKind::View {
            row!(rows,
                table_catalog: &*source.context.database, table_schema: "public",
                table_name: &view.name, view_definition: definitions::view(view),
                check_option: "NONE", is_updatable: "NO", is_insertable_into: "NO",
                is_trigger_updatable: "NO", is_trigger_deletable: "NO",
                is_trigger_insertable_into: "NO",
            );
        }
    }
}

fn sequences(rows: &mut Rows<'_>, source: &Source<'_>) {
    for sequence in source.sequences() {
        row!(rows,
            sequence_catalog: &*source.context.database, sequence_schema: "public",
            sequence_name: &sequence.name, data_type: sequence.data_type.name(),
            numeric_precision: i32::from(sequence.data_type.length()) * 8,
            numeric_precision_radix: 2, numeric_scale: 0,
            start_value: sequence.start.to_string(), minimum_value: sequence.minimum.to_string(),
            maximum_value: sequence.maximum.to_string(),
            increment: sequence.increment.to_string(), cycle_option: yes_or_no(sequence.cycle),
        );
    }
}

fn table_constraints(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            let (kind, deferrable, deferred) = match &constraint.kind {
                ConstraintKind::PrimaryKey => ("PRIMARY KEY", false, false),
                ConstraintKind::Unique => ("UNIQUE", false, false),
                ConstraintKind::Check { .. } => ("CHECK", false, false),
                ConstraintKind::ForeignKey { deferrable, initially_deferred, .. } => {
                    ("FOREIGN KEY", *deferrable, *initially_deferred)
                }
            };
            row!(rows,
                constraint_catalog: database, constraint_schema: "public",
                constraint_name: &constraint.name, table_catalog: database,
                table_schema: "public", table_name: &relation.name, constraint_type: kind,
                is_deferrable: yes_or_no(deferrable), initially_deferred: yes_or_no(deferred),
                enforced: "YES",
            );
        }
        // A column that is NOT NULL is a check of its own here, as in PostgreSQL.
        for column in relation.columns.iter().filter(|column| column.not_null) {
            row!(rows,
                constraint_catalog: database, constraint_schema: "public",
                constraint_name: not_null_name(relation, column), table_catalog: database,
                table_schema: "public", table_name: &relation.name, constraint_type: "CHECK",
                is_deferrable: "NO", initially_deferred: "NO", enforced: "YES",
            );
        }
    }
}

fn not_null_name(relation: &Relation, column: &Column) -> String {
    format!("{}_{}_{}_not_null", super::PUBLIC, relation.oid, column.number)
}

fn check_constraints(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            if let ConstraintKind::Check { expression } = &constraint.kind {
                row!(rows,
                    constraint_catalog: database, constraint_schema: "public",
                    constraint_name: &constraint.name, check_clause: format!("({expression})"),
                );
            }
        }
        for column in relation.columns.iter().filter(|column| column.not_null) {
            row!(rows,
                constraint_catalog: database, constraint_schema: "public",
                constraint_name: not_null_name(relation, column),
                check_clause: format!("{} IS NOT NULL", column.name),
            );
        }
    }
}

fn key_column_usage(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            let referred = match &constraint.kind {
                ConstraintKind::Check { .. } => continue,
                ConstraintKind::ForeignKey { columns, table, .. } => {
                    source.catalog.relations.get(table).map(|parent| (parent, columns))
                }
                _ => None,
            };
            for (index, column) in constraint.columns.iter().enumerate() {
                // The place in the key that the foreign key refers to.
                let position = referred.and_then(|(parent, columns)| {
                    let same = |key: &[String]| columns.iter().all(|c| key.contains(c));
                    let key = parent
                        .keys()
                        .find(|key| key.columns.len() == columns.len() && same(&key.columns))?;
                    let other = columns.get(index)?;
                    key.columns.iter().position(|name| name == other)
                });
                row!(rows,
                    constraint_catalog: database, constraint_schema: "public",
                    constraint_name: &constraint.name, table_catalog: database,
                    table_schema: "public", table_name: &relation.name, column_name: column,
                    ordinal_position: index as i32 + 1,
                    position_in_unique_constraint: position.map(|place| place as i32 + 1),
                );
            }
        }
    }
}

fn referential_constraints(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            let ConstraintKind::ForeignKey { table, columns, on_update, on_delete, .. } =
                &constraint.kind
            else {
                continue;
            };
            let key = source
                .catalog
                .relations
                .get(table)
                .and_then(|parent| parent.keys().find(|key| key.columns == *columns));
            row!(rows,
                constraint_catalog: database, constraint_schema: "public",
                constraint_name: &constraint.name, unique_constraint_catalog: database,
                unique_constraint_schema: "public",
                unique_constraint_name: key.map(|key| &key.name), match_option: "NONE",
                update_rule: on_update, delete_rule: on_delete,
            );
        }
    }
}

/// The columns that a constraint is about: for a foreign key those it refers to.
fn constraint_column_usage(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            let (table, columns) = match &constraint.kind {
                ConstraintKind::ForeignKey { table, columns, .. } => (table, columns),
                _ => (&relation.name, &constraint.columns),
            };
            for column in columns {
                row!(rows,
                    table_catalog: database, table_schema: "public", table_name: table,
                    column_name: column, constraint_catalog: database,
                    constraint_schema: "public", constraint_name: &constraint.name,
                );
            }
        }
    }
}

fn constraint_table_usage(rows: &mut Rows<'_>, source: &Source<'_>) {
    let database = &*source.context.database;
    for relation in source.relations() {
        for constraint in &relation.constraints {
            let table = match &constraint.kind {
                ConstraintKind::ForeignKey { table, .. } => table,
                ConstraintKind::Check { .. } => continue,
                _ => &relation.name,
            };
            row!(rows,
                table_catalog: database, table_schema: "public", table_name: table,
                constraint_catalog: database, constraint_schema: "public",
                constraint_name: &constraint.name,
            );
        }
    }
}

/// The database's user may do everything.
fn privileges(rows: &mut Rows<'_>, source: &Source<'_>) {
    let user = &*source.context.user;
    for relation in source.relations() {
        for privilege in ["INSERT", "SELECT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES"] {
            row!(rows,
                grantor: user, grantee: user, table_catalog: &*source.context.database,
                table_schema: "public", table_name: &relation.name, privilege_type: privilege,
                is_grantable: "YES", with_hierarchy: yes_or_no(privilege == "SELECT"),
            );
        }
    }
}

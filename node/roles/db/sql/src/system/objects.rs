//! The catalog's relations, columns, indexes, constraints and sequences.

use sqlparser::ast::Expr;

use super::contents::Source;
use super::rows::{Rows, row};
use super::types::{self, Traits};
use super::{BTREE, HEAP, OWNER, PUBLIC, relations, schema_oid};
use crate::analyze::type_of_expression;
use crate::parse::parse_expression;
use crate::schema::sqlite_text::split_key;
use crate::{Column, ConstraintKind, Identity, Index, PgType, Relation, RelationKind, TypeUse};

/// `pg_class.oid` of the catalogs that descriptions and dependencies refer to.
const CLASS_CATALOG: u32 = 1259;
const ATTRDEF_CATALOG: u32 = 2604;
const REWRITE_CATALOG: u32 = 2618;

/// Rows that PostgreSQL would have for an index.
pub(super) struct IndexView<'a> {
    pub oid: u32,
    pub name: &'a str,
    pub unique: bool,
    pub primary: bool,
    pub keys: Vec<String>,
    pub predicate: Option<&'a str>,
}

/// All indexes of a table, those of constraints first.
pub(super) fn indexes_of(table: &Relation) -> Vec<IndexView<'_>> {
    let keys = table.keys().map(|key| IndexView {
        oid: key.index_oid.unwrap_or(0),
        name: &key.name,
        unique: true,
        primary: key.kind == ConstraintKind::PrimaryKey,
        keys: key
            .columns
            .iter()
            .map(|column| crate::schema::names::quote_if_needed(column))
            .collect(),
        predicate: None,
    });
    let own = table.indexes.iter().map(|index: &Index| IndexView {
        oid: index.oid,
        name: &index.name,
        unique: index.unique,
        primary: false,
        keys: index.keys.clone(),
        predicate: index.predicate.as_deref(),
    });
    keys.chain(own).collect()
}

/// The column that a key of an index is, if it is no expression.
fn key_column<'a>(table: &'a Relation, key: &str) -> Option<&'a Column> {
    match parse_expression(split_key(key).0).ok()? {
        Expr::Identifier(ident) if ident.quote_style.is_some() => table.column(&ident.value),
        Expr::Identifier(ident) => table.column(&ident.value.to_lowercase()),
        _ => None,
    }
}

/// A key of an index as a column of it. That of an expression is named after its
/// function.
fn key_attribute(table: &Relation, key: &str, source: &Source<'_>) -> Option<Column> {
    let bare = |name: String, data_type: TypeUse| Column {
        name,
        number: 0,
        data_type,
        not_null: false,
        default: None,
        identity: None,
        generated: false,
        sequence: None,
        comment: None,
    };
    if let Some(column) = key_column(table, key) {
        return Some(bare(column.name.clone(), column.data_type.clone()));
    }
    let expression = parse_expression(split_key(key).0).ok()?;
    let data_type =
        type_of_expression(&expression, Some(table), source.catalog, source.context).ok()?;
    let name = match &expression {
        Expr::Function(function) => function.name.to_string().to_lowercase(),
        _ => "expr".to_owned(),
    };
    Some(bare(name, data_type))
}

pub(super) fn classes(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        class(rows, relation, &relation.name, PUBLIC, source);
        for index in indexes_of(relation) {
            row!(rows,
                oid: index.oid, relname: index.name, relnamespace: PUBLIC, relowner: OWNER,
                relam: BTREE, relfilenode: index.oid, relpages: 1, reltuples: -1.0,
                relpersistence: 'p', relkind: 'i', relnatts: index.keys.len() as i32,
                relispopulated: true, relreplident: 'n',
            );
        }
    }
    for sequence in source.sequences() {
        row!(rows,
            oid: sequence.oid, relname: &sequence.name, relnamespace: PUBLIC, relowner: OWNER,
            relfilenode: sequence.oid, relpages: 1, reltuples: 1.0, relpersistence: 'p',
            relkind: 'S', relnatts: 3, relispopulated: true, relreplident: 'n',
        );
    }
    for system in relations::all() {
        class(rows, &system.relation, system.name, schema_oid(system.schema), source);
    }
}

fn class(rows: &mut Rows<'_>, relation: &Relation, name: &str, schema: u32, source: &Source<'_>) {
    let is_table = relation.kind == RelationKind::Table;
    let is_check = |kind: &ConstraintKind| matches!(kind, ConstraintKind::Check { .. });
    let checks = relation.constraints.iter().filter(|c| is_check(&c.kind)).count();
    let has_foreign_key =
        relation.constraints.iter().any(|c| matches!(c.kind, ConstraintKind::ForeignKey { .. }));
    let referred = source.catalog.relations.values().any(|other| {
        other.constraints.iter().any(|constraint| {
            matches!(&constraint.kind, ConstraintKind::ForeignKey { table, .. } if *table == relation.name)
        })
    });
    let has_index = relation.keys().next().is_some() || !relation.indexes.is_empty();
    row!(rows,
        oid: relation.oid, relname: name, relnamespace: schema, relowner: OWNER,
        relam: if is_table { HEAP } else { 0 },
        relfilenode: if is_table { relation.oid } else { 0 },
        reltuples: -1.0, relhasindex: has_index, relpersistence: 'p',
        relkind: if is_table { 'r' } else { 'v' },
        relnatts: relation.columns.len() as i32, relchecks: checks as i32,
        relhasrules: !is_table, relhastriggers: has_foreign_key || referred,
        relispopulated: true, relreplident: if is_table { 'd' } else { 'n' },
    );
}

pub(super) fn attributes(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        for column in &relation.columns {
            attribute(rows, relation.oid, column, column.number);
        }
        for index in indexes_of(relation) {
            for (number, key) in (1i16..).zip(&index.keys) {
                if let Some(column) = key_attribute(relation, key, source) {
                    attribute(rows, index.oid, &column, number);
                }
            }
        }
    }
    for system in relations::all() {
        for column in &system.relation.columns {
            attribute(rows, system.relation.oid, column, column.number);
        }
    }
}

fn attribute(rows: &mut Rows<'_>, relation: u32, column: &Column, number: i16) {
    let base = &column.data_type.base;
    let Traits { by_value, align, storage, collation } = types::traits(base);
    let identity = match column.identity {
        Some(Identity::Always) => "a",
        Some(Identity::ByDefault) => "d",
        None => "",
    };
    row!(rows,
        attrelid: relation, attname: &column.name, atttypid: base.oid(), attstattarget: -1,
        attlen: base.length(), attnum: number,
        attndims: i32::from(matches!(base, crate::PgType::Array(_))), attcacheoff: -1,
        atttypmod: column.data_type.modifier, attbyval: by_value, attalign: align,
        attstorage: storage, attnotnull: column.not_null, atthasdef: column.default.is_some(),
        attidentity: identity, attgenerated: if column.generated { "s" } else { "" },
        attislocal: true, attcollation: collation,
    );
}

/// A default has no oid of its own in the catalog; this one cannot be another's,
/// since a table has at most 1600 columns and oids of users begin at 16384.
fn default_oid(relation: &Relation, column: &Column) -> u32 {
    relation.oid.wrapping_mul(2048).wrapping_add(u32::from(column.number.unsigned_abs()))
}

pub(super) fn defaults(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        for column in relation.columns.iter().filter(|column| column.default.is_some()) {
            row!(rows,
                oid: default_oid(relation, column), adrelid: relation.oid, adnum: column.number,
                adbin: column.default.clone(),
            );
        }
    }
}

pub(super) fn indexes(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        for index in indexes_of(relation) {
            let columns: Vec<Option<&Column>> =
                index.keys.iter().map(|key| key_column(relation, key)).collect();
            let numbers: Vec<i16> =
                columns.iter().map(|column| column.map_or(0, |column| column.number)).collect();
            let types: Vec<Option<PgType>> = index
                .keys
                .iter()
                .map(|key| Some(key_attribute(relation, key, source)?.data_type.base))
                .collect();
            let collations: Vec<u32> = types
                .iter()
                .map(|base| base.as_ref().map_or(0, |base| types::traits(base).collation))
                .collect();
            let classes: Vec<u32> =
                types.iter().map(|base| base.as_ref().map_or(0, types::operator_class)).collect();
            let options: Vec<i16> = index.keys.iter().map(|key| key_options(key)).collect();
            let has_expression = columns.iter().any(Option::is_none);
            row!(rows,
                indexrelid: index.oid, indrelid: relation.oid,
                indnatts: index.keys.len() as i32, indnkeyatts: index.keys.len() as i32,
                indisunique: index.unique, indisprimary: index.primary, indimmediate: true,
                indisvalid: true, indisready: true, indislive: true, indkey: numbers,
                indcollation: collations, indclass: classes, indoption: options,
                indexprs: has_expression.then(|| expressions(&index.keys, &columns)),
                indpred: index.predicate,
            );
        }
    }
}

fn expressions(keys: &[String], columns: &[Option<&Column>]) -> String {
    let only = keys.iter().zip(columns).filter(|(_, column)| column.is_none());
    only.map(|(key, _)| split_key(key).0).collect::<Vec<_>>().join(", ")
}

/// 1 for descending, 2 for nulls first.
fn key_options(key: &str) -> i16 {
    let (_, descends) = split_key(key);
    let nulls_first = match descends {
        true => !key.ends_with(" NULLS LAST"),
        false => key.ends_with(" NULLS FIRST"),
    };
    i16::from(descends) | (i16::from(nulls_first) << 1)
}

pub(super) fn constraints(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        let number = |relation: &Relation, name: &String| {
            relation.column(name).map_or(0, |column| column.number)
        };
        for constraint in &relation.constraints {
            let own: Vec<i16> =
                constraint.columns.iter().map(|name| number(relation, name)).collect();
            match &constraint.kind {
                ConstraintKind::PrimaryKey | ConstraintKind::Unique => row!(rows,
                    oid: constraint.oid, conname: &constraint.name, connamespace: PUBLIC,
                    contype: if constraint.kind == ConstraintKind::Unique { 'u' } else { 'p' },
                    convalidated: true, conrelid: relation.oid,
                    conindid: constraint.index_oid.unwrap_or(0), confupdtype: ' ',
                    confdeltype: ' ', confmatchtype: ' ', conislocal: true,
                    connoinherit: true, conkey: own,
                ),
                ConstraintKind::Check { expression } => row!(rows,
                    oid: constraint.oid, conname: &constraint.name, connamespace: PUBLIC,
                    contype: 'c', convalidated: true, conrelid: relation.oid, confupdtype: ' ',
                    confdeltype: ' ', confmatchtype: ' ', conislocal: true,
                    conkey: own, conbin: expression,
                ),
                ConstraintKind::ForeignKey {
                    table,
                    columns,
                    on_update,
                    on_delete,
                    deferrable,
                    initially_deferred,
                } => {
                    let parent = source.catalog.relations.get(table);
                    let referred: Vec<i16> = columns
                        .iter()
                        .map(|name| parent.map_or(0, |parent| number(parent, name)))
                        .collect();
                    let index = parent.and_then(|parent| {
                        parent.keys().find(|key| key.columns == *columns)?.index_oid
                    });
                    row!(rows,
                        oid: constraint.oid, conname: &constraint.name, connamespace: PUBLIC,
                        contype: 'f', condeferrable: *deferrable,
                        condeferred: *initially_deferred, convalidated: true,
                        conrelid: relation.oid, conindid: index.unwrap_or(0),
                        confrelid: parent.map_or(0, |parent| parent.oid),
                        confupdtype: action_letter(on_update),
                        confdeltype: action_letter(on_delete), confmatchtype: 's',
                        conislocal: true, connoinherit: true, conkey: own, confkey: referred,
                    );
                }
            }
        }
    }
}

fn action_letter(action: &str) -> char {
    match action {
        "RESTRICT" => 'r',
        "CASCADE" => 'c',
        "SET NULL" => 'n',
        "SET DEFAULT" => 'd',
        _ => 'a',
    }
}

pub(super) fn sequences(rows: &mut Rows<'_>, source: &Source<'_>) {
    for sequence in source.sequences() {
        row!(rows,
            seqrelid: sequence.oid, seqtypid: sequence.data_type.oid(), seqstart: sequence.start,
            seqincrement: sequence.increment, seqmax: sequence.maximum, seqmin: sequence.minimum,
            seqcache: 1i64, seqcycle: sequence.cycle,
        );
    }
}

pub(super) fn descriptions(rows: &mut Rows<'_>, source: &Source<'_>) {
    for relation in source.relations() {
        if let Some(comment) = &relation.comment {
            row!(rows, objoid: relation.oid, classoid: CLASS_CATALOG, description: comment);
        }
        for column in &relation.columns {
            if let Some(comment) = &column.comment {
                row!(rows,
                    objoid: relation.oid, classoid: CLASS_CATALOG,
                    objsubid: i32::from(column.number), description: comment,
                );
            }
        }
    }
    row!(rows, objoid: PUBLIC, classoid: 2615, description: "standard public schema");
}

/// Sequences that belong to columns, and defaults.
pub(super) fn dependencies(rows: &mut Rows<'_>, source: &Source<'_>) {
    for sequence in source.sequences() {
        let owner = sequence.owned_by.as_ref().and_then(|(table, column)| {
            let relation = source.catalog.relations.get(table)?;
            Some((relation.oid, relation.column(column)?))
        });
        if let Some((table, column)) = owner {
            row!(rows,
                classid: CLASS_CATALOG, objid: sequence.oid, refclassid: CLASS_CATALOG,
                refobjid: table, refobjsubid: i32::from(column.number),
                deptype: if column.identity.is_some() { 'i' } else { 'a' },
            );
        }
    }
    for relation in source.relations() {
        for column in relation.columns.iter().filter(|column| column.default.is_some()) {
            row!(rows,
                classid: ATTRDEF_CATALOG, objid: default_oid(relation, column),
                refclassid: CLASS_CATALOG, refobjid: relation.oid,
                refobjsubid: i32::from(column.number), deptype: 'a',
            );
        }
        if relation.kind == RelationKind::View {
            row!(rows,
                classid: REWRITE_CATALOG, objid: rule_oid(relation), refclassid: CLASS_CATALOG,
                refobjid: relation.oid, deptype: 'i',
            );
        }
    }
}

fn rule_oid(view: &Relation) -> u32 {
    view.oid.wrapping_mul(2048)
}

/// A view's query is a rule of its own in PostgreSQL.
pub(super) fn rules(rows: &mut Rows<'_>, source: &Source<'_>) {
    let views = source.relations().into_iter().filter(|r| r.kind == RelationKind::View);
    for view in views {
        row!(rows,
            oid: rule_oid(view), rulename: "_RETURN", ev_class: view.oid, ev_type: '1',
            ev_enabled: 'O', is_instead: true, ev_action: view.definition.clone(),
        );
    }
}

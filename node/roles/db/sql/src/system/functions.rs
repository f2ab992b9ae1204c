//! Functions that explain the catalog.

use rusqlite::Connection;
use rusqlite::functions::{Context as Call, FunctionFlags};
use rusqlite::types::{Value, ValueRef};

use super::objects::indexes_of;
use super::{System, definitions, relations};
use crate::functions::raise;
use crate::schema::names::quote_if_needed;
use crate::schema::sqlite_text::split_key;
use crate::signature::Lines;
use crate::{Catalog, PgType, RelationKind, SqlError, SqlState, modifier_text};

pub(crate) const FUNCTIONS: Lines = &[
    ("nextval(regclass) -> int8", "rung_nextval({0})"),
    ("setval(regclass, int8) -> int8", "rung_setval({0}, {1}, 1)"),
    ("setval(regclass, int8, bool) -> int8", "rung_setval({0}, {1}, {2})"),
    ("currval(regclass) -> int8", "rung_currval({0})"),
    ("lastval() -> int8", "rung_lastval()"),
    ("format_type(oid, int4) -> text", "rung_format_type({0}, {1})"),
    ("pg_get_expr(text, oid) -> text", "{0}"),
    ("pg_get_expr(text, oid, bool) -> text", "{0}"),
    ("pg_get_indexdef(oid) -> text", "rung_index_definition({0}, 0, 0)"),
    ("pg_get_indexdef(oid, int4, bool) -> text", "rung_index_definition({0}, {1}, {2})"),
    ("pg_get_constraintdef(oid) -> text", "rung_constraint_definition({0}, 0)"),
    ("pg_get_constraintdef(oid, bool) -> text", "rung_constraint_definition({0}, {1})"),
    ("pg_get_viewdef(oid) -> text", "rung_view_definition({0})"),
    ("pg_get_viewdef(oid, bool) -> text", "rung_view_definition({0})"),
    ("pg_get_viewdef(oid, int4) -> text", "rung_view_definition({0})"),
    ("pg_get_ruledef(oid) -> text", "NULL"),
    ("pg_get_ruledef(oid, bool) -> text", "NULL"),
    ("pg_get_triggerdef(oid) -> text", "NULL"),
    ("pg_get_triggerdef(oid, bool) -> text", "NULL"),
    ("pg_get_statisticsobjdef_columns(oid) -> text", "NULL"),
    ("pg_get_partkeydef(oid) -> text", "NULL"),
    ("pg_get_functiondef(oid) -> text", "NULL"),
    ("pg_get_function_arguments(oid) -> text", "rung_function_arguments({0})"),
    ("pg_get_function_identity_arguments(oid) -> text", "rung_function_arguments({0})"),
    ("pg_get_function_result(oid) -> text", "rung_function_result({0})"),
    ("pg_get_serial_sequence(text, text) -> text", "rung_serial_sequence({0}, {1})"),
    ("pg_get_userbyid(oid) -> name", "rung_user_name({0})"),
    ("pg_table_is_visible(oid) -> bool", "rung_is_visible({0})"),
    ("pg_type_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_function_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_operator_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_opclass_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_opfamily_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_collation_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_conversion_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_statistics_obj_is_visible(oid) -> bool", "({0} IS NOT NULL)"),
    ("pg_relation_is_publishable(regclass) -> bool", "0"),
    ("pg_relation_is_updatable(regclass, bool) -> int4", "28"),
    ("pg_is_in_recovery() -> bool", "0"),
    ("pg_is_other_temp_schema(oid) -> bool", "0"),
    ("pg_my_temp_schema() -> oid", "0"),
    ("obj_description(oid, name) -> text", "rung_description({0}, 0, {1})"),
    ("obj_description(oid) -> text", "rung_description({0}, 0, 'pg_class')"),
    ("shobj_description(oid, name) -> text", "NULL"),
    ("col_description(oid, int4) -> text", "rung_description({0}, {1}, 'pg_class')"),
    ("to_regclass(text) -> regclass", "rung_to_regclass({0}, 0)"),
    ("to_regtype(text) -> regtype", "rung_to_regtype({0}, 0)"),
    ("pg_encoding_to_char(int4) -> name", "CASE {0} WHEN 6 THEN 'UTF8' ELSE '' END"),
    ("pg_char_to_encoding(name) -> int4", "iif(upper({0}) IN ('UTF8', 'UTF-8'), 6, -1)"),
    ("pg_relation_size(regclass) -> int8", "rung_relation_size({0}, 0)"),
    ("pg_table_size(regclass) -> int8", "rung_relation_size({0}, 0)"),
    ("pg_indexes_size(regclass) -> int8", "rung_relation_size({0}, 1)"),
    ("pg_total_relation_size(regclass) -> int8", "rung_relation_size({0}, 2)"),
    ("pg_size_pretty(int8) -> text", "rung_size_pretty({0})"),
    ("pg_database_size(name) -> int8", "rung_database_size()"),
    ("pg_database_size(oid) -> int8", "rung_database_size()"),
    ("pg_tablespace_location(oid) -> text", "''"),
    (
        "pg_sequence_last_value(regclass) -> int8",
        "(SELECT last_value FROM _rung_sequences WHERE oid = {0} AND is_called)",
    ),
    ("has_table_privilege(text, text) -> bool", "rung_has_privilege({0}, {1})"),
    ("has_table_privilege(oid, text) -> bool", "rung_has_privilege({0}, {1})"),
    ("has_table_privilege(name, text, text) -> bool", "rung_has_privilege({1}, {2})"),
    ("has_table_privilege(name, oid, text) -> bool", "rung_has_privilege({1}, {2})"),
    ("has_column_privilege(oid, int2, text) -> bool", "rung_has_privilege({0}, {2})"),
    ("has_column_privilege(text, text, text) -> bool", "rung_has_privilege({0}, {2})"),
    ("has_any_column_privilege(oid, text) -> bool", "rung_has_privilege({0}, {1})"),
    ("has_sequence_privilege(oid, text) -> bool", "rung_has_privilege({0}, {1})"),
    ("has_sequence_privilege(text, text) -> bool", "rung_has_privilege({0}, {1})"),
    (
        "has_schema_privilege(text, text) -> bool",
        "({0} = 'public' OR lower({1}) NOT LIKE '%create%')",
    ),
    ("has_schema_privilege(oid, text) -> bool", "({0} = 2200 OR lower({1}) NOT LIKE '%create%')"),
    (
        "has_schema_privilege(name, text, text) -> bool",
        "({1} = 'public' OR lower({2}) NOT LIKE '%create%')",
    ),
    ("has_database_privilege(text, text) -> bool", "(lower({1}) NOT LIKE '%create%')"),
    ("has_database_privilege(oid, text) -> bool", "(lower({1}) NOT LIKE '%create%')"),
    ("has_function_privilege(oid, text) -> bool", "1"),
    ("has_type_privilege(oid, text) -> bool", "1"),
    ("pg_has_role(oid, text) -> bool", "({0} = 10)"),
    ("pg_has_role(name, text) -> bool", "1"),
    ("pg_has_role(name, oid, text) -> bool", "({1} = 10)"),
    ("row_security_active(oid) -> bool", "0"),
];

/// Functions that give rows. No table is a partition.
pub(crate) const TABLE_FUNCTIONS: Lines = &[
    ("pg_partition_ancestors(regclass) -> regclass", "rung_unnest('[]')"),
    ("pg_partition_tree(regclass) -> regclass", "rung_unnest('[]')"),
    ("pg_options_to_table(_text) -> text", "rung_unnest('[]')"),
];

type Outcome = Result<Value, SqlError>;
type Function = (&'static str, i32, fn(&Call<'_>, &System) -> Outcome);

const CALLS: &[Function] = &[
    ("rung_format_type", 2, |call, _| Ok(format_type(integer(call, 0), integer(call, 1)))),
    ("rung_index_definition", 3, index_definition),
    ("rung_constraint_definition", 2, constraint_definition),
    ("rung_view_definition", 1, view_definition),
    ("rung_function_arguments", 1, |call, _| {
        Ok(super::types::function_text(integer(call, 0), true))
    }),
    ("rung_function_result", 1, |call, _| Ok(super::types::function_text(integer(call, 0), false))),
    ("rung_serial_sequence", 2, serial_sequence),
    ("rung_user_name", 1, user_name),
    ("rung_is_visible", 1, is_visible),
    ("rung_description", 3, description),
    ("rung_to_regclass", 2, to_regclass),
    ("rung_regclass_text", 1, regclass_text),
    ("rung_to_regtype", 2, to_regtype),
    ("rung_schema_name", 1, |call, _| Ok(integer(call, 0).map_or(Value::Null, super::schema_name))),
    ("rung_regtype_text", 1, |call, _| match integer(call, 0) {
        Some(0) => Ok(Value::Text("-".to_owned())),
        oid => Ok(format_type(oid, None)),
    }),
    ("rung_has_privilege", 2, has_privilege),
    ("rung_size_pretty", 1, |call, _| {
        Ok(integer(call, 0).map_or(Value::Null, |bytes| Value::Text(pretty_size(bytes))))
    }),
];

pub(super) fn register(connection: &Connection, system: &System) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, arity, run) in CALLS {
        let (own, run) = (system.clone(), *run);
        connection.create_scalar_function(*name, *arity, flags, move |call| {
            run(call, &own).map_err(raise)
        })?;
    }
    super::sizes::register(connection, system)
}

pub(super) fn integer(call: &Call<'_>, index: usize) -> Option<i64> {
    match call.get_raw(index) {
        ValueRef::Integer(value) => Some(value),
        _ => None,
    }
}

fn text<'a>(call: &'a Call<'_>, index: usize) -> Option<&'a str> {
    call.get_raw(index).as_str().ok()
}

/// Bytes in the greatest unit in which they are ten or more, rounded.
fn pretty_size(bytes: i64) -> String {
    const LIMIT: u64 = 10 * 1024;
    let sign = if bytes < 0 { "-" } else { "" };
    let mut size = bytes.unsigned_abs();
    if size < LIMIT {
        return format!("{sign}{size} bytes");
    }
    // One bit more than is shown, to round by.
    size >>= 9;
    for unit in ["kB", "MB", "GB", "TB"] {
        if size < 2 * LIMIT - 1 {
            return format!("{sign}{} {unit}", size.div_ceil(2));
        }
        size >>= 10;
    }
    format!("{sign}{} PB", size.div_ceil(2))
}

fn format_type(oid: Option<i64>, modifier: Option<i64>) -> Value {
    let Some(oid) = oid else { return Value::Null };
    let found = u32::try_from(oid).ok().and_then(PgType::from_oid);
    let modifier = modifier.and_then(|modifier| i32::try_from(modifier).ok()).unwrap_or(-1);
    Value::Text(match found {
        None if oid == 0 => "-".to_owned(),
        None => "???".to_owned(),
        Some(data_type) => type_text(&data_type, modifier),
    })
}

/// `timestamp(3) with time zone`: the modifier stands after the first word.
pub(super) fn type_text(data_type: &PgType, modifier: i32) -> String {
    let name = data_type.name();
    let suffix = modifier_text(data_type, modifier).unwrap_or_default();
    match name.find([' ', '[']) {
        Some(place) if !suffix.is_empty() && !name.starts_with("character varying") => {
            format!("{}{suffix}{}", &name[..place], &name[place..])
        }
        _ if name.ends_with("[]") => format!("{}{suffix}[]", name.trim_end_matches("[]")),
        _ => format!("{name}{suffix}"),
    }
}

fn index_definition(call: &Call<'_>, system: &System) -> Outcome {
    let catalog = system.catalog();
    let (oid, column) = (integer(call, 0), integer(call, 1).unwrap_or(0));
    let pretty = integer(call, 2) == Some(1);
    for relation in catalog.relations.values() {
        for index in indexes_of(relation) {
            if Some(i64::from(index.oid)) != oid {
                continue;
            }
            if column == 0 {
                return Ok(Value::Text(definitions::index(relation, &index, pretty)));
            }
            let key = usize::try_from(column - 1).ok().and_then(|place| index.keys.get(place));
            return Ok(Value::Text(key.map_or("", |key| split_key(key).0).to_owned()));
        }
    }
    Ok(Value::Null)
}

fn constraint_definition(call: &Call<'_>, system: &System) -> Outcome {
    let catalog = system.catalog();
    let (oid, pretty) = (integer(call, 0), integer(call, 1) == Some(1));
    let mut all = catalog.relations.values().flat_map(|relation| &relation.constraints);
    let found = all.find(|constraint| Some(i64::from(constraint.oid)) == oid);
    Ok(found.map_or(Value::Null, |found| Value::Text(definitions::constraint(found, pretty))))
}

fn view_definition(call: &Call<'_>, system: &System) -> Outcome {
    let (catalog, oid) = (system.catalog(), integer(call, 0));
    let mut views = catalog.relations.values().filter(|r| r.kind == RelationKind::View);
    let found = views.find(|view| Some(i64::from(view.oid)) == oid);
    Ok(found.map_or(Value::Null, |view| Value::Text(definitions::view(view))))
}

/// The table is named as in a statement, the column as it is.
fn serial_sequence(call: &Call<'_>, system: &System) -> Outcome {
    let (Some(table), Some(column)) = (text(call, 0), text(call, 1)) else {
        return Ok(Value::Null);
    };
    let catalog = system.catalog();
    let oid = find_relation(&catalog, table)?;
    let relation = catalog.relations.values().find(|r| Some(r.oid) == oid).ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{table}\" does not exist"))
    })?;
    let column = relation.column(column).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{column}\" of relation \"{}\" does not exist", relation.name),
        )
    })?;
    let owner = (relation.name.clone(), column.name.clone());
    let mut sequences = catalog.sequences.values();
    let owned = sequences.find(|sequence| sequence.owned_by.as_ref() == Some(&owner));
    Ok(owned.map_or(Value::Null, |sequence| {
        Value::Text(format!("public.{}", quote_if_needed(&sequence.name)))
    }))
}

fn user_name(call: &Call<'_>, system: &System) -> Outcome {
    Ok(match integer(call, 0) {
        None => Value::Null,
        Some(oid) if oid == i64::from(super::OWNER) => {
            Value::Text(system.session.lock().user.to_string())
        }
        Some(oid) => Value::Text(format!("unknown (OID={oid})")),
    })
}

/// Whether a relation is found by its name alone.
fn is_visible(call: &Call<'_>, system: &System) -> Outcome {
    let Some(oid) = integer(call, 0) else { return Ok(Value::Null) };
    let schema = match schema_of(&system.catalog(), oid) {
        Some(schema) => schema,
        None => return Ok(Value::Null),
    };
    let visible = system.session.lock().searches(schema);
    Ok(Value::Integer(visible.into()))
}

fn schema_of(catalog: &Catalog, oid: i64) -> Option<&'static str> {
    match name_of(catalog, oid) {
        Some(_) => Some("public"),
        None => relations::all()
            .iter()
            .find(|system| i64::from(system.relation.oid) == oid)
            .map(|system| system.schema),
    }
}

/// The name of a table, view, index or sequence of the database.
fn name_of(catalog: &Catalog, oid: i64) -> Option<String> {
    let same = |other: u32| i64::from(other) == oid;
    for relation in catalog.relations.values() {
        if same(relation.oid) {
            return Some(relation.name.clone());
        }
        if let Some(index) = indexes_of(relation).iter().find(|index| same(index.oid)) {
            return Some(index.name.to_owned());
        }
    }
    catalog.sequences.values().find(|sequence| same(sequence.oid)).map(|s| s.name.clone())
}

fn description(call: &Call<'_>, system: &System) -> Outcome {
    let (Some(oid), Some(column)) = (integer(call, 0), integer(call, 1)) else {
        return Ok(Value::Null);
    };
    let catalog = system.catalog();
    let comment = match text(call, 2) {
        Some("pg_class") => {
            catalog.relations.values().find(|relation| i64::from(relation.oid) == oid).and_then(
                |relation| match column {
                    0 => relation.comment.clone(),
                    number => relation
                        .columns
                        .iter()
                        .find(|column| i64::from(column.number) == number)
                        .and_then(|column| column.comment.clone()),
                },
            )
        }
        Some("pg_namespace") if oid == i64::from(super::PUBLIC) => {
            Some("standard public schema".to_owned())
        }
        _ => None,
    };
    Ok(comment.map_or(Value::Null, Value::Text))
}

/// A name as statements write it, perhaps with a schema and quotes.
fn name_parts(name: &str) -> Result<Vec<String>, SqlError> {
    let invalid = || SqlError::new(SqlState("42602"), "invalid name syntax");
    let (mut parts, mut part) = (Vec::new(), String::new());
    let mut characters = name.trim().chars().peekable();
    loop {
        if characters.next_if_eq(&'"').is_some() {
            loop {
                match characters.next().ok_or_else(invalid)? {
                    '"' if characters.next_if_eq(&'"').is_some() => part.push('"'),
                    '"' => break,
                    character => part.push(character),
                }
            }
        } else {
            while let Some(character) = characters.next_if(|c| *c != '.') {
                part.extend(character.to_lowercase());
            }
        }
        if part.is_empty() {
            return Err(invalid());
        }
        parts.push(std::mem::take(&mut part));
        match characters.next() {
            None => return Ok(parts),
            Some('.') => {}
            Some(_) => return Err(invalid()),
        }
    }
}

/// The oid of a relation, index or sequence by its name.
fn find_relation(catalog: &Catalog, name: &str) -> Result<Option<u32>, SqlError> {
    let parts = name_parts(name)?;
    let (schema, name) = match parts.as_slice() {
        [name] => (None, name),
        [schema, name] | [_, schema, name] => (Some(schema.as_str()), name),
        _ => return Err(SqlError::new(SqlState("42602"), "improper relation name")),
    };
    let system = || relations::find(schema, name).map(|system| system.relation.oid);
    if schema.is_some_and(|schema| schema != "public") {
        return Ok(system());
    }
    let own = catalog
        .relations
        .get(name)
        .map(|relation| relation.oid)
        .or_else(|| catalog.sequences.get(name).map(|sequence| sequence.oid))
        .or_else(|| {
            let relation = catalog.relation_of_index(name)?;
            indexes_of(relation).iter().find(|index| index.name == name).map(|index| index.oid)
        });
    Ok(if schema.is_none() { system().or(own) } else { own })
}

/// The oid of a relation, index or sequence as a statement names it, or by its number.
///
/// # Errors
/// 42P01 if there is none.
pub(crate) fn relation_oid(catalog: &Catalog, name: &str) -> Result<u32, SqlError> {
    if name == "-" {
        return Ok(0);
    }
    if let Ok(oid) = name.trim().parse::<u32>() {
        return Ok(oid);
    }
    find_relation(catalog, name)?.ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"))
    })
}

/// A text as the oid of a relation; if there is none it is an error (second argument
/// 1) or null.
fn to_regclass(call: &Call<'_>, system: &System) -> Outcome {
    let Some(name) = text(call, 0) else { return Ok(Value::Null) };
    match relation_oid(&system.catalog(), name) {
        Err(error) if integer(call, 1) == Some(0) && error.state == SqlState::UNDEFINED_TABLE => {
            Ok(Value::Null)
        }
        found => found.map(|oid| Value::Integer(oid.into())),
    }
}

fn regclass_text(call: &Call<'_>, system: &System) -> Outcome {
    let Some(oid) = integer(call, 0) else { return Ok(Value::Null) };
    Ok(Value::Text(relation_text(&system.catalog(), oid)))
}

/// What is shown for the oid of a relation.
fn relation_text(catalog: &Catalog, oid: i64) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    if let Some(name) = name_of(catalog, oid) {
        return quote_if_needed(&name);
    }
    let mut all = relations::all().iter();
    match all.find(|system| i64::from(system.relation.oid) == oid) {
        Some(system) if system.schema == "pg_catalog" => system.name.to_owned(),
        Some(system) => format!("{}.{}", system.schema, system.name),
        None => oid.to_string(),
    }
}

/// What a client is shown in place of an oid, for types whose values are names.
pub(crate) fn name_shown(catalog: &Catalog, data_type: &PgType, oid: i64) -> Option<String> {
    match data_type {
        PgType::Regclass => Some(relation_text(catalog, oid)),
        PgType::Regtype => match format_type(Some(oid), None) {
            Value::Text(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

fn to_regtype(call: &Call<'_>, _: &System) -> Outcome {
    let Some(name) = text(call, 0) else { return Ok(Value::Null) };
    if name == "-" {
        return Ok(Value::Integer(0));
    }
    if let Ok(oid) = name.trim().parse::<u32>() {
        return Ok(Value::Integer(oid.into()));
    }
    let parsed =
        crate::parse::parse_type(name).and_then(|parsed| crate::analyze::type_use(&parsed));
    match parsed {
        Ok(found) => Ok(Value::Integer(found.base.oid().into())),
        Err(error) if integer(call, 1) == Some(1) => Err(error),
        Err(_) => Ok(Value::Null),
    }
}

/// The database's user may do everything with what there is.
fn has_privilege(call: &Call<'_>, system: &System) -> Outcome {
    let catalog = system.catalog();
    let found = match (text(call, 0), integer(call, 0)) {
        (Some(name), _) => match find_relation(&catalog, name)? {
            Some(oid) => i64::from(oid),
            None => {
                return Err(SqlError::new(
                    SqlState::UNDEFINED_TABLE,
                    format!("relation \"{name}\" does not exist"),
                ));
            }
        },
        (None, Some(oid)) => oid,
        (None, None) => return Ok(Value::Null),
    };
    let wanted = text(call, 1).unwrap_or_default().to_lowercase();
    Ok(match schema_of(&catalog, found) {
        None => Value::Null,
        Some("public") => Value::Integer(1),
        Some(_) => Value::Integer((wanted.trim() == "select").into()),
    })
}

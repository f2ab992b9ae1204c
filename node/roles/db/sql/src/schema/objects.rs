//! Kinds of objects of which a database has what it has, or none.

use sqlparser::ast::{CreateExtension, ObjectName, ObjectType, SchemaName, Statement};

use super::change::Change;
use super::{drop, names};
use crate::{SqlError, SqlState};

/// `DROP` of any kind; gives its tag.
pub(super) fn drop(
    change: &mut Change<'_>,
    object_type: ObjectType,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<&'static str, SqlError> {
    match object_type {
        ObjectType::Schema => return drop_schema(names, if_exists),
        ObjectType::Type if if_exists => return Ok("DROP TYPE"),
        ObjectType::Type => {
            let name = names.first().map(ToString::to_string).unwrap_or_default();
            return Err(SqlError::new(
                SqlState::UNDEFINED_OBJECT,
                format!("type \"{name}\" does not exist"),
            ));
        }
        _ => {}
    }
    drop::drop(change, object_type, names, if_exists, cascade)?;
    Ok(match object_type {
        ObjectType::Table => "DROP TABLE",
        ObjectType::View => "DROP VIEW",
        ObjectType::MaterializedView => "DROP MATERIALIZED VIEW",
        ObjectType::Index => "DROP INDEX",
        _ => "DROP SEQUENCE",
    })
}

fn drop_schema(all: &[ObjectName], if_exists: bool) -> Result<&'static str, SqlError> {
    for name in all {
        let name = names::parts(name)?.join(".");
        if matches!(name.as_str(), "public" | "pg_catalog" | "information_schema") {
            return Err(SqlError::not_supported(
                format!("DROP SCHEMA {name}"),
                "Drop the tables instead: a database has one schema.",
            ));
        }
        if !if_exists {
            return Err(SqlError::new(
                SqlState::INVALID_SCHEMA_NAME,
                format!("schema \"{name}\" does not exist"),
            ));
        }
    }
    Ok("DROP SCHEMA")
}

/// What is neither a table nor anything that belongs to one.
pub(super) fn other(statement: &Statement) -> Result<&'static str, SqlError> {
    match statement {
        Statement::CreateSchema { schema_name, if_not_exists, .. } => {
            create_schema(schema_name, *if_not_exists)
        }
        Statement::CreateExtension(extension) => create_extension(extension),
        Statement::DropExtension(extension) => match extension.if_exists {
            true => Ok("DROP EXTENSION"),
            false => Err(SqlError::not_supported(
                "DROP EXTENSION",
                "What extensions bring is part of the database.",
            )),
        },
        Statement::CreateType { .. } | Statement::AlterType(_) => Err(SqlError::not_supported(
            "a type of one's own",
            "Use text with a CHECK, such as CHECK (mood IN ('happy', 'sad')).",
        )),
        Statement::CreateDomain(_) | Statement::DropDomain(_) => {
            Err(SqlError::not_supported("a domain", "Use the type with a CHECK on the column."))
        }
        Statement::Grant(_) | Statement::Revoke(_) => Err(SqlError::not_supported(
            "granting privileges by SQL",
            "A database's user may do everything in it.",
        )),
        Statement::AlterView { .. } => {
            Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at or near \"AS\"")
                .hint("Use CREATE OR REPLACE VIEW."))
        }
        other => {
            let text = other.to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            Err(SqlError::not_supported(words.join(" "), "See the documentation."))
        }
    }
}

fn create_schema(name: &SchemaName, if_not_exists: bool) -> Result<&'static str, SqlError> {
    let name = match name {
        SchemaName::Simple(name) => names::parts(name)?.join("."),
        other => other.to_string(),
    };
    match (name.as_str(), if_not_exists) {
        ("public", true) => Ok("CREATE SCHEMA"),
        ("public", false) => {
            Err(SqlError::new(SqlState("42P06"), "schema \"public\" already exists"))
        }
        _ => Err(SqlError::not_supported(
            "a second schema",
            "A database has one schema, public. Use a prefix of the tables' names.",
        )),
    }
}

/// Extensions whose functions are built in here.
fn create_extension(extension: &CreateExtension) -> Result<&'static str, SqlError> {
    let name = names::ident(&extension.name);
    match (name.as_str(), extension.if_not_exists) {
        ("plpgsql", true) => Ok("CREATE EXTENSION"),
        ("plpgsql", false) => {
            Err(SqlError::new(SqlState::DUPLICATE_OBJECT, "extension \"plpgsql\" already exists"))
        }
        ("pgcrypto" | "uuid-ossp", _) => Err(SqlError::not_supported(
            format!("the extension \"{name}\""),
            "gen_random_uuid() and sha256() are built in and need no extension.",
        )),
        _ => Err(SqlError::not_supported(
            format!("the extension \"{name}\""),
            "What the database has is built in.",
        )),
    }
}

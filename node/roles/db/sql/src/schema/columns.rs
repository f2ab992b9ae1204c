//! Columns, as CREATE TABLE and ADD COLUMN declare them.

use sqlparser::ast::{
    ColumnDef, ColumnOption, DataType, Expr, GeneratedAs, GeneratedExpressionMode, Ident,
    ObjectName, TableConstraint, Value,
};

use super::change::Change;
use super::names;
use super::sequences::{self, Options};
use crate::{Column, Identity, PgType, Relation, SqlError, SqlState, TypeUse, analyze};

/// Adds a column, and its sequence if it needs one; gives the constraints that were
/// declared with it, to be added when all columns are there.
pub(super) fn add(
    change: &mut Change<'_>,
    table: &mut Relation,
    definition: &ColumnDef,
) -> Result<Vec<TableConstraint>, SqlError> {
    let name = names::ident(&definition.name);
    if let Some(other) = table.columns.iter().find(|c| c.name.to_lowercase() == name.to_lowercase())
    {
        let is_new = !change.after.relations.contains_key(&table.name);
        return Err(same_name(&name, other, table, is_new));
    }
    let serial = serial_type(&definition.data_type);
    let data_type = match &serial {
        Some(base) => TypeUse { base: base.clone(), modifier: -1 },
        None => analyze::type_use(&definition.data_type)?,
    };
    check_storable(&name, &data_type)?;
    let mut column = Column {
        number: next_number(table)?,
        name,
        data_type,
        not_null: serial.is_some(),
        default: None,
        identity: None,
        generated: false,
        sequence: None,
        comment: None,
    };
    if let Some(base) = &serial {
        let sequence =
            sequences::add_owned(change, &table.name, &column.name, base, &Options::default())?;
        column.default = Some(sequences::nextval_text(&sequence));
        column.sequence = Some(sequence);
    }
    let mut constraints = Vec::new();
    let mut nullable = None;
    for option in &definition.options {
        let given = option.name.as_ref();
        match &option.option {
            ColumnOption::Null => set_nullable(&mut nullable, true, &column, table)?,
            ColumnOption::NotNull => set_nullable(&mut nullable, false, &column, table)?,
            ColumnOption::Default(default) => set_default(change, &mut column, default, table)?,
            ColumnOption::Generated {
                generated_as,
                sequence_options,
                generation_expr,
                generation_expr_mode,
                ..
            } => match generation_expr {
                Some(expression) => {
                    set_generated(&mut column, expression, *generation_expr_mode)?;
                }
                None => {
                    let options = sequence_options.as_deref().unwrap_or_default();
                    let options = Options::from_ast(options)?;
                    set_identity(change, table, &mut column, generated_as, &options)?;
                }
            },
            ColumnOption::Collation(collation) => check_collation(collation)?,
            other => constraints.push(constraint(given, other, &definition.name)?),
        }
    }
    if nullable == Some(false) {
        column.not_null = true;
    }
    if column.identity.is_some() && nullable == Some(true) {
        return Err(conflicting_null(&column, table));
    }
    table.next_column = column.number + 1;
    table.columns.push(column);
    Ok(constraints)
}

fn same_name(name: &str, other: &Column, table: &Relation, is_new: bool) -> SqlError {
    if other.name != name {
        return SqlError::not_supported(
            format!("the column name \"{name}\" beside \"{}\"", other.name),
            "Names must differ by more than the case of letters.",
        );
    }
    let table = &table.name;
    let message = match is_new {
        true => format!("column \"{name}\" specified more than once"),
        false => format!("column \"{name}\" of relation \"{table}\" already exists"),
    };
    SqlError::new(SqlState::DUPLICATE_COLUMN, message)
}

fn check_collation(collation: &ObjectName) -> Result<(), SqlError> {
    let parts = names::parts(collation)?;
    match parts.last().map(String::as_str) {
        Some("C" | "POSIX" | "default" | "ucs_basic") => Ok(()),
        _ => Err(SqlError::not_supported(
            format!("COLLATE {collation}"),
            "Text is compared by its bytes, as with the collation \"C\".",
        )),
    }
}

/// PostgreSQL's limit, which SQLite's is above.
const MAXIMUM_COLUMNS: i16 = 1600;

fn next_number(table: &Relation) -> Result<i16, SqlError> {
    let last = table.columns.iter().map(|column| column.number).max().unwrap_or(0);
    let next = table.next_column.max(last + 1);
    if next > MAXIMUM_COLUMNS {
        return Err(SqlError::new(
            SqlState("54011"),
            format!("tables can have at most {MAXIMUM_COLUMNS} columns"),
        ));
    }
    Ok(next)
}

fn serial_type(data_type: &DataType) -> Option<PgType> {
    match data_type.to_string().to_ascii_lowercase().as_str() {
        "serial" | "serial4" => Some(PgType::Int4),
        "bigserial" | "serial8" => Some(PgType::Int8),
        "smallserial" | "serial2" => Some(PgType::Int2),
        _ => None,
    }
}

pub(super) fn check_storable(name: &str, data_type: &TypeUse) -> Result<(), SqlError> {
    if !data_type.base.is_pseudo() {
        return Ok(());
    }
    Err(SqlError::new(
        SqlState::INVALID_TABLE_DEFINITION,
        format!("column \"{name}\" has pseudo-type {}", data_type.base.name()),
    ))
}

fn set_nullable(
    nullable: &mut Option<bool>,
    value: bool,
    column: &Column,
    table: &Relation,
) -> Result<(), SqlError> {
    if nullable.is_some_and(|before| before != value) {
        return Err(conflicting_null(column, table));
    }
    *nullable = Some(value);
    Ok(())
}

fn conflicting_null(column: &Column, table: &Relation) -> SqlError {
    SqlError::new(
        SqlState::SYNTAX_ERROR,
        format!(
            "conflicting NULL/NOT NULL declarations for column \"{}\" of table \"{}\"",
            column.name, table.name
        ),
    )
}

/// Sets a default after having checked it.
pub(super) fn set_default(
    change: &Change<'_>,
    column: &mut Column,
    default: &Expr,
    table: &Relation,
) -> Result<(), SqlError> {
    if column.default.is_some() && column.sequence.is_some() {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!(
                "multiple default values specified for column \"{}\" of table \"{}\"",
                column.name, table.name
            ),
        ));
    }
    change.default_value(default, &column.data_type)?;
    column.default = match is_null(default) {
        true => None,
        false => Some(default_text(default, &column.data_type)),
    };
    Ok(())
}

fn is_null(expression: &Expr) -> bool {
    matches!(expression, Expr::Value(value) if value.value == Value::Null)
}

/// As PostgreSQL shows it: a string has its type.
pub(super) fn default_text(default: &Expr, data_type: &TypeUse) -> String {
    match default {
        Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)) => {
            format!("{default}::{}", data_type.base.name())
        }
        Expr::Value(value) if matches!(value.value, Value::Boolean(_)) => {
            default.to_string().to_ascii_lowercase()
        }
        _ => default.to_string(),
    }
}

fn set_generated(
    column: &mut Column,
    expression: &Expr,
    mode: Option<GeneratedExpressionMode>,
) -> Result<(), SqlError> {
    if mode != Some(GeneratedExpressionMode::Stored) {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "a generated column must be STORED"));
    }
    column.generated = true;
    column.default = Some(expression.to_string());
    Ok(())
}

/// Makes an identity column of it.
pub(super) fn set_identity(
    change: &mut Change<'_>,
    table: &Relation,
    column: &mut Column,
    generated_as: &GeneratedAs,
    options: &Options,
) -> Result<(), SqlError> {
    if column.default.is_some() || column.identity.is_some() {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!(
                "both default and identity specified for column \"{}\" of table \"{}\"",
                column.name, table.name
            ),
        ));
    }
    if !matches!(column.data_type.base, PgType::Int2 | PgType::Int4 | PgType::Int8) {
        return Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            "identity column type must be smallint, integer, or bigint",
        ));
    }
    column.identity = Some(match generated_as {
        GeneratedAs::Always => Identity::Always,
        GeneratedAs::ByDefault | GeneratedAs::ExpStored => Identity::ByDefault,
    });
    column.not_null = true;
    let base = column.data_type.base.clone();
    let sequence = sequences::add_owned(change, &table.name, &column.name, &base, options)?;
    column.sequence = Some(sequence);
    Ok(())
}

/// A column's constraint as the table's.
fn constraint(
    given: Option<&Ident>,
    option: &ColumnOption,
    column: &Ident,
) -> Result<TableConstraint, SqlError> {
    let key = || vec![sqlparser::ast::IndexColumn::from(column.clone())];
    match option {
        ColumnOption::PrimaryKey(constraint) => {
            let mut constraint = constraint.clone();
            constraint.name = constraint.name.or(given.cloned());
            constraint.columns = key();
            Ok(TableConstraint::PrimaryKey(constraint))
        }
        ColumnOption::Unique(constraint) => {
            let mut constraint = constraint.clone();
            constraint.name = constraint.name.or(given.cloned());
            constraint.columns = key();
            Ok(TableConstraint::Unique(constraint))
        }
        ColumnOption::Check(constraint) => {
            let mut constraint = constraint.clone();
            constraint.name = constraint.name.or(given.cloned());
            Ok(TableConstraint::Check(constraint))
        }
        ColumnOption::ForeignKey(constraint) => {
            let mut constraint = constraint.clone();
            constraint.name = constraint.name.or(given.cloned());
            constraint.columns = vec![column.clone()];
            Ok(TableConstraint::ForeignKey(constraint))
        }
        other => Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("syntax error at or near \"{other}\""),
        )),
    }
}

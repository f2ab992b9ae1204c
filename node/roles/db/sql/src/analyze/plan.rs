//! A statement as SQLite executes it.

use std::sync::{Arc, OnceLock};

use sqlparser::ast::{self, Query, SetExpr};

use super::Analyzer;
use super::expression::Lifted;
use super::query::QueryColumn;
use crate::result::ResultColumn;
use crate::{Catalog, Context, PgType, Relation, RelationKind, SqlError, SqlState, TypeUse};

/// Which command tag a statement has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    Select,
    Insert,
    Update,
    Delete,
}

/// The values that a statement gives to columns, as far as they can be computed again
/// to tell which key exists already.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct KeyValues {
    pub columns: Vec<String>,
    /// SQLite's text of each value; None if it has an effect or another value next time.
    pub rows: Vec<Vec<Option<String>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub sql: String,
    pub parameters: Vec<PgType>,
    /// Literals that were taken out of the text; SQLite's parameters are these then,
    /// since such a statement has no others.
    pub lifted: Vec<LiftedValue>,
    pub columns: Vec<ResultColumn>,
    pub tag: Tag,
    /// The table that is written.
    pub target: Option<Arc<Relation>>,
    pub keys: KeyValues,
    /// It notes which rows it has touched, as a row more for each.
    pub notes_rows: bool,
    /// Whether it may be used for other sessions and moments.
    pub cacheable: bool,
    /// Whether it changes a few rows only, once somebody has asked.
    pub is_brief: OnceLock<bool>,
}

/// A literal that was taken out, as a value of a type.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct LiftedValue {
    pub lifted: Lifted,
    pub data_type: TypeUse,
}

/// What INSERT, UPDATE and DELETE have in common.
pub(super) struct Change {
    pub sql: String,
    pub returning: Vec<QueryColumn>,
    pub tag: Tag,
    pub target: Arc<Relation>,
    pub keys: KeyValues,
    pub notes_rows: bool,
}

/// Translates a query or DML; `overriding` is for INSERT.
pub(crate) fn plan(
    statement: &ast::Statement,
    overriding: bool,
    parameter_types: &[Option<PgType>],
    catalog: &Catalog,
    context: &Context,
) -> Result<Plan, SqlError> {
    let mut analyzer = Analyzer::new(catalog, context, parameter_types);
    analyzer.overriding = overriding;
    let change = match statement {
        ast::Statement::Query(query) => match dml_of(query) {
            Some(inner) => {
                let with = analyzer.with_clause(query, None)?;
                let change = analyzer.change(inner)?;
                Change { sql: format!("{with}{}", change.sql), ..change }
            }
            None => {
                let text = analyzer.query(query, None)?;
                return Ok(Plan {
                    parameters: analyzer.check_parameters()?,
                    lifted: analyzer.lifted_values,
                    columns: result_columns(&text.columns),
                    sql: text.sql,
                    tag: Tag::Select,
                    target: None,
                    keys: KeyValues::default(),
                    notes_rows: false,
                    cacheable: analyzer.cacheable,
                    is_brief: OnceLock::new(),
                });
            }
        },
        other => analyzer.change(other)?,
    };
    Ok(Plan {
        parameters: analyzer.check_parameters()?,
        lifted: analyzer.lifted_values,
        columns: result_columns(&change.returning),
        sql: change.sql,
        tag: change.tag,
        target: Some(change.target),
        keys: change.keys,
        notes_rows: change.notes_rows,
        cacheable: analyzer.cacheable,
        is_brief: OnceLock::new(),
    })
}

/// `WITH ... INSERT`
fn dml_of(query: &Query) -> Option<&ast::Statement> {
    match &*query.body {
        SetExpr::Insert(statement) | SetExpr::Update(statement) | SetExpr::Delete(statement) => {
            Some(statement)
        }
        _ => None,
    }
}

pub(super) fn result_columns(columns: &[QueryColumn]) -> Vec<ResultColumn> {
    columns
        .iter()
        .map(|column| ResultColumn {
            name: column.name.clone(),
            data_type: column.data_type.clone(),
            table_oid: column.origin.map_or(0, |origin| origin.table_oid),
            column_number: column.origin.map_or(0, |origin| origin.column_number),
            format: 0,
        })
        .collect()
}

impl Analyzer<'_> {
    fn change(&mut self, statement: &ast::Statement) -> Result<Change, SqlError> {
        match statement {
            ast::Statement::Insert(insert) => self.insert(insert),
            ast::Statement::Update(update) => self.update(update),
            ast::Statement::Delete(delete) => self.delete(delete),
            _ => Err(SqlError::new(SqlState::INTERNAL, "a statement that has no plan")),
        }
    }

    /// A table that may be written.
    pub(super) fn target(&mut self, name: &ast::ObjectName) -> Result<Arc<Relation>, SqlError> {
        let (schema, table) = super::scope::schema_and_name(name)?;
        let relation = self.relation(schema.as_deref(), &table)?;
        if !self.catalog.relations.contains_key(&relation.name) || relation.oid < 16_384 {
            return Err(SqlError::new(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("permission denied for table {table}"),
            ));
        }
        if relation.kind == RelationKind::View {
            return Err(SqlError::not_supported(
                format!("changing the view \"{table}\""),
                "Change the tables that it reads.",
            ));
        }
        Ok(relation)
    }
}

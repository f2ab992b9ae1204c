//! From PostgreSQL's statements to SQLite's: names are resolved, every expression gets
//! a type, and what is written for SQLite means what PostgreSQL means.
//!
//! SQLite sees each relation under a name of this module's own (`r1`, `w2` for WITH),
//! and the columns of a query as `c1`, `c2`, ..., so that it can mistake no name.

mod calls;
mod casts;
mod delete;
mod expression;
mod from;
mod insert;
mod names;
mod operators;
mod ordering;
mod plan;
mod query;
mod resolve;
mod returning;
mod scope;
mod select;
mod subquery;
mod table_functions;
mod translate;
mod types;
mod update;
pub(crate) mod window_functions;
mod with;

use std::sync::Arc;

use sqlparser::ast::{Expr, Query};

use crate::context::Context;
use crate::result::ResultColumn;
use crate::{Catalog, PgType, Relation, SqlError, SqlState, TypeUse};
use casts::Conversion;
use expression::Expression;
pub(crate) use expression::quoted;
pub(crate) use plan::{LiftedValue, Plan, Tag, plan};
use query::NamedQuery;
use scope::{Place, Relations, Scope, ScopeRelation};
pub(crate) use types::type_use;

/// Queries and expressions within each other; the parser has its own bound.
const MAXIMUM_DEPTH: usize = 600;

/// Works on one statement.
pub(crate) struct Analyzer<'a> {
    catalog: &'a Catalog,
    context: &'a Context,
    /// Types of `$1`, ... as far as they are known.
    parameters: Vec<Option<PgType>>,
    /// Literals that were taken out of the text, as they are used.
    lifted_values: Vec<LiftedValue>,
    alias_count: usize,
    named_queries: Vec<NamedQuery>,
    depth: usize,
    /// Whether what was written is right for other sessions and moments too.
    pub cacheable: bool,
    /// Whether functions of the statement may read the context.
    pub reads_context: bool,
    /// INSERT gives values to identity columns that are always generated.
    overriding: bool,
    /// What UPDATE gives to columns, so far.
    assigned_values: Vec<(String, String)>,
}

/// A query in SQLite's language.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct TranslatedQuery {
    pub text: String,
    pub columns: Vec<ResultColumn>,
}

/// Translates an expression over the columns of one relation: a check constraint, an
/// index key, its condition.
pub(crate) fn translate_expression(
    expression: &Expr,
    relation: Option<&Relation>,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let mut analyzer = Analyzer::new(catalog, context, &[]);
    let relations = relation.map(own_columns).unwrap_or_default();
    let scope = Scope::new(&relations, Place::Catalog, None);
    let understood = analyzer.expression(expression, scope)?;
    analyzer.sql_of(understood)
}

/// The type of an expression over the columns of one relation.
pub(crate) fn type_of_expression(
    expression: &Expr,
    relation: Option<&Relation>,
    catalog: &Catalog,
    context: &Context,
) -> Result<TypeUse, SqlError> {
    let mut analyzer = Analyzer::new(catalog, context, &[]);
    let relations = relation.map(own_columns).unwrap_or_default();
    let scope = Scope::new(&relations, Place::Catalog, None);
    let understood = analyzer.expression(expression, scope)?;
    Ok(analyzer.settle(understood)?.data_type)
}

/// Translates an expression and converts it as an assignment to a column does: a
/// default, a generated column.
pub(crate) fn translate_assignment(
    expression: &Expr,
    target: &TypeUse,
    relation: Option<&Relation>,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let mut analyzer = Analyzer::new(catalog, context, &[]);
    let relations = relation.map(own_columns).unwrap_or_default();
    let scope = Scope::new(&relations, Place::Catalog, None);
    let understood = analyzer.expression(expression, scope)?;
    let converted = analyzer.convert(understood, target, Conversion::Assignment)?;
    analyzer.sql_of(converted)
}

/// Translates a query without parameters: that of a view or of CREATE TABLE AS.
pub(crate) fn translate_query(
    query: &Query,
    catalog: &Catalog,
    context: &Context,
) -> Result<TranslatedQuery, SqlError> {
    let mut analyzer = Analyzer::new(catalog, context, &[]);
    let text = analyzer.query(query, None)?;
    analyzer.check_parameters()?;
    Ok(TranslatedQuery { columns: plan::result_columns(&text.columns), text: text.sql })
}

/// The columns of a relation by their names alone, as SQLite's constraints have them.
fn own_columns(relation: &Relation) -> Relations {
    Relations::one(ScopeRelation {
        name: relation.name.clone(),
        columns: from::table_columns(relation, ""),
        key: Vec::new(),
        out_of_reach: None,
        is_function: false,
    })
}

impl<'a> Analyzer<'a> {
    pub fn new(
        catalog: &'a Catalog,
        context: &'a Context,
        parameter_types: &[Option<PgType>],
    ) -> Self {
        let known = |given: &Option<PgType>| given.clone().filter(|base| *base != PgType::Unknown);
        Self {
            catalog,
            context,
            parameters: parameter_types.iter().map(known).collect(),
            lifted_values: Vec::new(),
            alias_count: 0,
            named_queries: Vec::new(),
            depth: 0,
            cacheable: true,
            reads_context: false,
            overriding: false,
            assigned_values: Vec::new(),
        }
    }

    fn next_alias(&mut self) -> String {
        self.alias_count += 1;
        format!("r{}", self.alias_count)
    }

    fn cte(&self, name: &str) -> Option<&NamedQuery> {
        self.named_queries.iter().rev().find(|query| query.name == name)
    }

    fn parameter_type(&self, number: usize) -> Option<PgType> {
        self.parameters.get(number - 1).cloned().flatten()
    }

    fn use_parameter(&mut self, number: usize) {
        if self.parameters.len() < number {
            self.parameters.resize(number, None);
        }
    }

    fn decide_parameter(&mut self, number: usize, base: PgType) {
        self.use_parameter(number);
        self.parameters[number - 1] = Some(base);
    }

    /// Goes one level deeper, on a larger stack where this one ends.
    fn nested<R>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<R, SqlError>,
    ) -> Result<R, SqlError> {
        if self.depth >= MAXIMUM_DEPTH {
            return Err(SqlError::new(SqlState("54001"), "stack depth limit exceeded")
                .hint(format!("Nest expressions less than {MAXIMUM_DEPTH} deep.")));
        }
        self.depth += 1;
        let result = stacker::maybe_grow(256 << 10, 2 << 20, || work(self));
        self.depth -= 1;
        result
    }

    /// A table, view or relation of the system.
    fn relation(&mut self, schema: Option<&str>, name: &str) -> Result<Arc<Relation>, SqlError> {
        let missing = || {
            let full = schema.map_or_else(|| name.to_owned(), |schema| format!("{schema}.{name}"));
            SqlError::new(SqlState::UNDEFINED_TABLE, format!("relation \"{full}\" does not exist"))
        };
        match schema {
            Some("public") => self.catalog.relations.get(name).cloned().ok_or_else(missing),
            Some(schema) => self.system_relation(schema, name).ok_or_else(missing),
            None => {
                if let Some(found) = self.system_relation("pg_catalog", name) {
                    return Ok(found);
                }
                let in_public = self.context.searches("public");
                let found = self.catalog.relations.get(name).filter(|_| in_public);
                found.cloned().ok_or_else(missing)
            }
        }
    }

    fn system_relation(&mut self, schema: &str, name: &str) -> Option<Arc<Relation>> {
        let found = crate::system::find(Some(schema), name)?;
        Some(found.relation.clone())
    }

    /// Every parameter up to the last one must have a type by now.
    fn check_parameters(&self) -> Result<Vec<PgType>, SqlError> {
        let mut types = Vec::with_capacity(self.parameters.len());
        for (index, base) in self.parameters.iter().enumerate() {
            types.push(base.clone().ok_or_else(|| {
                SqlError::new(
                    SqlState::INDETERMINATE_DATATYPE,
                    format!("could not determine data type of parameter ${}", index + 1),
                )
            })?);
        }
        Ok(types)
    }

    /// An expression as the value of a column.
    fn assigned(
        &mut self,
        expression: Expression,
        column: &crate::Column,
    ) -> Result<String, SqlError> {
        let from = expression.base().clone();
        let converted = self.convert(expression, &column.data_type, Conversion::Assignment);
        let converted = converted.map_err(|error| {
            if error.state == SqlState("42846") {
                return assignment_mismatch(&column.name, &column.data_type.base, &from);
            }
            error
        })?;
        self.sql_of(converted)
    }
}

fn assignment_mismatch(column: &str, to: &PgType, from: &PgType) -> SqlError {
    SqlError::new(
        SqlState::DATATYPE_MISMATCH,
        format!(
            "column \"{column}\" is of type {} but expression is of type {}",
            to.name(),
            from.name()
        ),
    )
    .hint("You will need to rewrite or cast the expression.")
}

//! WITH: queries that other queries name.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Cte, CteAsMaterialized, ObjectName, Query, SetExpr, SetOperator, Visit, Visitor,
};

use super::Analyzer;
use super::casts::{Conversion, common_type};
use super::ordering::check_groupable;
use super::query::{NamedQuery, QueryColumn, QueryText, set_operator};
use super::scope::{Scope, folded, schema_and_name};
use crate::{SqlError, SqlState, TypeUse};

impl Analyzer<'_> {
    /// `WITH ...` with a space after it, or nothing.
    pub fn with_clause(
        &mut self,
        query: &Query,
        parent: Option<&Scope<'_>>,
    ) -> Result<String, SqlError> {
        let Some(with) = &query.with else { return Ok(String::new()) };
        let mut parts = Vec::with_capacity(with.cte_tables.len());
        for cte in &with.cte_tables {
            parts.push(self.named_query(cte, with.recursive, parent)?);
        }
        Ok(format!("WITH {} ", parts.join(", ")))
    }

    fn named_query(
        &mut self,
        cte: &Cte,
        may_recurse: bool,
        parent: Option<&Scope<'_>>,
    ) -> Result<String, SqlError> {
        let name = folded(&cte.alias.name);
        let renamed: Vec<String> =
            cte.alias.columns.iter().map(|column| folded(&column.name)).collect();
        self.alias_count += 1;
        let sql_name = format!("w{}", self.alias_count);
        let text = if may_recurse && mentions(&cte.query, &name) {
            self.recursive_query(&cte.query, &name, &sql_name, &renamed, parent)?
        } else {
            self.query(&cte.query, parent)?
        };
        let columns = named_columns(&text, &renamed, &name)?;
        let positions: Vec<String> = (1..=columns.len()).map(|n| format!("c{n}")).collect();
        let hint = match cte.materialized {
            Some(CteAsMaterialized::Materialized) => "MATERIALIZED ",
            Some(CteAsMaterialized::NotMaterialized) => "NOT MATERIALIZED ",
            None => "",
        };
        let part = format!("{sql_name}({}) AS {hint}({})", positions.join(", "), text.sql);
        self.named_queries.push(NamedQuery { name, sql_name, columns });
        Ok(part)
    }

    /// The part that does not refer to itself gives the types.
    fn recursive_query(
        &mut self,
        query: &Query,
        name: &str,
        sql_name: &str,
        renamed: &[String],
        parent: Option<&Scope<'_>>,
    ) -> Result<QueryText, SqlError> {
        let SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier, right } =
            &*query.body
        else {
            return Err(SqlError::new(
                SqlState("42P19"),
                format!(
                    "recursive query \"{name}\" does not have the form non-recursive-term UNION \
                     [ALL] recursive-term"
                ),
            ));
        };
        if query.order_by.is_some() || query.limit_clause.is_some() {
            return Err(SqlError::not_supported(
                "ORDER BY or LIMIT in a recursive query",
                "Put it into the query that reads from it.",
            ));
        }
        let known = self.named_queries.len();
        let with = self.with_clause(query, parent)?;
        let operator = set_operator(SetOperator::Union, *set_quantifier)?;
        let left = self.body(left, &[], parent)?;
        let types: Vec<TypeUse> =
            left.columns().iter().map(|output| self.settled_type(&output.expression)).collect();
        let columns: Vec<QueryColumn> = left
            .columns()
            .iter()
            .zip(&types)
            .map(|(output, data_type)| QueryColumn {
                name: output.name.clone(),
                data_type: data_type.clone(),
                origin: None,
                not_null: false,
            })
            .collect();
        let left = self.body_text(left, &types, Conversion::Implicit)?;
        let itself = QueryText { sql: String::new(), columns };
        self.named_queries.push(NamedQuery {
            name: name.to_owned(),
            sql_name: sql_name.to_owned(),
            columns: named_columns(&itself, renamed, name)?,
        });
        let right = self.body(right, &[], parent)?;
        if right.columns().len() != types.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "each UNION query must have the same number of columns",
            ));
        }
        for (index, (output, own)) in right.columns().iter().zip(&types).enumerate() {
            let both = common_type(&[own, &output.expression.data_type], "UNION")?;
            if operator != "UNION ALL" {
                check_groupable(&both.base)?;
            }
            if both.base != own.base {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term \
                         but type {} overall",
                        index + 1,
                        own.base.name(),
                        both.base.name()
                    ),
                )
                .hint("Cast the output of the non-recursive term to the correct type."));
            }
        }
        let right = self.body_text(right, &types, Conversion::Implicit)?;
        self.named_queries.truncate(known);
        Ok(QueryText { sql: format!("{with}{left} {operator} {right}"), columns: itself.columns })
    }
}

fn named_columns(
    text: &QueryText,
    renamed: &[String],
    name: &str,
) -> Result<Vec<(String, TypeUse)>, SqlError> {
    if renamed.len() > text.columns.len() {
        return Err(SqlError::new(
            SqlState("42P10"),
            format!(
                "WITH query \"{name}\" has {} columns available but {} columns specified",
                text.columns.len(),
                renamed.len()
            ),
        ));
    }
    let columns = text.columns.iter().enumerate();
    Ok(columns
        .map(|(index, column)| {
            let name = renamed.get(index).unwrap_or(&column.name);
            (name.clone(), column.data_type.clone())
        })
        .collect())
}

/// Whether a query reads from a relation of this name.
fn mentions(query: &Query, name: &str) -> bool {
    struct Search<'n>(&'n str);
    impl Visitor for Search<'_> {
        type Break = ();

        fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
            match schema_and_name(relation) {
                Ok((None, name)) if name == self.0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    query.visit(&mut Search(name)).is_break()
}

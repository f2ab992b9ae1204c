//! FROM: tables, views, subqueries, functions, joins.

use sqlparser::ast::{
    FunctionArg, FunctionArgExpr, Join, JoinConstraint, JoinOperator, ObjectName, Query, SetExpr,
    TableAlias, TableFactor, TableWithJoins,
};

use super::Analyzer;
use super::expression::{Origin, quoted};
use super::scope::{
    Place, Relations, Scope, ScopeColumn, ScopeRelation, VisibleColumn, folded, name_parts,
    schema_and_name,
};
use crate::{ConstraintKind, Relation, SqlError, SqlState, TypeUse};

/// A part of FROM: SQLite's text and what it provides.
pub(crate) struct FromText {
    pub sql: String,
    pub relations: Relations,
}

impl Analyzer<'_> {
    /// The whole FROM clause, without the word. Functions see what stands before them.
    pub fn relations_of(
        &mut self,
        from: &[TableWithJoins],
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let mut whole = FromText { sql: String::new(), relations: Relations::default() };
        for item in from {
            let one = self.joined(item, &whole.relations, parent)?;
            if !whole.sql.is_empty() {
                whole.sql.push_str(", ");
            }
            // SQLite's comma binds as tightly as JOIN.
            let reverses = item.joins.iter().any(|join| {
                !matches!(
                    join.join_operator,
                    JoinOperator::Join(_)
                        | JoinOperator::Inner(_)
                        | JoinOperator::CrossJoin(_)
                        | JoinOperator::Left(_)
                        | JoinOperator::LeftOuter(_)
                )
            });
            if from.len() > 1 && reverses {
                whole.sql.push_str(&format!("({})", one.sql));
            } else {
                whole.sql.push_str(&one.sql);
            }
            whole.relations.append(one.relations)?;
        }
        Ok(whole)
    }

    fn joined(
        &mut self,
        item: &TableWithJoins,
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let mut left = self.factor(&item.relation, before, parent)?;
        for join in &item.joins {
            let mut seen = before.clone();
            seen.append(left.relations.clone())?;
            let right = self.factor(&join.relation, &seen, parent)?;
            left = self.join(left, right, join, parent)?;
        }
        Ok(left)
    }

    fn join(
        &mut self,
        left: FromText,
        right: FromText,
        join: &Join,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        use JoinOperator as J;
        let (words, constraint, left_null, right_null) = match &join.join_operator {
            J::Join(on) | J::Inner(on) => ("JOIN", on, false, false),
            J::CrossJoin(on) => ("JOIN", on, false, false),
            J::Left(on) | J::LeftOuter(on) => ("LEFT JOIN", on, false, true),
            J::Right(on) | J::RightOuter(on) => ("RIGHT JOIN", on, true, false),
            J::FullOuter(on) => ("FULL JOIN", on, true, true),
            other => {
                let message = format!("this kind of join ({other:?})");
                return Err(SqlError::not_supported(message, "Use INNER, LEFT, RIGHT or FULL."));
            }
        };
        let shared = match constraint {
            JoinConstraint::Using(names) => {
                let mut shared = Vec::with_capacity(names.len());
                for name in names {
                    shared.extend(name_parts(name)?.pop());
                }
                shared
            }
            JoinConstraint::Natural => shared_names(&left.relations, &right.relations),
            _ => Vec::new(),
        };
        let (mut left_relations, mut right_relations) = (left.relations, right.relations);
        if left_null {
            left_relations.may_be_null();
        }
        if right_null {
            right_relations.may_be_null();
        }
        let offset = left_relations.relations.len();
        let right_visible = right_relations.visible.clone();
        let left_count = left_relations.visible.len();
        left_relations.append(right_relations)?;
        let mut conditions = Vec::new();
        if !shared.is_empty() {
            let left_visible = left_relations.visible[..left_count].to_vec();
            let merged = self.merge(&left_visible, &right_visible, &shared, words, offset)?;
            left_relations.visible = merged.visible;
            conditions = merged.conditions;
        }
        if let JoinConstraint::On(condition) = constraint {
            let scope = Scope::new(&left_relations, Place::JoinCondition, parent);
            conditions.push(self.condition(condition, "JOIN/ON", scope)?);
        }
        let on = match conditions.as_slice() {
            [] if words == "JOIN" => String::new(),
            [] => " ON 1".to_owned(),
            conditions => format!(" ON {}", conditions.join(" AND ")),
        };
        let sql = if right.sql.is_empty() {
            left.sql
        } else if left.sql.is_empty() {
            right.sql
        } else {
            format!("{} {words} {}{on}", left.sql, right.sql)
        };
        Ok(FromText { sql, relations: left_relations })
    }

    /// USING and NATURAL: shared columns come once, first.
    fn merge(
        &mut self,
        left: &[VisibleColumn],
        right: &[VisibleColumn],
        shared: &[String],
        words: &str,
        offset: usize,
    ) -> Result<Merged, SqlError> {
        let mut merged = Merged::default();
        for name in shared {
            let a = only(left, name, "left")?;
            let b = only(right, name, "right")?;
            let (left_column, right_column) = (reference(&a.column), reference(&b.column));
            let (left_sql, right_sql, base) = self.comparable(left_column, "=", right_column)?;
            let suffix = super::operators::collate_suffix(&base);
            merged.conditions.push(format!("({left_sql} = {right_sql}{suffix})"));
            let mut column = a.column.clone();
            if words == "RIGHT JOIN" {
                column = b.column.clone();
            } else if words == "FULL JOIN" {
                column.sql = format!("coalesce({left_sql}, {right_sql})");
                column.data_type = TypeUse { base, modifier: -1 };
                column.origin = None;
            }
            merged.visible.push(VisibleColumn { relation: a.relation, column });
        }
        let rest = |side: &[VisibleColumn], offset: usize| -> Vec<VisibleColumn> {
            side.iter()
                .filter(|visible| !shared.contains(&visible.column.name))
                .map(|visible| VisibleColumn {
                    relation: visible.relation + offset,
                    column: visible.column.clone(),
                })
                .collect()
        };
        merged.visible.extend(rest(left, 0));
        merged.visible.extend(rest(right, offset));
        Ok(merged)
    }

    fn factor(
        &mut self,
        factor: &TableFactor,
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                sample: None,
                with_ordinality: false,
                ..
            } => self.table(name, alias.as_ref()),
            TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. } => self
                .table_function(name, &args.args, *with_ordinality, alias.as_ref(), before, parent),
            TableFactor::Function { name, args, with_ordinality, alias, .. } => {
                self.table_function(name, args, *with_ordinality, alias.as_ref(), before, parent)
            }
            TableFactor::UNNEST { alias, array_exprs, with_ordinality, .. } => {
                let name = ObjectName::from(vec![sqlparser::ast::Ident::new("unnest")]);
                let args: Vec<FunctionArg> = array_exprs
                    .iter()
                    .map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr.clone())))
                    .collect();
                self.table_function(&name, &args, *with_ordinality, alias.as_ref(), before, parent)
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                self.derived(subquery, alias.as_ref(), parent)
            }
            TableFactor::Derived { lateral: true, subquery, alias, .. } => {
                self.lateral(subquery, alias.as_ref(), before, parent)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                let inner = self.joined(table_with_joins, before, parent)?;
                Ok(FromText { sql: format!("({})", inner.sql), ..inner })
            }
            other => Err(SqlError::not_supported(
                format!("this in FROM: {other}"),
                "Use tables, subqueries, functions and joins.",
            )),
        }
    }

    fn table(
        &mut self,
        name: &ObjectName,
        alias: Option<&TableAlias>,
    ) -> Result<FromText, SqlError> {
        let (schema, table) = schema_and_name(name)?;
        if schema.is_none()
            && let Some(cte) = self.cte(&table)
        {
            let (sql_name, columns) = (cte.sql_name.clone(), cte.columns.clone());
            let own = self.next_alias();
            let columns = positional(&own, &columns);
            let relation = named(table, columns, alias, Vec::new())?;
            return Ok(FromText {
                sql: format!("{sql_name} AS {own}"),
                relations: Relations::one(relation),
            });
        }
        let found = self.relation(schema.as_deref(), &table)?;
        let own = self.next_alias();
        let relation = named(table, table_columns(&found, &own), alias, key_of(&found))?;
        Ok(FromText {
            sql: format!("{} AS {own}", quoted(&found.name)),
            relations: Relations::one(relation),
        })
    }

    fn derived(
        &mut self,
        subquery: &Query,
        alias: Option<&TableAlias>,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let Some(alias) = alias else {
            let message = match &*subquery.body {
                SetExpr::Values(_) => "VALUES in FROM must have an alias",
                _ => "subquery in FROM must have an alias",
            };
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, message)
                .hint("For example, FROM (SELECT ...) [AS] foo."));
        };
        let inner = self.query(subquery, parent)?;
        let own = self.next_alias();
        let columns: Vec<(String, TypeUse)> =
            inner.columns.iter().map(|c| (c.name.clone(), c.data_type.clone())).collect();
        let mut columns = positional(&own, &columns);
        for (column, inner) in columns.iter_mut().zip(&inner.columns) {
            column.origin = inner.origin;
        }
        let relation = named(String::new(), columns, Some(alias), Vec::new())?;
        Ok(FromText {
            sql: format!("({}) AS {own}", inner.sql),
            relations: Relations::one(relation),
        })
    }

    /// LATERAL of a query without FROM only names expressions; SQLite has no other.
    fn lateral(
        &mut self,
        subquery: &Query,
        alias: Option<&TableAlias>,
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let refused = || {
            SqlError::not_supported(
                "LATERAL with a subquery",
                "Join with a grouped subquery, or use a subquery in the select list.",
            )
        };
        let SetExpr::Select(select) = &*subquery.body else { return Err(refused()) };
        let plain = select.from.is_empty()
            && select.selection.is_none()
            && select.distinct.is_none()
            && select.having.is_none()
            && subquery.limit_clause.is_none()
            && subquery.with.is_none();
        if !plain {
            return Err(refused());
        }
        let mut columns = Vec::with_capacity(select.projection.len());
        let scope = Scope::new(before, Place::FunctionInFrom, parent);
        for item in &select.projection {
            let (name, expr) = super::select::named_item(item).ok_or_else(refused)?;
            let expression = self.expression(expr, scope)?;
            let expression = self.settle(expression)?;
            columns.push(ScopeColumn {
                name,
                data_type: expression.data_type.clone(),
                origin: None,
                not_null: false,
                sql: self.sql_of(expression)?,
            });
        }
        let relation = named(String::new(), columns, alias, Vec::new())?;
        Ok(FromText { sql: String::new(), relations: Relations::one(relation) })
    }
}

#[derive(Default)]
struct Merged {
    visible: Vec<VisibleColumn>,
    conditions: Vec<String>,
}

fn reference(column: &ScopeColumn) -> super::expression::Expression {
    super::expression::Expression::typed(column.sql.clone(), column.data_type.clone())
}

fn only<'c>(
    columns: &'c [VisibleColumn],
    name: &str,
    side: &str,
) -> Result<&'c VisibleColumn, SqlError> {
    let mut matches = columns.iter().filter(|visible| visible.column.name == name);
    match (matches.next(), matches.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(SqlError::new(
            SqlState::AMBIGUOUS_COLUMN,
            format!("common column name \"{name}\" appears more than once in {side} table"),
        )),
        _ => Err(SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" specified in USING clause does not exist in {side} table"),
        )),
    }
}

fn shared_names(left: &Relations, right: &Relations) -> Vec<String> {
    let right: Vec<&str> = right.visible.iter().map(|v| v.column.name.as_str()).collect();
    let names = left.visible.iter().map(|visible| &visible.column.name);
    names.filter(|name| right.contains(&name.as_str())).cloned().collect()
}

/// Columns that SQLite knows as c1, c2, ...
fn positional(own: &str, columns: &[(String, TypeUse)]) -> Vec<ScopeColumn> {
    let numbered = columns.iter().enumerate();
    numbered
        .map(|(index, (name, data_type))| ScopeColumn {
            name: name.clone(),
            sql: format!("{own}.c{}", index + 1),
            data_type: data_type.clone(),
            origin: None,
            not_null: false,
        })
        .collect()
}

/// The columns of a table or view; `own` is SQLite's name for it in this statement.
pub(super) fn table_columns(relation: &Relation, own: &str) -> Vec<ScopeColumn> {
    let columns = relation.columns.iter();
    columns
        .map(|column| ScopeColumn {
            name: column.name.clone(),
            sql: match own {
                "" => quoted(&column.name),
                own => format!("{own}.{}", quoted(&column.name)),
            },
            data_type: column.data_type.clone(),
            origin: Some(Origin { table_oid: relation.oid, column_number: column.number }),
            not_null: column.not_null,
        })
        .collect()
}

pub(super) fn key_of(relation: &Relation) -> Vec<String> {
    let mut constraints = relation.constraints.iter();
    let key = constraints.find(|constraint| constraint.kind == ConstraintKind::PrimaryKey);
    key.map(|key| key.columns.clone()).unwrap_or_default()
}

/// Names a relation and its columns as its alias says.
pub(super) fn named(
    name: String,
    mut columns: Vec<ScopeColumn>,
    alias: Option<&TableAlias>,
    key: Vec<String>,
) -> Result<ScopeRelation, SqlError> {
    let Some(alias) = alias else {
        return Ok(ScopeRelation { name, columns, key, out_of_reach: None, is_function: false });
    };
    let name = folded(&alias.name);
    if alias.columns.len() > columns.len() {
        return Err(SqlError::new(
            SqlState("42P10"),
            format!(
                "table \"{name}\" has {} columns available but {} columns specified",
                columns.len(),
                alias.columns.len()
            ),
        ));
    }
    for (column, renamed) in columns.iter_mut().zip(&alias.columns) {
        if renamed.data_type.is_some() {
            return Err(SqlError::not_supported(
                "a list of columns with types in FROM",
                "Take the parts from the JSON value with -> and ->>.",
            ));
        }
        column.name = folded(&renamed.name);
    }
    let key = if alias.columns.is_empty() { key } else { Vec::new() };
    Ok(ScopeRelation { name, columns, key, out_of_reach: None, is_function: false })
}

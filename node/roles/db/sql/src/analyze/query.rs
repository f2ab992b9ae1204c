//! Queries: WITH, set operations, VALUES, ORDER BY and LIMIT of the whole.

use sqlparser::ast::{
    Expr, Fetch, LimitClause, LockClause, NonBlock, OrderByExpr, Query, SetExpr, SetOperator,
    SetQuantifier,
};

use super::Analyzer;
use super::casts::{Conversion, common_type};
use super::expression::{Expression, Origin, collated};
use super::ordering::{Direction, check_groupable, check_sortable, order_items, ordinal};
use super::scope::{Place, Relations, Scope, folded};
use super::select::{Output, SelectText};
use crate::{PgType, SqlError, SqlState, TypeUse};

/// A column of a finished query.
#[derive(Clone, Debug)]
pub(crate) struct QueryColumn {
    pub name: String,
    pub data_type: TypeUse,
    pub origin: Option<Origin>,
    pub not_null: bool,
}

/// A finished query; SQLite knows its columns as c1, c2, ...
#[derive(Clone, Debug)]
pub(crate) struct QueryText {
    pub sql: String,
    pub columns: Vec<QueryColumn>,
}

/// A query whose column types are not final.
pub(super) enum Body {
    Select(SelectText),
    Values {
        rows: Vec<Vec<Expression>>,
        columns: Vec<Output>,
    },
    Set {
        left: Box<Body>,
        operator: &'static str,
        right: Box<Body>,
        columns: Vec<Output>,
    },
    /// In parentheses, with its own ORDER BY or LIMIT.
    Finished {
        text: QueryText,
        columns: Vec<Output>,
    },
}

/// A query that WITH names.
#[derive(Clone, Debug)]
pub(crate) struct NamedQuery {
    pub name: String,
    pub sql_name: String,
    pub columns: Vec<(String, TypeUse)>,
}

impl Body {
    pub fn columns(&self) -> &[Output] {
        match self {
            Self::Select(select) => &select.columns,
            Self::Values { columns, .. }
            | Self::Set { columns, .. }
            | Self::Finished { columns, .. } => columns,
        }
    }

    /// Whether its text ends with an ORDER BY of its own.
    fn is_ordered(&self) -> bool {
        matches!(self, Self::Select(select) if !select.distinct_on.is_empty())
    }
}

impl Analyzer<'_> {
    /// A query whose columns have the types that it gives them.
    pub fn query(
        &mut self,
        query: &Query,
        parent: Option<&Scope<'_>>,
    ) -> Result<QueryText, SqlError> {
        self.query_as(query, parent, None)
    }

    /// A query whose columns are assigned to columns of the given types.
    pub fn query_as(
        &mut self,
        query: &Query,
        parent: Option<&Scope<'_>>,
        targets: Option<&[TypeUse]>,
    ) -> Result<QueryText, SqlError> {
        let known = self.named_queries.len();
        let text = self.nested(|analyzer| analyzer.query_with(query, parent, targets));
        self.named_queries.truncate(known);
        text
    }

    fn query_with(
        &mut self,
        query: &Query,
        parent: Option<&Scope<'_>>,
        targets: Option<&[TypeUse]>,
    ) -> Result<QueryText, SqlError> {
        check_plain(query)?;
        if let (SetExpr::Query(inner), true) = (&*query.body, adds_nothing(query)) {
            return self.query_as(inner, parent, targets);
        }
        let with = self.with_clause(query, parent)?;
        let order_by = order_items(query.order_by.as_ref())?;
        let body = self.body(&query.body, order_by, parent)?;
        let mut types = Vec::with_capacity(body.columns().len());
        for (index, output) in body.columns().iter().enumerate() {
            types.push(match targets.and_then(|targets| targets.get(index)) {
                Some(target) => target.clone(),
                None => self.settled_type(&output.expression),
            });
        }
        let why = if targets.is_some() { Conversion::Assignment } else { Conversion::Implicit };
        let columns: Vec<QueryColumn> = body
            .columns()
            .iter()
            .zip(&types)
            .map(|(output, data_type)| QueryColumn {
                name: output.name.clone(),
                data_type: data_type.clone(),
                origin: output.expression.origin,
                not_null: output.expression.not_null,
            })
            .collect();
        let is_select = matches!(body, Body::Select(_));
        let outputs = body.columns().to_vec();
        let mut sql = self.body_text(body, &types, why)?;
        if !is_select && !order_by.is_empty() {
            let order = combined_order(order_by, &outputs)?;
            sql.push_str(&format!(" ORDER BY {order}"));
        }
        let limit = self.limit(query, parent)?;
        Ok(QueryText { sql: format!("{with}{sql}{limit}"), columns })
    }

    pub(super) fn settled_type(&self, expression: &Expression) -> TypeUse {
        if let super::expression::Form::Parameter(number) = expression.form
            && let Some(base) = self.parameter_type(number)
        {
            return TypeUse { base, modifier: -1 };
        }
        match expression.base() {
            PgType::Unknown => TypeUse { base: PgType::Text, modifier: -1 },
            _ => expression.data_type.clone(),
        }
    }

    pub(super) fn body(
        &mut self,
        body: &SetExpr,
        order_by: &[OrderByExpr],
        parent: Option<&Scope<'_>>,
    ) -> Result<Body, SqlError> {
        match body {
            SetExpr::Select(select) => self.select(select, order_by, parent).map(Body::Select),
            SetExpr::Values(values) => {
                let rows: Vec<&[Expr]> =
                    values.rows.iter().map(|row| row.content.as_slice()).collect();
                self.values(&rows, parent)
            }
            SetExpr::Query(query) => {
                let text = self.query(query, parent)?;
                let columns = finished_outputs(&text);
                Ok(Body::Finished { text, columns })
            }
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let operator = set_operator(*op, *set_quantifier)?;
                let left = self.nested(|analyzer| analyzer.body(left, &[], parent))?;
                let right = self.body(right, &[], parent)?;
                self.combined(left, operator, right)
            }
            SetExpr::Table(table) => {
                let name = table.table_name.clone().unwrap_or_default();
                let query = crate::parse::parse_query(&format!("SELECT * FROM {name}"))?;
                let text = self.query(&query, parent)?;
                let columns = finished_outputs(&text);
                Ok(Body::Finished { text, columns })
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                Err(data_in_with())
            }
        }
    }

    fn combined(
        &mut self,
        left: Body,
        operator: &'static str,
        right: Body,
    ) -> Result<Body, SqlError> {
        let word = operator.split(' ').next().unwrap_or(operator);
        if left.columns().len() != right.columns().len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("each {word} query must have the same number of columns"),
            ));
        }
        let mut columns = Vec::with_capacity(left.columns().len());
        for (a, b) in left.columns().iter().zip(right.columns()) {
            let data_type = common_type(&[&a.expression.data_type, &b.expression.data_type], word)?;
            if operator != "UNION ALL" {
                check_groupable(&data_type.base)?;
            }
            let mut expression = Expression::typed("", data_type);
            expression.not_null = a.expression.not_null && b.expression.not_null;
            columns.push(Output { name: a.name.clone(), expression, source: None });
        }
        Ok(Body::Set { left: Box::new(left), operator, right: Box::new(right), columns })
    }

    fn values(&mut self, rows: &[&[Expr]], parent: Option<&Scope<'_>>) -> Result<Body, SqlError> {
        let nothing = Relations::default();
        let scope = Scope::new(&nothing, Place::Values, parent);
        let mut understood = Vec::with_capacity(rows.len());
        for row in rows {
            if row.len() != rows[0].len() {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "VALUES lists must all be the same length",
                ));
            }
            let mut values = Vec::with_capacity(row.len());
            for expr in *row {
                values.push(self.expression(expr, scope)?);
            }
            understood.push(values);
        }
        let width = understood.first().map_or(0, Vec::len);
        let mut columns = Vec::with_capacity(width);
        for index in 0..width {
            let types: Vec<&TypeUse> = understood.iter().map(|row| &row[index].data_type).collect();
            let data_type = if types.iter().all(|one| one.base == PgType::Unknown) {
                TypeUse { base: PgType::Unknown, modifier: -1 }
            } else {
                common_type(&types, "VALUES")?
            };
            let mut expression = Expression::typed("", data_type);
            expression.not_null = understood.iter().all(|row| row[index].not_null);
            let name = format!("column{}", index + 1);
            columns.push(Output { name, expression, source: None });
        }
        Ok(Body::Values { rows: understood, columns })
    }

    pub(super) fn body_text(
        &mut self,
        body: Body,
        types: &[TypeUse],
        why: Conversion,
    ) -> Result<String, SqlError> {
        match body {
            Body::Select(select) => self.select_text(select, types, why),
            Body::Values { rows, .. } => {
                let mut first = Vec::with_capacity(types.len());
                let mut texts = Vec::with_capacity(rows.len());
                for (number, row) in rows.into_iter().enumerate() {
                    let mut values = Vec::with_capacity(row.len());
                    for (value, target) in row.into_iter().zip(types) {
                        let converted = self.convert(value, target, why)?;
                        values.push(self.sql_of(converted)?);
                    }
                    match number {
                        0 => first = values,
                        _ => texts.push(format!("({})", values.join(", "))),
                    }
                }
                // SQLite names the columns of VALUES after what is in the first row.
                let items: Vec<String> = first
                    .iter()
                    .zip(types)
                    .enumerate()
                    .map(|(index, (value, target))| {
                        format!("{} AS c{}", collated(value, &target.base), index + 1)
                    })
                    .collect();
                let others = match texts.as_slice() {
                    [] => String::new(),
                    rows => format!(" UNION ALL VALUES {}", rows.join(", ")),
                };
                Ok(format!("SELECT {}{others}", items.join(", ")))
            }
            Body::Set { left, operator, right, columns } => {
                let own: Vec<TypeUse> =
                    columns.iter().map(|output| self.settled_type(&output.expression)).collect();
                if why == Conversion::Assignment && own.as_slice() != types {
                    let inner = self.body_text(
                        Body::Set { left, operator, right, columns: columns.clone() },
                        &own,
                        Conversion::Implicit,
                    )?;
                    return self.converted(&inner, &columns, &own, types, why);
                }
                // SQLite has no parentheses here and takes operators from left to right.
                let wrap_left = left.is_ordered();
                let wrap_right =
                    right.is_ordered() || matches!(*right, Body::Set { .. } | Body::Values { .. });
                let mut left = self.nested(|analyzer| analyzer.body_text(*left, types, why))?;
                let mut right = self.body_text(*right, types, why)?;
                if wrap_left {
                    left = format!("SELECT * FROM ({left})");
                }
                if wrap_right {
                    right = format!("SELECT * FROM ({right})");
                }
                Ok(format!("{left} {operator} {right}"))
            }
            Body::Finished { text, columns } => {
                let own: Vec<TypeUse> =
                    text.columns.iter().map(|column| column.data_type.clone()).collect();
                if own.as_slice() == types {
                    return Ok(format!("SELECT * FROM ({})", text.sql));
                }
                self.converted(&text.sql, &columns, &own, types, why)
            }
        }
    }

    /// A finished query with its columns converted.
    fn converted(
        &mut self,
        inner: &str,
        columns: &[Output],
        own: &[TypeUse],
        types: &[TypeUse],
        why: Conversion,
    ) -> Result<String, SqlError> {
        let mut items = Vec::with_capacity(columns.len());
        for (index, (from, to)) in own.iter().zip(types).enumerate() {
            let column = Expression::typed(format!("c{}", index + 1), from.clone());
            let converted = self.convert(column, to, why).map_err(|error| {
                if why == Conversion::Assignment && error.state == SqlState("42846") {
                    let name = columns.get(index).map_or("", |output| output.name.as_str());
                    return super::assignment_mismatch(name, &to.base, &from.base);
                }
                error
            })?;
            let sql = collated(&self.sql_of(converted)?, &to.base);
            items.push(format!("{sql} AS c{}", index + 1));
        }
        Ok(format!("SELECT {} FROM ({inner})", items.join(", ")))
    }

    fn limit(&mut self, query: &Query, parent: Option<&Scope<'_>>) -> Result<String, SqlError> {
        let nothing = Relations::default();
        let scope = Scope::new(&nothing, Place::Limit, parent);
        let (mut limit, mut offset) = (None, None);
        match &query.limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit: l, offset: o, limit_by })
                if limit_by.is_empty() =>
            {
                limit = l.as_ref();
                offset = o.as_ref().map(|offset| &offset.value);
            }
            Some(_) => {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "LIMIT #,# syntax is not supported",
                )
                .hint("Use separate LIMIT and OFFSET clauses."));
            }
        }
        let one = Expr::value(sqlparser::ast::Value::Number("1".to_owned(), false));
        match &query.fetch {
            None => {}
            Some(Fetch { with_ties: false, percent: false, quantity }) => {
                limit = Some(quantity.as_ref().unwrap_or(&one));
            }
            Some(_) => {
                return Err(SqlError::not_supported(
                    "FETCH ... WITH TIES",
                    "Use rank() in a subquery.",
                ));
            }
        }
        let offset = offset.map(|offset| self.count_clause(offset, "OFFSET", scope)).transpose()?;
        let limit = limit.map(|limit| self.count_clause(limit, "LIMIT", scope)).transpose()?;
        Ok(match (limit, offset) {
            (None, None) => String::new(),
            (Some(limit), None) => format!(" LIMIT {limit}"),
            (None, Some(offset)) => format!(" LIMIT -1 OFFSET {offset}"),
            (Some(limit), Some(offset)) => format!(" LIMIT {limit} OFFSET {offset}"),
        })
    }
}

fn finished_outputs(text: &QueryText) -> Vec<Output> {
    let columns = text.columns.iter();
    columns
        .map(|column| {
            let mut expression = Expression::typed("", column.data_type.clone());
            expression.not_null = column.not_null;
            Output { name: column.name.clone(), expression, source: None }
        })
        .collect()
}

/// ORDER BY of set operations and VALUES: only columns of the result.
fn combined_order(order_by: &[OrderByExpr], columns: &[Output]) -> Result<String, SqlError> {
    let mut texts = Vec::with_capacity(order_by.len());
    for item in order_by {
        let by_number = ordinal(&item.expr, columns.len(), "ORDER BY")?.map(|n| n - 1);
        let by_name = match &item.expr {
            Expr::Identifier(ident) => {
                let name = folded(ident);
                columns.iter().position(|output| output.name == name)
            }
            _ => None,
        };
        let Some(index) = by_number.or(by_name) else {
            return Err(SqlError::new(
                SqlState::NOT_SUPPORTED,
                "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
            )
            .detail("Only result column names can be used, not expressions or functions.")
            .hint("Add the expression/function to every SELECT, or move the UNION into a FROM clause."));
        };
        let column = &columns[index].expression;
        check_sortable(column.base())?;
        let direction = Direction::of(&item.options)?.text(column.not_null);
        texts.push(format!("{}{direction}", index + 1));
    }
    Ok(texts.join(", "))
}

pub(super) fn set_operator(
    op: SetOperator,
    quantifier: SetQuantifier,
) -> Result<&'static str, SqlError> {
    match (op, quantifier) {
        (SetOperator::Union, SetQuantifier::All) => Ok("UNION ALL"),
        (SetOperator::Union, SetQuantifier::None | SetQuantifier::Distinct) => Ok("UNION"),
        (SetOperator::Intersect, SetQuantifier::None | SetQuantifier::Distinct) => Ok("INTERSECT"),
        (SetOperator::Except, SetQuantifier::None | SetQuantifier::Distinct) => Ok("EXCEPT"),
        (SetOperator::Intersect | SetOperator::Except, SetQuantifier::All) => {
            Err(SqlError::not_supported(
                format!("{op} ALL"),
                "Number the rows with row_number() and use the operation without ALL.",
            ))
        }
        _ => Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error near {op}"))),
    }
}

/// Whether a query is only another one in parentheses.
fn adds_nothing(query: &Query) -> bool {
    query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
}

pub(super) fn data_in_with() -> SqlError {
    SqlError::not_supported(
        "INSERT, UPDATE or DELETE within a query",
        "Run them as statements of one transaction.",
    )
}

fn check_plain(query: &Query) -> Result<(), SqlError> {
    let plain = query.for_clause.is_none()
        && query.settings.is_none()
        && query.format_clause.is_none()
        && query.pipe_operators.is_empty();
    if !plain {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in the query"));
    }
    let skips = |lock: &LockClause| matches!(lock.nonblock, Some(NonBlock::SkipLocked));
    if query.locks.iter().any(skips) {
        return Err(SqlError::not_supported(
            "SKIP LOCKED",
            "A transaction that writes has the database for itself; use the queue for jobs.",
        ));
    }
    Ok(())
}

//! ORDER BY, and windows.

use sqlparser::ast::{
    Expr, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, OrderBySort, Value, WindowFrame,
    WindowFrameBound, WindowSpec, WindowType,
};

use super::Analyzer;
use super::casts::{Conversion, needs_value};
use super::expression::{Expression, collated};
use super::scope::{Scope, folded};
use super::translate::unnested;
use crate::{PgType, SqlError, SqlState};

/// Whether an item sorts downwards, and where nulls go.
#[derive(Clone, Copy)]
pub(super) struct Direction {
    descending: bool,
    nulls_first: bool,
}

impl Direction {
    /// PostgreSQL takes null as larger than everything.
    pub fn of(options: &OrderByOptions) -> Result<Self, SqlError> {
        let descending = match &options.sort {
            None | Some(OrderBySort::Asc) => false,
            Some(OrderBySort::Desc) => true,
            Some(OrderBySort::Using(operator)) => match operator.to_string().as_str() {
                "<" => false,
                ">" => true,
                other => {
                    return Err(SqlError::not_supported(
                        format!("ORDER BY USING {other}"),
                        "Use ASC or DESC.",
                    ));
                }
            },
        };
        Ok(Self { descending, nulls_first: options.nulls_first.unwrap_or(descending) })
    }

    /// SQLite takes null as smaller than everything; what is not said lets it use an
    /// index.
    pub fn text(self, not_null: bool) -> &'static str {
        match (self.descending, self.nulls_first) {
            (false, _) if not_null => "",
            (true, _) if not_null => " DESC",
            (false, true) => "",
            (false, false) => " NULLS LAST",
            (true, true) => " DESC NULLS FIRST",
            (true, false) => " DESC",
        }
    }
}

pub(super) fn order_items(order_by: Option<&OrderBy>) -> Result<&[OrderByExpr], SqlError> {
    match order_by {
        None => Ok(&[]),
        Some(OrderBy { kind: OrderByKind::Expressions(items), interpolate: None }) => Ok(items),
        Some(_) => Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in ORDER BY")),
    }
}

/// The number of a column that a literal in ORDER BY or GROUP BY means.
pub(super) fn ordinal(
    expr: &Expr,
    columns: usize,
    clause: &str,
) -> Result<Option<usize>, SqlError> {
    let Expr::Value(value) = unnested(expr) else { return Ok(None) };
    match &value.value {
        Value::Number(digits, _) => match digits.parse::<usize>() {
            Ok(position) if (1..=columns).contains(&position) => Ok(Some(position)),
            Ok(position) => Err(SqlError::new(
                SqlState("42P10"),
                format!("{clause} position {position} is not in select list"),
            )),
            Err(_) => Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("non-integer constant in {clause}"),
            )),
        },
        Value::SingleQuotedString(_) => {
            Err(SqlError::new(SqlState::SYNTAX_ERROR, format!("non-integer constant in {clause}")))
        }
        Value::Placeholder(name) if crate::parse::place(name).is_some() => Err(needs_value()),
        _ => Ok(None),
    }
}

impl Analyzer<'_> {
    /// Items that are expressions only, as in aggregates and windows.
    pub fn order_texts(
        &mut self,
        items: &[OrderByExpr],
        scope: Scope<'_>,
    ) -> Result<Vec<String>, SqlError> {
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            let expression = self.expression(&item.expr, scope)?;
            texts.push(self.order_text(expression, &item.options)?);
        }
        Ok(texts)
    }

    pub fn order_text(
        &mut self,
        expression: Expression,
        options: &OrderByOptions,
    ) -> Result<String, SqlError> {
        let expression = self.settle(expression)?;
        check_sortable(expression.base())?;
        let direction = Direction::of(options)?.text(expression.not_null);
        let base = expression.base().clone();
        let is_column = expression.origin.is_some();
        let sql = self.sql_of(expression)?;
        // A column has its collation in the table.
        let sql = if is_column { sql } else { collated(&sql, &base) };
        Ok(format!("{sql}{direction}"))
    }

    /// A window after OVER: a name, or a specification in parentheses.
    pub fn window(&mut self, over: &WindowType, scope: Scope<'_>) -> Result<String, SqlError> {
        match over {
            WindowType::NamedWindow(name) => named_window(&folded(name), scope),
            WindowType::WindowSpec(spec) => self.window_spec(spec, scope),
        }
    }

    pub fn window_spec(&mut self, spec: &WindowSpec, scope: Scope<'_>) -> Result<String, SqlError> {
        let mut parts = Vec::new();
        if let Some(name) = &spec.window_name {
            let base = named_window(&folded(name), scope)?;
            let inner = base.trim_start_matches('(').strip_suffix(')').unwrap_or("");
            if !inner.is_empty() {
                parts.push(inner.to_owned());
            }
        }
        if !spec.partition_by.is_empty() {
            let mut keys = Vec::with_capacity(spec.partition_by.len());
            for key in &spec.partition_by {
                let key = self.expression(key, scope)?;
                let key = self.settle(key)?;
                let base = key.base().clone();
                check_groupable(&base)?;
                keys.push(collated(&self.sql_of(key)?, &base));
            }
            parts.push(format!("PARTITION BY {}", keys.join(", ")));
        }
        if !spec.order_by.is_empty() {
            let order = self.order_texts(&spec.order_by, scope)?;
            parts.push(format!("ORDER BY {}", order.join(", ")));
        }
        if let Some(frame) = &spec.window_frame {
            parts.push(self.frame(frame, spec, scope)?);
        }
        Ok(format!("({})", parts.join(" ")))
    }

    fn frame(
        &mut self,
        frame: &WindowFrame,
        spec: &WindowSpec,
        scope: Scope<'_>,
    ) -> Result<String, SqlError> {
        let mut bound = |bound: &WindowFrameBound| -> Result<String, SqlError> {
            Ok(match bound {
                WindowFrameBound::CurrentRow => "CURRENT ROW".to_owned(),
                WindowFrameBound::Preceding(None) => "UNBOUNDED PRECEDING".to_owned(),
                WindowFrameBound::Following(None) => "UNBOUNDED FOLLOWING".to_owned(),
                WindowFrameBound::Preceding(Some(offset)) => {
                    format!("{} PRECEDING", self.expression_as(offset, PgType::Int8, scope)?)
                }
                WindowFrameBound::Following(Some(offset)) => {
                    format!("{} FOLLOWING", self.expression_as(offset, PgType::Int8, scope)?)
                }
            })
        };
        let start = bound(&frame.start_bound)?;
        let text = match &frame.end_bound {
            Some(end) => format!("{} BETWEEN {start} AND {}", frame.units, bound(end)?),
            None => format!("{} {start}", frame.units),
        };
        let has_offset = |bound: &WindowFrameBound| {
            matches!(
                bound,
                WindowFrameBound::Preceding(Some(_)) | WindowFrameBound::Following(Some(_))
            )
        };
        let is_range = frame.units == sqlparser::ast::WindowFrameUnits::Range;
        if is_range
            && (has_offset(&frame.start_bound) || frame.end_bound.as_ref().is_some_and(has_offset))
        {
            let Some(first) = spec.order_by.first() else {
                return Err(SqlError::new(
                    SqlState("42P20"),
                    "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
                ));
            };
            let key = self.expression(&first.expr, scope)?;
            if !matches!(key.base(), PgType::Int2 | PgType::Int4 | PgType::Int8) {
                return Err(SqlError::not_supported(
                    "RANGE with an offset over anything but integers",
                    "Use ROWS, or a join.",
                ));
            }
        }
        Ok(text)
    }

    /// LIMIT or OFFSET: what is null or ALL does not limit.
    pub fn count_clause(
        &mut self,
        expr: &Expr,
        clause: &str,
        scope: Scope<'_>,
    ) -> Result<String, SqlError> {
        let expression = self.expression(expr, scope)?;
        let is_literal = matches!(expression.form, super::expression::Form::Literal(_));
        let sql = self.sql_as(expression, PgType::Int8, Conversion::Assignment)?;
        if is_literal && !sql.starts_with('(') {
            return Ok(sql);
        }
        Ok(format!("rung_count({sql}, '{clause}')"))
    }
}

fn named_window(name: &str, scope: Scope<'_>) -> Result<String, SqlError> {
    let found = scope.windows.iter().find(|(known, _)| known == name);
    found.map(|(_, text)| text.clone()).ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_OBJECT, format!("window \"{name}\" does not exist"))
    })
}

pub(super) fn check_sortable(base: &PgType) -> Result<(), SqlError> {
    match base {
        PgType::Json => Err(SqlError::new(
            SqlState::UNDEFINED_FUNCTION,
            "could not identify an ordering operator for type json",
        )
        .hint("Use an explicit ordering operator or modify the query.")),
        PgType::Jsonb | PgType::Array(_) | PgType::Record(_) => Err(SqlError::not_supported(
            format!("sorting by type {}", base.name()),
            "Sort by a part of the value.",
        )),
        _ => Ok(()),
    }
}

/// Grouping and DISTINCT compare values as they are stored.
pub(super) fn check_groupable(base: &PgType) -> Result<(), SqlError> {
    match base {
        PgType::Json => Err(SqlError::new(
            SqlState::UNDEFINED_FUNCTION,
            "could not identify an equality operator for type json",
        )),
        PgType::Record(_) => Err(SqlError::not_supported(
            "telling records apart",
            "Name the fields of the record that are meant.",
        )),
        _ => Ok(()),
    }
}

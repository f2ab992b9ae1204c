//! One SELECT: its list, FROM, WHERE, GROUP BY, HAVING.

use sqlparser::ast::{
    Distinct, Expr, FunctionArguments, GroupByExpr, NamedWindowExpr, OrderByExpr, Select,
    SelectItem, SelectItemQualifiedWildcardKind, WildcardAdditionalOptions,
};

use super::Analyzer;
use super::calls::{contains_aggregate, contains_window};
use super::casts::Conversion;
use super::expression::{Expression, collated};
use super::ordering::{check_groupable, check_sortable, ordinal};
use super::scope::{Grouping, Place, Relations, Scope, VisibleColumn, folded, name_parts};
use super::table_functions::set_returning;
use crate::{PgType, SqlError, SqlState, TypeUse};

/// A column of a query whose type may still be decided.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub name: String,
    pub expression: Expression,
    /// As it was written, to find it again in ORDER BY.
    pub source: Option<Expr>,
}

/// A SELECT that is understood; the texts of its columns come when their types are
/// final.
#[derive(Debug, Default)]
pub(crate) struct SelectText {
    pub columns: Vec<Output>,
    pub distinct: bool,
    /// FROM and what follows up to HAVING.
    pub rest: String,
    /// ORDER BY, as expressions of this SELECT or numbers of its columns.
    pub order: Vec<String>,
    /// DISTINCT ON: the keys, by which only the first row is kept.
    pub distinct_on: Vec<String>,
}

impl Analyzer<'_> {
    /// Understands a SELECT and the ORDER BY of the query that consists of it.
    pub fn select(
        &mut self,
        select: &Select,
        order_by: &[OrderByExpr],
        parent: Option<&Scope<'_>>,
    ) -> Result<SelectText, SqlError> {
        check_plain(select)?;
        let mut from = self.relations_of(&select.from, parent)?;
        let functions = self.functions_as_tables(select, &mut from, parent)?;
        let has_functions = !functions.is_empty();
        let mut functions = functions.into_iter();
        let relations = from.relations;
        let scope = Scope::new(&relations, Place::Where, parent);
        let mut rest = String::new();
        if !from.sql.is_empty() {
            rest.push_str(&format!(" FROM {}", from.sql));
        }
        if let Some(condition) = &select.selection {
            let condition = self.condition(condition, "WHERE", scope)?;
            rest.push_str(&format!(" WHERE {condition}"));
        }
        let grouping = self.grouping(select, order_by, &relations, scope, &mut rest)?;
        if has_functions {
            check_order_of_steps(select, order_by, grouping.as_ref())?;
        }
        let windows = self.named_windows(select, scope, grouping.as_ref())?;
        let scope = Scope { grouping: grouping.as_ref(), windows: &windows, ..scope };
        let mut columns = Vec::with_capacity(select.projection.len());
        for item in &select.projection {
            self.select_item(item, &mut columns, &mut functions, scope.at(Place::SelectList))?;
        }
        if let Some(having) = &select.having {
            let condition = self.condition(having, "HAVING", scope.at(Place::Having))?;
            // SQLite wants a GROUP BY or an aggregate before HAVING.
            if !rest.contains(" GROUP BY ") && !columns.iter().any(is_aggregated) {
                return Err(SqlError::not_supported(
                    "HAVING without GROUP BY and aggregates",
                    "Use WHERE.",
                ));
            }
            rest.push_str(&format!(" HAVING {condition}"));
        }
        let mut text = SelectText {
            columns,
            distinct: matches!(select.distinct, Some(Distinct::Distinct)),
            rest,
            ..SelectText::default()
        };
        if text.distinct {
            text.columns.iter().try_for_each(|column| check_groupable(column.expression.base()))?;
        }
        if let Some(Distinct::On(keys)) = &select.distinct {
            for key in keys {
                let key = self.output_expression(key, &text.columns, "DISTINCT ON", scope)?;
                let key = self.settle(key)?;
                let base = key.base().clone();
                check_groupable(&base)?;
                text.distinct_on.push(collated(&self.sql_of(key)?, &base));
            }
        }
        text.order = self.select_order(order_by, &text, scope.at(Place::OrderBy))?;
        Ok(text)
    }

    /// `SELECT unnest(a)`: the function moves into FROM. Gives the values that stand for
    /// such items, in their order.
    fn functions_as_tables(
        &mut self,
        select: &Select,
        from: &mut super::from::FromText,
        parent: Option<&Scope<'_>>,
    ) -> Result<Vec<Expression>, SqlError> {
        let mut functions = Vec::new();
        for item in &select.projection {
            let Some((_, expr)) = named_item(item) else { continue };
            let Some((function, _)) = set_returning(expr) else { continue };
            let FunctionArguments::List(list) = &function.args else { continue };
            functions.push((&function.name, list.args.as_slice()));
        }
        if functions.is_empty() {
            return Ok(Vec::new());
        }
        let (sql, values) = self.listed_functions(&functions, &from.relations, parent)?;
        if !from.sql.is_empty() {
            from.sql.push_str(", ");
        }
        from.sql.push_str(&sql);
        Ok(values)
    }

    fn select_item(
        &mut self,
        item: &SelectItem,
        columns: &mut Vec<Output>,
        functions: &mut impl Iterator<Item = Expression>,
        scope: Scope<'_>,
    ) -> Result<(), SqlError> {
        match item {
            SelectItem::Wildcard(options) => {
                check_wildcard(options)?;
                if scope.from.relations.is_empty() {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "SELECT * with no tables specified is not valid",
                    ));
                }
                let visible = scope.from.visible.clone();
                self.expand(&visible, columns, scope)
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                check_wildcard(options)?;
                let relation = name_parts(name)?.pop().unwrap_or_default();
                let Some(index) = scope.from.named(&relation) else {
                    return Err(super::scope::missing_relation(&relation));
                };
                let all = scope.from.relations[index].columns.iter();
                let all: Vec<VisibleColumn> = all
                    .map(|column| VisibleColumn { relation: index, column: column.clone() })
                    .collect();
                self.expand(&all, columns, scope)
            }
            _ => {
                let Some((name, expr)) = named_item(item) else {
                    return Err(SqlError::not_supported(
                        format!("the item {item} in a select list"),
                        "Select expressions.",
                    ));
                };
                let expression = match set_returning(expr) {
                    Some((_, parts)) => match functions.next() {
                        Some(value) => self.parts(value, parts, scope)?,
                        None => self.expression(expr, scope)?,
                    },
                    None => self.expression(expr, scope)?,
                };
                columns.push(Output { name, expression, source: Some(expr.clone()) });
                Ok(())
            }
        }
    }

    fn expand(
        &mut self,
        visible: &[VisibleColumn],
        columns: &mut Vec<Output>,
        scope: Scope<'_>,
    ) -> Result<(), SqlError> {
        for item in visible {
            let column = &item.column;
            if let Some(grouping) = scope.grouping
                && !grouping.columns.contains(&column.sql)
                && !grouping.relations.contains(&item.relation)
            {
                let owner = &scope.from.relations[item.relation].name;
                return Err(SqlError::new(
                    SqlState::GROUPING_ERROR,
                    format!(
                        "column \"{owner}.{}\" must appear in the GROUP BY clause or be used in \
                         an aggregate function",
                        column.name
                    ),
                ));
            }
            let mut expression = Expression::typed(column.sql.clone(), column.data_type.clone());
            expression.origin = column.origin;
            expression.not_null = column.not_null;
            columns.push(Output { name: column.name.clone(), expression, source: None });
        }
        Ok(())
    }

    /// GROUP BY, and whether the query groups at all.
    fn grouping(
        &mut self,
        select: &Select,
        order_by: &[OrderByExpr],
        relations: &Relations,
        scope: Scope<'_>,
        rest: &mut String,
    ) -> Result<Option<Grouping>, SqlError> {
        let keys = match &select.group_by {
            GroupByExpr::Expressions(keys, modifiers) if modifiers.is_empty() => keys,
            _ => {
                return Err(SqlError::not_supported(
                    "this form of GROUP BY",
                    "Group by expressions; use UNION ALL for several groupings.",
                ));
            }
        };
        let items = select.projection.iter().filter_map(named_item).map(|(_, expr)| expr);
        let aggregates = items.chain(select.having.iter()).any(contains_aggregate)
            || order_by.iter().any(|item| contains_aggregate(&item.expr));
        if keys.is_empty() && !aggregates && select.having.is_none() {
            return Ok(None);
        }
        let mut grouping = Grouping::default();
        let mut texts = Vec::with_capacity(keys.len());
        for key in keys {
            // GROUP BY () makes one group of all rows.
            if matches!(key, Expr::Tuple(parts) if parts.is_empty()) {
                continue;
            }
            if matches!(key, Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_)) {
                return Err(SqlError::not_supported(
                    "GROUPING SETS, CUBE and ROLLUP",
                    "Use UNION ALL of several groupings.",
                ));
            }
            let key = group_key(key, select, scope)?;
            let expression = self.expression(&key, scope.at(Place::GroupBy))?;
            let expression = self.settle(expression)?;
            let base = expression.base().clone();
            check_groupable(&base)?;
            let sql = self.sql_of(expression)?;
            texts.push(collated(&sql, &base));
            grouping.columns.push(sql);
            grouping.keys.push(key);
        }
        for (index, relation) in relations.relations.iter().enumerate() {
            let is_grouped = |name: &String| {
                let mut columns = relation.columns.iter();
                columns.any(|c| c.name == *name && grouping.columns.contains(&c.sql))
            };
            if !relation.key.is_empty() && relation.key.iter().all(is_grouped) {
                grouping.relations.push(index);
            }
        }
        if !texts.is_empty() {
            rest.push_str(&format!(" GROUP BY {}", texts.join(", ")));
        }
        Ok(Some(grouping))
    }

    fn named_windows(
        &mut self,
        select: &Select,
        scope: Scope<'_>,
        grouping: Option<&Grouping>,
    ) -> Result<Vec<(String, String)>, SqlError> {
        let mut windows: Vec<(String, String)> = Vec::with_capacity(select.named_window.len());
        for definition in &select.named_window {
            let NamedWindowExpr::WindowSpec(spec) = &definition.1 else {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "a window needs parentheses"));
            };
            let known = windows.clone();
            let scope = Scope { grouping, windows: &known, ..scope.at(Place::SelectList) };
            let text = self.window_spec(spec, scope)?;
            windows.push((folded(&definition.0), text));
        }
        Ok(windows)
    }

    /// An item of ORDER BY or DISTINCT ON: a number or name of a column of the result,
    /// or any expression.
    fn output_expression(
        &mut self,
        expr: &Expr,
        columns: &[Output],
        clause: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        match output_index(expr, columns, clause)? {
            Some(index) => Ok(columns[index].expression.clone()),
            None => self.expression(expr, scope.at(Place::OrderBy)),
        }
    }

    fn select_order(
        &mut self,
        order_by: &[OrderByExpr],
        text: &SelectText,
        scope: Scope<'_>,
    ) -> Result<Vec<String>, SqlError> {
        let mut order = Vec::with_capacity(order_by.len());
        for item in order_by {
            if let Some(index) = output_index(&item.expr, &text.columns, "ORDER BY")? {
                let column = &text.columns[index].expression;
                order.push(self.output_order(column, index, item, text)?);
                continue;
            }
            let same = |output: &Output| output.source.as_ref() == Some(&item.expr);
            let expression = self.expression(&item.expr, scope)?;
            let is_output = text
                .columns
                .iter()
                .any(|output| same(output) || output.expression.form == expression.form);
            if text.distinct && !is_output {
                return Err(SqlError::new(
                    SqlState("42P10"),
                    "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                ));
            }
            order.push(self.order_text(expression, &item.options)?);
        }
        Ok(order)
    }

    fn output_order(
        &mut self,
        column: &Expression,
        index: usize,
        item: &OrderByExpr,
        text: &SelectText,
    ) -> Result<String, SqlError> {
        if !text.distinct_on.is_empty() {
            return self.order_text(column.clone(), &item.options);
        }
        let base = match column.base() {
            PgType::Unknown => &PgType::Text,
            base => base,
        };
        check_sortable(base)?;
        let direction = super::ordering::Direction::of(&item.options)?.text(column.not_null);
        Ok(format!("{}{direction}", index + 1))
    }

    /// SQLite's text of a SELECT whose columns have these types.
    pub fn select_text(
        &mut self,
        select: SelectText,
        types: &[TypeUse],
        why: Conversion,
    ) -> Result<String, SqlError> {
        let mut items = Vec::with_capacity(select.columns.len().max(1));
        for (index, (output, target)) in select.columns.into_iter().zip(types).enumerate() {
            let is_column = output.expression.origin.is_some();
            let converted = self.convert_output(output.expression, target, why, &output.name)?;
            let sql = self.sql_of(converted)?;
            let sql = if is_column { sql } else { collated(&sql, &target.base) };
            items.push(format!("{sql} AS c{}", index + 1));
        }
        if items.is_empty() {
            items.push("1".to_owned());
        }
        let distinct = if select.distinct { "DISTINCT " } else { "" };
        let order = match select.order.as_slice() {
            [] => String::new(),
            order => format!(" ORDER BY {}", order.join(", ")),
        };
        if select.distinct_on.is_empty() {
            return Ok(format!("SELECT {distinct}{}{}{order}", items.join(", "), select.rest));
        }
        // The first row of each group, in the order of the whole.
        let numbered: Vec<String> = (1..=items.len()).map(|n| format!("c{n}")).collect();
        Ok(format!(
            "SELECT {numbered} FROM (SELECT {items}, row_number() OVER (PARTITION BY {keys}{order}) \
             AS first_of, row_number() OVER ({window}) AS place{rest}) WHERE first_of = 1 \
             ORDER BY place",
            numbered = numbered.join(", "),
            items = items.join(", "),
            keys = select.distinct_on.join(", "),
            window = order.trim_start(),
            rest = select.rest,
        ))
    }

    /// Converts a column of a query; for an assignment the error names the column.
    fn convert_output(
        &mut self,
        expression: Expression,
        target: &TypeUse,
        why: Conversion,
        name: &str,
    ) -> Result<Expression, SqlError> {
        let from = expression.base().clone();
        self.convert(expression, target, why).map_err(|error| {
            if error.state == SqlState("42846") && why == Conversion::Assignment {
                return super::assignment_mismatch(name, &target.base, &from);
            }
            error
        })
    }
}

/// PostgreSQL calls the functions that give rows after it has grouped and after window
/// functions; in FROM they come before both.
fn check_order_of_steps(
    select: &Select,
    order_by: &[OrderByExpr],
    grouping: Option<&Grouping>,
) -> Result<(), SqlError> {
    let listed = select.projection.iter().filter_map(named_item).map(|(_, expr)| expr);
    let mut all = listed.chain(order_by.iter().map(|item| &item.expr));
    if grouping.is_none() && !all.any(contains_window) {
        return Ok(());
    }
    Err(SqlError::not_supported(
        "a function that gives rows beside groups, aggregates or window functions",
        "Group in a subquery, and call the function in the select list around it.",
    ))
}

fn is_aggregated(output: &Output) -> bool {
    output.source.as_ref().is_some_and(contains_aggregate)
}

/// The column of the result that an item of ORDER BY means by number or name.
fn output_index(expr: &Expr, columns: &[Output], clause: &str) -> Result<Option<usize>, SqlError> {
    if let Some(position) = ordinal(expr, columns.len(), clause)? {
        return Ok(Some(position - 1));
    }
    let Expr::Identifier(ident) = expr else { return Ok(None) };
    let name = folded(ident);
    let mut matches = columns.iter().enumerate().filter(|(_, output)| output.name == name);
    let Some((first, output)) = matches.next() else { return Ok(None) };
    if matches.any(|(_, other)| other.expression != output.expression) {
        return Err(SqlError::new(
            SqlState::AMBIGUOUS_COLUMN,
            format!("{clause} \"{name}\" is ambiguous"),
        ));
    }
    Ok(Some(first))
}

/// A key of GROUP BY: a number or, where no column has that name, the name of an item
/// of the select list.
fn group_key(key: &Expr, select: &Select, scope: Scope<'_>) -> Result<Expr, SqlError> {
    let items: Vec<(String, &Expr)> = select.projection.iter().filter_map(named_item).collect();
    if let Some(position) = ordinal(key, select.projection.len(), "GROUP BY")? {
        let item = select.projection.get(position - 1).and_then(named_item);
        return item.map(|(_, expr)| expr.clone()).ok_or_else(|| {
            SqlError::not_supported("GROUP BY of a number that means *", "Name the columns.")
        });
    }
    let Expr::Identifier(ident) = key else { return Ok(key.clone()) };
    let name = folded(ident);
    let is_column = scope.from.visible.iter().any(|visible| visible.column.name == name);
    match items.iter().find(|(item, _)| *item == name) {
        Some((_, expr)) if !is_column => Ok((*expr).clone()),
        _ => Ok(key.clone()),
    }
}

/// An item of a select list with the name that PostgreSQL gives it.
pub(super) fn named_item(item: &SelectItem) -> Option<(String, &Expr)> {
    match item {
        SelectItem::UnnamedExpr(expr) => {
            Some((super::names::column_name(expr).unwrap_or_else(|| "?column?".to_owned()), expr))
        }
        SelectItem::ExprWithAlias { expr, alias } => Some((folded(alias), expr)),
        _ => None,
    }
}

fn check_wildcard(options: &WildcardAdditionalOptions) -> Result<(), SqlError> {
    let plain = options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none()
        && options.opt_alias.is_none();
    if plain {
        return Ok(());
    }
    Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error after *"))
}

/// Refuses clauses that other databases have.
fn check_plain(select: &Select) -> Result<(), SqlError> {
    let plain = select.top.is_none()
        && select.exclude.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && select.select_modifiers.is_none()
        && select.flavor == sqlparser::ast::SelectFlavor::Standard;
    if !plain {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in SELECT"));
    }
    if select.into.is_some() {
        return Err(SqlError::not_supported("SELECT INTO here", "Use CREATE TABLE AS."));
    }
    if unnested_windows(select) {
        return Err(SqlError::new(SqlState::SYNTAX_ERROR, "a window needs parentheses"));
    }
    Ok(())
}

fn unnested_windows(select: &Select) -> bool {
    select
        .named_window
        .iter()
        .any(|definition| matches!(definition.1, NamedWindowExpr::NamedWindow(_)))
}

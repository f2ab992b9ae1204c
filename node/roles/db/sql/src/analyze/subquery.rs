//! Subqueries in expressions, ANY and ALL, arrays.

use sqlparser::ast::{AccessExpr, BinaryOperator, Expr, Query, Subscript};

use super::Analyzer;
use super::casts::{Conversion, common_type};
use super::expression::{Expression, Form, collated};
use super::operators::{comparison_type, no_operator};
use super::query::QueryText;
use super::scope::{Scope, folded};
use super::translate::{truth, unnested};
use crate::values::array::MAX_DIMENSIONS;
use crate::{PgType, SqlError, SqlState, TypeUse};

/// SQLite's functions take a thousand arguments.
const MOST_ARGUMENTS: usize = 900;

impl Analyzer<'_> {
    pub fn exists(
        &mut self,
        query: &Query,
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let inner = self.query(query, Some(&scope))?;
        let not = if negated { "NOT " } else { "" };
        Ok(truth(format!("({not}EXISTS ({}))", inner.sql)))
    }

    pub fn scalar_subquery(
        &mut self,
        query: &Query,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let inner = self.query(query, Some(&scope))?;
        let [column] = inner.columns.as_slice() else {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "subquery must return only one column",
            ));
        };
        let sql = if at_most_one_row(query) {
            format!("({})", inner.sql)
        } else {
            // SQLite would take the first of several rows.
            format!(
                "(SELECT rung_single(count(*), max(c1)) FROM (SELECT c1 FROM ({}) LIMIT 2))",
                inner.sql
            )
        };
        Ok(Expression::typed(sql, column.data_type.clone()))
    }

    pub fn in_subquery(
        &mut self,
        expr: &Expr,
        query: &Query,
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let inner = self.query(query, Some(&scope))?;
        let parts = match unnested(expr) {
            Expr::Tuple(parts) => parts.as_slice(),
            _ => std::slice::from_ref(expr),
        };
        if inner.columns.len() != parts.len() {
            let many = if inner.columns.len() > parts.len() { "many" } else { "few" };
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("subquery has too {many} columns"),
            ));
        }
        let mut lefts = Vec::with_capacity(parts.len());
        let mut items = Vec::with_capacity(parts.len());
        for (index, (part, column)) in parts.iter().zip(&inner.columns).enumerate() {
            let left = self.expression(part, scope)?;
            let right = Expression::typed(format!("c{}", index + 1), column.data_type.clone());
            let (left, right, base) = self.comparable(left, "=", right)?;
            lefts.push(collated(&left, &base));
            items.push(right);
        }
        let plain =
            items.iter().enumerate().all(|(index, item)| *item == format!("c{}", index + 1));
        let source = if plain {
            inner.sql
        } else {
            format!("SELECT {} FROM ({})", items.join(", "), inner.sql)
        };
        let left = match lefts.as_slice() {
            [only] => only.clone(),
            several => format!("({})", several.join(", ")),
        };
        let not = if negated { "NOT " } else { "" };
        Ok(Expression::sql(format!("({left} {not}IN ({source}))"), PgType::Bool))
    }

    /// `left op ANY (...)` or ALL, over a subquery or an array.
    pub fn quantified(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        is_any: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let name = match op {
            BinaryOperator::PGCustomBinaryOperator(parts) => {
                parts.last().cloned().unwrap_or_default()
            }
            op => op.to_string(),
        };
        if let Expr::Subquery(query) = unnested(right) {
            match (name.as_str(), is_any) {
                ("=", true) => return self.in_subquery(left, query, false, scope),
                ("<>", false) => return self.in_subquery(left, query, true, scope),
                _ => {}
            }
            let inner = self.query(query, Some(&scope))?;
            let [column] = inner.columns.as_slice() else {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "subquery has too many columns"));
            };
            let left = self.expression(left, scope)?;
            let element = Expression::typed("c1", column.data_type.clone());
            return self.quantified_over(left, &name, element, &inner.sql, is_any);
        }
        let left = self.expression(left, scope)?;
        let array = self.array_operand(right, &left, scope)?;
        let PgType::Array(element) = array.base().clone() else {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                "op ANY/ALL (array) requires array on right side",
            ));
        };
        let source = self.sql_of(array)?;
        // A null array has a null answer, like an array of one null.
        let item = array_item("value".to_owned(), &element);
        let items = format!("ifnull(rung_array_flat({source}), '[null]')");
        let source = format!("SELECT {item} AS c1 FROM json_each({items})");
        if let ("=", true) | ("<>", false) = (name.as_str(), is_any) {
            let base = comparison_type(left.base(), &element)
                .ok_or_else(|| no_operator("=", &[left.base().clone(), (*element).clone()]))?;
            let one = Expression::sql("c1", (*element).clone());
            let (left, one, _) = self.comparable(left, "=", one)?;
            let left = collated(&left, &base);
            let source = if one == "c1" { source } else { format!("SELECT {one} FROM ({source})") };
            let not = if is_any { "" } else { "NOT " };
            return Ok(Expression::sql(format!("({left} {not}IN ({source}))"), PgType::Bool));
        }
        let one = Expression::sql("c1", *element);
        self.quantified_over(left, &name, one, &source, is_any)
    }

    /// The right side of ANY: an unknown one is an array of the left side's type.
    fn array_operand(
        &mut self,
        right: &Expr,
        left: &Expression,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let left_base = match left.base() {
            PgType::Unknown => PgType::Text,
            PgType::Varchar | PgType::Char | PgType::Name => PgType::Text,
            base => base.clone(),
        };
        let target = TypeUse { base: PgType::Array(Box::new(left_base.clone())), modifier: -1 };
        if let Expr::Array(array) = unnested(right) {
            let mut parts = Vec::with_capacity(array.elem.len());
            for part in &array.elem {
                parts.push(self.expression(part, scope)?);
            }
            if parts.iter().all(|part| part.is_unknown() || matches!(part.form, Form::Null)) {
                let element = TypeUse { base: left_base, modifier: -1 };
                return self.array_of(&array.elem, &element, scope);
            }
        }
        let right = self.expression(right, scope)?;
        if right.is_unknown() {
            return self.convert(right, &target, Conversion::Implicit);
        }
        self.settle(right)
    }

    fn quantified_over(
        &mut self,
        left: Expression,
        name: &str,
        element: Expression,
        source: &str,
        is_any: bool,
    ) -> Result<Expression, SqlError> {
        let test = if matches!(name, "=" | "<>" | "<" | "<=" | ">" | ">=") {
            self.compare(left, name, element)?
        } else {
            self.operator(name, vec![left, element])?
        };
        let test = self.boolean(test, if is_any { "ANY" } else { "ALL" })?;
        let (extreme, decided, otherwise) = if is_any { ("max", 1, 0) } else { ("min", 0, 1) };
        Ok(Expression::sql(
            format!(
                "(SELECT CASE WHEN {extreme}(t) = {decided} THEN {decided} \
                 WHEN count(*) > count(t) THEN NULL ELSE {otherwise} END \
                 FROM (SELECT {test} AS t FROM ({source})))"
            ),
            PgType::Bool,
        ))
    }

    /// `ARRAY[...]`
    pub fn array(&mut self, elements: &[Expr], scope: Scope<'_>) -> Result<Expression, SqlError> {
        if elements.is_empty() {
            return Err(SqlError::new(
                SqlState::INDETERMINATE_DATATYPE,
                "cannot determine type of empty array",
            )
            .hint("Explicitly cast to the desired type, for example ARRAY[]::integer[]."));
        }
        let mut parts = Vec::with_capacity(elements.len());
        for element in elements {
            parts.push(match element {
                Expr::Array(inner) => self.array(&inner.elem, scope)?,
                other => self.expression(other, scope)?,
            });
        }
        let types: Vec<&TypeUse> = parts.iter().map(|part| &part.data_type).collect();
        let element = common_type(&types, "ARRAY")?;
        self.array_from(parts, &element)
    }

    /// An array, perhaps empty, whose elements have a known type.
    pub fn array_of(
        &mut self,
        elements: &[Expr],
        element: &TypeUse,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut parts = Vec::with_capacity(elements.len());
        for part in elements {
            parts.push(match part {
                Expr::Array(inner) => self.array_of(&inner.elem, element, scope)?,
                other => {
                    let expression = self.expression(other, scope)?;
                    self.convert(expression, element, Conversion::Explicit)?
                }
            });
        }
        let nested = elements.iter().any(|part| matches!(part, Expr::Array(_)));
        let element = match nested {
            true => TypeUse {
                base: PgType::Array(Box::new(element.base.clone())),
                modifier: element.modifier,
            },
            false => element.clone(),
        };
        self.array_from(parts, &element)
    }

    fn array_from(
        &mut self,
        parts: Vec<Expression>,
        element: &TypeUse,
    ) -> Result<Expression, SqlError> {
        check_element(&element.base)?;
        let mut texts = Vec::with_capacity(parts.len());
        for part in parts {
            let part = self.convert(part, element, Conversion::Implicit)?;
            texts.push(self.sql_of(part)?);
        }
        // Inner arrays are rows of the outer one.
        let (is_nested, base) = match &element.base {
            PgType::Array(_) => (1, element.base.clone()),
            base => (0, PgType::Array(Box::new(base.clone()))),
        };
        let pieces = texts.chunks(MOST_ARGUMENTS).map(|texts| {
            let texts: String = texts.iter().flat_map(|text| [", ", text.as_str()]).collect();
            format!("rung_array({is_nested}{texts})")
        });
        let array = pieces.reduce(|array, more| format!("rung_array_cat({array}, {more})"));
        let array = array.unwrap_or_else(|| "'[]'".to_owned());
        Ok(Expression::sql(array, base))
    }

    /// `ARRAY(SELECT ...)`
    pub fn array_of_query(
        &mut self,
        query: &Query,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let QueryText { sql, columns } = self.query(query, Some(&scope))?;
        let [column] = columns.as_slice() else {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "subquery must return only one column",
            ));
        };
        check_element(&column.data_type.base)?;
        let (aggregate, base) = match &column.data_type.base {
            PgType::Array(_) => ("rung_array_of_arrays_agg", column.data_type.base.clone()),
            base => ("rung_array_agg", PgType::Array(Box::new(base.clone()))),
        };
        let array = format!("ifnull((SELECT {aggregate}(c1) FROM ({sql})), '[]')");
        Ok(Expression::sql(array, base))
    }

    /// `a[1]`, also several of them.
    pub fn subscripts(
        &mut self,
        root: &Expr,
        chain: &[AccessExpr],
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        // `t.a[1]`: what stands before the first bracket is the name of a column.
        let mut names = match root {
            Expr::Identifier(ident) => vec![ident.clone()],
            _ => Vec::new(),
        };
        let mut chain = chain;
        while let ([AccessExpr::Dot(Expr::Identifier(ident)), rest @ ..], false) =
            (chain, names.is_empty())
        {
            names.push(ident.clone());
            chain = rest;
        }
        let root = match names.len() {
            0 | 1 => self.expression(root, scope)?,
            _ => self.expression(&Expr::CompoundIdentifier(names), scope)?,
        };
        self.parts(root, chain, scope)
    }

    /// What subscripts and names of fields mean of a value, one after the other.
    pub fn parts(
        &mut self,
        value: Expression,
        chain: &[AccessExpr],
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut value = self.settle(value)?;
        let mut rest = chain;
        while let [access, others @ ..] = rest {
            rest = others;
            value = match access {
                AccessExpr::Subscript(first) => {
                    let mut subscripts = vec![first];
                    while let [AccessExpr::Subscript(next), others @ ..] = rest
                        && matches!(value.base(), PgType::Array(_))
                    {
                        subscripts.push(next);
                        rest = others;
                    }
                    self.subscript(value, &subscripts, scope)?
                }
                AccessExpr::Dot(Expr::Identifier(ident)) => self.field(value, &folded(ident))?,
                _ => {
                    return Err(SqlError::not_supported(
                        "all fields of a record",
                        "Take fields one by one.",
                    ));
                }
            };
        }
        Ok(value)
    }

    /// A field of a record, which is stored as an array of its fields.
    fn field(&mut self, record: Expression, name: &str) -> Result<Expression, SqlError> {
        let PgType::Record(fields) = record.base().clone() else {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!(
                    "column notation .{name} applied to type {}, which is not a composite type",
                    record.base().name()
                ),
            ));
        };
        let mut places = fields.into_iter().enumerate();
        let Some((place, (_, base))) = places.find(|(_, (field, _))| field == name) else {
            return Err(SqlError::new(
                SqlState::UNDEFINED_COLUMN,
                format!("could not identify column \"{name}\" in record data type"),
            ));
        };
        let sql = self.sql_of(record)?;
        Ok(Expression::sql(format!("rung_array_get({sql}, {})", place + 1), base))
    }

    /// A member of jsonb, an item of an array by its places in all dimensions, null where
    /// there are more or fewer, or a slice of it.
    fn subscript(
        &mut self,
        value: Expression,
        subscripts: &[&Subscript],
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if *value.base() == PgType::Jsonb {
            let Subscript::Index { index } = subscripts[0] else {
                return Err(SqlError::new(
                    SqlState::DATATYPE_MISMATCH,
                    "jsonb subscript does not support slices",
                ));
            };
            let index = self.expression(index, scope)?;
            return self.operator("->", vec![value, index]);
        }
        let shift = 1 - value.data_type.first_subscript();
        let PgType::Array(element) = value.base().clone() else {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "cannot subscript type {} because it does not support subscripting",
                    value.base().name()
                ),
            ));
        };
        if subscripts.len() > MAX_DIMENSIONS {
            return Err(SqlError::new(
                SqlState::LIMIT_EXCEEDED,
                format!(
                    "number of array dimensions ({}) exceeds the maximum allowed ({MAX_DIMENSIONS})",
                    subscripts.len()
                ),
            ));
        }
        let is_slice = subscripts.iter().any(|it| matches!(it, Subscript::Slice { .. }));
        let mut sql = self.sql_of(value)?;
        for subscript in subscripts {
            match subscript {
                Subscript::Index { index } => {
                    // Beside a slice it is the end of one.
                    sql += if is_slice { ", 1, " } else { ", " };
                    sql += &self.place(index, shift, scope)?;
                }
                Subscript::Slice { lower_bound, upper_bound, stride: None } => {
                    let mut bound = |bound: &Option<Expr>, otherwise: i32| match bound {
                        Some(bound) => self.place(bound, shift, scope),
                        None => Ok(otherwise.to_string()),
                    };
                    let (first, last) = (bound(lower_bound, 1)?, bound(upper_bound, i32::MAX)?);
                    sql += &format!(", {first}, {last}");
                }
                Subscript::Slice { stride: Some(_), .. } => {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "syntax error at or near \":\"",
                    ));
                }
            }
        }
        Ok(match is_slice {
            true => Expression::sql(format!("rung_array_slice({sql})"), PgType::Array(element)),
            false => Expression::sql(format!("rung_array_get({sql})"), *element),
        })
    }

    /// A subscript as it is counted from 1.
    fn place(&mut self, index: &Expr, shift: i32, scope: Scope<'_>) -> Result<String, SqlError> {
        let index = self.expression(index, scope)?;
        let index = self.sql_as(index, PgType::Int4, Conversion::Assignment)?;
        Ok(format!("({index}) + {shift}"))
    }
}

/// What a function says of an array whose first subscript is 0, of what it says of one
/// that counts from 1.
pub(super) fn counted_from_zero(
    name: &str,
    arguments: usize,
    value: Expression,
) -> Result<Expression, SqlError> {
    match (name, arguments, &value.form) {
        ("array_lower" | "array_upper", ..) | ("array_position", 2, _) => {
            let Form::Sql(sql) = &value.form else { return Ok(value) };
            Ok(Expression::typed(format!("({sql} - 1)"), value.data_type))
        }
        ("array_dims" | "array_position" | "array_positions", ..) => Err(SqlError::not_supported(
            format!("{name} of a vector"),
            "Its subscripts begin at 0; unnest(...) WITH ORDINALITY numbers its elements.",
        )),
        _ => Ok(value),
    }
}

fn check_element(base: &PgType) -> Result<(), SqlError> {
    match base {
        PgType::Record(_) => Err(SqlError::not_supported(
            "an array of records",
            "Make an array of each field that is meant.",
        )),
        _ => Ok(()),
    }
}

/// An item that SQLite has taken out of an array, as a value of its type.
pub(super) fn array_item(item: String, element: &PgType) -> String {
    match element {
        // JSON has not all of their values.
        PgType::Bytea | PgType::Float4 | PgType::Float8 => format!("rung_array_item({item})"),
        _ => item,
    }
}

/// Whether a query gives one row at most by its form: an aggregate without groups, no
/// FROM, or LIMIT 1.
fn at_most_one_row(query: &Query) -> bool {
    use sqlparser::ast::{GroupByExpr, LimitClause, SetExpr, Value};
    if let Some(LimitClause::LimitOffset { limit: Some(Expr::Value(value)), .. }) =
        &query.limit_clause
        && matches!(&value.value, Value::Number(digits, _) if digits == "1" || digits == "0")
    {
        return true;
    }
    let SetExpr::Select(select) = &*query.body else { return false };
    let ungrouped =
        matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let mut items = select.projection.iter().filter_map(super::select::named_item);
    if select.from.is_empty() {
        return items.all(|(_, expr)| super::table_functions::set_returning(expr).is_none());
    }
    ungrouped && items.any(|(_, expr)| super::calls::contains_aggregate(expr))
}

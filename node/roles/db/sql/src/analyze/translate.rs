//! Expressions.

use sqlparser::ast::{CaseWhen, CastKind, Expr, Interval, TypedString, UnaryOperator, Value};

use super::Analyzer;
use super::casts::{Conversion, common_type};
use super::expression::{Expression, Form};
use super::scope::{Found, Place, Scope, folded, missing_relation};
use super::types::type_use;
use crate::statement::LiteralKind;
use crate::{PgType, SqlError, SqlState, TypeUse};

/// Parameters that a statement may have, as PostgreSQL's protocol counts them.
const MAXIMUM_PARAMETERS: usize = 65_535;

impl Analyzer<'_> {
    /// Understands an expression.
    pub fn expression(&mut self, expr: &Expr, scope: Scope<'_>) -> Result<Expression, SqlError> {
        match expr {
            Expr::Value(value) => self.literal(&value.value),
            Expr::Identifier(ident) => self.column(&folded(ident), scope),
            _ => self.nested(|analyzer| analyzer.compound(expr, scope)),
        }
    }

    fn compound(&mut self, expr: &Expr, scope: Scope<'_>) -> Result<Expression, SqlError> {
        // A key of the grouping stands for itself, whatever it is made of.
        if let Some(grouping) = scope.grouping
            && !scope.in_aggregate
            && !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            && grouping.keys.contains(expr)
        {
            return self.expression(expr, Scope { grouping: None, ..scope });
        }
        match expr {
            Expr::Identifier(ident) => self.column(&folded(ident), scope),
            Expr::CompoundIdentifier(parts) => {
                let parts: Vec<String> = parts.iter().map(folded).collect();
                self.qualified_column(&parts, scope)
            }
            Expr::Value(value) => self.literal(&value.value),
            Expr::Nested(inner) => self.expression(inner, scope),
            Expr::BinaryOp { left, op, right } => self.binary(left, op, right, scope),
            Expr::UnaryOp { op, expr } => self.unary(*op, expr, scope),
            Expr::IsNull(inner) => self.null_test(inner, "IS NULL", scope),
            Expr::IsNotNull(inner) => self.null_test(inner, "IS NOT NULL", scope),
            Expr::IsTrue(inner) => self.truth_test(inner, "IS TRUE", scope),
            Expr::IsNotTrue(inner) => self.truth_test(inner, "IS NOT TRUE", scope),
            Expr::IsFalse(inner) => self.truth_test(inner, "IS FALSE", scope),
            Expr::IsNotFalse(inner) => self.truth_test(inner, "IS NOT FALSE", scope),
            Expr::IsUnknown(inner) => self.truth_test(inner, "IS NULL", scope),
            Expr::IsNotUnknown(inner) => self.truth_test(inner, "IS NOT NULL", scope),
            Expr::IsDistinctFrom(left, right) => self.distinct(left, right, "IS NOT", scope),
            Expr::IsNotDistinctFrom(left, right) => self.distinct(left, right, "IS", scope),
            Expr::Between { expr, negated, low, high } => {
                self.between(expr, low, high, *negated, scope)
            }
            Expr::InList { expr, list, negated } => self.in_list(expr, list, *negated, scope),
            Expr::InSubquery { expr, subquery, negated } => {
                self.in_subquery(expr, subquery, *negated, scope)
            }
            Expr::Exists { subquery, negated } => self.exists(subquery, *negated, scope),
            Expr::Subquery(query) => self.scalar_subquery(query, scope),
            Expr::AnyOp { left, compare_op, right, .. } => {
                self.quantified(left, compare_op, right, true, scope)
            }
            Expr::AllOp { left, compare_op, right } => {
                self.quantified(left, compare_op, right, false, scope)
            }
            Expr::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref(), scope)
            }
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                let target = type_use(data_type)?;
                self.cast(expr, &target, scope)
            }
            Expr::TypedString(TypedString { data_type, value, .. }) => {
                let target = type_use(data_type)?;
                let literal = self.literal(&value.value)?;
                self.convert(literal, &target, Conversion::Explicit)
            }
            Expr::Interval(interval) => self.interval(interval, scope),
            Expr::Collate { expr, collation } => self.collate(expr, &collation.to_string(), scope),
            Expr::Tuple(_) => Err(SqlError::not_supported(
                "a row as a value",
                "Rows can be compared with =, <>, <, >, IN; select their parts one by one.",
            )),
            Expr::Array(array) => self.array(&array.elem, scope),
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.subscripts(root, access_chain, scope)
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char } => {
                let escape = escape_char.as_deref();
                self.like(expr, pattern, escape, if *negated { "!~~" } else { "~~" }, scope)
            }
            Expr::ILike { negated, any: false, expr, pattern, escape_char } => {
                let escape = escape_char.as_deref();
                self.like(expr, pattern, escape, if *negated { "!~~*" } else { "~~*" }, scope)
            }
            Expr::SimilarTo { negated, expr, pattern, escape_char } => {
                self.similar(expr, pattern, escape_char.as_deref(), *negated, scope)
            }
            _ => self.call_like(expr, scope),
        }
    }

    /// An expression as SQLite's text and of a given type.
    pub fn expression_as(
        &mut self,
        expr: &Expr,
        base: PgType,
        scope: Scope<'_>,
    ) -> Result<String, SqlError> {
        let expression = self.expression(expr, scope)?;
        self.sql_as(expression, base, Conversion::Implicit)
    }

    /// An expression that must be boolean, for the clause that is named.
    pub fn condition(
        &mut self,
        expr: &Expr,
        clause: &str,
        scope: Scope<'_>,
    ) -> Result<String, SqlError> {
        let expression = self.expression(expr, scope)?;
        self.boolean(expression, clause)
    }

    pub fn boolean(&mut self, expression: Expression, clause: &str) -> Result<String, SqlError> {
        if !matches!(expression.base(), PgType::Bool | PgType::Unknown) {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "argument of {clause} must be type boolean, not type {}",
                    expression.base().name()
                ),
            ));
        }
        self.sql_as(expression, PgType::Bool, Conversion::Implicit)
    }

    fn column(&mut self, name: &str, scope: Scope<'_>) -> Result<Expression, SqlError> {
        if let Some(found) = scope.column(name)? {
            return reference(found, scope);
        }
        if name == "current_schema" {
            return self.call_function(name, Vec::new());
        }
        if let Some(index) = scope.from.named(name) {
            // The row of a function that gives single values is the value.
            if let [column] = scope.from.relations[index].columns.as_slice()
                && scope.from.relations[index].is_function
            {
                return Ok(Expression::typed(column.sql.clone(), column.data_type.clone()));
            }
            return Err(SqlError::not_supported(
                format!("the row of \"{name}\" as a value"),
                "Name its columns.",
            ));
        }
        Err(SqlError::new(SqlState::UNDEFINED_COLUMN, format!("column \"{name}\" does not exist")))
    }

    fn qualified_column(
        &mut self,
        parts: &[String],
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let (relation, column) = match parts {
            [relation, column] => (relation, column),
            [schema, relation, column] | [_, schema, relation, column] => {
                if !matches!(schema.as_str(), "public" | "pg_catalog" | "information_schema") {
                    return Err(missing_relation(relation));
                }
                (relation, column)
            }
            _ => {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    format!("improper qualified name (too many dotted names): {}", parts.join(".")),
                ));
            }
        };
        reference(scope.qualified(relation, column)?, scope)
    }

    fn literal(&mut self, value: &Value) -> Result<Expression, SqlError> {
        match value {
            Value::Number(digits, _) => number(digits),
            Value::SingleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text)
            | Value::NationalStringLiteral(text) => {
                Ok(Expression::literal(text.as_str(), PgType::Unknown))
            }
            Value::DollarQuotedString(quoted) => {
                Ok(Expression::literal(quoted.value.as_str(), PgType::Unknown))
            }
            Value::Boolean(truth) => {
                let mut expression = Expression::sql(if *truth { "1" } else { "0" }, PgType::Bool);
                expression.not_null = true;
                Ok(expression)
            }
            Value::Null => Ok(Expression::null()),
            Value::Placeholder(name) => match crate::parse::place(name) {
                Some(place) => Ok(Expression::lifted(place.number, place.kind, false)),
                None => self.parameter(name),
            },
            _ => Err(SqlError::not_supported(
                "this kind of literal",
                "Write a string literal and cast it.",
            )),
        }
    }

    fn parameter(&mut self, name: &str) -> Result<Expression, SqlError> {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let number = number.filter(|number| (1..=MAXIMUM_PARAMETERS).contains(number));
        let Some(number) = number else {
            return Err(SqlError::new(
                SqlState::UNDEFINED_PARAMETER,
                format!("there is no parameter {name}"),
            ));
        };
        self.use_parameter(number);
        let base = self.parameter_type(number).unwrap_or(PgType::Unknown);
        let data_type = TypeUse { base, modifier: -1 };
        Ok(Expression { form: Form::Parameter(number), data_type, origin: None, not_null: false })
    }

    fn unary(
        &mut self,
        op: UnaryOperator,
        expr: &Expr,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        match op {
            UnaryOperator::Not => {
                let inner = self.condition(expr, "NOT", scope)?;
                Ok(Expression::sql(format!("(NOT {inner})"), PgType::Bool))
            }
            UnaryOperator::Minus => {
                // A negative number is a literal, so that the smallest can be written.
                if let Expr::Value(value) = expr
                    && let Value::Number(digits, _) = &value.value
                {
                    return number(&format!("-{digits}"));
                }
                if let Expr::Value(value) = expr
                    && let Value::Placeholder(name) = &value.value
                    && let Some(place) = crate::parse::place(name)
                    && place.kind != LiteralKind::Text
                {
                    return Ok(Expression::lifted(place.number, place.kind, true));
                }
                self.prefix_operator("-", expr, scope)
            }
            UnaryOperator::Plus => self.prefix_operator("+", expr, scope),
            other => self.prefix_operator(&other.to_string(), expr, scope),
        }
    }

    fn null_test(
        &mut self,
        inner: &Expr,
        test: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if let Expr::Tuple(parts) = unnested(inner) {
            let mut tests = Vec::with_capacity(parts.len());
            for part in parts {
                let part = self.null_test(part, test, scope)?;
                tests.push(self.sql_of(part)?);
            }
            return Ok(Expression::sql(format!("({})", tests.join(" AND ")), PgType::Bool));
        }
        let inner = self.expression(inner, scope)?;
        // Whether a record is null depends on all of its fields.
        if matches!(inner.base(), PgType::Record(_)) {
            return Err(SqlError::not_supported(
                format!("{test} of a record"),
                "Test the fields that are meant.",
            ));
        }
        let inner = self.sql_of(inner)?;
        Ok(truth(format!("({inner} {test})")))
    }

    fn truth_test(
        &mut self,
        inner: &Expr,
        test: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let inner = self.condition(inner, test, scope)?;
        Ok(truth(format!("({inner} {test})")))
    }

    fn case(
        &mut self,
        operand: Option<&Expr>,
        conditions: &[CaseWhen],
        otherwise: Option<&Expr>,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut tests = Vec::with_capacity(conditions.len());
        let mut results = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            tests.push(match operand {
                Some(operand) => {
                    let equal = self.compare_exprs(operand, "=", &when.condition, scope)?;
                    self.sql_of(equal)?
                }
                None => self.condition(&when.condition, "CASE/WHEN", scope)?,
            });
            results.push(self.expression(&when.result, scope)?);
        }
        if let Some(otherwise) = otherwise {
            results.push(self.expression(otherwise, scope)?);
        }
        let (results, data_type) = self.unify(results, "CASE")?;
        let mut text = String::from("(CASE");
        for (test, result) in tests.iter().zip(&results) {
            text.push_str(&format!(" WHEN {test} THEN {result}"));
        }
        if results.len() > tests.len() {
            text.push_str(&format!(" ELSE {}", results[tests.len()]));
        }
        text.push_str(" END)");
        Ok(Expression::typed(text, data_type))
    }

    /// Gives several expressions the type that they have in common.
    pub fn unify(
        &mut self,
        expressions: Vec<Expression>,
        what: &str,
    ) -> Result<(Vec<String>, TypeUse), SqlError> {
        let types: Vec<&TypeUse> = expressions.iter().map(|one| &one.data_type).collect();
        let data_type = common_type(&types, what)?;
        let mut texts = Vec::with_capacity(expressions.len());
        for expression in expressions {
            let converted = self.convert(expression, &data_type, Conversion::Implicit)?;
            texts.push(self.sql_of(converted)?);
        }
        Ok((texts, data_type))
    }

    fn cast(
        &mut self,
        expr: &Expr,
        target: &TypeUse,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        // ARRAY[...]::type[] gives the type to the elements.
        if let (Expr::Array(array), PgType::Array(element)) = (unnested(expr), &target.base) {
            let element = TypeUse { base: (**element).clone(), modifier: target.modifier };
            return self.array_of(&array.elem, &element, scope);
        }
        let expression = self.expression(expr, scope)?;
        self.convert(expression, target, Conversion::Explicit)
    }

    fn interval(&mut self, interval: &Interval, scope: Scope<'_>) -> Result<Expression, SqlError> {
        let expression = self.expression(&interval.value, scope)?;
        let Form::Literal(text) = &expression.form else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "INTERVAL needs a string literal"));
        };
        let text = match (&interval.leading_field, &interval.last_field) {
            (None, None) => text.clone(),
            (Some(field), None) => format!("{text} {field}"),
            _ => {
                return Err(SqlError::not_supported(
                    "INTERVAL with a range of fields",
                    "Name the units in the string.",
                ));
            }
        };
        let target = TypeUse { base: PgType::Interval, modifier: -1 };
        self.convert(Expression::literal(text, PgType::Unknown), &target, Conversion::Explicit)
    }

    /// Text is compared by its bytes, as with the collation "C".
    fn collate(
        &mut self,
        expr: &Expr,
        collation: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let name = collation.replace('"', "");
        let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
        if !matches!(name, "C" | "POSIX" | "default" | "ucs_basic" | "C.UTF-8") {
            return Err(SqlError::not_supported(
                format!("collation {collation}"),
                "Text is compared by its bytes: use \"C\".",
            ));
        }
        let expression = self.expression(expr, scope)?;
        let expression = self.settle(expression)?;
        if !matches!(
            expression.base(),
            PgType::Text | PgType::Varchar | PgType::Char | PgType::Name
        ) {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!("collations are not supported by type {}", expression.base().name()),
            ));
        }
        Ok(expression)
    }
}

/// A column as an expression, if the grouping allows it here.
fn reference(found: Found, scope: Scope<'_>) -> Result<Expression, SqlError> {
    let mut owner = scope;
    for _ in 0..found.level {
        match owner.parent {
            Some(parent) => owner = *parent,
            None => break,
        }
    }
    if let Some(grouping) = owner.grouping
        && !owner.in_aggregate
        && !grouping.columns.contains(&found.column.sql)
        && !grouping.relations.contains(&found.relation)
    {
        let name = &found.qualified_name;
        let message = if found.level == 0 {
            format!(
                "column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate \
                 function"
            )
        } else {
            format!("subquery uses ungrouped column \"{name}\" from outer query")
        };
        return Err(SqlError::new(SqlState::GROUPING_ERROR, message));
    }
    if scope.place == Place::Values && found.level == 0 {
        let message = format!("column \"{}\" cannot be used here", found.qualified_name);
        return Err(SqlError::new(SqlState::UNDEFINED_COLUMN, message));
    }
    let mut expression = Expression::typed(found.column.sql, found.column.data_type);
    expression.origin = found.column.origin;
    expression.not_null = found.column.not_null;
    Ok(expression)
}

/// The smallest of int4, int8 and numeric that holds it.
fn number(digits: &str) -> Result<Expression, SqlError> {
    let digits = digits.replace('_', "");
    let digits = digits.as_str();
    let (sign, unsigned) = match digits.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", digits),
    };
    let radix = match unsigned.get(..2) {
        Some("0x" | "0X") => 16,
        Some("0o" | "0O") => 8,
        Some("0b" | "0B") => 2,
        _ => 10,
    };
    if radix != 10 {
        // PostgreSQL 15 reads 0x10 as 0 with the alias x10.
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("trailing junk after numeric literal at or near \"{unsigned}\""),
        ));
    }
    let base = if digits.parse::<i32>().is_ok() {
        PgType::Int4
    } else if digits.parse::<i64>().is_ok() {
        PgType::Int8
    } else {
        PgType::Numeric
    };
    if unsigned.ends_with(|last: char| last.is_ascii_alphabetic()) {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("trailing junk after numeric literal at or near \"{unsigned}\""),
        ));
    }
    Ok(Expression::literal(format!("{sign}{unsigned}"), base))
}

pub(super) fn truth(sql: String) -> Expression {
    let mut expression = Expression::sql(sql, PgType::Bool);
    expression.not_null = true;
    expression
}

/// Without parentheses around it.
pub(crate) fn unnested(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

//! Operators: logic and comparisons are SQLite's own, the others come from the tables
//! of signatures.

use sqlparser::ast::{BinaryOperator, Expr};

use super::Analyzer;
use super::casts::{Category, Conversion, can_convert, category};
use super::expression::{Expression, collated, collation, names_collation};
use super::resolve::{Failure, Resolved, resolve};
use super::scope::Scope;
use super::translate::{truth, unnested};
use crate::signature::{FunctionKind, Signatures};
use crate::{PgType, SqlError, SqlState, TypeUse};

impl Analyzer<'_> {
    pub fn binary(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        match op {
            BinaryOperator::And => self.logic(left, op, right, "AND", scope),
            BinaryOperator::Or => self.logic(left, op, right, "OR", scope),
            BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq => self.compare_exprs(left, &op.to_string(), right, scope),
            BinaryOperator::PGCustomBinaryOperator(parts) => {
                let name = parts.last().cloned().unwrap_or_default();
                if matches!(name.as_str(), "=" | "<>" | "<" | "<=" | ">" | ">=") {
                    return self.compare_exprs(left, &name, right, scope);
                }
                self.infix_operator(&name, left, right, scope)
            }
            other => self.infix_operator(&other.to_string(), left, right, scope),
        }
    }

    /// A chain of AND or OR may be long: it is taken apart in a loop and put together as
    /// a balanced tree, since SQLite bounds the depth of expressions.
    fn logic(
        &mut self,
        left: &Expr,
        op: &BinaryOperator,
        right: &Expr,
        word: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut terms = vec![right];
        let mut rest = left;
        while let Expr::BinaryOp { left, op: other, right } = rest
            && other == op
        {
            terms.push(right);
            rest = left;
        }
        terms.push(rest);
        let mut texts = Vec::with_capacity(terms.len());
        for term in terms.into_iter().rev() {
            texts.push(self.condition(term, word, scope)?);
        }
        Ok(Expression::sql(balanced(texts, word), PgType::Bool))
    }

    /// `=`, `<>`, `<`, `<=`, `>`, `>=` of values or rows.
    pub fn compare_exprs(
        &mut self,
        left: &Expr,
        op: &str,
        right: &Expr,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if let (Expr::Tuple(left), Expr::Tuple(right)) = (unnested(left), unnested(right)) {
            return self.compare_rows(left, op, right, scope);
        }
        let left = self.expression(left, scope)?;
        let right = self.expression(right, scope)?;
        self.compare(left, op, right)
    }

    fn compare_rows(
        &mut self,
        left: &[Expr],
        op: &str,
        right: &[Expr],
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if left.len() != right.len() {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "unequal number of entries in row expressions",
            ));
        }
        let (mut lefts, mut rights) = (Vec::new(), Vec::new());
        for (left, right) in left.iter().zip(right) {
            let left = self.expression(left, scope)?;
            let right = self.expression(right, scope)?;
            let (left, right, base) = self.comparable(left, op, right)?;
            lefts.push(super::expression::collated(&left, &base));
            rights.push(right);
        }
        let sql = format!("(({}) {op} ({}))", lefts.join(", "), rights.join(", "));
        Ok(Expression::sql(sql, PgType::Bool))
    }

    pub fn compare(
        &mut self,
        left: Expression,
        op: &str,
        right: Expression,
    ) -> Result<Expression, SqlError> {
        let (left, right, base) = self.comparable(left, op, right)?;
        let sql = format!("({} {op} {right})", compared(&left, &right, &base));
        Ok(Expression::sql(sql, PgType::Bool))
    }

    /// Converts two values to a type in which they can be compared.
    pub fn comparable(
        &mut self,
        left: Expression,
        op: &str,
        right: Expression,
    ) -> Result<(String, String, PgType), SqlError> {
        let Some(base) = comparison_type(left.base(), right.base()) else {
            return Err(no_operator(op, &[left.base().clone(), right.base().clone()]));
        };
        if base == PgType::Jsonb && !matches!(op, "=" | "<>" | "IS" | "IS NOT")
            || matches!(base, PgType::Array(_)) && !matches!(op, "=" | "<>" | "IS" | "IS NOT")
        {
            return Err(SqlError::not_supported(
                format!("{op} of type {}", base.name()),
                "Compare parts of the values.",
            ));
        }
        // Integers of all widths are stored alike.
        let integers = |base: &PgType| matches!(base, PgType::Int2 | PgType::Int4 | PgType::Int8);
        let mut side = |expression: Expression| {
            if integers(expression.base()) && integers(&base) && !expression.is_unknown() {
                return self.sql_of(expression);
            }
            self.sql_as(expression, base.clone(), Conversion::Implicit)
        };
        Ok((side(left)?, side(right)?, base))
    }

    pub fn distinct(
        &mut self,
        left: &Expr,
        right: &Expr,
        operator: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let left = self.expression(left, scope)?;
        let right = self.expression(right, scope)?;
        let (left, right, base) = self.comparable(left, operator, right)?;
        Ok(truth(format!("({} {operator} {right})", compared(&left, &right, &base))))
    }

    pub fn between(
        &mut self,
        expr: &Expr,
        low: &Expr,
        high: &Expr,
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let value = self.expression(expr, scope)?;
        let low = self.expression(low, scope)?;
        let high = self.expression(high, scope)?;
        // A parameter that is compared must have one type before both comparisons.
        let above = self.compare(value.clone(), ">=", low)?;
        let below = self.compare(value, "<=", high)?;
        let (above, below) = (self.sql_of(above)?, self.sql_of(below)?);
        let not = if negated { "NOT " } else { "" };
        Ok(Expression::sql(format!("({not}({above} AND {below}))"), PgType::Bool))
    }

    pub fn in_list(
        &mut self,
        expr: &Expr,
        list: &[Expr],
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if let Expr::Tuple(parts) = unnested(expr) {
            return self.row_in_list(parts, list, negated, scope);
        }
        let left = self.expression(expr, scope)?;
        let mut items = Vec::with_capacity(list.len());
        for item in list {
            items.push(self.expression(item, scope)?);
        }
        let mut base = left.base().clone();
        for item in &items {
            base = comparison_type(&base, item.base())
                .ok_or_else(|| no_operator("=", &[left.base().clone(), item.base().clone()]))?;
        }
        if base == PgType::Unknown {
            base = PgType::Text;
        }
        let left = self.sql_as(left, base.clone(), Conversion::Implicit)?;
        let left = super::expression::collated(&left, &base);
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            texts.push(self.sql_as(item, base.clone(), Conversion::Implicit)?);
        }
        let not = if negated { "NOT " } else { "" };
        Ok(Expression::sql(format!("({left} {not}IN ({}))", texts.join(", ")), PgType::Bool))
    }

    fn row_in_list(
        &mut self,
        parts: &[Expr],
        list: &[Expr],
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut rows = Vec::with_capacity(list.len());
        for item in list {
            let Expr::Tuple(values) = unnested(item) else {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "a row can only be in a list of rows",
                ));
            };
            let equal = self.compare_rows(parts, "=", values, scope)?;
            rows.push(self.sql_of(equal)?);
        }
        let any = balanced(rows, "OR");
        let not = if negated { "NOT " } else { "" };
        Ok(Expression::sql(format!("({not}{any})"), PgType::Bool))
    }

    pub fn like(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
        operator: &str,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let value = self.expression(expr, scope)?;
        let mut pattern = self.expression(pattern, scope)?;
        if let Some(escape) = escape {
            let escape = self.expression(escape, scope)?;
            pattern = self.call_function("like_escape", vec![pattern, escape])?;
        }
        self.operator(operator, vec![value, pattern])
    }

    pub fn similar(
        &mut self,
        expr: &Expr,
        pattern: &Expr,
        escape: Option<&Expr>,
        negated: bool,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let value = self.expression(expr, scope)?;
        let mut arguments = vec![self.expression(pattern, scope)?];
        if let Some(escape) = escape {
            arguments.push(self.expression(escape, scope)?);
        }
        let pattern = self.call_function("similar_to_escape", arguments)?;
        self.operator(if negated { "!~" } else { "~" }, vec![value, pattern])
    }

    fn infix_operator(
        &mut self,
        name: &str,
        left: &Expr,
        right: &Expr,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let left = self.expression(left, scope)?;
        let right = self.expression(right, scope)?;
        self.operator(name, vec![left, right])
    }

    pub fn prefix_operator(
        &mut self,
        name: &str,
        expr: &Expr,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let operand = self.expression(expr, scope)?;
        self.operator(name, vec![operand])
    }

    pub fn operator(
        &mut self,
        name: &str,
        operands: Vec<Expression>,
    ) -> Result<Expression, SqlError> {
        let types: Vec<PgType> = operands.iter().map(|operand| operand.base().clone()).collect();
        let candidates = Signatures::get().named(name).iter();
        let candidates = candidates.filter(|signature| signature.kind == FunctionKind::Operator);
        match resolve(candidates, &types, true) {
            Ok(resolved) => self.apply(&resolved, operands),
            Err(Failure::None) => Err(no_operator(name, &types)),
            Err(Failure::Ambiguous) => Err(SqlError::new(
                SqlState("42725"),
                format!("operator is not unique: {}", operator_text(name, &types)),
            )
            .hint(
                "Could not choose a best candidate operator. You might need to add explicit type \
                 casts.",
            )),
        }
    }

    /// Converts the arguments and fills the template of a signature.
    pub fn apply(
        &mut self,
        resolved: &Resolved<'_>,
        arguments: Vec<Expression>,
    ) -> Result<Expression, SqlError> {
        let texts = self.arguments(resolved, arguments)?;
        let sql = filled(resolved.signature.template, &texts, &resolved.arguments);
        Ok(Expression::sql(sql, resolved.result.clone()))
    }

    pub fn arguments(
        &mut self,
        resolved: &Resolved<'_>,
        arguments: Vec<Expression>,
    ) -> Result<Vec<String>, SqlError> {
        let mut texts = Vec::with_capacity(arguments.len());
        for (argument, base) in arguments.into_iter().zip(&resolved.arguments) {
            let target = TypeUse { base: base.clone(), modifier: -1 };
            let converted = self.convert(argument, &target, Conversion::Implicit)?;
            texts.push(self.sql_of(converted)?);
        }
        Ok(texts)
    }
}

/// Puts arguments into a template: `{0}` one of them, `{*}` all, `{t0}` the name of a
/// type, `{*t}` all, each followed by the name of its type.
pub(super) fn filled(template: &str, texts: &[String], types: &[PgType]) -> String {
    let mut filled = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let Some(end) = rest.find('}') else { break };
        let (what, after) = (&rest[..end], &rest[end + 1..]);
        if what == "*" {
            filled.push_str(&texts.join(", "));
        } else if what == "*t" {
            let pairs = texts.iter().zip(types).map(|(text, base)| {
                format!("{text}, {}", super::expression::quoted_string(base.sql_name()))
            });
            filled.push_str(&pairs.collect::<Vec<_>>().join(", "));
        } else if let Some(index) = what.strip_prefix('t').and_then(|n| n.parse::<usize>().ok()) {
            let name = types.get(index).map_or("", |base| base.sql_name());
            filled.push_str(&super::expression::quoted_string(name));
        } else if let Some(text) = what.parse::<usize>().ok().and_then(|n| texts.get(n)) {
            filled.push_str(text);
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

/// The left side of a comparison with the collation that decides it. A column's own
/// collation is that of its type.
fn compared(left: &str, right: &str, base: &PgType) -> String {
    match collation(base).is_some() || names_collation(left) || names_collation(right) {
        true => collated(left, base),
        false => left.to_owned(),
    }
}

pub(super) fn collate_suffix(base: &PgType) -> String {
    collation(base).map(|name| format!(" COLLATE {name}")).unwrap_or_default()
}

/// The type in which values of two types are compared.
pub(super) fn comparison_type(left: &PgType, right: &PgType) -> Option<PgType> {
    use PgType as T;
    let chosen = match (left, right) {
        (T::Unknown, T::Unknown) => T::Text,
        (T::Unknown, known) | (known, T::Unknown) => known.clone(),
        (left, right) if left == right => left.clone(),
        (T::Array(left), T::Array(right)) => T::Array(Box::new(comparison_type(left, right)?)),
        (left, right) => match (category(left), category(right)) {
            (Category::Number, Category::Number) => number_type(left, right),
            (Category::Text, Category::Text) => T::Text,
            (Category::Text, _) if *right == T::InternalChar => T::Text,
            (_, Category::Text) if *left == T::InternalChar => T::Text,
            (Category::Text, _) if matches!(right, T::Regclass) => T::Regclass,
            (_, Category::Text) if matches!(left, T::Regclass) => T::Regclass,
            _ if can_convert(left, right, Conversion::Implicit) => right.clone(),
            _ if can_convert(right, left, Conversion::Implicit) => left.clone(),
            _ => return None,
        },
    };
    match chosen {
        T::Json | T::Void | T::Record(_) => None,
        T::Varchar => Some(T::Text),
        chosen => Some(chosen),
    }
}

fn number_type(left: &PgType, right: &PgType) -> PgType {
    use PgType as T;
    let is = |wanted: &[PgType]| wanted.contains(left) || wanted.contains(right);
    if is(&[T::Float4, T::Float8]) {
        T::Float8
    } else if is(&[T::Numeric]) {
        T::Numeric
    } else if is(&[T::Oid, T::Regclass, T::Regtype]) {
        T::Oid
    } else {
        T::Int8
    }
}

fn balanced(mut texts: Vec<String>, word: &str) -> String {
    while texts.len() > 1 {
        let mut pairs = Vec::with_capacity(texts.len() / 2 + 1);
        let mut rest = texts.into_iter();
        while let Some(first) = rest.next() {
            match rest.next() {
                Some(second) => pairs.push(format!("({first} {word} {second})")),
                None => pairs.push(first),
            }
        }
        texts = pairs;
    }
    texts.pop().unwrap_or_else(|| "0".to_owned())
}

fn operator_text(name: &str, types: &[PgType]) -> String {
    match types {
        [only] => format!("{name} {}", only.name()),
        [left, right] => format!("{} {name} {}", left.name(), right.name()),
        _ => name.to_owned(),
    }
}

pub(super) fn no_operator(name: &str, types: &[PgType]) -> SqlError {
    let name = match name {
        "IS" | "IS NOT" => "=",
        other => other,
    };
    if types.iter().any(|base| matches!(base, PgType::Record(_))) {
        return SqlError::not_supported(
            format!("the operator {}", operator_text(name, types)),
            "Name the fields of the record that are meant.",
        );
    }
    SqlError::new(
        SqlState::UNDEFINED_FUNCTION,
        format!("operator does not exist: {}", operator_text(name, types)),
    )
    .hint(
        "No operator matches the given name and argument types. You might need to add explicit \
         type casts.",
    )
}

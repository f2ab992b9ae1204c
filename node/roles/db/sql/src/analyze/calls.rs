//! Calls of functions: scalar, aggregate and window, and the syntax that stands for
//! calls, such as EXTRACT.

use std::ops::ControlFlow;

use sqlparser::ast::{
    CeilFloorKind, DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Query, TrimWhereField, Visit,
    Visitor,
};

use super::Analyzer;
use super::casts::Conversion;
use super::expression::{Expression, Form, collated, names_collation};
use super::operators::filled;
use super::resolve::{Failure, resolve};
use super::scope::{Place, Scope, schema_and_name};
use crate::signature::{FunctionKind, Signature, Signatures};
use crate::{PgType, SqlError, SqlState, TypeUse};

/// What stands around an aggregate's arguments.
#[derive(Default)]
struct AggregateParts<'e> {
    distinct: bool,
    order_by: &'e [sqlparser::ast::OrderByExpr],
    filter: Option<&'e Expr>,
    over: Option<&'e sqlparser::ast::WindowType>,
}

impl Analyzer<'_> {
    /// Syntax that PostgreSQL has for certain functions, and calls.
    pub fn call_like(&mut self, expr: &Expr, scope: Scope<'_>) -> Result<Expression, SqlError> {
        match expr {
            Expr::Function(function) => self.function(function, scope),
            Expr::Extract { field, expr, .. } => {
                let field = Expression::literal(field_name(field), PgType::Text);
                let value = self.expression(expr, scope)?;
                self.call_function("extract", vec![field, value])
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                let time_zone = self.expression(time_zone, scope)?;
                let timestamp = self.expression(timestamp, scope)?;
                self.call_function("timezone", vec![time_zone, timestamp])
            }
            Expr::Position { expr, r#in } => {
                let part = self.expression(expr, scope)?;
                let whole = self.expression(r#in, scope)?;
                self.call_function("position", vec![whole, part])
            }
            Expr::Substring { expr, substring_from, substring_for, special: false, .. } => {
                let mut arguments = vec![self.expression(expr, scope)?];
                match (substring_from, substring_for) {
                    (None, Some(_)) => arguments.push(Expression::literal("1", PgType::Int4)),
                    (Some(from), _) => arguments.push(self.expression(from, scope)?),
                    (None, None) => {}
                }
                if let Some(length) = substring_for {
                    arguments.push(self.expression(length, scope)?);
                }
                self.call_function("substring", arguments)
            }
            Expr::Substring { expr, substring_from, substring_for, .. } => {
                let mut arguments = vec![self.expression(expr, scope)?];
                for part in [substring_from, substring_for].into_iter().flatten() {
                    arguments.push(self.expression(part, scope)?);
                }
                self.call_function("substring", arguments)
            }
            Expr::Trim { expr, trim_where, trim_what, trim_characters } => {
                let name = match trim_where {
                    Some(TrimWhereField::Leading) => "ltrim",
                    Some(TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut arguments = vec![self.expression(expr, scope)?];
                let first = trim_characters.as_ref().and_then(|characters| characters.first());
                if let Some(what) = trim_what.as_deref().or(first) {
                    arguments.push(self.expression(what, scope)?);
                }
                self.call_function(name, arguments)
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                let mut arguments = Vec::with_capacity(4);
                for part in [expr, overlay_what, overlay_from] {
                    arguments.push(self.expression(part, scope)?);
                }
                if let Some(length) = overlay_for {
                    arguments.push(self.expression(length, scope)?);
                }
                self.call_function("overlay", arguments)
            }
            Expr::Ceil { expr, field } => self.rounded("ceil", expr, field, scope),
            Expr::Floor { expr, field } => self.rounded("floor", expr, field, scope),
            other => Err(SqlError::not_supported(
                format!("the expression {}", abbreviated(&other.to_string())),
                "Write it with other operators or functions.",
            )),
        }
    }

    fn rounded(
        &mut self,
        name: &str,
        expr: &Expr,
        field: &CeilFloorKind,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if !matches!(field, CeilFloorKind::DateTimeField(DateTimeField::NoDateTime)) {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("{name} takes one argument"),
            ));
        }
        let value = self.expression(expr, scope)?;
        self.call_function(name, vec![value])
    }

    /// A scalar function by name.
    pub fn call_function(
        &mut self,
        name: &str,
        arguments: Vec<Expression>,
    ) -> Result<Expression, SqlError> {
        let types: Vec<PgType> = arguments.iter().map(|one| one.base().clone()).collect();
        let signatures = Signatures::get().named(name).iter();
        let scalar = signatures.filter(|signature| signature.kind == FunctionKind::Scalar);
        match resolve(scalar, &types, false) {
            Ok(resolved) => {
                self.reads_context = true;
                let first = arguments.first().map_or(1, |one| one.data_type.first_subscript());
                let value = self.apply(&resolved, arguments)?;
                if first == 1 {
                    Ok(value)
                } else {
                    super::subquery::counted_from_zero(name, types.len(), value)
                }
            }
            Err(failure) => Err(no_function(name, &types, &failure)),
        }
    }

    fn function(&mut self, function: &Function, scope: Scope<'_>) -> Result<Expression, SqlError> {
        let (schema, name) = schema_and_name(&function.name)?;
        if schema
            .as_deref()
            .is_some_and(|s| !matches!(s, "pg_catalog" | "public" | "information_schema"))
        {
            return Err(SqlError::new(
                SqlState::INVALID_SCHEMA_NAME,
                format!("schema \"{}\" does not exist", schema.unwrap_or_default()),
            ));
        }
        if function.null_treatment.is_some() || !function.within_group.is_empty() {
            return Err(SqlError::not_supported(
                "IGNORE NULLS and WITHIN GROUP",
                "Use a window function in a subquery.",
            ));
        }
        let nothing = FunctionArgumentList {
            duplicate_treatment: None,
            args: Vec::new(),
            clauses: Vec::new(),
        };
        let list = match &function.args {
            FunctionArguments::None => &nothing,
            FunctionArguments::List(list) => list,
            FunctionArguments::Subquery(query) if name == "array" => {
                return self.array_of_query(query, scope);
            }
            FunctionArguments::Subquery(query) => {
                let value = self.scalar_subquery(query, scope)?;
                return self.call_function(&name, vec![value]);
            }
        };
        let parts = aggregate_parts(function, list)?;
        if let Some(special) = self.special_form(&name, list, scope)? {
            return Ok(special);
        }
        if is_aggregate(&name) || parts.over.is_some() {
            return self.aggregate(&name, list, &parts, scope);
        }
        if parts.distinct || parts.filter.is_some() || !parts.order_by.is_empty() {
            return Err(SqlError::new(
                SqlState::WRONG_OBJECT_TYPE,
                format!(
                    "DISTINCT, FILTER or ORDER BY specified, but {name} is not an aggregate function"
                ),
            ));
        }
        let arguments = self.plain_arguments(&list.args, scope)?;
        // A type's name can be called like a function: int4('1').
        if Signatures::get().named(&name).is_empty()
            && let ([argument], Some(base)) = (arguments.as_slice(), PgType::from_name(&name))
        {
            let target = TypeUse { base, modifier: -1 };
            return self.convert(argument.clone(), &target, Conversion::Explicit);
        }
        if Signatures::get().named(&name).iter().any(|s| s.kind == FunctionKind::Table) {
            return Err(SqlError::not_supported(
                format!("{name} at this place"),
                "Call it in FROM, or as an item of the select list by itself.",
            ));
        }
        self.call_function(&name, arguments)
    }

    fn plain_arguments(
        &mut self,
        args: &[FunctionArg],
        scope: Scope<'_>,
    ) -> Result<Vec<Expression>, SqlError> {
        let mut arguments = Vec::with_capacity(args.len());
        for argument in args {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => {
                    arguments.push(self.expression(expr, scope)?);
                }
                _ => {
                    return Err(SqlError::not_supported(
                        "named arguments",
                        "Give the arguments in their order.",
                    ));
                }
            }
        }
        Ok(arguments)
    }

    pub fn function_arguments(
        &mut self,
        args: &[FunctionArg],
        scope: Scope<'_>,
    ) -> Result<Vec<Expression>, SqlError> {
        self.plain_arguments(args, scope)
    }

    /// Functions that PostgreSQL's grammar knows, whose arguments have a common type.
    fn special_form(
        &mut self,
        name: &str,
        list: &FunctionArgumentList,
        scope: Scope<'_>,
    ) -> Result<Option<Expression>, SqlError> {
        match name {
            "coalesce" | "greatest" | "least" if !list.args.is_empty() => {
                let arguments = self.plain_arguments(&list.args, scope)?;
                let not_null = arguments.iter().any(|argument| argument.not_null);
                let label = name.to_uppercase();
                let (texts, data_type) = self.unify(arguments, &label)?;
                if name != "coalesce" {
                    super::ordering::check_sortable(&data_type.base)?;
                }
                let sql = match (name, texts.as_slice()) {
                    (_, [only]) => only.clone(),
                    ("coalesce", _) => format!("coalesce({})", texts.join(", ")),
                    _ => extreme(name, &texts, &data_type.base),
                };
                let mut expression = Expression::typed(sql, data_type);
                expression.not_null = not_null;
                Ok(Some(expression))
            }
            "nullif" if list.args.len() == 2 => {
                let mut arguments = self.plain_arguments(&list.args, scope)?.into_iter();
                let (Some(left), Some(right)) = (arguments.next(), arguments.next()) else {
                    return Ok(None);
                };
                let left = self.typed_like(left, &right)?;
                let value = self.sql_of(left.clone())?;
                let data_type = self.settle(left.clone())?.data_type;
                let equal = self.compare(left, "=", right)?;
                let equal = self.sql_of(equal)?;
                let sql = format!("(CASE WHEN {equal} THEN NULL ELSE {value} END)");
                Ok(Some(Expression::typed(sql, data_type)))
            }
            "row" => Err(SqlError::not_supported("a row as a value", "Select its parts.")),
            "grouping" => Err(SqlError::not_supported("GROUPING", "Use UNION ALL of groupings.")),
            _ => Ok(None),
        }
    }

    /// An unknown value takes the other's type.
    fn typed_like(
        &mut self,
        expression: Expression,
        other: &Expression,
    ) -> Result<Expression, SqlError> {
        if !expression.is_unknown() || other.is_unknown() {
            return Ok(expression);
        }
        let target = TypeUse { base: other.base().clone(), modifier: -1 };
        self.convert(expression, &target, Conversion::Implicit)
    }

    fn aggregate(
        &mut self,
        name: &str,
        list: &FunctionArgumentList,
        parts: &AggregateParts<'_>,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if parts.over.is_none() {
            check_aggregate_place(scope)?;
        } else if !matches!(scope.place, Place::SelectList | Place::OrderBy) {
            return Err(SqlError::new(
                SqlState("42P20"),
                format!("window functions are not allowed in {}", place_name(scope.place)),
            ));
        }
        let in_aggregate = scope.in_aggregate || parts.over.is_none();
        let inner = Scope { in_aggregate, ..scope };
        if name == "string_agg" && parts.distinct && parts.over.is_none() {
            return self.distinct_strings(list, parts, inner);
        }
        let is_star =
            matches!(list.args.as_slice(), [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)]);
        let arguments = if is_star { Vec::new() } else { self.plain_arguments(&list.args, inner)? };
        let types: Vec<PgType> = arguments.iter().map(|one| one.base().clone()).collect();
        let (mut sql, result) = if is_star && name == "count" {
            ("count(*)".to_owned(), PgType::Int8)
        } else {
            let signatures = Signatures::get().named(name).iter();
            let wanted = signatures.filter(|signature| match signature.kind {
                FunctionKind::Aggregate => true,
                FunctionKind::Window => parts.over.is_some(),
                _ => false,
            });
            let resolved = resolve(wanted, &types, false)
                .map_err(|failure| no_aggregate(name, &types, &failure))?;
            let mut texts = self.arguments(&resolved, arguments)?;
            for (text, base) in texts.iter_mut().zip(&resolved.arguments) {
                if names_collation(text) {
                    *text = collated(text, base);
                }
            }
            if parts.distinct
                && let Some(first) = texts.first_mut()
            {
                *first = format!("DISTINCT {}", collated(first, &resolved.arguments[0]));
            }
            let sql = filled(resolved.signature.template, &texts, &resolved.arguments);
            (sql, resolved.result)
        };
        // What PostgreSQL has sorted to find what is distinct stays sorted.
        let collects = matches!(name, "array_agg" | "json_agg" | "jsonb_agg");
        if parts.distinct && collects && parts.order_by.is_empty() {
            let items = self.plain_arguments(&list.args, inner)?;
            if let Some(item) = items.into_iter().next().filter(|one| is_sortable(one.base())) {
                let item = self.settle(item)?;
                let base = item.base().clone();
                let key = collated(&self.sql_of(item)?, &base);
                sql.pop();
                sql.push_str(&format!(" ORDER BY {key} NULLS LAST)"));
            }
        }
        if !parts.order_by.is_empty() {
            let order = self.order_texts(parts.order_by, inner)?;
            // The template of an aggregate is a call, so that this can go inside.
            sql.pop();
            sql.push_str(&format!(" ORDER BY {})", order.join(", ")));
        }
        if let Some(filter) = parts.filter {
            let condition = self.condition(filter, "FILTER", inner)?;
            sql.push_str(&format!(" FILTER (WHERE {condition})"));
        }
        if let Some(over) = parts.over {
            let window = self.window(over, scope)?;
            sql.push_str(&format!(" OVER {window}"));
        }
        Ok(Expression::sql(sql, result))
    }
}

impl Analyzer<'_> {
    /// `string_agg(DISTINCT ...)`: SQLite knows DISTINCT of one argument only, so the
    /// strings are collected first.
    fn distinct_strings(
        &mut self,
        list: &FunctionArgumentList,
        parts: &AggregateParts<'_>,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        let mut arguments = self.plain_arguments(&list.args, scope)?.into_iter();
        let (Some(value), Some(between), None) =
            (arguments.next(), arguments.next(), arguments.next())
        else {
            let failure = Failure::None;
            return Err(no_aggregate("string_agg", &[], &failure));
        };
        let is_text = |base: &PgType| {
            matches!(base, PgType::Unknown | PgType::Text | PgType::Varchar | PgType::Name)
        };
        let is_fixed =
            matches!(between.form, Form::Literal(_) | Form::Lifted(_) | Form::Parameter(_));
        if !is_text(value.base()) || !is_fixed {
            return Err(SqlError::not_supported(
                "this string_agg(DISTINCT ...)",
                "Join text with a delimiter that is a string.",
            ));
        }
        let value = self.sql_as(value, PgType::Text, Conversion::Implicit)?;
        let value = collated(&value, &PgType::Text);
        let order = match parts.order_by {
            [] => value.clone(),
            items => self.order_texts(items, scope)?.join(", "),
        };
        let mut condition = format!("{value} IS NOT NULL");
        if let Some(filter) = parts.filter {
            let filter = self.condition(filter, "FILTER", scope)?;
            condition = format!("{condition} AND {filter}");
        }
        let array =
            format!("rung_array_agg(DISTINCT {value} ORDER BY {order}) FILTER (WHERE {condition})");
        let array = Expression::sql(array, PgType::Array(Box::new(PgType::Text)));
        self.call_function("array_to_string", vec![array, between])
    }
}

/// Whether values of a type are sorted as PostgreSQL sorts them.
fn is_sortable(base: &PgType) -> bool {
    !matches!(base, PgType::Json | PgType::Jsonb | PgType::Array(_))
}

fn aggregate_parts<'e>(
    function: &'e Function,
    list: &'e FunctionArgumentList,
) -> Result<AggregateParts<'e>, SqlError> {
    let mut parts = AggregateParts {
        distinct: list.duplicate_treatment == Some(DuplicateTreatment::Distinct),
        filter: function.filter.as_deref(),
        over: function.over.as_ref(),
        ..AggregateParts::default()
    };
    for clause in &list.clauses {
        match clause {
            FunctionArgumentClause::OrderBy(order_by) => parts.order_by = order_by,
            other => {
                return Err(SqlError::not_supported(
                    format!("{other} in a function's arguments"),
                    "Leave it out.",
                ));
            }
        }
    }
    Ok(parts)
}

/// GREATEST and LEAST ignore nulls; SQLite's max and min of several arguments do not.
fn extreme(name: &str, texts: &[String], base: &PgType) -> String {
    let function = if name == "greatest" { "max" } else { "min" };
    if texts.len() == 2 {
        let (a, b) = (&texts[0], &texts[1]);
        let first = collated(a, base);
        return format!("ifnull({function}({first}, {b}), ifnull({a}, {b}))");
    }
    let value = collated("c1", base);
    let rows = texts.join(" AS c1 UNION ALL SELECT ");
    format!("(SELECT {function}({value}) FROM (SELECT {rows} AS c1))")
}

fn is_aggregate(name: &str) -> bool {
    let mut signatures = Signatures::get().named(name).iter();
    name == "count" || signatures.any(|signature| signature.kind == FunctionKind::Aggregate)
}

fn check_aggregate_place(scope: Scope<'_>) -> Result<(), SqlError> {
    if scope.in_aggregate {
        return Err(SqlError::new(
            SqlState::GROUPING_ERROR,
            "aggregate function calls cannot be nested",
        ));
    }
    match scope.place {
        Place::SelectList | Place::Having | Place::OrderBy => Ok(()),
        place => Err(SqlError::new(
            SqlState::GROUPING_ERROR,
            format!("aggregate functions are not allowed in {}", place_name(place)),
        )),
    }
}

pub(super) fn place_name(place: Place) -> &'static str {
    match place {
        Place::SelectList => "the select list",
        Place::Where => "WHERE",
        Place::GroupBy => "GROUP BY",
        Place::Having => "HAVING",
        Place::OrderBy => "ORDER BY",
        Place::JoinCondition => "JOIN conditions",
        Place::Limit => "LIMIT",
        Place::Values => "VALUES",
        Place::Returning => "RETURNING",
        Place::Assignment => "UPDATE",
        Place::FunctionInFrom => "functions in FROM",
        Place::Catalog => "constraints, defaults and indexes",
    }
}

fn call_text(name: &str, types: &[PgType]) -> String {
    let types: Vec<&str> = types.iter().map(|base| base.name()).collect();
    format!("{name}({})", types.join(", "))
}

pub(super) fn no_function(name: &str, types: &[PgType], failure: &Failure) -> SqlError {
    let call = call_text(name, types);
    if types.iter().any(|base| matches!(base, PgType::Record(_))) {
        return SqlError::not_supported(
            format!("the call {call}"),
            "Give the fields of the record one by one.",
        );
    }
    match failure {
        Failure::None if name.contains("advisory_") && name.starts_with("pg_") => {
            SqlError::not_supported("an advisory lock", "Lock a row with SELECT ... FOR UPDATE.")
        }
        Failure::None => {
            SqlError::new(SqlState::UNDEFINED_FUNCTION, format!("function {call} does not exist"))
                .hint(
                    "No function matches the given name and argument types. You might need to add \
             explicit type casts.",
                )
        }
        Failure::Ambiguous => {
            SqlError::new(SqlState("42725"), format!("function {call} is not unique")).hint(
                "Could not choose a best candidate function. You might need to add explicit type \
                 casts.",
            )
        }
    }
}

/// A known function of another kind is told apart from an unknown one.
fn no_aggregate(name: &str, types: &[PgType], failure: &Failure) -> SqlError {
    let is_scalar = |signature: &Signature| signature.kind == FunctionKind::Scalar;
    if Signatures::get().named(name).iter().any(is_scalar) && !is_aggregate(name) {
        return SqlError::new(
            SqlState::WRONG_OBJECT_TYPE,
            format!(
                "OVER specified, but {name} is not a window function nor an aggregate function"
            ),
        );
    }
    no_function(name, types, failure)
}

fn field_name(field: &DateTimeField) -> String {
    field.to_string().trim_matches(['\'', '"']).to_lowercase()
}

fn abbreviated(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether an expression calls an aggregate outside of its subqueries.
pub(super) fn contains_aggregate(expr: &Expr) -> bool {
    let is_wanted = |function: &Function| {
        function.over.is_none()
            && schema_and_name(&function.name).is_ok_and(|(_, name)| is_aggregate(&name))
    };
    contains_call(expr, &is_wanted)
}

/// Whether an expression calls a window function outside of its subqueries.
pub(super) fn contains_window(expr: &Expr) -> bool {
    contains_call(expr, &|function| function.over.is_some())
}

fn contains_call(expr: &Expr, is_wanted: &dyn Fn(&Function) -> bool) -> bool {
    struct Search<'w> {
        depth: usize,
        is_wanted: &'w dyn Fn(&Function) -> bool,
    }
    impl Visitor for Search<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if self.depth == 0
                && let Expr::Function(function) = expr
                && (self.is_wanted)(function)
            {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    expr.visit(&mut Search { depth: 0, is_wanted }).is_break()
}

//! Functions that give rows.

use sqlparser::ast::{AccessExpr, Expr, Function, FunctionArg, ObjectName, TableAlias};

use super::Analyzer;
use super::casts::Conversion;
use super::expression::{Expression, Form, quoted};
use super::from::{FromText, named};
use super::resolve::{Resolved, resolve};
use super::scope::{Place, Relations, Scope, ScopeColumn, folded, schema_and_name};
use super::subquery::array_item;
use super::translate::unnested;
use crate::signature::{FunctionKind, Signatures};
use crate::{PgType, SqlError, TypeUse};

impl Analyzer<'_> {
    /// A function in FROM; it sees what stands before it.
    pub fn table_function(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        with_ordinality: bool,
        alias: Option<&TableAlias>,
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let (_, function) = schema_and_name(name)?;
        let scope = Scope::new(before, Place::FunctionInFrom, parent);
        let arguments = self.function_arguments(args, scope)?;
        let types: Vec<PgType> = arguments.iter().map(|one| one.base().clone()).collect();
        let signatures = Signatures::get().named(&function);
        let tables = signatures.iter().filter(|s| s.kind == FunctionKind::Table);
        let own = self.next_alias();
        if function == "unnest" && arguments.len() > 1 {
            return self.unnest(arguments, with_ordinality, &own, alias);
        }
        let alias_name = alias.map(|alias| folded(&alias.name));
        let is_table = resolve(tables.clone(), &types, false).is_ok();
        let (sql, mut columns) = match resolve(tables, &types, false) {
            Ok(resolved) => {
                let first = arguments.first().map_or(1, |one| one.data_type.first_subscript());
                let texts = self.arguments(&resolved, arguments)?;
                let call = super::operators::filled(
                    resolved.signature.template,
                    &texts,
                    &resolved.arguments,
                );
                let name = alias_name.as_deref().unwrap_or(&function);
                let mut columns = columns_of(&resolved, name, &own);
                if function == "generate_subscripts" && first == 0 {
                    columns.iter_mut().for_each(|one| one.sql = format!("({} - 1)", one.sql));
                }
                (format!("{call} AS {own}"), columns)
            }
            // Any other function gives one row.
            Err(_) if signatures.iter().any(|s| s.kind == FunctionKind::Scalar) => {
                let value = self.call_function(&function, arguments)?;
                let value = self.settle(value)?;
                let name = alias_name.clone().unwrap_or_else(|| function.clone());
                let column = plain_column(name, format!("{own}.c1"), value.data_type.clone());
                (format!("(SELECT {} AS c1) AS {own}", self.sql_of(value)?), vec![column])
            }
            Err(failure) => return Err(super::calls::no_function(&function, &types, &failure)),
        };
        if with_ordinality {
            // A function of one row has no numbers of rows.
            let number = if is_table { format!("{own}.rowid") } else { "1".to_owned() };
            columns.push(ordinality(number));
        }
        let is_function = columns.len() == 1;
        let mut relation = named(function, columns, alias, Vec::new())?;
        relation.is_function = is_function;
        Ok(FromText { sql, relations: Relations::one(relation) })
    }
}

/// The columns of a function whose rows SQLite knows as `own`; a single one has the name
/// that is given.
fn columns_of(resolved: &Resolved<'_>, name: &str, own: &str) -> Vec<ScopeColumn> {
    let column = |name: &str, sql_name: &str, base: &PgType| {
        let data_type = TypeUse { base: base.clone(), modifier: -1 };
        plain_column(name.to_owned(), format!("{own}.{}", quoted(sql_name)), data_type)
    };
    if let PgType::Record(fields) = &resolved.result {
        return fields.iter().map(|(field, base)| column(field, field, base)).collect();
    }
    let name = match resolved.signature.name {
        "json_array_elements"
        | "jsonb_array_elements"
        | "json_array_elements_text"
        | "jsonb_array_elements_text" => "value",
        _ => name,
    };
    vec![column(name, "value", &resolved.result)]
}

fn plain_column(name: String, sql: String, data_type: TypeUse) -> ScopeColumn {
    ScopeColumn { name, sql, data_type, origin: None, not_null: false }
}

impl Analyzer<'_> {
    /// `unnest` of several arrays beside each other; shorter ones end with nulls.
    fn unnest(
        &mut self,
        arrays: Vec<Expression>,
        with_ordinality: bool,
        own: &str,
        alias: Option<&TableAlias>,
    ) -> Result<FromText, SqlError> {
        let mut columns = Vec::with_capacity(arrays.len());
        let mut lengths = Vec::with_capacity(arrays.len());
        for array in arrays {
            let array = self.settle(array)?;
            let PgType::Array(element) = array.base().clone() else {
                return Err(super::calls::no_function(
                    "unnest",
                    &[array.base().clone()],
                    &super::resolve::Failure::None,
                ));
            };
            let sql = format!("rung_array_flat({})", self.sql_of(array)?);
            lengths.push(format!("ifnull(json_array_length({sql}), 0)"));
            columns.push(ScopeColumn {
                name: "unnest".to_owned(),
                sql: item_of(&sql, &format!("{own}.\"value\""), &element),
                data_type: TypeUse { base: *element, modifier: -1 },
                origin: None,
                not_null: false,
            });
        }
        if with_ordinality {
            columns.push(ordinality(format!("({own}.\"value\" + 1)")));
        }
        let relation = named("unnest".to_owned(), columns, alias, Vec::new())?;
        Ok(FromText {
            sql: format!("rung_series(0, max({}) - 1, 1) AS {own}", lengths.join(", ")),
            relations: Relations::one(relation),
        })
    }
}

/// An item of an array of one dimension by its number from 0; null beyond its end. SQLite
/// keeps the array parsed from one row to the next.
fn item_of(array: &str, number: &str, element: &PgType) -> String {
    array_item(format!("({array} ->> {number})"), element)
}

/// A function in a select list: its name and arguments.
pub(super) type ListedFunction<'s> = (&'s ObjectName, &'s [FunctionArg]);

impl Analyzer<'_> {
    /// Functions of a select list as something in FROM, and the values that stand for
    /// them in the list, in their order.
    pub fn listed_functions(
        &mut self,
        functions: &[ListedFunction<'_>],
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<(String, Vec<Expression>), SqlError> {
        let [(name, args)] = functions else {
            return self.arrays_in_step(functions, before, parent);
        };
        let table = self.table_function(name, args, false, None, before, parent)?;
        let columns = table.relations.visible.into_iter().map(|visible| visible.column);
        let columns: Vec<ScopeColumn> = columns.collect();
        let row = match columns.as_slice() {
            [only] => Expression::typed(only.sql.clone(), only.data_type.clone()),
            several => record(several.iter().map(|column| {
                (column.name.as_str(), column.sql.as_str(), column.data_type.base.clone())
            })),
        };
        Ok((table.sql, vec![row]))
    }

    /// Several of `unnest`, `generate_subscripts` and `_pg_expandarray` in one select list:
    /// a row for each element of the longest array.
    fn arrays_in_step(
        &mut self,
        functions: &[ListedFunction<'_>],
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<(String, Vec<Expression>), SqlError> {
        let scope = Scope::new(before, Place::FunctionInFrom, parent);
        let own = self.next_alias();
        let mut values = Vec::with_capacity(functions.len());
        let mut lengths = Vec::with_capacity(functions.len());
        for function in functions {
            let (length, value) = self.array_in_step(*function, &own, scope)?;
            lengths.push(length);
            values.push(value);
        }
        let sql = format!("rung_series(0, max({}) - 1, 1) AS {own}", lengths.join(", "));
        Ok((sql, values))
    }

    /// How many rows one of several functions gives, and its value in the row whose number
    /// `own` counts from 0: null after its last.
    fn array_in_step(
        &mut self,
        (name, args): ListedFunction<'_>,
        own: &str,
        scope: Scope<'_>,
    ) -> Result<(String, Expression), SqlError> {
        let (_, function) = schema_and_name(name)?;
        let mut arguments = self.function_arguments(args, scope)?.into_iter();
        let (array, dimension) = match (function.as_str(), args.len()) {
            ("unnest" | "_pg_expandarray", 1) | ("generate_subscripts", 2) => {
                (arguments.next(), arguments.next())
            }
            _ => (None, None),
        };
        let Some(array) = array else {
            return Err(SqlError::not_supported(
                "several set-returning functions in a select list",
                "Call them in FROM.",
            ));
        };
        let array = self.settle(array)?;
        let first = array.data_type.first_subscript();
        let PgType::Array(element) = array.base().clone() else {
            return Err(super::calls::no_function(
                &function,
                &[array.base().clone()],
                &super::resolve::Failure::None,
            ));
        };
        let mut sql = self.sql_of(array)?;
        if function == "unnest" {
            // Its elements all count, where subscripts are of one dimension.
            sql = format!("rung_array_flat({sql})");
        }
        let mut length = format!("ifnull(json_array_length({sql}), 0)");
        if let Some(dimension) = dimension {
            let dimension = self.sql_as(dimension, PgType::Int4, Conversion::Implicit)?;
            length = format!("iif({dimension} = 1, {length}, 0)");
        }
        let counter = format!("{own}.\"value\"");
        let mut value = match function.as_str() {
            "unnest" => Expression::sql(item_of(&sql, &counter, &element), *element),
            "generate_subscripts" => {
                Expression::sql(format!("({counter} + {first})"), PgType::Int4)
            }
            _ => {
                let item = format!("rung_array_get({sql}, {counter} + 1)");
                let number = format!("({counter} + 1)");
                record([("x", item.as_str(), *element), ("n", &number, PgType::Int4)].into_iter())
            }
        };
        if let (Form::Sql(text), true) = (&value.form, function != "unnest") {
            value.form = Form::Sql(format!("iif({counter} < {length}, {text}, NULL)"));
        }
        Ok((length, value))
    }
}

/// A record of fields, each with its name, SQLite's text and its type.
fn record<'f>(fields: impl Iterator<Item = (&'f str, &'f str, PgType)>) -> Expression {
    let mut texts = vec!["0".to_owned()];
    let mut types = Vec::new();
    for (name, sql, base) in fields {
        texts.push(sql.to_owned());
        types.push((name.to_owned(), base));
    }
    Expression::sql(format!("rung_array({})", texts.join(", ")), PgType::Record(types))
}

/// The column that WITH ORDINALITY adds.
fn ordinality(sql: String) -> ScopeColumn {
    ScopeColumn {
        name: "ordinality".to_owned(),
        sql,
        data_type: TypeUse { base: PgType::Int8, modifier: -1 },
        origin: None,
        not_null: true,
    }
}

/// An item of a select list that is a table function, which may stand there by itself or
/// with the part of its value that is meant.
pub(super) fn set_returning(expr: &Expr) -> Option<(&Function, &[AccessExpr])> {
    let (expr, parts) = match unnested(expr) {
        Expr::CompoundFieldAccess { root, access_chain } => (unnested(root), &access_chain[..]),
        other => (other, &[][..]),
    };
    let Expr::Function(function) = expr else { return None };
    let (_, name) = schema_and_name(&function.name).ok()?;
    let signatures = Signatures::get().named(&name);
    let is_table = !signatures.is_empty()
        && signatures.iter().all(|signature| signature.kind == FunctionKind::Table);
    (is_table && function.over.is_none()).then_some((function, parts))
}

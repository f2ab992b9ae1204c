//! Functions that give rows.

use sqlparser::ast::{Expr, FunctionArg, ObjectName, TableAlias};

use super::Analyzer;
use super::casts::Conversion;
use super::expression::quoted;
use super::from::{FromText, named};
use super::resolve::resolve;
use super::scope::{Place, Relations, Scope, ScopeColumn, folded, schema_and_name};
use crate::signature::{FunctionKind, SignatureType, Signatures};
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
                let texts = self.arguments(&resolved, arguments)?;
                let call = super::operators::filled(
                    resolved.signature.template,
                    &texts,
                    &resolved.arguments,
                );
                let column = |name: &str, sql_name: &str, base: PgType| ScopeColumn {
                    name: name.to_owned(),
                    sql: format!("{own}.{}", quoted(sql_name)),
                    data_type: TypeUse { base, modifier: -1 },
                    origin: None,
                    not_null: false,
                };
                let columns = match &resolved.signature.result {
                    SignatureType::Record(columns) => columns
                        .iter()
                        .map(|(name, base)| column(name, name, base.clone()))
                        .collect(),
                    _ => {
                        let name = match function.as_str() {
                            "json_array_elements"
                            | "jsonb_array_elements"
                            | "json_array_elements_text"
                            | "jsonb_array_elements_text" => "value",
                            other => alias_name.as_deref().unwrap_or(other),
                        };
                        vec![column(name, "value", resolved.result.clone())]
                    }
                };
                (format!("{call} AS {own}"), columns)
            }
            // Any other function gives one row.
            Err(_) if signatures.iter().any(|s| s.kind == FunctionKind::Scalar) => {
                let value = self.call_function(&function, arguments)?;
                let value = self.settle(value)?;
                let column = ScopeColumn {
                    name: alias_name.clone().unwrap_or_else(|| function.clone()),
                    sql: format!("{own}.c1"),
                    data_type: value.data_type.clone(),
                    origin: None,
                    not_null: false,
                };
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

impl Analyzer<'_> {
    /// `unnest` of several arrays beside each other; shorter ones end with nulls.
    fn unnest(
        &mut self,
        arrays: Vec<super::expression::Expression>,
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
            let sql = self.sql_of(array)?;
            lengths.push(format!("ifnull(json_array_length({sql}), 0)"));
            columns.push(ScopeColumn {
                name: "unnest".to_owned(),
                sql: format!("({sql} ->> {own}.\"value\")"),
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

impl Analyzer<'_> {
    /// Several of `unnest` and `generate_subscripts` in one select list: a row for each
    /// element of the longest array.
    pub fn arrays_in_step(
        &mut self,
        functions: &[(&ObjectName, &[FunctionArg])],
        before: &Relations,
        parent: Option<&Scope<'_>>,
    ) -> Result<FromText, SqlError> {
        let scope = Scope::new(before, Place::FunctionInFrom, parent);
        let own = self.next_alias();
        let mut columns = Vec::with_capacity(functions.len());
        let mut lengths = Vec::with_capacity(functions.len());
        for (name, args) in functions {
            let (_, function) = schema_and_name(name)?;
            let array = self.function_arguments(&args[..args.len().min(1)], scope)?.pop();
            let array = array.map(|array| self.settle(array)).transpose()?;
            // None where all elements count; arrays have one dimension.
            let dimension = match (function.as_str(), args.len()) {
                ("unnest", 1) => Some(None),
                ("generate_subscripts", 2) => {
                    let dimension = self.function_arguments(&args[1..], scope)?.pop();
                    let sql =
                        dimension.map(|one| self.sql_as(one, PgType::Int4, Conversion::Implicit));
                    sql.transpose()?.map(Some)
                }
                _ => None,
            };
            let (Some(array), Some(dimension)) = (array, dimension) else {
                return Err(SqlError::not_supported(
                    "several set-returning functions in a select list",
                    "Call them in FROM.",
                ));
            };
            let PgType::Array(element) = array.base().clone() else {
                return Err(super::calls::no_function(
                    &function,
                    &[array.base().clone()],
                    &super::resolve::Failure::None,
                ));
            };
            let sql = self.sql_of(array)?;
            let mut length = format!("ifnull(json_array_length({sql}), 0)");
            if let Some(dimension) = dimension {
                length = format!("iif({dimension} = 1, {length}, 0)");
            }
            let (sql, base) = match function.as_str() {
                "unnest" => (format!("({sql} ->> {own}.\"value\")"), *element),
                _ => (
                    format!("iif({own}.\"value\" < {length}, {own}.\"value\" + 1, NULL)"),
                    PgType::Int4,
                ),
            };
            lengths.push(length);
            columns.push(ScopeColumn {
                name: function,
                sql,
                data_type: TypeUse { base, modifier: -1 },
                origin: None,
                not_null: false,
            });
        }
        let relation = named(String::new(), columns, None, Vec::new())?;
        Ok(FromText {
            sql: format!("rung_series(0, max({}) - 1, 1) AS {own}", lengths.join(", ")),
            relations: Relations::one(relation),
        })
    }
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

/// An item of a select list that is a table function, which may stand there by itself.
pub(super) fn set_returning(expr: &Expr) -> Option<&sqlparser::ast::Function> {
    let Expr::Function(function) = expr else { return None };
    let (_, name) = schema_and_name(&function.name).ok()?;
    let signatures = Signatures::get().named(&name);
    let is_table = !signatures.is_empty()
        && signatures.iter().all(|signature| signature.kind == FunctionKind::Table);
    (is_table && function.over.is_none()).then_some(function)
}

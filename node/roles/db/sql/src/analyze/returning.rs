//! RETURNING, and what INSERT, UPDATE and DELETE share.

use sqlparser::ast::{Expr, SelectItem, SelectItemQualifiedWildcardKind};

use super::Analyzer;
use super::expression::{Expression, quoted, quoted_string};
use super::from::table_columns;
use super::plan::KeyValues;
use super::query::QueryColumn;
use super::scope::{Place, Relations, Scope, ScopeColumn, ScopeRelation, name_parts};
use super::select::named_item;
use crate::{Column, ConstraintKind, PgType, Relation, SqlError, SqlState};

/// Rows of one INSERT for which the values of keys are kept.
const MAXIMUM_KEY_ROWS: usize = 1000;

impl Analyzer<'_> {
    /// ` RETURNING ...` or nothing. SQLite knows the table by its own name there, and no
    /// other relation.
    pub fn returning(
        &mut self,
        items: Option<&[SelectItem]>,
        relation: &Relation,
        name: &str,
        others: Relations,
    ) -> Result<(String, Vec<QueryColumn>), SqlError> {
        let Some(items) = items else { return Ok((String::new(), Vec::new())) };
        let mut relations = Relations::one(ScopeRelation {
            name: name.to_owned(),
            columns: table_columns(relation, &quoted(&relation.name)),
            key: Vec::new(),
            out_of_reach: None,
            is_function: false,
        });
        let own = relations.visible.len();
        let mut others = others;
        for other in &mut others.relations {
            other.out_of_reach = Some("RETURNING gives columns of the changed table only.");
        }
        relations.append(others)?;
        // By name alone the changed table's columns come first.
        let names: Vec<String> =
            relations.visible[..own].iter().map(|v| v.column.name.clone()).collect();
        let mut index = 0;
        relations.visible.retain(|visible| {
            index += 1;
            index <= own || !names.contains(&visible.column.name)
        });
        let scope = Scope::new(&relations, Place::Returning, None);
        let mut texts = Vec::new();
        let mut columns = Vec::new();
        for item in items {
            match item {
                SelectItem::Wildcard(_) if relations.relations.len() > 1 => {
                    return Err(SqlError::not_supported(
                        "RETURNING * with several tables",
                        "Name the columns of the changed table.",
                    ));
                }
                SelectItem::Wildcard(_) => {
                    let all = relations.relations[0].columns.clone();
                    all.iter().for_each(|column| push_column(column, &mut texts, &mut columns));
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(object),
                    _,
                ) => {
                    let wanted = name_parts(object)?.pop().unwrap_or_default();
                    if wanted != name {
                        return Err(super::scope::missing_relation(&wanted));
                    }
                    let all = relations.relations[0].columns.clone();
                    all.iter().for_each(|column| push_column(column, &mut texts, &mut columns));
                }
                item => {
                    let Some((label, expr)) = named_item(item) else {
                        return Err(SqlError::new(
                            SqlState::SYNTAX_ERROR,
                            "syntax error in RETURNING",
                        ));
                    };
                    let expression = self.expression(expr, scope)?;
                    let expression = self.settle(expression)?;
                    columns.push(QueryColumn {
                        name: label,
                        data_type: expression.data_type.clone(),
                        origin: expression.origin,
                        not_null: expression.not_null,
                    });
                    texts.push(self.sql_of(expression)?);
                }
            }
        }
        Ok((format!(" RETURNING {}", texts.join(", ")), columns))
    }

    /// The default of a column as SQLite's text; None if it has none.
    pub fn default_of(&mut self, column: &Column) -> Result<Option<String>, SqlError> {
        let text = match (&column.default, &column.identity, &column.sequence) {
            (Some(text), None, _) => text.clone(),
            (_, Some(_), Some(sequence)) => {
                format!("nextval({})", quoted_string(&quoted(sequence)))
            }
            _ => return Ok(None),
        };
        let expr = crate::parse::parse_expression(&text)?;
        let nothing = Relations::default();
        let scope = Scope::new(&nothing, Place::Catalog, None);
        let expression = self.expression(&expr, scope)?;
        self.assigned(expression, column).map(Some)
    }

    /// A value for a column, or its default where the word DEFAULT stands.
    pub fn value_for(
        &mut self,
        expr: &Expr,
        column: &Column,
        scope: Scope<'_>,
    ) -> Result<Expression, SqlError> {
        if is_default(expr) {
            let sql = self.default_of(column)?.unwrap_or_else(|| "NULL".to_owned());
            return Ok(Expression::typed(sql, column.data_type.clone()));
        }
        let expression = self.expression(expr, scope)?;
        let not_null = expression.not_null;
        let sql = self.assigned(expression, column)?;
        let mut value = Expression::typed(sql, column.data_type.clone());
        value.not_null = not_null;
        Ok(value)
    }

    /// SQLite's text of a value that goes into a column.
    pub fn guarded(
        &mut self,
        value: Expression,
        column: &Column,
        relation: &Relation,
    ) -> Result<String, SqlError> {
        let not_null = value.not_null;
        let sql = self.sql_of(value)?;
        if not_null || !is_row_number(relation, column) {
            return Ok(sql);
        }
        // SQLite would choose a number instead of null.
        let null = no_null(relation, column);
        Ok(if sql == "NULL" { null } else { format!("ifnull({sql}, {null})") })
    }
}

fn push_column(column: &ScopeColumn, texts: &mut Vec<String>, columns: &mut Vec<QueryColumn>) {
    texts.push(column.sql.clone());
    columns.push(QueryColumn {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        origin: column.origin,
        not_null: column.not_null,
    });
}

/// The word DEFAULT in place of a value.
pub(super) fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident)
        if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// What stands for null in a column that must not have it.
pub(super) fn no_null(relation: &Relation, column: &Column) -> String {
    format!("rung_no_null({}, {})", quoted_string(&relation.name), quoted_string(&column.name))
}

/// Whether SQLite takes the column as the number of the row.
pub(super) fn is_row_number(relation: &Relation, column: &Column) -> bool {
    let is_integer = matches!(column.data_type.base, PgType::Int2 | PgType::Int4 | PgType::Int8);
    is_integer
        && relation.constraints.iter().any(|constraint| {
            constraint.kind == ConstraintKind::PrimaryKey
                && matches!(constraint.columns.as_slice(), [only] if *only == column.name)
        })
}

/// A column by its name.
pub(super) fn column_named<'r>(relation: &'r Relation, name: &str) -> Result<&'r Column, SqlError> {
    relation.columns.iter().find(|column| column.name == name).ok_or_else(|| {
        SqlError::new(
            SqlState::UNDEFINED_COLUMN,
            format!("column \"{name}\" of relation \"{}\" does not exist", relation.name),
        )
    })
}

/// Refuses to give a value to a column that has its own.
pub(super) fn check_assignable(column: &Column, is_insert: bool) -> Result<(), SqlError> {
    let name = &column.name;
    let detail = if column.generated {
        format!("Column \"{name}\" is a generated column.")
    } else if column.identity == Some(crate::Identity::Always) {
        format!("Column \"{name}\" is an identity column defined as GENERATED ALWAYS.")
    } else {
        return Ok(());
    };
    let message = if is_insert {
        format!("cannot insert a non-DEFAULT value into column \"{name}\"")
    } else {
        format!("column \"{name}\" can only be updated to DEFAULT")
    };
    let error = SqlError::new(SqlState("428C9"), message).detail(detail);
    if is_insert && !column.generated {
        return Err(error.hint("Use OVERRIDING SYSTEM VALUE to override."));
    }
    Err(error)
}

/// Remembers values that can be computed again.
pub(super) fn remember(keys: &mut KeyValues, values: &[String]) {
    if keys.rows.len() < MAXIMUM_KEY_ROWS {
        let pure = |sql: &String| is_pure(sql).then(|| sql.clone());
        keys.rows.push(values.iter().map(pure).collect());
    }
}

/// Whether a value has no effect and is the same each time: parameters, literals and
/// their conversions.
fn is_pure(sql: &str) -> bool {
    let mut inner = sql;
    while let Some(rest) = ["rung_cast(", "rung_assign(", "ifnull(", "(-"]
        .iter()
        .find_map(|wrapper| inner.strip_prefix(wrapper))
    {
        inner = rest;
    }
    inner == "NULL"
        || inner.starts_with(|first: char| matches!(first, '?' | '\'') || first.is_ascii_digit())
}

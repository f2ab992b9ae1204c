//! The names that PostgreSQL gives to columns without an alias.

use sqlparser::ast::{AccessExpr, Expr, SelectItem, SetExpr, TrimWhereField};

use super::scope::{folded, name_parts};
use super::types::type_use;

/// None means `?column?`.
pub(super) fn column_name(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(ident) => folded(ident),
        Expr::CompoundIdentifier(parts) => folded(parts.last()?),
        Expr::Nested(inner) => return column_name(inner),
        Expr::Collate { expr, .. } => return column_name(expr),
        Expr::Function(function) => name_parts(&function.name).ok()?.pop()?,
        Expr::Cast { expr, data_type, .. } => match strong_name(expr) {
            Some(name) => name,
            None => type_name(data_type)?,
        },
        Expr::TypedString(typed) => type_name(&typed.data_type)?,
        Expr::Interval(_) => "interval".to_owned(),
        Expr::Case { else_result, .. } => {
            else_result.as_deref().and_then(strong_name).unwrap_or_else(|| "case".to_owned())
        }
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Subquery(query) => return subquery_name(&query.body),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let last = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(folded(ident)),
                _ => None,
            });
            return last.or_else(|| column_name(root));
        }
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::AtTimeZone { .. } => "timezone".to_owned(),
        Expr::Position { .. } => "position".to_owned(),
        Expr::Substring { shorthand: true, .. } => "substr".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Overlay { .. } => "overlay".to_owned(),
        Expr::Ceil { .. } => "ceil".to_owned(),
        Expr::Floor { .. } => "floor".to_owned(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(TrimWhereField::Leading) => "ltrim".to_owned(),
            Some(TrimWhereField::Trailing) => "rtrim".to_owned(),
            _ => "btrim".to_owned(),
        },
        _ => return None,
    })
}

/// A name that is not only that of a type or of CASE, which a conversion or a CASE
/// around the expression takes for itself.
fn strong_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => strong_name(inner),
        Expr::Cast { expr, .. } | Expr::Collate { expr, .. } => strong_name(expr),
        Expr::Case { else_result, .. } => else_result.as_deref().and_then(strong_name),
        Expr::TypedString(_) | Expr::Interval(_) => None,
        other => column_name(other),
    }
}

/// The name of a type without the mark of arrays.
fn type_name(data_type: &sqlparser::ast::DataType) -> Option<String> {
    Some(type_use(data_type).ok()?.base.sql_name().trim_start_matches('_').to_owned())
}

fn subquery_name(body: &SetExpr) -> Option<String> {
    match body {
        SetExpr::Select(select) => match select.projection.first()? {
            SelectItem::UnnamedExpr(expr) => column_name(expr),
            SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
            _ => None,
        },
        SetExpr::Query(query) => subquery_name(&query.body),
        SetExpr::SetOperation { left, .. } => subquery_name(left),
        SetExpr::Values(_) => Some("column1".to_owned()),
        _ => None,
    }
}

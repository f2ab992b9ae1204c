//! What the schema needs of the translation of expressions and queries.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{Expr, ObjectName, Select, SelectItem, Visit, Visitor};

use super::names;
use crate::parse::{parse_expression, parse_query};
use crate::{Catalog, Context, PgType, Relation, SqlError, TypeUse, analyze};

/// The names of columns that an expression mentions.
pub(super) fn columns_of(expression: &Expr) -> BTreeSet<String> {
    let mut collector = Collector::default();
    let _ = expression.visit(&mut collector);
    collector.columns
}

/// The names of columns that an expression of the catalog mentions.
pub(super) fn columns_of_text(text: &str) -> Result<BTreeSet<String>, SqlError> {
    Ok(columns_of(&parse_expression(text)?))
}

/// What a view's query mentions.
pub(super) struct Mentions {
    pub relations: BTreeSet<String>,
    /// All names that may be columns.
    pub columns: BTreeSet<String>,
    /// `*` in a select list means all columns.
    pub has_wildcard: bool,
}

pub(super) fn mentions_of_view(view: &Relation) -> Result<Mentions, SqlError> {
    let query = parse_query(view.definition.as_deref().unwrap_or("SELECT"))?;
    let mut collector = Collector::default();
    let _ = query.visit(&mut collector);
    Ok(Mentions {
        relations: collector.relations,
        columns: collector.columns,
        has_wildcard: collector.has_wildcard,
    })
}

#[derive(Default)]
struct Collector {
    relations: BTreeSet<String>,
    columns: BTreeSet<String>,
    has_wildcard: bool,
}

impl Visitor for Collector {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if let Some(last) = relation.0.last().and_then(|part| part.as_ident()) {
            self.relations.insert(names::ident(last));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.has_wildcard |= select.projection.iter().any(|item| {
            matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
        });
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(ident) => {
                self.columns.insert(names::ident(ident));
            }
            Expr::CompoundIdentifier(parts) => self.columns.extend(parts.iter().map(names::ident)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// An expression over a table's columns in SQLite's language.
pub(super) fn expression(
    expression: &Expr,
    table: &Relation,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    analyze::translate_expression(expression, Some(table), catalog, context)
}

/// A condition over a table's columns in SQLite's language.
pub(super) fn condition(
    expression: &Expr,
    table: &Relation,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    let boolean = TypeUse { base: PgType::Bool, modifier: -1 };
    assignment(expression, &boolean, Some(table), catalog, context)
}

/// A value for a column in SQLite's language. Without a table it may mention no column.
pub(super) fn assignment(
    expression: &Expr,
    target: &TypeUse,
    table: Option<&Relation>,
    catalog: &Catalog,
    context: &Context,
) -> Result<String, SqlError> {
    analyze::translate_assignment(expression, target, table, catalog, context)
}

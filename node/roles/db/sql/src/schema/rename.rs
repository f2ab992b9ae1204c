//! New names for tables, views, sequences and columns, and for those who use them.

use std::ops::ControlFlow;
use std::sync::Arc;

use sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, VisitMut, VisitorMut};

use super::change::{Change, missing_relation};
use super::sequences::nextval_text;
use super::{alter_table, names, translate};
use crate::parse::{parse_expression, parse_query};
use crate::{Constraint, ConstraintKind, Relation, RelationKind, SqlError, SqlState};

/// `ALTER TABLE ... RENAME TO`, also of a view.
pub(super) fn relation(change: &mut Change<'_>, old: &str, new: &str) -> Result<(), SqlError> {
    names::check_new(&change.after, new)?;
    let mut moved =
        (**change.after.relations.get(old).ok_or_else(|| missing_relation(old))?).clone();
    new.clone_into(&mut moved.name);
    change.after.relations.remove(old);
    change.put(moved);
    for sequence in change.after.sequences.values_mut() {
        if sequence.owned_by.as_ref().is_some_and(|(table, _)| table == old) {
            let sequence = Arc::make_mut(sequence);
            sequence.owned_by =
                sequence.owned_by.take().map(|(_, column)| (new.to_owned(), column));
        }
    }
    let others: Vec<Arc<Relation>> = change.after.relations.values().cloned().collect();
    for other in others {
        let mut renamed = (*other).clone();
        for constraint in &mut renamed.constraints {
            if let ConstraintKind::ForeignKey { table, .. } = &mut constraint.kind
                && table == old
            {
                new.clone_into(table);
            }
        }
        if other.kind == RelationKind::View
            && translate::mentions_of_view(&other)?.relations.contains(old)
        {
            let mut query = parse_query(other.definition.as_deref().unwrap_or_default())?;
            let _ = query.visit(&mut RelationRename { old, new });
            renamed.definition = Some(query.to_string());
        }
        if renamed != *other {
            change.put(renamed);
        }
    }
    Ok(())
}

struct RelationRename<'a> {
    old: &'a str,
    new: &'a str,
}

fn new_ident(name: &str) -> Ident {
    match names::quote_if_needed(name) == name {
        true => Ident::new(name),
        false => Ident::with_quote('"', name),
    }
}

impl VisitorMut for RelationRename<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        if let Some(ObjectNamePart::Identifier(last)) = relation.0.last_mut()
            && names::ident(last) == self.old
        {
            *last = new_ident(self.new);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expression
            && let [qualifier, _] = parts.as_mut_slice()
            && names::ident(qualifier) == self.old
        {
            *qualifier = new_ident(self.new);
        }
        ControlFlow::Continue(())
    }
}

/// `ALTER SEQUENCE ... RENAME TO`
pub(super) fn sequence(change: &mut Change<'_>, old: &str, new: &str) -> Result<(), SqlError> {
    let sequence = change.after.sequences.get(old).ok_or_else(|| missing_relation(old))?;
    let mut sequence = (**sequence).clone();
    names::check_new(&change.after, new)?;
    new.clone_into(&mut sequence.name);
    change.after.sequences.remove(old);
    change.put_sequence(sequence);
    let (old_default, new_default) = (nextval_text(old), nextval_text(new));
    let tables: Vec<Arc<Relation>> = change.after.relations.values().cloned().collect();
    for table in tables {
        let mut renamed = (*table).clone();
        for column in &mut renamed.columns {
            if column.sequence.as_deref() == Some(old) {
                column.sequence = Some(new.to_owned());
            }
            if column.default.as_deref() == Some(&old_default) {
                column.default = Some(new_default.clone());
            }
        }
        if renamed != *table {
            change.put(renamed);
        }
    }
    Ok(())
}

/// `ALTER TABLE ... RENAME COLUMN`
pub(super) fn column(
    change: &mut Change<'_>,
    mut table: Relation,
    old: &str,
    new: &str,
) -> Result<(), SqlError> {
    let index = table.columns.iter().position(|column| column.name == old).ok_or_else(|| {
        SqlError::new(SqlState::UNDEFINED_COLUMN, format!("column \"{old}\" does not exist"))
    })?;
    alter_table::check_new_column(&table, new, Some(index))?;
    alter_table::refuse_if_view_uses(change, &table, old, "rename a column")?;
    new.clone_into(&mut table.columns[index].name);
    for constraint in &mut table.constraints {
        rename_in_constraint(constraint, &table.name, old, new)?;
    }
    for index in &mut table.indexes {
        for key in &mut index.keys {
            *key = rename_in_key(key, old, new)?;
        }
        if let Some(predicate) = &mut index.predicate {
            *predicate = rename_in_text(predicate, old, new)?;
        }
    }
    for column in table.columns.iter_mut().filter(|column| column.generated) {
        if let Some(expression) = &mut column.default {
            *expression = rename_in_text(expression, old, new)?;
        }
    }
    let name = table.name.clone();
    change.put(table);
    for sequence in change.after.sequences.values_mut() {
        if sequence.owned_by.as_ref().is_some_and(|(t, c)| *t == name && c == old) {
            Arc::make_mut(sequence).owned_by = Some((name.clone(), new.to_owned()));
        }
    }
    rename_in_referring(change, &name, old, new);
    Ok(())
}

/// Foreign keys of other tables that refer to the column.
fn rename_in_referring(change: &mut Change<'_>, parent: &str, old: &str, new: &str) {
    let tables: Vec<Arc<Relation>> = change.after.relations.values().cloned().collect();
    for table in tables.iter().filter(|table| table.name != parent) {
        let mut renamed = (**table).clone();
        for constraint in &mut renamed.constraints {
            if let ConstraintKind::ForeignKey { table, columns, .. } = &mut constraint.kind
                && table == parent
            {
                replace_name(columns, old, new);
            }
        }
        if renamed != **table {
            change.put(renamed);
        }
    }
}

fn rename_in_constraint(
    constraint: &mut Constraint,
    own_table: &str,
    old: &str,
    new: &str,
) -> Result<(), SqlError> {
    replace_name(&mut constraint.columns, old, new);
    match &mut constraint.kind {
        ConstraintKind::Check { expression } => {
            *expression = rename_in_text(expression, old, new)?;
        }
        ConstraintKind::ForeignKey { table, columns, .. } if table == own_table => {
            replace_name(columns, old, new);
        }
        _ => {}
    }
    Ok(())
}

fn replace_name(columns: &mut [String], old: &str, new: &str) {
    for column in columns.iter_mut().filter(|column| *column == old) {
        new.clone_into(column);
    }
}

/// A key's text is an expression and what follows it.
fn rename_in_key(key: &str, old: &str, new: &str) -> Result<String, SqlError> {
    let (expression, _) = super::sqlite_text::split_key(key);
    let rest = &key[expression.len()..];
    Ok(format!("{}{rest}", rename_in_text(expression, old, new)?))
}

fn rename_in_text(text: &str, old: &str, new: &str) -> Result<String, SqlError> {
    let mut expression = parse_expression(text)?;
    if !translate::columns_of(&expression).contains(old) {
        return Ok(text.to_owned());
    }
    let _ = expression.visit(&mut ColumnRename { old, new });
    Ok(expression.to_string())
}

struct ColumnRename<'a> {
    old: &'a str,
    new: &'a str,
}

impl VisitorMut for ColumnRename<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        let column = match expression {
            Expr::Identifier(ident) => Some(ident),
            Expr::CompoundIdentifier(parts) => parts.last_mut(),
            _ => None,
        };
        if let Some(column) = column.filter(|column| names::ident(column) == self.old) {
            *column = new_ident(self.new);
        }
        ControlFlow::Continue(())
    }
}

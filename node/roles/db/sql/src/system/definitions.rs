//! Objects as the statements that would make them.

use super::objects::IndexView;
use crate::schema::names::quote_if_needed;
use crate::{Constraint, ConstraintKind, Relation};

/// `CREATE INDEX ...`; `pretty` leaves the schema out.
pub(super) fn index(table: &Relation, index: &IndexView<'_>, pretty: bool) -> String {
    let condition = match index.predicate {
        Some(predicate) => format!(" WHERE {}", in_parentheses(predicate)),
        None => String::new(),
    };
    format!(
        "CREATE {}INDEX {} ON {}{} USING btree ({}){condition}",
        if index.unique { "UNIQUE " } else { "" },
        quote_if_needed(index.name),
        if pretty { "" } else { "public." },
        quote_if_needed(&table.name),
        index.keys.join(", ")
    )
}

fn in_parentheses(expression: &str) -> String {
    let is_name = expression.chars().all(|c| c.is_alphanumeric() || c == '_');
    if is_name { expression.to_owned() } else { format!("({expression})") }
}

/// As it stands in CREATE TABLE, without the name.
pub(super) fn constraint(constraint: &Constraint, pretty: bool) -> String {
    let names = |columns: &[String]| -> String {
        columns.iter().map(|name| quote_if_needed(name)).collect::<Vec<_>>().join(", ")
    };
    match &constraint.kind {
        ConstraintKind::PrimaryKey => format!("PRIMARY KEY ({})", names(&constraint.columns)),
        ConstraintKind::Unique => format!("UNIQUE ({})", names(&constraint.columns)),
        ConstraintKind::Check { expression } if pretty => format!("CHECK ({expression})"),
        ConstraintKind::Check { expression } => format!("CHECK (({expression}))"),
        ConstraintKind::ForeignKey {
            table,
            columns,
            on_update,
            on_delete,
            deferrable,
            initially_deferred,
        } => {
            let mut text = format!(
                "FOREIGN KEY ({}) REFERENCES {}({})",
                names(&constraint.columns),
                quote_if_needed(table),
                names(columns)
            );
            for (event, action) in [("UPDATE", on_update), ("DELETE", on_delete)] {
                if action != "NO ACTION" {
                    text.push_str(&format!(" ON {event} {action}"));
                }
            }
            if *deferrable {
                text.push_str(" DEFERRABLE");
            }
            if *initially_deferred {
                text.push_str(" INITIALLY DEFERRED");
            }
            text
        }
    }
}

/// A view's query.
pub(super) fn view(view: &Relation) -> String {
    format!(" {};", view.definition.as_deref().unwrap_or_default())
}

//! `COMMENT ON`.

use sqlparser::ast::{CommentObject, ObjectName};

use super::change::{Change, missing_relation};
use super::{alter_table, names};
use crate::{SqlError, SqlState};

pub(super) fn comment(
    change: &mut Change<'_>,
    object: CommentObject,
    name: &ObjectName,
    text: Option<&String>,
) -> Result<(), SqlError> {
    let text = text.filter(|text| !text.is_empty()).cloned();
    match object {
        CommentObject::Table | CommentObject::View => {
            let mut relation = (*change.relation(name)?).clone();
            relation.comment = text;
            change.put(relation);
            Ok(())
        }
        CommentObject::Column => {
            let parts = names::parts(name)?;
            let (table, column) = match parts.as_slice() {
                [table, column] => (table, column),
                [schema, table, column] if schema == "public" => (table, column),
                _ => {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        "column name must be qualified",
                    ));
                }
            };
            let relation =
                change.after.relations.get(table).ok_or_else(|| missing_relation(table))?;
            let mut relation = (**relation).clone();
            let index = alter_table::column_index(&relation, column)?;
            relation.columns[index].comment = text;
            change.put(relation);
            Ok(())
        }
        other => Err(SqlError::not_supported(
            format!("COMMENT ON {}", other.to_string().to_uppercase()),
            "Tables, views and columns can have comments.",
        )),
    }
}

//! DELETE.

use sqlparser::ast::{Delete, FromTable, TableFactor};

use super::Analyzer;
use super::expression::quoted;
use super::from::table_columns;
use super::plan::{Change, KeyValues, Tag};
use super::scope::{Place, Relations, Scope, ScopeRelation, folded};
use crate::{SqlError, SqlState};

impl Analyzer<'_> {
    pub(super) fn delete(&mut self, delete: &Delete) -> Result<Change, SqlError> {
        let syntax = || SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in DELETE");
        let plain = delete.tables.is_empty()
            && delete.order_by.is_empty()
            && delete.limit.is_none()
            && delete.output.is_none();
        let FromTable::WithFromKeyword(tables) = &delete.from else { return Err(syntax()) };
        let [item] = tables.as_slice() else { return Err(syntax()) };
        if !plain || !item.joins.is_empty() {
            return Err(syntax());
        }
        let TableFactor::Table { name: table, alias, args: None, .. } = &item.relation else {
            return Err(syntax());
        };
        let relation = self.target(table)?;
        let name = match alias {
            Some(alias) => folded(&alias.name),
            None => relation.name.clone(),
        };
        let mut relations = Relations::one(ScopeRelation {
            name: name.clone(),
            columns: table_columns(&relation, "r0"),
            key: Vec::new(),
            out_of_reach: None,
            is_function: false,
        });
        let using = match &delete.using {
            None => None,
            Some(using) => Some(self.relations_of(using, None)?),
        };
        let others = using.as_ref().map(|using| using.relations.clone()).unwrap_or_default();
        relations.append(others.clone())?;
        let scope = Scope::new(&relations, Place::Where, None);
        let condition = match &delete.selection {
            None => None,
            Some(condition) => Some(self.condition(condition, "WHERE", scope)?),
        };
        // SQLite has no USING: a row goes if there is any that it joins with.
        let condition = match (using, condition) {
            (None, None) => String::new(),
            (None, Some(condition)) => format!(" WHERE {condition}"),
            (Some(using), None) => format!(" WHERE EXISTS (SELECT 1 FROM {})", using.sql),
            (Some(using), Some(condition)) => {
                format!(" WHERE EXISTS (SELECT 1 FROM {} WHERE {condition})", using.sql)
            }
        };
        let (returning, columns) =
            self.returning(delete.returning.as_deref(), &relation, &name, others)?;
        Ok(Change {
            sql: format!("DELETE FROM {} AS r0{condition}{returning}", quoted(&relation.name)),
            returning: columns,
            tag: Tag::Delete,
            target: relation,
            keys: KeyValues::default(),
            notes_rows: false,
        })
    }
}

//! UPDATE.

use sqlparser::ast::{TableFactor, Update, UpdateTableFromKind};

use super::Analyzer;
use super::expression::quoted;
use super::from::table_columns;
use super::plan::{Change, KeyValues, Tag};
use super::returning::remember;
use super::scope::{Place, Relations, Scope, ScopeRelation, folded};
use crate::{SqlError, SqlState};

impl Analyzer<'_> {
    pub(super) fn update(&mut self, update: &Update) -> Result<Change, SqlError> {
        let plain = update.or.is_none()
            && update.order_by.is_empty()
            && update.limit.is_none()
            && update.output.is_none()
            && update.table.joins.is_empty();
        if !plain {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in UPDATE"));
        }
        let TableFactor::Table { name: table, alias, args: None, .. } = &update.table.relation
        else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "UPDATE needs the name of a table"));
        };
        let relation = self.target(table)?;
        let name = match alias {
            Some(alias) => folded(&alias.name),
            None => relation.name.clone(),
        };
        let from = match &update.from {
            None => None,
            Some(UpdateTableFromKind::AfterSet(from)) => Some(self.relations_of(from, None)?),
            Some(UpdateTableFromKind::BeforeSet(_)) => {
                return Err(SqlError::new(SqlState::SYNTAX_ERROR, "FROM stands after SET"));
            }
        };
        let mut relations = Relations::one(ScopeRelation {
            name: name.clone(),
            columns: table_columns(&relation, "r0"),
            key: Vec::new(),
            out_of_reach: None,
            is_function: false,
        });
        let others = from.as_ref().map(|from| from.relations.clone()).unwrap_or_default();
        relations.append(others.clone())?;
        let scope = Scope::new(&relations, Place::Assignment, None);
        let set = self.assignments(&update.assignments, &relation, scope)?.join(", ");
        let mut keys = KeyValues::default();
        let (names, values): (Vec<String>, Vec<String>) =
            std::mem::take(&mut self.assigned_values).into_iter().unzip();
        keys.columns = names;
        remember(&mut keys, &values);
        let from = from.map(|from| format!(" FROM {}", from.sql)).unwrap_or_default();
        let condition = match &update.selection {
            None => String::new(),
            Some(condition) => {
                format!(" WHERE {}", self.condition(condition, "WHERE", scope.at(Place::Where))?)
            }
        };
        let (returning, columns) =
            self.returning(update.returning.as_deref(), &relation, &name, others)?;
        Ok(Change {
            sql: format!(
                "UPDATE {} AS r0 SET {set}{from}{condition}{returning}",
                quoted(&relation.name)
            ),
            returning: columns,
            tag: Tag::Update,
            target: relation,
            keys,
            notes_rows: false,
        })
    }
}

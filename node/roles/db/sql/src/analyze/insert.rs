//! INSERT.

use std::sync::Arc;

use sqlparser::ast::{
    Assignment, AssignmentTarget, ConflictTarget, DoUpdate, Expr, Insert, ObjectName, OnConflict,
    OnConflictAction, OnInsert, Query, SetExpr, TableObject,
};

use super::Analyzer;
use super::expression::{Expression, quoted};
use super::from::table_columns;
use super::plan::{Change, KeyValues, Tag};
use super::returning::{
    check_assignable, column_named, is_default, is_row_number, no_null, remember,
};
use super::scope::{Place, Relations, Scope, ScopeRelation, folded, name_parts};
use crate::{Column, ConstraintKind, Relation, SqlError, SqlState, TypeUse};

impl Analyzer<'_> {
    pub(super) fn insert(&mut self, insert: &Insert) -> Result<Change, SqlError> {
        check_plain(insert)?;
        let TableObject::TableName(table) = &insert.table else {
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, "INSERT needs the name of a table"));
        };
        let relation = self.target(table)?;
        let name = match &insert.table_alias {
            Some(alias) => folded(&alias.alias),
            None => relation.name.clone(),
        };
        let given = given_columns(insert, &relation)?;
        let source = match &insert.source {
            None => self.default_values(&relation)?,
            Some(query) => match plain_values(query) {
                Some(rows) => self.insert_values(&rows, &given, &relation)?,
                None => self.insert_query(query, &given, &relation)?,
            },
        };
        let is_single = match insert.source.as_deref().map(plain_values) {
            None => true,
            Some(rows) => rows.is_some_and(|rows| rows.len() == 1),
        };
        let notes_rows = !is_single && updates_on_conflict(insert);
        let conflict = match &insert.on {
            None => String::new(),
            Some(OnInsert::OnConflict(conflict)) => {
                self.on_conflict(conflict, &relation, &name, notes_rows)?
            }
            Some(_) => {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "syntax error at or near \"DUPLICATE\"",
                ));
            }
        };
        let (mut returning, columns) =
            self.returning(insert.returning.as_deref(), &relation, &name, Relations::default())?;
        if notes_rows {
            let and = if returning.is_empty() { " RETURNING" } else { "," };
            let key = row_key(&relation, &quoted(&relation.name));
            returning.push_str(&format!("{and} rung_note_row({key})"));
        }
        Ok(Change {
            sql: format!(
                "INSERT INTO {} AS r0 {}{conflict}{returning}",
                quoted(&relation.name),
                source.sql
            ),
            returning: columns,
            tag: Tag::Insert,
            target: relation,
            keys: source.keys,
            notes_rows,
        })
    }

    /// Columns that the statement does not name, with their defaults.
    fn defaults(
        &mut self,
        relation: &Relation,
        given: &[&Column],
    ) -> Result<Vec<(String, String)>, SqlError> {
        let mut defaults = Vec::new();
        for column in &relation.columns {
            if column.generated || given.iter().any(|known| known.name == column.name) {
                continue;
            }
            match self.default_of(column)? {
                Some(sql) => defaults.push((column.name.clone(), sql)),
                None if is_row_number(relation, column) => {
                    defaults.push((column.name.clone(), no_null(relation, column)));
                }
                None => {}
            }
        }
        Ok(defaults)
    }

    fn default_values(&mut self, relation: &Relation) -> Result<Source, SqlError> {
        let defaults = self.defaults(relation, &[])?;
        if defaults.is_empty() {
            return Ok(Source { sql: "DEFAULT VALUES".to_owned(), keys: KeyValues::default() });
        }
        let (names, values): (Vec<String>, Vec<String>) =
            defaults.into_iter().map(|(name, sql)| (quoted(&name), sql)).unzip();
        let sql = format!("({}) VALUES ({})", names.join(", "), values.join(", "));
        Ok(Source { sql, keys: KeyValues::default() })
    }

    fn insert_values(
        &mut self,
        rows: &[&[Expr]],
        given: &[&Column],
        relation: &Arc<Relation>,
    ) -> Result<Source, SqlError> {
        let width = rows.first().map_or(0, |row| row.len());
        check_width(width, given, relation)?;
        let given = &given[..width];
        let defaults = self.defaults(relation, given)?;
        let nothing = Relations::default();
        let scope = Scope::new(&nothing, Place::Values, None);
        // A generated column may be given the word DEFAULT and is left out then.
        let kept: Vec<usize> = (0..width).filter(|index| !given[*index].generated).collect();
        let mut keys = KeyValues::default();
        keys.columns.extend(kept.iter().map(|index| given[*index].name.clone()));
        keys.columns.extend(defaults.iter().map(|(name, _)| name.clone()));
        let mut texts = Vec::with_capacity(rows.len());
        for row in rows {
            if row.len() != width {
                return Err(SqlError::new(
                    SqlState::SYNTAX_ERROR,
                    "VALUES lists must all be the same length",
                ));
            }
            for (expr, column) in row.iter().zip(given) {
                if !is_default(expr) && !self.overriding {
                    check_assignable(column, true)?;
                }
            }
            let mut values = Vec::with_capacity(keys.columns.len());
            for index in &kept {
                let value = self.value_for(&row[*index], given[*index], scope)?;
                values.push(self.guarded(value, given[*index], relation)?);
            }
            values.extend(defaults.iter().map(|(_, sql)| sql.clone()));
            remember(&mut keys, &values);
            texts.push(format!("({})", values.join(", ")));
        }
        let names: Vec<String> = keys.columns.iter().map(|name| quoted(name)).collect();
        Ok(Source { sql: format!("({}) VALUES {}", names.join(", "), texts.join(", ")), keys })
    }

    fn insert_query(
        &mut self,
        query: &Query,
        given: &[&Column],
        relation: &Arc<Relation>,
    ) -> Result<Source, SqlError> {
        let targets: Vec<TypeUse> = given.iter().map(|column| column.data_type.clone()).collect();
        let text = self.query_as(query, None, Some(&targets))?;
        let width = text.columns.len();
        check_width(width, given, relation)?;
        let given = &given[..width];
        let mut names = Vec::with_capacity(width);
        let mut items = Vec::with_capacity(width);
        for (index, column) in given.iter().enumerate() {
            if !self.overriding {
                check_assignable(column, true)?;
            }
            let mut value = Expression::typed(format!("c{}", index + 1), column.data_type.clone());
            value.not_null = text.columns[index].not_null;
            items.push(self.guarded(value, column, relation)?);
            names.push(quoted(&column.name));
        }
        for (name, sql) in self.defaults(relation, given)? {
            names.push(quoted(&name));
            items.push(sql);
        }
        // The condition keeps SQLite from reading ON CONFLICT as a join's.
        let sql = format!(
            "({}) SELECT {} FROM ({}) WHERE 1",
            names.join(", "),
            items.join(", "),
            text.sql
        );
        Ok(Source { sql, keys: KeyValues::default() })
    }

    fn on_conflict(
        &mut self,
        conflict: &OnConflict,
        relation: &Arc<Relation>,
        name: &str,
        notes_rows: bool,
    ) -> Result<String, SqlError> {
        let target = match &conflict.conflict_target {
            None => String::new(),
            Some(ConflictTarget::Columns(columns)) => {
                let mut names = Vec::with_capacity(columns.len());
                for column in columns {
                    names.push(quoted(&column_named(relation, &folded(column))?.name));
                }
                format!("({})", names.join(", "))
            }
            Some(ConflictTarget::OnConstraint(constraint)) => {
                constraint_columns(constraint, relation)?
            }
        };
        match &conflict.action {
            OnConflictAction::DoNothing => Ok(format!(" ON CONFLICT {target} DO NOTHING")),
            OnConflictAction::DoUpdate(_) if target.is_empty() => Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                "ON CONFLICT DO UPDATE requires inference specification or constraint name",
            )
            .hint("For example, ON CONFLICT (column_name).")),
            OnConflictAction::DoUpdate(update) => {
                let update = self.do_update(update, relation, name, notes_rows)?;
                Ok(format!(" ON CONFLICT {target} DO UPDATE SET {update}"))
            }
        }
    }

    fn do_update(
        &mut self,
        update: &DoUpdate,
        relation: &Arc<Relation>,
        name: &str,
        notes_rows: bool,
    ) -> Result<String, SqlError> {
        let mut relations = Relations::one(ScopeRelation {
            name: name.to_owned(),
            columns: table_columns(relation, "r0"),
            key: Vec::new(),
            out_of_reach: None,
            is_function: false,
        });
        relations.append(Relations::one(ScopeRelation {
            name: "excluded".to_owned(),
            columns: table_columns(relation, "excluded"),
            key: Vec::new(),
            out_of_reach: None,
            is_function: false,
        }))?;
        let scope = Scope::new(&relations, Place::Assignment, None);
        let mut sql = self.assignments(&update.assignments, relation, scope)?.join(", ");
        let condition = match &update.selection {
            Some(condition) => Some(self.condition(condition, "WHERE", scope.at(Place::Where))?),
            None => None,
        };
        if notes_rows {
            // CASE keeps the order in which they are looked at.
            let key = row_key(relation, "r0");
            let condition = condition.as_deref().unwrap_or("1");
            sql.push_str(&format!(" WHERE CASE WHEN rung_new_row({key}) THEN {condition} END"));
        } else if let Some(condition) = condition {
            sql.push_str(&format!(" WHERE {condition}"));
        }
        Ok(sql)
    }

    /// `column = value` of UPDATE and DO UPDATE.
    pub(super) fn assignments(
        &mut self,
        assignments: &[Assignment],
        relation: &Relation,
        scope: Scope<'_>,
    ) -> Result<Vec<String>, SqlError> {
        let mut texts = Vec::with_capacity(assignments.len());
        let mut seen: Vec<String> = Vec::with_capacity(assignments.len());
        for assignment in assignments {
            let columns = match &assignment.target {
                AssignmentTarget::ColumnName(name) => vec![assigned_column(name, relation)?],
                AssignmentTarget::Tuple(names) => {
                    let columns = names.iter().map(|name| assigned_column(name, relation));
                    columns.collect::<Result<Vec<_>, _>>()?
                }
            };
            for column in &columns {
                if seen.contains(&column.name) {
                    return Err(SqlError::new(
                        SqlState::SYNTAX_ERROR,
                        format!("multiple assignments to same column \"{}\"", column.name),
                    ));
                }
                seen.push(column.name.clone());
            }
            let is_tuple = matches!(assignment.target, AssignmentTarget::Tuple(_));
            self.assignment(&columns, &assignment.value, is_tuple, relation, scope, &mut texts)?;
        }
        Ok(texts)
    }

    fn assignment(
        &mut self,
        columns: &[&Column],
        value: &Expr,
        is_tuple: bool,
        relation: &Relation,
        scope: Scope<'_>,
        texts: &mut Vec<String>,
    ) -> Result<(), SqlError> {
        if let ([column], false) = (columns, is_tuple) {
            return self.one_assignment(column, value, relation, scope, texts);
        }
        let unequal = || {
            SqlError::new(
                SqlState::SYNTAX_ERROR,
                "number of columns does not match number of values",
            )
        };
        match super::translate::unnested(value) {
            Expr::Tuple(values) if values.len() == columns.len() => {
                for (column, value) in columns.iter().zip(values) {
                    self.one_assignment(column, value, relation, scope, texts)?;
                }
                Ok(())
            }
            Expr::Subquery(query) => {
                columns.iter().try_for_each(|column| check_assignable(column, false))?;
                let targets: Vec<TypeUse> =
                    columns.iter().map(|column| column.data_type.clone()).collect();
                let inner = self.query_as(query, Some(&scope), Some(&targets))?;
                if inner.columns.len() != columns.len() {
                    return Err(unequal());
                }
                let names: Vec<String> =
                    columns.iter().map(|column| quoted(&column.name)).collect();
                texts.push(format!("({}) = ({})", names.join(", "), inner.sql));
                Ok(())
            }
            value => match columns {
                [column] => self.one_assignment(column, value, relation, scope, texts),
                _ => Err(unequal()),
            },
        }
    }

    fn one_assignment(
        &mut self,
        column: &Column,
        value: &Expr,
        relation: &Relation,
        scope: Scope<'_>,
        texts: &mut Vec<String>,
    ) -> Result<(), SqlError> {
        if is_default(value) && column.generated {
            return Ok(());
        }
        if !is_default(value) {
            check_assignable(column, false)?;
        }
        let value = self.value_for(value, column, scope)?;
        let sql = self.guarded(value, column, relation)?;
        texts.push(format!("{} = {sql}", quoted(&column.name)));
        self.assigned_values.push((column.name.clone(), sql));
        Ok(())
    }
}

/// What follows the table's name in SQLite's INSERT.
struct Source {
    sql: String,
    keys: KeyValues,
}

fn assigned_column<'r>(name: &ObjectName, relation: &'r Relation) -> Result<&'r Column, SqlError> {
    let parts = name_parts(name)?;
    match parts.as_slice() {
        [column] => column_named(relation, column),
        [first, ..] => column_named(relation, first),
        [] => Err(SqlError::new(SqlState::SYNTAX_ERROR, "an assignment without a column")),
    }
}

fn given_columns<'r>(insert: &Insert, relation: &'r Relation) -> Result<Vec<&'r Column>, SqlError> {
    if insert.columns.is_empty() {
        return Ok(relation.columns.iter().collect());
    }
    let mut given: Vec<&Column> = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let column = assigned_column(name, relation)?;
        if given.iter().any(|known| known.name == column.name) {
            return Err(SqlError::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
        given.push(column);
    }
    Ok(given)
}

/// VALUES and nothing else.
fn plain_values(query: &Query) -> Option<Vec<&[Expr]>> {
    let plain = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none();
    match &*query.body {
        SetExpr::Values(values) if plain => {
            Some(values.rows.iter().map(|row| row.content.as_slice()).collect())
        }
        _ => None,
    }
}

fn check_width(width: usize, given: &[&Column], relation: &Relation) -> Result<(), SqlError> {
    let is_list = given.len() < relation.columns.len();
    if width > given.len() {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            "INSERT has more expressions than target columns",
        ));
    }
    if width < given.len() && is_list {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            "INSERT has more target columns than expressions",
        ));
    }
    Ok(())
}

fn constraint_columns(name: &ObjectName, relation: &Relation) -> Result<String, SqlError> {
    let wanted = name_parts(name)?.pop().unwrap_or_default();
    let found = relation.constraints.iter().find(|constraint| {
        constraint.name == wanted
            && matches!(constraint.kind, ConstraintKind::PrimaryKey | ConstraintKind::Unique)
    });
    let Some(constraint) = found else {
        return Err(SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("constraint \"{wanted}\" for table \"{}\" does not exist", relation.name),
        ));
    };
    let names: Vec<String> = constraint.columns.iter().map(|name| quoted(name)).collect();
    Ok(format!("({})", names.join(", ")))
}

/// ON CONFLICT DO UPDATE.
fn updates_on_conflict(insert: &Insert) -> bool {
    matches!(&insert.on, Some(OnInsert::OnConflict(conflict))
        if matches!(conflict.action, OnConflictAction::DoUpdate(_)))
}

/// What tells a row of a table from its others: the primary key, or SQLite's number.
fn row_key(relation: &Relation, of: &str) -> String {
    let is_key = |kind: &ConstraintKind| matches!(kind, ConstraintKind::PrimaryKey);
    let key = relation.constraints.iter().find(|constraint| is_key(&constraint.kind));
    let columns = match key {
        Some(key) => key.columns.clone(),
        None => {
            let names = ["rowid", "_rowid_", "oid"].into_iter();
            names
                .filter(|name| relation.column(name).is_none())
                .take(1)
                .map(str::to_owned)
                .collect()
        }
    };
    let parts: Vec<String> = columns.iter().map(|name| format!("{of}.{}", quoted(name))).collect();
    parts.join(", ")
}

/// Refuses what other databases have.
fn check_plain(insert: &Insert) -> Result<(), SqlError> {
    let plain = insert.or.is_none()
        && !insert.ignore
        && !insert.overwrite
        && insert.assignments.is_empty()
        && insert.partitioned.is_none()
        && insert.after_columns.is_empty()
        && !insert.has_table_keyword
        && insert.output.is_none()
        && !insert.replace_into
        && insert.priority.is_none()
        && insert.insert_alias.is_none()
        && insert.settings.is_none()
        && insert.format_clause.is_none()
        && insert.multi_table_insert_type.is_none();
    if plain {
        return Ok(());
    }
    Err(SqlError::new(SqlState::SYNTAX_ERROR, "syntax error in INSERT")
        .hint("PostgreSQL has INSERT INTO ... ON CONFLICT."))
}

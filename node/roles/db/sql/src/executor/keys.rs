//! Which key a violated constraint is about: the values are computed again, since
//! SQLite does not tell them.

use rusqlite::types::Value;

use super::errors::{self, Violation};
use super::{Executor, PgType};
use crate::analyze::{Plan, Tag, quoted};
use crate::values::encode_text;
use crate::{Catalog, Constraint, ConstraintKind, Context, Relation, SqlError, SqlState, TypeUse};

impl Executor {
    /// SQLite's error as PostgreSQL's, with the constraint and the key where they can be
    /// known.
    pub(super) fn explained(
        &self,
        error: &rusqlite::Error,
        plan: &Plan,
        values: &[Value],
    ) -> SqlError {
        let raised = crate::functions::recognise(error);
        if let Some(raised) = raised {
            return raised;
        }
        match errors::violation(error, &self.catalog) {
            None => errors::plain(error),
            Some(Violation::Other(error)) => error,
            Some(Violation::Unique { relation, name, columns }) => {
                self.unique(relation, &name, &columns, plan, values)
            }
            Some(Violation::ForeignKey) => match &plan.target {
                Some(target) => self.foreign_key(target, plan, values),
                None => errors::plain(error),
            },
        }
    }

    fn unique(
        &self,
        relation: &Relation,
        name: &str,
        columns: &[String],
        plan: &Plan,
        values: &[Value],
    ) -> SqlError {
        let message = format!("duplicate key value violates unique constraint \"{name}\"");
        let mut error = SqlError::new(SqlState::UNIQUE_VIOLATION, message);
        error.table = Some(relation.name.clone());
        error.constraint = Some(name.to_owned());
        if let Some(key) = self.key_of_rows(relation, columns, columns, "", plan, values) {
            error.detail = Some(format!("Key ({})=({key}) already exists.", columns.join(", ")));
        }
        error
    }

    /// The first key among the rows of a statement that is in a table, or, with `NOT `,
    /// is not.
    fn key_of_rows(
        &self,
        table: &Relation,
        table_columns: &[String],
        columns: &[String],
        not: &str,
        plan: &Plan,
        values: &[Value],
    ) -> Option<String> {
        if columns.is_empty() {
            return None;
        }
        let places: Vec<usize> = columns
            .iter()
            .map(|column| plan.keys.columns.iter().position(|known| known == column))
            .collect::<Option<_>>()?;
        let mut rows = Vec::with_capacity(plan.keys.rows.len());
        for row in &plan.keys.rows {
            let key: Option<Vec<&str>> =
                places.iter().map(|place| row.get(*place)?.as_deref()).collect();
            rows.push(format!("({})", key?.join(", ")));
        }
        if rows.is_empty() {
            return None;
        }
        let matches: Vec<String> = table_columns
            .iter()
            .enumerate()
            .map(|(index, column)| format!("r1.{} = v.column{}", quoted(column), index + 1))
            .collect();
        let nulls: Vec<String> =
            (1..=columns.len()).map(|n| format!("v.column{n} IS NOT NULL")).collect();
        let mut text = format!(
            "SELECT * FROM (VALUES {}) AS v WHERE {}",
            rows.join(", "),
            nulls.join(" AND ")
        );
        // An UPDATE gives all rows the same key, which another of them may have by now.
        if plan.tag != Tag::Update || !not.is_empty() {
            text.push_str(&format!(
                " AND {not}EXISTS (SELECT 1 FROM {} AS r1 WHERE {})",
                quoted(&table.name),
                matches.join(" AND ")
            ));
        }
        text.push_str(" LIMIT 1");
        self.first_key(&text, columns, plan.target.as_deref()?, values)
    }

    /// The first row of a query as PostgreSQL shows keys.
    fn first_key(
        &self,
        text: &str,
        columns: &[String],
        relation: &Relation,
        values: &[Value],
    ) -> Option<String> {
        let mut statement = self.connection.prepare(text).ok()?;
        for (index, value) in values.iter().take(statement.parameter_count()).enumerate() {
            statement.raw_bind_parameter(index + 1, value).ok()?;
        }
        let mut rows = statement.raw_query();
        let row = rows.next().ok()??;
        let context: Context = self.context.lock().clone();
        let mut key = Vec::new();
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                key.extend_from_slice(b", ");
            }
            let text = TypeUse { base: PgType::Text, modifier: -1 };
            let data_type = relation.column(column).map_or(&text, |column| &column.data_type);
            encode_text(&mut key, row.get_ref(index).ok()?, data_type, &context).ok()?;
        }
        String::from_utf8(key).ok()
    }

    /// SQLite says only that some foreign key is violated.
    fn foreign_key(&self, target: &Relation, plan: &Plan, values: &[Value]) -> SqlError {
        if plan.tag != Tag::Delete
            && let Some(error) = self.missing_parent(target, plan, values)
        {
            return error;
        }
        let incoming = incoming(target, &self.catalog);
        if let ([(child, constraint)], true) = (incoming.as_slice(), plan.tag != Tag::Insert) {
            let message = format!(
                "update or delete on table \"{}\" violates foreign key constraint \"{}\" on \
                 table \"{}\"",
                target.name, constraint.name, child.name
            );
            let mut error = SqlError::new(SqlState::FOREIGN_KEY_VIOLATION, message);
            error.table = Some(child.name.clone());
            error.constraint = Some(constraint.name.clone());
            return error;
        }
        let verb = match plan.tag {
            Tag::Delete => "delete",
            Tag::Update => "update",
            _ => "insert",
        };
        let message =
            format!("{verb} on table \"{}\" violates a foreign key constraint", target.name);
        let mut error = SqlError::new(SqlState::FOREIGN_KEY_VIOLATION, message);
        error.table = Some(target.name.clone());
        error
    }

    fn missing_parent(&self, target: &Relation, plan: &Plan, values: &[Value]) -> Option<SqlError> {
        let outgoing: Vec<&Constraint> = target
            .constraints
            .iter()
            .filter(|constraint| matches!(constraint.kind, ConstraintKind::ForeignKey { .. }))
            .collect();
        for constraint in &outgoing {
            let ConstraintKind::ForeignKey { table, columns, .. } = &constraint.kind else {
                continue;
            };
            let parent = self.catalog.relations.get(table)?;
            let key = self.key_of_rows(parent, columns, &constraint.columns, "NOT ", plan, values);
            if let Some(key) = key {
                return Some(not_present(target, constraint).detail(format!(
                    "Key ({})=({key}) is not present in table \"{table}\".",
                    constraint.columns.join(", ")
                )));
            }
        }
        // An update may also be refused because of rows that refer to the table.
        let is_certain = plan.tag == Tag::Insert || incoming(target, &self.catalog).is_empty();
        match outgoing.as_slice() {
            [only] if is_certain => Some(not_present(target, only)),
            _ => None,
        }
    }
}

fn not_present(target: &Relation, constraint: &Constraint) -> SqlError {
    let message = format!(
        "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
        target.name, constraint.name
    );
    let mut error = SqlError::new(SqlState::FOREIGN_KEY_VIOLATION, message);
    error.table = Some(target.name.clone());
    error.constraint = Some(constraint.name.clone());
    error
}

/// Foreign keys that refer to a table, with those that have them.
fn incoming<'c>(target: &Relation, catalog: &'c Catalog) -> Vec<(&'c Relation, &'c Constraint)> {
    let mut found = Vec::new();
    for relation in catalog.relations.values() {
        for constraint in &relation.constraints {
            if let ConstraintKind::ForeignKey { table, .. } = &constraint.kind
                && *table == target.name
            {
                found.push((&**relation, constraint));
            }
        }
    }
    found
}

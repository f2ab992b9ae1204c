//! Which relations the system has and what their columns are, as PostgreSQL 15 has
//! them. Types that are only a name there stand as what they hold: `regproc` as text,
//! vectors as arrays.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::{Column, PgType, Relation, RelationKind, TypeUse};

const COLUMNS: &str = include_str!("columns.txt");

/// A relation of the system. The relation's name is SQLite's, `schema.name`.
#[derive(Clone, Debug)]
pub(crate) struct SystemRelation {
    pub schema: &'static str,
    pub name: &'static str,
    pub relation: Arc<Relation>,
}

pub(crate) fn all() -> &'static [SystemRelation] {
    static ALL: OnceLock<Vec<SystemRelation>> = OnceLock::new();
    ALL.get_or_init(|| read(COLUMNS))
}

/// Finds a relation of the system; without a schema it is in `pg_catalog`.
pub(crate) fn find(schema: Option<&str>, name: &str) -> Option<&'static SystemRelation> {
    static BY_NAME: OnceLock<HashMap<&'static str, &'static SystemRelation>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| {
        all().iter().map(|system| (system.relation.name.as_str(), system)).collect()
    });
    by_name.get(format!("{}.{name}", schema.unwrap_or("pg_catalog")).as_str()).copied()
}

/// Each relation is a line `schema.name oid kind` and indented lines of columns.
fn read(text: &'static str) -> Vec<SystemRelation> {
    let mut relations: Vec<SystemRelation> = Vec::new();
    for line in text.lines() {
        let (Some(last), true) = (relations.last_mut(), line.starts_with(' ')) else {
            relations.extend(read_head(line));
            continue;
        };
        let relation = Arc::make_mut(&mut last.relation);
        for part in line.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let number = relation.columns.len() as i16 + 1;
            relation.columns.extend(read_column(part, number));
        }
    }
    relations
}

fn read_head(line: &'static str) -> Option<SystemRelation> {
    let mut words = line.split(' ');
    let full_name = words.next()?;
    let (schema, name) = full_name.split_once('.')?;
    let oid = words.next()?.parse().ok()?;
    let kind = match words.next()? {
        "v" => RelationKind::View,
        _ => RelationKind::Table,
    };
    let relation = Arc::new(Relation {
        oid,
        name: full_name.to_owned(),
        kind,
        columns: Vec::new(),
        constraints: Vec::new(),
        indexes: Vec::new(),
        definition: None,
        comment: None,
        next_column: 0,
    });
    Some(SystemRelation { schema, name, relation })
}

fn read_column(text: &str, number: i16) -> Option<Column> {
    let (name, data_type) = text.split_once(' ')?;
    let vector =
        |element| TypeUse { base: PgType::Array(Box::new(element)), modifier: TypeUse::VECTOR };
    let data_type = match data_type {
        "char" => TypeUse { base: PgType::InternalChar, modifier: -1 },
        "int2vector" => vector(PgType::Int2),
        "oidvector" => vector(PgType::Oid),
        other => TypeUse { base: PgType::from_name(other)?, modifier: -1 },
    };
    Some(Column {
        name: name.to_owned(),
        number,
        data_type,
        not_null: false,
        default: None,
        identity: None,
        generated: false,
        sequence: None,
        comment: None,
    })
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, all, find};

    #[test]
    fn every_column_of_the_systems_relations_is_understood() {
        let declared = COLUMNS
            .lines()
            .filter(|line| line.starts_with(' '))
            .flat_map(|line| line.split(','))
            .filter(|part| !part.trim().is_empty())
            .count();
        let read: usize = all().iter().map(|system| system.relation.columns.len()).sum();
        assert_eq!(read, declared);
        assert_eq!(find(None, "pg_class").map(|system| system.relation.oid), Some(1259));
        assert!(find(Some("information_schema"), "tables").is_some());
        assert!(find(None, "tables").is_none());
    }
}

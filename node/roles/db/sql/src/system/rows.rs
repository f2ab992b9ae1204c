//! Rows of a relation of the system, given by the names of columns.

use rusqlite::types::Value;
use serde_json::json;

use crate::{PgType, Relation};

/// A value for a column, in its stored form.
pub(super) struct Cell(pub Value);

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self(Value::Integer(value.into()))
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self(Value::Text(value.to_owned()))
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self(Value::Text(value))
    }
}

impl From<&String> for Cell {
    fn from(value: &String) -> Self {
        Self(Value::Text(value.clone()))
    }
}

impl From<char> for Cell {
    fn from(value: char) -> Self {
        Self(Value::Text(value.to_string()))
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self(Value::Real(value))
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self(Value::Null), Into::into)
    }
}

/// An array; as for every array its stored form is JSON.
impl<T: serde::Serialize> From<Vec<T>> for Cell {
    fn from(value: Vec<T>) -> Self {
        Self(Value::Text(json!(value).to_string()))
    }
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl From<$integer> for Cell {
            fn from(value: $integer) -> Self {
                Self(Value::Integer(value.into()))
            }
        }
    )*};
}

integers!(i16 i32 i64 u16 u32);

/// Collects the rows of one relation.
pub(super) struct Rows<'a> {
    relation: &'a Relation,
    blank: Vec<Value>,
    pub rows: Vec<Vec<Value>>,
}

impl<'a> Rows<'a> {
    pub fn new(relation: &'a Relation) -> Self {
        let blank = relation.columns.iter().map(|column| blank(&column.data_type.base)).collect();
        Self { relation, blank, rows: Vec::new() }
    }

    /// Adds a row; columns that are not named have what PostgreSQL has where there is
    /// nothing to say.
    pub fn add<const N: usize>(&mut self, cells: [(&str, Cell); N]) {
        let mut row = self.blank.clone();
        for (name, Cell(value)) in cells {
            let index = self.relation.columns.iter().position(|column| column.name == name);
            debug_assert!(index.is_some(), "{} has no column {name}", self.relation.name);
            if let Some(place) = index.and_then(|index| row.get_mut(index)) {
                *place = value;
            }
        }
        self.rows.push(row);
    }
}

fn blank(data_type: &PgType) -> Value {
    match data_type {
        PgType::Bool | PgType::Int2 | PgType::Int4 | PgType::Oid => Value::Integer(0),
        PgType::InternalChar => Value::Text(String::new()),
        _ => Value::Null,
    }
}

/// `Rows::add` with `column: value` pairs.
macro_rules! row {
    ($rows:expr, $($column:ident: $value:expr),* $(,)?) => {
        $rows.add([$((stringify!($column), $crate::system::rows::Cell::from($value))),*])
    };
}

pub(super) use row;

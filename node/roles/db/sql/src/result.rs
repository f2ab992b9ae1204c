//! What goes into a statement and what comes out of it.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::context::Effects;
use crate::{PgType, TypeUse};

/// Values for `$1`, `$2`, ... as the client sent them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
    /// None is null.
    pub values: Vec<Option<Bytes>>,
    pub formats: Formats,
}

/// Text (0) or binary (1) for each value: none given means text for all, one given
/// means it for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Formats(pub Vec<i16>);

impl Formats {
    /// The format of a value by its index, from 0.
    pub fn of(&self, index: usize) -> i16 {
        match self.0.as_slice() {
            [] => 0,
            [all] => *all,
            each => each.get(index).copied().unwrap_or(0),
        }
    }
}

/// What a statement needs and gives, known before it is executed.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Description {
    pub parameters: Vec<PgType>,
    /// None for a statement that gives no rows.
    pub columns: Vec<ResultColumn>,
}

/// A column of a result, as `RowDescription` tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultColumn {
    pub name: String,
    pub data_type: TypeUse,
    /// The table it comes from, 0 if it is computed.
    pub table_oid: u32,
    /// Its number in that table, 0 if it is computed.
    pub column_number: i16,
    /// Text (0) or binary (1).
    pub format: i16,
}

/// A statement has been executed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Complete {
    /// PostgreSQL's command tag, such as `INSERT 0 1`.
    pub tag: String,
    /// How many rows it changed or gave.
    pub rows: u64,
    /// The sink took no more rows before the last one.
    pub suspended: bool,
    /// What the session must keep.
    pub effects: Effects,
}

/// Takes the rows of a result as they come.
pub trait RowSink {
    /// Called once before the first row, also when there are no rows; not called
    /// for statements that give none.
    fn columns(&mut self, columns: &[ResultColumn]) -> ControlFlow<()>;

    /// A row as the body of a `DataRow` without its count: each field is its length
    /// as a big-endian i32 (-1 for null) and its bytes.
    fn row(&mut self, data: &[u8], fields: usize) -> ControlFlow<()>;
}

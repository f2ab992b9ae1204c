//! The types that clients see, and how their values are stored.

use serde::{Deserialize, Serialize};

/// A PostgreSQL type.
///
/// | type | stored in SQLite as |
/// | --- | --- |
/// | bool | INTEGER 0 or 1 |
/// | int2, int4, int8, oid | INTEGER; ranges are checked on assignment |
/// | float4, float8 | REAL; NaN is refused (22003): SQLite has none |
/// | numeric | TEXT, canonical decimal digits, collation `rung_numeric` |
/// | text, varchar, char(n), name, unknown, void | TEXT |
/// | bytea | BLOB |
/// | date | INTEGER, days since 2000-01-01 |
/// | time | INTEGER, microseconds since midnight |
/// | timestamp, timestamptz | INTEGER, microseconds since 2000-01-01 (UTC for timestamptz) |
/// | interval | TEXT, ISO 8601 canonical (`P1Y2M3DT4H5M6.7S`), collation `rung_interval` |
/// | json | TEXT as given; jsonb | TEXT as PostgreSQL prints it (keys by length, then bytes; duplicates gone) |
/// | uuid | TEXT, lower case with hyphens |
/// | arrays | TEXT, a JSON array of the elements' stored forms |
/// | records | as an array of their fields; no column of a table holds them |
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PgType {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Varchar,
    /// `char(n)`, blank-padded; PostgreSQL's internal name is bpchar.
    Char,
    Name,
    /// The one-byte internal type `"char"` of the system catalog.
    InternalChar,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Json,
    Jsonb,
    Uuid,
    Regclass,
    Regtype,
    Void,
    /// A literal or parameter whose type the context has not decided.
    Unknown,
    Array(Box<PgType>),
    /// A row of a function as one value: the names and types of its fields.
    Record(Vec<(String, PgType)>),
}

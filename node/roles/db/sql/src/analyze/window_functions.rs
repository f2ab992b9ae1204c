//! Functions that exist only with OVER; SQLite has all of them.

use crate::signature::Lines;

pub(crate) const FUNCTIONS: Lines = &[
    ("row_number() -> int8", "row_number()"),
    ("rank() -> int8", "rank()"),
    ("dense_rank() -> int8", "dense_rank()"),
    ("percent_rank() -> float8", "percent_rank()"),
    ("cume_dist() -> float8", "cume_dist()"),
    ("ntile(int4) -> int4", "ntile({0})"),
    ("lag(anyelement) -> anyelement", "lag({0})"),
    ("lag(anyelement, int4) -> anyelement", "lag({0}, {1})"),
    ("lag(anyelement, int4, anyelement) -> anyelement", "lag({0}, {1}, {2})"),
    ("lead(anyelement) -> anyelement", "lead({0})"),
    ("lead(anyelement, int4) -> anyelement", "lead({0}, {1})"),
    ("lead(anyelement, int4, anyelement) -> anyelement", "lead({0}, {1}, {2})"),
    ("first_value(anyelement) -> anyelement", "first_value({0})"),
    ("last_value(anyelement) -> anyelement", "last_value({0})"),
    ("nth_value(anyelement, int4) -> anyelement", "nth_value({0}, {1})"),
];

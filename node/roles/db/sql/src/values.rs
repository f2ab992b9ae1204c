//! Values: their stored form, what clients send and what they are shown.
//!
//! [`PgType`](crate::PgType) says how each type is stored. `decode_text` and
//! `decode_binary` make stored values of what clients send, `encode_text` and
//! `encode_binary` write them as PostgreSQL does. Functions work on the same parts.

pub(crate) mod array;
pub(crate) mod calendar;
pub(crate) mod datetime_input;
pub(crate) mod datetime_output;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod float;
pub(crate) mod interval;
pub(crate) mod interval_input;
pub(crate) mod json;
pub(crate) mod numeric;
mod record;
#[cfg(test)]
mod tests;
mod time_zone;
mod type_names;

pub use decode::{decode_binary, decode_text};
pub use encode::{encode_binary, encode_text};
pub use time_zone::TimeZone;
pub use type_names::{modifier_text, numeric_modifier};

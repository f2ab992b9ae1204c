//! Values as text for people. Everything here is pure.

pub mod databases;
pub mod operation;
pub mod overview;
pub mod table;
pub mod text;
pub mod time;

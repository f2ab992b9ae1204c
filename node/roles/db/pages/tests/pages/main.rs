//! Copies of a database, driven as a replicated log would drive them.

mod archive;
mod crashes;
mod drafts;
mod examples;
mod group;
mod workload;

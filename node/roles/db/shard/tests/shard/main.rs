//! Copies of a shard in one process: real files, real logs, and a network that can
//! be cut.

mod archive;
mod claims;
mod drafts;
mod gathering;
mod interactive;
mod limits;
mod one_copy;
mod short;
mod support;
mod three_copies;

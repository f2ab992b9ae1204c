//! The web role with real processes.

mod bench;
mod examples;
mod lives;
mod streams;

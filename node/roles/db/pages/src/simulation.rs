//! A disk that loses power, for tests.
//!
//! Files are real files in a directory. Beside them [`Power`] keeps what of them
//! is durable, and in which order the rest was written. [`Power::cut`] makes the
//! directory what a power failure could have left of it.

mod power;
mod vfs;

pub use power::{Failure, Power};

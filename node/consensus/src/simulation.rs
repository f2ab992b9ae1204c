//! A cluster in one thread whose every choice follows from a seed: simulated
//! links and disks, crashes, and clients whose observations are checked.
//!
//! `RUNG_SEEDS=1000 cargo test -p rung-consensus --release simulation` runs many
//! seeds, `RUNG_SEED=7` one.

mod checker;
mod cluster;
mod disk;
mod faulty_log;
mod founding;
mod links;
mod machine;
mod run;
mod tests;

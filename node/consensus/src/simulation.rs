//! A cluster in one thread whose every choice follows from a seed: simulated
//! links and disks, crashes, and clients whose observations are checked.
//!
//! `RUNG_SEEDS=1000 cargo test -p rung-consensus --release simulation` runs many
//! seeds, `RUNG_SEED=7` one. The links are also for simulations of what is built on
//! groups.

#[cfg(test)]
mod checker;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod distance;
#[cfg(test)]
mod faulty_log;
#[cfg(test)]
mod founding;
mod links;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod run;
#[cfg(test)]
mod suspicion;
#[cfg(test)]
mod tests;

pub use links::{Link, Links, Weather};

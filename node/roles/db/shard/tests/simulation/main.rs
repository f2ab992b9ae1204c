//! Whole shards under every trouble that a seed brings: the shipped code of shards
//! and pages, on disks that lose power, and on links that lose messages.
//!
//! `scripts/simulate-db.sh --seeds 2000` runs many seeds, `--seed 7` one. A seed
//! chooses the troubles and what clients do, not the moments at which the threads of
//! a copy run, so it need not repeat a run exactly.

mod clients;
mod cluster;
mod history;
mod node;
mod run;
mod snapshot_disk;
mod tests;
mod troubles;

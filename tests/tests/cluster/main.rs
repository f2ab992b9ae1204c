//! What a user sees of real clusters, also when parts of them die.

mod certificates;
mod clocks;
mod db_archive;
mod db_attack;
mod db_bad_days;
mod db_checks;
mod db_operations;
mod db_scrub;
mod exit_codes;
mod formation;
mod full_disk;
mod inspection;
mod name_server;
mod nodes;
mod operations;
mod overload;
mod partitions;
mod photos;
mod proxying;
mod python_app;
mod restarts;
mod sql_clients;
mod start_errors;
mod under_load;
mod variables;
mod voters;

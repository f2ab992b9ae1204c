//! What recovers a database, and what is left of its former generation.

use clap::{Args, Subcommand};

use super::ChangeOptions;

/// What an operator takes upon himself.
#[derive(Args, Clone, Copy, Debug)]
pub struct ConsentOptions {
    /// What only lost copies have may be lost
    #[arg(long)]
    pub accept_data_loss: bool,
    /// The lost copies are off, or cut off from everybody
    #[arg(long)]
    pub confirm_fenced: bool,
}

#[derive(Args, Debug)]
pub struct RecoverOptions {
    /// The database's name
    pub database: String,
    /// The node whose copy is taken; the one that has the most when left out
    #[arg(long, value_name = "NODE")]
    pub from: Option<String>,
    /// Which shard of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shard: u32,
    #[command(flatten)]
    pub consent: ConsentOptions,
    #[command(flatten)]
    pub options: ChangeOptions,
}

#[derive(Subcommand, Debug)]
pub enum TailCommand {
    /// List the tails of a database on all nodes
    #[command(after_help = "ROWS differ from where the next generation began; ACKNOWLEDGED of \
        them a quorum had,\nas far as the copy's log tells.\n\nExample:\n  \
        ctl db tail ls photos")]
    Ls {
        /// The database's name
        database: String,
    },
    /// Show a tail: a change of a row on each line, as JSON
    #[command(after_help = "The first 1000 lines. The file is in the directory tails of \
        the node's data directory.\n\nExample:\n  ctl db tail show photos FILE")]
    Show {
        /// The database's name
        database: String,
        /// The tail's name
        file: String,
    },
    /// Bring the rows of a tail back where nothing else has happened to them
    #[command(after_help = "A row that is no longer what it was before the change stays as it \
        is and is reported;\nexit 1. The node that is asked must have the primary, and the tail \
        by its name or as\na path on its machine.\n\nExample:\n  ctl db tail replay photos FILE")]
    Replay {
        /// The database's name
        database: String,
        /// The tail's name, or the path of a copy of it
        file: String,
    },
}

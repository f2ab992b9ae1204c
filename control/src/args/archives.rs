//! What is said of archives.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rung_proto::api::ArchiveMoment;

use super::ChangeOptions;
use crate::render::time::{parse_duration, parse_time};

/// How a database is archived.
#[derive(Args, Clone, Debug)]
pub struct ArchiveArguments {
    /// The database's name
    #[arg(required = true)]
    pub database: Option<String>,
    /// The directory
    #[arg(long, value_name = "DIR", required_unless_present = "off")]
    pub to: Option<PathBuf>,
    /// Archive it no longer; what is in the directory stays
    #[arg(long, conflicts_with = "to")]
    pub off: bool,
    /// Moments that can be restored reach back so far; older files are removed
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_duration)]
    pub keep: Duration,
    /// How often a new base is made, from which a restore begins
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_duration)]
    pub base_every: Duration,
    #[command(flatten)]
    pub options: ChangeOptions,
}

#[derive(Subcommand, Debug)]
pub enum ArchiveCommand {
    /// Show the moments that can be restored from an archive
    #[command(after_help = "The directory is read on the machine of the node that is asked.\n\n\
        Examples:\n  ctl db archive ls photos\n  ctl db archive ls /mnt/archive/photos")]
    Ls {
        /// The database, or the archive's directory
        #[arg(value_name = "DATABASE|DIR")]
        what: String,
    },
}

pub fn parse_moment(text: &str) -> Result<ArchiveMoment, String> {
    if text == "latest" {
        return Ok(ArchiveMoment::Latest);
    }
    if let Some(position) = text.strip_prefix("position:") {
        return position.parse().map(ArchiveMoment::Position).map_err(|_| bad_moment(text));
    }
    parse_time(text).map(ArchiveMoment::Time).ok_or_else(|| bad_moment(text))
}

fn bad_moment(text: &str) -> String {
    format!("expected latest, a time such as 2026-11-29T12:00:00Z, or position:N, got {text:?}")
}

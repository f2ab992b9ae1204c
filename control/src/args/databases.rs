//! `ctl db`.

use std::path::PathBuf;

use clap::Subcommand;
use rung_proto::api::ArchiveMoment;

use super::archives::parse_moment;
use super::{
    ArchiveArguments, ArchiveCommand, ChangeOptions, Patience, RecoverOptions, TailCommand,
};

#[derive(Subcommand, Debug)]
pub enum DbCommand {
    /// List databases, their primaries and replicas
    #[command(after_help = "Example:\n  ctl db ls")]
    Ls,
    /// Show a database and every copy of it
    #[command(after_help = "Example:\n  ctl db show photos")]
    Show {
        /// The database's name
        database: String,
    },
    /// Write a backup: a file of SQLite with all that was acknowledged before
    #[command(after_help = "The node that is asked must have a copy. The file is on its \
        machine.\n\nExamples:\n  ctl db backup photos\n  \
        ctl db backup photos --to /var/backups/photos.db")]
    Backup {
        /// The database's name
        database: String,
        /// Where to; into the node's data directory when left out
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Archive a database to a directory all the time, so that any moment can be restored
    #[command(args_conflicts_with_subcommands = true)]
    #[command(
        after_help = "The directory is one on the machines of all nodes with a copy, such as \
        a mounted share;\nit must be there, and is this database's alone. A replica writes it if \
        there is one.\nIt has a base of all pages and every transaction since, half a second \
        after it was\ncommitted.\n\nExamples:\n  \
        ctl db archive photos --to /mnt/archive/photos --keep 14d\n  \
        ctl db archive photos --off\n  ctl db archive ls photos"
    )]
    Archive {
        #[command(subcommand)]
        look: Option<ArchiveCommand>,
        #[command(flatten)]
        setting: ArchiveArguments,
    },
    /// Compare every page of every copy now; exit 1 if something is damaged
    #[command(after_help = "It is done by itself once a day, 4 MiB a second. A copy that is \
        damaged stops serving and\nis made anew from the others, the primary's too: another copy \
        takes the lead. Of two\ncopies that differ the one is taken that SQLite finds in order; \
        what cannot be decided is\nreported, and nothing is changed.\n\nExamples:\n  \
        ctl db scrub photos\n  ctl db scrub photos --rate 64")]
    Scrub {
        /// The database's name
        database: String,
        /// MiB that each copy reads in a second
        #[arg(long, value_name = "MIB", default_value_t = 4)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
        rate: u64,
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a backup, or a moment of an archive, in the place of what a database holds
    #[command(after_help = "What the database holds is lost; back it up first. The node that is \
        asked must have\nthe primary, and the file or directory is on its machine. A database \
        that is not there is\ncreated first. A moment has what was committed up to then, on the \
        clock of the primary.\n\nExamples:\n  \
        ctl db restore photos /var/backups/photos.db --replace\n  \
        ctl db restore photos --archive /mnt/archive/photos \\\n      \
        --at 2026-11-29T12:00:00Z --replace\n  \
        ctl db restore photos --archive /mnt/archive/photos --at position:4711 --replace")]
    Restore {
        /// The database's name
        database: String,
        /// The backup
        #[arg(required_unless_present = "archive", conflicts_with = "archive")]
        file: Option<PathBuf>,
        /// The directory of an archive instead
        #[arg(long, value_name = "DIR")]
        archive: Option<PathBuf>,
        /// latest, a time such as 2026-11-29T12:00:00Z, or position:N
        #[arg(long, value_name = "MOMENT", default_value = "latest", requires = "archive")]
        #[arg(value_parser = parse_moment)]
        at: ArchiveMoment,
        /// Confirms that what the database holds now may be lost
        #[arg(long, required = true)]
        replace: bool,
    },
    /// Rebuild a database from its surviving copies when a majority is lost for good
    #[command(after_help = "Without the two flags nothing is changed, and it is shown what would \
        be taken and how much\nmay be lost. The surviving copy that has the most becomes the \
        first of a new generation.\nCopies of the old one that come back stop, keep what only \
        they have as a tail, and begin\nanew: see `ctl db tail`.\n\nExamples:\n  \
        ctl db recover photos\n  \
        ctl db recover photos --accept-data-loss --confirm-fenced")]
    Recover(RecoverOptions),
    /// List, show and replay what copies of a former generation had
    #[command(subcommand)]
    Tail(TailCommand),
    /// The statements that take most time, and what each node serves
    #[command(after_help = "Constants are shown as ?. Counted since each node started.\n\n\
        Examples:\n  ctl db top\n  ctl db top -o json")]
    Top,
    /// Create an empty database; an app with [db] in its rung.toml gets one anyway
    #[command(after_help = "Example:\n  ctl db create reports")]
    Create {
        /// 1 to 63 of a-z, 0-9 and -
        name: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Print the URL that programs on this node reach a database by; it holds the password
    #[command(after_help = "With --ca it is the URL for programs on other machines, if the \
        node lets them\nin (rungd --listen postgres).\n\nExamples:\n  ctl db url photos\n  \
        psql \"$(ctl db url photos --replica)\"\n  psql \"$(ctl db url photos --ca rung-ca.crt)\"")]
    Url {
        /// The database's name; may be left out while there is one
        database: Option<String>,
        /// The URL whose sessions only read, on a copy nearby
        #[arg(long)]
        replica: bool,
        /// Write the CA's certificate to this file, and print a URL by which clients
        /// encrypt and verify
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
}

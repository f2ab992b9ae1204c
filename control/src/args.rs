//! The command line.

mod archives;
mod databases;
mod recovery;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use rung_proto::Role;

pub use self::archives::{ArchiveArguments, ArchiveCommand};
pub use self::databases::DbCommand;
pub use self::recovery::{ConsentOptions, RecoverOptions, TailCommand};
use crate::output::Format;
use crate::render::time::parse_duration;

/// Groups the commands, which clap alone would list in one column.
const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

Look:
  status       The cluster at a glance: nodes, apps, operations, warnings
  top          Processors, memory, disks and actors of every node
  events       What happened
  logs         What apps and roles print
  doctor       Check the cluster and say what to repair
  explain      Explain an error code, an operation or a node
  audit        Who changed what

Apps:
  deploy       Run the app in a folder
  rollback     Go back to an earlier release
  env          Set an app's variables and secrets
  app          List, show and remove apps

Databases:
  db           List, create and show databases, and print their URLs
  promote      Make the copy on a node the primary, losing nothing

Nodes and roles:
  node         List, drain, cordon and remove nodes
  role         Give a role to a node by hand, or take it away
  move         Move a role to another node
  scale        Say how many of something there are
  token        Let other nodes join
  recover      Go on without control voters that are lost for good

Operations and access:
  op           List, show and watch operations
  ui           Open the dashboard
  completions  Write completions for a shell

Options:
{options}
{after-help}";

const AFTER: &str = "\
Every change is an operation of the cluster. ctl streams its steps; Ctrl-C leaves
it running. `--dry-run` shows the plan of a change instead of making it.

Exit codes:
  0  done, or nothing to do          4  accepted, not converged in time
  1  failed                          5  refused by a precondition
  2  used wrongly                    6  no quorum, unreachable or unknown
  3  the plan of a dry run has changes

Examples:
  ctl --data .rung/n1 status
  ctl deploy examples/hello
  ctl scale web 4 && ctl status -o json | jq .apps";

/// What `ctl scale` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scaled {
    Role(Role),
    /// Copies of the databases beside the primary.
    Replicas,
}

const REPLICAS: &str = "replicas";

fn scaled_parser() -> impl TypedValueParser<Value = Scaled> {
    let names = Role::ALL.map(Role::name).into_iter().chain([REPLICAS]);
    PossibleValuesParser::new(names.collect::<Vec<_>>()).try_map(|name| match name.as_str() {
        REPLICAS => Ok(Scaled::Replicas),
        name => name.parse::<Role>().map(Scaled::Role),
    })
}

/// Looks at a Rung cluster and changes it
#[derive(Parser, Debug)]
#[command(name = "ctl", version, help_template = TEMPLATE, after_help = AFTER)]
#[command(max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    /// Data directory of the node to ask; ./.rung/n1 if it exists
    #[arg(long, global = true, env = "RUNG_DATA", value_name = "DIR", hide_env_values = true)]
    pub data: Option<PathBuf>,
    /// table (80 columns), wide (everything), json, or name (names only)
    #[arg(short, long, global = true, value_name = "FORM", default_value = "table")]
    #[arg(hide_possible_values = true)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// How a change is made.
#[derive(Args, Clone, Debug)]
pub struct ChangeOptions {
    /// Show the plan and the index it was made at; exit 3 if it has changes
    #[arg(long)]
    pub dry_run: bool,
    /// Refuse if the state is no longer the one of this index
    #[arg(long, value_name = "N")]
    pub if_index: Option<u64>,
    #[command(flatten)]
    pub patience: Patience,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Patience {
    /// How long to wait for the end; the operation goes on after it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    pub timeout: Duration,
}

fn role_parser() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::name)).try_map(|name| name.parse::<Role>())
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// The cluster at a glance: nodes, apps, operations, warnings
    #[command(after_help = "Examples:\n  ctl status\n  ctl status -w\n  ctl status -o json")]
    Status {
        /// Show it again whenever it changes
        #[arg(short, long)]
        watch: bool,
    },
    /// Processors, memory, disks and actors of every node
    #[command(after_help = "Examples:\n  ctl top\n  ctl top -w")]
    Top {
        /// Show it again every second
        #[arg(short, long)]
        watch: bool,
    },
    /// What happened: nodes, instances, roles and operations
    #[command(after_help = "Examples:\n  ctl events\n  ctl events -w -o json\n  \
        ctl events --since 120")]
    Events {
        /// Go on with new events
        #[arg(short, long)]
        watch: bool,
        /// Only those after this index of the control log
        #[arg(long, value_name = "N", default_value_t = 0)]
        since: u64,
    },
    /// What apps and roles print, from all nodes
    #[command(after_help = "Examples:\n  ctl logs photos\n  ctl logs -f lb\n  \
        ctl logs -n 500 photos --node n2\n\nA role's name means the role; app:web is an app that \
        has one.")]
    Logs {
        /// Go on with new lines
        #[arg(short, long)]
        follow: bool,
        /// Lines of the past
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        #[arg(value_parser = clap::value_parser!(u32).range(0..=10_000))]
        lines: u32,
        /// Only those of this node
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// An app, or control, dns, lb, web or db
        #[arg(value_name = "APP|ROLE")]
        target: String,
    },
    /// Check the cluster and say what to repair; exit 1 if there is a problem
    #[command(after_help = "Examples:\n  ctl doctor\n  ctl doctor -o json")]
    Doctor,
    /// Explain an error code, an operation or a node
    #[command(after_help = "Examples:\n  ctl explain no-quorum\n  ctl explain 12\n  \
        ctl explain n2\n  ctl explain          lists the codes")]
    Explain {
        /// An error code, the number of an operation, or the name of a node
        subject: Option<String>,
    },
    /// Who changed what
    #[command(after_help = "Examples:\n  ctl audit\n  ctl audit -o json")]
    Audit,
    /// Run the app in a folder as its next release
    #[command(
        after_help = "The folder has a rung.toml, which names the app and says how to start \
        it. A release\nthat does not become healthy is taken back, and the last lines that it \
        printed are shown.\n\nExamples:\n  ctl deploy examples/hello\n  \
        ctl deploy --dry-run ."
    )]
    Deploy {
        /// The app's folder
        folder: PathBuf,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Go back to an earlier release of an app
    #[command(after_help = "Examples:\n  ctl rollback photos\n  ctl rollback photos --to 3")]
    Rollback {
        /// The app's name
        app: String,
        /// This release instead of the one before the current
        #[arg(long, value_name = "RELEASE")]
        to: Option<u32>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Set an app's variables and secrets
    #[command(subcommand)]
    Env(EnvCommand),
    /// List, show and remove apps
    #[command(subcommand)]
    App(AppCommand),
    /// List, create and show databases, and print their URLs
    #[command(subcommand)]
    Db(DbCommand),
    /// Make the copy on a node the primary, losing nothing
    #[command(after_help = "New statements wait while the copy takes over; open transactions get \
        a short time to end.\nRefused, with the reasons, when the copy does not have everything \
        yet. When a majority of\nthe copies is lost for good, the two flags do what `ctl db \
        recover --from NODE` does.\n\nExamples:\n  ctl promote n4\n  ctl promote n4 --database photos --dry-run")]
    Promote {
        /// The node whose copy takes over
        node: String,
        /// May be left out while there is one database
        #[arg(long, value_name = "NAME")]
        database: Option<String>,
        /// Which shard of it
        #[arg(long, value_name = "N", default_value_t = 0)]
        shard: u32,
        #[command(flatten)]
        consent: ConsentOptions,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Go on without control voters that are lost for good
    #[command(
        after_help = "Without a majority of its voters the control group changes nothing. This makes\n\
        it anew, in a new generation, from the log of the node that is asked, which must\n\
        have the most of those that can be reached. Without the two flags it says what\n\
        may be lost (exit 5). Who comes back from the old generation follows the new\n\
        one. Databases have majorities of their own: `ctl db recover`.\n\nExamples:\n  \
        ctl recover\n  ctl recover --accept-data-loss --confirm-fenced"
    )]
    Recover {
        #[command(flatten)]
        consent: ConsentOptions,
    },
    /// List, drain, cordon and remove nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Give a role to a node by hand, or take it away
    #[command(subcommand)]
    Role(RoleCommand),
    /// Move a role to another node, without a gap
    #[command(after_help = "The target is warmed before the old one stops.\n\nExamples:\n  \
        ctl move lb n3\n  ctl move control n4 --from n1")]
    Move {
        /// The role
        #[arg(value_parser = role_parser())]
        role: Role,
        /// The node that gets it
        node: String,
        /// The node that gives it up; chosen when left out
        #[arg(long, value_name = "NODE")]
        from: Option<String>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Say how many of something there are
    #[command(after_help = "For web it is the number of an app's instances, for replicas the \
        copies of the databases\nbeside the primary, for the others the number of nodes that have \
        the role.\n\nExamples:\n  ctl scale web 4\n  ctl scale web 4 --app photos\n  \
        ctl scale replicas 2\n  ctl scale lb 2")]
    Scale {
        /// A role, or replicas
        #[arg(value_name = "WHAT", value_parser = scaled_parser())]
        what: Scaled,
        /// How many
        #[arg(value_name = "N")]
        count: u32,
        /// Whose instances; may be left out while there is one app
        #[arg(long)]
        app: Option<String>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Let other nodes join
    #[command(subcommand)]
    Token(TokenCommand),
    /// List, show and watch operations
    #[command(subcommand)]
    Op(OpCommand),
    /// Open the dashboard: prints a link that works once, within a minute
    #[command(after_help = "Example:\n  ctl ui")]
    Ui,
    /// Write completions for a shell
    #[command(after_help = "Example:\n  ctl completions bash > \
        ~/.local/share/bash-completion/completions/ctl")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand, Debug)]
pub enum EnvCommand {
    /// Set variables, then restart the app's processes one by one
    #[command(after_help = "Other users of this machine can see what is on a command line, so \
        secrets are\nbetter read from a file or a pipe.\n\nExamples:\n  \
        ctl env set photos LOG=debug\n  ctl env set photos --file secrets.env\n  \
        pass show key | sed 's/^/KEY=/' | ctl env set photos --file -")]
    Set {
        /// The app's name
        app: String,
        /// What to set; everything after the first = is the value
        #[arg(value_name = "NAME=VALUE", required_unless_present = "file")]
        variables: Vec<String>,
        /// Lines of NAME=VALUE; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Remove variables, then restart the app's processes one by one
    #[command(after_help = "Example:\n  ctl env unset photos LOG")]
    Unset {
        /// The app's name
        app: String,
        /// Names of variables
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// List the names of an app's variables; values are never shown
    #[command(after_help = "Example:\n  ctl env ls photos")]
    Ls {
        /// The app's name
        app: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum AppCommand {
    /// List apps
    #[command(after_help = "Example:\n  ctl app ls -o name")]
    Ls,
    /// Show an app and its instances
    #[command(after_help = "Example:\n  ctl app show photos")]
    Show {
        /// The app's name
        app: String,
    },
    /// Stop an app and remove it, with its releases and variables
    #[command(after_help = "Examples:\n  ctl app rm photos --dry-run\n  ctl app rm photos")]
    Rm {
        /// The app's name
        app: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List nodes
    #[command(after_help = "Examples:\n  ctl node ls\n  ctl node ls -o wide")]
    Ls,
    /// Move everything away from a node and place nothing new on it
    #[command(after_help = "It stays drained until `ctl node uncordon`.\n\nExample:\n  \
        ctl node drain n2")]
    Drain {
        /// The node's name
        node: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Place nothing new on a node; what is there stays
    #[command(after_help = "Example:\n  ctl node cordon n2")]
    Cordon {
        /// The node's name
        node: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Let a cordoned or drained node take part again
    #[command(after_help = "Example:\n  ctl node uncordon n2")]
    Uncordon {
        /// The node's name
        node: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Remove a node for good; its identity is never accepted again
    #[command(after_help = "Drain it first if it still runs.\n\nExample:\n  ctl node remove n2")]
    Remove {
        /// The node's name
        node: String,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

#[derive(Subcommand, Debug)]
pub enum RoleCommand {
    /// Pin a role to a node; the planner never takes it away
    #[command(after_help = "Example:\n  ctl role add n3 web")]
    Add {
        /// The node's name
        node: String,
        /// The role
        #[arg(value_parser = role_parser())]
        role: Role,
        #[command(flatten)]
        options: ChangeOptions,
    },
    /// Take a role from a node
    #[command(after_help = "Example:\n  ctl role rm n3 web")]
    Rm {
        /// The node's name
        node: String,
        /// The role
        #[arg(value_parser = role_parser())]
        role: Role,
        #[command(flatten)]
        options: ChangeOptions,
    },
}

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Print a token that a node joins with; it is shown only once
    #[command(after_help = "Examples:\n  ctl token create > token\n  \
        ctl token create --ttl 10m --uses 3\n\nThe other node then starts with\n  \
        rungd --data DIR --join HOST:7400 --token-file token")]
    Create {
        /// How long it can be used
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
        ttl: Duration,
        /// How many nodes may join with it
        #[arg(long, value_name = "N", default_value_t = 1)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
    },
    /// List tokens that can still be used
    #[command(after_help = "Example:\n  ctl token ls")]
    Ls,
    /// Make a token useless
    #[command(after_help = "Example:\n  ctl token revoke 3fa29c01")]
    Revoke {
        /// Its id, as `ctl token ls` shows it
        id: String,
    },
}

#[derive(Subcommand, Debug)]
pub enum OpCommand {
    /// List running and recent operations
    #[command(after_help = "Examples:\n  ctl op ls\n  ctl op ls -o wide")]
    Ls,
    /// Show an operation and its steps
    #[command(after_help = "Example:\n  ctl op show 12")]
    Show {
        /// The operation's number
        id: u64,
    },
    /// Stream an operation's steps until it ends
    #[command(
        after_help = "The exit code is that of the command which started it.\n\nExample:\n  \
        ctl op watch 12"
    )]
    Watch {
        /// The operation's number
        id: u64,
        #[command(flatten)]
        patience: Patience,
    },
}

#[cfg(test)]
mod tests;

//! The command line of `rungd`, and what a node remembers of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rung_control_plane::state::Pin;
use rung_proto::{Code, Failure, Role};
use serde::{Deserialize, Serialize};

use crate::timing::{self, Timing};

const AFTER_HELP: &str = "\
An empty data directory and no --join creates a cluster; with --join it joins
one. Afterwards `rungd --data DIR` is enough: the node remembers the rest.

  rungd --data d1                                         one machine, every role
  ctl --data d1 token create > token                      let others join
  rungd --data d2 --bind 10.0.0.2 --join 10.0.0.1:7400 --token-file token

Ports, plus --port-offset: 7400/udp mesh, 7401 admin, 8080 HTTP, 8443 HTTPS,
5300 DNS, 5432 PostgreSQL's protocol.";

/// A node of Rung: one process that is a whole web backend.
#[derive(Parser, Clone, Debug)]
#[command(name = "rungd", version, after_help = AFTER_HELP)]
pub struct Options {
    /// Where the node keeps everything it must not forget
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// The node's name in the cluster [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// The data center that the node is in [default: dc1]
    #[arg(long)]
    pub dc: Option<String>,
    /// The private address: mesh and admin listen here [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// The address that clients reach: HTTP, HTTPS and DNS [default: --bind]
    #[arg(long, value_name = "IP")]
    pub public: Option<IpAddr>,
    /// Added to every port, for several nodes on one address
    #[arg(long, value_name = "N")]
    pub port_offset: Option<u16>,
    /// Open this port on the private address as well, with TLS and passwords:
    /// `postgres`, or `none` [default: none]
    #[arg(long, value_name = "PORT")]
    pub listen: Option<String>,
    /// Log SQL statements that take so long, in `ctl logs db`: `500ms`, `1s`, or
    /// `off` [default: 1s]
    #[arg(long, value_name = "DURATION")]
    pub slow_statement: Option<String>,
    /// Compare the copies of databases this often, where this node has the primary:
    /// `24h`, or `off` [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub scrub_every: Option<String>,
    /// MiB a second that each copy reads meanwhile [default: 4]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub scrub_rate: Option<u64>,
    /// The longest round trip between any two nodes, from 150ms to 400ms, the same on all
    /// of them. The further they are apart, the later a machine that failed is noticed
    /// [default: 150ms]
    #[arg(long, value_name = "DURATION")]
    pub round_trip: Option<String>,
    /// A file of the same settings (name, dc, bind, public, port_offset, roles,
    /// cluster, round_trip, `postgres = true` under [listen], and under [db]
    /// `slow_statement`, `scrub_every` and `scrub_rate`); the command line wins
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Join the cluster of the node whose mesh is here
    #[arg(long, value_name = "HOST:PORT", requires = "token_file")]
    pub join: Option<String>,
    /// A file with a token from `ctl token create`
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// `auto`, or exactly these of control, dns, lb, web
    #[arg(long, value_name = "auto|ROLE,...")]
    pub roles: Option<String>,
    /// The name of a cluster that is created [default: rung]
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Seconds that the certificates this node signs are valid for
    #[arg(long, value_name = "SECONDS", default_value_t = 30 * 86_400, hide = true)]
    pub certificate_lifetime: u64,
}

/// The settings file: the same words as on the command line.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    name: Option<String>,
    dc: Option<String>,
    bind: Option<IpAddr>,
    public: Option<IpAddr>,
    port_offset: Option<u16>,
    roles: Option<String>,
    cluster: Option<String>,
    round_trip: Option<String>,
    #[serde(default)]
    listen: ListenFile,
    #[serde(default)]
    db: DbFile,
}

/// What is special to databases.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct DbFile {
    slow_statement: Option<String>,
    scrub_every: Option<String>,
    scrub_rate: Option<u64>,
}

/// Ports for apps that are opened on the private address as well.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct ListenFile {
    postgres: Option<bool>,
}

/// What a node remembers in `node.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub name: String,
    pub dc: String,
    pub bind: IpAddr,
    pub public: IpAddr,
    pub port_offset: u16,
    pub cluster: String,
    /// What `--roles` said at the first start.
    pub roles: String,
    /// Whether others may reach the databases at the private address.
    #[serde(default)]
    pub listen_postgres: bool,
    /// SQL statements that take so many milliseconds are logged; none are without it.
    #[serde(default = "one_second")]
    pub slow_statement_ms: Option<u64>,
    /// Scrubs of databases begin so many milliseconds after the one before; none do
    /// without it.
    #[serde(default = "one_day")]
    pub scrub_every_ms: Option<u64>,
    /// MiB that each copy reads in a second of such a scrub.
    #[serde(default = "default_scrub_rate")]
    pub scrub_rate: u64,
    /// Milliseconds that a round trip between nodes may take.
    #[serde(default = "default_round_trip")]
    pub round_trip_ms: u64,
}

#[allow(clippy::unnecessary_wraps)] // as serde wants it
fn one_second() -> Option<u64> {
    Some(1000)
}

#[allow(clippy::unnecessary_wraps)] // as serde wants it
fn one_day() -> Option<u64> {
    Some(86_400_000)
}

fn default_scrub_rate() -> u64 {
    4
}

fn default_round_trip() -> u64 {
    timing::NEAR.as_millis() as u64
}

impl Settings {
    pub fn timing(&self) -> Timing {
        Timing::new(Duration::from_millis(self.round_trip_ms))
    }
}

/// Parses a settings file.
///
/// # Errors
/// What is wrong, with the line.
pub fn parse_settings(text: &str) -> Result<SettingsFile, String> {
    toml::from_str(text).map_err(|error| error.to_string())
}

impl Options {
    /// The settings for this start: the command line, then the settings file,
    /// then what the node remembers, then defaults. Name and data center are
    /// fixed once the node has joined.
    ///
    /// # Errors
    /// When the file cannot be read, or a name would not do, or contradicts
    /// what the node is known by.
    pub fn settings(&self, known: Option<(&Settings, bool)>) -> Result<Settings, Failure> {
        let remembered = known.map(|(settings, _)| settings);
        let file = self.read_file()?;
        let name = self.name.clone().or(file.name);
        let dc = self.dc.clone().or(file.dc);
        if let Some((known, true)) = known {
            let same =
                |given: &Option<String>, known: &str| given.as_deref().is_none_or(|g| g == known);
            if !same(&name, &known.name) || !same(&dc, &known.dc) {
                return Err(Failure::new(
                    Code::Config,
                    "a node keeps the name and data center that it joined with",
                )
                .because(format!("this one is {} in {}", known.name, known.dc))
                .next("leave --name and --dc out, or join as a new node with an empty --data"));
            }
        }
        let bind = self
            .bind
            .or(file.bind)
            .or(remembered.map(|known| known.bind))
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let public = self.public.or(file.public).or(remembered.map(|known| known.public));
        let settings = Settings {
            name: name.or(remembered.map(|known| known.name.clone())).unwrap_or_else(host_name),
            dc: dc.or(remembered.map(|known| known.dc.clone())).unwrap_or_else(|| "dc1".to_owned()),
            bind,
            public: public.unwrap_or(bind),
            port_offset: self
                .port_offset
                .or(file.port_offset)
                .or(remembered.map(|known| known.port_offset))
                .unwrap_or(0),
            cluster: self
                .cluster
                .clone()
                .or(file.cluster)
                .or(remembered.map(|known| known.cluster.clone()))
                .unwrap_or_else(|| "rung".to_owned()),
            roles: self
                .roles
                .clone()
                .or(file.roles)
                .or(remembered.map(|known| known.roles.clone()))
                .unwrap_or_else(|| "auto".to_owned()),
            listen_postgres: parse_listen(self.listen.as_deref())?
                .or(file.listen.postgres)
                .or(remembered.map(|known| known.listen_postgres))
                .unwrap_or(false),
            slow_statement_ms: match self
                .slow_statement
                .as_ref()
                .or(file.db.slow_statement.as_ref())
            {
                Some(given) => parse_slow_statement(given)?,
                None => remembered.map_or_else(one_second, |known| known.slow_statement_ms),
            },
            scrub_every_ms: match self.scrub_every.as_ref().or(file.db.scrub_every.as_ref()) {
                Some(given) => parse_scrub_every(given)?,
                None => remembered.map_or_else(one_day, |known| known.scrub_every_ms),
            },
            scrub_rate: self
                .scrub_rate
                .or(file.db.scrub_rate)
                .or(remembered.map(|known| known.scrub_rate))
                .unwrap_or_else(default_scrub_rate),
            round_trip_ms: match self.round_trip.as_ref().or(file.round_trip.as_ref()) {
                Some(given) => parse_round_trip(given)?,
                None => remembered.map_or_else(default_round_trip, |known| known.round_trip_ms),
            },
        };
        check_name("name", &settings.name)?;
        check_name("data center", &settings.dc)?;
        check_name("cluster name", &settings.cluster)?;
        if u32::from(settings.port_offset) + 8443 > u32::from(u16::MAX) {
            return Err(Failure::new(Code::Config, "--port-offset is at most 57000"));
        }
        parse_pins(&settings.roles)?;
        if !(1..=10_000).contains(&settings.scrub_rate) {
            return Err(Failure::new(Code::Config, "scrub_rate is wrong")
                .next("use 1 to 10000 MiB a second"));
        }
        if settings.listen_postgres && settings.bind.is_unspecified() {
            let what = format!("{} is no address to open a port on", settings.bind);
            return Err(Failure::new(Code::Config, what)
                .next("give the private address itself with --bind"));
        }
        Ok(settings)
    }

    fn read_file(&self) -> Result<SettingsFile, Failure> {
        let Some(path) = &self.config else { return Ok(SettingsFile::default()) };
        let cannot = |why: String| {
            Failure::new(Code::Config, format!("{} cannot be used", path.display())).because(why)
        };
        let text = std::fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
        parse_settings(&text).map_err(cannot)
    }
}

fn parse_listen(given: Option<&str>) -> Result<Option<bool>, Failure> {
    match given {
        None => Ok(None),
        Some("postgres") => Ok(Some(true)),
        Some("none") => Ok(Some(false)),
        Some(other) => Err(Failure::new(Code::Config, format!("{other:?} is no port to open"))
            .next("use --listen postgres or --listen none")),
    }
}

fn parse_slow_statement(given: &str) -> Result<Option<u64>, Failure> {
    if given == "off" {
        return Ok(None);
    }
    let parsed = rung_bundle::parse_duration(given);
    let milliseconds = parsed.map(|duration| duration.as_millis() as u64);
    milliseconds.map(Some).map_err(|why| {
        Failure::new(Code::Config, "slow_statement is wrong")
            .because(why)
            .next("use 500ms, 1s or off")
    })
}

/// Milliseconds between two scrubs: at least a second, at most a year.
fn parse_scrub_every(given: &str) -> Result<Option<u64>, Failure> {
    if given == "off" {
        return Ok(None);
    }
    let (digits, unit) = given.split_at(given.find(|c: char| !c.is_ascii_digit()).unwrap_or(0));
    let seconds: Option<u64> = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        _ => None,
    };
    let count = digits.parse::<u64>().ok();
    let every = count.zip(seconds).and_then(|(count, unit)| count.checked_mul(unit));
    let every = every.filter(|every| (1..=366 * 86_400).contains(every));
    let milliseconds = every.map(|every| every * 1000).ok_or_else(|| {
        Failure::new(Code::Config, "scrub_every is wrong")
            .because(format!("{given:?} is no time from a second to a year"))
            .next("use 24h, 7d or off")
    });
    milliseconds.map(Some)
}

/// Milliseconds of the longest round trip.
fn parse_round_trip(given: &str) -> Result<u64, Failure> {
    let wrong = |why: String| {
        Failure::new(Code::Config, "round_trip is wrong").because(why).next("use 150ms to 400ms")
    };
    let round_trip = rung_bundle::parse_duration(given).map_err(wrong)?;
    if (timing::NEAR..=timing::FAR).contains(&round_trip) {
        return Ok(round_trip.as_millis() as u64);
    }
    Err(wrong(format!("{given} is out of its range")))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    if first.is_empty() { "node".to_owned() } else { first }
}

/// Refuses what would not do in a URL, a file name or a table.
///
/// # Errors
/// What would.
pub fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Failure::new(Code::Config, format!("{name:?} will not do as a {what}"))
        .next("use 1 to 63 of a-z, 0-9 and -, not - at an end"))
}

/// What `--roles` pins: nothing for `auto`, otherwise every role, one way or the other.
///
/// # Errors
/// When a word names no role.
pub fn parse_pins(roles: &str) -> Result<BTreeMap<Role, Pin>, Failure> {
    if roles == "auto" {
        return Ok(BTreeMap::new());
    }
    let mut pins: BTreeMap<Role, Pin> =
        Role::ALL.into_iter().map(|role| (role, Pin::Exclude)).collect();
    for word in roles.split(',') {
        let role: Role = word
            .trim()
            .parse()
            .map_err(|error| Failure::new(Code::Config, "--roles is wrong").because(error))?;
        pins.insert(role, Pin::Include);
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        Options::parse_from(["rungd", "--data", "d"].iter().chain(arguments))
    }

    #[test]
    fn what_is_remembered_serves_until_the_command_line_says_otherwise() {
        let first = options(&["--name", "n1", "--dc", "east", "--bind", "127.0.0.11"]);
        let settings = first.settings(None).unwrap();
        assert_eq!(settings.public, settings.bind);
        let again = options(&[]).settings(Some((&settings, true))).unwrap();
        assert_eq!(again, settings);
        let moved = options(&["--bind", "127.0.0.12"]).settings(Some((&settings, true))).unwrap();
        assert_eq!(moved.bind.to_string(), "127.0.0.12");
        let renamed = options(&["--name", "n2"]).settings(Some((&settings, true))).unwrap_err();
        assert_eq!(renamed.code, Code::Config);
        // Nobody knows it by that name yet.
        let renamed = options(&["--name", "n2"]).settings(Some((&settings, false))).unwrap();
        assert_eq!(renamed.name, "n2");
    }

    #[test]
    fn a_port_is_opened_to_others_only_when_asked() {
        let listens = |arguments: &[&str], known| {
            let settings = options(arguments).settings(known);
            settings.map(|settings| settings.listen_postgres)
        };
        assert_eq!(listens(&[], None), Ok(false));
        let open = options(&["--listen", "postgres"]).settings(None).unwrap();
        assert!(open.listen_postgres);
        assert_eq!(listens(&[], Some((&open, true))), Ok(true));
        assert_eq!(listens(&["--listen", "none"], Some((&open, true))), Ok(false));
        assert!(listens(&["--listen", "redis"], None).is_err());
        assert!(listens(&["--listen", "postgres", "--bind", "0.0.0.0"], None).is_err());
        let file = parse_settings("[listen]\npostgres = true").unwrap();
        assert_eq!(file.listen.postgres, Some(true));
        assert!(parse_settings("[listen]\nredis = true").is_err());
    }

    #[test]
    fn slow_statements_are_those_over_a_second_unless_said() {
        let limit = |arguments: &[&str]| {
            options(arguments).settings(None).map(|settings| settings.slow_statement_ms)
        };
        assert_eq!(limit(&[]), Ok(Some(1000)));
        assert_eq!(limit(&["--slow-statement", "250ms"]), Ok(Some(250)));
        assert_eq!(limit(&["--slow-statement", "off"]), Ok(None));
        assert!(limit(&["--slow-statement", "soon"]).is_err());
        let off = options(&["--slow-statement", "off"]).settings(None).unwrap();
        assert_eq!(options(&[]).settings(Some((&off, true))).unwrap().slow_statement_ms, None);
        // Settings that an older version remembered have no word of it.
        let mut old = serde_json::to_value(&off).unwrap();
        old.as_object_mut().unwrap().remove("slow_statement_ms");
        let read: Settings = serde_json::from_value(old).unwrap();
        assert_eq!(read.slow_statement_ms, Some(1000));
        let file = parse_settings("[db]\nslow_statement = \"2s\"").unwrap();
        assert_eq!(file.db.slow_statement.as_deref(), Some("2s"));
    }

    #[test]
    fn scrubs_are_made_once_a_day_unless_said() {
        let often = |arguments: &[&str]| {
            let settings = options(arguments).settings(None);
            settings.map(|settings| (settings.scrub_every_ms, settings.scrub_rate))
        };
        assert_eq!(often(&[]), Ok((Some(86_400_000), 4)));
        let given = ["--scrub-every", "7d", "--scrub-rate", "32"];
        assert_eq!(often(&given), Ok((Some(604_800_000), 32)));
        assert_eq!(often(&["--scrub-every", "off"]), Ok((None, 4)));
        for wrong in ["", "h", "0s", "1.5h", "+1h", "1w", "400d", "99999999999999999999d", "1ü"] {
            assert!(often(&["--scrub-every", wrong]).is_err(), "{wrong}");
        }
        let file = parse_settings("[db]\nscrub_every = \"1h\"\nscrub_rate = 8").unwrap();
        assert_eq!((file.db.scrub_every.as_deref(), file.db.scrub_rate), (Some("1h"), Some(8)));
    }

    #[test]
    fn round_trips_are_remembered_and_bounded() {
        let longest = |arguments: &[&str]| {
            options(arguments).settings(None).map(|settings| settings.round_trip_ms)
        };
        assert_eq!(longest(&[]), Ok(150));
        assert_eq!(longest(&["--round-trip", "300ms"]), Ok(300));
        for wrong in ["149ms", "1s", "300", "far"] {
            assert!(longest(&["--round-trip", wrong]).is_err(), "{wrong}");
        }
        let far = options(&["--round-trip", "400ms"]).settings(None).unwrap();
        assert_eq!(options(&[]).settings(Some((&far, true))).unwrap().round_trip_ms, 400);
        let file = parse_settings("round_trip = \"200ms\"").unwrap();
        assert_eq!(file.round_trip.as_deref(), Some("200ms"));
    }

    #[test]
    fn roles_given_by_hand_exclude_the_others() {
        assert!(parse_pins("auto").unwrap().is_empty());
        let pins = parse_pins("lb,dns").unwrap();
        assert_eq!(pins[&Role::Lb], Pin::Include);
        assert_eq!(pins[&Role::Web], Pin::Exclude);
        assert!(parse_pins("lb,cdn").is_err());
    }

    #[test]
    fn names_that_would_break_a_url_are_refused() {
        for name in ["", "-a", "a-", "A", "a b", "ä", &"x".repeat(64)] {
            assert!(check_name("name", name).is_err(), "{name:?}");
        }
        assert!(check_name("name", "n1").is_ok());
    }
}

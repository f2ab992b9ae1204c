//! `rung.toml`, the contract between an app and the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rung_proto::{Code, Failure};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use toml::Spanned;

/// Its name in an app's folder.
pub const FILE_NAME: &str = "rung.toml";
/// Longest manifest, in bytes.
pub const MAX_BYTES: usize = 64 * 1024;
/// Most instances that one app may ask for.
pub const MAX_INSTANCES: u32 = 1000;
/// Most variables of one app.
pub const MAX_VARIABLES: usize = 256;
/// Longest value of a variable, in bytes.
pub const MAX_VARIABLE_BYTES: usize = 16 * 1024;

/// Most replicas of a database: a group has five voters at most.
pub const MAX_REPLICAS: u32 = 4;
const DEFAULT_REPLICAS: u32 = 2;
const MAX_COMMAND_BYTES: usize = 4096;
const MAX_HEALTH_BYTES: usize = 1024;
const MAX_DRAIN: Duration = Duration::from_secs(3600);
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// What an app asks for, as it is stored in the control state. A field that is
/// added later needs a serde default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Unique in the cluster: `[a-z0-9-]`, 1 to 63 bytes, no hyphen at either end.
    pub name: String,
    /// The host name whose requests go to this app, in lower case, without a
    /// final dot.
    pub domain: String,
    /// Its web processes.
    pub web: Web,
    /// Plain variables for every process of the app.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The database it uses, if it asks for one.
    #[serde(default)]
    pub db: Option<Db>,
}

/// The database of an app. It has the app's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Db {
    /// Copies beside the primary.
    pub replicas: u32,
}

/// The web processes of an app.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Web {
    /// A shell command that listens on `$PORT`, run in the app's folder.
    pub command: String,
    /// How many of them the cluster runs.
    pub instances: Instances,
    /// A path that answers 2xx or 3xx when the instance may take requests.
    /// Without it, accepting a TCP connection is enough.
    #[serde(default)]
    pub health: Option<String>,
    /// Whether an instance may listen on other addresses than `$HOST`.
    #[serde(default)]
    pub allow_public_listen: bool,
    /// A shell command that must succeed in the new release before it gets any
    /// request.
    #[serde(default)]
    pub test: Option<String>,
    /// How long requests in progress may take once an instance drains.
    pub drain_timeout_ms: u64,
}

impl Web {
    /// [`Web::drain_timeout_ms`] as a duration.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

/// A fixed number of instances, or bounds for the autoscaler.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instances {
    pub min: u32,
    /// At least `min`.
    pub max: u32,
}

impl Instances {
    /// Exactly `count`.
    pub fn fixed(count: u32) -> Self {
        Self { min: count, max: count }
    }

    /// Whether the autoscaler has a choice.
    pub fn is_range(self) -> bool {
        self.min != self.max
    }
}

impl fmt::Display for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_range() { write!(f, "{}..{}", self.min, self.max) } else { self.min.fmt(f) }
    }
}

impl FromStr for Instances {
    type Err = String;

    /// Reads `N` or `A..B`, both ends included.
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "expected a number or a range such as \"2..8\" up to {MAX_INSTANCES}, got {:?}",
                text.chars().take(40).collect::<String>()
            )
        };
        let number = |digits: &str| -> Result<u32, String> {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let value: u32 =
                if plain { digits.parse().map_err(|_| error())? } else { MAX_INSTANCES + 1 };
            if value > MAX_INSTANCES { Err(error()) } else { Ok(value) }
        };
        let (min, max) = match text.split_once("..") {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(text)?, number(text)?),
        };
        if min > max { Err(error()) } else { Ok(Self { min, max }) }
    }
}

/// Why a manifest is not usable, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rung.toml{}: {message}", .line.map(|line| format!(" line {line}")).unwrap_or_default())]
pub struct ManifestError {
    /// One-based; absent when the error belongs to no line.
    pub line: Option<usize>,
    pub message: String,
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Failure::new(Code::InvalidManifest, "the manifest cannot be used")
            .because(error)
            .next("correct rung.toml and deploy again")
    }
}

/// The file as it is written, before its values are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    name: Spanned<String>,
    domain: Spanned<String>,
    web: Option<RawWeb>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, Spanned<RawValue>>,
    db: Option<RawDb>,
    cache: Option<Spanned<IgnoredAny>>,
    worker: Option<Spanned<IgnoredAny>>,
    queue: Option<Spanned<IgnoredAny>>,
    cdn: Option<Spanned<IgnoredAny>>,
    #[serde(rename = "static")]
    static_files: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWeb {
    command: Spanned<String>,
    instances: Option<Spanned<RawInstances>>,
    health: Option<Spanned<String>>,
    #[serde(default)]
    allow_public_listen: bool,
    test: Option<Spanned<String>>,
    drain_timeout: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDb {
    replicas: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number or a range such as \"2..8\"")]
enum RawInstances {
    Fixed(u32),
    Text(String),
}

/// The value of a variable; numbers and booleans are taken as they are written.
struct RawValue(String);

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a string, an integer or a boolean")]
        enum Scalar {
            Boolean(bool),
            Integer(i64),
            Text(String),
        }
        Scalar::deserialize(deserializer).map(|scalar| {
            RawValue(match scalar {
                Scalar::Boolean(value) => value.to_string(),
                Scalar::Integer(value) => value.to_string(),
                Scalar::Text(value) => value,
            })
        })
    }
}

/// Reads and checks a `rung.toml`.
///
/// # Errors
/// Names the line and what is wrong with it. Sections of tiers that this version
/// does not have are errors, since an app that asked for a database must not
/// start without one.
pub fn parse_manifest(text: &str) -> Result<Manifest, ManifestError> {
    if text.len() > MAX_BYTES {
        return Err(ManifestError {
            line: None,
            message: format!("{} bytes are more than the {MAX_BYTES} allowed", text.len()),
        });
    }
    let raw: RawManifest = toml::from_str(text).map_err(|error| ManifestError {
        line: error.span().map(|span| line_of(text, span.start)),
        message: error.message().to_owned(),
    })?;
    let at = |offset: usize, message: String| ManifestError {
        line: Some(line_of(text, offset)),
        message,
    };
    let unserved = [
        ("cache", &raw.cache),
        ("worker", &raw.worker),
        ("queue", &raw.queue),
        ("cdn", &raw.cdn),
        ("static", &raw.static_files),
    ];
    for (name, section) in unserved {
        if let Some(section) = section {
            let message = format!(
                "this version of Rung does not serve [{name}]; remove the section, or deploy to a \
                 newer cluster"
            );
            return Err(at(section.span().start, message));
        }
    }
    let checked = |value: &Spanned<String>, check: fn(&str) -> Result<(), String>| {
        check(value.get_ref()).map_err(|message| at(value.span().start, message))
    };
    checked(&raw.name, check_name)?;
    checked(&raw.domain, check_domain)?;
    let Some(web) = raw.web else {
        return Err(ManifestError {
            line: None,
            message: "the section [web] with a command is missing".into(),
        });
    };
    checked(&web.command, check_command)?;
    web.health.iter().try_for_each(|health| checked(health, check_health))?;
    web.test.iter().try_for_each(|test| checked(test, check_command))?;
    let instances = match &web.instances {
        None => Instances::fixed(1),
        Some(raw) => instances_of(raw.get_ref()).map_err(|why| at(raw.span().start, why))?,
    };
    let drain = match &web.drain_timeout {
        None => DEFAULT_DRAIN,
        Some(raw) => parse_duration(raw.get_ref()).map_err(|why| at(raw.span().start, why))?,
    };
    let db = raw.db.map(|db| match db.replicas {
        Some(count) if *count.get_ref() > MAX_REPLICAS => {
            let message = format!("a database has at most {MAX_REPLICAS} replicas");
            Err(at(count.span().start, message))
        }
        Some(count) => Ok(Db { replicas: *count.get_ref() }),
        None => Ok(Db { replicas: DEFAULT_REPLICAS }),
    });
    if raw.env.len() > MAX_VARIABLES {
        let message = format!("more than {MAX_VARIABLES} variables in [env]");
        return Err(ManifestError { line: None, message });
    }
    let mut env = BTreeMap::new();
    for (name, value) in raw.env {
        check_variable(name.get_ref(), &value.get_ref().0)
            .map_err(|message| at(name.span().start, message))?;
        env.insert(name.into_inner(), value.into_inner().0);
    }
    Ok(Manifest {
        name: raw.name.into_inner(),
        domain: raw.domain.into_inner().trim_end_matches('.').to_ascii_lowercase(),
        web: Web {
            command: web.command.into_inner(),
            instances,
            health: web.health.map(Spanned::into_inner),
            allow_public_listen: web.allow_public_listen,
            test: web.test.map(Spanned::into_inner),
            drain_timeout_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
        },
        env,
        db: db.transpose()?,
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

fn instances_of(raw: &RawInstances) -> Result<Instances, String> {
    match raw {
        RawInstances::Fixed(count) => count.to_string().parse(),
        RawInstances::Text(text) => text.parse(),
    }
}

/// Reads `250ms`, `30s` or `5m`, at most one hour.
/// Reads a duration as manifests have it.
///
/// # Errors
/// Says what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let error = || {
        format!(
            "expected a duration such as \"500ms\", \"30s\" or \"5m\" up to an hour, got {text:?}"
        )
    };
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
    let (digits, unit) = text.split_at(unit_at);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(error()),
    };
    let count: u64 = digits.parse().map_err(|_| error())?;
    let duration = Duration::from_millis(count.checked_mul(milliseconds).ok_or_else(error)?);
    if duration > MAX_DRAIN { Err(error()) } else { Ok(duration) }
}

/// Whether a name can be an app's: a label of RFC 1123, in lower case only. Such a
/// name is also safe as a file name.
///
/// # Errors
/// Says what a name looks like.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let shape = (1..=63).contains(&name.len()) && name.bytes().all(allowed);
    if shape && !name.starts_with('-') && !name.ends_with('-') {
        return Ok(());
    }
    Err(format!(
        "a name has 1 to 63 of a-z, 0-9 and '-', and no '-' at either end; got {:?}",
        name.chars().take(80).collect::<String>()
    ))
}

/// A host name of RFC 1123: labels of letters, digits and hyphens.
fn check_domain(domain: &str) -> Result<(), String> {
    let bare = domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
    let good = bare.len() <= 253 && bare.split('.').all(|label| check_name(label).is_ok());
    // Only digits in the last label would be an IPv4 address, which no name is.
    let numeric = bare.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if good && !numeric {
        return Ok(());
    }
    Err(format!(
        "expected a host name such as \"photos.test\", got {:?}",
        domain.chars().take(80).collect::<String>()
    ))
}

fn check_command(command: &str) -> Result<(), String> {
    if command.trim().is_empty() {
        return Err("the command is empty".into());
    }
    if command.len() > MAX_COMMAND_BYTES {
        return Err(format!("a command has at most {MAX_COMMAND_BYTES} bytes"));
    }
    if command.contains(|c: char| c.is_control()) {
        return Err("a command is one line without control characters".into());
    }
    Ok(())
}

/// An absolute path with an optional query, as it goes into a request line.
fn check_health(path: &str) -> Result<(), String> {
    let visible = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if path.starts_with('/') && visible && path.len() <= MAX_HEALTH_BYTES {
        return Ok(());
    }
    Err(format!(
        "expected a path such as \"/up\" of visible ASCII, got {:?}",
        path.chars().take(80).collect::<String>()
    ))
}

/// Whether an app may set this variable to this value.
///
/// # Errors
/// Says what is wrong: a malformed name, one that Rung itself sets, a value too
/// long or with a NUL.
pub fn check_variable(name: &str, value: &str) -> Result<(), String> {
    let shown: String = name.chars().take(80).collect();
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let first = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if !letters || !first || name.len() > 128 {
        return Err(format!(
            "a variable's name has letters, digits and '_', no digit first, at most 128; got {shown:?}"
        ));
    }
    let reserved = ["PORT", "HOST"].contains(&name) || name.starts_with("RUNG_");
    if reserved {
        return Err(format!("{shown} is set by Rung; choose another name"));
    }
    if value.len() > MAX_VARIABLE_BYTES {
        return Err(format!("the value of {shown} is longer than {MAX_VARIABLE_BYTES} bytes"));
    }
    if value.contains('\0') {
        return Err(format!("the value of {shown} contains a NUL byte"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

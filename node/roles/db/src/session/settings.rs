//! A session's settings: what SET, SHOW and RESET know.
//!
//! Every setting that is accepted is either obeyed or cannot change a result here
//! (such as how much memory a plan may use). One that is not known is an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rung_sql::{Isolation, SqlError, SqlState, TimeZone};

/// What a value may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Shown, never set.
    Fixed,
    Bool,
    /// A number, with an optional unit that is kept as given.
    Number,
    /// Milliseconds, with an optional unit.
    Milliseconds,
    Text,
    /// One of these words, without regard to case.
    OneOf(&'static [&'static str]),
    TimeZone,
    Encoding,
    DateStyle,
    ReadLevel,
}

/// A setting that exists.
#[derive(Debug)]
struct Known {
    name: &'static str,
    default: &'static str,
    form: Form,
    /// Clients are told of it at the start and when it changes.
    reported: bool,
}

const fn known(name: &'static str, default: &'static str, form: Form) -> Known {
    Known { name, default, form, reported: false }
}

const fn reported(name: &'static str, default: &'static str, form: Form) -> Known {
    Known { name, default, form, reported: true }
}

/// The version that clients are told. They choose their queries by the number.
pub const SERVER_VERSION: &str = "15.8 (Rung)";

const ISOLATIONS: Form =
    Form::OneOf(&["read committed", "read uncommitted", "repeatable read", "serializable"]);
const MESSAGE_LEVELS: Form = Form::OneOf(&[
    "debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning", "error",
]);

/// In the order of SHOW ALL, which is that of the lower-case names.
const KNOWN: &[Known] = &[
    reported("application_name", "", Form::Text),
    known("backslash_quote", "safe_encoding", Form::OneOf(&["safe_encoding", "on", "off"])),
    known("block_size", "8192", Form::Fixed),
    known("bytea_output", "hex", Form::OneOf(&["hex"])),
    known("check_function_bodies", "on", Form::Bool),
    reported("client_encoding", "UTF8", Form::Encoding),
    known("client_min_messages", "notice", MESSAGE_LEVELS),
    known("constraint_exclusion", "partition", Form::OneOf(&["on", "off", "partition"])),
    reported("DateStyle", "ISO, MDY", Form::DateStyle),
    known("default_table_access_method", "heap", Form::OneOf(&["heap"])),
    known("default_tablespace", "", Form::OneOf(&[""])),
    known("default_transaction_deferrable", "off", Form::Bool),
    known("default_transaction_isolation", "read committed", ISOLATIONS),
    reported("default_transaction_read_only", "off", Form::Bool),
    known("effective_cache_size", "4GB", Form::Number),
    known("escape_string_warning", "on", Form::Bool),
    known("extra_float_digits", "1", Form::Number),
    known("idle_in_transaction_session_timeout", "0", Form::Milliseconds),
    known("idle_session_timeout", "0", Form::Milliseconds),
    reported("in_hot_standby", "off", Form::Fixed),
    reported("integer_datetimes", "on", Form::Fixed),
    reported("IntervalStyle", "postgres", Form::OneOf(&["postgres"])),
    reported("is_superuser", "off", Form::Fixed),
    known("jit", "off", Form::Bool),
    known("lc_collate", "C.UTF-8", Form::Fixed),
    known("lc_ctype", "C.UTF-8", Form::Fixed),
    known("lc_messages", "C", Form::OneOf(&["C", "C.UTF-8", "en_US.UTF-8"])),
    known("lc_monetary", "C", Form::OneOf(&["C", "C.UTF-8", "en_US.UTF-8"])),
    known("lc_numeric", "C", Form::OneOf(&["C", "C.UTF-8", "en_US.UTF-8"])),
    known("lc_time", "C", Form::OneOf(&["C", "C.UTF-8", "en_US.UTF-8"])),
    known("lock_timeout", "0", Form::Milliseconds),
    known("maintenance_work_mem", "64MB", Form::Number),
    known("max_identifier_length", "63", Form::Fixed),
    known("max_index_keys", "32", Form::Fixed),
    known("max_parallel_workers_per_gather", "0", Form::Number),
    known("quote_all_identifiers", "off", Form::Bool),
    known("random_page_cost", "4", Form::Number),
    known("row_security", "on", Form::Bool),
    known("rung.optimistic", "on", Form::Bool),
    known("rung.read", "session", Form::ReadLevel),
    known("rung.role", "primary", Form::OneOf(&["primary", "replica"])),
    known("rung.token", "", Form::Text),
    known("search_path", "\"$user\", public", Form::Text),
    reported("server_encoding", "UTF8", Form::Fixed),
    reported("server_version", SERVER_VERSION, Form::Fixed),
    known("server_version_num", "150008", Form::Fixed),
    reported("session_authorization", "", Form::Fixed),
    reported("standard_conforming_strings", "on", Form::OneOf(&["on", "true", "1"])),
    known("statement_timeout", "0", Form::Milliseconds),
    known("synchronize_seqscans", "on", Form::Bool),
    known(
        "synchronous_commit",
        "on",
        Form::OneOf(&["on", "off", "local", "remote_write", "remote_apply"]),
    ),
    reported("TimeZone", "UTC", Form::TimeZone),
    known("transaction_deferrable", "off", Form::Bool),
    known("transaction_isolation", "read committed", ISOLATIONS),
    known("transaction_read_only", "off", Form::Bool),
    known("wal_level", "logical", Form::Fixed),
    known("work_mem", "4MB", Form::Number),
    known("xmloption", "content", Form::OneOf(&["content", "document"])),
];

/// Settings of a session's own making (`myapp.user_id`), at most so many.
const MAX_CUSTOM: usize = 256;
/// Bytes of a value.
const MAX_VALUE: usize = 64 * 1024;

fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

/// How fresh what is read must be, as `SET rung.read` says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Whatever this copy has.
    Any,
    /// No older than that.
    Bounded(Duration),
    /// All that the app has written, and read before.
    Session,
    /// All that was acknowledged to anybody.
    Linearizable,
}

impl Freshness {
    fn parse(text: &str) -> Option<Freshness> {
        let text = text.trim().to_ascii_lowercase();
        match text.as_str() {
            "any" => Some(Freshness::Any),
            "session" => Some(Freshness::Session),
            "linearizable" => Some(Freshness::Linearizable),
            _ => {
                let age = text.strip_prefix("bounded")?;
                let age = milliseconds(age)?;
                (age > 0).then_some(Freshness::Bounded(Duration::from_millis(age)))
            }
        }
    }
}

/// The values that differ from the defaults. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// By lower-case name.
    values: Arc<BTreeMap<String, String>>,
    /// What RESET goes back to: what the connection began with.
    initial: Arc<BTreeMap<String, String>>,
}

impl Settings {
    /// With what only the server says: the user's name, and so on.
    pub fn new(user: &str, is_operator: bool) -> Self {
        let mut values = BTreeMap::new();
        values.insert("session_authorization".to_owned(), user.to_owned());
        if is_operator {
            values.insert("is_superuser".to_owned(), "on".to_owned());
        }
        let values = Arc::new(values);
        Self { values: values.clone(), initial: values }
    }

    /// From now on RESET goes back to the values of this moment.
    pub fn keep_as_initial(&mut self) {
        self.initial = self.values.clone();
    }

    /// Says what the server is; not for clients.
    pub fn set_fixed(&mut self, name: &str, value: &str) {
        Arc::make_mut(&mut self.values).insert(name.to_ascii_lowercase(), value.to_owned());
    }

    /// The values that differ from the defaults, by lower-case name.
    pub fn values(&self) -> Arc<BTreeMap<String, String>> {
        self.values.clone()
    }

    /// The value of a setting that is known to exist.
    pub fn value(&self, name: &str) -> &str {
        let lower = name.to_ascii_lowercase();
        match self.values.get(&lower) {
            Some(value) => value,
            None => find(name).map_or("", |known| known.default),
        }
    }

    /// A setting as its owner wrote its name, with its value.
    ///
    /// # Errors
    /// 42704 when there is none of that name.
    pub fn show(&self, name: &str) -> Result<(String, String), SqlError> {
        let lower = name.to_ascii_lowercase();
        let lower = alias(&lower);
        if let Some(known) = find(lower) {
            return Ok((known.name.to_owned(), self.value(lower).to_owned()));
        }
        match self.values.get(lower) {
            Some(value) => Ok((lower.to_owned(), value.clone())),
            None => Err(unknown(name)),
        }
    }

    /// All settings with their values.
    pub fn all(&self) -> Vec<(String, String)> {
        let custom = self.values.iter().filter(|(name, _)| find(name).is_none());
        let custom = custom.map(|(name, value)| (name.clone(), value.clone()));
        let known =
            KNOWN.iter().map(|known| (known.name.to_owned(), self.value(known.name).into()));
        known.chain(custom).collect()
    }

    /// Those that clients are told at the start.
    pub fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let reported = KNOWN.iter().filter(|known| known.reported);
        reported.map(|known| (known.name, self.value(known.name)))
    }

    /// Those that clients are told, since they differ from what was.
    pub fn reported_since<'a>(
        &'a self,
        before: &Settings,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        self.reported().filter(move |(name, value)| before.value(name) != *value)
    }

    /// Changes a setting; no value means the value at the start of the connection.
    ///
    /// # Errors
    /// 42704 for an unknown name, 22023 for a value that it cannot have, 55P02 for
    /// one that cannot be changed.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), SqlError> {
        let lower = name.to_ascii_lowercase();
        let lower = alias(&lower);
        let Some(value) = value else {
            return self.reset(lower);
        };
        if value.len() > MAX_VALUE || value.contains('\0') {
            return Err(invalid(name, value));
        }
        let value = match find(lower) {
            Some(known) => normal_form(known, value)?,
            None if is_custom(lower) => {
                let custom = self.values.keys().filter(|name| find(name).is_none()).count();
                if custom >= MAX_CUSTOM && !self.values.contains_key(lower) {
                    return Err(SqlError::new(
                        SqlState::LIMIT_EXCEEDED,
                        format!("a session has at most {MAX_CUSTOM} settings of its own"),
                    ));
                }
                value.to_owned()
            }
            None => return Err(unknown(name)),
        };
        Arc::make_mut(&mut self.values).insert(lower.to_owned(), value);
        Ok(())
    }

    fn reset(&mut self, lower: &str) -> Result<(), SqlError> {
        match find(lower) {
            Some(known) if known.form == Form::Fixed => return Err(cannot_change(known.name)),
            None if !is_custom(lower) => return Err(unknown(lower)),
            _ => {}
        }
        match self.initial.get(lower) {
            Some(value) => {
                let value = value.clone();
                Arc::make_mut(&mut self.values).insert(lower.to_owned(), value);
            }
            None => {
                Arc::make_mut(&mut self.values).remove(lower);
            }
        }
        Ok(())
    }

    /// Everything as at the start of the connection.
    pub fn reset_all(&mut self) {
        self.values = self.initial.clone();
    }

    pub fn flag(&self, name: &str) -> bool {
        self.value(name) == "on"
    }

    /// A time limit; `None` when there is none.
    pub fn limit(&self, name: &str) -> Option<Duration> {
        // Most sessions never set one.
        if !self.values.contains_key(name) {
            return None;
        }
        let limit = milliseconds(self.value(name)).unwrap_or(0);
        (limit > 0).then(|| Duration::from_millis(limit))
    }

    pub fn freshness(&self) -> Freshness {
        if !self.values.contains_key("rung.read") {
            return Freshness::Session;
        }
        Freshness::parse(self.value("rung.read")).unwrap_or(Freshness::Session)
    }

    pub fn isolation(&self, name: &str) -> Isolation {
        match self.value(name) {
            "serializable" => Isolation::Serializable,
            "repeatable read" => Isolation::RepeatableRead,
            "read uncommitted" => Isolation::ReadUncommitted,
            _ => Isolation::ReadCommitted,
        }
    }

    pub fn time_zone(&self) -> TimeZone {
        if !self.values.contains_key("timezone") {
            return TimeZone::utc();
        }
        TimeZone::parse(self.value("TimeZone")).unwrap_or_default()
    }
}

/// The words of an isolation level.
pub fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadUncommitted => "read uncommitted",
        Isolation::ReadCommitted => "read committed",
        Isolation::RepeatableRead => "repeatable read",
        Isolation::Serializable => "serializable",
    }
}

/// Other names of settings that SQL knows.
fn alias(lower: &str) -> &str {
    match lower {
        "time zone" => "timezone",
        "names" => "client_encoding",
        "schema" => "search_path",
        "transaction isolation level" => "transaction_isolation",
        other => other,
    }
}

/// Names with a dot belong to whoever uses them.
fn is_custom(name: &str) -> bool {
    let Some((class, rest)) = name.split_once('.') else {
        return false;
    };
    let is_word = |word: &str| {
        !word.is_empty()
            && word.len() <= 63
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.')
    };
    class != "rung" && is_word(class) && is_word(rest)
}

fn normal_form(known: &Known, value: &str) -> Result<String, SqlError> {
    let refuse = || invalid(known.name, value);
    match known.form {
        Form::Fixed => Err(cannot_change(known.name)),
        Form::Bool => Ok(if boolean(value).ok_or_else(refuse)? { "on" } else { "off" }.to_owned()),
        Form::Number => {
            let number = value.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic());
            number.trim().parse::<f64>().map_err(|_| refuse())?;
            Ok(value.trim().to_owned())
        }
        Form::Milliseconds => Ok(shown_milliseconds(milliseconds(value).ok_or_else(refuse)?)),
        Form::Text => Ok(value.to_owned()),
        Form::OneOf(words) => {
            let word = words.iter().find(|word| word.eq_ignore_ascii_case(value.trim()));
            let word = *word.ok_or_else(refuse)?;
            Ok(if known.name == "standard_conforming_strings" { "on" } else { word }.to_owned())
        }
        Form::TimeZone => Ok(TimeZone::parse(value)?.name().to_owned()),
        Form::Encoding => {
            let encoding = value.trim_matches('\'').replace(['-', '_'], "");
            if encoding.eq_ignore_ascii_case("utf8") || encoding.eq_ignore_ascii_case("unicode") {
                Ok("UTF8".to_owned())
            } else {
                Err(refuse().hint("the only encoding is UTF8"))
            }
        }
        Form::DateStyle => {
            let is_iso = value.split(',').any(|part| part.trim().eq_ignore_ascii_case("iso"));
            let is_order = |word: &str| ["iso", "mdy", "us"].contains(&word);
            if value.split(',').all(|part| is_order(part.trim().to_ascii_lowercase().as_str()))
                && (is_iso || !value.trim().is_empty())
            {
                Ok("ISO, MDY".to_owned())
            } else {
                Err(refuse().hint("the only style is 'ISO, MDY'"))
            }
        }
        Form::ReadLevel => {
            Freshness::parse(value).ok_or_else(|| {
                refuse().hint("say 'any', 'bounded 200ms', 'session' or 'linearizable'")
            })?;
            Ok(value.trim().to_ascii_lowercase())
        }
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

/// A length of time, in milliseconds where it has no unit.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.trim().parse().ok()?;
    let factor = match &text[digits.len()..] {
        "" | "ms" => 1.0,
        "us" => 0.001,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let number = number * factor;
    (0.0..=2_147_483_647.0).contains(&number).then_some(number.round() as u64)
}

/// In the largest unit that it is a multiple of, as PostgreSQL shows it.
fn shown_milliseconds(value: u64) -> String {
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)] {
        if value > 0 && value.is_multiple_of(factor) {
            return format!("{}{unit}", value / factor);
        }
    }
    if value == 0 { "0".to_owned() } else { format!("{value}ms") }
}

fn unknown(name: &str) -> SqlError {
    SqlError::new(
        SqlState::UNDEFINED_OBJECT,
        format!("unrecognized configuration parameter \"{name}\""),
    )
}

fn invalid(name: &str, value: &str) -> SqlError {
    let value: String = value.chars().take(100).collect();
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("invalid value for parameter \"{name}\": \"{value}\""),
    )
}

fn cannot_change(name: &str) -> SqlError {
    SqlError::new(
        SqlState::CANNOT_CHANGE_PARAMETER,
        format!("parameter \"{name}\" cannot be changed"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_case_and_values_a_normal_form() {
        let mut settings = Settings::new("app", false);
        settings.set("Statement_Timeout", Some("2s")).unwrap();
        assert_eq!(settings.limit("statement_timeout"), Some(Duration::from_secs(2)));
        assert_eq!(settings.show("STATEMENT_TIMEOUT").unwrap().1, "2s");
        settings.set("timezone", Some("UTC")).unwrap();
        assert_eq!(settings.show("timezone").unwrap(), ("TimeZone".into(), "UTC".into()));
        settings.set("rung.read", Some("bounded 200ms")).unwrap();
        assert_eq!(settings.freshness(), Freshness::Bounded(Duration::from_millis(200)));
    }

    #[test]
    fn what_is_not_known_or_not_allowed_is_refused() {
        let mut settings = Settings::new("app", false);
        let state = |result: Result<(), SqlError>| result.unwrap_err().state.0;
        assert_eq!(state(settings.set("no_such", Some("1"))), "42704");
        assert_eq!(state(settings.set("server_version", Some("1"))), "55P02");
        assert_eq!(state(settings.set("client_encoding", Some("LATIN1"))), "22023");
        assert_eq!(state(settings.set("rung.read", Some("yesterday"))), "22023");
        assert_eq!(state(settings.set("rung.unknown", Some("x"))), "42704");
        assert_eq!(state(settings.set("statement_timeout", Some("soon"))), "22023");
        settings.set("my.own", Some("x")).unwrap();
        assert_eq!(settings.show("my.own").unwrap().1, "x");
    }

    #[test]
    fn reset_goes_back_to_what_the_connection_began_with() {
        let mut settings = Settings::new("app", false);
        settings.set("application_name", Some("psql")).unwrap();
        settings.keep_as_initial();
        let before = settings.clone();
        settings.set("application_name", Some("other")).unwrap();
        let changed: Vec<_> = settings.reported_since(&before).collect();
        assert_eq!(changed, [("application_name", "other")]);
        settings.set("application_name", None).unwrap();
        assert_eq!(settings, before);
    }

    #[test]
    fn show_all_is_in_order_and_names_are_unique() {
        let mut names: Vec<_> = KNOWN.iter().map(|k| k.name.to_ascii_lowercase()).collect();
        let given = names.clone();
        names.sort();
        names.dedup();
        assert_eq!(names, given);
    }
}

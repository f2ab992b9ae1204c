//! What a statement knows of its session, and chance.

use rusqlite::types::Value;

use super::call::{Call, Function, Manner::Stable, Manner::StrictStable, Outcome, int, text};
use crate::signature::Lines;
use crate::values::calendar::{self, MICROS_PER_DAY};
use crate::values::decode::uuid_text;
use crate::{SqlError, SqlState};

pub(crate) const FUNCTIONS: Lines = &[
    ("now() -> timestamptz", "rung_now('transaction')"),
    ("transaction_timestamp() -> timestamptz", "rung_now('transaction')"),
    ("current_timestamp() -> timestamptz", "rung_now('transaction')"),
    (
        "current_timestamp(int4) -> timestamptz",
        "rung_assign(rung_now('transaction'), 'timestamptz', {0})",
    ),
    ("statement_timestamp() -> timestamptz", "rung_now('statement')"),
    ("clock_timestamp() -> timestamptz", "rung_now('clock')"),
    ("timeofday() -> text", "rung_cast(rung_now('clock'), 'timestamptz', 'text', -1)"),
    ("localtimestamp() -> timestamp", "rung_timezone_local(rung_now('transaction'))"),
    (
        "localtimestamp(int4) -> timestamp",
        "rung_assign(rung_timezone_local(rung_now('transaction')), 'timestamp', {0})",
    ),
    ("current_date() -> date", "rung_local_date()"),
    ("localtime() -> time", "rung_local_time()"),
    ("localtime(int4) -> time", "rung_assign(rung_local_time(), 'time', {0})"),
    ("current_user() -> name", "rung_user()"),
    ("session_user() -> name", "rung_user()"),
    ("user() -> name", "rung_user()"),
    ("current_role() -> name", "rung_user()"),
    ("current_database() -> name", "rung_database()"),
    ("current_catalog() -> name", "rung_database()"),
    ("current_schema() -> name", "rung_schema()"),
    ("current_schemas(bool) -> _name", "rung_schemas({0})"),
    ("version() -> text", "rung_version()"),
    ("pg_backend_pid() -> int4", "rung_backend_pid()"),
    ("txid_current() -> int8", "rung_transaction_id()"),
    ("pg_typeof(any) -> regtype", "rung_pg_typeof({t0}, {0})"),
    ("current_setting(text) -> text", "rung_current_setting({0}, 0)"),
    ("current_setting(text, bool) -> text", "rung_current_setting({0}, {1})"),
    ("set_config(text, text, bool) -> text", "rung_set_config({0}, {1}, {2})"),
    ("gen_random_uuid() -> uuid", "rung_random_uuid()"),
    ("num_nulls(variadic any) -> int4", "rung_num_nulls({*})"),
    ("num_nonnulls(variadic any) -> int4", "rung_num_nonnulls({*})"),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_now", 1, StrictStable, |c| match c.text(0)? {
        "transaction" => int(c.session().transaction_time),
        "statement" => int(c.session().statement_time),
        _ => c.fixed(|| Value::Integer(clock())),
    }),
    ("rung_local_date", 0, Stable, |c| int(calendar::date_of_timestamp(local_now(c)))),
    ("rung_local_time", 0, Stable, |c| int(local_now(c).rem_euclid(MICROS_PER_DAY))),
    ("rung_user", 0, Stable, |c| text(&*c.session().user)),
    ("rung_database", 0, Stable, |c| text(&*c.session().database)),
    ("rung_schema", 0, Stable, |c| {
        let found = c.session().searches("public");
        Ok(if found { Value::Text("public".to_owned()) } else { Value::Null })
    }),
    ("rung_schemas", 1, StrictStable, |c| {
        let mut schemas = Vec::new();
        if c.bool(0)? {
            schemas.push("\"pg_catalog\"");
        }
        if c.session().searches("public") {
            schemas.push("\"public\"");
        }
        text(format!("[{}]", schemas.join(",")))
    }),
    ("rung_version", 0, Stable, |_| {
        text(concat!("PostgreSQL 15.0 (Rung ", env!("CARGO_PKG_VERSION"), ")"))
    }),
    ("rung_backend_pid", 0, Stable, |c| int(c.session().backend_pid)),
    ("rung_transaction_id", 0, Stable, |c| {
        int(i64::try_from(c.session().transaction_id).unwrap_or(i64::MAX))
    }),
    ("rung_pg_typeof", 2, Stable, |c| int(c.pg_type(0)?.oid())),
    ("rung_current_setting", 2, StrictStable, current_setting),
    ("rung_set_config", 3, Stable, set_config),
    ("rung_random_uuid", 0, Stable, |c| {
        c.fixed(|| {
            // Version 4, variant 1.
            let random = rand::random::<u128>();
            let versioned = random & !(0xF << 76) | 4 << 76;
            Value::Text(uuid_text(versioned & !(3 << 62) | 2 << 62))
        })
    }),
    ("rung_num_nulls", -1, Stable, |c| int(nulls(c))),
    ("rung_num_nonnulls", -1, Stable, |c| int(c.len() as i64 - nulls(c))),
];

fn nulls(call: &Call<'_>) -> i64 {
    (0..call.len()).filter(|index| call.is_null(*index)).count() as i64
}

/// Microseconds since 2000-01-01 UTC.
fn clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    i64::try_from(micros).unwrap_or(i64::MAX) - calendar::EPOCH_SECONDS * 1_000_000
}

fn local_now(call: &Call<'_>) -> i64 {
    let session = call.session();
    session.time_zone.to_local(session.transaction_time)
}

/// What settings are that nobody has set.
fn default_setting(name: &str) -> Option<&'static str> {
    Some(match name {
        "server_version" => "15.0",
        "default_table_access_method" => "heap",
        "server_version_num" => "150000",
        "server_encoding" | "client_encoding" => "UTF8",
        "standard_conforming_strings" | "integer_datetimes" => "on",
        "datestyle" => "ISO, MDY",
        "intervalstyle" => "postgres",
        "bytea_output" => "hex",
        "extra_float_digits" => "1",
        "lc_collate" | "lc_ctype" => "C",
        "transaction_isolation" | "default_transaction_isolation" => "serializable",
        "statement_timeout" | "lock_timeout" | "idle_in_transaction_session_timeout" => "0",
        "max_identifier_length" => "63",
        "is_superuser" => "off",
        _ => return None,
    })
}

fn current_setting(call: &Call<'_>) -> Outcome {
    let name = call.text(0)?.to_ascii_lowercase();
    let session = call.session();
    let value = match name.as_str() {
        "timezone" => Some(session.time_zone.name().to_owned()),
        "search_path" => Some(session.search_path.to_string()),
        "application_name" => Some(session.application_name.to_string()),
        "session_authorization" | "role" => Some(session.user.to_string()),
        name => {
            session.settings.get(name).cloned().or_else(|| default_setting(name).map(str::to_owned))
        }
    };
    drop(session);
    match value {
        Some(value) => text(value),
        None if call.bool(1)? => Ok(Value::Null),
        None => Err(SqlError::new(
            SqlState::UNDEFINED_OBJECT,
            format!("unrecognized configuration parameter \"{}\"", call.text(0)?),
        )),
    }
}

/// Takes effect when the statement has ended, as the session decides.
fn set_config(call: &Call<'_>) -> Outcome {
    if call.is_null(0) {
        return Err(SqlError::new(SqlState::NULL_VALUE_NOT_ALLOWED, "SET requires parameter name"));
    }
    let name = call.text(0)?.to_ascii_lowercase();
    let value = if call.is_null(1) { "" } else { call.text(1)? };
    let local = !call.is_null(2) && call.bool(2)?;
    let mut session = call.session();
    session.effects.settings.push((name, value.to_owned(), local));
    text(value)
}

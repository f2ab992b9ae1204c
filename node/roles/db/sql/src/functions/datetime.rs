//! Functions and operators of dates, times and intervals.

use rusqlite::types::{Value, ValueRef};

use super::call::{
    Call, Function, Manner::Strict, Manner::StrictStable, Outcome, boolean, int, text,
};
use super::intervals;
use super::numeric_math;
use crate::signature::Lines;
use crate::values::calendar::{
    self, Date, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
    checked_date, checked_timestamp, is_infinite,
};
use crate::values::interval::{self, Interval};
use crate::values::numeric::{Decimal, Numeric};
use crate::{SqlError, SqlState, TimeZone};

pub(crate) const OPERATORS: Lines = &[
    ("+(date, int4) -> date", "rung_date_add({0}, {1})"),
    ("+(int4, date) -> date", "rung_date_add({1}, {0})"),
    ("-(date, int4) -> date", "rung_date_add({0}, -{1})"),
    ("-(date, date) -> int4", "rung_date_subtract({0}, {1})"),
    ("+(date, time) -> timestamp", "rung_date_time({0}, {1})"),
    ("+(time, date) -> timestamp", "rung_date_time({1}, {0})"),
    ("+(date, interval) -> timestamp", "rung_timestamp_add(rung_date_time({0}, 0), {1})"),
    ("+(interval, date) -> timestamp", "rung_timestamp_add(rung_date_time({1}, 0), {0})"),
    (
        "-(date, interval) -> timestamp",
        "rung_timestamp_add(rung_date_time({0}, 0), rung_interval_negate({1}))",
    ),
    ("+(timestamp, interval) -> timestamp", "rung_timestamp_add({0}, {1})"),
    ("+(interval, timestamp) -> timestamp", "rung_timestamp_add({1}, {0})"),
    ("-(timestamp, interval) -> timestamp", "rung_timestamp_add({0}, rung_interval_negate({1}))"),
    ("+(timestamptz, interval) -> timestamptz", "rung_timestamptz_add({0}, {1})"),
    ("+(interval, timestamptz) -> timestamptz", "rung_timestamptz_add({1}, {0})"),
    (
        "-(timestamptz, interval) -> timestamptz",
        "rung_timestamptz_add({0}, rung_interval_negate({1}))",
    ),
    ("-(timestamp, timestamp) -> interval", "rung_timestamp_subtract({0}, {1})"),
    ("-(timestamptz, timestamptz) -> interval", "rung_timestamp_subtract({0}, {1})"),
    ("+(time, interval) -> time", "rung_time_add({0}, {1}, 1)"),
    ("+(interval, time) -> time", "rung_time_add({1}, {0}, 1)"),
    ("-(time, interval) -> time", "rung_time_add({0}, {1}, -1)"),
    ("-(time, time) -> interval", "rung_time_subtract({0}, {1})"),
    ("+(interval, interval) -> interval", "rung_interval_add({0}, {1})"),
    ("-(interval, interval) -> interval", "rung_interval_add({0}, rung_interval_negate({1}))"),
    ("-(interval) -> interval", "rung_interval_negate({0})"),
    ("+(interval) -> interval", "{0}"),
    ("*(interval, float8) -> interval", "rung_interval_multiply({0}, {1})"),
    ("*(float8, interval) -> interval", "rung_interval_multiply({1}, {0})"),
    ("/(interval, float8) -> interval", "rung_interval_divide({0}, {1})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("extract(text, date) -> numeric", "rung_extract({0}, {1}, {t1})"),
    ("extract(text, time) -> numeric", "rung_extract({0}, {1}, {t1})"),
    ("extract(text, timestamp) -> numeric", "rung_extract({0}, {1}, {t1})"),
    ("extract(text, timestamptz) -> numeric", "rung_extract({0}, {1}, {t1})"),
    ("extract(text, interval) -> numeric", "rung_extract({0}, {1}, {t1})"),
    (
        "date_part(text, date) -> float8",
        "rung_cast(rung_extract({0}, {1}, {t1}), 'numeric', 'float8', -1)",
    ),
    (
        "date_part(text, time) -> float8",
        "rung_cast(rung_extract({0}, {1}, {t1}), 'numeric', 'float8', -1)",
    ),
    (
        "date_part(text, timestamp) -> float8",
        "rung_cast(rung_extract({0}, {1}, {t1}), 'numeric', 'float8', -1)",
    ),
    (
        "date_part(text, timestamptz) -> float8",
        "rung_cast(rung_extract({0}, {1}, {t1}), 'numeric', 'float8', -1)",
    ),
    (
        "date_part(text, interval) -> float8",
        "rung_cast(rung_extract({0}, {1}, {t1}), 'numeric', 'float8', -1)",
    ),
    ("date_trunc(text, timestamp) -> timestamp", "rung_date_trunc({0}, {1})"),
    ("date_trunc(text, timestamptz) -> timestamptz", "rung_date_trunc_tz({0}, {1})"),
    ("date_trunc(text, timestamptz, text) -> timestamptz", "rung_date_trunc_tz({0}, {1}, {2})"),
    ("date_trunc(text, interval) -> interval", "rung_interval_trunc({0}, {1})"),
    ("date_bin(interval, timestamp, timestamp) -> timestamp", "rung_date_bin({0}, {1}, {2})"),
    ("date_bin(interval, timestamptz, timestamptz) -> timestamptz", "rung_date_bin({0}, {1}, {2})"),
    ("age(timestamp, timestamp) -> interval", "rung_age({0}, {1})"),
    ("age(timestamptz, timestamptz) -> interval", "rung_age_tz({0}, {1})"),
    ("age(timestamp) -> interval", "rung_age(rung_today(), {0})"),
    ("age(timestamptz) -> interval", "rung_age(rung_today(), rung_timezone_local({0}))"),
    ("timezone(text, timestamptz) -> timestamp", "rung_timezone_local({1}, {0})"),
    ("timezone(text, timestamp) -> timestamptz", "rung_timezone_utc({1}, {0})"),
    ("isfinite(date) -> bool", "rung_isfinite({0})"),
    ("isfinite(timestamp) -> bool", "rung_isfinite({0})"),
    ("isfinite(timestamptz) -> bool", "rung_isfinite({0})"),
    ("isfinite(interval) -> bool", "({0} IS NOT NULL OR NULL)"),
    ("make_date(int4, int4, int4) -> date", "rung_make_date({0}, {1}, {2})"),
    ("make_time(int4, int4, float8) -> time", "rung_make_time({0}, {1}, {2})"),
    (
        "make_timestamp(int4, int4, int4, int4, int4, float8) -> timestamp",
        "rung_date_time(rung_make_date({0}, {1}, {2}), rung_make_time({3}, {4}, {5}))",
    ),
    (
        "make_timestamptz(int4, int4, int4, int4, int4, float8) -> timestamptz",
        "rung_timezone_utc(rung_date_time(rung_make_date({0}, {1}, {2}), \
         rung_make_time({3}, {4}, {5})))",
    ),
    (
        "make_timestamptz(int4, int4, int4, int4, int4, float8, text) -> timestamptz",
        "rung_timezone_utc(rung_date_time(rung_make_date({0}, {1}, {2}), \
         rung_make_time({3}, {4}, {5})), {6})",
    ),
    ("make_interval() -> interval", "'PT0S'"),
    ("make_interval(int4) -> interval", "rung_make_interval({0}, 0, 0, 0, 0, 0, 0)"),
    ("make_interval(int4, int4) -> interval", "rung_make_interval({0}, {1}, 0, 0, 0, 0, 0)"),
    (
        "make_interval(int4, int4, int4) -> interval",
        "rung_make_interval({0}, {1}, {2}, 0, 0, 0, 0)",
    ),
    (
        "make_interval(int4, int4, int4, int4) -> interval",
        "rung_make_interval({0}, {1}, {2}, {3}, 0, 0, 0)",
    ),
    (
        "make_interval(int4, int4, int4, int4, int4) -> interval",
        "rung_make_interval({0}, {1}, {2}, {3}, {4}, 0, 0)",
    ),
    (
        "make_interval(int4, int4, int4, int4, int4, int4) -> interval",
        "rung_make_interval({0}, {1}, {2}, {3}, {4}, {5}, 0)",
    ),
    (
        "make_interval(int4, int4, int4, int4, int4, int4, float8) -> interval",
        "rung_make_interval({0}, {1}, {2}, {3}, {4}, {5}, {6})",
    ),
    ("justify_days(interval) -> interval", "rung_justify({0}, 'days')"),
    ("justify_hours(interval) -> interval", "rung_justify({0}, 'hours')"),
    ("justify_interval(interval) -> interval", "rung_justify({0}, 'interval')"),
    ("to_timestamp(float8) -> timestamptz", "rung_to_timestamp({0})"),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_date_add", 2, Strict, |c| {
        let days = c.int(0)?;
        if is_infinite(days) {
            return int(days);
        }
        int(checked_date(days.checked_add(c.int(1)?))?)
    }),
    ("rung_date_subtract", 2, Strict, |c| {
        let (later, earlier) = (c.int(0)?, c.int(1)?);
        if is_infinite(later) || is_infinite(earlier) {
            return Err(overflow("cannot subtract infinite dates"));
        }
        int(later.saturating_sub(earlier))
    }),
    ("rung_date_time", 2, Strict, |c| {
        let midnight = calendar::timestamp_of_date(c.int(0)?)?;
        if is_infinite(midnight) {
            return int(midnight);
        }
        int(checked_timestamp(midnight.checked_add(c.int(1)?))?)
    }),
    ("rung_timestamp_add", 2, Strict, |c| {
        int(intervals::add_to_timestamp(c.int(0)?, &c.interval(1)?)?)
    }),
    ("rung_timestamptz_add", 2, StrictStable, |c| {
        let zone = c.session().time_zone.clone();
        int(intervals::add_to_timestamptz(c.int(0)?, &c.interval(1)?, &zone)?)
    }),
    ("rung_timestamp_subtract", 2, Strict, |c| stored(intervals::between(c.int(0)?, c.int(1)?)?)),
    ("rung_time_add", 3, Strict, |c| {
        let micros = c.interval(1)?.micros.wrapping_rem(MICROS_PER_DAY) * c.int(2)?;
        int((c.int(0)? + micros).rem_euclid(MICROS_PER_DAY))
    }),
    ("rung_time_subtract", 2, Strict, |c| {
        stored(Interval { micros: c.int(0)? - c.int(1)?, ..Interval::default() })
    }),
    ("rung_interval_add", 2, Strict, |c| {
        let sum = c.interval(0)?.checked_add(&c.interval(1)?);
        stored(sum.ok_or_else(interval::out_of_range)?)
    }),
    ("rung_interval_negate", 1, Strict, |c| {
        stored(c.interval(0)?.checked_neg().ok_or_else(interval::out_of_range)?)
    }),
    ("rung_interval_multiply", 2, Strict, |c| {
        stored(intervals::multiply(&c.interval(0)?, c.real(1)?)?)
    }),
    ("rung_interval_divide", 2, Strict, |c| {
        stored(intervals::divide(&c.interval(0)?, c.real(1)?)?)
    }),
    ("rung_extract", 3, StrictStable, extract),
    ("rung_date_trunc", 2, Strict, |c| {
        int(trunc(c.text(0)?, c.int(1)?, "timestamp without time zone")?)
    }),
    ("rung_date_trunc_tz", 2, StrictStable, |c| {
        let zone = c.session().time_zone.clone();
        trunc_tz(c, &zone)
    }),
    ("rung_date_trunc_tz", 3, Strict, |c| trunc_tz(c, &TimeZone::parse_posix(c.text(2)?)?)),
    ("rung_interval_trunc", 2, Strict, interval_trunc),
    ("rung_date_bin", 3, Strict, date_bin),
    ("rung_age", 2, Strict, |c| stored(intervals::age(c.int(0)?, c.int(1)?)?)),
    ("rung_age_tz", 2, StrictStable, |c| {
        let zone = c.session().time_zone.clone();
        stored(intervals::age(zone.to_local(c.int(0)?), zone.to_local(c.int(1)?))?)
    }),
    ("rung_today", 0, StrictStable, |c| {
        let session = c.session();
        let local = session.time_zone.to_local(session.transaction_time);
        int(local - local.rem_euclid(MICROS_PER_DAY))
    }),
    ("rung_timezone_local", 1, StrictStable, |c| int(c.session().time_zone.to_local(c.int(0)?))),
    ("rung_timezone_local", 2, Strict, |c| {
        int(checked_timestamp(Some(TimeZone::parse_posix(c.text(1)?)?.to_local(c.int(0)?)))?)
    }),
    ("rung_timezone_utc", 1, StrictStable, |c| {
        int(checked_timestamp(c.session().time_zone.to_utc(c.int(0)?))?)
    }),
    ("rung_timezone_utc", 2, Strict, |c| {
        int(checked_timestamp(TimeZone::parse_posix(c.text(1)?)?.to_utc(c.int(0)?))?)
    }),
    ("rung_isfinite", 1, Strict, |c| boolean(!is_infinite(c.int(0)?))),
    ("rung_make_date", 3, Strict, make_date),
    ("rung_make_time", 3, Strict, make_time),
    ("rung_make_interval", 7, Strict, make_interval),
    ("rung_justify", 2, Strict, justify),
    ("rung_to_timestamp", 1, Strict, |c| {
        let seconds = c.real(0)?;
        if seconds.is_infinite() {
            return int(if seconds > 0.0 { i64::MAX } else { i64::MIN });
        }
        let micros = ((seconds - calendar::EPOCH_SECONDS as f64) * 1_000_000.0).round_ties_even();
        let in_range = micros.abs() < 9.2e18 && calendar::valid_timestamp(micros as i64);
        match in_range {
            true => int(micros as i64),
            false => Err(overflow(&format!("timestamp out of range: \"{seconds}\""))),
        }
    }),
];

fn overflow(message: &str) -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, message)
}

fn stored(interval: Interval) -> Outcome {
    text(interval.to_stored())
}

/// The name that PostgreSQL knows a unit by, for all its spellings.
fn unit(name: &str) -> Option<&'static str> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => "microseconds",
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => "milliseconds",
        "s" | "sec" | "secs" | "second" | "seconds" => "second",
        "m" | "min" | "mins" | "minute" | "minutes" => "minute",
        "h" | "hr" | "hrs" | "hour" | "hours" => "hour",
        "d" | "day" | "days" => "day",
        "w" | "week" | "weeks" => "week",
        "mon" | "mons" | "month" | "months" => "month",
        "qtr" | "quarter" => "quarter",
        "y" | "yr" | "yrs" | "year" | "years" => "year",
        "dec" | "decs" | "decade" | "decades" => "decade",
        "c" | "cent" | "century" | "centuries" => "century",
        "mil" | "mils" | "millennium" | "millennia" => "millennium",
        "epoch" => "epoch",
        "dow" => "dow",
        "isodow" => "isodow",
        "doy" => "doy",
        "isoyear" => "isoyear",
        "julian" => "julian",
        "timezone" => "timezone",
        "timezone_h" | "timezone_hour" => "timezone_hour",
        "timezone_m" | "timezone_minute" => "timezone_minute",
        _ => return None,
    })
}

fn unknown_unit(name: &str, type_name: &str) -> SqlError {
    SqlError::new(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("unit \"{}\" not recognized for type {type_name}", name.to_lowercase()),
    )
}

fn unsupported_unit(name: &str, type_name: &str) -> SqlError {
    SqlError::new(
        SqlState::NOT_SUPPORTED,
        format!("unit \"{}\" not supported for type {type_name}", name.to_lowercase()),
    )
}

fn century(year: i64) -> i64 {
    if year > 0 { (year + 99) / 100 } else { -((99 - (year - 1)) / 100) }
}

fn millennium(year: i64) -> i64 {
    if year > 0 { (year + 999) / 1000 } else { -((999 - (year - 1)) / 1000) }
}

/// Years BC count without a year 0.
fn shown_year(year: i64) -> i64 {
    if year > 0 { year } else { year - 1 }
}

fn decimal(digits: impl Into<num_bigint::BigInt>, scale: u32) -> Outcome {
    super::call::numeric(Numeric::Finite(Decimal::new(digits, scale)))
}

fn extract(call: &Call<'_>) -> Outcome {
    let name = call.text(0)?;
    let data_type = call.pg_type(2)?;
    let type_name = data_type.name();
    let Some(unit) = unit(name) else { return Err(unknown_unit(name, type_name)) };
    if data_type == crate::PgType::Interval {
        return extract_interval(unit, &call.interval(1)?, name);
    }
    let ValueRef::Integer(value) = call.get(1) else { return Ok(Value::Null) };
    if data_type == crate::PgType::Time {
        return match time_field(unit, value) {
            Some((digits, scale)) => decimal(digits, scale),
            None if unit == "epoch" => decimal(value, 6),
            None => Err(unsupported_unit(name, type_name)),
        };
    }
    let is_date = data_type == crate::PgType::Date;
    let zoned = data_type == crate::PgType::Timestamptz;
    if is_infinite(value) {
        return extract_infinite(unit, value > 0, name, type_name);
    }
    let moment = if is_date { calendar::timestamp_of_date(value)? } else { value };
    let offset = if zoned { i64::from(call.session().time_zone.offset_at(moment)) } else { 0 };
    let local = moment.saturating_add(offset * MICROS_PER_SECOND);
    let civil = calendar::civil_of(local);
    let days = local.div_euclid(MICROS_PER_DAY);
    if let Some(field) = date_field(unit, days) {
        return decimal(field, 0);
    }
    match unit {
        "epoch" => {
            let micros = i128::from(moment)
                + i128::from(calendar::EPOCH_SECONDS) * i128::from(MICROS_PER_SECOND);
            match is_date {
                true => decimal(micros / i128::from(MICROS_PER_SECOND), 0),
                false => decimal(micros, 6),
            }
        }
        "julian" if is_date => decimal(days + calendar::JULIAN_DAY_OF_EPOCH, 0),
        "julian" => {
            let julian = Numeric::from(days + calendar::JULIAN_DAY_OF_EPOCH);
            let time = Numeric::Finite(Decimal::new(civil.time, 6));
            let day = numeric_math::divide(&time, &Numeric::from(86_400))?;
            super::call::numeric(numeric_math::add(&julian, &day))
        }
        "timezone" if zoned => decimal(offset, 0),
        "timezone_hour" if zoned => decimal(offset / 3600, 0),
        "timezone_minute" if zoned => decimal(offset / 60 % 60, 0),
        _ => match time_field(unit, civil.time) {
            Some((digits, scale)) if !is_date => decimal(digits, scale),
            _ => Err(unsupported_unit(name, type_name)),
        },
    }
}

fn date_field(unit: &str, days: i64) -> Option<i64> {
    let date = calendar::date_of(days);
    let year = i64::from(date.year);
    Some(match unit {
        "day" => i64::from(date.day),
        "month" => i64::from(date.month),
        "quarter" => (i64::from(date.month) - 1) / 3 + 1,
        "week" => calendar::iso_week(days).1,
        "year" => shown_year(year),
        "isoyear" => shown_year(i64::from(calendar::iso_week(days).0)),
        "decade" => year.div_euclid(10),
        "century" => century(year),
        "millennium" => millennium(year),
        "dow" => calendar::day_of_week(days),
        "isodow" => (calendar::day_of_week(days) + 6) % 7 + 1,
        "doy" => calendar::day_of_year(date),
        _ => return None,
    })
}

fn time_field(unit: &str, time: i64) -> Option<(i64, u32)> {
    Some(match unit {
        "microseconds" => (time % MICROS_PER_MINUTE, 0),
        "milliseconds" => (time % MICROS_PER_MINUTE, 3),
        "second" => (time % MICROS_PER_MINUTE, 6),
        "minute" => (time / MICROS_PER_MINUTE % 60, 0),
        "hour" => (time / MICROS_PER_HOUR, 0),
        _ => return None,
    })
}

fn extract_interval(unit: &str, interval: &Interval, name: &str) -> Outcome {
    let years = i64::from(interval.months / 12);
    match unit {
        "day" => decimal(interval.days, 0),
        "month" => decimal(interval.months % 12, 0),
        "quarter" => decimal(interval.months % 12 / 3 + 1, 0),
        "year" => decimal(years, 0),
        "decade" => decimal(years / 10, 0),
        "century" => decimal(years / 100, 0),
        "millennium" => decimal(years / 1000, 0),
        // A year has 365.25 days here, a month 30.
        "epoch" => {
            let hours = i128::from(years) * 8766
                + (i128::from(interval.months % 12) * 30 + i128::from(interval.days)) * 24;
            let micros = hours * i128::from(MICROS_PER_HOUR) + i128::from(interval.micros);
            decimal(micros, 6)
        }
        _ => match time_field(unit, interval.micros) {
            Some((digits, scale)) => decimal(digits, scale),
            None => Err(unsupported_unit(name, "interval")),
        },
    }
}

/// Fields that grow without bound are infinite, others have no value.
fn extract_infinite(unit: &str, positive: bool, name: &str, type_name: &str) -> Outcome {
    match unit {
        "year" | "decade" | "century" | "millennium" | "julian" | "isoyear" | "epoch" => {
            text(if positive { "Infinity" } else { "-Infinity" })
        }
        "timezone" | "timezone_hour" | "timezone_minute"
            if type_name != "timestamp with time zone" =>
        {
            Err(unsupported_unit(name, type_name))
        }
        _ => Ok(Value::Null),
    }
}

/// A local moment cut off to a unit.
fn trunc(name: &str, timestamp: i64, type_name: &str) -> Result<i64, SqlError> {
    let Some(unit) = unit(name) else { return Err(unknown_unit(name, type_name)) };
    if matches!(unit, "epoch" | "dow" | "isodow" | "doy" | "isoyear" | "julian") {
        return Err(unknown_unit(name, type_name));
    }
    if is_infinite(timestamp) {
        return Ok(timestamp);
    }
    let to = |micros: i64| Ok(timestamp - timestamp.rem_euclid(micros));
    let days = timestamp.div_euclid(MICROS_PER_DAY);
    let date = calendar::date_of(days);
    let first = |year: i64, month: i32| {
        let date = Date { year: year as i32, month, day: 1 };
        calendar::timestamp_of(calendar::days_of(date), 0)
    };
    let year = i64::from(date.year);
    let result = match unit {
        "microseconds" => return Ok(timestamp),
        "milliseconds" => return to(1000),
        "second" => return to(MICROS_PER_SECOND),
        "minute" => return to(MICROS_PER_MINUTE),
        "hour" => return to(MICROS_PER_HOUR),
        "day" => return to(MICROS_PER_DAY),
        "week" => {
            let monday = days - (calendar::day_of_week(days) + 6) % 7;
            calendar::timestamp_of(monday, 0)
        }
        "month" => first(year, date.month),
        "quarter" => first(year, (date.month - 1) / 3 * 3 + 1),
        "year" => first(year, 1),
        "decade" => first(year.div_euclid(10) * 10, 1),
        "century" => first((year - 1).div_euclid(100) * 100 + 1, 1),
        "millennium" => first((year - 1).div_euclid(1000) * 1000 + 1, 1),
        _ => return Err(unsupported_unit(name, type_name)),
    };
    checked_timestamp(result)
}

fn trunc_tz(call: &Call<'_>, zone: &TimeZone) -> Outcome {
    let (name, moment) = (call.text(0)?, call.int(1)?);
    let local = trunc(name, zone.to_local(moment), "timestamp with time zone")?;
    // Within a day, the offset stays, also when that hour comes twice.
    if matches!(unit(name), Some("microseconds" | "milliseconds" | "second" | "minute" | "hour"))
        && !is_infinite(moment)
    {
        return int(local - i64::from(zone.offset_at(moment)) * MICROS_PER_SECOND);
    }
    int(checked_timestamp(zone.to_utc(local))?)
}

fn interval_trunc(call: &Call<'_>) -> Outcome {
    let name = call.text(0)?;
    let Some(unit) = unit(name) else { return Err(unknown_unit(name, "interval")) };
    let Interval { months, days, micros } = call.interval(1)?;
    let by_months = |unit: i32| Interval { months: months - months % unit, days: 0, micros: 0 };
    let by_micros = |unit: i64| Interval { months, days, micros: micros - micros % unit };
    stored(match unit {
        "microseconds" => by_micros(1),
        "milliseconds" => by_micros(1000),
        "second" => by_micros(MICROS_PER_SECOND),
        "minute" => by_micros(MICROS_PER_MINUTE),
        "hour" => by_micros(MICROS_PER_HOUR),
        "day" => Interval { months, days, micros: 0 },
        "month" => by_months(1),
        "quarter" => by_months(3),
        "year" => by_months(12),
        "decade" => by_months(120),
        "century" => by_months(1200),
        "millennium" => by_months(12_000),
        "week" => {
            return Err(
                unsupported_unit(name, "interval").detail("Months usually have fractional weeks.")
            );
        }
        _ => return Err(unsupported_unit(name, "interval")),
    })
}

fn date_bin(call: &Call<'_>) -> Outcome {
    let (stride, source, origin) = (call.interval(0)?, call.int(1)?, call.int(2)?);
    if is_infinite(source) {
        return int(source);
    }
    if is_infinite(origin) {
        return Err(overflow("origin out of range"));
    }
    if stride.months != 0 {
        return Err(SqlError::new(
            SqlState::NOT_SUPPORTED,
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let width = i64::from(stride.days)
        .checked_mul(MICROS_PER_DAY)
        .and_then(|days| days.checked_add(stride.micros))
        .ok_or_else(interval::out_of_range)?;
    if width <= 0 {
        return Err(overflow("stride must be greater than zero"));
    }
    let distance = source.checked_sub(origin).ok_or_else(interval::out_of_range)?;
    int(checked_timestamp(Some(source - distance.rem_euclid(width)))?)
}

fn make_date(call: &Call<'_>) -> Outcome {
    let (year, month, day) = (call.int(0)?, call.int(1)?, call.int(2)?);
    let out_of_range =
        || overflow(&format!("date field value out of range: {year}-{month:02}-{day:02}"));
    // A negative year is BC.
    let astronomical = if year < 0 { year + 1 } else { year };
    let valid = year != 0
        && (-4800..=5_874_897).contains(&year)
        && (1..=12).contains(&month)
        && day >= 1
        && day <= i64::from(calendar::days_in_month(astronomical as i32, month as i32));
    if !valid {
        return Err(out_of_range());
    }
    let date = Date { year: astronomical as i32, month: month as i32, day: day as i32 };
    int(checked_date(Some(calendar::days_of(date)))?)
}

fn make_time(call: &Call<'_>) -> Outcome {
    let (hours, minutes, seconds) = (call.int(0)?, call.int(1)?, call.real(2)?);
    let micros = (seconds * 1_000_000.0).round_ties_even();
    let valid = (0..=24).contains(&hours)
        && (0..60).contains(&minutes)
        && (0.0..=60_000_000.0).contains(&micros);
    let time = hours
        .wrapping_mul(MICROS_PER_HOUR)
        .wrapping_add(minutes.wrapping_mul(MICROS_PER_MINUTE))
        .wrapping_add(micros as i64);
    if !valid || time > MICROS_PER_DAY {
        return Err(overflow(&format!(
            "time field value out of range: {hours}:{minutes:02}:{seconds:02}"
        )));
    }
    int(time)
}

fn make_interval(call: &Call<'_>) -> Outcome {
    let part = |index: usize, unit: i64| -> Result<i64, SqlError> {
        call.int(index)?.checked_mul(unit).ok_or_else(interval::out_of_range)
    };
    let seconds = (call.real(6)? * 1_000_000.0).round_ties_even();
    if seconds.abs() > 9e18 {
        return Err(interval::out_of_range());
    }
    let fits = |value: i64| i32::try_from(value).map_err(|_| interval::out_of_range());
    let micros = part(4, MICROS_PER_HOUR)?
        .checked_add(part(5, MICROS_PER_MINUTE)?)
        .and_then(|micros| micros.checked_add(seconds as i64));
    stored(Interval {
        months: fits(part(0, 12)? + call.int(1)?)?,
        days: fits(part(2, 7)? + call.int(3)?)?,
        micros: micros.ok_or_else(interval::out_of_range)?,
    })
}

/// Whole days of time become days, 30 days a month, and signs are made alike.
fn justify(call: &Call<'_>) -> Outcome {
    let Interval { months, days, micros } = call.interval(0)?;
    let (mut months, mut days, mut micros) = (i64::from(months), i64::from(days), micros);
    let what = call.text(1)?;
    if what != "days" {
        if what == "interval" && (days > 0 && micros > 0 || days < 0 && micros < 0) {
            months += days / 30;
            days %= 30;
        }
        days += micros / MICROS_PER_DAY;
        micros %= MICROS_PER_DAY;
    }
    if what != "hours" {
        months += days / 30;
        days %= 30;
    }
    if what != "hours" {
        let below = match what {
            "interval" => days < 0 || days == 0 && micros < 0,
            _ => days < 0,
        };
        let above = match what {
            "interval" => days > 0 || days == 0 && micros > 0,
            _ => days > 0,
        };
        if months > 0 && below {
            (days, months) = (days + 30, months - 1);
        } else if months < 0 && above {
            (days, months) = (days - 30, months + 1);
        }
    }
    if what != "days" {
        if days > 0 && micros < 0 {
            (micros, days) = (micros + MICROS_PER_DAY, days - 1);
        } else if days < 0 && micros > 0 {
            (micros, days) = (micros - MICROS_PER_DAY, days + 1);
        }
    }
    let fits = |value: i64| i32::try_from(value).map_err(|_| interval::out_of_range());
    stored(Interval { months: fits(months)?, days: fits(days)?, micros })
}

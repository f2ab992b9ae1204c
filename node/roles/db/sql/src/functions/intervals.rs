//! Arithmetic of intervals, and of moments with intervals.

use crate::values::calendar::{
    self, Date, MICROS_PER_DAY, checked_timestamp, days_in_month, is_infinite,
};
use crate::values::interval::{Interval, out_of_range};
use crate::{SqlError, TimeZone};

fn whole(value: f64) -> Result<i32, SqlError> {
    if value.is_nan() || value.abs() > f64::from(i32::MAX) {
        return Err(out_of_range());
    }
    Ok(value as i32)
}

/// Rounded as PostgreSQL rounds fractions of fields, to microseconds.
fn to_micros(value: f64) -> f64 {
    (value * 1_000_000.0).round_ties_even() / 1_000_000.0
}

/// # Errors
/// 22008 if the result is out of range.
pub fn multiply(interval: &Interval, factor: f64) -> Result<Interval, SqlError> {
    let months = f64::from(interval.months) * factor;
    cascade(months, f64::from(interval.days) * factor, interval.micros as f64 * factor)
}

/// # Errors
/// 22012 for 0, 22008 if the result is out of range.
pub fn divide(interval: &Interval, divisor: f64) -> Result<Interval, SqlError> {
    if divisor == 0.0 {
        return Err(super::integers::division_by_zero());
    }
    let months = f64::from(interval.months) / divisor;
    cascade(months, f64::from(interval.days) / divisor, interval.micros as f64 / divisor)
}

/// What is left of months becomes days, what is left of days becomes time.
fn cascade(months: f64, days: f64, micros: f64) -> Result<Interval, SqlError> {
    let (whole_months, whole_days) = (whole(months)?, whole(days)?);
    let more_days = to_micros((months - f64::from(whole_months)) * 30.0);
    let rest_of_days = days - f64::from(whole_days) + more_days - more_days.trunc();
    let mut seconds = to_micros(rest_of_days * 86_400.0);
    let mut days = whole_days;
    // Rounding may have made a whole day of it.
    if seconds.abs() >= 86_400.0 {
        let more = (seconds / 86_400.0) as i32;
        days = days.checked_add(more).ok_or_else(out_of_range)?;
        seconds -= f64::from(more) * 86_400.0;
    }
    days = days.checked_add(more_days as i32).ok_or_else(out_of_range)?;
    let micros = (micros + seconds * 1_000_000.0).round_ties_even();
    if micros.is_nan() || micros.abs() >= 9.223_372_036_854_775e18 {
        return Err(out_of_range());
    }
    Ok(Interval { months: whole_months, days, micros: micros as i64 })
}

/// `timestamp + interval`: months keep the day of the month, as far as it exists.
///
/// # Errors
/// 22008 if the result is out of range.
pub fn add_to_timestamp(timestamp: i64, interval: &Interval) -> Result<i64, SqlError> {
    if is_infinite(timestamp) {
        return Ok(timestamp);
    }
    let moved = add_months_and_days(timestamp, interval);
    checked_timestamp(moved.and_then(|moved| moved.checked_add(interval.micros)))
}

/// The same for a moment in a zone, whose days may be longer or shorter.
///
/// # Errors
/// 22008 if the result is out of range.
pub fn add_to_timestamptz(
    timestamp: i64,
    interval: &Interval,
    zone: &TimeZone,
) -> Result<i64, SqlError> {
    if is_infinite(timestamp) {
        return Ok(timestamp);
    }
    let mut moment = Some(timestamp);
    if interval.months != 0 || interval.days != 0 {
        let local = zone.to_local(timestamp);
        moment = add_months_and_days(local, interval).and_then(|local| zone.to_utc(local));
    }
    checked_timestamp(moment.and_then(|moment| moment.checked_add(interval.micros)))
}

fn add_months_and_days(timestamp: i64, interval: &Interval) -> Option<i64> {
    let civil = calendar::civil_of(timestamp);
    let mut days = timestamp.div_euclid(MICROS_PER_DAY);
    if interval.months != 0 {
        let months = i64::from(civil.date.year) * 12 + i64::from(civil.date.month) - 1;
        let months = months + i64::from(interval.months);
        let year = i32::try_from(months.div_euclid(12)).ok()?;
        let month = months.rem_euclid(12) as i32 + 1;
        let day = civil.date.day.min(days_in_month(year, month));
        days = calendar::days_of(Date { year, month, day });
    }
    days = days.checked_add(i64::from(interval.days))?;
    calendar::timestamp_of(days, civil.time)
}

/// `timestamp - timestamp`: days and time.
///
/// # Errors
/// 22008 for infinite ones.
pub fn between(later: i64, earlier: i64) -> Result<Interval, SqlError> {
    if is_infinite(later) || is_infinite(earlier) {
        return Err(SqlError::new(
            crate::SqlState::DATETIME_FIELD_OVERFLOW,
            "cannot subtract infinite timestamps",
        ));
    }
    let micros = later.checked_sub(earlier).ok_or_else(out_of_range)?;
    let days = i32::try_from(micros / MICROS_PER_DAY).map_err(|_| out_of_range())?;
    Ok(Interval { months: 0, days, micros: micros % MICROS_PER_DAY })
}

/// `age`: years, months and days between two local moments.
///
/// # Errors
/// 22008 for infinite ones.
pub fn age(later: i64, earlier: i64) -> Result<Interval, SqlError> {
    if is_infinite(later) || is_infinite(earlier) {
        return Err(crate::SqlError::new(
            crate::SqlState::DATETIME_FIELD_OVERFLOW,
            "timestamp out of range",
        ));
    }
    let negative = later < earlier;
    let (last, first) = if negative { (earlier, later) } else { (later, earlier) };
    let (last_civil, first_civil) = (calendar::civil_of(last), calendar::civil_of(first));
    let mut micros = last_civil.time - first_civil.time;
    let mut days = last_civil.date.day - first_civil.date.day;
    let mut months = last_civil.date.month - first_civil.date.month;
    let mut years = last_civil.date.year - first_civil.date.year;
    if micros < 0 {
        micros += MICROS_PER_DAY;
        days -= 1;
    }
    while days < 0 {
        // The days of the earlier moment's month, or, of a negative age, those of the
        // month in which it was counted from.
        let month = if negative { last_civil.date } else { first_civil.date };
        days += days_in_month(month.year, month.month);
        months -= 1;
    }
    while months < 0 {
        months += 12;
        years -= 1;
    }
    let age = Interval { months: years * 12 + months, days, micros };
    if negative { age.checked_neg().ok_or_else(out_of_range) } else { Ok(age) }
}

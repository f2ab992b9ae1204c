//! Days, times of day and moments as numbers, and what they are in a calendar.
//!
//! Dates are days, timestamps microseconds since 2000-01-01. `i64::MAX` and
//! `i64::MIN` are infinity and -infinity, which order rightly.

use crate::{SqlError, SqlState};

pub const INFINITY: i64 = i64::MAX;
pub const NEGATIVE_INFINITY: i64 = i64::MIN;

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;
pub const MICROS_PER_HOUR: i64 = 60 * MICROS_PER_MINUTE;
pub const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;
/// Seconds from 1970-01-01 to 2000-01-01.
pub const EPOCH_SECONDS: i64 = 946_684_800;
/// Day 0 is Julian day 2451545.
pub const JULIAN_DAY_OF_EPOCH: i64 = 2_451_545;

/// 4714-11-24 BC to 5874897-12-31.
const DATE_RANGE: std::ops::RangeInclusive<i64> = -2_451_545..=2_145_031_948;
/// 4714-11-24 BC up to 294276-12-31.
const TIMESTAMP_RANGE: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Date {
    /// 1 BC is 0.
    pub year: i32,
    /// From 1.
    pub month: i32,
    /// From 1.
    pub day: i32,
}

/// A moment without a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Civil {
    pub date: Date,
    /// Microseconds since midnight, less than a day.
    pub time: i64,
}

pub fn is_infinite(value: i64) -> bool {
    value == INFINITY || value == NEGATIVE_INFINITY
}

pub fn is_leap_year(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// `month` is from 1 to 12.
pub fn days_in_month(year: i32, month: i32) -> i32 {
    match month {
        2 if is_leap_year(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 2000-01-01 of a date in the proleptic Gregorian calendar. Days beyond
/// the end of the month count on.
pub fn days_of(date: Date) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let year = i64::from(date.year) - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = (i64::from(date.month) + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 730_425
}

/// The date of a number of days since 2000-01-01, within the range of dates.
pub fn date_of(days: i64) -> Date {
    let shifted = days.saturating_add(730_425);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = (shifted_month + 2) % 12 + 1;
    Date {
        year: (year_of_era + era * 400 + i64::from(month <= 2)) as i32,
        month: month as i32,
        day: (day_of_year - (153 * shifted_month + 2) / 5 + 1) as i32,
    }
}

/// What a finite timestamp is in the calendar.
pub fn civil_of(timestamp: i64) -> Civil {
    Civil {
        date: date_of(timestamp.div_euclid(MICROS_PER_DAY)),
        time: timestamp.rem_euclid(MICROS_PER_DAY),
    }
}

/// Nothing if it is out of the range of timestamps.
pub fn timestamp_of(days: i64, time: i64) -> Option<i64> {
    let timestamp = days.checked_mul(MICROS_PER_DAY)?.checked_add(time)?;
    TIMESTAMP_RANGE.contains(&timestamp).then_some(timestamp)
}

pub fn valid_timestamp(timestamp: i64) -> bool {
    TIMESTAMP_RANGE.contains(&timestamp)
}

pub fn valid_date(days: i64) -> bool {
    DATE_RANGE.contains(&days)
}

/// # Errors
/// 22008 if it is neither infinite nor in the range of timestamps.
pub fn checked_timestamp(timestamp: Option<i64>) -> Result<i64, SqlError> {
    timestamp
        .filter(|timestamp| is_infinite(*timestamp) || valid_timestamp(*timestamp))
        .ok_or_else(|| SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range"))
}

/// # Errors
/// 22008 if it is neither infinite nor in the range of dates.
pub fn checked_date(days: Option<i64>) -> Result<i64, SqlError> {
    days.filter(|days| is_infinite(*days) || valid_date(*days))
        .ok_or_else(|| SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range"))
}

/// Midnight of a stored date as a timestamp.
///
/// # Errors
/// 22008 if timestamps do not reach so far.
pub fn timestamp_of_date(days: i64) -> Result<i64, SqlError> {
    if is_infinite(days) {
        return Ok(days);
    }
    timestamp_of(days, 0).ok_or_else(|| {
        SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range for timestamp")
    })
}

/// The stored date of a timestamp.
pub fn date_of_timestamp(timestamp: i64) -> i64 {
    if is_infinite(timestamp) { timestamp } else { timestamp.div_euclid(MICROS_PER_DAY) }
}

/// Rounded to `precision` digits of a second's fraction, halves away from zero.
pub fn round_micros(micros: i64, precision: i32) -> i64 {
    let Ok(digits) = u32::try_from(precision) else { return micros };
    if digits >= 6 || is_infinite(micros) {
        return micros;
    }
    let unit = 10_i64.pow(6 - digits);
    match micros {
        0.. => micros.saturating_add(unit / 2) / unit * unit,
        _ => -(micros.saturating_neg().saturating_add(unit / 2) / unit * unit),
    }
}

/// Day of the week, Sunday is 0.
pub fn day_of_week(days: i64) -> i64 {
    (days + 6).rem_euclid(7)
}

/// From 1.
pub fn day_of_year(date: Date) -> i64 {
    days_of(date) - days_of(Date { month: 1, day: 1, ..date }) + 1
}

/// The first day of week 1 of an ISO year.
pub fn iso_year_start(year: i32) -> i64 {
    let fourth = days_of(Date { year, month: 1, day: 4 });
    fourth - (day_of_week(fourth) + 6) % 7
}

/// ISO year and week, from 1.
pub fn iso_week(days: i64) -> (i32, i64) {
    let year = date_of(days).year;
    let year = if days >= iso_year_start(year + 1) {
        year + 1
    } else if days < iso_year_start(year) {
        year - 1
    } else {
        year
    };
    (year, (days - iso_year_start(year)) / 7 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        assert_eq!(days_of(Date { year: 2000, month: 1, day: 1 }), 0);
        assert_eq!(days_of(Date { year: 1970, month: 1, day: 1 }), -10_957);
        for days in (-2_451_545..3_000_000).step_by(13).chain([2_145_031_948]) {
            assert_eq!(days_of(date_of(days)), days);
        }
        assert_eq!(date_of(-2_451_545), Date { year: -4713, month: 11, day: 24 });
        assert_eq!(date_of(2_145_031_948), Date { year: 5_874_897, month: 12, day: 31 });
    }

    #[test]
    fn weeks_and_days_are_those_of_the_calendar() {
        assert_eq!(day_of_week(0), 6);
        assert_eq!(iso_week(0), (1999, 52));
        assert_eq!(iso_week(days_of(Date { year: 2020, month: 12, day: 31 })), (2020, 53));
        assert_eq!(day_of_year(Date { year: 2000, month: 12, day: 31 }), 366);
    }
}

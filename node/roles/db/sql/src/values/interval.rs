//! `interval`: months, days and microseconds, which PostgreSQL keeps apart.

use std::cmp::Ordering;
use std::fmt;
use std::fmt::Write;

use super::calendar::{MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND};
use crate::{SqlError, SqlState};

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

pub fn out_of_range() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "interval out of range")
}

impl Interval {
    /// For comparing: a month is 30 days, a day 24 hours.
    fn span(&self) -> i128 {
        let days = i128::from(self.months) * 30 + i128::from(self.days);
        days * i128::from(MICROS_PER_DAY) + i128::from(self.micros)
    }

    /// PostgreSQL's order, in which `1 month` equals `30 days`.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.span().cmp(&other.span())
    }

    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        Some(Self {
            months: self.months.checked_add(other.months)?,
            days: self.days.checked_add(other.days)?,
            micros: self.micros.checked_add(other.micros)?,
        })
    }

    pub fn checked_neg(&self) -> Option<Self> {
        Some(Self {
            months: self.months.checked_neg()?,
            days: self.days.checked_neg()?,
            micros: self.micros.checked_neg()?,
        })
    }

    /// Of the stored form, `P1Y2M3DT4H5M6.7S`. Nothing for other texts.
    pub fn from_stored(text: &str) -> Option<Self> {
        let mut rest = text.strip_prefix('P')?;
        let mut result = Self::default();
        let mut in_time = false;
        while !rest.is_empty() {
            if let Some(time) = rest.strip_prefix('T') {
                in_time = true;
                rest = time;
                continue;
            }
            let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let (number, unit) = (&rest[..end], rest.as_bytes()[end]);
            rest = &rest[end + 1..];
            let whole = || number.parse::<i64>().ok();
            let small = || number.parse::<i32>().ok();
            let micros = |unit: i64| whole()?.checked_mul(unit);
            match (in_time, unit) {
                (false, b'Y') => {
                    result.months = result.months.checked_add(small()?.checked_mul(12)?)?;
                }
                (false, b'M') => result.months = result.months.checked_add(small()?)?,
                (false, b'D') => result.days = small()?,
                (true, b'H') => {
                    result.micros = result.micros.checked_add(micros(MICROS_PER_HOUR)?)?;
                }
                (true, b'M') => {
                    result.micros = result.micros.checked_add(micros(MICROS_PER_MINUTE)?)?;
                }
                (true, b'S') => result.micros = result.micros.checked_add(seconds(number)?)?,
                _ => return None,
            }
        }
        Some(result)
    }

    pub fn to_stored(self) -> String {
        let mut out = String::with_capacity(16);
        out.push('P');
        let mut part = |value: i64, unit: char| {
            if value != 0 {
                let _ = write!(out, "{value}{unit}");
            }
        };
        part(i64::from(self.months / 12), 'Y');
        part(i64::from(self.months % 12), 'M');
        part(i64::from(self.days), 'D');
        if self.micros != 0 || self.months == 0 && self.days == 0 {
            out.push('T');
            let mut part = |value: i64, unit: char| {
                if value != 0 {
                    let _ = write!(out, "{value}{unit}");
                }
            };
            part(self.micros / MICROS_PER_HOUR, 'H');
            part(self.micros / MICROS_PER_MINUTE % 60, 'M');
            let seconds = self.micros % MICROS_PER_MINUTE;
            if seconds != 0 || self.micros == 0 {
                let sign = if seconds < 0 { "-" } else { "" };
                let _ = write!(out, "{sign}{}", seconds.abs() / MICROS_PER_SECOND);
                write_fraction(&mut out, seconds.abs() % MICROS_PER_SECOND);
                out.push('S');
            }
        }
        out
    }

    /// Rounded to the precision in a modifier; fields such as DAY TO HOUR cut off what
    /// is smaller.
    #[must_use]
    pub fn with_modifier(mut self, modifier: i32) -> Self {
        if modifier < 0 {
            return self;
        }
        let range = (modifier >> 16) & 0x7FFF;
        let precision = modifier & 0xFFFF;
        // Bits of PostgreSQL's fields: month 1, year 2, day 3, hour 10, minute 11, second 12.
        let has = |bit: i32| range & (1 << bit) != 0;
        if range != 0x7FFF && range != 0 {
            if has(12) {
            } else if has(11) {
                self.micros -= self.micros % MICROS_PER_MINUTE;
            } else if has(10) {
                self.micros -= self.micros % MICROS_PER_HOUR;
            } else {
                self.micros = 0;
                if !has(3) {
                    self.days = 0;
                    if !has(1) {
                        self.months -= self.months % 12;
                    }
                }
            }
        }
        self.micros = super::calendar::round_micros(self.micros, precision.min(6));
        self
    }
}

/// `-6.7` in microseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = text.starts_with('-');
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    let whole = whole.parse::<i64>().ok()?.checked_mul(MICROS_PER_SECOND)?;
    whole.checked_add(if negative { -fraction } else { fraction })
}

/// `.5`, or nothing for 0: a fraction of a second without zeros at the end.
pub fn write_fraction(out: &mut impl Write, micros: i64) {
    if micros == 0 {
        return;
    }
    let (mut digits, mut width) = (micros, 6);
    while digits % 10 == 0 {
        digits /= 10;
        width -= 1;
    }
    let _ = write!(out, ".{digits:0width$}");
}

/// As PostgreSQL prints it: `1 year 2 mons -3 days +04:05:06.7`.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut after_negative = false;
        let parts = [(self.months / 12, "year"), (self.months % 12, "mon"), (self.days, "day")];
        for (value, unit) in parts {
            if value == 0 {
                continue;
            }
            let space = if first { "" } else { " " };
            let plus = if after_negative && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            write!(f, "{space}{plus}{value} {unit}{plural}")?;
            first = false;
            after_negative = value < 0;
        }
        if first || self.micros != 0 {
            let space = if first { "" } else { " " };
            let sign = match (self.micros < 0, after_negative) {
                (true, _) => "-",
                (false, true) => "+",
                (false, false) => "",
            };
            let micros = self.micros.unsigned_abs();
            let total = micros / MICROS_PER_SECOND as u64;
            let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
            write!(f, "{space}{sign}{hours:02}:{minutes:02}:{seconds:02}")?;
            write_fraction(f, (micros % MICROS_PER_SECOND as u64) as i64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_survive_their_stored_form() {
        for interval in [
            Interval::default(),
            Interval { months: 14, days: 3, micros: 14_706_700_000 },
            Interval { months: -14, days: 3, micros: -14_706_700_000 },
            Interval { months: i32::MIN, days: i32::MIN, micros: i64::MIN },
            Interval { months: i32::MAX, days: i32::MAX, micros: i64::MAX },
            Interval { months: 0, days: 0, micros: -1 },
        ] {
            assert_eq!(Interval::from_stored(&interval.to_stored()), Some(interval));
        }
        assert_eq!(Interval::default().to_stored(), "PT0S");
        let interval = Interval { months: 14, days: 3, micros: 14_706_700_000 };
        assert_eq!(interval.to_stored(), "P1Y2M3DT4H5M6.7S");
        assert_eq!(interval.to_string(), "1 year 2 mons 3 days 04:05:06.7");
        let mixed = Interval { months: -14, days: 3, micros: -14_706_700_000 };
        assert_eq!(mixed.to_string(), "-1 years -2 mons +3 days -04:05:06.7");
        assert_eq!(Interval::default().to_string(), "00:00:00");
    }
}

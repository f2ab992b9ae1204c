//! Intervals as people write them: `1 year 2 mons`, `3 days 04:05:06.7`, `1-2`,
//! `P1Y2M3DT4H`, `@ 5 minutes ago`.

use super::calendar::{MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND};
use super::interval::Interval;
use crate::{SqlError, SqlState};

enum Fault {
    Syntax,
    Range,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
    Decade,
    Century,
    Millennium,
}

impl Unit {
    fn named(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecon" | "microsecond"
            | "microseconds" => Self::Microsecond,
            "ms" | "msec" | "msecs" | "mseconds" | "millisecon" | "millisecond"
            | "milliseconds" => Self::Millisecond,
            "s" | "sec" | "secs" | "second" | "seconds" => Self::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Self::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Self::Hour,
            "d" | "day" | "days" => Self::Day,
            "w" | "week" | "weeks" => Self::Week,
            "mon" | "mons" | "month" | "months" => Self::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Self::Year,
            "dec" | "decs" | "decade" | "decades" => Self::Decade,
            "c" | "cent" | "century" | "centuries" => Self::Century,
            "mil" | "mils" | "millennia" | "millennium" => Self::Millennium,
            _ => return None,
        })
    }
}

/// A number with its sign: digits before the point, and what is after it.
#[derive(Clone, Copy, Debug)]
struct Amount {
    whole: i64,
    /// Less than 1, with the sign of the number.
    fraction: f64,
}

/// # Errors
/// 22007 for what is no interval, 22008 and 22015 for one out of range.
pub fn parse_interval(text: &str) -> Result<Interval, SqlError> {
    let trimmed = text.trim();
    let result = match trimmed.strip_prefix(['P', 'p']) {
        Some(rest) => parse_iso(rest),
        None => parse_words(trimmed),
    };
    result.map_err(|fault| match fault {
        Fault::Syntax => SqlError::new(
            SqlState::INVALID_DATETIME,
            format!("invalid input syntax for type interval: \"{text}\""),
        ),
        Fault::Range => SqlError::new(
            SqlState::INTERVAL_FIELD_OVERFLOW,
            format!("interval field value out of range: \"{text}\""),
        ),
    })
}

/// Sums up fields.
#[derive(Default)]
struct Sum {
    interval: Interval,
    /// A bit for each unit that was given.
    seen: u16,
}

impl Sum {
    fn add_micros(&mut self, whole: i64, unit: i64, fraction: f64) -> Result<(), Fault> {
        let part = (fraction * unit as f64).round_ties_even() as i64;
        let micros = whole
            .checked_mul(unit)
            .and_then(|micros| micros.checked_add(part))
            .and_then(|micros| self.interval.micros.checked_add(micros));
        self.interval.micros = micros.ok_or(Fault::Range)?;
        Ok(())
    }

    fn add_days(&mut self, whole: i64, unit: i64, fraction: f64) -> Result<(), Fault> {
        let part = fraction * unit as f64;
        let days = whole
            .checked_mul(unit)
            .and_then(|days| days.checked_add(part.trunc() as i64))
            .and_then(|days| i32::try_from(days).ok())
            .and_then(|days| self.interval.days.checked_add(days));
        self.interval.days = days.ok_or(Fault::Range)?;
        self.add_micros(0, MICROS_PER_DAY, part - part.trunc())
    }

    fn add_months(&mut self, whole: i64, unit: i64, fraction: f64) -> Result<(), Fault> {
        let part = (fraction * unit as f64).round_ties_even() as i64;
        let months = whole
            .checked_mul(unit)
            .and_then(|months| months.checked_add(part))
            .and_then(|months| i32::try_from(months).ok())
            .and_then(|months| self.interval.months.checked_add(months));
        self.interval.months = months.ok_or(Fault::Range)?;
        Ok(())
    }

    /// Each unit may be given once.
    fn once(&mut self, units: &[Unit]) -> Result<(), Fault> {
        for unit in units {
            let bit = 1 << *unit as u16;
            if self.seen & bit != 0 {
                return Err(Fault::Syntax);
            }
            self.seen |= bit;
        }
        Ok(())
    }

    fn add(&mut self, amount: Amount, unit: Unit) -> Result<(), Fault> {
        let Amount { whole, fraction } = amount;
        match unit {
            Unit::Microsecond => self.add_micros(whole, 1, fraction),
            Unit::Millisecond => self.add_micros(whole, 1000, fraction),
            Unit::Second => self.add_micros(whole, MICROS_PER_SECOND, fraction),
            Unit::Minute => self.add_micros(whole, MICROS_PER_MINUTE, fraction),
            Unit::Hour => self.add_micros(whole, MICROS_PER_HOUR, fraction),
            Unit::Day => self.add_days(whole, 1, fraction),
            Unit::Week => self.add_days(whole, 7, fraction),
            Unit::Month => {
                self.add_months(whole, 1, 0.0)?;
                self.add_days(0, 30, fraction)
            }
            Unit::Year => self.add_months(whole, 12, fraction),
            Unit::Decade => self.add_months(whole, 120, fraction),
            Unit::Century => self.add_months(whole, 1200, fraction),
            Unit::Millennium => self.add_months(whole, 12_000, fraction),
        }
    }
}

/// `-1.5` at the beginning of the text, and what follows it.
fn amount(text: &str) -> Result<(Amount, &str), Fault> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (whole, mut rest) = rest.split_at(end);
    let mut fraction = 0.0;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(after.len());
        if whole.is_empty() && end == 0 {
            return Err(Fault::Syntax);
        }
        fraction = format!("0.{}", &after[..end]).parse().map_err(|_| Fault::Syntax)?;
        rest = &after[end..];
    } else if whole.is_empty() {
        return Err(Fault::Syntax);
    }
    let whole: i64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| Fault::Range)?,
    };
    let sign = |value: i64| if negative { -value } else { value };
    let fraction = if negative { -fraction } else { fraction };
    Ok((Amount { whole: sign(whole), fraction }, rest))
}

/// `1Y2M3DT4H5M6.7S`, or `0001-02-03T04:05:06`.
fn parse_iso(text: &str) -> Result<Interval, Fault> {
    let mut sum = Sum::default();
    let mut rest = text;
    let mut in_time = false;
    if rest.is_empty() {
        return Err(Fault::Syntax);
    }
    if rest.contains(':') || rest.trim_start_matches('-').contains('-') && !rest.contains('Y') {
        return parse_iso_alternative(rest);
    }
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix(['T', 't']) {
            if in_time || time.is_empty() {
                return Err(Fault::Syntax);
            }
            in_time = true;
            rest = time;
            continue;
        }
        let (amount, after) = amount(rest)?;
        let unit = match (in_time, after.bytes().next()) {
            (false, Some(b'Y')) => Unit::Year,
            (false, Some(b'M')) => Unit::Month,
            (false, Some(b'W')) => Unit::Week,
            (false, Some(b'D')) => Unit::Day,
            (true, Some(b'H')) => Unit::Hour,
            (true, Some(b'M')) => Unit::Minute,
            (true, Some(b'S')) => Unit::Second,
            _ => return Err(Fault::Syntax),
        };
        sum.add(amount, unit)?;
        rest = &after[1..];
    }
    Ok(sum.interval)
}

fn parse_iso_alternative(text: &str) -> Result<Interval, Fault> {
    let (date, time) = text.split_once(['T', 't']).unwrap_or((text, ""));
    let mut sum = Sum::default();
    if !date.is_empty() {
        let units = [Unit::Year, Unit::Month, Unit::Day];
        let mut parts = date.split('-');
        for unit in units {
            let Some(part) = parts.next() else { break };
            let (amount, rest) = amount(part)?;
            if !rest.is_empty() {
                return Err(Fault::Syntax);
            }
            sum.add(amount, unit)?;
        }
        if parts.next().is_some() {
            return Err(Fault::Syntax);
        }
    }
    if !time.is_empty() {
        sum.add_micros(clock(time)?, 1, 0.0)?;
    }
    Ok(sum.interval)
}

/// `[-]hh:mm[:ss[.fraction]]` or `mm:ss.fraction` in microseconds.
fn clock(text: &str) -> Result<i64, Fault> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let numbers: Vec<i64> = whole
        .split(':')
        .map(|part| match part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Err(Fault::Syntax),
            false => part.parse().map_err(|_| Fault::Range),
        })
        .collect::<Result<_, _>>()?;
    let (hours, minutes, seconds) = match numbers.as_slice() {
        [minutes, seconds] if rest.contains('.') => (0, *minutes, *seconds),
        [hours, minutes] => (*hours, *minutes, 0),
        [hours, minutes, seconds] => (*hours, *minutes, *seconds),
        _ => return Err(Fault::Syntax),
    };
    if minutes >= 60 || seconds > 60 {
        return Err(Fault::Range);
    }
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Syntax);
    }
    let fraction: f64 = format!("0.{fraction}0").parse().map_err(|_| Fault::Syntax)?;
    let mut sum = Sum::default();
    // The lowest of all has no counterpart that is positive.
    let sign = if negative { -1 } else { 1 };
    sum.add_micros(sign * hours, MICROS_PER_HOUR, 0.0)?;
    sum.add_micros(sign * minutes, MICROS_PER_MINUTE, 0.0)?;
    sum.add_micros(sign * seconds, MICROS_PER_SECOND, sign as f64 * fraction)?;
    Ok(sum.interval.micros)
}

/// One of PostgreSQL's limits: fields in one text.
const MOST_FIELDS: usize = 25;

fn parse_words(text: &str) -> Result<Interval, Fault> {
    let mut sum = Sum::default();
    let mut ago = false;
    let mut fields = 0;
    // A number whose unit has not come yet.
    let mut pending: Option<Amount> = None;
    let mut rest = text.strip_prefix('@').unwrap_or(text);
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        let Some(first) = rest.bytes().next() else { break };
        fields += 1;
        if ago || fields > MOST_FIELDS {
            return Err(Fault::Syntax);
        }
        if first.is_ascii_alphabetic() {
            let end = rest.bytes().position(|byte| !byte.is_ascii_alphabetic());
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after;
            match (pending.take(), Unit::named(word)) {
                (Some(amount), Some(unit)) => {
                    sum.once(&[unit])?;
                    sum.add(amount, unit)?;
                }
                (None, None) if word.eq_ignore_ascii_case("ago") && fields > 1 => ago = true,
                _ => return Err(Fault::Syntax),
            }
            continue;
        }
        let signed = usize::from(matches!(first, b'+' | b'-'));
        let spaces = rest[signed..].bytes().take_while(|byte| *byte == b' ').count();
        let body = signed + spaces;
        let length = rest[body..]
            .bytes()
            .position(|byte| !(byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'-')))
            .unwrap_or(rest.len() - body);
        let digits = &rest[body..body + length];
        if digits.is_empty() {
            return Err(Fault::Syntax);
        }
        let token = format!("{}{digits}", &rest[..signed]);
        rest = &rest[body + length..];
        if digits.contains(':') {
            // A number before a time are days.
            if let Some(days) = pending.take() {
                sum.once(&[Unit::Day])?;
                sum.add(days, Unit::Day)?;
            }
            sum.once(&[Unit::Hour, Unit::Minute, Unit::Second])?;
            sum.add_micros(clock(&token)?, 1, 0.0)?;
        } else if let Some((years, months)) = digits.split_once('-') {
            if pending.is_some() {
                return Err(Fault::Syntax);
            }
            sum.once(&[Unit::Year, Unit::Month])?;
            year_month(&mut sum, token.starts_with('-'), years, months)?;
        } else if pending.is_none() {
            let (found, after) = amount(&token)?;
            if !after.is_empty() {
                return Err(Fault::Syntax);
            }
            pending = Some(found);
        } else {
            return Err(Fault::Syntax);
        }
    }
    match pending {
        Some(amount) => {
            sum.once(&[Unit::Second])?;
            sum.add(amount, Unit::Second)?;
        }
        None if fields == 0 => return Err(Fault::Syntax),
        None => {}
    }
    match ago {
        true => sum.interval.checked_neg().ok_or(Fault::Range),
        false => Ok(sum.interval),
    }
}

/// `1-2` is a year and two months.
fn year_month(sum: &mut Sum, negative: bool, years: &str, months: &str) -> Result<(), Fault> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| Fault::Syntax);
    let (years, months) = (number(years)?, number(months)?);
    if !(0..12).contains(&months) {
        return Err(Fault::Range);
    }
    let sign = if negative { -1 } else { 1 };
    sum.add_months(sign * years, 12, 0.0)?;
    sum.add_months(sign * months, 1, 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_time_of_an_interval_is_read() {
        let lowest = parse_interval("-2562047788:00:54.775808").unwrap();
        assert_eq!((lowest.micros, lowest.days, lowest.months), (i64::MIN, 0, 0));
        let before_zero = parse_interval("-0:00:00.25").unwrap();
        assert_eq!(before_zero.micros, -250_000);
        assert!(parse_interval("2562047788:00:54.775808").is_err());
    }
}

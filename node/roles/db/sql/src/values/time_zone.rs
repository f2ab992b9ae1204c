//! A session's time zone, by the database of zones that is built in, so that every
//! node knows the same ones.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil;
use jiff::tz::TimeZoneDatabase;

use super::calendar::{self, EPOCH_SECONDS, MICROS_PER_DAY, MICROS_PER_SECOND};
use crate::{SqlError, SqlState};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct TimeZone {
    name: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Seconds eastwards.
    Fixed(i32),
    Named(jiff::tz::TimeZone),
}

impl Default for TimeZone {
    fn default() -> Self {
        Self::utc()
    }
}

/// Abbreviations that PostgreSQL knows by default, with seconds eastwards.
const ABBREVIATIONS: &[(&str, i32)] = &[
    ("utc", 0),
    ("gmt", 0),
    ("z", 0),
    ("zulu", 0),
    ("ut", 0),
    ("wet", 0),
    ("west", 3600),
    ("bst", 3600),
    ("cet", 3600),
    ("cest", 7200),
    ("met", 3600),
    ("mest", 7200),
    ("eet", 7200),
    ("eest", 10_800),
    ("msk", 10_800),
    ("est", -18_000),
    ("edt", -14_400),
    ("cst", -21_600),
    ("cdt", -18_000),
    ("mst", -25_200),
    ("mdt", -21_600),
    ("pst", -28_800),
    ("pdt", -25_200),
    ("akst", -32_400),
    ("akdt", -28_800),
    ("hst", -36_000),
    ("jst", 32_400),
    ("kst", 32_400),
    ("sgt", 28_800),
    ("ist", 7200),
    ("aest", 36_000),
    ("aedt", 39_600),
    ("acst", 34_200),
    ("acdt", 37_800),
    ("awst", 28_800),
    ("nzst", 43_200),
    ("nzdt", 46_800),
];

impl TimeZone {
    pub fn utc() -> Self {
        Self { name: "UTC".into(), kind: Kind::Fixed(0) }
    }

    /// `seconds` east of UTC, shown as an ISO offset.
    pub fn fixed(seconds: i32) -> Self {
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        let name = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
        Self { name: name.into(), kind: Kind::Fixed(seconds) }
    }

    /// What `SHOW timezone` says.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of a name such as `Europe/Berlin`, an abbreviation such as `CET`, or, as `SET
    /// TIME ZONE` takes it, hours east of UTC such as `-3` or `5.5`.
    ///
    /// # Errors
    /// 22023 if there is no such zone.
    pub fn parse(text: &str) -> Result<Self, SqlError> {
        let trimmed = text.trim();
        if let Ok(hours) = trimmed.parse::<f64>()
            && hours.abs() < 168.0
        {
            return Ok(Self::fixed((hours * 3600.0).round() as i32));
        }
        Self::find(trimmed).ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("time zone \"{text}\" not recognized"),
            )
        })
    }

    /// As functions take it: like [`Self::parse`], but hours count westwards.
    ///
    /// # Errors
    /// 22023 if there is no such zone.
    pub(crate) fn parse_posix(text: &str) -> Result<Self, SqlError> {
        match Self::parse(text)? {
            Self { kind: Kind::Fixed(seconds), .. } if text.trim().parse::<f64>().is_ok() => {
                Ok(Self::fixed(-seconds))
            }
            zone => Ok(zone),
        }
    }

    /// Of a name or an abbreviation.
    pub fn find(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("utc") || name.eq_ignore_ascii_case("default") {
            return Some(Self::utc());
        }
        if let Some(seconds) = abbreviation(name) {
            let name = name.to_ascii_uppercase();
            return Some(Self { name: name.into(), kind: Kind::Fixed(seconds) });
        }
        if let Some(posix) = posix_offset(name) {
            return Some(Self { name: name.into(), kind: Kind::Fixed(posix) });
        }
        let zone = TimeZoneDatabase::bundled().get(name).ok()?;
        let canonical = zone.iana_name().unwrap_or(name).into();
        Some(Self { name: canonical, kind: Kind::Named(zone) })
    }

    /// Seconds east of UTC at a moment in UTC.
    pub fn offset_at(&self, timestamp: i64) -> i32 {
        match &self.kind {
            Kind::Fixed(seconds) => *seconds,
            Kind::Named(zone) => zone.to_offset(jiff_timestamp(timestamp)).seconds(),
        }
    }

    /// Seconds east of UTC when clocks in the zone show `local`. In a gap that clocks
    /// skip, it is the offset before it; of a time that comes twice, the standard
    /// time's, as PostgreSQL has it.
    pub fn offset_at_local(&self, local: i64) -> i32 {
        let zone = match &self.kind {
            Kind::Fixed(seconds) => return *seconds,
            Kind::Named(zone) => zone,
        };
        let civil = calendar::civil_of(local);
        let date = civil::Date::new(
            civil.date.year.clamp(-9999, 9999) as i16,
            civil.date.month as i8,
            civil.date.day.min(28) as i8,
        );
        let Ok(date) = date else { return self.offset_at(local) };
        let days = i64::from(civil.date.day - civil.date.day.min(28));
        let seconds = civil.time / MICROS_PER_SECOND;
        let moment = date.saturating_add(jiff::Span::new().days(days)).at(
            (seconds / 3600) as i8,
            (seconds / 60 % 60) as i8,
            (seconds % 60) as i8,
            0,
        );
        let ambiguous = zone.to_ambiguous_timestamp(moment);
        match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Unambiguous { offset } => offset.seconds(),
            jiff::tz::AmbiguousOffset::Gap { before, .. } => before.seconds(),
            jiff::tz::AmbiguousOffset::Fold { after, .. } => after.seconds(),
        }
    }

    /// What clocks in the zone show at a moment in UTC.
    pub fn to_local(&self, timestamp: i64) -> i64 {
        if calendar::is_infinite(timestamp) {
            return timestamp;
        }
        timestamp.saturating_add(i64::from(self.offset_at(timestamp)) * MICROS_PER_SECOND)
    }

    /// The moment in UTC when clocks in the zone show `local`, nothing if that is out
    /// of range.
    pub fn to_utc(&self, local: i64) -> Option<i64> {
        if calendar::is_infinite(local) {
            return Some(local);
        }
        let offset = i64::from(self.offset_at_local(local)) * MICROS_PER_SECOND;
        local.checked_sub(offset).filter(|moment| calendar::valid_timestamp(*moment))
    }

    /// The abbreviation that `to_char`'s TZ shows.
    pub fn abbreviation_at(&self, timestamp: i64) -> String {
        match &self.kind {
            Kind::Fixed(_) => self.name.to_string(),
            Kind::Named(zone) => {
                zone.to_offset_info(jiff_timestamp(timestamp)).abbreviation().to_owned()
            }
        }
    }
}

/// Seconds eastwards of an abbreviation.
pub fn abbreviation(name: &str) -> Option<i32> {
    ABBREVIATIONS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, seconds)| *seconds)
}

/// `UTC+3` and `<+03>-3`: POSIX counts westwards.
fn posix_offset(name: &str) -> Option<i32> {
    let start = name.find(['+', '-']).filter(|start| *start > 0)?;
    let rest = match name.strip_prefix('<') {
        Some(rest) => rest.split_once('>')?.1,
        None if name[..start].bytes().all(|byte| byte.is_ascii_alphabetic()) => &name[start..],
        None => return None,
    };
    let (sign, digits) = match rest.split_at_checked(1)? {
        ("+", digits) => (-1, digits),
        ("-", digits) => (1, digits),
        _ => return None,
    };
    let (hours, minutes) = digits.split_once(':').unwrap_or((digits, "0"));
    let (hours, minutes) = (hours.parse::<u8>().ok()?, minutes.parse::<u8>().ok()?);
    (hours < 24 && minutes < 60).then(|| sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60))
}

/// The nearest that the library knows: it ends at the year 9999, zones do not change
/// after that.
fn jiff_timestamp(timestamp: i64) -> Timestamp {
    let seconds = timestamp.div_euclid(MICROS_PER_SECOND).saturating_add(EPOCH_SECONDS);
    let (first, last) = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(seconds.clamp(first, last - MICROS_PER_DAY / MICROS_PER_SECOND))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_known_by_name_abbreviation_and_offset() {
        let berlin = TimeZone::parse("Europe/Berlin").unwrap();
        assert_eq!(berlin.offset_at(0), 3600);
        // 2000-07-01
        assert_eq!(berlin.offset_at(182 * MICROS_PER_DAY), 7200);
        assert_eq!(TimeZone::parse("europe/berlin").unwrap().name(), "Europe/Berlin");
        assert_eq!(TimeZone::parse("-3").unwrap().offset_at(0), -10_800);
        assert_eq!(TimeZone::parse("EST").unwrap().offset_at(0), -18_000);
        assert_eq!(TimeZone::parse("UTC+3").unwrap().offset_at(0), -10_800);
        assert_eq!(TimeZone::parse("utc").unwrap().name(), "UTC");
        let error = TimeZone::parse("Nowhere/At all").unwrap_err();
        assert_eq!(error.message, "time zone \"Nowhere/At all\" not recognized");
    }

    #[test]
    fn skipped_and_repeated_times_are_taken_as_postgresql_takes_them() {
        let new_york = TimeZone::parse("America/New_York").unwrap();
        let local = |month, day, time: i64| {
            let days = calendar::days_of(calendar::Date { year: 2024, month, day });
            days * MICROS_PER_DAY + time
        };
        let at = |local| new_york.offset_at_local(local) / 3600;
        assert_eq!(at(local(3, 10, 9_000 * MICROS_PER_SECOND)), -5);
        assert_eq!(at(local(11, 3, 5_400 * MICROS_PER_SECOND)), -5);
        assert_eq!(at(local(7, 31, 0)), -4);
    }
}

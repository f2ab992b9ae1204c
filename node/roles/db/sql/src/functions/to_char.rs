//! `to_char` of dates, times and intervals, and reading by a template: `to_date`,
//! `to_timestamp`.

use rusqlite::types::ValueRef;

use super::call::{Call, Function, Manner::StrictStable, Outcome, int, text};
use crate::signature::Lines;
use crate::values::calendar::{
    self, Date, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
    checked_date, checked_timestamp, is_infinite,
};
use crate::values::interval::Interval;
use crate::{SqlError, SqlState};

pub(crate) const FUNCTIONS: Lines = &[
    ("to_char(timestamp, text) -> text", "rung_to_char({0}, {1}, 0)"),
    ("to_char(timestamptz, text) -> text", "rung_to_char({0}, {1}, 1)"),
    ("to_char(interval, text) -> text", "rung_to_char({0}, {1}, 2)"),
    ("to_date(text, text) -> date", "rung_to_date({0}, {1})"),
    ("to_timestamp(text, text) -> timestamptz", "rung_read_timestamp({0}, {1})"),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_to_char", 3, StrictStable, to_char),
    ("rung_to_date", 2, StrictStable, |c| {
        let read = read(c.text(0)?, c.text(1)?)?;
        let days = read.days().map_err(|error| about(error, c))?;
        int(checked_date(Some(days))?)
    }),
    ("rung_read_timestamp", 2, StrictStable, |c| {
        let read = read(c.text(0)?, c.text(1)?)?;
        let days = read.days().map_err(|error| about(error, c))?;
        let time = read.time().map_err(|error| about(error, c))?;
        let local = calendar::timestamp_of(days, time);
        let moment = match read.offset {
            Some(seconds) => local.and_then(|local| local.checked_sub(seconds * MICROS_PER_SECOND)),
            None => local.and_then(|local| c.session().time_zone.to_utc(local)),
        };
        int(checked_timestamp(moment)?)
    }),
];

/// A field out of range is told with the whole text.
fn about(mut error: SqlError, call: &Call<'_>) -> SqlError {
    if error.state == SqlState::DATETIME_FIELD_OVERFLOW
        && let Ok(whole) = call.text(0)
    {
        error.message = format!("{}: \"{whole}\"", error.message);
    }
    error
}

/// What a template may contain, longer words before those that they begin with.
const WORDS: &[&str] = &[
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "IDDD", "ID", "IW", "I", "HH24",
    "HH12", "HH", "MI", "SSSSS", "SSSS", "SS", "MS", "US", "FF1", "FF2", "FF3", "FF4", "FF5",
    "FF6", "A.M.", "P.M.", "AM", "PM", "A.D.", "B.C.", "AD", "BC", "MONTH", "MON", "MM", "DAY",
    "DDD", "DD", "DY", "D", "WW", "W", "CC", "J", "Q", "RM", "TZH", "TZM", "TZ", "OF",
];

struct Field<'t> {
    /// As in [`WORDS`].
    word: &'static str,
    /// As in the template, whose case names are given in.
    written: &'t str,
    /// Without padding.
    fill_mode: bool,
    /// `TH` or `th` after it.
    ordinal: Option<&'t str>,
}

enum Piece<'t> {
    Field(Field<'t>),
    Literal(char),
}

fn prefix<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let start = text.get(..word.len())?;
    start.eq_ignore_ascii_case(word).then(|| &text[word.len()..])
}

fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut fill_mode = false;
    while let Some(letter) = rest.chars().next() {
        if let Some(after) = prefix(rest, "FM") {
            (fill_mode, rest) = (true, after);
            continue;
        }
        if let Some(after) = prefix(rest, "FX").or_else(|| prefix(rest, "TM")) {
            rest = after;
            continue;
        }
        if letter == '"' {
            let mut letters = rest[1..].char_indices();
            let mut end = rest.len();
            while let Some((index, inner)) = letters.next() {
                match inner {
                    '"' => {
                        end = index + 2;
                        break;
                    }
                    '\\' => pieces.extend(letters.next().map(|(_, c)| Piece::Literal(c))),
                    inner => pieces.push(Piece::Literal(inner)),
                }
            }
            rest = &rest[end..];
            continue;
        }
        let found = WORDS.iter().find_map(|word| Some((*word, prefix(rest, word)?)));
        let Some((word, mut after)) = found else {
            pieces.push(Piece::Literal(letter));
            rest = &rest[letter.len_utf8()..];
            continue;
        };
        let written = &rest[..word.len()];
        let mut ordinal = None;
        if let Some(beyond) = prefix(after, "TH") {
            ordinal = Some(&after[..2]);
            after = beyond;
        }
        pieces.push(Piece::Field(Field { word, written, fill_mode, ordinal }));
        (fill_mode, rest) = (false, after);
    }
    pieces
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const ROMAN: [&str; 12] =
    ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];

/// What is shown: a moment in the calendar, or the fields of an interval.
struct Shown {
    year: i64,
    month: i64,
    day: i64,
    /// Microseconds; of an interval, of any size.
    time: i64,
    /// Since 2000-01-01; nothing of an interval.
    days: Option<i64>,
    /// Seconds eastwards and abbreviation.
    zone: Option<(i32, String)>,
}

fn to_char(call: &Call<'_>) -> Outcome {
    let shown = match (call.int(2)?, call.get(0)) {
        (2, _) => {
            let Interval { months, days, micros } = call.interval(0)?;
            Shown {
                year: i64::from(months / 12),
                month: i64::from(months % 12),
                day: i64::from(days),
                time: micros,
                days: None,
                zone: None,
            }
        }
        (_, ValueRef::Integer(moment)) if is_infinite(moment) => {
            return Ok(rusqlite::types::Value::Null);
        }
        (kind, _) => {
            let moment = call.int(0)?;
            let zone = (kind == 1).then(|| {
                let zone = call.session().time_zone.clone();
                (zone.offset_at(moment), zone.abbreviation_at(moment))
            });
            let offset = zone.as_ref().map_or(0, |(offset, _)| i64::from(*offset));
            let local = moment.saturating_add(offset * MICROS_PER_SECOND);
            let civil = calendar::civil_of(local);
            Shown {
                year: civil.date.year.into(),
                month: civil.date.month.into(),
                day: civil.date.day.into(),
                time: civil.time,
                days: Some(local.div_euclid(MICROS_PER_DAY)),
                zone,
            }
        }
    };
    let mut out = String::new();
    for piece in pieces(call.text(1)?) {
        match piece {
            Piece::Literal(letter) => out.push(letter),
            Piece::Field(field) => show(&mut out, &field, &shown)?,
        }
    }
    text(out)
}

/// In the case in which the template writes the name.
fn cased(name: &str, written: &str) -> String {
    let mut letters = written.chars();
    let capital = letters.next().is_some_and(char::is_uppercase);
    match (capital, letters.next().is_some_and(char::is_uppercase)) {
        (true, true) => name.to_uppercase(),
        (true, false) => name.to_owned(),
        _ => name.to_lowercase(),
    }
}

fn ordinal_suffix(value: i64) -> &'static str {
    match (value.abs() % 100, value.abs() % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

fn show(out: &mut String, field: &Field<'_>, shown: &Shown) -> Result<(), SqlError> {
    let number = |out: &mut String, value: i64, width: usize| {
        let width = if field.fill_mode { 0 } else { width + usize::from(value < 0) };
        out.push_str(&format!("{value:0width$}"));
        if let Some(th) = field.ordinal {
            let suffix = ordinal_suffix(value);
            out.push_str(&if th == "TH" { suffix.to_uppercase() } else { suffix.to_owned() });
        }
    };
    let name = |out: &mut String, name: &str, width: usize| {
        let width = if field.fill_mode { 0 } else { width };
        out.push_str(&format!("{:width$}", cased(name, field.written)));
    };
    let calendar_only = || {
        shown.days.ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_DATETIME,
                "invalid format specification for an interval value",
            )
            .hint("Intervals are not tied to specific calendar dates.")
        })
    };
    // The year 0 is 1 BC, which has no sign.
    let era_year = match shown.days {
        Some(_) if shown.year <= 0 => 1 - shown.year,
        _ => shown.year,
    };
    let hours = shown.time / MICROS_PER_HOUR;
    let half = match hours % 12 {
        0 => 12,
        hour => hour,
    };
    let micros = shown.time % MICROS_PER_SECOND;
    let afternoon = hours % 24 >= 12;
    let date = || calendar_only().map(calendar::date_of);
    match field.word {
        "Y,YYY" => out.push_str(&format!("{},{:03}", era_year / 1000, era_year % 1000)),
        "YYYY" => number(out, era_year, 4),
        "YYY" => number(out, era_year % 1000, 3),
        "YY" => number(out, era_year % 100, 2),
        "Y" => number(out, era_year % 10, 1),
        "IYYY" => number(out, calendar::iso_week(calendar_only()?).0.into(), 4),
        "IYY" => number(out, i64::from(calendar::iso_week(calendar_only()?).0) % 1000, 3),
        "IY" => number(out, i64::from(calendar::iso_week(calendar_only()?).0) % 100, 2),
        "I" => number(out, i64::from(calendar::iso_week(calendar_only()?).0) % 10, 1),
        "IW" => number(out, calendar::iso_week(calendar_only()?).1, 2),
        "ID" => number(out, (calendar::day_of_week(calendar_only()?) + 6) % 7 + 1, 1),
        "IDDD" => {
            let days = calendar_only()?;
            let (year, _) = calendar::iso_week(days);
            number(out, days - calendar::iso_year_start(year) + 1, 3);
        }
        "HH24" => number(out, hours, 2),
        "HH12" | "HH" => number(out, half, 2),
        "MI" => number(out, shown.time / MICROS_PER_MINUTE % 60, 2),
        "SS" => number(out, shown.time / MICROS_PER_SECOND % 60, 2),
        "SSSS" | "SSSSS" => number(out, shown.time / MICROS_PER_SECOND, 1),
        "MS" => number(out, micros / 1000, 3),
        "US" | "FF6" => number(out, micros, 6),
        "FF1" => number(out, micros / 100_000, 1),
        "FF2" => number(out, micros / 10_000, 2),
        "FF3" => number(out, micros / 1000, 3),
        "FF4" => number(out, micros / 100, 4),
        "FF5" => number(out, micros / 10, 5),
        "AM" | "PM" => out.push_str(&half_of_day(field, if afternoon { "PM" } else { "AM" })),
        "A.M." | "P.M." => {
            out.push_str(&half_of_day(field, if afternoon { "P.M." } else { "A.M." }));
        }
        "AD" | "BC" => {
            calendar_only()?;
            out.push_str(&half_of_day(field, if shown.year <= 0 { "BC" } else { "AD" }));
        }
        "A.D." | "B.C." => {
            calendar_only()?;
            out.push_str(&half_of_day(field, if shown.year <= 0 { "B.C." } else { "A.D." }));
        }
        "MONTH" => name(out, MONTHS[(date()?.month - 1) as usize], 9),
        "MON" => name(out, &MONTHS[(date()?.month - 1) as usize][..3], 0),
        "MM" => number(out, shown.month, 2),
        "RM" => name(out, ROMAN[(date()?.month - 1) as usize], 4),
        "DAY" => name(out, DAYS[calendar::day_of_week(calendar_only()?) as usize], 9),
        "DY" => name(out, &DAYS[calendar::day_of_week(calendar_only()?) as usize][..3], 0),
        "DDD" => number(out, calendar::day_of_year(date()?), 3),
        "DD" => number(out, shown.day, 2),
        "D" => number(out, calendar::day_of_week(calendar_only()?) + 1, 1),
        "W" => number(out, (shown.day - 1) / 7 + 1, 1),
        "WW" => number(out, (calendar::day_of_year(date()?) - 1) / 7 + 1, 2),
        "CC" => {
            let century =
                if shown.year > 0 { (shown.year - 1) / 100 + 1 } else { shown.year / 100 - 1 };
            number(out, century, 2);
        }
        "J" => number(out, calendar_only()? + calendar::JULIAN_DAY_OF_EPOCH, 1),
        "Q" => number(out, (shown.month - 1) / 3 + 1, 1),
        word => {
            calendar_only()?;
            show_zone(out, word, field.written, shown.zone.as_ref());
        }
    }
    Ok(())
}

fn half_of_day(field: &Field<'_>, name: &str) -> String {
    match field.written.starts_with(char::is_uppercase) {
        true => name.to_owned(),
        false => name.to_lowercase(),
    }
}

/// A moment without a zone shows nothing, or that it is at no distance from UTC.
fn show_zone(out: &mut String, word: &str, written: &str, zone: Option<&(i32, String)>) {
    let (offset, abbreviation) = zone.map_or((0, ""), |(offset, name)| (*offset, name.as_str()));
    let sign = if offset < 0 { '-' } else { '+' };
    let (hours, minutes) = (offset.abs() / 3600, offset.abs() / 60 % 60);
    match word {
        "TZ" if written.starts_with('T') => out.push_str(abbreviation),
        "TZ" => out.push_str(&abbreviation.to_lowercase()),
        "TZH" => out.push_str(&format!("{sign}{hours:02}")),
        "TZM" => out.push_str(&format!("{minutes:02}")),
        _ => {
            out.push_str(&format!("{sign}{hours:02}"));
            if minutes != 0 {
                out.push_str(&format!(":{minutes:02}"));
            }
        }
    }
}

/// What was read by a template.
#[derive(Default)]
struct Read {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    julian: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    micros: i64,
    afternoon: Option<bool>,
    before_christ: bool,
    /// Seconds eastwards.
    offset: Option<i64>,
}

fn field_overflow() -> SqlError {
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, "date/time field value out of range")
}

impl Read {
    fn days(&self) -> Result<i64, SqlError> {
        if let Some(julian) = self.julian {
            return Ok(julian - calendar::JULIAN_DAY_OF_EPOCH);
        }
        let year = match (self.year, self.before_christ) {
            (Some(year), true) => 1 - year,
            (Some(year), false) => year,
            (None, _) => 0,
        };
        let year = i32::try_from(year).map_err(|_| field_overflow())?;
        if let Some(day) = self.day_of_year {
            let first = calendar::days_of(Date { year, month: 1, day: 1 });
            return Ok(first + day - 1);
        }
        let (month, day) = (self.month.unwrap_or(1), self.day.unwrap_or(1));
        let valid = (1..=12).contains(&month)
            && (1..=i64::from(calendar::days_in_month(year, month as i32))).contains(&day);
        if !valid {
            return Err(field_overflow());
        }
        Ok(calendar::days_of(Date { year, month: month as i32, day: day as i32 }))
    }

    fn time(&self) -> Result<i64, SqlError> {
        let hour = match self.afternoon {
            None => self.hour,
            Some(_) if !(1..=12).contains(&self.hour) => {
                return Err(SqlError::new(
                    SqlState::INVALID_DATETIME,
                    format!("hour \"{}\" is invalid for the 12-hour clock", self.hour),
                )
                .hint("Use the 24-hour clock, or give an hour between 1 and 12."));
            }
            Some(afternoon) => self.hour % 12 + if afternoon { 12 } else { 0 },
        };
        if hour > 24 || self.minute > 59 || self.second > 59 {
            return Err(field_overflow());
        }
        Ok(hour * MICROS_PER_HOUR
            + self.minute * MICROS_PER_MINUTE
            + self.second * MICROS_PER_SECOND
            + self.micros)
    }
}

fn invalid_value(rest: &str, word: &str) -> SqlError {
    let seen: String = rest.chars().take(word.len()).collect();
    SqlError::new(SqlState::INVALID_DATETIME, format!("invalid value \"{seen}\" for \"{word}\""))
}

/// Separators of the template stand for any in the text.
fn read(whole: &str, template: &str) -> Result<Read, SqlError> {
    let mut read = Read::default();
    let mut rest = whole.trim_start();
    let pieces = pieces(template);
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(letter) if !letter.is_alphanumeric() => {
                let trimmed = rest.trim_start();
                let is_separator =
                    |c: char| !c.is_alphanumeric() && c != '+' && c != '-' || c == *letter;
                rest = match trimmed.chars().next() {
                    Some(first) if is_separator(first) => &trimmed[first.len_utf8()..],
                    _ => trimmed,
                };
            }
            Piece::Literal(_) => {
                let mut letters = rest.chars();
                letters.next();
                rest = letters.as_str();
            }
            Piece::Field(field) => {
                rest = rest.trim_start();
                if rest.is_empty() {
                    break;
                }
                // Digits of the next field follow right after this one's.
                let packed = matches!(pieces.get(index + 1), Some(Piece::Field(_)));
                rest = read_field(&mut read, field, rest, packed)?;
            }
        }
    }
    Ok(read)
}

fn read_field<'t>(
    read: &mut Read,
    field: &Field<'_>,
    rest: &'t str,
    packed: bool,
) -> Result<&'t str, SqlError> {
    let word = field.word;
    let named = |names: &[&str], least: usize| {
        names.iter().enumerate().find_map(|(index, name)| {
            let after = prefix(rest, name)?;
            (name.len() >= least).then_some((index as i64, after))
        })
    };
    let short: Vec<&str> = MONTHS.iter().map(|name| &name[..3]).collect();
    match word {
        "MONTH" | "MON" | "RM" => {
            let found = match word {
                "MONTH" => named(&MONTHS, 0),
                "MON" => named(&short, 0),
                // Longer numerals first, since others begin like them.
                _ => {
                    let mut numerals: Vec<(usize, &str)> = ROMAN.into_iter().enumerate().collect();
                    numerals.sort_by_key(|(_, name)| std::cmp::Reverse(name.len()));
                    numerals
                        .iter()
                        .find_map(|(index, name)| Some((*index as i64, prefix(rest, name)?)))
                }
            };
            let (index, after) = found.ok_or_else(|| invalid_value(rest, field.written))?;
            read.month = Some(index + 1);
            return Ok(after);
        }
        "DAY" | "DY" => {
            let short: Vec<&str> = DAYS.iter().map(|name| &name[..3]).collect();
            let found = if word == "DAY" { named(&DAYS, 0) } else { named(&short, 0) };
            return found.map(|(_, after)| after).ok_or_else(|| invalid_value(rest, field.written));
        }
        "AM" | "PM" | "A.M." | "P.M." => {
            let found = named(&["A.M.", "P.M.", "AM", "PM"], 0);
            let (index, after) = found.ok_or_else(|| invalid_value(rest, field.written))?;
            read.afternoon = Some(index % 2 == 1);
            return Ok(after);
        }
        "AD" | "BC" | "A.D." | "B.C." => {
            let found = named(&["A.D.", "B.C.", "AD", "BC"], 0);
            let (index, after) = found.ok_or_else(|| invalid_value(rest, field.written))?;
            read.before_christ = index % 2 == 1;
            return Ok(after);
        }
        _ => {}
    }
    read_number(read, field, rest, packed)
}

fn read_number<'t>(
    read: &mut Read,
    field: &Field<'_>,
    rest: &'t str,
    packed: bool,
) -> Result<&'t str, SqlError> {
    let width = match field.word {
        "YYYY" | "HH24" | "HH12" | "HH" | "MI" | "SS" | "MM" | "DD" | "YY" | "TZM" if !packed => 18,
        "YYYY" => 4,
        "YYY" | "DDD" | "MS" | "FF3" => 3,
        "Y" | "D" | "W" | "Q" | "FF1" => 1,
        "US" | "FF6" => 6,
        "FF5" | "SSSSS" | "SSSS" => 5,
        "FF4" => 4,
        "J" => 9,
        _ => 2,
    };
    let width = if field.fill_mode { 18 } else { width };
    let negative = rest.starts_with('-') && matches!(field.word, "TZH" | "YYYY");
    let digits = rest.strip_prefix(['-', '+']).filter(|_| field.word == "TZH" || negative);
    let digits = digits.unwrap_or(rest);
    let length = digits.bytes().take(width).take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return Err(invalid_value(rest, field.written).detail("Value must be an integer."));
    }
    let shown = &digits[..length];
    let value: i64 = shown.parse().map_err(|_| field_overflow())?;
    let fraction = |most: usize| format!("{:0<6}", &shown[..length.min(most)]).parse().unwrap_or(0);
    match field.word {
        "YYYY" if negative => (read.year, read.before_christ) = (Some(value), true),
        "YYYY" => read.year = Some(value),
        "YYY" | "YY" | "Y" => {
            read.year = Some(match value {
                0..70 if length <= 2 => value + 2000,
                70..100 if length <= 2 => value + 1900,
                100..520 => value + 2000,
                520..1000 => value + 1000,
                value => value,
            });
        }
        "MM" => read.month = Some(value),
        "DD" => read.day = Some(value),
        "DDD" => read.day_of_year = Some(value),
        "J" => read.julian = Some(value),
        "HH24" => read.hour = value,
        "HH12" | "HH" => {
            read.hour = value;
            read.afternoon.get_or_insert(false);
        }
        "MI" => read.minute = value,
        "SS" => read.second = value,
        "SSSS" | "SSSSS" => {
            (read.hour, read.minute, read.second) = (value / 3600, value / 60 % 60, value % 60);
        }
        "MS" | "FF3" | "US" | "FF1" | "FF2" | "FF4" | "FF5" | "FF6" => read.micros = fraction(6),
        "TZH" => {
            let sign = if rest.starts_with('-') { -1 } else { 1 };
            read.offset = Some(sign * value * 3600);
        }
        "TZM" => {
            let hours = read.offset.unwrap_or(0);
            read.offset = Some(hours + if hours < 0 { -value * 60 } else { value * 60 });
        }
        "D" | "W" | "Q" | "WW" => {}
        word => {
            return Err(SqlError::not_supported(
                format!("reading a date by \"{word}\""),
                "Use year, month and day.",
            ));
        }
    }
    Ok(&digits[length..])
}

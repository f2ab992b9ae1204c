//! Dates and times as people write them.
//!
//! A text is cut into tokens, which are given their meaning one after the other, as
//! PostgreSQL does it: `2024-01-02 03:04:05.6+02`, `Jan 2, 2024 3pm`, `20240102T030405Z`.

use super::calendar::{
    self, Date, INFINITY, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
    NEGATIVE_INFINITY,
};
use super::time_zone::TimeZone;
use crate::{SqlError, SqlState};

/// In which order a date of three small numbers is written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DateOrder {
    #[default]
    MonthDayYear,
    DayMonthYear,
    YearMonthDay,
}

/// What the meaning of a text depends on.
pub struct InputContext<'a> {
    pub zone: &'a TimeZone,
    pub order: DateOrder,
    /// `now`, microseconds since 2000-01-01 UTC.
    pub now: i64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Token<'a> {
    Word(&'a str),
    /// Digits only.
    Number(&'a str),
    /// `123.45`
    Decimal(&'a str),
    /// `03:04:05.6`
    Time(&'a str),
    /// Two or three fields with `-`, `/` or `.` between them.
    Date(&'a str),
    /// Seconds eastwards.
    Offset(i32),
}

/// Why a text has no meaning; the text itself is added where it is known.
enum Fault {
    Syntax,
    Range,
    /// Month or day are out of range, maybe because they are the other way round.
    MonthOrDay,
    Displacement,
    Zone(String),
}

#[derive(Default)]
struct Fields {
    year: Option<(i32, usize)>,
    month: Option<i32>,
    day: Option<i32>,
    day_of_year: Option<i32>,
    /// Days since 2000-01-01, of a Julian day or a word such as `today`.
    days: Option<i64>,
    /// Microseconds since midnight.
    time: Option<i64>,
    afternoon: Option<bool>,
    zone: Option<TimeZone>,
    before_christ: bool,
    /// A whole moment in UTC: `now`, `epoch`, infinity.
    moment: Option<i64>,
    /// A time is wanted: digits alone are one.
    only_time: bool,
}

/// What was written, before it becomes a value of one type.
struct Written {
    days: Option<i64>,
    time: Option<i64>,
    zone: Option<TimeZone>,
    moment: Option<i64>,
}

/// A stored date.
///
/// # Errors
/// 22007 for what is no date, 22008 for one out of range.
pub fn parse_date(text: &str, context: &InputContext<'_>) -> Result<i64, SqlError> {
    let written = read(text, "date", context)?;
    if let Some(moment) = written.moment {
        return Ok(calendar::date_of_timestamp(context.zone.to_local(moment)));
    }
    let days = written.days.ok_or_else(|| failure(Fault::Syntax, text, "date"))?;
    if !calendar::valid_date(days) {
        return Err(SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("date out of range: \"{text}\""),
        ));
    }
    Ok(days)
}

/// A stored time.
///
/// # Errors
/// 22007 for what is no time of day, 22008 for one out of range.
pub fn parse_time(text: &str, context: &InputContext<'_>) -> Result<i64, SqlError> {
    const NAME: &str = "time";
    let written = read(text, NAME, context)?;
    match (written.moment, written.time) {
        (Some(moment), _) if !calendar::is_infinite(moment) => {
            Ok(context.zone.to_local(moment).rem_euclid(MICROS_PER_DAY))
        }
        (None, Some(time)) => Ok(time),
        _ => Err(failure(Fault::Syntax, text, NAME)),
    }
}

/// A stored timestamp; a zone in the text has no effect.
///
/// # Errors
/// 22007 for what is no timestamp, 22008 for one out of range.
pub fn parse_timestamp(text: &str, context: &InputContext<'_>) -> Result<i64, SqlError> {
    let written = read(text, "timestamp", context)?;
    if let Some(moment) = written.moment {
        return Ok(match moment == epoch() {
            true => moment,
            false => context.zone.to_local(moment),
        });
    }
    let days = written.days.ok_or_else(|| failure(Fault::Syntax, text, "timestamp"))?;
    calendar::timestamp_of(days, written.time.unwrap_or(0)).ok_or_else(|| out_of_range(text))
}

/// A stored timestamptz.
///
/// # Errors
/// As [`parse_timestamp`], 22023 for an unknown zone.
pub fn parse_timestamptz(text: &str, context: &InputContext<'_>) -> Result<i64, SqlError> {
    const NAME: &str = "timestamp with time zone";
    let written = read(text, NAME, context)?;
    if let Some(moment) = written.moment {
        return Ok(moment);
    }
    let days = written.days.ok_or_else(|| failure(Fault::Syntax, text, NAME))?;
    let local = calendar::timestamp_of(days, written.time.unwrap_or(0));
    let zone = written.zone.as_ref().unwrap_or(context.zone);
    local.and_then(|local| zone.to_utc(local)).ok_or_else(|| out_of_range(text))
}

fn out_of_range(text: &str) -> SqlError {
    let message = format!("timestamp out of range: \"{text}\"");
    SqlError::new(SqlState::DATETIME_FIELD_OVERFLOW, message)
}

fn failure(fault: Fault, text: &str, type_name: &str) -> SqlError {
    let overflow = || {
        SqlError::new(
            SqlState::DATETIME_FIELD_OVERFLOW,
            format!("date/time field value out of range: \"{text}\""),
        )
    };
    match fault {
        Fault::Syntax => SqlError::new(
            SqlState::INVALID_DATETIME,
            format!("invalid input syntax for type {type_name}: \"{text}\""),
        ),
        Fault::Range => overflow(),
        Fault::MonthOrDay => overflow().hint("Perhaps you need a different \"datestyle\" setting."),
        Fault::Displacement => SqlError::new(
            SqlState::DISPLACEMENT_OVERFLOW,
            format!("time zone displacement out of range: \"{text}\""),
        ),
        Fault::Zone(name) => SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("time zone \"{name}\" not recognized"),
        ),
    }
}

fn epoch() -> i64 {
    -calendar::EPOCH_SECONDS * MICROS_PER_SECOND
}

fn read(text: &str, type_name: &str, context: &InputContext<'_>) -> Result<Written, SqlError> {
    let fields = tokens(text)
        .and_then(|tokens| collect(&tokens, type_name == "time", context))
        .and_then(resolve);
    fields.map_err(|fault| failure(fault, text, type_name))
}

/// At most this many tokens; PostgreSQL allows 25 fields.
const MOST_TOKENS: usize = 25;

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Fault> {
    let mut tokens = Vec::with_capacity(4);
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
        let Some(first) = rest.bytes().next() else { return Ok(tokens) };
        if tokens.len() == MOST_TOKENS {
            return Err(Fault::Syntax);
        }
        let (token, length) = match first {
            b'0'..=b'9' => numeric_token(rest),
            b'+' | b'-' => signed_token(rest)?,
            _ if first.is_ascii_alphabetic() => word_token(rest),
            _ => return Err(Fault::Syntax),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
}

fn run(text: &str, accept: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !accept(byte)).unwrap_or(text.len())
}

fn digits(text: &str) -> usize {
    run(text, |byte| byte.is_ascii_digit())
}

fn numeric_token(text: &str) -> (Token<'_>, usize) {
    let first = digits(text);
    match text.as_bytes().get(first) {
        Some(b':') => {
            let length = run(text, |byte| byte.is_ascii_digit() || byte == b':' || byte == b'.');
            (Token::Time(&text[..length]), length)
        }
        Some(separator @ (b'-' | b'/' | b'.')) => date_token(text, first, *separator),
        _ => (Token::Number(&text[..first]), first),
    }
}

/// A date with separators, or a number with a fraction. `first` is the length of the
/// first field.
fn date_token(text: &str, first: usize, separator: u8) -> (Token<'_>, usize) {
    let second_start = first + 1;
    let field = |start: usize| {
        let rest = &text[start..];
        match rest.bytes().next() {
            Some(byte) if byte.is_ascii_alphabetic() => run(rest, |b| b.is_ascii_alphabetic()),
            _ => digits(rest),
        }
    };
    let second = field(second_start);
    let end = second_start + second;
    if second == 0 && separator != b'.' {
        return (Token::Number(&text[..first]), first);
    }
    if text.as_bytes().get(end) == Some(&separator) {
        let third = field(end + 1);
        if third > 0 {
            let length = end + 1 + third;
            return (Token::Date(&text[..length]), length);
        }
    }
    if separator == b'.' && text[second_start..end].bytes().all(|byte| byte.is_ascii_digit()) {
        return (Token::Decimal(&text[..end]), end);
    }
    (Token::Date(&text[..end]), end)
}

/// An offset from UTC, `-infinity` or `+infinity`.
fn signed_token(text: &str) -> Result<(Token<'_>, usize), Fault> {
    let space = run(&text[1..], |byte| byte.is_ascii_whitespace());
    let rest = &text[1 + space..];
    let word = run(rest, |byte| byte.is_ascii_alphabetic());
    if word > 0 && space == 0 {
        let length = 1 + word;
        return Ok((Token::Word(&text[..length]), length));
    }
    let length = run(rest, |byte| byte.is_ascii_digit() || byte == b':');
    let seconds = offset(&rest[..length])?;
    let seconds = if text.starts_with('-') { -seconds } else { seconds };
    Ok((Token::Offset(seconds), 1 + space + length))
}

/// `2`, `02`, `0230`, `02:30`, `02:30:15`
fn offset(text: &str) -> Result<i32, Fault> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |part: &str| part.parse::<i32>().map_err(|_| Fault::Syntax);
    let (hours, minutes, seconds) = match parts.as_slice() {
        [all] if all.len() <= 2 => (number(all)?, 0, 0),
        [all] if all.len() <= 4 => (number(all)? / 100, number(all)? % 100, 0),
        [all] if all.len() <= 6 => {
            (number(all)? / 10_000, number(all)? / 100 % 100, number(all)? % 100)
        }
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, number(seconds)?),
        _ => return Err(Fault::Syntax),
    };
    if !(0..=15).contains(&hours) || !(0..60).contains(&minutes) || !(0..60).contains(&seconds) {
        return Err(Fault::Displacement);
    }
    Ok(hours * 3600 + minutes * 60 + seconds)
}

/// A word, a zone's name with all that may be in one, or a date that begins with a
/// month's name.
fn word_token(text: &str) -> (Token<'_>, usize) {
    let letters = run(text, |byte| byte.is_ascii_alphabetic());
    match text.as_bytes().get(letters) {
        Some(separator @ (b'-' | b'/' | b'.'))
            if month(&text[..letters]).is_some()
                && text.as_bytes().get(letters + 1).is_some_and(u8::is_ascii_digit) =>
        {
            match date_token(text, letters, *separator) {
                (Token::Decimal(date), length) => (Token::Date(date), length),
                token => token,
            }
        }
        Some(b'/' | b'_' | b'+' | b'-') => {
            let length = run(text, |byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'+' | b'-' | b':')
            });
            (Token::Word(&text[..length]), length)
        }
        _ => (Token::Word(&text[..letters]), letters),
    }
}

/// From 1.
pub fn month(word: &str) -> Option<i32> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let lower = word.to_ascii_lowercase();
    if lower == "sept" {
        return Some(9);
    }
    let found = MONTHS.iter().position(|month| lower == month[..3] || lower == *month)?;
    Some(found as i32 + 1)
}

fn is_day_of_week(word: &str) -> bool {
    matches!(
        word,
        "sun"
            | "sunday"
            | "mon"
            | "monday"
            | "tue"
            | "tues"
            | "tuesday"
            | "wed"
            | "weds"
            | "wednesday"
            | "thu"
            | "thur"
            | "thurs"
            | "thursday"
            | "fri"
            | "friday"
            | "sat"
            | "saturday"
    )
}

fn collect(
    tokens: &[Token<'_>],
    only_time: bool,
    context: &InputContext<'_>,
) -> Result<Fields, Fault> {
    let mut fields = Fields { only_time, ..Fields::default() };
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        index += 1;
        match token {
            Token::Word(word) => {
                let next = tokens.get(index);
                index += fields.word(word, next, context)?;
            }
            Token::Number(number) => fields.number(number, context.order)?,
            Token::Decimal(number) => fields.decimal(number)?,
            Token::Time(time) => fields.set_time(clock(time)?)?,
            Token::Date(date) => fields.date(date, context.order)?,
            Token::Offset(seconds) => {
                if fields.time.is_none() && fields.moment.is_none() {
                    return Err(Fault::Syntax);
                }
                // `UTC+3`, as in POSIX, is handled where zones are named.
                fields.set_zone(TimeZone::fixed(*seconds))?;
            }
        }
    }
    Ok(fields)
}

impl Fields {
    /// How many more tokens it took.
    fn word(
        &mut self,
        word: &str,
        next: Option<&Token<'_>>,
        context: &InputContext<'_>,
    ) -> Result<usize, Fault> {
        let lower = word.to_ascii_lowercase();
        let today = || calendar::date_of_timestamp(context.zone.to_local(context.now));
        match lower.as_str() {
            "now" => self.set_moment(context.now)?,
            "epoch" => self.set_moment(epoch())?,
            "infinity" | "inf" | "+infinity" | "+inf" => self.set_moment(INFINITY)?,
            "-infinity" | "-inf" => self.set_moment(NEGATIVE_INFINITY)?,
            "today" => self.set_days(today())?,
            "tomorrow" => self.set_days(today() + 1)?,
            "yesterday" => self.set_days(today() - 1)?,
            "allballs" => {
                self.set_time(0)?;
                self.set_zone(TimeZone::utc())?;
            }
            "am" => self.afternoon = Some(false),
            "pm" => self.afternoon = Some(true),
            "ad" => self.before_christ = false,
            "bc" => self.before_christ = true,
            "at" | "on" => {}
            "t" if self.has_date() => {}
            "j" | "jd" | "julian" => {
                let (Some(Token::Number(number)), false) = (next, self.has_date()) else {
                    return Err(Fault::Syntax);
                };
                let days = number.parse::<i64>().map_err(|_| Fault::Range)?;
                self.set_days(days - calendar::JULIAN_DAY_OF_EPOCH)?;
                return Ok(1);
            }
            lower if is_day_of_week(lower) => {}
            lower => match month(lower) {
                Some(month) if self.month.is_none() => self.month = Some(month),
                Some(month) => {
                    // `2 3 Jan`: what was taken for the month is the day.
                    if self.day.is_some() {
                        return Err(Fault::Syntax);
                    }
                    self.day = self.month.replace(month);
                }
                None => self.named_zone(word)?,
            },
        }
        Ok(0)
    }

    fn named_zone(&mut self, word: &str) -> Result<(), Fault> {
        match TimeZone::find(word) {
            Some(zone) => self.set_zone(zone),
            None if word.contains('/') => Err(Fault::Zone(word.to_ascii_lowercase())),
            None => Err(Fault::Syntax),
        }
    }

    fn has_date(&self) -> bool {
        self.days.is_some()
            || self.day_of_year.is_some()
            || self.year.is_some() && self.month.is_some() && self.day.is_some()
    }

    fn set_moment(&mut self, moment: i64) -> Result<(), Fault> {
        if self.moment.is_some() || self.has_date() || self.time.is_some() {
            return Err(Fault::Syntax);
        }
        self.moment = Some(moment);
        Ok(())
    }

    fn set_days(&mut self, days: i64) -> Result<(), Fault> {
        if self.has_date() || self.moment.is_some() {
            return Err(Fault::Syntax);
        }
        self.days = Some(days);
        Ok(())
    }

    fn set_time(&mut self, time: i64) -> Result<(), Fault> {
        if self.time.is_some() || self.moment.is_some() {
            return Err(Fault::Syntax);
        }
        self.time = Some(time);
        Ok(())
    }

    fn set_zone(&mut self, zone: TimeZone) -> Result<(), Fault> {
        if self.zone.is_some() {
            return Err(Fault::Syntax);
        }
        self.zone = Some(zone);
        Ok(())
    }

    /// Digits without separators: a whole date, a time after a date, or one field.
    fn number(&mut self, number: &str, order: DateOrder) -> Result<(), Fault> {
        if self.has_date() {
            return match (number.len(), self.time) {
                (4 | 6, None) => self.set_time(packed_time(number)?),
                _ => Err(Fault::Syntax),
            };
        }
        let fresh = self.year.is_none() && self.month.is_none() && self.day.is_none();
        if fresh && self.only_time && matches!(number.len(), 4 | 6) && self.time.is_none() {
            return self.set_time(packed_time(number)?);
        }
        if fresh && number.len() >= 6 {
            let (year, rest) = number.split_at(number.len() - 4);
            self.set_year(year)?;
            self.month = Some(small(&rest[..2])?);
            self.day = Some(small(&rest[2..])?);
            return Ok(());
        }
        self.field(number, order)
    }

    /// `1999.123` is a day of a year, after a date it is a time such as `030405.6`.
    fn decimal(&mut self, number: &str) -> Result<(), Fault> {
        let (whole, fraction) = number.split_once('.').ok_or(Fault::Syntax)?;
        if self.has_date() && self.time.is_none() {
            return self.set_time(packed_time(whole)? + fraction_micros(fraction)?);
        }
        let fresh = self.year.is_none() && self.month.is_none() && self.day.is_none();
        if fresh && whole.len() >= 4 && fraction.len() == 3 {
            self.set_year(whole)?;
            self.day_of_year = Some(small(fraction)?);
            return Ok(());
        }
        if fresh && whole.len() >= 6 {
            self.number(whole, DateOrder::default())?;
            return self.set_time(fraction_micros(fraction)?);
        }
        Err(Fault::Syntax)
    }

    fn date(&mut self, text: &str, order: DateOrder) -> Result<(), Fault> {
        if self.has_date() {
            // `040506-08` is a time with its offset.
            let (time, zone) = text.split_once('-').ok_or(Fault::Syntax)?;
            self.set_time(packed_time(time)?)?;
            return self.set_zone(TimeZone::fixed(-offset(zone)?));
        }
        let parts = || text.split(['-', '/', '.']);
        // A month's name first, so that numbers know what is left for them.
        for part in parts() {
            if part.starts_with(|c: char| c.is_ascii_alphabetic()) {
                if self.month.is_some() {
                    return Err(Fault::Syntax);
                }
                self.month = Some(month(part).ok_or(Fault::Syntax)?);
            }
        }
        for part in parts() {
            if part.starts_with(|c: char| c.is_ascii_digit()) {
                self.field(part, order)?;
            }
        }
        Ok(())
    }

    /// One number of a date, whose meaning depends on what is known already.
    fn field(&mut self, number: &str, order: DateOrder) -> Result<(), Fault> {
        if number.len() == 3 && self.year.is_some() && self.month.is_none() && self.day.is_none() {
            self.day_of_year = Some(small(number)?);
            return Ok(());
        }
        let known = (self.year.is_some(), self.month.is_some(), self.day.is_some());
        match known {
            (false, false, false) if number.len() >= 3 || order == DateOrder::YearMonthDay => {
                self.set_year(number)?;
            }
            (false, false, false) if order == DateOrder::DayMonthYear => {
                self.day = Some(small(number)?);
            }
            (false, false, false) => self.month = Some(small(number)?),
            (true, false, false) | (false, false, true) => self.month = Some(small(number)?),
            (true, true, false) => self.day = Some(small(number)?),
            (false, true, false) if number.len() >= 3 => self.set_year(number)?,
            (false, true, false) => self.day = Some(small(number)?),
            (false, true, true) => self.set_year(number)?,
            _ => return Err(Fault::Syntax),
        }
        Ok(())
    }

    fn set_year(&mut self, text: &str) -> Result<(), Fault> {
        if self.year.is_some() {
            return Err(Fault::Syntax);
        }
        let year = text.parse::<i32>().map_err(|_| Fault::Range)?;
        self.year = Some((year, text.len()));
        Ok(())
    }
}

fn small(text: &str) -> Result<i32, Fault> {
    text.parse::<i32>().map_err(|_| Fault::MonthOrDay)
}

/// `hhmmss`, `hhmm` or `hh` in microseconds.
fn packed_time(text: &str) -> Result<i64, Fault> {
    let pair = |index: usize| text.get(index..index + 2).map_or(Ok(0), str::parse::<i64>);
    if !matches!(text.len(), 2 | 4 | 6) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Syntax);
    }
    match (pair(0), pair(2), pair(4)) {
        (Ok(hours), Ok(minutes), Ok(seconds)) => time_of(hours, minutes, seconds, 0),
        _ => Err(Fault::Syntax),
    }
}

fn time_of(hours: i64, minutes: i64, seconds: i64, micros: i64) -> Result<i64, Fault> {
    let time = hours.saturating_mul(MICROS_PER_HOUR).saturating_add(
        minutes
            .saturating_mul(MICROS_PER_MINUTE)
            .saturating_add(seconds.saturating_mul(MICROS_PER_SECOND).saturating_add(micros)),
    );
    let valid = (0..=24).contains(&hours)
        && (0..60).contains(&minutes)
        && (0..=60).contains(&seconds)
        && time <= MICROS_PER_DAY;
    if valid { Ok(time) } else { Err(Fault::Range) }
}

/// Digits after a point in microseconds, rounded.
fn fraction_micros(digits: &str) -> Result<i64, Fault> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Fault::Syntax);
    }
    let taken = &digits[..digits.len().min(7)];
    let value: i64 = format!("{taken:0<7}").parse().map_err(|_| Fault::Syntax)?;
    Ok((value + 5) / 10)
}

/// `hh:mm`, `hh:mm:ss.fraction`, `mm:ss.fraction`.
fn clock(text: &str) -> Result<i64, Fault> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut numbers = [0_i64; 3];
    let mut count = 0;
    for part in whole.split(':') {
        let slot = numbers.get_mut(count).ok_or(Fault::Syntax)?;
        *slot = match part {
            "" => return Err(Fault::Syntax),
            _ => part.parse().map_err(|_| Fault::Range)?,
        };
        count += 1;
    }
    let fraction = fraction_micros(fraction)?;
    match count {
        2 if text.contains('.') => time_of(0, numbers[0], numbers[1], fraction),
        2 | 3 => time_of(numbers[0], numbers[1], numbers[2], fraction),
        _ => Err(Fault::Syntax),
    }
}

fn resolve(fields: Fields) -> Result<Written, Fault> {
    let days = match (fields.days, fields.day_of_year) {
        (Some(days), _) => Some(days),
        (None, Some(day)) => {
            let year = full_year(fields.year.ok_or(Fault::Syntax)?, fields.before_christ)?;
            let length = if calendar::is_leap_year(year) { 366 } else { 365 };
            if !(1..=length).contains(&day) {
                return Err(Fault::Range);
            }
            Some(calendar::days_of(Date { year, month: 1, day: 1 }) + i64::from(day) - 1)
        }
        (None, None) => match (fields.year, fields.month, fields.day) {
            (None, None, None) => None,
            (Some(year), Some(month), Some(day)) => {
                let year = full_year(year, fields.before_christ)?;
                Some(checked_days(Date { year, month, day })?)
            }
            _ => return Err(Fault::Syntax),
        },
    };
    let time = match (fields.time, fields.afternoon) {
        (time, None) => time,
        (None, Some(_)) => return Err(Fault::Syntax),
        (Some(time), Some(_)) if time >= 13 * MICROS_PER_HOUR => return Err(Fault::Range),
        (Some(time), Some(true)) if time < 12 * MICROS_PER_HOUR => {
            Some(time + 12 * MICROS_PER_HOUR)
        }
        (Some(time), Some(false)) if time >= 12 * MICROS_PER_HOUR => {
            Some(time - 12 * MICROS_PER_HOUR)
        }
        (time, Some(_)) => time,
    };
    if days.is_none() && time.is_none() && fields.moment.is_none() {
        return Err(Fault::Syntax);
    }
    Ok(Written { days, time, zone: fields.zone, moment: fields.moment })
}

/// Two digits are of 1970 to 2069; 1 BC is the year 0.
fn full_year((year, digits): (i32, usize), before_christ: bool) -> Result<i32, Fault> {
    match (before_christ, digits) {
        (true, _) if year < 1 => Err(Fault::Range),
        (true, _) => Ok(1 - year),
        (false, ..=2) if year < 70 => Ok(year + 2000),
        (false, ..=2) => Ok(year + 1900),
        (false, _) if year == 0 => Err(Fault::Range),
        (false, _) => Ok(year),
    }
}

fn checked_days(date: Date) -> Result<i64, Fault> {
    if !(1..=12).contains(&date.month) || !(1..=31).contains(&date.day) {
        return Err(Fault::MonthOrDay);
    }
    if date.day > calendar::days_in_month(date.year, date.month) {
        return Err(Fault::Range);
    }
    Ok(calendar::days_of(date))
}

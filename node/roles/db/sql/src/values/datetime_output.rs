//! Dates and times as PostgreSQL prints them in the ISO style.

use super::calendar::{
    self, INFINITY, MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_MINUTE, MICROS_PER_SECOND,
    NEGATIVE_INFINITY,
};
use super::time_zone::TimeZone;

/// At least `width` digits, without allocating.
fn padded(out: &mut Vec<u8>, value: i64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value);
    for _ in digits.len()..width {
        out.push(b'0');
    }
    out.extend_from_slice(digits.as_bytes());
}

/// Says whether it is a year before Christ, for what follows the time.
fn date_part(out: &mut Vec<u8>, days: i64) -> bool {
    let date = calendar::date_of(days);
    let before_christ = date.year <= 0;
    let year = i64::from(date.year);
    padded(out, if before_christ { 1 - year } else { year }, 4);
    out.push(b'-');
    padded(out, i64::from(date.month), 2);
    out.push(b'-');
    padded(out, i64::from(date.day), 2);
    before_christ
}

fn infinite(out: &mut Vec<u8>, value: i64) -> bool {
    match value {
        INFINITY => out.extend_from_slice(b"infinity"),
        NEGATIVE_INFINITY => out.extend_from_slice(b"-infinity"),
        _ => return false,
    }
    true
}

/// `2024-01-02`, `0044-03-15 BC`, `infinity`.
pub fn write_date(out: &mut Vec<u8>, days: i64) {
    if !infinite(out, days) && date_part(out, days) {
        out.extend_from_slice(b" BC");
    }
}

/// `03:04:05.6`
pub fn write_time(out: &mut Vec<u8>, time: i64) {
    padded(out, time / MICROS_PER_HOUR, 2);
    out.push(b':');
    padded(out, time / MICROS_PER_MINUTE % 60, 2);
    out.push(b':');
    padded(out, time / MICROS_PER_SECOND % 60, 2);
    let fraction = time % MICROS_PER_SECOND;
    if fraction != 0 {
        out.push(b'.');
        padded(out, fraction, 6);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// `2024-01-02 03:04:05.6`
pub fn write_timestamp(out: &mut Vec<u8>, timestamp: i64) {
    write_moment(out, timestamp, b' ', None);
}

/// `2024-01-02 03:04:05.6+02`
pub fn write_timestamptz(out: &mut Vec<u8>, timestamp: i64, zone: &TimeZone) {
    write_moment(out, timestamp, b' ', Some(zone));
}

/// The form that JSON has: `2024-01-02T03:04:05.6+02:00`. Without a zone for a
/// timestamp.
pub fn write_json_timestamp(out: &mut Vec<u8>, timestamp: i64, zone: Option<&TimeZone>) {
    write_moment(out, timestamp, b'T', zone);
}

fn write_moment(out: &mut Vec<u8>, timestamp: i64, separator: u8, zone: Option<&TimeZone>) {
    if infinite(out, timestamp) {
        return;
    }
    let offset = zone.map_or(0, |zone| zone.offset_at(timestamp));
    let local = timestamp.saturating_add(i64::from(offset) * MICROS_PER_SECOND);
    let before_christ = date_part(out, local.div_euclid(MICROS_PER_DAY));
    out.push(separator);
    write_time(out, local.rem_euclid(MICROS_PER_DAY));
    if zone.is_some() {
        write_offset(out, offset, separator == b'T');
    }
    if before_christ {
        out.extend_from_slice(b" BC");
    }
}

/// `+02`, `+05:30`, `-00:44:30`; with minutes always where JSON wants it.
fn write_offset(out: &mut Vec<u8>, seconds: i32, with_minutes: bool) {
    out.push(if seconds < 0 { b'-' } else { b'+' });
    let seconds = i64::from(seconds.abs());
    padded(out, seconds / 3600, 2);
    if with_minutes || seconds % 3600 != 0 {
        out.push(b':');
        padded(out, seconds / 60 % 60, 2);
    }
    if seconds % 60 != 0 {
        out.push(b':');
        padded(out, seconds % 60, 2);
    }
}

//! Times and durations. Clocks are shown in UTC, so that the lines of nodes in
//! different places can be compared.

use std::time::Duration;

use jiff::Timestamp;

/// `11-22 18:40:01`, for tables.
pub fn short(ms: u64) -> String {
    format(ms, "%m-%d %H:%M:%S")
}

/// RFC 3339 with milliseconds.
pub fn long(ms: u64) -> String {
    format(ms, "%Y-%m-%dT%H:%M:%S%.3fZ")
}

fn format(ms: u64, pattern: &str) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "-".to_owned(), |time| time.strftime(pattern).to_string())
}

/// How long ago, in its largest unit: `12s`, `5m`, `3h`, `2d`.
pub fn ago(ms: u64, now_ms: u64) -> String {
    coarse(now_ms.saturating_sub(ms))
}

/// How long until then, or `expired`.
pub fn until(ms: u64, now_ms: u64) -> String {
    if ms <= now_ms { "expired".to_owned() } else { coarse(ms - now_ms) }
}

fn coarse(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long something took: `4.2 s`, `3 min 20 s`.
pub fn took(ms: u64) -> String {
    if ms < 60_000 {
        let tenths = ms / 100;
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        format!("{} min {} s", ms / 60_000, ms / 1000 % 60)
    }
}

/// Reads `500ms`, `90s`, `10m`, `2h`, `1d`, or seconds without a unit.
///
/// # Errors
/// Says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected(text)),
    };
    let number: u64 = number.parse().map_err(|_| expected(text))?;
    let ms = number.checked_mul(unit_ms).filter(|ms| *ms <= 366 * 86_400_000);
    ms.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is longer than a year"))
}

/// Reads a time of RFC 3339, as milliseconds since 1970.
pub fn parse_time(text: &str) -> Option<u64> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

fn expected(text: &str) -> String {
    format!("expected a duration such as 90s, 10m, 2h or 1d, got {text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "m", "1w", "-1s", "1.5s", "99999999999999999999", "400d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(short(1_790_000_000_000), "09-21 14:13:20");
        assert_eq!(long(1_790_000_000_007), "2026-09-21T14:13:20.007Z");
        assert_eq!(long(u64::MAX), "-");
        assert_eq!(parse_time("2026-09-21T14:13:20.007Z"), Some(1_790_000_000_007));
        assert_eq!(parse_time("2026-09-21T16:13:20+02:00"), Some(1_790_000_000_000));
        assert_eq!(parse_time("2026-09-21"), None);
    }

    #[test]
    fn durations_are_shown_in_their_largest_unit() {
        assert_eq!(ago(0, 59_999), "59s");
        assert_eq!(ago(0, 7_200_000), "2h");
        assert_eq!(ago(10, 0), "0s");
        assert_eq!(until(5, 5), "expired");
        assert_eq!(took(4_250), "4.2 s");
        assert_eq!(took(200_000), "3 min 20 s");
    }
}

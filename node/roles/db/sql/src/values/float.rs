//! `float4` and `float8` as PostgreSQL prints and reads them.

use std::io::Write;

use crate::{SqlError, SqlState};

/// The shortest digits that give the value back, `1e+15` from 15 digits on.
pub fn write_float8(out: &mut Vec<u8>, value: f64) {
    write_float(out, value, value, 15);
}

/// Of a stored REAL that holds a float4.
pub fn write_float4(out: &mut Vec<u8>, value: f64) {
    write_float(out, value, value as f32, 6);
}

fn write_float(out: &mut Vec<u8>, value: f64, shown: impl std::fmt::LowerExp, fixed_below: i32) {
    if value.is_nan() {
        return out.extend_from_slice(b"NaN");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
    // `-1.2345e-7`: at most 17 digits, sign, point, exponent.
    let mut buffer = [0_u8; 32];
    let mut rest = &mut buffer[..];
    let written = match write!(rest, "{shown:e}") {
        Ok(()) => 32 - rest.len(),
        Err(_) => 0,
    };
    let text = &buffer[..written];
    let split = text.iter().position(|byte| *byte == b'e').unwrap_or(written);
    let exponent: i32 = std::str::from_utf8(text.get(split + 1..).unwrap_or_default())
        .ok()
        .and_then(|exponent| exponent.parse().ok())
        .unwrap_or(0);
    let mut mantissa = &text[..split];
    if mantissa.first() == Some(&b'-') {
        out.push(b'-');
        mantissa = &mantissa[1..];
    }
    if !(-4..fixed_below).contains(&exponent) {
        out.extend_from_slice(mantissa);
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "e{sign}{:02}", exponent.abs());
        return;
    }
    let digits = mantissa.iter().copied().filter(|byte| *byte != b'.');
    let count = digits.clone().count() as i32;
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', (-exponent - 1) as usize));
        out.extend(digits);
    } else {
        for (index, digit) in digits.enumerate() {
            if index as i32 == exponent + 1 {
                out.push(b'.');
            }
            out.push(digit);
        }
        out.extend(std::iter::repeat_n(b'0', (exponent + 1 - count).max(0) as usize));
    }
}

/// # Errors
/// 22P02 for what is no number, 22003 for what does not fit.
pub fn parse_float8(text: &str) -> Result<f64, SqlError> {
    let value = parse(text, "double precision")?;
    let finite_text = text.bytes().any(|byte| byte.is_ascii_digit());
    if finite_text && (value.is_infinite() || value == 0.0 && has_nonzero_digit(text)) {
        return Err(out_of_range(text, "double precision"));
    }
    Ok(value)
}

/// # Errors
/// As [`parse_float8`].
pub fn parse_float4(text: &str) -> Result<f64, SqlError> {
    let value = parse(text, "real")?;
    let finite_text = text.bytes().any(|byte| byte.is_ascii_digit());
    // Read anew, since rounding twice may round wrongly.
    let narrow = match finite_text {
        true => trimmed(text).parse::<f32>().unwrap_or(value as f32),
        false => value as f32,
    };
    if finite_text && (narrow.is_infinite() || narrow == 0.0 && has_nonzero_digit(text)) {
        return Err(out_of_range(text, "real"));
    }
    Ok(f64::from(narrow))
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

fn has_nonzero_digit(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
}

fn out_of_range(text: &str, type_name: &str) -> SqlError {
    let text = trimmed(text);
    SqlError::new(
        SqlState::OUT_OF_RANGE,
        format!("\"{text}\" is out of range for type {type_name}"),
    )
}

fn parse(text: &str, type_name: &str) -> Result<f64, SqlError> {
    let trimmed = trimmed(text);
    // Rust's syntax is PostgreSQL's, also for "inf", "infinity" and "nan".
    let parsed = trimmed.parse::<f64>().map_err(|_| {
        SqlError::new(
            SqlState::INVALID_TEXT,
            format!("invalid input syntax for type {type_name}: \"{text}\""),
        )
    })?;
    refuse_nan(parsed)
}

/// # Errors
/// 22003: SQLite stores NaN as NULL, so that it cannot be kept.
pub fn refuse_nan(value: f64) -> Result<f64, SqlError> {
    if value.is_nan() {
        return Err(SqlError::new(
            SqlState::OUT_OF_RANGE,
            "NaN cannot be stored as real or double precision",
        )
        .hint("Use numeric, which has NaN, or NULL."));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: f64) -> String {
        let mut out = Vec::new();
        write_float8(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_print_as_postgresql_prints_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (100.0, "100"),
            (123456789012345.0, "123456789012345"),
            (1e15, "1e+15"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-0.000123, "-0.000123"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::INFINITY, "Infinity"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(shown(value), text);
        }
        let mut out = Vec::new();
        write_float4(&mut out, f64::from(0.1_f32));
        out.push(b' ');
        write_float4(&mut out, 1e6);
        assert_eq!(out, b"0.1 1e+06");
    }

    #[test]
    fn floats_out_of_range_are_refused() {
        assert_eq!(parse_float8(" 1e3 ").unwrap(), 1000.0);
        assert_eq!(parse_float8("-Infinity").unwrap(), f64::NEG_INFINITY);
        assert_eq!(parse_float8("1e400").unwrap_err().state, SqlState::OUT_OF_RANGE);
        assert_eq!(parse_float8("1e-400").unwrap_err().state, SqlState::OUT_OF_RANGE);
        assert_eq!(parse_float8("x").unwrap_err().state, SqlState::INVALID_TEXT);
        assert_eq!(parse_float8("").unwrap_err().state, SqlState::INVALID_TEXT);
        assert_eq!(parse_float4("1e39").unwrap_err().state, SqlState::OUT_OF_RANGE);
        assert_eq!(parse_float8("NaN").unwrap_err().state, SqlState::OUT_OF_RANGE);
    }
}

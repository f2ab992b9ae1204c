//! `numeric`: exact decimals with the scale that PostgreSQL shows.
//!
//! The stored form is the text that PostgreSQL prints: `-12.50`, `0`, `NaN`,
//! `Infinity`. Arithmetic is in [`crate::functions`]; here is what a value is.

use std::cmp::Ordering;
use std::fmt;

use num_bigint::{BigInt, Sign};

use crate::{SqlError, SqlState};

/// Most digits after the point.
pub const MAX_SCALE: u32 = 16_383;
/// Most digits before the point.
const MAX_INTEGER_DIGITS: usize = 131_072;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Numeric {
    NaN,
    Infinity,
    NegativeInfinity,
    Finite(Decimal),
}

/// `digits / 10^scale`; the scale is what is shown, so `1.50` is not `1.5`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decimal {
    pub digits: BigInt,
    pub scale: u32,
}

/// Ten to the power of `exponent`.
pub fn power_of_ten(exponent: u32) -> BigInt {
    match 10_u64.checked_pow(exponent) {
        Some(power) => BigInt::from(power),
        None => BigInt::from(10).pow(exponent),
    }
}

/// `dividend / divisor`, rounded to the nearest, halves away from zero.
pub fn divide_rounded(dividend: &BigInt, divisor: &BigInt) -> BigInt {
    let quotient = dividend / divisor;
    let remainder = dividend - &quotient * divisor;
    if remainder.magnitude() * 2_u32 < *divisor.magnitude() {
        quotient
    } else if (dividend.sign() == Sign::Minus) == (divisor.sign() == Sign::Minus) {
        quotient + 1
    } else {
        quotient - 1
    }
}

pub fn overflows() -> SqlError {
    SqlError::new(SqlState::OUT_OF_RANGE, "value overflows numeric format")
}

impl Decimal {
    pub fn new(digits: impl Into<BigInt>, scale: u32) -> Self {
        Self { digits: digits.into(), scale }
    }

    pub fn is_zero(&self) -> bool {
        self.digits.sign() == Sign::NoSign
    }

    /// At another scale, rounded with halves away from zero.
    #[must_use]
    pub fn at_scale(&self, scale: u32) -> Self {
        let digits = match scale.checked_sub(self.scale) {
            Some(0) => self.digits.clone(),
            Some(more) => &self.digits * power_of_ten(more),
            None => divide_rounded(&self.digits, &power_of_ten(self.scale - scale)),
        };
        Self { digits, scale }
    }

    /// Cut off after `scale` digits.
    #[must_use]
    pub fn truncated(&self, scale: u32) -> Self {
        match self.scale.checked_sub(scale) {
            None | Some(0) => self.at_scale(scale),
            Some(less) => Self { digits: &self.digits / power_of_ten(less), scale },
        }
    }

    /// Both digits at the larger of the two scales.
    pub fn aligned(&self, other: &Self) -> (BigInt, BigInt, u32) {
        let scale = self.scale.max(other.scale);
        (self.at_scale(scale).digits, other.at_scale(scale).digits, scale)
    }
}

impl From<i64> for Numeric {
    fn from(value: i64) -> Self {
        Self::Finite(Decimal::new(value, 0))
    }
}

impl Numeric {
    pub fn zero() -> Self {
        Self::from(0)
    }

    /// Of the text that clients give, with spaces and exponents.
    ///
    /// # Errors
    /// 22P02 if it is no number, 22003 if it has too many digits.
    pub fn parse(text: &str) -> Result<Self, SqlError> {
        let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        parse_digits(trimmed)?.ok_or_else(|| {
            SqlError::new(
                SqlState::INVALID_TEXT,
                format!("invalid input syntax for type numeric: \"{text}\""),
            )
        })
    }

    /// As [`Self::parse`], for a value that a REAL gave: 15 significant digits, as
    /// PostgreSQL's cast does it.
    pub fn from_float(value: f64, significant: usize) -> Self {
        if value.is_nan() {
            return Self::NaN;
        }
        if value.is_infinite() {
            return if value > 0.0 { Self::Infinity } else { Self::NegativeInfinity };
        }
        let text = format!("{value:.*e}", significant - 1);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        // C's %g leaves the zeros at the end out.
        let mantissa = match mantissa.contains('.') {
            true => mantissa.trim_end_matches('0').trim_end_matches('.'),
            false => mantissa,
        };
        match parse_digits(&format!("{mantissa}e{exponent}")) {
            Ok(Some(numeric)) => numeric,
            _ => Self::NaN,
        }
    }

    pub fn to_f64(&self) -> f64 {
        match self {
            Self::NaN => f64::NAN,
            Self::Infinity => f64::INFINITY,
            Self::NegativeInfinity => f64::NEG_INFINITY,
            Self::Finite(_) => self.to_string().parse().unwrap_or(f64::NAN),
        }
    }

    /// Rounded to an integer if it is finite and fits.
    pub fn to_i128(&self) -> Option<i128> {
        match self {
            Self::Finite(decimal) => i128::try_from(&decimal.at_scale(0).digits).ok(),
            _ => None,
        }
    }

    pub fn is_zero(&self) -> bool {
        matches!(self, Self::Finite(decimal) if decimal.is_zero())
    }

    /// -1, 0 or 1; NaN is larger than everything.
    pub fn signum(&self) -> i32 {
        match self {
            Self::NaN | Self::Infinity => 1,
            Self::NegativeInfinity => -1,
            Self::Finite(decimal) => match decimal.digits.sign() {
                Sign::Minus => -1,
                Sign::NoSign => 0,
                Sign::Plus => 1,
            },
        }
    }

    /// Rounded to a declared precision and scale; the scale may be negative.
    ///
    /// # Errors
    /// 22003 if there are more digits before the point than the precision leaves.
    pub fn with_modifier(self, modifier: i32) -> Result<Self, SqlError> {
        let Some((precision, scale)) = super::numeric_modifier(modifier) else {
            return Ok(self);
        };
        let overflow = |reason: String| {
            Err(SqlError::new(SqlState::OUT_OF_RANGE, "numeric field overflow")
                .detail(format!("A field with precision {precision}, scale {scale} {reason}.")))
        };
        let decimal = match self {
            Self::NaN => return Ok(self),
            Self::Infinity | Self::NegativeInfinity => {
                return overflow("cannot hold an infinite value".to_owned());
            }
            Self::Finite(decimal) => round_at(&decimal, scale),
        };
        let most = precision - scale;
        let bound = power_of_ten(u32::try_from(most + decimal.scale as i32).unwrap_or(0));
        if !decimal.is_zero() && decimal.digits.magnitude() >= bound.magnitude() {
            let limit = if most == 0 { "1".to_owned() } else { format!("10^{most}") };
            return overflow(format!("must round to an absolute value less than {limit}"));
        }
        Ok(Self::Finite(decimal))
    }

    /// # Errors
    /// 22003 if there are more digits than PostgreSQL's format holds.
    pub fn checked(self) -> Result<Self, SqlError> {
        if let Self::Finite(decimal) = &self {
            let bits = decimal.digits.bits();
            let integer_digits = (bits as f64 * std::f64::consts::LOG10_2) as usize;
            if integer_digits > MAX_INTEGER_DIGITS + decimal.scale as usize {
                return Err(overflows());
            }
            if decimal.scale > MAX_SCALE {
                return Ok(Self::Finite(decimal.at_scale(MAX_SCALE)));
            }
        }
        Ok(self)
    }
}

/// Rounded at a place that may be before the point; then shown without digits after it.
pub fn round_at(decimal: &Decimal, place: i32) -> Decimal {
    match u32::try_from(place) {
        Ok(scale) => decimal.at_scale(scale),
        Err(_) => {
            let unit = power_of_ten(place.unsigned_abs());
            let divisor = &unit * power_of_ten(decimal.scale);
            Decimal::new(divide_rounded(&decimal.digits, &divisor) * unit, 0)
        }
    }
}

/// Nothing if it is no number.
fn parse_digits(text: &str) -> Result<Option<Numeric>, SqlError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest.eq_ignore_ascii_case("infinity") || rest.eq_ignore_ascii_case("inf") {
        return Ok(Some(if negative { Numeric::NegativeInfinity } else { Numeric::Infinity }));
    }
    if text.eq_ignore_ascii_case("nan") {
        return Ok(Some(Numeric::NaN));
    }
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        None => (rest, 0),
        Some((mantissa, exponent)) => {
            let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
                return Ok(None);
            }
            match exponent.parse::<i32>() {
                Ok(exponent) if exponent.abs() < i32::MAX / 2 => (mantissa, exponent),
                _ => return Err(overflows()),
            }
        }
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if integer.len() + fraction.len() == 0
        || !integer.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
    {
        return Ok(None);
    }
    let integer = integer.trim_start_matches('0');
    let scale = fraction.len() as i64 - i64::from(exponent);
    let integer_digits = integer.len() as i64 + i64::from(exponent);
    if scale > i64::from(MAX_SCALE) * 2 || integer_digits > MAX_INTEGER_DIGITS as i64 {
        return Err(overflows());
    }
    let magnitude = parse_magnitude(integer, fraction);
    let digits = if negative { -magnitude } else { magnitude };
    let decimal = match u32::try_from(scale) {
        Ok(scale) => Decimal { digits, scale },
        Err(_) => Decimal::new(digits * power_of_ten(scale.unsigned_abs() as u32), 0),
    };
    Ok(Some(Numeric::Finite(match decimal.scale > MAX_SCALE {
        true => decimal.at_scale(MAX_SCALE),
        false => decimal,
    })))
}

fn parse_magnitude(integer: &str, fraction: &str) -> BigInt {
    if integer.len() + fraction.len() <= 38 {
        let digits = integer.bytes().chain(fraction.bytes());
        return BigInt::from(digits.fold(0_u128, |sum, byte| sum * 10 + u128::from(byte - b'0')));
    }
    let digits: String = [integer, fraction].concat();
    BigInt::parse_bytes(digits.as_bytes(), 10).unwrap_or_default()
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.digits.sign() == Sign::Minus {
            f.write_str("-")?;
        }
        let digits = self.digits.magnitude().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return f.write_str(&digits);
        }
        match digits.len().checked_sub(scale) {
            Some(integer) if integer > 0 => {
                write!(f, "{}.{}", &digits[..integer], &digits[integer..])
            }
            _ => write!(f, "0.{digits:0>scale$}"),
        }
    }
}

impl fmt::Display for Numeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NaN => f.write_str("NaN"),
            Self::Infinity => f.write_str("Infinity"),
            Self::NegativeInfinity => f.write_str("-Infinity"),
            Self::Finite(decimal) => decimal.fmt(f),
        }
    }
}

impl PartialOrd for Numeric {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.compare(other))
    }
}

impl Numeric {
    /// PostgreSQL's order: -Infinity, numbers, Infinity, NaN; scales do not matter.
    pub fn compare(&self, other: &Self) -> Ordering {
        let rank = |numeric: &Self| match numeric {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        };
        match (self, other) {
            (Self::Finite(left), Self::Finite(right)) => {
                let (left, right, _) = left.aligned(right);
                left.cmp(&right)
            }
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// Sign, digits before the point without zeros in front, digits after it without
/// zeros at the end. Nothing for what is no finite number in the stored form.
fn stored_parts(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if !rest.as_bytes().first()?.is_ascii_digit() {
        return None;
    }
    let (integer, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let integer = integer.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    Some((negative && !(integer.is_empty() && fraction.is_empty()), integer, fraction))
}

/// The order of two stored numerics, without making numbers of them.
pub fn compare_stored(left: &str, right: &str) -> Ordering {
    let rank = |text: &str| match text {
        "-Infinity" => 0,
        "Infinity" => 2,
        "NaN" => 3,
        _ => 1,
    };
    match (stored_parts(left), stored_parts(right)) {
        (Some((true, ..)), Some((false, ..))) => Ordering::Less,
        (Some((false, ..)), Some((true, ..))) => Ordering::Greater,
        (Some((negative, integer, fraction)), Some((_, other_integer, other_fraction))) => {
            let magnitude = integer
                .len()
                .cmp(&other_integer.len())
                .then_with(|| integer.cmp(other_integer))
                .then_with(|| fraction.cmp(other_fraction));
            if negative { magnitude.reverse() } else { magnitude }
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

const BINARY_NEGATIVE: u16 = 0x4000;
const BINARY_NAN: u16 = 0xC000;
const BINARY_INFINITY: u16 = 0xD000;
const BINARY_NEGATIVE_INFINITY: u16 = 0xF000;

/// PostgreSQL's binary format of a stored numeric: count of digits to base 10000,
/// weight of the first, sign, scale, digits.
pub fn write_binary(out: &mut Vec<u8>, stored: &str) {
    let mut header = |count: i16, weight: i16, sign: u16, scale: u16| {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&scale.to_be_bytes());
    };
    let Some((negative, integer, fraction)) = stored_parts(stored) else {
        // The scale of infinities has no meaning; it is what PostgreSQL sends.
        return match stored {
            "Infinity" => header(0, 0, BINARY_INFINITY, 0x20),
            "-Infinity" => header(0, 0, BINARY_NEGATIVE_INFINITY, 0x20),
            _ => header(0, 0, BINARY_NAN, 0),
        };
    };
    let scale = stored.split_once('.').map_or(0, |(_, fraction)| fraction.len()) as u16;
    let (integer, fraction) = (integer.as_bytes(), fraction.as_bytes());
    let integer_groups = integer.len().div_ceil(4) as i32;
    let last_group = -(fraction.len().div_ceil(4) as i32);
    // The group of weight 0 ends at the point.
    let group = |weight: i32| {
        let start = integer.len() as i32 - (weight + 1) * 4;
        (start..start + 4).fold(0_u16, |sum, index| {
            let digit = match usize::try_from(index) {
                Err(_) => b'0',
                Ok(index) => match index.checked_sub(integer.len()) {
                    None => integer[index],
                    Some(index) => fraction.get(index).copied().unwrap_or(b'0'),
                },
            };
            sum * 10 + u16::from(digit - b'0')
        })
    };
    let mut first = integer_groups - 1;
    while first >= last_group && group(first) == 0 {
        first -= 1;
    }
    let mut last = last_group;
    while last < first && group(last) == 0 {
        last += 1;
    }
    if first < last_group {
        return header(0, 0, 0, scale);
    }
    let sign = if negative { BINARY_NEGATIVE } else { 0 };
    header((first - last + 1) as i16, first as i16, sign, scale);
    for weight in (last..=first).rev() {
        out.extend_from_slice(&group(weight).to_be_bytes());
    }
}

/// Of PostgreSQL's binary format. Digits beyond the scale are cut off.
///
/// # Errors
/// 22P03 for what is no such format.
pub fn read_binary(bytes: &[u8]) -> Result<Numeric, SqlError> {
    let invalid = |what: &str| {
        SqlError::new(SqlState::INVALID_BINARY, format!("{what} in external \"numeric\" value"))
    };
    let mut words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    });
    let mut next = || words.next().flatten();
    let (Some(count), Some(weight), Some(sign), Some(scale)) = (next(), next(), next(), next())
    else {
        return Err(invalid("invalid length"));
    };
    if bytes.len() != 8 + usize::from(count) * 2 {
        return Err(invalid("invalid length"));
    }
    let negative = match sign {
        0 => false,
        BINARY_NEGATIVE => true,
        BINARY_NAN => return Ok(Numeric::NaN),
        BINARY_INFINITY => return Ok(Numeric::Infinity),
        BINARY_NEGATIVE_INFINITY => return Ok(Numeric::NegativeInfinity),
        _ => return Err(invalid("invalid sign")),
    };
    if u32::from(scale) > MAX_SCALE {
        return Err(invalid("invalid scale"));
    }
    let mut text = String::with_capacity(usize::from(count) * 4);
    for _ in 0..count {
        match next() {
            Some(digit) if digit < 10_000 => {
                fmt::Write::write_fmt(&mut text, format_args!("{digit:04}")).unwrap_or_default();
            }
            _ => return Err(invalid("invalid digit")),
        }
    }
    // The value is text * 10^exponent.
    let exponent = (i32::from(weight as i16) + 1 - i32::from(count)) * 4;
    let magnitude = parse_magnitude(&text, "");
    let decimal = match u32::try_from(exponent) {
        Ok(exponent) => Decimal::new(magnitude * power_of_ten(exponent), 0),
        Err(_) => Decimal::new(magnitude, exponent.unsigned_abs()),
    };
    let mut decimal = decimal.truncated(u32::from(scale));
    if negative {
        decimal.digits = -decimal.digits;
    }
    Numeric::Finite(decimal).checked()
}

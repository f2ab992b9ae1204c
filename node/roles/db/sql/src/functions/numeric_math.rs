//! Arithmetic of numerics, with the scales that PostgreSQL gives results.

use num_bigint::BigInt;

use super::integers::division_by_zero;
use crate::values::numeric::{Decimal, MAX_SCALE, Numeric, divide_rounded, power_of_ten};
use crate::{SqlError, SqlState};

/// Digits that a quotient, root or logarithm has at least.
pub const MIN_SIGNIFICANT: i32 = 16;
/// Most digits after the point that an operation asks for by itself.
pub const MAX_DISPLAY_SCALE: i32 = 1000;
/// PostgreSQL's digits are to base 10000.
const DIGITS_PER_GROUP: i32 = 4;

type Result<T> = std::result::Result<T, SqlError>;

/// How PostgreSQL's form of a number begins: the weight of its first digit to base
/// 10000, and that digit.
pub fn first_group(value: &Decimal) -> (i32, i32) {
    if value.is_zero() {
        return (0, 0);
    }
    let digits = value.digits.magnitude().to_string();
    // The exponent of the first decimal digit.
    let exponent = digits.len() as i32 - 1 - value.scale as i32;
    let weight = exponent.div_euclid(DIGITS_PER_GROUP);
    let taken = (exponent.rem_euclid(DIGITS_PER_GROUP) + 1) as usize;
    let mut first = 0;
    for index in 0..taken {
        let digit = digits.as_bytes().get(index).map_or(0, |byte| i32::from(byte - b'0'));
        first = first * 10 + digit;
    }
    (weight, first)
}

/// The scale that a quotient gets.
pub fn quotient_scale(dividend: &Decimal, divisor: &Decimal) -> u32 {
    let (weight, first) = first_group(dividend);
    let (divisor_weight, divisor_first) = first_group(divisor);
    let quotient_weight = weight - divisor_weight - i32::from(first <= divisor_first);
    let scale = MIN_SIGNIFICANT - quotient_weight * DIGITS_PER_GROUP;
    let scale = scale.max(dividend.scale as i32).max(divisor.scale as i32);
    scale.clamp(0, MAX_DISPLAY_SCALE) as u32
}

fn quotient(dividend: &Decimal, divisor: &Decimal, scale: u32) -> Decimal {
    let shift = i64::from(scale) + i64::from(divisor.scale) - i64::from(dividend.scale);
    let digits = match u32::try_from(shift) {
        Ok(shift) => divide_rounded(&(&dividend.digits * power_of_ten(shift)), &divisor.digits),
        Err(_) => {
            let shift = shift.unsigned_abs() as u32;
            divide_rounded(&dividend.digits, &(&divisor.digits * power_of_ten(shift)))
        }
    };
    Decimal { digits, scale }
}

pub fn add(left: &Numeric, right: &Numeric) -> Numeric {
    use Numeric as N;
    match (left, right) {
        (N::Finite(left), N::Finite(right)) => {
            let (left, right, scale) = left.aligned(right);
            N::Finite(Decimal { digits: left + right, scale })
        }
        (N::NaN, _) | (_, N::NaN) => N::NaN,
        (N::Infinity, N::NegativeInfinity) | (N::NegativeInfinity, N::Infinity) => N::NaN,
        (N::Finite(_), infinite) | (infinite, _) => infinite.clone(),
    }
}

pub fn negate(value: &Numeric) -> Numeric {
    match value {
        Numeric::NaN => Numeric::NaN,
        Numeric::Infinity => Numeric::NegativeInfinity,
        Numeric::NegativeInfinity => Numeric::Infinity,
        Numeric::Finite(value) => {
            Numeric::Finite(Decimal { digits: -&value.digits, scale: value.scale })
        }
    }
}

pub fn subtract(left: &Numeric, right: &Numeric) -> Numeric {
    add(left, &negate(right))
}

fn infinity(signum: i32) -> Numeric {
    match signum {
        0 => Numeric::NaN,
        1.. => Numeric::Infinity,
        _ => Numeric::NegativeInfinity,
    }
}

pub fn multiply(left: &Numeric, right: &Numeric) -> Numeric {
    match (left, right) {
        (Numeric::Finite(left), Numeric::Finite(right)) => {
            let scale = left.scale + right.scale;
            let product = Decimal { digits: &left.digits * &right.digits, scale };
            Numeric::Finite(if scale > MAX_SCALE { product.at_scale(MAX_SCALE) } else { product })
        }
        (Numeric::NaN, _) | (_, Numeric::NaN) => Numeric::NaN,
        _ => infinity(left.signum() * right.signum()),
    }
}

/// # Errors
/// 22012 for a divisor of 0.
pub fn divide(dividend: &Numeric, divisor: &Numeric) -> Result<Numeric> {
    use Numeric as N;
    Ok(match (dividend, divisor) {
        (N::NaN, _) | (_, N::NaN) => N::NaN,
        (_, N::Finite(divisor)) if divisor.is_zero() => return Err(division_by_zero()),
        (N::Finite(dividend), N::Finite(divisor)) => {
            N::Finite(quotient(dividend, divisor, quotient_scale(dividend, divisor)))
        }
        (N::Finite(_), _) => N::zero(),
        (_, N::Finite(_)) => infinity(dividend.signum() * divisor.signum()),
        _ => N::NaN,
    })
}

/// The integer part of the quotient.
///
/// # Errors
/// 22012 for a divisor of 0.
pub fn divide_whole(dividend: &Numeric, divisor: &Numeric) -> Result<Numeric> {
    if let (Numeric::Finite(dividend), Numeric::Finite(divisor)) = (dividend, divisor)
        && !divisor.is_zero()
    {
        let (dividend, divisor, _) = dividend.aligned(divisor);
        return Ok(Numeric::Finite(Decimal::new(dividend / divisor, 0)));
    }
    divide(dividend, divisor)
}

/// # Errors
/// 22012 for a divisor of 0.
pub fn modulo(dividend: &Numeric, divisor: &Numeric) -> Result<Numeric> {
    use Numeric as N;
    Ok(match (dividend, divisor) {
        (N::NaN, _) | (_, N::NaN) => N::NaN,
        (_, N::Finite(divisor)) if divisor.is_zero() => return Err(division_by_zero()),
        (N::Finite(dividend), N::Finite(divisor)) => {
            let (dividend, divisor, scale) = dividend.aligned(divisor);
            N::Finite(Decimal { digits: dividend % divisor, scale })
        }
        (N::Finite(_), _) => dividend.clone(),
        _ => N::NaN,
    })
}

/// # Errors
/// 2201F for a negative number.
pub fn square_root(value: &Numeric) -> Result<Numeric> {
    let negative = || {
        SqlError::new(
            SqlState::INVALID_POWER_ARGUMENT,
            "cannot take square root of a negative number",
        )
    };
    let decimal = match value {
        Numeric::NegativeInfinity => return Err(negative()),
        Numeric::NaN | Numeric::Infinity => return Ok(value.clone()),
        Numeric::Finite(decimal) => decimal,
    };
    if value.signum() < 0 {
        return Err(negative());
    }
    let (weight, _) = first_group(decimal);
    // Of the root's digits, how many are before the point.
    let root_weight = match weight {
        0.. => (weight + 1) * DIGITS_PER_GROUP / 2 - 1,
        _ => 1 - (1 - weight * DIGITS_PER_GROUP) / 2,
    };
    let scale = (MIN_SIGNIFICANT - root_weight).max(decimal.scale as i32);
    let scale = scale.clamp(0, MAX_DISPLAY_SCALE) as u32;
    // One digit more, to round by.
    let digits = &decimal.digits * power_of_ten(2 * scale + 2 - decimal.scale);
    let root = Decimal { digits: digits.sqrt(), scale: scale + 1 };
    Ok(Numeric::Finite(root.at_scale(scale)))
}

/// Numbers with so many digits after the point, for series.
struct Fixed {
    scale: u32,
    one: BigInt,
}

impl Fixed {
    fn new(scale: u32) -> Self {
        Self { scale, one: power_of_ten(scale) }
    }

    fn of(&self, value: &Decimal) -> BigInt {
        value.at_scale(self.scale).digits
    }

    fn multiply(&self, left: &BigInt, right: &BigInt) -> BigInt {
        divide_rounded(&(left * right), &self.one)
    }

    fn divide(&self, left: &BigInt, right: &BigInt) -> BigInt {
        divide_rounded(&(left * &self.one), right)
    }

    /// By Taylor's series of a small part of the exponent, squared again.
    fn exp(&self, value: &BigInt) -> BigInt {
        const HALVINGS: u32 = 16;
        let small = divide_rounded(value, &BigInt::from(1_u64 << HALVINGS));
        let (mut sum, mut term, mut index) = (self.one.clone(), self.one.clone(), 1_u32);
        while term != BigInt::ZERO {
            term = divide_rounded(&self.multiply(&term, &small), &BigInt::from(index));
            sum += &term;
            index += 1;
        }
        for _ in 0..HALVINGS {
            sum = self.multiply(&sum, &sum);
        }
        sum
    }

    /// Of a positive number: by roots until it is near 1, then by the series of the
    /// hyperbolic arc tangent.
    fn ln(&self, value: &BigInt) -> BigInt {
        let near = BigInt::from(11_u32) * &self.one / 10_u32;
        let far = BigInt::from(9_u32) * &self.one / 10_u32;
        let mut value = value.clone();
        let mut doublings = 0_u32;
        while value > near || value < far {
            value = (&value * &self.one).sqrt();
            doublings += 1;
        }
        let ratio = self.divide(&(&value - &self.one), &(&value + &self.one));
        let square = self.multiply(&ratio, &ratio);
        let (mut sum, mut power, mut index) = (ratio.clone(), ratio, 3_u32);
        loop {
            power = self.multiply(&power, &square);
            let term = &power / index;
            if term == BigInt::ZERO {
                break;
            }
            sum += term;
            index += 2;
        }
        sum << (doublings + 1)
    }
}

fn ln_estimate(value: &Decimal) -> f64 {
    let digits = value.digits.magnitude().to_string();
    let lead: f64 = format!("0.{}", &digits[..digits.len().min(17)]).parse().unwrap_or(1.0);
    lead.ln() + (digits.len() as f64 - f64::from(value.scale)) * std::f64::consts::LN_10
}

fn clamp_scale(scale: i32, least: u32) -> u32 {
    scale.max(least as i32).clamp(0, MAX_DISPLAY_SCALE) as u32
}

/// # Errors
/// 22003 if the result has too many digits.
pub fn exp(value: &Numeric) -> Result<Numeric> {
    let decimal = match value {
        Numeric::NaN | Numeric::Infinity => return Ok(value.clone()),
        Numeric::NegativeInfinity => return Ok(Numeric::zero()),
        Numeric::Finite(decimal) => decimal,
    };
    let estimate = value.to_f64() * std::f64::consts::LOG10_E;
    let estimate = estimate.clamp(-2000.0, 2000.0);
    let scale = clamp_scale(MIN_SIGNIFICANT - estimate as i32, decimal.scale);
    Ok(Numeric::Finite(exp_at(decimal, scale)?))
}

fn exp_at(value: &Decimal, scale: u32) -> Result<Decimal> {
    let magnitude = Numeric::Finite(value.clone()).to_f64();
    // Beyond that the result has more digits than the format holds, or none.
    if magnitude > 131_072.0 * std::f64::consts::LN_10 {
        return Err(crate::values::numeric::overflows());
    }
    if magnitude < -(f64::from(scale) + 10.0) * std::f64::consts::LN_10 {
        return Ok(Decimal::new(0, scale));
    }
    // Digits before the point need as many more after it.
    let whole = (magnitude * std::f64::consts::LOG10_E).max(0.0) as u32;
    let fixed = Fixed::new(scale + whole + 24);
    let digits = fixed.exp(&fixed.of(value));
    Ok(Decimal { digits, scale: fixed.scale }.at_scale(scale))
}

fn positive<'a>(value: &'a Numeric, what: &str) -> Result<Option<&'a Decimal>> {
    let message = match value.signum() {
        _ if *value == Numeric::NaN => return Ok(None),
        0 => format!("cannot take {what} of zero"),
        ..0 => format!("cannot take {what} of a negative number"),
        _ => match value {
            Numeric::Finite(decimal) => return Ok(Some(decimal)),
            _ => return Ok(None),
        },
    };
    Err(SqlError::new(SqlState::INVALID_LOGARITHM_ARGUMENT, message))
}

/// Decimal digits that a logarithm has before its point, as PostgreSQL estimates it.
fn estimate_ln_weight(value: &Decimal) -> i32 {
    let ln = ln_estimate(value).abs();
    if ln > 0.1 {
        return ln.log10() as i32;
    }
    // Near 1, the logarithm is about the distance from it.
    let one = Decimal::new(power_of_ten(value.scale), value.scale);
    let distance = Decimal { digits: &value.digits - one.digits, scale: value.scale };
    match distance.is_zero() {
        true => 0,
        false => distance.digits.magnitude().to_string().len() as i32 - 1 - distance.scale as i32,
    }
}

/// # Errors
/// 2201E for zero and negative numbers.
pub fn ln(value: &Numeric) -> Result<Numeric> {
    let Some(decimal) = positive(value, "logarithm")? else { return Ok(value.clone()) };
    let scale = clamp_scale(MIN_SIGNIFICANT - estimate_ln_weight(decimal), decimal.scale);
    Ok(Numeric::Finite(ln_at(decimal, scale)))
}

fn ln_at(value: &Decimal, scale: u32) -> Decimal {
    let digits = value.digits.magnitude().to_string().len() as u32;
    // A number near 0 loses as many digits as it has zeros after the point.
    let leading = (value.scale + 1).saturating_sub(digits);
    let fixed = Fixed::new(scale + 2 * leading + 30);
    Decimal { digits: fixed.ln(&fixed.of(value)), scale: fixed.scale }.at_scale(scale)
}

/// # Errors
/// 2201E for zero and negative numbers, 22012 for the base 1.
pub fn log(base: &Numeric, value: &Numeric) -> Result<Numeric> {
    let (Some(base_decimal), Some(decimal)) =
        (positive(base, "logarithm")?, positive(value, "logarithm")?)
    else {
        return match (base, value) {
            (Numeric::NaN, _) | (_, Numeric::NaN) => Ok(Numeric::NaN),
            (Numeric::Infinity, Numeric::Infinity) => Ok(Numeric::NaN),
            (Numeric::Infinity, _) => Ok(Numeric::zero()),
            _ => Ok(Numeric::Infinity),
        };
    };
    let (base_weight, weight) = (estimate_ln_weight(base_decimal), estimate_ln_weight(decimal));
    let scale = MIN_SIGNIFICANT - (weight - base_weight);
    let scale = clamp_scale(scale, base_decimal.scale.max(decimal.scale));
    let working = scale + 30;
    let divisor = ln_at(base_decimal, working + base_weight.unsigned_abs());
    if divisor.is_zero() {
        return Err(division_by_zero());
    }
    Ok(Numeric::Finite(quotient(&ln_at(decimal, working), &divisor, scale)))
}

/// # Errors
/// 2201F for 0 to a negative power and for a negative number to one that is no
/// integer, 22003 if the result has too many digits.
pub fn power(base: &Numeric, exponent: &Numeric) -> Result<Numeric> {
    use Numeric as N;
    let invalid = |message: &str| Err(SqlError::new(SqlState::INVALID_POWER_ARGUMENT, message));
    if base.is_zero() && exponent.signum() < 0 {
        return invalid("zero raised to a negative power is undefined");
    }
    let (N::Finite(base_decimal), N::Finite(exponent_decimal)) = (base, exponent) else {
        return infinite_power(base, exponent);
    };
    let whole = exponent_decimal.truncated(0);
    let is_whole = N::Finite(whole.clone()).compare(exponent).is_eq();
    if base.signum() < 0 && !is_whole {
        return invalid("a negative number raised to a non-integer power yields a complex result");
    }
    if base.is_zero() {
        let one = exponent.is_zero();
        return Ok(N::Finite(Decimal::new(u8::from(one), 0).at_scale(MIN_SIGNIFICANT as u32)));
    }
    if is_whole && let Ok(exponent) = i32::try_from(&whole.digits) {
        return power_whole(base_decimal, exponent);
    }
    let log = ln_estimate(base_decimal) * exponent.to_f64() * std::f64::consts::LOG10_E;
    if log > 131_072.0 {
        return Err(crate::values::numeric::overflows());
    }
    let scale = MIN_SIGNIFICANT - log.max(-2000.0) as i32;
    let scale = clamp_scale(scale, base_decimal.scale.max(exponent_decimal.scale));
    let working = (scale as i32 + log.abs() as i32 + 30) as u32;
    let absolute = Decimal {
        digits: BigInt::from(base_decimal.digits.magnitude().clone()),
        scale: base_decimal.scale,
    };
    let product =
        multiply(&N::Finite(ln_at(&absolute, working)), &N::Finite(exponent_decimal.clone()));
    let N::Finite(product) = product else { return Ok(product) };
    let mut result = exp_at(&product, scale)?;
    if base.signum() < 0 && (&whole.digits % 2_i32) != BigInt::ZERO {
        result.digits = -result.digits;
    }
    Ok(N::Finite(result))
}

fn power_whole(base: &Decimal, exponent: i32) -> Result<Numeric> {
    let log = ln_estimate(base) * f64::from(exponent) * std::f64::consts::LOG10_E;
    if log > 131_072.0 {
        return Err(crate::values::numeric::overflows());
    }
    let scale = clamp_scale(MIN_SIGNIFICANT, base.scale);
    // Exact digits where that is cheap, which they are for what people compute.
    let count = exponent.unsigned_abs();
    let bits = base.digits.bits().saturating_mul(u64::from(count));
    if bits <= 1 << 22 {
        let power = Decimal {
            digits: base.digits.pow(count),
            scale: base.scale.checked_mul(count).ok_or_else(crate::values::numeric::overflows)?,
        };
        return Ok(Numeric::Finite(match exponent {
            ..0 => quotient(&Decimal::new(1, 0), &power, scale),
            _ => power.at_scale(scale),
        }));
    }
    let absolute =
        Decimal { digits: BigInt::from(base.digits.magnitude().clone()), scale: base.scale };
    let working = (scale as i32 + log.abs() as i32 + 40) as u32;
    let mut product = ln_at(&absolute, working);
    product.digits *= exponent;
    let mut result = exp_at(&product, scale)?;
    if base.digits.sign() == num_bigint::Sign::Minus && exponent % 2 != 0 {
        result.digits = -result.digits;
    }
    Ok(Numeric::Finite(result))
}

fn infinite_power(base: &Numeric, exponent: &Numeric) -> Result<Numeric> {
    use Numeric as N;
    let one = N::from(1);
    if base.compare(&one).is_eq() || exponent.is_zero() {
        return Ok(one);
    }
    if *base == N::NaN || *exponent == N::NaN {
        return Ok(N::NaN);
    }
    let magnitude = if base.signum() < 0 { negate(base) } else { base.clone() };
    Ok(match exponent {
        N::Infinity if magnitude.compare(&one).is_gt() => N::Infinity,
        N::NegativeInfinity if magnitude.compare(&one).is_lt() => N::Infinity,
        N::Infinity | N::NegativeInfinity if magnitude.compare(&one).is_eq() => one,
        N::Infinity | N::NegativeInfinity => N::zero(),
        _ if exponent.signum() < 0 => N::zero(),
        _ => match (base, exponent) {
            (N::NegativeInfinity, N::Finite(exponent)) => {
                let whole = exponent.truncated(0);
                if !N::Finite(whole.clone()).compare(&N::Finite(exponent.clone())).is_eq() {
                    return Err(SqlError::new(
                        SqlState::INVALID_POWER_ARGUMENT,
                        "a negative number raised to a non-integer power yields a complex result",
                    ));
                }
                let odd = (&whole.digits % 2_i32) != BigInt::ZERO;
                if odd { N::NegativeInfinity } else { N::Infinity }
            }
            _ => N::Infinity,
        },
    })
}

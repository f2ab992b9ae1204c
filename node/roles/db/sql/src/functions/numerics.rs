//! Functions and operators of numeric, and of integers where they are alike.

use super::call::{Call, Function, Manner::Strict, Outcome, int, numeric};
use super::integers::division_by_zero;
use super::numeric_math as math;
use crate::signature::Lines;
use crate::values::numeric::{Decimal, Numeric, power_of_ten, round_at};
use crate::{SqlError, SqlState};

pub(crate) const OPERATORS: Lines = &[
    ("+(numeric, numeric) -> numeric", "rung_numeric_add({0}, {1})"),
    ("-(numeric, numeric) -> numeric", "rung_numeric_subtract({0}, {1})"),
    ("*(numeric, numeric) -> numeric", "rung_numeric_multiply({0}, {1})"),
    ("/(numeric, numeric) -> numeric", "rung_numeric_divide({0}, {1})"),
    ("%(numeric, numeric) -> numeric", "rung_numeric_modulo({0}, {1})"),
    ("^(numeric, numeric) -> numeric", "rung_numeric_power({0}, {1})"),
    ("-(numeric) -> numeric", "rung_numeric_negate({0})"),
    ("+(numeric) -> numeric", "{0}"),
    ("@(numeric) -> numeric", "rung_numeric_abs({0})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("abs(int2) -> int2", "rung_abs_int2({0})"),
    ("abs(int4) -> int4", "rung_abs_int4({0})"),
    ("abs(int8) -> int8", "rung_abs_int8({0})"),
    ("abs(numeric) -> numeric", "rung_numeric_abs({0})"),
    ("mod(int2, int2) -> int2", "rung_modulo({0}, {1})"),
    ("mod(int4, int4) -> int4", "rung_modulo({0}, {1})"),
    ("mod(int8, int8) -> int8", "rung_modulo({0}, {1})"),
    ("mod(numeric, numeric) -> numeric", "rung_numeric_modulo({0}, {1})"),
    ("div(numeric, numeric) -> numeric", "rung_numeric_div({0}, {1})"),
    ("gcd(int4, int4) -> int4", "rung_gcd_int4({0}, {1})"),
    ("gcd(int8, int8) -> int8", "rung_gcd_int8({0}, {1})"),
    ("gcd(numeric, numeric) -> numeric", "rung_numeric_gcd({0}, {1})"),
    ("lcm(int4, int4) -> int4", "rung_lcm_int4({0}, {1})"),
    ("lcm(int8, int8) -> int8", "rung_lcm_int8({0}, {1})"),
    ("lcm(numeric, numeric) -> numeric", "rung_numeric_lcm({0}, {1})"),
    ("factorial(int8) -> numeric", "rung_factorial({0})"),
    ("sign(numeric) -> numeric", "rung_numeric_sign({0})"),
    ("ceil(numeric) -> numeric", "rung_numeric_ceil({0})"),
    ("ceiling(numeric) -> numeric", "rung_numeric_ceil({0})"),
    ("floor(numeric) -> numeric", "rung_numeric_floor({0})"),
    ("round(numeric) -> numeric", "rung_numeric_round({0}, 0)"),
    ("round(numeric, int4) -> numeric", "rung_numeric_round({0}, {1})"),
    ("trunc(numeric) -> numeric", "rung_numeric_trunc({0}, 0)"),
    ("trunc(numeric, int4) -> numeric", "rung_numeric_trunc({0}, {1})"),
    ("scale(numeric) -> int4", "rung_numeric_scale({0})"),
    ("min_scale(numeric) -> int4", "rung_numeric_min_scale({0})"),
    ("trim_scale(numeric) -> numeric", "rung_numeric_trim_scale({0})"),
    ("sqrt(numeric) -> numeric", "rung_numeric_sqrt({0})"),
    ("exp(numeric) -> numeric", "rung_numeric_exp({0})"),
    ("ln(numeric) -> numeric", "rung_numeric_ln({0})"),
    ("log(numeric) -> numeric", "rung_numeric_log(10, {0})"),
    ("log10(numeric) -> numeric", "rung_numeric_log(10, {0})"),
    ("log(numeric, numeric) -> numeric", "rung_numeric_log({0}, {1})"),
    ("pow(numeric, numeric) -> numeric", "rung_numeric_power({0}, {1})"),
    ("power(numeric, numeric) -> numeric", "rung_numeric_power({0}, {1})"),
    (
        "width_bucket(numeric, numeric, numeric, int4) -> int4",
        "rung_numeric_width_bucket({0}, {1}, {2}, {3})",
    ),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_numeric_add", 2, Strict, |c| numeric(math::add(&c.numeric(0)?, &c.numeric(1)?))),
    ("rung_numeric_subtract", 2, Strict, |c| {
        numeric(math::subtract(&c.numeric(0)?, &c.numeric(1)?))
    }),
    ("rung_numeric_multiply", 2, Strict, |c| {
        numeric(math::multiply(&c.numeric(0)?, &c.numeric(1)?))
    }),
    ("rung_numeric_divide", 2, Strict, |c| numeric(math::divide(&c.numeric(0)?, &c.numeric(1)?)?)),
    ("rung_numeric_modulo", 2, Strict, |c| numeric(math::modulo(&c.numeric(0)?, &c.numeric(1)?)?)),
    ("rung_numeric_div", 2, Strict, |c| {
        numeric(math::divide_whole(&c.numeric(0)?, &c.numeric(1)?)?)
    }),
    ("rung_numeric_power", 2, Strict, |c| numeric(math::power(&c.numeric(0)?, &c.numeric(1)?)?)),
    ("rung_numeric_log", 2, Strict, |c| numeric(math::log(&c.numeric(0)?, &c.numeric(1)?)?)),
    ("rung_numeric_ln", 1, Strict, |c| numeric(math::ln(&c.numeric(0)?)?)),
    ("rung_numeric_exp", 1, Strict, |c| numeric(math::exp(&c.numeric(0)?)?)),
    ("rung_numeric_sqrt", 1, Strict, |c| numeric(math::square_root(&c.numeric(0)?)?)),
    ("rung_numeric_negate", 1, Strict, |c| numeric(math::negate(&c.numeric(0)?))),
    ("rung_numeric_abs", 1, Strict, |c| {
        let value = c.numeric(0)?;
        numeric(if value.signum() < 0 { math::negate(&value) } else { value })
    }),
    ("rung_numeric_sign", 1, Strict, |c| match c.numeric(0)? {
        Numeric::NaN => numeric(Numeric::NaN),
        value => numeric(Numeric::from(i64::from(value.signum()))),
    }),
    ("rung_numeric_round", 2, Strict, |c| finite(c, round_at)),
    ("rung_numeric_trunc", 2, Strict, |c| finite(c, truncate)),
    ("rung_numeric_ceil", 1, Strict, |c| finite(c, |value, _| whole(value, true))),
    ("rung_numeric_floor", 1, Strict, |c| finite(c, |value, _| whole(value, false))),
    ("rung_numeric_scale", 1, Strict, |c| match c.numeric(0)? {
        Numeric::Finite(value) => int(i64::from(value.scale)),
        _ => Ok(rusqlite::types::Value::Null),
    }),
    ("rung_numeric_min_scale", 1, Strict, |c| match c.numeric(0)? {
        Numeric::Finite(value) => int(i64::from(trimmed(&value).scale)),
        _ => Ok(rusqlite::types::Value::Null),
    }),
    ("rung_numeric_trim_scale", 1, Strict, |c| finite(c, |value, _| trimmed(value))),
    ("rung_numeric_gcd", 2, Strict, |c| numeric(gcd(&c.numeric(0)?, &c.numeric(1)?)?)),
    ("rung_numeric_lcm", 2, Strict, lcm),
    ("rung_factorial", 1, Strict, factorial),
    ("rung_numeric_width_bucket", 4, Strict, width_bucket),
];

/// Of a finite value and a place after the point; infinities and NaN stay.
fn finite(call: &Call<'_>, operation: impl Fn(&Decimal, i32) -> Decimal) -> Outcome {
    let place = if call.len() > 1 { call.int(1)?.clamp(-2000, 2000) } else { 0 };
    numeric(match call.numeric(0)? {
        Numeric::Finite(value) => Numeric::Finite(operation(&value, place as i32)),
        other => other,
    })
}

fn truncate(value: &Decimal, place: i32) -> Decimal {
    match u32::try_from(place) {
        Ok(scale) => value.truncated(scale),
        Err(_) => {
            let unit = power_of_ten(place.unsigned_abs());
            Decimal::new(value.truncated(0).digits / &unit * unit, 0)
        }
    }
}

fn whole(value: &Decimal, up: bool) -> Decimal {
    let mut whole = value.truncated(0);
    let order = Numeric::Finite(whole.clone()).compare(&Numeric::Finite(value.clone()));
    if up && order.is_lt() {
        whole.digits += 1;
    } else if !up && order.is_gt() {
        whole.digits -= 1;
    }
    whole
}

/// Without zeros at the end.
fn trimmed(value: &Decimal) -> Decimal {
    let mut value = value.clone();
    while value.scale > 0 && (&value.digits % 10_i32) == num_bigint::BigInt::ZERO {
        value.digits /= 10_i32;
        value.scale -= 1;
    }
    value
}

fn gcd(left: &Numeric, right: &Numeric) -> Result<Numeric, SqlError> {
    let (Numeric::Finite(left), Numeric::Finite(right)) = (left, right) else {
        return Ok(Numeric::NaN);
    };
    let (mut left, mut right, scale) = left.aligned(right);
    while right != num_bigint::BigInt::ZERO {
        let rest = left % &right;
        left = std::mem::replace(&mut right, rest);
    }
    let digits = num_bigint::BigInt::from(left.magnitude().clone());
    Ok(Numeric::Finite(Decimal { digits, scale }))
}

fn lcm(call: &Call<'_>) -> Outcome {
    let (left, right) = (call.numeric(0)?, call.numeric(1)?);
    let gcd = gcd(&left, &right)?;
    if gcd.is_zero() || left.is_zero() || right.is_zero() {
        return numeric(gcd_scale_zero(&left, &right));
    }
    let product = math::multiply(&math::divide_whole(&left, &gcd)?, &right);
    numeric(if product.signum() < 0 { math::negate(&product) } else { product })
}

fn gcd_scale_zero(left: &Numeric, right: &Numeric) -> Numeric {
    match (left, right) {
        (Numeric::Finite(left), Numeric::Finite(right)) => {
            Numeric::Finite(Decimal::new(0, left.scale.max(right.scale)))
        }
        _ => Numeric::NaN,
    }
}

fn factorial(call: &Call<'_>) -> Outcome {
    // The largest whose digits the format holds.
    const LARGEST: i64 = 32_177;
    match call.int(0)? {
        ..0 => Err(SqlError::new(
            SqlState::OUT_OF_RANGE,
            "factorial of a negative number is undefined",
        )),
        value @ 0..=LARGEST => {
            let product = (2..=value as u32).fold(num_bigint::BigInt::from(1), |p, n| p * n);
            numeric(Numeric::Finite(Decimal::new(product, 0)))
        }
        _ => Err(crate::values::numeric::overflows()),
    }
}

fn width_bucket(call: &Call<'_>) -> Outcome {
    let invalid =
        |message: &str| Err(SqlError::new(SqlState::INVALID_WIDTH_BUCKET_ARGUMENT, message));
    let (value, low, high) = (call.numeric(0)?, call.numeric(1)?, call.numeric(2)?);
    let count = call.int(3)?;
    if count <= 0 {
        return invalid("count must be greater than zero");
    }
    if [&value, &low, &high].contains(&&Numeric::NaN) {
        return invalid("operand, lower bound, and upper bound cannot be NaN");
    }
    let is_finite = |numeric: &Numeric| matches!(numeric, Numeric::Finite(_));
    if !is_finite(&low) || !is_finite(&high) {
        return invalid("lower and upper bounds must be finite");
    }
    let rising = low.compare(&high);
    if rising.is_eq() {
        return invalid("lower bound cannot equal upper bound");
    }
    let bucket = if value.compare(&low) == rising {
        0
    } else if value.compare(&high) != rising {
        count + 1
    } else {
        let width = math::subtract(&high, &low);
        let offset = math::subtract(&value, &low);
        let scaled = math::multiply(&offset, &Numeric::from(count));
        match math::divide_whole(&scaled, &width)?.to_i128() {
            Some(bucket) => bucket as i64 + 1,
            None => return Err(division_by_zero()),
        }
    };
    match i32::try_from(bucket) {
        Ok(bucket) => int(bucket),
        Err(_) => Err(SqlError::new(SqlState::OUT_OF_RANGE, "integer out of range")),
    }
}

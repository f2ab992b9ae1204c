//! Functions and operators of floats.

use super::call::{Call, Function, Manner::Stable, Manner::Strict, Outcome};
use super::integers::division_by_zero;
use crate::signature::Lines;
use crate::{SqlError, SqlState};
use rusqlite::types::Value;

pub(crate) const OPERATORS: Lines = &[
    ("+(float4, float4) -> float4", "rung_float4(rung_float_add({0}, {1}))"),
    ("-(float4, float4) -> float4", "rung_float4(rung_float_subtract({0}, {1}))"),
    ("*(float4, float4) -> float4", "rung_float4(rung_float_multiply({0}, {1}))"),
    ("/(float4, float4) -> float4", "rung_float4(rung_float_divide({0}, {1}))"),
    ("-(float4) -> float4", "(-{0})"),
    ("+(float4) -> float4", "{0}"),
    ("@(float4) -> float4", "abs({0})"),
    ("+(float8, float8) -> float8", "rung_float_add({0}, {1})"),
    ("-(float8, float8) -> float8", "rung_float_subtract({0}, {1})"),
    ("*(float8, float8) -> float8", "rung_float_multiply({0}, {1})"),
    ("/(float8, float8) -> float8", "rung_float_divide({0}, {1})"),
    ("^(float8, float8) -> float8", "rung_power({0}, {1})"),
    ("-(float8) -> float8", "(-{0})"),
    ("+(float8) -> float8", "{0}"),
    ("@(float8) -> float8", "abs({0})"),
    ("|/(float8) -> float8", "rung_sqrt({0})"),
    ("||/(float8) -> float8", "rung_cbrt({0})"),
];

pub(crate) const FUNCTIONS: Lines = &[
    ("abs(float4) -> float4", "abs({0})"),
    ("abs(float8) -> float8", "abs({0})"),
    ("sign(float8) -> float8", "rung_sign({0})"),
    ("ceil(float8) -> float8", "rung_ceil({0})"),
    ("ceiling(float8) -> float8", "rung_ceil({0})"),
    ("floor(float8) -> float8", "rung_floor({0})"),
    ("round(float8) -> float8", "rung_round({0})"),
    ("trunc(float8) -> float8", "rung_trunc({0})"),
    ("sqrt(float8) -> float8", "rung_sqrt({0})"),
    ("cbrt(float8) -> float8", "rung_cbrt({0})"),
    ("exp(float8) -> float8", "rung_exp({0})"),
    ("ln(float8) -> float8", "rung_ln({0})"),
    ("log(float8) -> float8", "rung_log10({0})"),
    ("log10(float8) -> float8", "rung_log10({0})"),
    ("pow(float8, float8) -> float8", "rung_power({0}, {1})"),
    ("power(float8, float8) -> float8", "rung_power({0}, {1})"),
    ("pi() -> float8", "(3.141592653589793)"),
    ("degrees(float8) -> float8", "rung_degrees({0})"),
    ("radians(float8) -> float8", "rung_radians({0})"),
    ("sin(float8) -> float8", "rung_sin({0})"),
    ("cos(float8) -> float8", "rung_cos({0})"),
    ("tan(float8) -> float8", "rung_tan({0})"),
    ("cot(float8) -> float8", "rung_cot({0})"),
    ("asin(float8) -> float8", "rung_asin({0})"),
    ("acos(float8) -> float8", "rung_acos({0})"),
    ("atan(float8) -> float8", "rung_atan({0})"),
    ("atan2(float8, float8) -> float8", "rung_atan2({0}, {1})"),
    ("sinh(float8) -> float8", "rung_sinh({0})"),
    ("cosh(float8) -> float8", "rung_cosh({0})"),
    ("tanh(float8) -> float8", "rung_tanh({0})"),
    ("asinh(float8) -> float8", "rung_asinh({0})"),
    ("acosh(float8) -> float8", "rung_acosh({0})"),
    ("atanh(float8) -> float8", "rung_atanh({0})"),
    ("random() -> float8", "rung_random()"),
    (
        "width_bucket(float8, float8, float8, int4) -> int4",
        "rung_float_width_bucket({0}, {1}, {2}, {3})",
    ),
];

pub(crate) const CALLS: &[Function] = &[
    ("rung_float4", 1, Strict, |c| narrow(c.real(0)?)),
    ("rung_float_add", 2, Strict, |c| both(c, |a, b| a + b)),
    ("rung_float_subtract", 2, Strict, |c| both(c, |a, b| a - b)),
    ("rung_float_multiply", 2, Strict, |c| {
        let (left, right) = (c.real(0)?, c.real(1)?);
        scaled(left * right, left, right, left == 0.0 || right == 0.0)
    }),
    ("rung_float_divide", 2, Strict, |c| {
        let (left, right) = (c.real(0)?, c.real(1)?);
        if right == 0.0 {
            return Err(division_by_zero());
        }
        scaled(left / right, left, right, left == 0.0 || right.is_infinite())
    }),
    ("rung_power", 2, Strict, power),
    ("rung_sign", 1, Strict, |c| {
        let value = c.real(0)?;
        real(if value > 0.0 {
            1.0
        } else if value < 0.0 {
            -1.0
        } else {
            0.0
        })
    }),
    ("rung_ceil", 1, Strict, |c| real(c.real(0)?.ceil())),
    ("rung_floor", 1, Strict, |c| real(c.real(0)?.floor())),
    // Halves go to the even number, as the processor does it.
    ("rung_round", 1, Strict, |c| real(c.real(0)?.round_ties_even())),
    ("rung_trunc", 1, Strict, |c| real(c.real(0)?.trunc())),
    ("rung_sqrt", 1, Strict, |c| match c.real(0)? {
        value if value < 0.0 => Err(SqlError::new(
            SqlState::INVALID_POWER_ARGUMENT,
            "cannot take square root of a negative number",
        )),
        value => real(value.sqrt()),
    }),
    ("rung_cbrt", 1, Strict, |c| real(c.real(0)?.cbrt())),
    ("rung_exp", 1, Strict, |c| {
        let value = c.real(0)?;
        let result = value.exp();
        if result.is_infinite() && value.is_finite() {
            return Err(overflow());
        }
        if result == 0.0 && value.is_finite() {
            return Err(underflow());
        }
        real(result)
    }),
    ("rung_ln", 1, Strict, |c| real(positive(c)?.ln())),
    ("rung_log10", 1, Strict, |c| real(positive(c)?.log10())),
    ("rung_degrees", 1, Strict, |c| real(finite(c.real(0)?.to_degrees(), c.real(0)?)?)),
    ("rung_radians", 1, Strict, |c| real(c.real(0)?.to_radians())),
    ("rung_sin", 1, Strict, |c| real(bounded(c)?.sin())),
    ("rung_cos", 1, Strict, |c| real(bounded(c)?.cos())),
    ("rung_tan", 1, Strict, |c| real(bounded(c)?.tan())),
    ("rung_cot", 1, Strict, |c| real(1.0 / bounded(c)?.tan())),
    ("rung_asin", 1, Strict, |c| real(within(c, -1.0..=1.0)?.asin())),
    ("rung_acos", 1, Strict, |c| real(within(c, -1.0..=1.0)?.acos())),
    ("rung_atan", 1, Strict, |c| real(c.real(0)?.atan())),
    ("rung_atan2", 2, Strict, |c| real(c.real(0)?.atan2(c.real(1)?))),
    ("rung_sinh", 1, Strict, |c| real(c.real(0)?.sinh())),
    ("rung_cosh", 1, Strict, |c| real(c.real(0)?.cosh())),
    ("rung_tanh", 1, Strict, |c| real(c.real(0)?.tanh())),
    ("rung_asinh", 1, Strict, |c| real(c.real(0)?.asinh())),
    ("rung_acosh", 1, Strict, |c| real(within(c, 1.0..=f64::INFINITY)?.acosh())),
    ("rung_atanh", 1, Strict, |c| real(within(c, -1.0..=1.0)?.atanh())),
    ("rung_random", 0, Stable, |c| c.fixed(|| Value::Real(rand::random()))),
    ("rung_float_width_bucket", 4, Strict, width_bucket),
];

fn real(value: f64) -> Outcome {
    Ok(Value::Real(value))
}

fn overflow() -> SqlError {
    SqlError::new(SqlState::OUT_OF_RANGE, "value out of range: overflow")
}

fn underflow() -> SqlError {
    SqlError::new(SqlState::OUT_OF_RANGE, "value out of range: underflow")
}

/// # Errors
/// 22003 if the result is infinite though the argument was not.
fn finite(result: f64, argument: f64) -> Result<f64, SqlError> {
    if result.is_infinite() && argument.is_finite() { Err(overflow()) } else { Ok(result) }
}

/// A double that a float4 may hold.
fn narrow(value: f64) -> Outcome {
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() {
        return Err(overflow());
    }
    if narrow == 0.0 && value != 0.0 {
        return Err(underflow());
    }
    real(f64::from(narrow))
}

fn both(call: &Call<'_>, operation: fn(f64, f64) -> f64) -> Outcome {
    let (left, right) = (call.real(0)?, call.real(1)?);
    let result = operation(left, right);
    if result.is_infinite() && left.is_finite() && right.is_finite() {
        return Err(overflow());
    }
    real(result)
}

fn scaled(result: f64, left: f64, right: f64, may_be_zero: bool) -> Outcome {
    if result.is_infinite() && left.is_finite() && right.is_finite() {
        return Err(overflow());
    }
    if result == 0.0 && !may_be_zero {
        return Err(underflow());
    }
    real(result)
}

fn power(call: &Call<'_>) -> Outcome {
    let (base, exponent) = (call.real(0)?, call.real(1)?);
    let invalid = |message: &str| Err(SqlError::new(SqlState::INVALID_POWER_ARGUMENT, message));
    if base == 0.0 && exponent < 0.0 {
        return invalid("zero raised to a negative power is undefined");
    }
    if base < 0.0 && exponent.is_finite() && exponent.fract() != 0.0 {
        return invalid("a negative number raised to a non-integer power yields a complex result");
    }
    let result = base.powf(exponent);
    if base.is_finite() && exponent.is_finite() {
        if result.is_infinite() {
            return Err(overflow());
        }
        if result == 0.0 && base != 0.0 {
            return Err(underflow());
        }
    }
    real(result)
}

fn positive(call: &Call<'_>) -> Result<f64, SqlError> {
    let value = call.real(0)?;
    let invalid = |what: &str| {
        Err(SqlError::new(
            SqlState::INVALID_LOGARITHM_ARGUMENT,
            format!("cannot take logarithm of {what}"),
        ))
    };
    if value == 0.0 {
        return invalid("zero");
    }
    if value < 0.0 { invalid("a negative number") } else { Ok(value) }
}

fn out_of_range() -> SqlError {
    SqlError::new(SqlState::OUT_OF_RANGE, "input is out of range")
}

/// An angle.
fn bounded(call: &Call<'_>) -> Result<f64, SqlError> {
    let value = call.real(0)?;
    if value.is_infinite() { Err(out_of_range()) } else { Ok(value) }
}

fn within(call: &Call<'_>, range: std::ops::RangeInclusive<f64>) -> Result<f64, SqlError> {
    let value = call.real(0)?;
    if range.contains(&value) { Ok(value) } else { Err(out_of_range()) }
}

fn width_bucket(call: &Call<'_>) -> Outcome {
    let (value, low, high, count) = (call.real(0)?, call.real(1)?, call.real(2)?, call.int(3)?);
    let invalid =
        |message: &str| Err(SqlError::new(SqlState::INVALID_WIDTH_BUCKET_ARGUMENT, message));
    if count <= 0 {
        return invalid("count must be greater than zero");
    }
    if low.is_infinite() || high.is_infinite() {
        return invalid("lower and upper bounds must be finite");
    }
    if low == high {
        return invalid("lower bound cannot equal upper bound");
    }
    let (below, above) = match low < high {
        true => (value < low, value >= high),
        false => (value > low, value <= high),
    };
    Ok(Value::Integer(if below {
        0
    } else if above {
        count + 1
    } else {
        ((count as f64) * ((value - low) / (high - low))) as i64 + 1
    }))
}

//! Arithmetic of integers, with PostgreSQL's ranges.

use super::call::{Call, Function, Manner::Strict, Outcome, int};
use crate::signature::Lines;
use crate::{SqlError, SqlState};

macro_rules! operators {
    ($($type:literal)*) => {
        &[$(
            (concat!("+(", $type, ", ", $type, ") -> ", $type), concat!("rung_add_", $type, "({0}, {1})")),
            (concat!("-(", $type, ", ", $type, ") -> ", $type), concat!("rung_subtract_", $type, "({0}, {1})")),
            (concat!("*(", $type, ", ", $type, ") -> ", $type), concat!("rung_multiply_", $type, "({0}, {1})")),
            (concat!("/(", $type, ", ", $type, ") -> ", $type), concat!("rung_divide_", $type, "({0}, {1})")),
            (concat!("%(", $type, ", ", $type, ") -> ", $type), "rung_modulo({0}, {1})"),
            (concat!("-(", $type, ") -> ", $type), concat!("rung_negate_", $type, "({0})")),
            (concat!("+(", $type, ") -> ", $type), "{0}"),
            (concat!("@(", $type, ") -> ", $type), concat!("rung_abs_", $type, "({0})")),
            (concat!("&(", $type, ", ", $type, ") -> ", $type), "({0} & {1})"),
            (concat!("|(", $type, ", ", $type, ") -> ", $type), "({0} | {1})"),
            (concat!("#(", $type, ", ", $type, ") -> ", $type), "rung_xor({0}, {1})"),
            (concat!("~(", $type, ") -> ", $type), "(~{0})"),
            (concat!("<<(", $type, ", int4) -> ", $type), concat!("rung_shift_left_", $type, "({0}, {1})")),
            (concat!(">>(", $type, ", int4) -> ", $type), concat!("rung_shift_right_", $type, "({0}, {1})")),
        )*]
    };
}

pub(crate) const OPERATORS: Lines = operators!("int2" "int4" "int8");

macro_rules! calls {
    ($($type:literal $bits:literal;)*) => {
        &[$(
            (concat!("rung_add_", $type), 2, Strict, |call| ranged::<$bits>(call.int(0)?.checked_add(call.int(1)?))),
            (concat!("rung_subtract_", $type), 2, Strict, |call| ranged::<$bits>(call.int(0)?.checked_sub(call.int(1)?))),
            (concat!("rung_multiply_", $type), 2, Strict, |call| ranged::<$bits>(call.int(0)?.checked_mul(call.int(1)?))),
            (concat!("rung_divide_", $type), 2, Strict, divide::<$bits>),
            (concat!("rung_negate_", $type), 1, Strict, |call| ranged::<$bits>(call.int(0)?.checked_neg())),
            (concat!("rung_abs_", $type), 1, Strict, |call| ranged::<$bits>(call.int(0)?.checked_abs())),
            (concat!("rung_gcd_", $type), 2, Strict, |call| ranged::<$bits>(gcd(call.int(0)?, call.int(1)?))),
            (concat!("rung_lcm_", $type), 2, Strict, |call| ranged::<$bits>(lcm(call.int(0)?, call.int(1)?))),
            (concat!("rung_shift_left_", $type), 2, Strict, shift_left::<$bits>),
            (concat!("rung_shift_right_", $type), 2, Strict, shift_right::<$bits>),
        )*
            ("rung_modulo", 2, Strict, modulo),
            ("rung_xor", 2, Strict, |call| int(call.int(0)? ^ call.int(1)?)),
        ]
    };
}

pub(crate) const CALLS: &[Function] = calls! {
    "int2" 16;
    "int4" 32;
    "int8" 64;
};

fn out_of_range<const BITS: u32>() -> SqlError {
    let name = match BITS {
        16 => "smallint",
        32 => "integer",
        _ => "bigint",
    };
    SqlError::new(SqlState::OUT_OF_RANGE, format!("{name} out of range"))
}

/// # Errors
/// 22003 if the value does not fit a number of bits.
fn ranged<const BITS: u32>(value: Option<i64>) -> Outcome {
    let least = i64::MIN >> (64 - BITS);
    let most = i64::MAX >> (64 - BITS);
    match value {
        Some(value) if (least..=most).contains(&value) => int(value),
        _ => Err(out_of_range::<BITS>()),
    }
}

pub(crate) fn division_by_zero() -> SqlError {
    SqlError::new(SqlState::DIVISION_BY_ZERO, "division by zero")
}

fn divide<const BITS: u32>(call: &Call<'_>) -> Outcome {
    let (dividend, divisor) = (call.int(0)?, call.int(1)?);
    if divisor == 0 {
        return Err(division_by_zero());
    }
    ranged::<BITS>(dividend.checked_div(divisor))
}

fn modulo(call: &Call<'_>) -> Outcome {
    let (dividend, divisor) = (call.int(0)?, call.int(1)?);
    if divisor == 0 {
        return Err(division_by_zero());
    }
    // The smallest by -1 has the remainder 0.
    int(dividend.wrapping_rem(divisor))
}

fn gcd(left: i64, right: i64) -> Option<i64> {
    let (mut left, mut right) = (left.unsigned_abs(), right.unsigned_abs());
    while right != 0 {
        (left, right) = (right, left % right);
    }
    i64::try_from(left).ok()
}

fn lcm(left: i64, right: i64) -> Option<i64> {
    match gcd(left, right)? {
        0 => Some(0),
        gcd => (left / gcd).checked_mul(right)?.checked_abs(),
    }
}

/// As the processor does it: by the count's last bits, cut off to the type.
fn shift_left<const BITS: u32>(call: &Call<'_>) -> Outcome {
    let (value, count) = (call.int(0)?, call.int(1)?);
    int(match BITS {
        16 => i64::from((value as i32).wrapping_shl(count as u32) as i16),
        32 => i64::from((value as i32).wrapping_shl(count as u32)),
        _ => value.wrapping_shl(count as u32),
    })
}

fn shift_right<const BITS: u32>(call: &Call<'_>) -> Outcome {
    let (value, count) = (call.int(0)?, call.int(1)?);
    int(match BITS {
        64 => value.wrapping_shr(count as u32),
        _ => i64::from((value as i32).wrapping_shr(count as u32)),
    })
}

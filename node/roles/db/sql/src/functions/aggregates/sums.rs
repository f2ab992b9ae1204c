//! Sums, averages, extremes and logic.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::{Frame, Row, State, register_one};
use crate::functions::call::{Outcome, boolean};
use crate::functions::{intervals, numeric_math};
use crate::signature::Lines;
use crate::values::interval::{self, Interval};
use crate::values::numeric::{Decimal, Numeric};
use crate::{SqlError, SqlState};

macro_rules! lines {
    ($($type:literal $collation:literal)*) => {
        &[
            ("sum(int2) -> int8", "rung_sum_int({0})"),
            ("sum(int4) -> int8", "rung_sum_int({0})"),
            ("sum(int8) -> numeric", "rung_sum_numeric({0})"),
            ("sum(numeric) -> numeric", "rung_sum_numeric({0})"),
            ("sum(float4) -> float4", "rung_sum_float4({0})"),
            ("sum(float8) -> float8", "rung_sum_float({0})"),
            ("sum(interval) -> interval", "rung_sum_interval({0})"),
            ("avg(int2) -> numeric", "rung_avg_numeric({0})"),
            ("avg(int4) -> numeric", "rung_avg_numeric({0})"),
            ("avg(int8) -> numeric", "rung_avg_numeric({0})"),
            ("avg(numeric) -> numeric", "rung_avg_numeric({0})"),
            ("avg(float4) -> float8", "rung_avg_float({0})"),
            ("avg(float8) -> float8", "rung_avg_float({0})"),
            ("avg(interval) -> interval", "rung_avg_interval({0})"),
            ("bool_and(bool) -> bool", "rung_bool_and({0})"),
            ("every(bool) -> bool", "rung_bool_and({0})"),
            ("bool_or(bool) -> bool", "rung_bool_or({0})"),
            ("bit_and(int2) -> int2", "rung_bit_and({0})"),
            ("bit_and(int4) -> int4", "rung_bit_and({0})"),
            ("bit_and(int8) -> int8", "rung_bit_and({0})"),
            ("bit_or(int2) -> int2", "rung_bit_or({0})"),
            ("bit_or(int4) -> int4", "rung_bit_or({0})"),
            ("bit_or(int8) -> int8", "rung_bit_or({0})"),
            $(
                (concat!("min(", $type, ") -> ", $type), concat!("min({0}", $collation, ")")),
                (concat!("max(", $type, ") -> ", $type), concat!("max({0}", $collation, ")")),
            )*
        ]
    };
}

pub(crate) const FUNCTIONS: Lines = lines! {
    "int2" ""
    "int4" ""
    "int8" ""
    "oid" ""
    "float4" ""
    "float8" ""
    "numeric" " COLLATE rung_numeric"
    "text" ""
    "bpchar" " COLLATE RTRIM"
    "date" ""
    "time" ""
    "timestamp" ""
    "timestamptz" ""
    "interval" " COLLATE rung_interval"
    "_numeric" " COLLATE rung_numeric_array"
    "anyarray" " COLLATE rung_array"
};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    register_one::<IntegerSum>(connection, "rung_sum_int", 1)?;
    register_one::<NumericSum<false>>(connection, "rung_sum_numeric", 1)?;
    register_one::<NumericSum<true>>(connection, "rung_avg_numeric", 1)?;
    register_one::<FloatSum<SUM_OF_FLOAT4>>(connection, "rung_sum_float4", 1)?;
    register_one::<FloatSum<SUM_OF_FLOAT8>>(connection, "rung_sum_float", 1)?;
    register_one::<FloatSum<AVERAGE>>(connection, "rung_avg_float", 1)?;
    register_one::<IntervalSum<false>>(connection, "rung_sum_interval", 1)?;
    register_one::<IntervalSum<true>>(connection, "rung_avg_interval", 1)?;
    register_one::<Truth<true>>(connection, "rung_bool_and", 1)?;
    register_one::<Truth<false>>(connection, "rung_bool_or", 1)?;
    register_one::<Bits<true>>(connection, "rung_bit_and", 1)?;
    register_one::<Bits<false>>(connection, "rung_bit_or", 1)
}

/// Of int2 and int4: the result is int8.
#[derive(Default)]
struct IntegerSum {
    count: i64,
    sum: i128,
}

impl State for IntegerSum {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let ValueRef::Integer(value) = row.get(0) {
            self.count += 1;
            self.sum += i128::from(value);
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let ValueRef::Integer(value) = row.get(0) {
            self.count -= 1;
            self.sum -= i128::from(value);
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        i64::try_from(self.sum)
            .map(Value::Integer)
            .map_err(|_| SqlError::new(SqlState::OUT_OF_RANGE, "bigint out of range"))
    }
}

/// Of numerics and int8: the sum, or the average. Integers are summed apart, since
/// that is faster.
#[derive(Default)]
struct NumericSum<const AVERAGE: bool> {
    count: i64,
    integers: i128,
    decimals: Option<Decimal>,
    /// How many values have each scale: the sum has the largest.
    scales: BTreeMap<u32, u64>,
    nan: i64,
    infinity: i64,
    negative_infinity: i64,
}

impl<const AVERAGE: bool> NumericSum<AVERAGE> {
    fn change(&mut self, row: &Row<'_>, sign: i64) -> Result<(), SqlError> {
        let numeric = match row.get(0) {
            ValueRef::Null => return Ok(()),
            ValueRef::Integer(value) => {
                self.count += sign;
                self.integers += i128::from(value) * i128::from(sign);
                return Ok(());
            }
            _ => Numeric::parse(row.text(0))?,
        };
        self.count += sign;
        match numeric {
            Numeric::NaN => self.nan += sign,
            Numeric::Infinity => self.infinity += sign,
            Numeric::NegativeInfinity => self.negative_infinity += sign,
            Numeric::Finite(mut decimal) => {
                let known = self.scales.entry(decimal.scale).or_default();
                *known = known.saturating_add_signed(sign);
                if *known == 0 {
                    self.scales.remove(&decimal.scale);
                }
                if sign < 0 {
                    decimal.digits = -decimal.digits;
                }
                let sum = self.decimals.get_or_insert_with(|| Decimal::new(0, 0));
                let scale = sum.scale.max(decimal.scale);
                if sum.scale < scale {
                    *sum = sum.at_scale(scale);
                }
                if decimal.scale < scale {
                    decimal = decimal.at_scale(scale);
                }
                sum.digits += decimal.digits;
            }
        }
        Ok(())
    }

    fn sum(&self) -> Numeric {
        if self.nan > 0 || self.infinity > 0 && self.negative_infinity > 0 {
            return Numeric::NaN;
        }
        if self.infinity > 0 {
            return Numeric::Infinity;
        }
        if self.negative_infinity > 0 {
            return Numeric::NegativeInfinity;
        }
        let scale = self.scales.last_key_value().map_or(0, |(scale, _)| *scale);
        let decimals = match &self.decimals {
            Some(decimals) => decimals.at_scale(scale),
            None => Decimal::new(0, 0),
        };
        let integers = Numeric::Finite(Decimal::new(BigInt::from(self.integers), 0));
        numeric_math::add(&Numeric::Finite(decimals), &integers)
    }
}

impl<const AVERAGE: bool> State for NumericSum<AVERAGE> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, 1)
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, -1)
    }

    fn result(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let sum = self.sum();
        let result = match AVERAGE {
            true => numeric_math::divide(&sum, &Numeric::from(self.count))?,
            false => sum,
        };
        Ok(Value::Text(result.checked()?.to_string()))
    }
}

const SUM_OF_FLOAT4: u8 = 0;
const SUM_OF_FLOAT8: u8 = 1;
const AVERAGE: u8 = 2;

/// Of floats. Taking a value out of a sum would lose digits, so a window that moves
/// adds its values anew.
#[derive(Default)]
struct FloatSum<const RESULT: u8> {
    frame: Frame<f64>,
    sum: f64,
    has_infinity: bool,
}

impl<const RESULT: u8> FloatSum<RESULT> {
    fn accumulate(&mut self, value: f64) {
        self.has_infinity |= value.is_infinite();
        self.sum = match RESULT {
            SUM_OF_FLOAT4 => f64::from(self.sum as f32 + value as f32),
            _ => self.sum + value,
        };
    }
}

impl<const RESULT: u8> State for FloatSum<RESULT> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let Some(value) = row.real(0) {
            self.frame.push(value);
            self.accumulate(value);
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if row.real(0).is_some() {
            let rest: Vec<f64> = self.frame.pop()?.copied().collect();
            (self.sum, self.has_infinity) = (0.0, false);
            rest.into_iter().for_each(|value| self.accumulate(value));
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.frame.len() == 0 {
            return Ok(Value::Null);
        }
        if self.sum.is_infinite() && !self.has_infinity {
            return Err(SqlError::new(SqlState::OUT_OF_RANGE, "value out of range: overflow"));
        }
        let count = self.frame.len() as f64;
        Ok(Value::Real(if RESULT == AVERAGE { self.sum / count } else { self.sum }))
    }
}

#[derive(Default)]
struct IntervalSum<const AVERAGE: bool> {
    count: i64,
    sum: Interval,
}

impl<const AVERAGE: bool> IntervalSum<AVERAGE> {
    fn change(&mut self, row: &Row<'_>, sign: i64) -> Result<(), SqlError> {
        let Some(mut interval) = Interval::from_stored(row.text(0)) else { return Ok(()) };
        if sign < 0 {
            interval = interval.checked_neg().ok_or_else(interval::out_of_range)?;
        }
        self.count += sign;
        self.sum = self.sum.checked_add(&interval).ok_or_else(interval::out_of_range)?;
        Ok(())
    }
}

impl<const AVERAGE: bool> State for IntervalSum<AVERAGE> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, 1)
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, -1)
    }

    fn result(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let result = match AVERAGE {
            true => intervals::divide(&self.sum, self.count as f64)?,
            false => self.sum,
        };
        Ok(Value::Text(result.to_stored()))
    }
}

/// Whether all are true, or any.
#[derive(Default)]
struct Truth<const ALL: bool> {
    yes: i64,
    no: i64,
}

impl<const ALL: bool> Truth<ALL> {
    fn change(&mut self, row: &Row<'_>, sign: i64) {
        match row.get(0) {
            ValueRef::Integer(0) => self.no += sign,
            ValueRef::Integer(_) => self.yes += sign,
            _ => {}
        }
    }
}

impl<const ALL: bool> State for Truth<ALL> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, 1);
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, -1);
        Ok(())
    }

    fn result(&self) -> Outcome {
        match (self.yes, self.no) {
            (0, 0) => Ok(Value::Null),
            (yes, no) => boolean(if ALL { no == 0 } else { yes > 0 }),
        }
    }
}

/// All values combined by AND, or by OR.
struct Bits<const AND: bool> {
    count: i64,
    /// How many values have each bit.
    ones: [i64; 64],
}

impl<const AND: bool> Default for Bits<AND> {
    fn default() -> Self {
        Self { count: 0, ones: [0; 64] }
    }
}

impl<const AND: bool> Bits<AND> {
    fn change(&mut self, row: &Row<'_>, sign: i64) {
        if let ValueRef::Integer(value) = row.get(0) {
            self.count += sign;
            for (bit, ones) in self.ones.iter_mut().enumerate() {
                *ones += sign * (value >> bit & 1);
            }
        }
    }
}

impl<const AND: bool> State for Bits<AND> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, 1);
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        self.change(row, -1);
        Ok(())
    }

    fn result(&self) -> Outcome {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let least = if AND { self.count } else { 1 };
        let bits = self.ones.iter().enumerate();
        let set = bits.filter(|(_, ones)| **ones >= least);
        Ok(Value::Integer(set.fold(0, |value, (bit, _)| value | 1 << bit)))
    }
}

//! Variances, deviations and other statistics.

use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

use super::{Frame, Row, State, register_one};
use crate::functions::call::{Outcome, numeric};
use crate::functions::numeric_math;
use crate::signature::Lines;
use crate::values::numeric::Numeric;
use crate::{SqlError, SqlState};

macro_rules! lines {
    ($($name:literal $function:literal)*) => {
        &[$(
            (concat!($name, "(int2) -> numeric"), concat!($function, "_numeric({0})")),
            (concat!($name, "(int4) -> numeric"), concat!($function, "_numeric({0})")),
            (concat!($name, "(int8) -> numeric"), concat!($function, "_numeric({0})")),
            (concat!($name, "(numeric) -> numeric"), concat!($function, "_numeric({0})")),
            (concat!($name, "(float8) -> float8"), concat!($function, "_float({0})")),
            (concat!($name, "(float4) -> float8"), concat!($function, "_float({0})")),
        )*
            ("corr(float8, float8) -> float8", "rung_corr({0}, {1})"),
            ("covar_pop(float8, float8) -> float8", "rung_covar_pop({0}, {1})"),
            ("covar_samp(float8, float8) -> float8", "rung_covar_samp({0}, {1})"),
            ("regr_count(float8, float8) -> int8", "rung_regr_count({0}, {1})"),
            ("regr_avgx(float8, float8) -> float8", "rung_regr_avgx({0}, {1})"),
            ("regr_avgy(float8, float8) -> float8", "rung_regr_avgy({0}, {1})"),
            ("regr_slope(float8, float8) -> float8", "rung_regr_slope({0}, {1})"),
            ("regr_intercept(float8, float8) -> float8", "rung_regr_intercept({0}, {1})"),
            ("regr_r2(float8, float8) -> float8", "rung_regr_r2({0}, {1})"),
        ]
    };
}

pub(crate) const FUNCTIONS: Lines = lines! {
    "var_pop" "rung_var_pop"
    "var_samp" "rung_var_samp"
    "variance" "rung_var_samp"
    "stddev_pop" "rung_stddev_pop"
    "stddev_samp" "rung_stddev_samp"
    "stddev" "rung_stddev_samp"
};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    register_one::<NumericMoment<false, false>>(connection, "rung_var_pop_numeric", 1)?;
    register_one::<NumericMoment<true, false>>(connection, "rung_var_samp_numeric", 1)?;
    register_one::<NumericMoment<false, true>>(connection, "rung_stddev_pop_numeric", 1)?;
    register_one::<NumericMoment<true, true>>(connection, "rung_stddev_samp_numeric", 1)?;
    register_one::<FloatMoment<false, false>>(connection, "rung_var_pop_float", 1)?;
    register_one::<FloatMoment<true, false>>(connection, "rung_var_samp_float", 1)?;
    register_one::<FloatMoment<false, true>>(connection, "rung_stddev_pop_float", 1)?;
    register_one::<FloatMoment<true, true>>(connection, "rung_stddev_samp_float", 1)?;
    register_one::<Pairs<CORR>>(connection, "rung_corr", 2)?;
    register_one::<Pairs<COVAR_POP>>(connection, "rung_covar_pop", 2)?;
    register_one::<Pairs<COVAR_SAMP>>(connection, "rung_covar_samp", 2)?;
    register_one::<Pairs<COUNT>>(connection, "rung_regr_count", 2)?;
    register_one::<Pairs<AVG_X>>(connection, "rung_regr_avgx", 2)?;
    register_one::<Pairs<AVG_Y>>(connection, "rung_regr_avgy", 2)?;
    register_one::<Pairs<SLOPE>>(connection, "rung_regr_slope", 2)?;
    register_one::<Pairs<INTERCEPT>>(connection, "rung_regr_intercept", 2)?;
    register_one::<Pairs<R2>>(connection, "rung_regr_r2", 2)
}

/// Exact sums of values and of their squares.
struct NumericMoment<const SAMPLE: bool, const ROOT: bool> {
    count: i64,
    sum: Numeric,
    squares: Numeric,
}

impl<const SAMPLE: bool, const ROOT: bool> Default for NumericMoment<SAMPLE, ROOT> {
    fn default() -> Self {
        Self { count: 0, sum: Numeric::zero(), squares: Numeric::zero() }
    }
}

impl<const SAMPLE: bool, const ROOT: bool> NumericMoment<SAMPLE, ROOT> {
    fn value(row: &Row<'_>) -> Result<Option<Numeric>, SqlError> {
        match row.get(0) {
            ValueRef::Null => Ok(None),
            ValueRef::Integer(value) => Ok(Some(Numeric::from(value))),
            _ => Numeric::parse(row.text(0)).map(Some),
        }
    }
}

impl<const SAMPLE: bool, const ROOT: bool> State for NumericMoment<SAMPLE, ROOT> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let Some(value) = Self::value(row)? {
            self.count += 1;
            self.sum = numeric_math::add(&self.sum, &value);
            self.squares =
                numeric_math::add(&self.squares, &numeric_math::multiply(&value, &value));
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let Some(value) = Self::value(row)? {
            self.count -= 1;
            self.sum = numeric_math::subtract(&self.sum, &value);
            self.squares =
                numeric_math::subtract(&self.squares, &numeric_math::multiply(&value, &value));
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        let least = if SAMPLE { 2 } else { 1 };
        if self.count < least {
            return Ok(Value::Null);
        }
        let (Numeric::Finite(_), Numeric::Finite(_)) = (&self.sum, &self.squares) else {
            return numeric(Numeric::NaN);
        };
        let count = Numeric::from(self.count);
        let square = numeric_math::multiply(&self.sum, &self.sum);
        let scaled = numeric_math::multiply(&count, &self.squares);
        let above = numeric_math::subtract(&scaled, &square);
        if above.signum() <= 0 {
            return numeric(Numeric::zero());
        }
        let below = match SAMPLE {
            true => i128::from(self.count) * (i128::from(self.count) - 1),
            false => i128::from(self.count) * i128::from(self.count),
        };
        let below = Numeric::Finite(crate::values::numeric::Decimal::new(below, 0));
        let variance = numeric_math::divide(&above, &below)?;
        numeric(if ROOT { numeric_math::square_root(&variance)? } else { variance })
    }
}

/// Sums by the method of Youngs and Cramer, as PostgreSQL computes them.
#[derive(Default)]
struct FloatMoment<const SAMPLE: bool, const ROOT: bool> {
    frame: Frame<f64>,
    sums: Sums,
}

#[derive(Default)]
struct Sums {
    n: f64,
    x: f64,
    xx: f64,
    y: f64,
    yy: f64,
    xy: f64,
    has_infinity: bool,
}

impl Sums {
    fn add(&mut self, y: f64, x: f64) {
        self.has_infinity |= x.is_infinite() || y.is_infinite();
        self.n += 1.0;
        self.x += x;
        self.y += y;
        if self.n > 1.0 {
            let (dx, dy) = (x * self.n - self.x, y * self.n - self.y);
            let below = self.n * (self.n - 1.0);
            self.xx += dx * dx / below;
            self.yy += dy * dy / below;
            self.xy += dx * dy / below;
        }
    }
}

impl<const SAMPLE: bool, const ROOT: bool> State for FloatMoment<SAMPLE, ROOT> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let Some(value) = row.real(0) {
            self.frame.push(value);
            self.sums.add(0.0, value);
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if row.real(0).is_some() {
            self.sums = Sums::default();
            self.frame.pop()?.for_each(|value| self.sums.add(0.0, *value));
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        let count = self.sums.n;
        if count < if SAMPLE { 2.0 } else { 1.0 } {
            return Ok(Value::Null);
        }
        let variance = self.sums.xx / if SAMPLE { count - 1.0 } else { count };
        if variance.is_infinite() && !self.sums.has_infinity {
            return Err(SqlError::new(SqlState::OUT_OF_RANGE, "value out of range: overflow"));
        }
        Ok(Value::Real(if ROOT { variance.sqrt() } else { variance }))
    }
}

const CORR: u8 = 0;
const COVAR_POP: u8 = 1;
const COVAR_SAMP: u8 = 2;
const COUNT: u8 = 3;
const AVG_X: u8 = 4;
const AVG_Y: u8 = 5;
const SLOPE: u8 = 6;
const INTERCEPT: u8 = 7;
const R2: u8 = 8;

/// Of pairs Y, X without NULLs.
#[derive(Default)]
struct Pairs<const RESULT: u8> {
    frame: Frame<(f64, f64)>,
    sums: Sums,
}

impl<const RESULT: u8> State for Pairs<RESULT> {
    fn add(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if let Some((y, x)) = row.real(0).zip(row.real(1)) {
            self.frame.push((y, x));
            self.sums.add(y, x);
        }
        Ok(())
    }

    fn remove(&mut self, row: &Row<'_>) -> Result<(), SqlError> {
        if row.real(0).zip(row.real(1)).is_some() {
            self.sums = Sums::default();
            self.frame.pop()?.for_each(|(y, x)| self.sums.add(*y, *x));
        }
        Ok(())
    }

    fn result(&self) -> Outcome {
        let Sums { n, x, xx, y, yy, xy, .. } = self.sums;
        if RESULT == COUNT {
            return Ok(Value::Integer(n as i64));
        }
        let result = match RESULT {
            _ if n < 1.0 => None,
            CORR => (xx != 0.0 && yy != 0.0).then(|| xy / f64::sqrt(xx * yy)),
            COVAR_POP => Some(xy / n),
            COVAR_SAMP => (n >= 2.0).then(|| xy / (n - 1.0)),
            AVG_X => Some(x / n),
            AVG_Y => Some(y / n),
            SLOPE => (xx != 0.0).then(|| xy / xx),
            INTERCEPT => (xx != 0.0).then(|| (y - x * xy / xx) / n),
            _ if xx == 0.0 => None,
            _ if yy == 0.0 => Some(1.0),
            _ => Some((xy * xy) / (xx * yy)),
        };
        Ok(result.map_or(Value::Null, Value::Real))
    }
}

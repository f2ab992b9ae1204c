//! Which types become which others, and how SQLite does it.

use super::Analyzer;
use super::expression::{Expression, Form, Lifted, quoted_string, value_literal};
use super::plan::LiftedValue;
use crate::values::decode_text;
use crate::{PgType, SqlError, SqlState, TypeUse};

/// Why a value is converted; each allows more than the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Conversion {
    Implicit,
    /// To a column's type.
    Assignment,
    Explicit,
}

/// PostgreSQL's categories of types, by which unknown arguments are decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Category {
    Boolean,
    Number,
    Text,
    DateTime,
    Timespan,
    Array,
    Other,
}

pub(crate) fn category(base: &PgType) -> Category {
    use PgType as T;
    match base {
        T::Bool => Category::Boolean,
        T::Int2
        | T::Int4
        | T::Int8
        | T::Oid
        | T::Float4
        | T::Float8
        | T::Numeric
        | T::Regclass
        | T::Regtype => Category::Number,
        T::Text | T::Varchar | T::Char | T::Name => Category::Text,
        T::Date | T::Time | T::Timestamp | T::Timestamptz => Category::DateTime,
        T::Interval => Category::Timespan,
        T::Array(_) => Category::Array,
        _ => Category::Other,
    }
}

/// The type that a category prefers.
pub(crate) fn is_preferred(base: &PgType) -> bool {
    use PgType as T;
    matches!(base, T::Bool | T::Float8 | T::Oid | T::Text | T::Timestamptz | T::Interval)
}

/// From what a conversion must be asked for on, None if there is none.
fn conversion(from: &PgType, to: &PgType) -> Option<Conversion> {
    use Conversion::{Assignment, Explicit, Implicit};
    use PgType as T;
    let oids = |base: &PgType| matches!(base, T::Oid | T::Regclass | T::Regtype);
    if from == to {
        return Some(Implicit);
    }
    match (from, to) {
        // A string does not say what the fields of a record are.
        (T::Record(_), _) | (_, T::Record(_)) => None,
        (T::Unknown, _) => Some(Implicit),
        (T::Array(a), T::Array(b)) => conversion(a, b),
        (T::Int2, T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric)
        | (T::Int4, T::Int8 | T::Float4 | T::Float8 | T::Numeric)
        | (T::Int8, T::Float4 | T::Float8 | T::Numeric)
        | (T::Numeric, T::Float4 | T::Float8)
        | (T::Float4, T::Float8)
        | (T::Date, T::Timestamp | T::Timestamptz)
        | (T::Timestamp, T::Timestamptz)
        | (T::Time, T::Interval)
        | (T::Varchar | T::Char | T::Name | T::InternalChar, T::Text)
        | (T::Varchar | T::Char | T::Text, T::Name)
        | (T::Text | T::Varchar, T::Char)
        | (T::Text | T::Char, T::Varchar)
        | (T::Text | T::Varchar, T::Regclass) => Some(Implicit),
        (T::Int2 | T::Int4 | T::Int8, to) if oids(to) => Some(Implicit),
        (from, to) if oids(from) && oids(to) => Some(Implicit),
        (T::Oid | T::Regclass | T::Regtype, T::Int4 | T::Int8)
        | (T::Int4 | T::Int8, T::Int2)
        | (T::Int8, T::Int4)
        | (T::Float4 | T::Float8, T::Int2 | T::Int4 | T::Int8 | T::Numeric)
        | (T::Float8, T::Float4)
        | (T::Numeric, T::Int2 | T::Int4 | T::Int8)
        | (T::Timestamptz, T::Timestamp | T::Date | T::Time)
        | (T::Timestamp, T::Date | T::Time)
        | (T::Interval, T::Time)
        | (T::Name, T::Varchar | T::Char)
        | (T::Text | T::Varchar | T::Char, T::InternalChar)
        | (T::Json, T::Jsonb)
        | (T::Jsonb, T::Json) => Some(Assignment),
        (T::Int4, T::Bool)
        | (T::Bool, T::Int4)
        | (T::InternalChar, T::Int4)
        | (T::Int4, T::InternalChar)
        | (T::Jsonb, T::Bool | T::Int2 | T::Int4 | T::Int8)
        | (T::Jsonb, T::Float4 | T::Float8 | T::Numeric) => Some(Explicit),
        // By its text, as every type can.
        (_, T::Text | T::Varchar | T::Char | T::Name) => Some(Assignment),
        (T::Text | T::Varchar | T::Char | T::Name, _) => Some(Explicit),
        _ => None,
    }
}

pub(crate) fn can_convert(from: &PgType, to: &PgType, why: Conversion) -> bool {
    conversion(from, to).is_some_and(|needed| needed <= why)
}

/// The type that values of several expressions have together: CASE, UNION, VALUES,
/// COALESCE, ARRAY. All unknown makes text.
pub(crate) fn common_type(types: &[&TypeUse], what: &str) -> Result<TypeUse, SqlError> {
    let mut known = types.iter().copied().filter(|one| one.base != PgType::Unknown);
    let Some(first) = known.next() else {
        return Ok(TypeUse { base: PgType::Text, modifier: -1 });
    };
    let mut chosen = first.clone();
    for other in known {
        if other.base == chosen.base {
            if other.modifier != chosen.modifier {
                chosen.modifier = -1;
            }
            continue;
        }
        if category(&other.base) != category(&chosen.base) {
            return Err(SqlError::new(
                SqlState::DATATYPE_MISMATCH,
                format!(
                    "{what} types {} and {} cannot be matched",
                    chosen.base.name(),
                    other.base.name()
                ),
            ));
        }
        chosen.modifier = -1;
        let there = can_convert(&chosen.base, &other.base, Conversion::Implicit);
        let back = can_convert(&other.base, &chosen.base, Conversion::Implicit);
        if !is_preferred(&chosen.base) && there && !back {
            chosen.base = other.base.clone();
        } else if !back {
            if !there {
                return Err(SqlError::new(
                    SqlState("42846"),
                    format!(
                        "{what} could not convert type {} to {}",
                        other.base.name(),
                        chosen.base.name()
                    ),
                ));
            }
            chosen.base = other.base.clone();
        }
    }
    Ok(chosen)
}

impl Analyzer<'_> {
    /// Gives an expression a type.
    pub fn convert(
        &mut self,
        expression: Expression,
        target: &TypeUse,
        why: Conversion,
    ) -> Result<Expression, SqlError> {
        let not_null = expression.not_null;
        let mut converted = match expression.form {
            Form::Null => Expression::typed("NULL", target.clone()),
            Form::Literal(text) if expression.data_type.base == PgType::Unknown => {
                self.constant(&text, target, why)?
            }
            Form::Literal(ref text) if is_foldable(text, expression.base(), &target.base) => {
                self.constant(&text.clone(), target, why)?
            }
            Form::Lifted(lifted) if takes_type(&expression.data_type.base, &target.base) => {
                self.lifted(lifted, target, why)?
            }
            Form::Parameter(number) if self.parameter_type(number).is_none() => {
                self.decide_parameter(number, target.base.clone());
                let sql = Expression::sql(format!("?{number}"), target.base.clone());
                with_modifier(sql, target, why)
            }
            _ => self.convert_typed(expression, target, why)?,
        };
        converted.not_null = not_null;
        Ok(converted)
    }

    fn convert_typed(
        &mut self,
        expression: Expression,
        target: &TypeUse,
        why: Conversion,
    ) -> Result<Expression, SqlError> {
        let expression = self.settle(expression)?;
        let from = expression.data_type.clone();
        if from == *target || (from.base == target.base && target.modifier < 0) {
            return Ok(expression.with_type(target.clone()));
        }
        if !can_convert(&from.base, &target.base, why) {
            return Err(cannot_convert(&from.base, &target.base));
        }
        let Form::Sql(sql) = &expression.form else {
            return Err(SqlError::new(SqlState::INTERNAL, "an expression without a text"));
        };
        if from.base == target.base {
            return Ok(with_modifier(expression, target, why));
        }
        let zoned = matches!(from.base, PgType::Timestamptz) || target.base == PgType::Timestamptz;
        self.reads_context |= zoned;
        let sql = cast_sql(sql, &from.base, &target.base);
        Ok(with_modifier(Expression::sql(sql, target.base.clone()), target, why))
    }

    /// A literal as a value of a type. A string too long for its column is an error
    /// when the statement is executed, not before.
    fn constant(
        &mut self,
        text: &str,
        target: &TypeUse,
        why: Conversion,
    ) -> Result<Expression, SqlError> {
        use PgType as T;
        let plain = TypeUse { base: target.base.clone(), modifier: -1 };
        // Its value depends on when and for whom the statement runs.
        if target.base == T::Regclass {
            let oid = crate::system::relation_oid(self.catalog, text)?;
            return Ok(Expression::typed(oid.to_string(), target.clone()));
        }
        if target.base == T::Regtype {
            let sql = cast_sql(&quoted_string(text), &T::Text, &target.base);
            self.reads_context = true;
            return Ok(Expression::typed(sql, target.clone()));
        }
        if matches!(target.base, T::Timestamptz) || text.starts_with(char::is_alphabetic) {
            let dated = matches!(target.base, T::Timestamptz | T::Timestamp | T::Date | T::Time);
            self.cacheable &= !dated;
        }
        let value = decode_text(text.as_bytes(), &plain, self.context)?;
        let sql = Expression::sql(value_literal(&value), target.base.clone());
        Ok(with_modifier(sql, target, why))
    }

    /// A literal that was taken out, as a value of a type. What it says is read as
    /// that type when the statement is executed.
    ///
    /// # Errors
    /// A value that the translation depends on must not be taken out.
    fn lifted(
        &mut self,
        lifted: Lifted,
        target: &TypeUse,
        why: Conversion,
    ) -> Result<Expression, SqlError> {
        if matches!(target.base, PgType::Regclass | PgType::Regtype) {
            return Err(needs_value());
        }
        let value =
            LiftedValue { lifted, data_type: TypeUse { base: target.base.clone(), modifier: -1 } };
        let known = self.lifted_values.iter().position(|known| *known == value);
        let number = known.unwrap_or_else(|| {
            self.lifted_values.push(value);
            self.lifted_values.len() - 1
        });
        let sql = Expression::sql(format!("?{}", number + 1), target.base.clone());
        Ok(with_modifier(sql, target, why))
    }

    /// What has no type by now is text; a number has its own.
    pub fn settle(&mut self, expression: Expression) -> Result<Expression, SqlError> {
        let text = TypeUse { base: PgType::Text, modifier: -1 };
        match &expression.form {
            Form::Sql(_) => Ok(expression),
            Form::Null => Ok(Expression::typed("NULL", text)),
            Form::Literal(literal) if expression.is_unknown() => {
                let mut settled = Expression::typed(quoted_string(literal), text);
                settled.not_null = true;
                Ok(settled)
            }
            Form::Literal(digits) => {
                let target = expression.data_type.clone();
                let mut settled = self.constant(&digits.clone(), &target, Conversion::Implicit)?;
                settled.not_null = true;
                Ok(settled)
            }
            Form::Lifted(lifted) => {
                let base = match expression.base() {
                    PgType::Unknown => PgType::Text,
                    known => known.clone(),
                };
                let target = TypeUse { base, modifier: -1 };
                let mut settled = self.lifted(*lifted, &target, Conversion::Implicit)?;
                settled.not_null = true;
                Ok(settled)
            }
            Form::Parameter(number) => {
                let number = *number;
                let base = match self.parameter_type(number) {
                    Some(base) => base,
                    None => {
                        self.decide_parameter(number, PgType::Text);
                        PgType::Text
                    }
                };
                Ok(Expression::sql(format!("?{number}"), base))
            }
        }
    }

    /// SQLite's text of an expression, whatever its type.
    pub fn sql_of(&mut self, expression: Expression) -> Result<String, SqlError> {
        match self.settle(expression)?.form {
            Form::Sql(sql) => Ok(sql),
            _ => Err(SqlError::new(SqlState::INTERNAL, "an expression without a text")),
        }
    }

    /// Converts and gives SQLite's text.
    pub fn sql_as(
        &mut self,
        expression: Expression,
        base: PgType,
        why: Conversion,
    ) -> Result<String, SqlError> {
        let converted = self.convert(expression, &TypeUse { base, modifier: -1 }, why)?;
        self.sql_of(converted)
    }
}

/// Whether a literal that was taken out is read as a value of a type at once, whatever
/// its value: as [`is_foldable`] for literals that are there. One that does not fit
/// cannot be read, and the statement is executed with its literals.
fn takes_type(from: &PgType, to: &PgType) -> bool {
    let number = |base: &PgType| category(base) == Category::Number;
    match (from, to) {
        (PgType::Unknown, _) => true,
        (_, PgType::Int2 | PgType::Int4) => *from == PgType::Int4,
        _ => number(from) && number(to) && can_convert(from, to, Conversion::Implicit),
    }
}

/// Why a statement is not translated without its literals.
pub(super) fn needs_value() -> SqlError {
    SqlError::new(SqlState::INTERNAL, "the value of a literal is needed")
}

/// A number literal is read anew as another type of number, so that nothing is lost; one
/// that does not fit is an error of the conversion.
fn is_foldable(text: &str, from: &PgType, to: &PgType) -> bool {
    let number = |base: &PgType| category(base) == Category::Number;
    match to {
        PgType::Int2 => text.parse::<i16>().is_ok(),
        PgType::Int4 => text.parse::<i32>().is_ok(),
        _ => number(from) && number(to) && can_convert(from, to, Conversion::Implicit),
    }
}

pub(crate) fn cannot_convert(from: &PgType, to: &PgType) -> SqlError {
    SqlError::new(SqlState("42846"), format!("cannot cast type {} to {}", from.name(), to.name()))
}

fn type_literal(base: &PgType) -> String {
    quoted_string(base.sql_name())
}

fn cast_sql(sql: &str, from: &PgType, to: &PgType) -> String {
    use PgType as T;
    match (from, to) {
        (T::Int2, T::Int4 | T::Int8)
        | (T::Int4, T::Int8)
        | (T::Float4, T::Float8)
        | (T::Varchar | T::Name | T::InternalChar, T::Text)
        | (T::Text | T::Name | T::Json, T::Varchar)
        | (T::Varchar, T::Name)
        | (T::Oid, T::Regclass | T::Regtype | T::Int8)
        | (T::Regclass | T::Regtype, T::Oid | T::Int8)
        | (T::Bool, T::Int4)
        | (T::Json | T::Jsonb, T::Text)
        | (T::Jsonb, T::Json | T::Varchar) => sql.to_owned(),
        (T::Int4, T::Bool) => format!("({sql} <> 0)"),
        (T::Char, T::Text | T::Varchar) => format!("rtrim({sql}, ' ')"),
        (T::Int2 | T::Int4 | T::Int8, T::Float8) => format!("CAST({sql} AS REAL)"),
        (T::Int2 | T::Int4 | T::Int8, T::Numeric | T::Text | T::Varchar) => {
            format!("CAST({sql} AS TEXT)")
        }
        (T::Array(a), T::Array(b)) if cast_sql(sql, a, b) == sql => sql.to_owned(),
        (T::Text | T::Varchar | T::Name, T::Regclass) => format!("rung_to_regclass({sql}, 1)"),
        (T::Text | T::Varchar | T::Name, T::Regtype) => format!("rung_to_regtype({sql}, 1)"),
        (T::Regclass, T::Text | T::Varchar | T::Name) => format!("rung_regclass_text({sql})"),
        (T::Oid, T::Name) => format!("rung_schema_name({sql})"),
        (T::Regtype, T::Text | T::Varchar | T::Name) => format!("rung_regtype_text({sql})"),
        _ => format!("rung_cast({sql}, {}, {}, -1)", type_literal(from), type_literal(to)),
    }
}

/// Applies length, precision or scale: an explicit cast cuts strings, an assignment
/// refuses those that are too long.
fn with_modifier(expression: Expression, target: &TypeUse, why: Conversion) -> Expression {
    let Form::Sql(sql) = &expression.form else { return expression };
    if target.modifier < 0 || sql == "NULL" {
        return expression.with_type(target.clone());
    }
    let name = type_literal(&target.base);
    let sql = match why {
        Conversion::Explicit => {
            format!("rung_cast({sql}, {name}, {name}, {})", target.modifier)
        }
        _ => format!("rung_assign({sql}, {name}, {})", target.modifier),
    };
    Expression::typed(sql, target.clone())
}

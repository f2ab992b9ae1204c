//! Types as statements write them.

use sqlparser::ast::{
    ArrayElemTypeDef, CharacterLength, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};

use crate::{PgType, SqlError, SqlState, TypeUse};

/// The type that a statement names.
pub(crate) fn type_use(data_type: &DataType) -> Result<TypeUse, SqlError> {
    use DataType as D;
    let plain = |base| Ok(TypeUse { base, modifier: -1 });
    match data_type {
        D::Bool | D::Boolean => plain(PgType::Bool),
        D::Int2(None) | D::SmallInt(None) => plain(PgType::Int2),
        D::Int(None) | D::Int4(None) | D::Integer(None) => plain(PgType::Int4),
        D::Int8(None) | D::BigInt(None) => plain(PgType::Int8),
        D::Real | D::Float4 => plain(PgType::Float4),
        D::Double(ExactNumberInfo::None) | D::DoublePrecision | D::Float8 => plain(PgType::Float8),
        D::Float(info) => float(info),
        D::Numeric(info) | D::Decimal(info) | D::Dec(info) => numeric(info),
        D::Text => plain(PgType::Text),
        D::Varchar(length) | D::CharacterVarying(length) | D::CharVarying(length) => {
            Ok(TypeUse { base: PgType::Varchar, modifier: character(length.as_ref())? })
        }
        D::Char(length) | D::Character(length) => {
            let modifier = character(length.as_ref())?;
            Ok(TypeUse { base: PgType::Char, modifier: if modifier < 0 { 5 } else { modifier } })
        }
        D::Bytea => plain(PgType::Bytea),
        D::Date => plain(PgType::Date),
        D::Time(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            Ok(TypeUse { base: PgType::Time, modifier: seconds(*precision)? })
        }
        D::Timestamp(precision, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => {
            Ok(TypeUse { base: PgType::Timestamp, modifier: seconds(*precision)? })
        }
        D::Timestamp(precision, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz) => {
            Ok(TypeUse { base: PgType::Timestamptz, modifier: seconds(*precision)? })
        }
        D::Interval { fields: None, precision: None } => plain(PgType::Interval),
        D::JSON => plain(PgType::Json),
        D::JSONB => plain(PgType::Jsonb),
        D::Uuid => plain(PgType::Uuid),
        D::Regclass => plain(PgType::Regclass),
        D::Array(
            ArrayElemTypeDef::SquareBracket(element, _) | ArrayElemTypeDef::Qualified(element, _),
        ) => array(type_use(element)?),
        D::Custom(name, modifiers) => custom(data_type, name, modifiers),
        other => Err(unknown(&other.to_string())),
    }
}

/// An array of arrays is of the same type as an array: PostgreSQL's have any number of
/// dimensions.
fn array(element: TypeUse) -> Result<TypeUse, SqlError> {
    let base = match element.base {
        PgType::Array(_) => element.base,
        base => PgType::Array(Box::new(base)),
    };
    Ok(TypeUse { base, modifier: element.modifier })
}

fn custom(
    data_type: &DataType,
    name: &ObjectName,
    modifiers: &[String],
) -> Result<TypeUse, SqlError> {
    let mut parts = Vec::new();
    for part in &name.0 {
        match part.as_ident() {
            Some(ident) if ident.quote_style.is_some() => parts.push(ident.value.clone()),
            Some(ident) => parts.push(ident.value.to_ascii_lowercase()),
            None => return Err(unknown(&data_type.to_string())),
        }
    }
    let (schema, last) = match parts.as_slice() {
        [last] => (None, last),
        [schema, last] => (Some(schema.as_str()), last),
        _ => return Err(unknown(&data_type.to_string())),
    };
    if schema.is_some_and(|schema| schema != "pg_catalog") {
        return Err(unknown(&data_type.to_string()));
    }
    let quoted =
        name.0.last().and_then(|part| part.as_ident()).is_some_and(|i| i.quote_style.is_some());
    // `"char"` in quotes is the internal type of one byte; `char` is `bpchar`.
    if last == "char" && quoted {
        return Ok(TypeUse { base: PgType::InternalChar, modifier: -1 });
    }
    let (last, is_array) = match last.strip_prefix('_') {
        Some(element) => (element, true),
        None => (last.as_str(), false),
    };
    let base = named(last).ok_or_else(|| unknown(&data_type.to_string()))?;
    let modifier = match (&base, modifiers) {
        (_, []) => -1,
        (PgType::Varchar | PgType::Char, [length]) => length.parse::<i32>().map_or(-1, |n| n + 4),
        _ => return Err(unknown(&data_type.to_string())),
    };
    let element = TypeUse { base, modifier };
    if is_array { array(element) } else { Ok(element) }
}

fn unknown(name: &str) -> SqlError {
    let name = name.to_ascii_lowercase();
    SqlError::new(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))
}

fn invalid(message: String) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// `float(n)` is float4 up to 24 bits of mantissa.
fn float(info: &ExactNumberInfo) -> Result<TypeUse, SqlError> {
    let base = match info {
        ExactNumberInfo::None | ExactNumberInfo::Precision(25..=53) => PgType::Float8,
        ExactNumberInfo::Precision(1..=24) => PgType::Float4,
        ExactNumberInfo::Precision(0) => {
            return Err(invalid("precision for type float must be at least 1 bit".to_owned()));
        }
        _ => return Err(invalid("precision for type float must be less than 54 bits".to_owned())),
    };
    Ok(TypeUse { base, modifier: -1 })
}

/// The modifier has precision and scale, as in PostgreSQL: `(precision << 16 | scale) + 4`.
fn numeric(info: &ExactNumberInfo) -> Result<TypeUse, SqlError> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(TypeUse { base: PgType::Numeric, modifier: -1 }),
        ExactNumberInfo::Precision(precision) => (*precision, 0),
        ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, *scale),
    };
    if !(1..=1000).contains(&precision) {
        return Err(invalid(format!("NUMERIC precision {precision} must be between 1 and 1000")));
    }
    if !(-1000..=1000).contains(&scale) {
        return Err(invalid(format!("NUMERIC scale {scale} must be between -1000 and 1000")));
    }
    let modifier = ((precision as i32) << 16 | (scale as i32 & 0x7ff)) + 4;
    Ok(TypeUse { base: PgType::Numeric, modifier })
}

/// The modifier is the length in characters plus 4.
fn character(length: Option<&CharacterLength>) -> Result<i32, SqlError> {
    match length {
        None => Ok(-1),
        Some(CharacterLength::IntegerLength { length: 0, .. }) => {
            Err(invalid("length for type varchar must be at least 1".to_owned()))
        }
        Some(CharacterLength::IntegerLength { length, .. }) if *length <= 10_485_760 => {
            Ok(*length as i32 + 4)
        }
        Some(_) => Err(invalid("length for type varchar cannot exceed 10485760".to_owned())),
    }
}

/// The modifier is the number of digits after the second's point.
fn seconds(precision: Option<u64>) -> Result<i32, SqlError> {
    match precision {
        None => Ok(-1),
        Some(precision) => Ok(precision.min(6) as i32),
    }
}

/// Types that go by another name here.
fn named(name: &str) -> Option<PgType> {
    match name {
        // Functions are known by name here, also in the catalog.
        "regproc" => Some(PgType::Text),
        // A schema's oid becomes its name, which no other conversion to a name does.
        "regnamespace" => Some(PgType::Name),
        // What the grammar knows under these names has modifiers and synonyms.
        "unknown" | "void" => None,
        _ => PgType::from_name(name),
    }
}

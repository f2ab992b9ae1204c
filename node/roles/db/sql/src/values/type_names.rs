//! Object identifiers and names of types, as PostgreSQL 15 has them.

use crate::{PgType, TypeUse};

struct Names {
    data_type: PgType,
    oid: u32,
    /// 0 for a type that has no arrays.
    array_oid: u32,
    /// In `pg_type.typname`.
    sql_name: &'static str,
    array_sql_name: &'static str,
    /// As `format_type` says it.
    name: &'static str,
    array_name: &'static str,
    length: i16,
}

macro_rules! types {
    ($($variant:ident $oid:literal $array:literal $sql:literal $name:literal $length:literal;)*) => {
        $(#[allow(non_upper_case_globals)] static $variant: Names = Names {
            data_type: PgType::$variant,
            oid: $oid,
            array_oid: $array,
            sql_name: $sql,
            array_sql_name: concat!("_", $sql),
            name: $name,
            array_name: concat!($name, "[]"),
            length: $length,
        };)*

        static TYPES: &[&Names] = &[$(&$variant,)* &RECORD];

        /// Of the type, or of an array's elements.
        fn names(data_type: &PgType) -> &'static Names {
            match data_type {
                $(PgType::$variant => &$variant,)*
                PgType::Array(element) => names(element),
                PgType::Record(_) => &RECORD,
            }
        }
    };
}

/// What is only named has no fields that are known.
static RECORD: Names = Names {
    data_type: PgType::Record(Vec::new()),
    oid: 2249,
    array_oid: 2287,
    sql_name: "record",
    array_sql_name: "_record",
    name: "record",
    array_name: "record[]",
    length: -1,
};

types! {
    Bool         16   1000 "bool"        "boolean"                      1;
    Int2         21   1005 "int2"        "smallint"                     2;
    Int4         23   1007 "int4"        "integer"                      4;
    Int8         20   1016 "int8"        "bigint"                       8;
    Oid          26   1028 "oid"         "oid"                          4;
    Float4       700  1021 "float4"      "real"                         4;
    Float8       701  1022 "float8"      "double precision"             8;
    Numeric      1700 1231 "numeric"     "numeric"                     -1;
    Text         25   1009 "text"        "text"                        -1;
    Varchar      1043 1015 "varchar"     "character varying"           -1;
    Char         1042 1014 "bpchar"      "character"                   -1;
    Name         19   1003 "name"        "name"                        64;
    InternalChar 18   1002 "char"        "\"char\""                     1;
    Bytea        17   1001 "bytea"       "bytea"                       -1;
    Date         1082 1182 "date"        "date"                         4;
    Time         1083 1183 "time"        "time without time zone"       8;
    Timestamp    1114 1115 "timestamp"   "timestamp without time zone"  8;
    Timestamptz  1184 1185 "timestamptz" "timestamp with time zone"     8;
    Interval     1186 1187 "interval"    "interval"                    16;
    Json         114  199  "json"        "json"                        -1;
    Jsonb        3802 3807 "jsonb"       "jsonb"                       -1;
    Uuid         2950 2951 "uuid"        "uuid"                        16;
    Regclass     2205 2210 "regclass"    "regclass"                     4;
    Regtype      2206 2211 "regtype"     "regtype"                      4;
    Void         2278 0    "void"        "void"                         4;
    Unknown      705  0    "unknown"     "unknown"                     -2;
}

/// Other names that PostgreSQL's grammar and catalog accept, in lower case.
const SYNONYMS: &[(&str, PgType)] = &[
    ("int", PgType::Int4),
    ("decimal", PgType::Numeric),
    ("dec", PgType::Numeric),
    ("float", PgType::Float8),
    ("char", PgType::Char),
    ("national character", PgType::Char),
    ("national char", PgType::Char),
    ("nchar", PgType::Char),
    ("char varying", PgType::Varchar),
    ("national character varying", PgType::Varchar),
    ("national char varying", PgType::Varchar),
    ("nchar varying", PgType::Varchar),
];

impl PgType {
    /// `pg_type.oid`.
    pub fn oid(&self) -> u32 {
        match self {
            Self::Array(element) => element.array_oid(),
            _ => names(self).oid,
        }
    }

    /// The type of arrays of this type, 0 if there is none; an array's is itself.
    pub fn array_oid(&self) -> u32 {
        names(self).array_oid
    }

    pub fn from_oid(oid: u32) -> Option<Self> {
        if oid == 0 {
            return None;
        }
        TYPES.iter().find_map(|names| {
            if names.oid == oid {
                Some(names.data_type.clone())
            } else if names.array_oid == oid {
                Some(Self::Array(Box::new(names.data_type.clone())))
            } else {
                None
            }
        })
    }

    /// As `format_type` and error messages say it: `timestamp with time zone`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Array(_) => names(self).array_name,
            _ => names(self).name,
        }
    }

    /// `pg_type.typname`: `timestamptz`, `_int4`, `bpchar`.
    pub fn sql_name(&self) -> &'static str {
        match self {
            Self::Array(_) => names(self).array_sql_name,
            _ => names(self).sql_name,
        }
    }

    /// The type of a name in any of PostgreSQL's spellings, without modifiers and
    /// schema: `int`, `INTEGER`, `_int4`, `text[]`, `"char"`, `double precision`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim();
        if let Some(element) = name.strip_suffix(']') {
            let (element, bound) = element.rsplit_once('[')?;
            if !bound.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            return Self::from_name(element).and_then(|element| match element {
                Self::Array(_) => Some(element),
                Self::Void | Self::Unknown => None,
                _ => Some(Self::Array(Box::new(element))),
            });
        }
        let lower = name.to_ascii_lowercase();
        if let Some((_, found)) = SYNONYMS.iter().find(|(synonym, _)| *synonym == lower) {
            return Some(found.clone());
        }
        TYPES.iter().find_map(|names| {
            if names.sql_name == lower || names.name == lower {
                Some(names.data_type.clone())
            } else if names.array_oid != 0 && names.array_sql_name == lower {
                Some(Self::Array(Box::new(names.data_type.clone())))
            } else {
                None
            }
        })
    }

    /// `pg_type.typlen`: bytes, -1 for a variable length, -2 for a C string.
    pub fn length(&self) -> i16 {
        match self {
            Self::Array(_) => -1,
            _ => names(self).length,
        }
    }

    /// `pg_type.typcategory`.
    pub fn category(&self) -> char {
        match self {
            Self::Bool => 'B',
            Self::Int2
            | Self::Int4
            | Self::Int8
            | Self::Oid
            | Self::Float4
            | Self::Float8
            | Self::Numeric
            | Self::Regclass
            | Self::Regtype => 'N',
            Self::Text | Self::Varchar | Self::Char | Self::Name => 'S',
            Self::InternalChar => 'Z',
            Self::Bytea | Self::Json | Self::Jsonb | Self::Uuid => 'U',
            Self::Date | Self::Time | Self::Timestamp | Self::Timestamptz => 'D',
            Self::Interval => 'T',
            Self::Void | Self::Record(_) => 'P',
            Self::Unknown => 'X',
            Self::Array(_) if self.is_pseudo() => 'P',
            Self::Array(_) => 'A',
        }
    }

    /// Whether no column can have it.
    pub fn is_pseudo(&self) -> bool {
        match self {
            Self::Array(element) => element.is_pseudo(),
            _ => matches!(self, Self::Void | Self::Unknown | Self::Record(_)),
        }
    }

    /// `pg_type.typispreferred`: whether others of its category become this one when
    /// nothing else decides.
    pub fn is_preferred(&self) -> bool {
        matches!(
            self,
            Self::Bool | Self::Oid | Self::Float8 | Self::Text | Self::Timestamptz | Self::Interval
        )
    }

    /// The type of an array's elements.
    pub fn element(&self) -> Option<&PgType> {
        match self {
            Self::Array(element) => Some(element),
            _ => None,
        }
    }

    /// The collation that gives stored values the type's order and equality, if
    /// SQLite's own comparison does not.
    pub fn collation(&self) -> Option<&'static str> {
        match self {
            Self::Numeric => Some("rung_numeric"),
            Self::Interval => Some("rung_interval"),
            Self::Char => Some("RTRIM"),
            Self::Jsonb => Some("rung_jsonb"),
            Self::Array(element) => match element.as_ref() {
                Self::Numeric => Some("rung_numeric_array"),
                _ => Some("rung_array"),
            },
            _ => None,
        }
    }
}

/// What the text of a type's modifiers says, such as `(10,2)`, as `format_type` does.
pub fn modifier_text(data_type: &PgType, modifier: i32) -> Option<String> {
    if modifier < 0 {
        return None;
    }
    match data_type {
        PgType::Varchar | PgType::Char => (modifier > 4).then(|| format!("({})", modifier - 4)),
        PgType::Numeric => {
            let (precision, scale) = numeric_modifier(modifier)?;
            Some(format!("({precision},{scale})"))
        }
        PgType::Time | PgType::Timestamp | PgType::Timestamptz => Some(format!("({modifier})")),
        PgType::Interval => {
            let precision = modifier & 0xFFFF;
            (precision <= 6).then(|| format!("({precision})"))
        }
        PgType::Array(element) => modifier_text(element, modifier),
        _ => None,
    }
}

/// Precision and scale in a numeric's modifier.
pub fn numeric_modifier(modifier: i32) -> Option<(i32, i32)> {
    if modifier < 4 {
        return None;
    }
    let packed = modifier - 4;
    let scale = ((packed & 0x7FF) ^ 1024) - 1024;
    Some(((packed >> 16) & 0xFFFF, scale))
}

impl TypeUse {
    /// A type without modifier.
    pub fn plain(base: PgType) -> Self {
        Self { base, modifier: -1 }
    }

    /// As `format_type(oid, modifier)` says it: `character varying(20)`,
    /// `timestamp(3) without time zone`, `numeric(10,2)[]`.
    pub fn display_name(&self) -> String {
        let element = self.base.element().unwrap_or(&self.base);
        let modifier = modifier_text(element, self.modifier);
        let name = match (element, modifier) {
            // `character` alone would mean `character(1)`.
            (PgType::Char, None) => "bpchar".to_owned(),
            (_, None) => element.name().to_owned(),
            (PgType::Time | PgType::Timestamp | PgType::Timestamptz, Some(modifier)) => {
                let (first, rest) = element.name().split_once(' ').unwrap_or((element.name(), ""));
                format!("{first}{modifier} {rest}")
            }
            (_, Some(modifier)) => format!("{}{modifier}", element.name()),
        };
        match self.base {
            PgType::Array(_) => name + "[]",
            _ => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_oid_and_names() {
        for names in TYPES {
            let plain = names.data_type.clone();
            assert_eq!(PgType::from_oid(plain.oid()), Some(plain.clone()));
            assert_eq!(PgType::from_name(plain.name()), Some(plain.clone()));
            if plain != PgType::InternalChar {
                assert_eq!(PgType::from_name(plain.sql_name()), Some(plain.clone()));
            }
            if plain.array_oid() != 0 {
                let array = PgType::Array(Box::new(plain));
                assert_eq!(PgType::from_oid(array.oid()), Some(array.clone()));
                assert_eq!(PgType::from_name(array.name()), Some(array.clone()));
                assert_eq!(PgType::from_name(array.sql_name()), Some(array.clone()));
            }
        }
        assert_eq!(PgType::from_oid(0), None);
        assert_eq!(PgType::from_name("nonsense"), None);
        assert_eq!(PgType::from_name("INT[3]"), PgType::from_name("_int4"));
    }

    #[test]
    fn modifiers_show_in_a_types_name() {
        let named = |base, modifier| TypeUse { base, modifier }.display_name();
        assert_eq!(named(PgType::Varchar, 24), "character varying(20)");
        assert_eq!(named(PgType::Char, 14), "character(10)");
        assert_eq!(named(PgType::Char, -1), "bpchar");
        assert_eq!(named(PgType::Numeric, (10 << 16 | 2) + 4), "numeric(10,2)");
        assert_eq!(named(PgType::Timestamptz, 3), "timestamp(3) with time zone");
        assert_eq!(named(PgType::Array(Box::new(PgType::Varchar)), 24), "character varying(20)[]");
        assert_eq!(named(PgType::Timestamp, -1), "timestamp without time zone");
    }
}

//! Errors as PostgreSQL's clients expect them.

use std::fmt;

/// A five-character code of PostgreSQL's appendix A.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SqlState(pub &'static str);

macro_rules! states {
    ($($name:ident $code:literal)*) => {
        impl SqlState {
            $(pub const $name: SqlState = SqlState($code);)*

            const ALL: &[SqlState] = &[$(Self::$name),*];
        }
    };
}

states! {
    OUTCOME_UNKNOWN "08007"
    PROTOCOL_VIOLATION "08P01"
    NOT_SUPPORTED "0A000"
    CARDINALITY_VIOLATION "21000"
    DATA_EXCEPTION "22000"
    STRING_TOO_LONG "22001"
    OUT_OF_RANGE "22003"
    NULL_VALUE_NOT_ALLOWED "22004"
    INVALID_DATETIME "22007"
    DATETIME_FIELD_OVERFLOW "22008"
    DISPLACEMENT_OVERFLOW "22009"
    SEQUENCE_LIMIT_EXCEEDED "2200H"
    SUBSTRING_ERROR "22011"
    DIVISION_BY_ZERO "22012"
    INTERVAL_FIELD_OVERFLOW "22015"
    INVALID_ESCAPE_CHARACTER "22019"
    INVALID_REGULAR_EXPRESSION "2201B"
    INVALID_LOGARITHM_ARGUMENT "2201E"
    INVALID_LIMIT_COUNT "2201W"
    INVALID_OFFSET_COUNT "2201X"
    INVALID_POWER_ARGUMENT "2201F"
    INVALID_WIDTH_BUCKET_ARGUMENT "2201G"
    CHARACTER_NOT_IN_REPERTOIRE "22021"
    INVALID_PARAMETER_VALUE "22023"
    INVALID_ESCAPE_SEQUENCE "22025"
    ARRAY_SUBSCRIPT_ERROR "2202E"
    INVALID_TEXT "22P02"
    INVALID_BINARY "22P03"
    BAD_COPY_FORMAT "22P04"
    UNTRANSLATABLE_CHARACTER "22P05"
    NOT_NULL_VIOLATION "23502"
    FOREIGN_KEY_VIOLATION "23503"
    UNIQUE_VIOLATION "23505"
    CHECK_VIOLATION "23514"
    ACTIVE_TRANSACTION "25001"
    READ_ONLY_TRANSACTION "25006"
    NO_ACTIVE_TRANSACTION "25P01"
    IN_FAILED_TRANSACTION "25P02"
    IDLE_IN_TRANSACTION_TIMEOUT "25P03"
    INVALID_STATEMENT_NAME "26000"
    INVALID_AUTHORIZATION "28000"
    INVALID_PASSWORD "28P01"
    DEPENDENT_OBJECTS "2BP01"
    INVALID_CURSOR_NAME "34000"
    INVALID_SAVEPOINT "3B001"
    UNDEFINED_DATABASE "3D000"
    INVALID_SCHEMA_NAME "3F000"
    SERIALIZATION_FAILURE "40001"
    INSUFFICIENT_PRIVILEGE "42501"
    SYNTAX_ERROR "42601"
    DUPLICATE_COLUMN "42701"
    AMBIGUOUS_COLUMN "42702"
    UNDEFINED_COLUMN "42703"
    UNDEFINED_OBJECT "42704"
    DUPLICATE_OBJECT "42710"
    GROUPING_ERROR "42803"
    DATATYPE_MISMATCH "42804"
    WRONG_OBJECT_TYPE "42809"
    CANNOT_COERCE "42846"
    UNDEFINED_FUNCTION "42883"
    UNDEFINED_TABLE "42P01"
    UNDEFINED_PARAMETER "42P02"
    DUPLICATE_CURSOR "42P03"
    DUPLICATE_PREPARED_STATEMENT "42P05"
    DUPLICATE_TABLE "42P07"
    INVALID_TABLE_DEFINITION "42P16"
    INDETERMINATE_DATATYPE "42P18"
    INSUFFICIENT_RESOURCES "53000"
    DISK_FULL "53100"
    OUT_OF_MEMORY "53200"
    TOO_MANY_CONNECTIONS "53300"
    CONFIGURATION_LIMIT_EXCEEDED "53400"
    LIMIT_EXCEEDED "54000"
    STATEMENT_TOO_COMPLEX "54001"
    OBJECT_NOT_IN_PREREQUISITE_STATE "55000"
    CANNOT_CHANGE_PARAMETER "55P02"
    LOCK_NOT_AVAILABLE "55P03"
    QUERY_CANCELED "57014"
    ADMIN_SHUTDOWN "57P01"
    CANNOT_CONNECT_NOW "57P03"
    IDLE_SESSION_TIMEOUT "57P05"
    IO_ERROR "58030"
    INTERNAL "XX000"
    DATA_CORRUPTED "XX001"
}

impl SqlState {
    /// Of a code that an error of this crate has; others are internal errors.
    pub fn named(code: &str) -> Self {
        let found = Self::ALL.iter().find(|state| state.0 == code);
        found.copied().unwrap_or(Self::INTERNAL)
    }
}

/// What a client is told when a statement cannot be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqlError {
    pub state: SqlState,
    pub message: String,
    /// More about this occurrence, such as the key that exists already.
    pub detail: Option<String>,
    /// What the user may do.
    pub hint: Option<String>,
    /// Place in the statement's text, in characters from 1.
    pub position: Option<u32>,
    /// The table, column or constraint that it is about, which drivers show.
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl SqlError {
    pub fn new(state: SqlState, message: impl Into<String>) -> Self {
        Self {
            state,
            message: message.into(),
            detail: None,
            hint: None,
            position: None,
            table: None,
            column: None,
            constraint: None,
        }
    }

    /// What this database does not do; the hint says what to do instead.
    pub fn not_supported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(SqlState::NOT_SUPPORTED, format!("{} is not supported", what.into())).hint(hint)
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.state.0)
    }
}

impl std::error::Error for SqlError {}

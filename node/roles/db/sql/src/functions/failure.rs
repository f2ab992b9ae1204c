//! Errors on their way through SQLite, which passes on nothing but a text.

use rusqlite::Error;

use crate::{SqlError, SqlState};

/// In front of texts that are errors of ours; SQLite's own never begin with it.
const MARK: char = '\u{1}';
const SEPARATOR: char = '\u{2}';

/// An error as what a function gives to SQLite.
pub(crate) fn raise(error: SqlError) -> Error {
    Error::UserFunctionError(text_of(&error).into())
}

/// An error as what a virtual table gives to SQLite.
pub(crate) fn raise_in_module(error: &SqlError) -> Error {
    Error::ModuleError(text_of(error))
}

fn text_of(error: &SqlError) -> String {
    let mut text = format!("{MARK}{}{SEPARATOR}{}", error.state.0, error.message);
    for part in [&error.detail, &error.hint, &error.table, &error.column, &error.constraint] {
        text.push(SEPARATOR);
        text.push_str(part.as_deref().unwrap_or_default());
    }
    text
}

/// The error that a function raised, out of what SQLite says; nothing for errors of
/// SQLite's own.
pub(crate) fn recognise(error: &Error) -> Option<SqlError> {
    let text = match error {
        Error::SqliteFailure(_, Some(message)) => message.as_str(),
        Error::SqlInputError { msg, .. } => msg.as_str(),
        Error::ModuleError(message) => message.as_str(),
        Error::UserFunctionError(inner) => return parse(&inner.to_string()),
        _ => return None,
    };
    parse(text)
}

fn parse(text: &str) -> Option<SqlError> {
    // SQLite puts nothing in front of a function's message.
    let (_, marked) = text.split_once(MARK)?;
    let mut parts = marked.split(SEPARATOR);
    let state = SqlState::named(parts.next()?);
    let mut error = SqlError::new(state, parts.next()?);
    let mut next = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
    error.detail = next();
    error.hint = next();
    error.table = next();
    error.column = next();
    error.constraint = next();
    Some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_function_comes_back_whole_through_sqlite() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let sent = SqlError::new(SqlState::OUT_OF_RANGE, "integer out of range")
            .detail("it is large")
            .hint("use bigint");
        let raised = sent.clone();
        let flags = rusqlite::functions::FunctionFlags::SQLITE_UTF8;
        connection
            .create_scalar_function("fail", 0, flags, move |_| Err::<i64, _>(raise(raised.clone())))
            .unwrap();
        let error = connection.query_row("SELECT fail()", [], |_| Ok(())).unwrap_err();
        assert_eq!(recognise(&error), Some(sent));
        let other = connection.query_row("SELECT nothing()", [], |_| Ok(())).unwrap_err();
        assert_eq!(recognise(&other), None);
    }
}

//! `COPY`.

use sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use crate::statement::{CopyCommand, CopyDirection, CopyFormat, CopyHeader, CopySource};
use crate::{SqlError, SqlState};

/// Options as they were written; what is missing depends on the format.
#[derive(Default)]
struct Options {
    format: Option<CopyFormat>,
    delimiter: Option<String>,
    null: Option<String>,
    header: Option<CopyHeader>,
    quote: Option<String>,
    escape: Option<String>,
    force_quote: Vec<String>,
    force_not_null: Vec<String>,
    force_null: Vec<String>,
}

/// After the word COPY.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<CopyCommand, SqlError> {
    let binary = tokens.word("binary");
    let source = source(tokens)?;
    let direction = direction(tokens, &source)?;
    let mut options = Options::default();
    if binary {
        options.format = Some(CopyFormat::Binary);
    }
    let with = tokens.word("with");
    if tokens.symbol(&Token::LParen) {
        loop {
            option(tokens, &mut options)?;
            if !tokens.symbol(&Token::Comma) {
                break;
            }
        }
        tokens.expect_symbol(&Token::RParen)?;
    } else {
        let start = tokens.place();
        while old_option(tokens, &mut options)? {}
        if with && tokens.place() == start {
            return Err(tokens.unexpected());
        }
    }
    if tokens.is_word("where") {
        return Err(SqlError::not_supported("COPY ... WHERE", "Delete the rows afterwards."));
    }
    options.finish(source, direction)
}

fn source(tokens: &mut Tokens<'_>) -> Result<CopySource, SqlError> {
    if tokens.symbol(&Token::LParen) {
        let query = tokens.take_until_closed()?;
        if query.is_empty() {
            return Err(tokens.unexpected());
        }
        let query = super::parse_tokens(query, tokens.text(), tokens.positions())?;
        return Ok(CopySource::Query(query));
    }
    let (schema, table) = tokens.qualified_name()?;
    Ok(CopySource::Table { schema, table, columns: columns(tokens)? })
}

/// Names in parentheses, or none.
fn columns(tokens: &mut Tokens<'_>) -> Result<Vec<String>, SqlError> {
    if !tokens.symbol(&Token::LParen) {
        return Ok(Vec::new());
    }
    let columns = tokens.names()?;
    tokens.expect_symbol(&Token::RParen)?;
    Ok(columns)
}

fn direction(tokens: &mut Tokens<'_>, source: &CopySource) -> Result<CopyDirection, SqlError> {
    let file = || {
        SqlError::new(SqlState::INSUFFICIENT_PRIVILEGE, "COPY to or from a file is not allowed")
            .hint("Use COPY ... FROM STDIN or TO STDOUT, or psql's \\copy.")
    };
    let streams = ["stdin", "stdout"];
    if matches!(source, CopySource::Table { .. }) && tokens.word("from") {
        return match tokens.one_of(&streams) {
            Some(_) => Ok(CopyDirection::In),
            None => Err(file()),
        };
    }
    tokens.expect_word("to")?;
    match tokens.one_of(&streams) {
        Some(_) => Ok(CopyDirection::Out),
        None => Err(file()),
    }
}

/// An option in parentheses.
fn option(tokens: &mut Tokens<'_>, options: &mut Options) -> Result<(), SqlError> {
    let name = tokens.name()?;
    match name.as_str() {
        "format" => {
            let format = match tokens.string() {
                Some(format) => format,
                None => tokens.name()?,
            };
            options.format = Some(named_format(&format)?);
        }
        "delimiter" => options.delimiter = Some(tokens.expect_string()?),
        "null" => options.null = Some(tokens.expect_string()?),
        "quote" => options.quote = Some(tokens.expect_string()?),
        "escape" => options.escape = Some(tokens.expect_string()?),
        "header" => options.header = Some(header(tokens)?),
        "freeze" => {
            boolean(tokens)?;
        }
        "force_quote" if tokens.symbol(&Token::Mul) => options.force_quote = vec!["*".to_owned()],
        "force_quote" => options.force_quote = columns(tokens)?,
        "force_not_null" => options.force_not_null = columns(tokens)?,
        "force_null" => options.force_null = columns(tokens)?,
        "encoding" => encoding(&tokens.expect_string()?)?,
        _ => {
            let message = format!("option \"{name}\" not recognized");
            return Err(SqlError::new(SqlState::SYNTAX_ERROR, message));
        }
    }
    Ok(())
}

/// An option as before PostgreSQL 9.0; false if there is none.
fn old_option(tokens: &mut Tokens<'_>, options: &mut Options) -> Result<bool, SqlError> {
    if tokens.word("binary") {
        options.format = Some(CopyFormat::Binary);
    } else if tokens.word("csv") {
        options.format = Some(CopyFormat::Csv);
    } else if tokens.word("freeze") {
    } else if tokens.word("header") {
        options.header = Some(CopyHeader::Present);
    } else if tokens.word("delimiter") || tokens.word("delimiters") {
        tokens.word("as");
        options.delimiter = Some(tokens.expect_string()?);
    } else if tokens.word("null") {
        tokens.word("as");
        options.null = Some(tokens.expect_string()?);
    } else if tokens.word("quote") {
        tokens.word("as");
        options.quote = Some(tokens.expect_string()?);
    } else if tokens.word("escape") {
        tokens.word("as");
        options.escape = Some(tokens.expect_string()?);
    } else if tokens.words(&["force", "quote"]) {
        options.force_quote =
            if tokens.symbol(&Token::Mul) { vec!["*".to_owned()] } else { tokens.names()? };
    } else if tokens.words(&["force", "not", "null"]) {
        options.force_not_null = tokens.names()?;
    } else if tokens.words(&["force", "null"]) {
        options.force_null = tokens.names()?;
    } else if tokens.word("encoding") {
        encoding(&tokens.expect_string()?)?;
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn named_format(name: &str) -> Result<CopyFormat, SqlError> {
    match name {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        _ => Err(SqlError::new(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("COPY format \"{name}\" not recognized"),
        )),
    }
}

fn header(tokens: &mut Tokens<'_>) -> Result<CopyHeader, SqlError> {
    if tokens.word("match") {
        return Ok(CopyHeader::Match);
    }
    Ok(if boolean(tokens)? { CopyHeader::Present } else { CopyHeader::None })
}

fn boolean(tokens: &mut Tokens<'_>) -> Result<bool, SqlError> {
    if matches!(tokens.peek(), None | Some(Token::Comma | Token::RParen)) {
        return Ok(true);
    }
    if let Some(number) = tokens.integer() {
        return Ok(number != 0);
    }
    let word = match tokens.string() {
        Some(word) => word,
        None => tokens.name()?,
    };
    match word.as_str() {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err(tokens.unexpected()),
    }
}

fn encoding(name: &str) -> Result<(), SqlError> {
    match name.to_ascii_lowercase().as_str() {
        "utf8" | "utf-8" | "unicode" => Ok(()),
        _ => Err(SqlError::not_supported(format!("COPY in encoding {name}"), "Use UTF8.")),
    }
}

impl Options {
    fn finish(self, source: CopySource, direction: CopyDirection) -> Result<CopyCommand, SqlError> {
        let format = self.format.unwrap_or(CopyFormat::Text);
        let csv = format == CopyFormat::Csv;
        self.check(format)?;
        let quote = one_byte("quote", self.quote.as_deref().unwrap_or("\""))?;
        let escape = match &self.escape {
            Some(escape) => one_byte("escape", escape)?,
            None => quote,
        };
        let delimiter = self.delimiter.as_deref().unwrap_or(if csv { "," } else { "\t" });
        let null = self.null.unwrap_or_else(|| if csv { "" } else { "\\N" }.to_owned());
        if null.contains(['\r', '\n']) {
            return Err(invalid("COPY null representation cannot use newline or carriage return"));
        }
        Ok(CopyCommand {
            source,
            direction,
            format,
            delimiter: one_byte("delimiter", delimiter)?,
            null,
            header: self.header.unwrap_or(CopyHeader::None),
            quote,
            escape,
            force_quote: self.force_quote,
            force_not_null: self.force_not_null,
            force_null: self.force_null,
        })
    }

    /// Options that a format has no use for are errors, as in PostgreSQL.
    fn check(&self, format: CopyFormat) -> Result<(), SqlError> {
        let only_csv = [
            ("quote", self.quote.is_some()),
            ("escape", self.escape.is_some()),
            ("force quote", !self.force_quote.is_empty()),
            ("force not null", !self.force_not_null.is_empty()),
            ("force null", !self.force_null.is_empty()),
        ];
        if format != CopyFormat::Csv
            && let Some((name, _)) = only_csv.iter().find(|(_, given)| *given)
        {
            return Err(SqlError::new(
                SqlState::NOT_SUPPORTED,
                format!("COPY {name} available only in CSV mode"),
            ));
        }
        let not_binary = [
            ("DELIMITER", self.delimiter.is_some()),
            ("NULL", self.null.is_some()),
            ("HEADER", self.header.is_some()),
        ];
        if format == CopyFormat::Binary
            && let Some((name, _)) = not_binary.iter().find(|(_, given)| *given)
        {
            return Err(SqlError::new(
                SqlState::SYNTAX_ERROR,
                format!("cannot specify {name} in BINARY mode"),
            ));
        }
        Ok(())
    }
}

fn one_byte(what: &str, text: &str) -> Result<u8, SqlError> {
    match text.as_bytes() {
        [byte] if !matches!(byte, b'\r' | b'\n' | b'\\' if what == "delimiter") => Ok(*byte),
        [_] => Err(invalid("COPY delimiter cannot be newline or carriage return or backslash")),
        _ => Err(SqlError::new(
            SqlState::NOT_SUPPORTED,
            format!("COPY {what} must be a single one-byte character"),
        )),
    }
}

fn invalid(message: &str) -> SqlError {
    SqlError::new(SqlState::INVALID_PARAMETER_VALUE, message)
}

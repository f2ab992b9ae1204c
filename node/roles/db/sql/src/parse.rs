//! From text to statements.
//!
//! Queries, DML and changes of the schema are parsed by sqlparser. Commands about
//! the session, transactions and COPY are parsed here, since their grammar is
//! small and PostgreSQL's own.

mod commands;
mod copy;
mod explain;
mod kind;
mod limits;
mod literals;
mod memo;
mod rewrite;
mod schema;
mod session;
mod shape;
mod tokens;

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError, ParserOptions};
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::statement::{Body, Kind, Statement};
use crate::{SqlError, SqlState};
pub(crate) use literals::place;
use tokens::{Positions, Tokens};

/// Bytes of one text that is parsed.
const MAXIMUM_TEXT: usize = 64 << 20;

/// How deep expressions and queries may be nested; a binary operator nests too.
const MAXIMUM_DEPTH: usize = 200;

/// Splits a text at its semicolons and parses each statement. What a thread has parsed
/// not long ago is not parsed again, also where it differs in constants.
pub fn parse(text: &str) -> Result<Vec<Statement>, SqlError> {
    memo::parse(text)
}

/// Parses one statement with its literals.
pub(crate) fn parse_whole(text: &str) -> Result<Statement, SqlError> {
    let statement = parse_text(text)?.pop();
    statement.ok_or_else(|| SqlError::new(SqlState::INTERNAL, "a text without a statement"))
}

fn parse_text(text: &str) -> Result<Vec<Statement>, SqlError> {
    if text.len() > MAXIMUM_TEXT {
        return Err(SqlError::new(
            SqlState::LIMIT_EXCEEDED,
            format!("statement of {} bytes is longer than {MAXIMUM_TEXT}", text.len()),
        ));
    }
    if let Some(position) = text.find('\0') {
        return Err(SqlError::new(
            SqlState::SYNTAX_ERROR,
            format!("invalid byte 0x00 at byte {position} of the statement"),
        ));
    }
    let positions = Positions::new(text);
    let all = tokens_of(text, &positions)?;
    let significant = all.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_)));
    let mut statements = Vec::new();
    let mut current = Vec::new();
    for token in significant {
        match token.token {
            Token::SemiColon => finish(&mut statements, &mut current, text, &positions)?,
            Token::EOF => {}
            _ => current.push(token),
        }
    }
    finish(&mut statements, &mut current, text, &positions)?;
    if statements.is_empty() {
        statements.push(Statement::new("", Kind::Empty, Body::None));
    }
    Ok(statements)
}

fn finish(
    statements: &mut Vec<Statement>,
    tokens: &mut Vec<TokenWithSpan>,
    text: &str,
    positions: &Positions<'_>,
) -> Result<(), SqlError> {
    if !tokens.is_empty() {
        statements.push(parse_tokens(std::mem::take(tokens), text, positions)?);
    }
    Ok(())
}

/// Parses the tokens of one statement, which are not empty.
fn parse_tokens(
    tokens: Vec<TokenWithSpan>,
    text: &str,
    positions: &Positions<'_>,
) -> Result<Statement, SqlError> {
    let own_text = positions.slice(text, &tokens);
    let mut cursor = Tokens::new(tokens, text, positions);
    if let Some((kind, body)) = commands::parse(&mut cursor)? {
        return Ok(Statement::new(own_text, kind, body));
    }
    let mut tokens = cursor.into_rest();
    limits::check(&tokens)?;
    let overriding = take_overriding(&mut tokens)?;
    rewrite::prepare(&mut tokens);
    let writes = kind::writes(&tokens);
    let ast = parse_ast(tokens, positions)?;
    let kind = kind::classify(&ast, writes)?;
    let body = Body::Statement(Box::new(ast));
    Ok(match overriding {
        true => Statement::with_overriding(own_text, kind, body),
        false => Statement::new(own_text, kind, body),
    })
}

/// Takes `OVERRIDING SYSTEM VALUE` out of an INSERT.
fn take_overriding(tokens: &mut Vec<TokenWithSpan>) -> Result<bool, SqlError> {
    let is = |index: usize, word: &str| {
        tokens.get(index).is_some_and(|token| tokens::is_keyword(&token.token, word))
    };
    if !is(0, "insert") {
        return Ok(false);
    }
    let place = (1..tokens.len()).find(|at| is(*at, "overriding") && is(*at + 2, "value"));
    let Some(place) = place else { return Ok(false) };
    if !is(place + 1, "system") {
        return Err(SqlError::not_supported(
            "OVERRIDING USER VALUE",
            "Leave the identity column out of the list.",
        ));
    }
    tokens.drain(place..place + 3);
    Ok(true)
}

fn parse_ast(
    tokens: Vec<TokenWithSpan>,
    positions: &Positions<'_>,
) -> Result<sqlparser::ast::Statement, SqlError> {
    let end = tokens.last().map(|token| token.span.end);
    let mut parser = parser(tokens);
    let statement = parser.parse_statement().map_err(|e| syntax_error(e, positions, end))?;
    match parser.peek_token().token {
        Token::EOF => Ok(statement),
        _ => Err(positions.syntax_error_at(&parser.peek_token())),
    }
}

fn parser(tokens: Vec<TokenWithSpan>) -> Parser<'static> {
    Parser::new(&PostgreSqlDialect {})
        .with_options(ParserOptions::new().with_unescape(true))
        .with_recursion_limit(MAXIMUM_DEPTH)
        .with_tokens_with_locations(tokens)
}

/// Parses an expression that the catalog keeps as text.
pub(crate) fn parse_expression(text: &str) -> Result<sqlparser::ast::Expr, SqlError> {
    parse_all(text, Parser::parse_expr)
}

/// Parses the name of a type, such as `numeric(10,2)`.
pub(crate) fn parse_type(text: &str) -> Result<sqlparser::ast::DataType, SqlError> {
    parse_all(text, Parser::parse_data_type)
}

/// Parses a query that the catalog keeps as text.
pub(crate) fn parse_query(text: &str) -> Result<sqlparser::ast::Query, SqlError> {
    parse_all(text, |parser| parser.parse_query().map(|query| *query))
}

fn parse_all<T>(
    text: &str,
    parse: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>,
) -> Result<T, SqlError> {
    let positions = Positions::new(text);
    let mut parser = parser(tokens_of(text, &positions)?);
    let parsed = parse(&mut parser).map_err(|error| syntax_error(error, &positions, None))?;
    match parser.peek_token().token {
        Token::EOF => Ok(parsed),
        _ => Err(positions.syntax_error_at(&parser.peek_token())),
    }
}

/// The parser gives places as text at the end of its message.
fn syntax_error(
    error: ParserError,
    positions: &Positions<'_>,
    end: Option<sqlparser::tokenizer::Location>,
) -> SqlError {
    let message = match error {
        ParserError::RecursionLimitExceeded => {
            return SqlError::new(SqlState::LIMIT_EXCEEDED, "stack depth limit exceeded")
                .hint(format!("Nest expressions and queries less than {MAXIMUM_DEPTH} deep."));
        }
        ParserError::ParserError(message) | ParserError::TokenizerError(message) => message,
    };
    let (what, place) = match message.rsplit_once(" at Line: ") {
        Some((what, place)) => (what, place),
        None => (message.as_str(), ""),
    };
    let location = place.split_once(", Column: ").and_then(|(line, column)| {
        Some(sqlparser::tokenizer::Location {
            line: line.parse().ok()?,
            column: column.parse().ok()?,
        })
    });
    let found = what.rsplit_once("found: ").map_or("", |(_, found)| found);
    if found == "EOF" || (location.is_none() && found.is_empty()) {
        let mut failure = match found {
            "EOF" => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input"),
            _ => SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error: {what}")),
        };
        failure.position = end.and_then(|end| positions.character(end));
        return failure;
    }
    let mut failure =
        SqlError::new(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{found}\""));
    failure.position = location.and_then(|location| positions.character(location));
    failure
}

fn tokens_of(text: &str, positions: &Positions<'_>) -> Result<Vec<TokenWithSpan>, SqlError> {
    Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location().map_err(|error| {
        let lower = error.message.to_ascii_lowercase();
        let what = if lower.contains("unterminated string") {
            "unterminated quoted string"
        } else if lower.contains("comment") {
            "unterminated /* comment"
        } else if lower.contains("delimiter") {
            "unterminated quoted identifier"
        } else {
            "syntax error"
        };
        let rest = positions.rest(error.location).trim_end();
        let mut failure =
            SqlError::new(SqlState::SYNTAX_ERROR, format!("{what} at or near \"{rest}\""));
        failure.position = positions.character(error.location);
        failure
    })
}

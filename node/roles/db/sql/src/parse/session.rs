//! Commands about the session: settings, prepared statements, cursors.

use sqlparser::tokenizer::Token;

use super::commands::transaction_modes;
use super::tokens::Tokens;
use crate::statement::{Discard, FetchDirection, SessionCommand, Statement};
use crate::{PgType, SqlError};

/// None if the statement is something else; then nothing was taken.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Option<SessionCommand>, SqlError> {
    let start = tokens.place();
    let command = if tokens.word("set") {
        set(tokens)?
    } else if tokens.word("reset") {
        SessionCommand::Reset { name: setting_or_all(tokens)? }
    } else if tokens.word("show") {
        SessionCommand::Show { name: setting_or_all(tokens)? }
    } else if tokens.word("discard") {
        SessionCommand::Discard(discard(tokens)?)
    } else if tokens.word("prepare") {
        if tokens.is_word("transaction") {
            tokens.back_to(start);
            return Ok(None);
        }
        prepare(tokens)?
    } else if tokens.word("execute") {
        execute(tokens)?
    } else if tokens.word("deallocate") {
        tokens.word("prepare");
        SessionCommand::Deallocate { name: name_or_all(tokens)? }
    } else if tokens.word("declare") {
        declare(tokens)?
    } else if tokens.word("fetch") {
        fetch(tokens, false)?
    } else if tokens.word("move") {
        fetch(tokens, true)?
    } else if tokens.word("close") {
        SessionCommand::Close { name: name_or_all(tokens)? }
    } else if tokens.word("lock") {
        lock(tokens)?
    } else {
        return Ok(None);
    };
    Ok(Some(command))
}

fn set(tokens: &mut Tokens<'_>) -> Result<SessionCommand, SqlError> {
    if tokens.words(&["session", "characteristics", "as", "transaction"]) {
        let modes = transaction_modes(tokens)?;
        return Ok(SessionCommand::SetTransaction { modes, session: true });
    }
    if tokens.word("transaction") {
        let modes = transaction_modes(tokens)?;
        return Ok(SessionCommand::SetTransaction { modes, session: false });
    }
    if tokens.word("constraints") {
        let names = if tokens.word("all") { Vec::new() } else { tokens.names()? };
        let deferred = tokens.word("deferred");
        if !deferred {
            tokens.expect_word("immediate")?;
        }
        return Ok(SessionCommand::SetConstraints { names, deferred });
    }
    let local = tokens.word("local");
    if !local {
        tokens.word("session");
    }
    if tokens.words(&["time", "zone"]) {
        let value = match tokens.one_of(&["local", "default"]) {
            Some(_) => None,
            None => Some(setting_value(tokens)?),
        };
        return Ok(SessionCommand::Set { name: "timezone".to_owned(), value, local });
    }
    if tokens.word("names") {
        let value = tokens.string();
        return Ok(SessionCommand::Set { name: "client_encoding".to_owned(), value, local });
    }
    if tokens.is_word("authorization") || tokens.is_word("role") {
        let name = tokens.name()?;
        if name == "authorization" || !tokens.word("none") {
            return Err(SqlError::not_supported(
                "changing the user of a session",
                "Connect as that user.",
            ));
        }
        return Ok(SessionCommand::Set { name, value: None, local });
    }
    let name = setting_name(tokens)?;
    if !tokens.symbol(&Token::Eq) {
        tokens.expect_word("to")?;
    }
    if tokens.word("default") {
        return Ok(SessionCommand::Set { name, value: None, local });
    }
    let mut values = vec![setting_value(tokens)?];
    while tokens.symbol(&Token::Comma) {
        values.push(setting_value(tokens)?);
    }
    Ok(SessionCommand::Set { name, value: Some(values.join(", ")), local })
}

/// Settings have names of any case, perhaps with a prefix and a dot.
fn setting_name(tokens: &mut Tokens<'_>) -> Result<String, SqlError> {
    let mut name = tokens.name()?.to_ascii_lowercase();
    while tokens.symbol(&Token::Period) {
        name.push('.');
        name.push_str(&tokens.name()?.to_ascii_lowercase());
    }
    Ok(name)
}

fn setting_value(tokens: &mut Tokens<'_>) -> Result<String, SqlError> {
    if let Some(text) = tokens.string() {
        return Ok(text);
    }
    let negative = tokens.symbol(&Token::Minus);
    if !negative {
        tokens.symbol(&Token::Plus);
    }
    if let Some(Token::Number(digits, _)) = tokens.peek() {
        let digits = digits.clone();
        tokens.advance();
        return Ok(if negative { format!("-{digits}") } else { digits });
    }
    if negative {
        return Err(tokens.unexpected());
    }
    if tokens.word("interval") {
        return tokens.expect_string();
    }
    tokens.name()
}

fn setting_or_all(tokens: &mut Tokens<'_>) -> Result<Option<String>, SqlError> {
    if tokens.word("all") {
        return Ok(None);
    }
    let name = if tokens.words(&["time", "zone"]) {
        "timezone".to_owned()
    } else if tokens.words(&["transaction", "isolation", "level"]) {
        "transaction_isolation".to_owned()
    } else if tokens.words(&["session", "authorization"]) {
        "session_authorization".to_owned()
    } else {
        setting_name(tokens)?
    };
    Ok(Some(name))
}

fn name_or_all(tokens: &mut Tokens<'_>) -> Result<Option<String>, SqlError> {
    if tokens.word("all") { Ok(None) } else { tokens.name().map(Some) }
}

fn discard(tokens: &mut Tokens<'_>) -> Result<Discard, SqlError> {
    match tokens.one_of(&["all", "plans", "sequences", "temp", "temporary"]) {
        Some("all") => Ok(Discard::All),
        Some("plans") => Ok(Discard::Plans),
        Some("sequences") => Ok(Discard::Sequences),
        Some(_) => Ok(Discard::Temporary),
        None => Err(tokens.unexpected()),
    }
}

fn rest_as_statement(tokens: &mut Tokens<'_>) -> Result<Statement, SqlError> {
    let rest = tokens.take_rest();
    if rest.is_empty() {
        return Err(tokens.unexpected());
    }
    super::parse_tokens(rest, tokens.text(), tokens.positions())
}

fn prepare(tokens: &mut Tokens<'_>) -> Result<SessionCommand, SqlError> {
    let name = tokens.name()?;
    let mut types = Vec::new();
    if tokens.symbol(&Token::LParen) {
        let inside = tokens.take_until_closed()?;
        for part in split_at_commas(&inside) {
            let text = tokens.positions().slice(tokens.text(), part);
            types.push(named_type(text)?);
        }
    }
    tokens.expect_word("as")?;
    Ok(SessionCommand::Prepare { name, types, statement: rest_as_statement(tokens)? })
}

fn named_type(text: &str) -> Result<PgType, SqlError> {
    Ok(crate::analyze::type_use(&super::parse_type(text)?)?.base)
}

fn split_at_commas(
    tokens: &[sqlparser::tokenizer::TokenWithSpan],
) -> Vec<&[sqlparser::tokenizer::TokenWithSpan]> {
    let mut depth = 0usize;
    tokens
        .split(|token| {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0 && token.token == Token::Comma
        })
        .collect()
}

fn execute(tokens: &mut Tokens<'_>) -> Result<SessionCommand, SqlError> {
    let name = tokens.name()?;
    let mut arguments = None;
    if tokens.symbol(&Token::LParen) {
        let inside = tokens.take_until_closed()?;
        let text = format!("SELECT {}", tokens.positions().slice(tokens.text(), &inside));
        arguments = super::parse(&text)?.into_iter().next();
    }
    Ok(SessionCommand::Execute { name, arguments })
}

fn declare(tokens: &mut Tokens<'_>) -> Result<SessionCommand, SqlError> {
    let name = tokens.name()?;
    let mut binary = false;
    let mut scroll = None;
    loop {
        if tokens.word("binary") {
            binary = true;
        } else if tokens.words(&["no", "scroll"]) {
            scroll = Some(false);
        } else if tokens.word("scroll") {
            scroll = Some(true);
        } else if !tokens.word("insensitive") && !tokens.word("asensitive") {
            break;
        }
    }
    tokens.expect_word("cursor")?;
    let hold = tokens.words(&["with", "hold"]);
    if !hold {
        tokens.words(&["without", "hold"]);
    }
    tokens.expect_word("for")?;
    let query = rest_as_statement(tokens)?;
    Ok(SessionCommand::Declare { name, binary, scroll, hold, query })
}

fn fetch(tokens: &mut Tokens<'_>, is_move: bool) -> Result<SessionCommand, SqlError> {
    use FetchDirection as D;
    let direction = if tokens.word("next") {
        D::Forward(1)
    } else if tokens.word("prior") {
        D::Backward(1)
    } else if tokens.word("first") {
        D::Absolute(1)
    } else if tokens.word("last") {
        D::Absolute(-1)
    } else if tokens.word("absolute") {
        D::Absolute(expect_integer(tokens)?)
    } else if tokens.word("relative") {
        D::Relative(expect_integer(tokens)?)
    } else if tokens.word("all") {
        D::ForwardAll
    } else if tokens.word("forward") {
        if tokens.word("all") { D::ForwardAll } else { D::Forward(tokens.integer().unwrap_or(1)) }
    } else if tokens.word("backward") {
        if tokens.word("all") { D::BackwardAll } else { D::Backward(tokens.integer().unwrap_or(1)) }
    } else {
        D::Forward(tokens.integer().unwrap_or(1))
    };
    let _ = tokens.word("from") || tokens.word("in");
    Ok(SessionCommand::Fetch { name: tokens.name()?, direction, is_move })
}

fn expect_integer(tokens: &mut Tokens<'_>) -> Result<i64, SqlError> {
    tokens.integer().ok_or_else(|| tokens.unexpected())
}

fn lock(tokens: &mut Tokens<'_>) -> Result<SessionCommand, SqlError> {
    tokens.word("table");
    let mut tables = Vec::new();
    loop {
        tokens.word("only");
        tables.push(tokens.qualified_name()?.1);
        if !tokens.symbol(&Token::Comma) {
            break;
        }
    }
    if tokens.word("in") {
        while tokens.one_of(&["access", "row", "share", "update", "exclusive"]).is_some() {}
        tokens.expect_word("mode")?;
    }
    Ok(SessionCommand::LockTable { tables, nowait: tokens.word("nowait") })
}

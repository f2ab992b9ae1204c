//! Statements that sqlparser is not asked for: transactions, the session, COPY,
//! EXPLAIN and VACUUM.

use sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use super::{copy, explain, schema, session};
use crate::SqlError;
use crate::statement::{Body, Control, Isolation, Kind, TransactionModes, Vacuum};

/// None if the statement is something else; then nothing was taken.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Option<(Kind, Body)>, SqlError> {
    if let Some(control) = control(tokens)? {
        tokens.expect_end()?;
        return Ok(Some((Kind::Control(control), Body::None)));
    }
    if let Some(command) = session::parse(tokens)? {
        tokens.expect_end()?;
        return Ok(Some((Kind::Session(Box::new(command)), Body::None)));
    }
    if tokens.word("copy") {
        let command = copy::parse(tokens)?;
        tokens.expect_end()?;
        return Ok(Some((Kind::Copy(Box::new(command)), Body::None)));
    }
    if tokens.word("explain") {
        return explain::parse(tokens).map(Some);
    }
    if tokens.word("vacuum") {
        let vacuum = vacuum(tokens)?;
        return Ok(Some((Kind::Vacuum, Body::Vacuum(vacuum))));
    }
    if tokens.word("analyze") || tokens.word("analyse") {
        let vacuum = Vacuum { analyze: true, ..vacuum(tokens)? };
        return Ok(Some((Kind::Schema, Body::Vacuum(vacuum))));
    }
    if let Some(command) = schema::parse(tokens)? {
        return Ok(Some((Kind::Schema, Body::Schema(Box::new(command)))));
    }
    for (words, what, hint) in [
        (&["listen"][..], "LISTEN", "Use the queue for messages between processes."),
        (&["unlisten"], "UNLISTEN", "Use the queue for messages between processes."),
        (&["notify"], "NOTIFY", "Use the queue for messages between processes."),
        (&["prepare", "transaction"], "PREPARE TRANSACTION", "Use COMMIT."),
        (&["do"], "DO", "Run the statements from the application."),
        (&["reindex"], "REINDEX", "Drop the index and create it again."),
        (&["cluster"], "CLUSTER", "Use VACUUM FULL."),
        (&["create", "rule"], "CREATE RULE", "Change the statements instead."),
        (&["create", "materialized"], "CREATE MATERIALIZED VIEW", "Use CREATE TABLE AS."),
        (&["import"], "IMPORT", "Use COPY."),
    ] {
        if tokens.words(words) {
            return Err(SqlError::not_supported(what, hint));
        }
    }
    Ok(None)
}

fn control(tokens: &mut Tokens<'_>) -> Result<Option<Control>, SqlError> {
    if tokens.word("begin") {
        skip_work(tokens);
        return Ok(Some(Control::Begin(transaction_modes(tokens)?)));
    }
    if tokens.word("start") {
        tokens.expect_word("transaction")?;
        return Ok(Some(Control::Begin(transaction_modes(tokens)?)));
    }
    if tokens.word("commit") || tokens.word("end") {
        if tokens.word("prepared") {
            return Err(SqlError::not_supported("COMMIT PREPARED", "Use COMMIT."));
        }
        skip_work(tokens);
        return Ok(Some(Control::Commit { chain: chain(tokens)? }));
    }
    if tokens.word("abort") {
        skip_work(tokens);
        return Ok(Some(Control::Rollback { chain: chain(tokens)? }));
    }
    if tokens.word("rollback") {
        if tokens.word("prepared") {
            return Err(SqlError::not_supported("ROLLBACK PREPARED", "Use ROLLBACK."));
        }
        skip_work(tokens);
        if tokens.word("to") {
            tokens.word("savepoint");
            return Ok(Some(Control::RollbackTo(tokens.name()?)));
        }
        return Ok(Some(Control::Rollback { chain: chain(tokens)? }));
    }
    if tokens.word("savepoint") {
        return Ok(Some(Control::Savepoint(tokens.name()?)));
    }
    if tokens.word("release") {
        tokens.word("savepoint");
        return Ok(Some(Control::Release(tokens.name()?)));
    }
    Ok(None)
}

fn skip_work(tokens: &mut Tokens<'_>) {
    let _ = tokens.word("work") || tokens.word("transaction");
}

fn chain(tokens: &mut Tokens<'_>) -> Result<bool, SqlError> {
    if !tokens.word("and") {
        return Ok(false);
    }
    let not = tokens.word("no");
    tokens.expect_word("chain")?;
    Ok(!not)
}

pub(super) fn transaction_modes(tokens: &mut Tokens<'_>) -> Result<TransactionModes, SqlError> {
    let mut modes = TransactionModes::default();
    while !tokens.at_end() {
        if tokens.words(&["isolation", "level"]) {
            modes.isolation = Some(isolation(tokens)?);
        } else if tokens.words(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if tokens.words(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if tokens.words(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else if tokens.word("deferrable") {
            modes.deferrable = Some(true);
        } else {
            return Err(tokens.unexpected());
        }
        tokens.symbol(&Token::Comma);
    }
    Ok(modes)
}

fn isolation(tokens: &mut Tokens<'_>) -> Result<Isolation, SqlError> {
    for (words, isolation) in [
        (&["serializable"][..], Isolation::Serializable),
        (&["repeatable", "read"], Isolation::RepeatableRead),
        (&["read", "committed"], Isolation::ReadCommitted),
        (&["read", "uncommitted"], Isolation::ReadUncommitted),
    ] {
        if tokens.words(words) {
            return Ok(isolation);
        }
    }
    Err(tokens.unexpected())
}

/// The options in parentheses, then old-style words, then tables with columns.
fn vacuum(tokens: &mut Tokens<'_>) -> Result<Vacuum, SqlError> {
    let mut vacuum = Vacuum::default();
    if tokens.symbol(&Token::LParen) {
        loop {
            let option = tokens.name()?;
            let off = tokens.word("off") || tokens.word("false");
            if !off && !tokens.at_end() && !tokens.word("on") && !tokens.word("true") {
                let _ = tokens.integer();
            }
            match option.as_str() {
                "full" => vacuum.full = !off,
                "analyze" => vacuum.analyze = !off,
                _ => {}
            }
            if !tokens.symbol(&Token::Comma) {
                break;
            }
        }
        tokens.expect_symbol(&Token::RParen)?;
    }
    while let Some(word) = tokens.one_of(&["full", "freeze", "verbose", "analyze"]) {
        vacuum.full |= word == "full";
        vacuum.analyze |= word == "analyze";
    }
    while !tokens.at_end() {
        let (_, table) = tokens.qualified_name()?;
        vacuum.tables.push(table);
        if tokens.symbol(&Token::LParen) {
            tokens.take_until_closed()?;
        }
        if !tokens.symbol(&Token::Comma) {
            break;
        }
    }
    tokens.expect_end()?;
    Ok(vacuum)
}

//! `EXPLAIN`.

use sqlparser::tokenizer::Token;

use super::tokens::Tokens;
use crate::SqlError;
use crate::statement::{Body, Kind};

/// After the word EXPLAIN.
pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<(Kind, Body), SqlError> {
    let (mut analyze, mut other_format) = (false, false);
    if tokens.symbol(&Token::LParen) {
        while !tokens.symbol(&Token::RParen) {
            let option = tokens.name()?;
            match option.as_str() {
                "format" => other_format = tokens.name()? != "text",
                "analyze" => analyze = flag(tokens),
                _ => {
                    flag(tokens);
                }
            }
            tokens.symbol(&Token::Comma);
        }
    }
    analyze |= tokens.word("analyze");
    tokens.word("verbose");
    if other_format {
        return Err(SqlError::not_supported("EXPLAIN in this format", "Use the text format."));
    }
    if analyze {
        return Err(SqlError::not_supported("EXPLAIN ANALYZE", "Use EXPLAIN."));
    }
    let rest = tokens.take_rest();
    if rest.is_empty() {
        return Err(tokens.unexpected());
    }
    let statement = super::parse_tokens(rest, tokens.text(), tokens.positions())?;
    Ok((Kind::Read, Body::Explain(statement)))
}

fn flag(tokens: &mut Tokens<'_>) -> bool {
    match tokens.one_of(&["on", "true", "off", "false"]) {
        Some(word) => matches!(word, "on" | "true"),
        None => true,
    }
}

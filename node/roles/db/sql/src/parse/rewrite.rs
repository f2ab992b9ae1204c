//! Forms of PostgreSQL's grammar that sqlparser reads otherwise, written in forms that
//! it reads rightly.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::tokens::is_keyword;

pub(super) fn prepare(tokens: &mut Vec<TokenWithSpan>) {
    table_command(tokens);
    source_of_insert(tokens);
}

fn word(text: &str, keyword: Keyword) -> Token {
    Token::Word(Word { value: text.to_owned(), quote_style: None, keyword })
}

/// `TABLE t` is `SELECT * FROM t`.
fn table_command(tokens: &mut Vec<TokenWithSpan>) {
    let Some(first) = tokens.first().filter(|first| is_keyword(&first.token, "table")) else {
        return;
    };
    let span = first.span;
    let written = [word("SELECT", Keyword::SELECT), Token::Mul, word("FROM", Keyword::FROM)];
    tokens.splice(..1, written.map(|token| TokenWithSpan { token, span }));
}

/// In `INSERT INTO t SELECT 1 ON CONFLICT ...` the word ON would be read as the name of
/// the column: the query goes into parentheses.
fn source_of_insert(tokens: &mut Vec<TokenWithSpan>) {
    let is = |index: usize, name: &str| {
        tokens.get(index).is_some_and(|token| is_keyword(&token.token, name))
    };
    if !is(0, "insert") {
        return;
    }
    let mut depth = 0usize;
    let mut source = None;
    for index in 1..tokens.len() {
        match tokens[index].token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ if depth > 0 => {}
            _ if source.is_none() && (is(index, "select") || is(index, "with")) => {
                source = Some(index);
            }
            _ if is(index, "on") && is(index + 1, "conflict") => {
                let Some(source) = source else { return };
                let close = TokenWithSpan { token: Token::RParen, span: tokens[index].span };
                let open = TokenWithSpan { token: Token::LParen, span: tokens[source].span };
                tokens.insert(index, close);
                tokens.insert(source, open);
                return;
            }
            _ => {}
        }
    }
}

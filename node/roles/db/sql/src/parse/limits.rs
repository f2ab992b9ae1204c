//! How long a chain of operators may be.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::{SqlError, SqlState};

/// Tokens between two commas or parentheses. The parser makes a tree of a chain such as
/// `1+1+1+...` that is as deep as the chain is long, and freeing it takes as much stack.
const LONGEST_CHAIN: usize = 6_000;

pub(super) fn check(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut chains = vec![0usize];
    for token in tokens {
        match token.token {
            Token::LParen | Token::LBracket => chains.push(0),
            Token::RParen | Token::RBracket if chains.len() > 1 => {
                chains.pop();
            }
            Token::Comma => {
                if let Some(last) = chains.last_mut() {
                    *last = 0;
                }
            }
            _ => {}
        }
        let Some(last) = chains.last_mut() else { continue };
        *last += 1;
        if *last > LONGEST_CHAIN {
            return Err(SqlError::new(SqlState("54001"), "stack depth limit exceeded").hint(
                "Use = ANY with an array instead of a long chain of OR, and bind long values.",
            ));
        }
    }
    Ok(())
}

//! Parsing a statement without its literals: the tokens of those that were taken out
//! become placeholders that no text can contain. Where the grammar wants a literal, a
//! placeholder is a syntax error, and the statement is parsed as it is.

use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::shape::Shape;
use super::tokens::Positions;
use crate::statement::{Literal, LiteralKind, Statement};

/// Begins the name of a placeholder; no text that is parsed has such a character.
const PREFIX: char = '\0';

/// Where a statement has a literal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LiteralPlace {
    /// Its number among those that were taken out, from 0.
    pub number: usize,
    pub kind: LiteralKind,
}

/// The literal that a placeholder stands for; None for a parameter.
pub(crate) fn place(placeholder: &str) -> Option<LiteralPlace> {
    let mut rest = placeholder.strip_prefix(PREFIX)?.chars();
    let kind = match rest.next()? {
        't' => LiteralKind::Text,
        'i' => LiteralKind::Int4,
        'l' => LiteralKind::Int8,
        'n' => LiteralKind::Numeric,
        _ => return None,
    };
    Some(LiteralPlace { number: rest.as_str().parse().ok()?, kind })
}

fn placeholder(number: usize, kind: LiteralKind) -> Token {
    let letter = match kind {
        LiteralKind::Text => 't',
        LiteralKind::Int4 => 'i',
        LiteralKind::Int8 => 'l',
        LiteralKind::Numeric => 'n',
    };
    Token::Placeholder(format!("{PREFIX}{letter}{number}"))
}

/// Parses a text that is one statement without the literals that were found in it.
/// None if it cannot be, or the parser sees other literals.
pub(super) fn parse_without(text: &str, shape: &Shape) -> Option<Statement> {
    let positions = Positions::new(text);
    let mut tokens = super::tokens_of(text, &positions).ok()?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    take_out(&mut tokens, text, shape)?;
    super::parse_tokens(tokens, text, &positions).ok()
}

fn take_out(tokens: &mut [TokenWithSpan], text: &str, shape: &Shape) -> Option<()> {
    let is_literal =
        |token: &Token| matches!(token, Token::Number(..) | Token::SingleQuotedString(_));
    let mut places: Vec<&mut Token> =
        tokens.iter_mut().map(|token| &mut token.token).filter(|token| is_literal(token)).collect();
    if places.len() != shape.count {
        return None;
    }
    for (number, (literal, ordinal)) in shape.literals.iter().zip(&shape.ordinals).enumerate() {
        let token = places.get_mut(*ordinal)?;
        if !is_same(token, *literal, text) {
            return None;
        }
        **token = placeholder(number, literal.kind);
    }
    Some(())
}

fn is_same(token: &Token, literal: Literal, text: &str) -> bool {
    let content = literal.content(text);
    match token {
        Token::Number(digits, false) => literal.kind != LiteralKind::Text && *digits == content,
        Token::SingleQuotedString(value) => literal.kind == LiteralKind::Text && *value == content,
        _ => false,
    }
}

//! Reading a statement's tokens one by one.

use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};

use crate::{SqlError, SqlState};

/// Finds bytes and characters of a text by line and column.
pub(super) struct Positions<'a> {
    text: &'a str,
    /// Byte offset of each line's first character.
    lines: Vec<usize>,
}

impl<'a> Positions<'a> {
    pub fn new(text: &'a str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(starts.map(|(at, _)| at + 1)).collect();
        Self { text, lines }
    }

    fn byte(&self, location: Location) -> Option<usize> {
        let line = usize::try_from(location.line).ok()?.checked_sub(1)?;
        let column = usize::try_from(location.column).ok()?.checked_sub(1)?;
        let start = *self.lines.get(line)?;
        let rest = &self.text[start..];
        Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
    }

    /// The text from a place on.
    pub fn rest(&self, location: Location) -> &'a str {
        self.byte(location).and_then(|byte| self.text.get(byte..)).unwrap_or_default()
    }

    /// The place in characters from 1.
    pub fn character(&self, location: Location) -> Option<u32> {
        let byte = self.byte(location)?;
        u32::try_from(self.text[..byte].chars().count() + 1).ok()
    }

    /// The text from the first to the last of the tokens.
    pub fn slice<'t>(&self, text: &'t str, tokens: &[TokenWithSpan]) -> &'t str {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return "" };
        let start = self.byte(first.span.start).unwrap_or(0);
        let end = self.byte(last.span.end).unwrap_or(text.len());
        text.get(start..end).unwrap_or(text).trim_end()
    }

    pub fn syntax_error_at(&self, token: &TokenWithSpan) -> SqlError {
        let mut failure = match &token.token {
            Token::EOF => SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input"),
            found => {
                let message = format!("syntax error at or near \"{found}\"");
                SqlError::new(SqlState::SYNTAX_ERROR, message)
            }
        };
        failure.position = self.character(token.span.start);
        failure
    }
}

/// The tokens of one statement, without white space, and a place among them.
pub(super) struct Tokens<'a> {
    tokens: Vec<TokenWithSpan>,
    next: usize,
    text: &'a str,
    positions: &'a Positions<'a>,
}

impl<'a> Tokens<'a> {
    pub fn new(tokens: Vec<TokenWithSpan>, text: &'a str, positions: &'a Positions<'a>) -> Self {
        Self { tokens, next: 0, text, positions }
    }

    pub fn into_rest(mut self) -> Vec<TokenWithSpan> {
        self.tokens.split_off(self.next)
    }

    /// Takes all tokens that are left.
    pub fn take_rest(&mut self) -> Vec<TokenWithSpan> {
        let rest = self.tokens.split_off(self.next);
        self.next = self.tokens.len();
        rest
    }

    /// Takes the tokens up to the parenthesis that closes one already taken.
    pub fn take_until_closed(&mut self) -> Result<Vec<TokenWithSpan>, SqlError> {
        let start = self.next;
        let mut depth = 0usize;
        loop {
            match self.peek() {
                None => return Err(self.unexpected()),
                Some(Token::LParen) => depth += 1,
                Some(Token::RParen) if depth == 0 => break,
                Some(Token::RParen) => depth -= 1,
                Some(_) => {}
            }
            self.next += 1;
        }
        let taken = self.tokens[start..self.next].to_vec();
        self.next += 1;
        Ok(taken)
    }

    pub fn text(&self) -> &'a str {
        self.text
    }

    pub fn positions(&self) -> &'a Positions<'a> {
        self.positions
    }

    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|token| &token.token)
    }

    pub fn advance(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.next)?.token.clone();
        self.next += 1;
        Some(token)
    }

    pub fn at_end(&self) -> bool {
        self.next >= self.tokens.len()
    }

    pub fn back_to(&mut self, place: usize) {
        self.next = place;
    }

    pub fn place(&self) -> usize {
        self.next
    }

    /// Whether the next token is this word, unquoted.
    pub fn is_word(&self, expected: &str) -> bool {
        matches!(self.peek(), Some(token) if is_keyword(token, expected))
    }

    /// Takes the next token if it is this word, unquoted.
    pub fn word(&mut self, expected: &str) -> bool {
        let found = self.is_word(expected);
        self.next += usize::from(found);
        found
    }

    /// Takes all of these words, or none.
    pub fn words(&mut self, expected: &[&str]) -> bool {
        let start = self.next;
        let all = expected.iter().all(|word| self.word(word));
        if !all {
            self.next = start;
        }
        all
    }

    /// Takes one of these words, and says which.
    pub fn one_of<'w>(&mut self, expected: &[&'w str]) -> Option<&'w str> {
        expected.iter().copied().find(|word| self.word(word))
    }

    pub fn expect_word(&mut self, expected: &str) -> Result<(), SqlError> {
        if self.word(expected) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Takes the next token if it is this one.
    pub fn symbol(&mut self, expected: &Token) -> bool {
        let found = self.peek() == Some(expected);
        self.next += usize::from(found);
        found
    }

    pub fn expect_symbol(&mut self, expected: &Token) -> Result<(), SqlError> {
        if self.symbol(expected) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// A name: folded to lower case unless quoted.
    pub fn name(&mut self) -> Result<String, SqlError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                let name = folded(word);
                self.next += 1;
                Ok(name)
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Names with commas between them.
    pub fn names(&mut self) -> Result<Vec<String>, SqlError> {
        let mut names = vec![self.name()?];
        while self.symbol(&Token::Comma) {
            names.push(self.name()?);
        }
        Ok(names)
    }

    /// A name that may have a schema before it.
    pub fn qualified_name(&mut self) -> Result<(Option<String>, String), SqlError> {
        let first = self.name()?;
        if !self.symbol(&Token::Period) {
            return Ok((None, first));
        }
        Ok((Some(first), self.name()?))
    }

    /// A string literal of any of PostgreSQL's forms.
    pub fn string(&mut self) -> Option<String> {
        let value = match self.peek()? {
            Token::SingleQuotedString(value)
            | Token::EscapedStringLiteral(value)
            | Token::UnicodeStringLiteral(value) => value.clone(),
            Token::DollarQuotedString(quoted) => quoted.value.clone(),
            _ => return None,
        };
        self.next += 1;
        Some(value)
    }

    pub fn expect_string(&mut self) -> Result<String, SqlError> {
        self.string().ok_or_else(|| self.unexpected())
    }

    /// A whole number, with or without a sign.
    pub fn integer(&mut self) -> Option<i64> {
        let start = self.next;
        let negative = self.symbol(&Token::Minus);
        if !negative {
            self.symbol(&Token::Plus);
        }
        let number = match self.peek() {
            Some(Token::Number(digits, _)) => digits.parse::<i64>().ok(),
            _ => None,
        };
        match number {
            Some(number) => {
                self.next += 1;
                Some(if negative { -number } else { number })
            }
            None => {
                self.next = start;
                None
            }
        }
    }

    pub fn expect_end(&self) -> Result<(), SqlError> {
        if self.at_end() { Ok(()) } else { Err(self.unexpected()) }
    }

    pub fn unexpected(&self) -> SqlError {
        match self.tokens.get(self.next) {
            Some(token) => self.positions.syntax_error_at(token),
            None => {
                let mut failure =
                    SqlError::new(SqlState::SYNTAX_ERROR, "syntax error at end of input");
                let end = self.tokens.last().map(|token| token.span.end);
                failure.position = end.and_then(|end| self.positions.character(end));
                failure
            }
        }
    }
}

/// Whether a token is this word, unquoted; `expected` is in lower case.
pub(super) fn is_keyword(token: &Token, expected: &str) -> bool {
    matches!(token, Token::Word(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected))
}

pub(super) fn folded(word: &Word) -> String {
    match word.quote_style {
        Some(_) => word.value.clone(),
        None => word.value.to_ascii_lowercase(),
    }
}

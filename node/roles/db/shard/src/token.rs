//! Where a read or a write stood, in a form that can be carried between nodes.

use std::fmt;
use std::str::FromStr;

use rung_proto::Generation;

/// A settled position of one shard: what a session has seen at least.
///
/// Printed as `generation.shard.epoch.sequence` in decimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    /// The life of the cluster's logs that it belongs to.
    pub generation: Generation,
    /// The number of the shard in its database.
    pub shard: u16,
    /// The term of the primary that made the position.
    pub epoch: u64,
    /// How many entries made it. It rises by one with each, over all epochs.
    pub sequence: u64,
}

/// A text that is not a token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is not a token; it has four numbers separated by dots: generation, shard, epoch, sequence"
)]
pub struct TokenError(String);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.generation.0, self.shard, self.epoch, self.sequence)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        parse(text).ok_or_else(|| TokenError(text.chars().take(100).collect()))
    }
}

/// Only what `Display` writes is read, so that one position has one text.
fn parse(text: &str) -> Option<Token> {
    let mut parts = text.split('.');
    let token = Token {
        generation: Generation(parts.next()?.parse().ok()?),
        shard: parts.next()?.parse().ok()?,
        epoch: parts.next()?.parse().ok()?,
        sequence: parts.next()?.parse().ok()?,
    };
    (parts.next().is_none() && token.to_string() == text).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let token = Token { generation: Generation(3), shard: 2, epoch: u64::MAX, sequence: 0 };
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn other_texts_are_errors() {
        for text in
            ["", "1", "1.2.3", "1.2.3.4.5", "1.2.3.-4", "1.2.3.04", "+1.2.3.4", "1.99999.3.4"]
        {
            assert!(text.parse::<Token>().is_err(), "{text:?}");
        }
    }
}

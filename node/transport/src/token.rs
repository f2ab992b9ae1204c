//! Join tokens: what a new node needs to recognise the cluster and to be let in.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const PREFIX: &str = "rung1";

/// A join token. Its text is `rung1.<sha256 of the CA>.<secret>`, both parts in
/// base64url without padding (RFC 4648, section 5).
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the cluster CA's certificate in DER. The joining node trusts
    /// nobody whose chain does not hold that certificate.
    pub ca_hash: [u8; 32],
    /// What the cluster recognises the token by.
    pub secret: [u8; 32],
}

/// A text that is not a join token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a join token: {0}; a token looks like rung1.<43 characters>.<43 characters>")]
pub struct ParseTokenError(&'static str);

impl JoinToken {
    /// A token for the cluster of that CA, with a new random secret.
    pub fn random(ca_hash: [u8; 32]) -> Self {
        Self { ca_hash, secret: rand::random() }
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = URL_SAFE_NO_PAD.encode(self.ca_hash);
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
        write!(f, "{PREFIX}.{hash}.{secret}")
    }
}

/// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{}.(secret)", URL_SAFE_NO_PAD.encode(self.ca_hash))
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.');
        let (Some(prefix), Some(hash), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTokenError("it must have three parts separated by dots"));
        };
        if prefix != PREFIX {
            return Err(ParseTokenError("it must begin with rung1"));
        }
        Ok(Self { ca_hash: decode_part(hash)?, secret: decode_part(secret)? })
    }
}

fn decode_part(text: &str) -> Result<[u8; 32], ParseTokenError> {
    // Checked first, so that a long text is not decoded at all.
    if text.len() != 43 {
        return Err(ParseTokenError("each part must have 43 characters"));
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| ParseTokenError("a part is not base64url without padding"))?;
    bytes.try_into().map_err(|_| ParseTokenError("a part does not hold 32 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let token = JoinToken { ca_hash: [1; 32], secret: [2; 32] };
        let secret = URL_SAFE_NO_PAD.encode([2; 32]);
        assert!(token.to_string().contains(&secret));
        assert!(!format!("{token:?}").contains(&secret));
    }

    #[test]
    fn texts_that_are_no_tokens_are_refused() {
        let good = JoinToken { ca_hash: [1; 32], secret: [2; 32] }.to_string();
        let bad = [
            "",
            "rung1",
            "rung1..",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}."),
            &format!("{good} "),
            &good.replace("rung1", "rung2"),
            &format!("{}=", &good[..good.len() - 1]),
        ];
        for text in bad {
            assert!(text.parse::<JoinToken>().is_err(), "{text:?} was taken for a token");
        }
    }

    proptest! {
        #[test]
        fn a_token_reads_back_from_its_text(ca_hash: [u8; 32], secret: [u8; 32]) {
            let token = JoinToken { ca_hash, secret };
            prop_assert_eq!(token.to_string().parse::<JoinToken>(), Ok(token));
        }

        #[test]
        fn what_parses_prints_as_it_was(text in "(rung1\\.[A-Za-z0-9_-]{43}\\.[A-Za-z0-9_-]{43})|\\PC{0,120}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}

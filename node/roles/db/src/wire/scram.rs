//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it, the server's side.
//!
//! The server knows a verifier and never the password. A user who does not exist
//! gets the same exchange with a made-up verifier, and fails at its end.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};

/// The only mechanism that is offered. Channel binding is not.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// Iterations of a new verifier, as PostgreSQL's default. Passwords of apps are
/// random, so that more would only make connecting slower.
const ITERATIONS: u32 = 4096;
const KEY: usize = 32;
const NONCE: usize = 18;
const SALT: usize = 16;

/// What is kept of a password: `SCRAM-SHA-256$iterations:salt$stored:server`.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; KEY],
    server_key: [u8; KEY],
}

/// The text is not a verifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected SCRAM-SHA-256$iterations:salt$stored-key:server-key")]
pub struct ParseVerifierError;

impl ScramVerifier {
    /// A verifier of a password, with a random salt. It takes some milliseconds.
    ///
    /// Passwords are taken as they are: SASLprep leaves ASCII alone, and the
    /// passwords of apps are random ASCII.
    pub fn new(password: &str) -> Self {
        let salt: [u8; SALT] = rand::random();
        let iterations = NonZeroU32::new(ITERATIONS).expect("the constant is not zero");
        let mut salted = [0; KEY];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        Self {
            iterations: ITERATIONS,
            salt: salt.to_vec(),
            stored_key: sha256(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// One that no password fits. The salt is the same whenever the same user is
    /// tried, or the answer would tell who exists.
    pub fn impossible(user: &str, secret: &[u8; KEY]) -> Self {
        let salt = mac(secret, user.as_bytes());
        Self {
            iterations: ITERATIONS,
            salt: salt[..SALT].to_vec(),
            stored_key: rand::random(),
            server_key: rand::random(),
        }
    }
}

impl fmt::Display for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = BASE64.encode(&self.salt);
        let (stored, server) = (BASE64.encode(self.stored_key), BASE64.encode(self.server_key));
        write!(f, "{MECHANISM}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramVerifier")
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl FromStr for ScramVerifier {
    type Err = ParseVerifierError;

    fn from_str(text: &str) -> Result<Self, ParseVerifierError> {
        let mut parts = text.split('$');
        let (Some(MECHANISM), Some(salting), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseVerifierError);
        };
        let (iterations, salt) = salting.split_once(':').ok_or(ParseVerifierError)?;
        let (stored, server) = keys.split_once(':').ok_or(ParseVerifierError)?;
        let iterations = iterations.parse().map_err(|_| ParseVerifierError)?;
        Ok(Self {
            iterations,
            salt: BASE64.decode(salt).map_err(|_| ParseVerifierError)?,
            stored_key: key(stored).ok_or(ParseVerifierError)?,
            server_key: key(server).ok_or(ParseVerifierError)?,
        })
    }
}

/// The server's side of one exchange, after its first answer.
pub struct Exchange {
    verifier: ScramVerifier,
    nonce: String,
    /// The first two messages, as both sides sign them.
    signed: String,
    /// What the client must send as channel binding: its first header again.
    binding: String,
}

/// The client does not know the password, or does not speak SCRAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScramError {
    Malformed,
    WrongPassword,
}

impl Exchange {
    /// Takes the client's first message and gives the server's.
    ///
    /// # Errors
    /// When the message is malformed or asks for channel binding, which was not
    /// offered.
    pub fn begin(verifier: ScramVerifier, first: &[u8]) -> Result<(Exchange, String), ScramError> {
        let nonce: [u8; NONCE] = rand::random();
        Self::begin_with_nonce(verifier, first, &BASE64.encode(nonce))
    }

    fn begin_with_nonce(
        verifier: ScramVerifier,
        first: &[u8],
        ours: &str,
    ) -> Result<(Exchange, String), ScramError> {
        let first = std::str::from_utf8(first).map_err(|_| ScramError::Malformed)?;
        let mut parts = first.splitn(3, ',');
        let (Some(flag), Some(_identity), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramError::Malformed);
        };
        if flag != "n" && flag != "y" {
            return Err(ScramError::Malformed);
        }
        let header = &first[..first.len() - bare.len()];
        let theirs = attribute(bare.split(',').nth(1), "r=").ok_or(ScramError::Malformed)?;
        if !bare.starts_with("n=") || theirs.is_empty() || theirs.len() > 256 {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{theirs}{ours}");
        let salt = BASE64.encode(&verifier.salt);
        let answer = format!("r={nonce},s={salt},i={}", verifier.iterations);
        let signed = format!("{bare},{answer}");
        Ok((Exchange { verifier, nonce, signed, binding: BASE64.encode(header) }, answer))
    }

    /// Takes the client's last message and gives the server's.
    ///
    /// # Errors
    /// When the proof does not fit the verifier, or the message is malformed.
    pub fn finish(self, last: &[u8]) -> Result<String, ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        let (unproven, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut parts = unproven.split(',');
        let binding = attribute(parts.next(), "c=").ok_or(ScramError::Malformed)?;
        let nonce = attribute(parts.next(), "r=").ok_or(ScramError::Malformed)?;
        if binding != self.binding || nonce != self.nonce {
            return Err(ScramError::Malformed);
        }
        let proof = key(proof).ok_or(ScramError::Malformed)?;
        let message = format!("{},{unproven}", self.signed);
        let mut client_key = mac(&self.verifier.stored_key, message.as_bytes());
        client_key.iter_mut().zip(proof).for_each(|(ours, theirs)| *ours ^= theirs);
        // Both are hashes of what the client chose: comparing them in varying time
        // tells nothing of use about the stored one.
        if sha256(&client_key) != self.verifier.stored_key {
            return Err(ScramError::WrongPassword);
        }
        let signature = mac(&self.verifier.server_key, message.as_bytes());
        Ok(format!("v={}", BASE64.encode(signature)))
    }
}

fn attribute<'a>(part: Option<&'a str>, name: &str) -> Option<&'a str> {
    part?.strip_prefix(name)
}

fn key(text: &str) -> Option<[u8; KEY]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn mac(key: &[u8], message: &[u8]) -> [u8; KEY] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn sha256(message: &[u8]) -> [u8; KEY] {
    digest::digest(&digest::SHA256, message).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    use super::*;

    fn talk(verifier: &ScramVerifier, password: &str) -> Result<(), ScramError> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let (exchange, first) = Exchange::begin(verifier.clone(), client.message())?;
        client.update(first.as_bytes()).unwrap();
        let last = exchange.finish(client.message())?;
        client.finish(last.as_bytes()).unwrap();
        Ok(())
    }

    #[test]
    fn the_client_of_another_project_gets_in_with_the_right_password_only() {
        let verifier = ScramVerifier::new("secret words");
        assert_eq!(talk(&verifier, "secret words"), Ok(()));
        assert_eq!(talk(&verifier, "secret word"), Err(ScramError::WrongPassword));
        assert_eq!(
            talk(&ScramVerifier::impossible("eve", &[1; KEY]), "x"),
            Err(ScramError::WrongPassword)
        );
    }

    #[test]
    fn a_verifier_survives_its_text_form() {
        let verifier = ScramVerifier::new("p");
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
        assert!("SCRAM-SHA-256$4096:AAAA$short:keys".parse::<ScramVerifier>().is_err());
    }

    #[test]
    fn the_example_of_rfc_7677_is_reproduced() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let mut salted = [0; KEY];
        let iterations = NonZeroU32::new(4096).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, b"pencil", &mut salted);
        let verifier = ScramVerifier {
            iterations: 4096,
            salt,
            stored_key: sha256(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        };
        let (exchange, first) = Exchange::begin_with_nonce(
            verifier,
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        )
        .unwrap();
        let expected = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        assert_eq!(first, expected);
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        assert_eq!(
            exchange.finish(last.as_bytes()).unwrap(),
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
    }
}

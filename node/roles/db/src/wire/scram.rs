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

/// The mechanism without channel binding, which every client is offered.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// The mechanism that binds the exchange to the certificate of the connection.
pub const MECHANISM_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The only kind of channel binding (RFC 5929), as in PostgreSQL.
const END_POINT: &str = "p=tls-server-end-point";
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

/// Whether the exchange is bound to the connection that it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binding<'a> {
    /// The client chose [`MECHANISM_PLUS`]; this is the hash of the certificate.
    EndPoint(&'a [u8]),
    /// It was offered and the client chose [`MECHANISM`].
    Declined,
    /// It was not offered.
    Unavailable,
}

impl Binding<'_> {
    /// Whether the client's flag agrees. One who says that we offered no binding
    /// when we did was lied to by somebody between us (RFC 5802, section 6).
    fn agrees(self, flag: &str) -> bool {
        match self {
            Binding::EndPoint(_) => flag == END_POINT,
            Binding::Declined => flag == "n",
            Binding::Unavailable => flag == "n" || flag == "y",
        }
    }

    /// What the client must send as channel binding: its header again, and the hash.
    fn expected(self, header: &str) -> String {
        let mut data = header.as_bytes().to_vec();
        if let Binding::EndPoint(hash) = self {
            data.extend_from_slice(hash);
        }
        BASE64.encode(data)
    }
}

/// The server's side of one exchange, after its first answer.
pub struct Exchange {
    verifier: ScramVerifier,
    nonce: String,
    /// The first two messages, as both sides sign them.
    signed: String,
    /// What the client must send as channel binding.
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
    /// When the message is malformed or disagrees about channel binding.
    pub fn begin(
        verifier: ScramVerifier,
        binding: Binding<'_>,
        first: &[u8],
    ) -> Result<(Exchange, String), ScramError> {
        let nonce: [u8; NONCE] = rand::random();
        Self::begin_with_nonce(verifier, binding, first, &BASE64.encode(nonce))
    }

    fn begin_with_nonce(
        verifier: ScramVerifier,
        binding: Binding<'_>,
        first: &[u8],
        ours: &str,
    ) -> Result<(Exchange, String), ScramError> {
        let first = std::str::from_utf8(first).map_err(|_| ScramError::Malformed)?;
        let mut parts = first.splitn(3, ',');
        let (Some(flag), Some(_identity), Some(bare)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(ScramError::Malformed);
        };
        if !binding.agrees(flag) {
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
        Ok((Exchange { verifier, nonce, signed, binding: binding.expected(header) }, answer))
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

/// Reads bytes as each message of an exchange: nobody gets in by chance.
pub(super) fn parse_any(bytes: &[u8]) {
    let verifier = ScramVerifier::impossible("nobody", &[7; KEY]);
    for binding in [Binding::Unavailable, Binding::Declined, Binding::EndPoint(b"hash")] {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let begun = Exchange::begin_with_nonce(verifier.clone(), binding, first, "nonce");
        let Ok((exchange, answer)) = begun else { continue };
        assert!(answer.starts_with("r=") && answer.len() <= first.len() + 128);
        let last = bytes.get(first.len() + 1..).unwrap_or_default();
        assert!(exchange.finish(last).is_err());
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(verifier) = text.parse::<ScramVerifier>()
    {
        assert_eq!(verifier.to_string().parse(), Ok(verifier));
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
        bound(verifier, password, ChannelBinding::unsupported(), Binding::Unavailable)
    }

    fn bound(
        verifier: &ScramVerifier,
        password: &str,
        theirs: ChannelBinding,
        ours: Binding<'_>,
    ) -> Result<(), ScramError> {
        let mut client = ScramSha256::new(password.as_bytes(), theirs);
        let (exchange, first) = Exchange::begin(verifier.clone(), ours, client.message())?;
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
    fn an_exchange_is_bound_to_the_certificate_that_the_client_saw() {
        let verifier = ScramVerifier::new("p");
        let end_point = |hash: &[u8]| ChannelBinding::tls_server_end_point(hash.to_vec());
        let talk = |theirs, ours| bound(&verifier, "p", theirs, ours);
        assert_eq!(talk(end_point(b"one"), Binding::EndPoint(b"one")), Ok(()));
        let other = talk(end_point(b"two"), Binding::EndPoint(b"one"));
        assert_eq!(other, Err(ScramError::Malformed));
        // Who is able to and was not offered it says so, which is a lie of the network
        // when it was offered.
        assert_eq!(talk(ChannelBinding::unrequested(), Binding::Unavailable), Ok(()));
        let hidden = talk(ChannelBinding::unrequested(), Binding::Declined);
        assert_eq!(hidden, Err(ScramError::Malformed));
        assert_eq!(talk(ChannelBinding::unsupported(), Binding::Declined), Ok(()));
        let unbound = talk(ChannelBinding::unsupported(), Binding::EndPoint(b"one"));
        assert_eq!(unbound, Err(ScramError::Malformed));
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
            Binding::Unavailable,
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

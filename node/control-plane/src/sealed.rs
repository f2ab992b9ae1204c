//! Encryption of secrets before they enter the log.
//!
//! The log, its snapshots and any copy of them hold only ciphertext. The key is
//! a file beside them on voters, so what this protects is a log or a backup that
//! leaves the machine without the key, not a machine that was taken over.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

/// The key that a cluster's voters share.
#[derive(Clone)]
pub struct ClusterKey(LessSafeKey, [u8; 32]);

/// A ciphertext: ChaCha20-Poly1305 (RFC 8439) with a random nonce in front.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(#[serde(with = "serde_bytes")] Vec<u8>);

/// A ciphertext that this key does not open for this purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret of the control state does not open with this node's cluster key")]
pub struct WrongKey;

impl ClusterKey {
    /// A fresh random key.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).expect("the system's random source failed");
        Self::from_bytes(bytes)
    }

    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).expect("the key has 32 bytes");
        Self(LessSafeKey::new(key), bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.1
    }

    /// Encrypts. `purpose` is authenticated with it: a ciphertext cannot be
    /// moved to another place of the state.
    ///
    /// # Panics
    /// When the operating system has no randomness to give.
    pub fn seal(&self, purpose: &str, plaintext: &[u8]) -> Sealed {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the system's random source failed");
        let mut bytes = plaintext.to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut bytes,
            )
            .expect("the plaintext is far below the cipher's limit");
        let mut sealed = nonce.to_vec();
        sealed.append(&mut bytes);
        Sealed(sealed)
    }

    /// Decrypts.
    ///
    /// # Errors
    /// When the key or the purpose is another one, or a byte was changed.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Vec<u8>, WrongKey> {
        let (nonce, ciphertext) = sealed.0.split_first_chunk::<NONCE_LEN>().ok_or(WrongKey)?;
        let mut bytes = ciphertext.to_vec();
        let length = self
            .0
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(purpose.as_bytes()),
                &mut bytes,
            )
            .map_err(|_| WrongKey)?
            .len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_only_with_its_key_for_its_purpose() {
        let key = ClusterKey::generate();
        let sealed = key.seal("env/notes", b"s3cret");
        assert_eq!(key.open("env/notes", &sealed).unwrap(), b"s3cret");
        assert_eq!(key.open("env/other", &sealed), Err(WrongKey));
        assert_eq!(ClusterKey::generate().open("env/notes", &sealed), Err(WrongKey));
        let mut changed = sealed.clone();
        *changed.0.last_mut().unwrap() ^= 1;
        assert_eq!(key.open("env/notes", &changed), Err(WrongKey));
        assert_eq!(key.open("env/notes", &Sealed(vec![1, 2])), Err(WrongKey));
    }
}

//! How apps log in to their databases.
//!
//! A database's password is derived from the cluster's key, so that nobody has to
//! keep it. Every node has the verifier, which does not tell the password, and can
//! so let users in while no voter is alive.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use rung_control_plane::sealed::ClusterKey;
use rung_control_plane::state::ScramVerifier;
use rung_proto::api::DatabaseUrl;

/// PostgreSQL's number. The password is as long as the hash, so that rounds add
/// nothing but work.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
const SALT_BYTES: usize = 16;

/// What the user of a database logs in with: 43 characters that need no escape in
/// a URL.
pub fn password(key: &ClusterKey, database: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let tag = hmac::sign(&key, format!("database password/{database}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(tag)
}

/// What a server checks a password against: SCRAM-SHA-256, RFC 5802 section 3.
///
/// # Panics
/// When the operating system has no randomness to give.
pub fn verifier(password: &str) -> ScramVerifier {
    let mut salt = vec![0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).expect("the system's random source failed");
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, &salt, password.as_bytes(), &mut salted);
    let keyed = |text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        hmac::sign(&key, text.as_bytes())
    };
    let stored = digest::digest(&digest::SHA256, keyed("Client Key").as_ref());
    let bytes = |slice: &[u8]| slice.try_into().expect("SHA-256 has 32 bytes");
    ScramVerifier {
        salt,
        iterations: ITERATIONS.get(),
        stored_key: bytes(stored.as_ref()),
        server_key: bytes(keyed("Server Key").as_ref()),
    }
}

/// The URLs of a database for programs that reach it at `address`.
pub fn urls(database: &str, password: &str, address: SocketAddr) -> DatabaseUrl {
    let url = format!("postgres://{database}:{password}@{address}/{database}");
    let replica_url = format!("{url}?options=-c%20rung.role%3Dreplica");
    DatabaseUrl { url, replica_url }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_depends_on_the_cluster_and_the_database_and_on_nothing_else() {
        let key = ClusterKey::from_bytes([1; 32]);
        assert_eq!(password(&key, "photos"), password(&key, "photos"));
        assert_ne!(password(&key, "photos"), password(&key, "notes"));
        assert_ne!(password(&key, "photos"), password(&ClusterKey::from_bytes([2; 32]), "photos"));
        assert_eq!(password(&key, "photos").len(), 43);
    }

    #[test]
    fn a_verifier_fits_its_password_only() {
        let verifier = verifier("pencil");
        let client_key = |password: &str| {
            let mut salted = [0; 32];
            let rounds = NonZeroU32::new(verifier.iterations).unwrap();
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
            pbkdf2::derive(algorithm, rounds, &verifier.salt, password.as_bytes(), &mut salted);
            let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salted), b"Client Key");
            digest::digest(&digest::SHA256, key.as_ref())
        };
        assert_eq!(client_key("pencil").as_ref(), verifier.stored_key);
        assert_ne!(client_key("Pencil").as_ref(), verifier.stored_key);
    }

    #[test]
    fn urls_are_those_that_drivers_read() {
        let urls = urls("photos", "secret", "127.0.0.11:5432".parse().unwrap());
        assert_eq!(urls.url, "postgres://photos:secret@127.0.0.11:5432/photos");
        assert!(urls.replica_url.ends_with("?options=-c%20rung.role%3Dreplica"));
    }
}

//! Certificates, certificate requests and stored identities.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_transport::{CertificateAuthority, KeyPair, NodeIdentity, PeerIdentity, csr_public_key};

fuzz_target!(|input: &[u8]| {
    let Some((choice, bytes)) = input.split_first() else { return };
    match choice % 4 {
        0 => {
            if let Ok(peer) = PeerIdentity::from_certificate(bytes) {
                assert_eq!(PeerIdentity::from_uri(&peer.to_string()).ok(), Some(peer));
            }
        }
        1 => {
            if let Ok(key) = csr_public_key(bytes) {
                // The uncompressed point of a P-256 key.
                assert!(key.len() == 65 && key[0] == 4, "a key of {} bytes", key.len());
            }
        }
        2 => {
            if let Ok(identity) = NodeIdentity::from_secret_bytes(bytes) {
                let again = NodeIdentity::from_secret_bytes(&identity.to_secret_bytes());
                assert_eq!(again.map(|again| again.peer()).ok(), Some(identity.peer()));
            }
        }
        _ => {
            let _ = KeyPair::from_secret_bytes(bytes);
            let _ = CertificateAuthority::from_secret_bytes(bytes);
        }
    }
});

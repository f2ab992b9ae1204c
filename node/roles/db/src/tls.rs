//! What the server shows to clients that ask for TLS.

use std::sync::Arc;

use ring::digest::{self, Algorithm, SHA256, SHA384, SHA512};
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The protocol that clients name which begin with TLS at once (ALPN).
pub(crate) const PROTOCOL: &[u8] = b"postgresql";

/// A certificate with its key, ready for connections: TLS 1.2 and 1.3.
pub struct ServerTls {
    pub(crate) acceptor: TlsAcceptor,
    /// The certificate's hash of RFC 5929, `tls-server-end-point`. Signatures
    /// without a hash of their own have none, and no channel is bound to them.
    pub(crate) end_point: Option<Vec<u8>>,
}

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate or its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("the certificate is not X.509")]
    NotX509,
}

impl ServerTls {
    /// The chain begins with the server's own certificate.
    ///
    /// # Errors
    /// When there is none, or the key is not the certificate's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let end_point = end_point(chain.first().ok_or(TlsError::NotX509)?)?;
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Clients of databases resume nothing; connections live long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), end_point })
    }
}

/// The hash of a certificate by the hash of its signature, or SHA-256 where that is
/// MD5 or SHA-1.
fn end_point(certificate: &[u8]) -> Result<Option<Vec<u8>>, TlsError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| TlsError::NotX509)?;
    let algorithm = algorithm(&parsed.signature_algorithm.algorithm.to_id_string());
    Ok(algorithm.map(|algorithm| digest::digest(algorithm, certificate).as_ref().to_vec()))
}

fn algorithm(signature: &str) -> Option<&'static Algorithm> {
    match signature {
        // RSA with MD5, SHA-1 and SHA-256, ECDSA with SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(&SHA256),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed_by(algorithm: &'static rcgen::SignatureAlgorithm) -> (Vec<u8>, ServerTls) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let der = certificate.der().to_vec();
        (der, ServerTls::new(vec![certificate.der().clone()], key).unwrap())
    }

    #[test]
    fn a_certificate_is_hashed_as_its_signature_says() {
        for (signature, hash) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(&SHA256)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(&SHA384)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let (der, tls) = signed_by(signature);
            let expected = hash.map(|hash| digest::digest(hash, &der).as_ref().to_vec());
            assert_eq!(tls.end_point, expected, "{signature:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_or_has_another_key_is_refused() {
        let key = || PrivateKeyDer::try_from(rcgen::KeyPair::generate().unwrap().serialize_der());
        let junk = ServerTls::new(vec![CertificateDer::from(vec![1, 2, 3])], key().unwrap());
        assert!(matches!(junk, Err(TlsError::NotX509)));
        assert!(matches!(ServerTls::new(Vec::new(), key().unwrap()), Err(TlsError::NotX509)));
        let (der, _) = signed_by(&rcgen::PKCS_ECDSA_P256_SHA256);
        let other = ServerTls::new(vec![CertificateDer::from(der)], key().unwrap());
        assert!(matches!(other, Err(TlsError::Unusable(_))));
    }
}

//! TLS for the mesh: who must show which certificate, and what an error means.

use std::fmt;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring as provider};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::error::MeshError;
use crate::identity::{NodeIdentity, PeerIdentity, certificate_hash};
use crate::sync::lock;

/// Between nodes; a certificate of the cluster is required on both sides.
pub(crate) const ALPN_MESH: &[u8] = b"rung-mesh/1";
/// From one that has no certificate yet.
pub(crate) const ALPN_JOIN: &[u8] = b"rung-join/1";

/// TLS alert 45, `certificate_expired` (RFC 8446, section 6), which rustls also
/// sends for one that is not valid yet.
const ALERT_CERTIFICATE_EXPIRED: u64 = 0x100 + 45;

/// The certificate that new handshakes show. Replacing it does not touch the
/// connections that exist.
pub(crate) struct Credentials {
    current: ArcSwap<CertifiedKey>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(secret)")
    }
}

impl Credentials {
    pub(crate) fn new(identity: &NodeIdentity) -> Result<Arc<Self>, MeshError> {
        Ok(Arc::new(Self { current: ArcSwap::new(certified_key(identity)?) }))
    }

    pub(crate) fn replace(&self, identity: &NodeIdentity) -> Result<(), MeshError> {
        self.current.store(certified_key(identity)?);
        Ok(())
    }
}

fn certified_key(identity: &NodeIdentity) -> Result<Arc<CertifiedKey>, MeshError> {
    let key = CertifiedKey::from_der(identity.chain(), identity.private_key(), &crypto())
        .map_err(tls_error)?;
    Ok(Arc::new(key))
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn crypto() -> CryptoProvider {
    provider::default_provider()
}

fn tls_error(error: impl fmt::Display) -> MeshError {
    MeshError::Tls(error.to_string())
}

fn roots(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, MeshError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone().into_owned()).map_err(tls_error)?;
    Ok(Arc::new(roots))
}

/// The server side. A client without a certificate passes here and is then held
/// to `rung-join/1`; one with a certificate must have it from the cluster's CA.
pub(crate) fn server_config(
    identity: &NodeIdentity,
    credentials: Arc<Credentials>,
) -> Result<QuicServerConfig, MeshError> {
    let crypto = Arc::new(crypto());
    let verifier = WebPkiClientVerifier::builder_with_provider(
        roots(identity.ca_certificate())?,
        crypto.clone(),
    )
    .allow_unauthenticated()
    .build()
    .map_err(tls_error)?;
    let mut config = rustls::ServerConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(credentials);
    config.alpn_protocols = vec![ALPN_MESH.to_vec(), ALPN_JOIN.to_vec()];
    // A resumed session would not look at the certificate again.
    config.send_tls13_tickets = 0;
    config.try_into().map_err(tls_error)
}

/// The client side between nodes.
pub(crate) fn client_config(
    identity: &NodeIdentity,
    credentials: Arc<Credentials>,
) -> Result<QuicClientConfig, MeshError> {
    let crypto = Arc::new(crypto());
    let verifier = WebPkiServerVerifier::builder_with_provider(
        roots(identity.ca_certificate())?,
        crypto.clone(),
    )
    .build()
    .map_err(tls_error)?;
    let mut config = rustls::ClientConfig::builder_with_provider(crypto)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(credentials);
    config.alpn_protocols = vec![ALPN_MESH.to_vec()];
    config.resumption = Resumption::disabled();
    config.try_into().map_err(tls_error)
}

/// The client side of a node that has no certificate yet.
pub(crate) fn join_config(verifier: Arc<PinVerifier>) -> Result<QuicClientConfig, MeshError> {
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(crypto()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    config.try_into().map_err(tls_error)
}

/// Why the joining side did not trust the seed.
#[derive(Clone, Debug)]
pub(crate) enum PinFailure {
    /// The chain does not lead to the pinned certificate.
    Cluster(String),
    /// It does, but not at this machine's time.
    Clock(String),
}

/// Trusts a server whose chain holds the certificate with the pinned hash and
/// whose own certificate is a node's, signed by that one. Any node of the
/// cluster may be the seed, so no name is expected.
#[derive(Debug)]
pub(crate) struct PinVerifier {
    ca_hash: [u8; 32],
    crypto: CryptoProvider,
    failure: Mutex<Option<PinFailure>>,
}

impl PinVerifier {
    pub(crate) fn new(ca_hash: [u8; 32]) -> Arc<Self> {
        Arc::new(Self { ca_hash, crypto: crypto(), failure: Mutex::new(None) })
    }

    /// Why the last handshake was refused here.
    pub(crate) fn failure(&self) -> Option<PinFailure> {
        lock(&self.failure).clone()
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), PinFailure> {
        let cluster = |error: &dyn fmt::Display| PinFailure::Cluster(error.to_string());
        let authority = intermediates
            .iter()
            .find(|certificate| certificate_hash(certificate) == self.ca_hash)
            .ok_or_else(|| cluster(&"it shows no certificate with the token's hash"))?;
        let roots = roots(authority).map_err(|error| cluster(&error))?;
        let parsed = ParsedCertificate::try_from(end_entity).map_err(|error| cluster(&error))?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            now,
            self.crypto.signature_verification_algorithms.all,
        )
        .map_err(|error| {
            if is_clock_error(&error) {
                PinFailure::Clock(error.to_string())
            } else {
                cluster(&error)
            }
        })?;
        PeerIdentity::from_certificate(end_entity).map_err(|error| cluster(&error))?;
        Ok(())
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(failure) => {
                *lock(&self.failure) = Some(failure);
                Err(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::ApplicationVerificationFailure,
                ))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("the mesh speaks TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.crypto.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

fn is_clock_error(error: &rustls::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
        )
    )
}

/// Why a connection failed, for a person. Certificates out of their time are
/// nearly always a wrong clock or a renewal that did not work, so both are
/// named.
pub(crate) fn explain(error: &quinn::ConnectionError) -> String {
    let clock = "check the clocks of both machines, and that certificates are being renewed";
    match error {
        quinn::ConnectionError::TransportError(transport)
            if u64::from(transport.code) == ALERT_CERTIFICATE_EXPIRED =>
        {
            format!(
                "its certificate is not valid at this machine's time ({}); {clock}",
                transport.reason
            )
        }
        quinn::ConnectionError::ConnectionClosed(close)
            if u64::from(close.error_code) == ALERT_CERTIFICATE_EXPIRED =>
        {
            format!("it found our certificate not valid at its time; {clock}")
        }
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            let reason: String = String::from_utf8_lossy(&close.reason).chars().take(300).collect();
            format!("it closed the connection: {reason}")
        }
        quinn::ConnectionError::TimedOut => "no answer".to_owned(),
        quinn::ConnectionError::Reset => "it was restarted".to_owned(),
        other => other.to_string(),
    }
}

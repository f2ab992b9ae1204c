//! The cluster's certificate authority. Its key lives on the control voters.

use std::fmt;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use rung_proto::{ClusterId, NodeId, encoding};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde::{Deserialize, Serialize};

use crate::error::IdentityError;
use crate::identity::{KeyPair, PeerIdentity, certificate_hash, check_dc};
use crate::server_certificate::ServerNames;

/// How far back certificates are dated, so that a node whose clock is slightly
/// behind accepts a fresh one.
pub(crate) const BACKDATED: Duration = Duration::from_secs(300);
/// A signing request holds one key and one signature.
const MAX_REQUEST: usize = 4096;
/// Longer would not fit a date of four digits after any plausible `now`.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The cluster CA: signs node certificates and chooses every name in them.
pub struct CertificateAuthority {
    cluster: ClusterId,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredAuthority {
    version: u32,
    cluster: ClusterId,
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
}

impl CertificateAuthority {
    /// A new CA for a new cluster. Its certificate does not expire: it is
    /// trusted by hash, and replacing it is replacing the cluster's trust.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn create(cluster: ClusterId) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("Rung cluster {cluster}"));
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let certificate = params
            .self_signed(&key.inner)
            .map_err(|error| IdentityError::Signing(error.to_string()))?;
        Ok(Self { cluster, key, certificate: certificate.der().clone() })
    }

    /// Signs a certificate for the key of a signing request, valid from five
    /// minutes before `now_ms` (since 1970) for `lifetime` after it. Names that
    /// the request asks for are ignored.
    ///
    /// # Errors
    /// When the request is malformed or its signature is wrong, or the data
    /// center's name is not one.
    pub fn sign(
        &self,
        csr_der: &[u8],
        node: NodeId,
        dc: &str,
        lifetime: Duration,
        now_ms: u64,
    ) -> Result<Vec<u8>, IdentityError> {
        check_dc(dc)?;
        let request = parse_request(csr_der)?;
        self.issue(self.node_params(node, dc)?, &request, lifetime, now_ms)
    }

    /// Signs a certificate for a server that clients of other programs connect to:
    /// by these names and no node's, so that it is worth nothing on the mesh.
    /// Otherwise as [`CertificateAuthority::sign`].
    ///
    /// # Errors
    /// When the request is malformed or its signature is wrong, or a name is not
    /// one.
    pub fn sign_server(
        &self,
        csr_der: &[u8],
        names: &ServerNames,
        lifetime: Duration,
        now_ms: u64,
    ) -> Result<Vec<u8>, IdentityError> {
        let request = parse_request(csr_der)?;
        let signing = |error: rcgen::Error| IdentityError::Signing(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Rung server");
        let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        params.subject_alt_names = dns.collect::<Result<_, _>>().map_err(signing)?;
        params.subject_alt_names.extend(names.addresses.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, &request, lifetime, now_ms)
    }

    /// Signs what the parameters say, for the request's key.
    fn issue(
        &self,
        mut params: CertificateParams,
        request: &CertificateSigningRequestParams,
        lifetime: Duration,
        now_ms: u64,
    ) -> Result<Vec<u8>, IdentityError> {
        let signing = |error: rcgen::Error| IdentityError::Signing(error.to_string());
        params.serial_number = Some(random_serial());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // A clock beyond the year 3000 is a fault, and dates of five digits
        // cannot be written into a certificate.
        let now = Duration::from_millis(now_ms.min(32_503_680_000_000));
        params.not_before = epoch + now.saturating_sub(BACKDATED);
        params.not_after = epoch + now + lifetime.min(MAX_LIFETIME);
        let issuer =
            Issuer::from_ca_cert_der(&self.certificate, &self.key.inner).map_err(signing)?;
        let certificate = params.signed_by(&request.public_key, &issuer).map_err(signing)?;
        Ok(certificate.der().to_vec())
    }

    fn node_params(&self, node: NodeId, dc: &str) -> Result<CertificateParams, IdentityError> {
        let signing = |error: rcgen::Error| IdentityError::Signing(error.to_string());
        let peer = PeerIdentity { cluster: self.cluster, node, dc: dc.to_owned() };
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&PeerIdentity::server_name(node));
        params.subject_alt_names = vec![
            SanType::DnsName(PeerIdentity::server_name(node).try_into().map_err(signing)?),
            SanType::URI(peer.to_string().try_into().map_err(signing)?),
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params)
    }

    /// Key and certificate, to be kept encrypted.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        encoding::encode(&StoredAuthority {
            version: 1,
            cluster: self.cluster,
            key: self.key.to_secret_bytes(),
            certificate: self.certificate.to_vec(),
        })
    }

    /// Reads [`CertificateAuthority::to_secret_bytes`].
    ///
    /// # Errors
    /// When the bytes are something else, or key and certificate do not match.
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let unreadable = |why: String| IdentityError::Stored { what: "certificate authority", why };
        let stored: StoredAuthority =
            encoding::decode(bytes).map_err(|error| unreadable(error.to_string()))?;
        if stored.version != 1 {
            return Err(unreadable(format!(
                "version {} is newer than this program",
                stored.version
            )));
        }
        let key = KeyPair::from_secret_bytes(&stored.key)?;
        let certificate = crate::identity::parse_certificate(&stored.certificate)?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.inner.public_key_raw() {
            return Err(unreadable("the certificate is for another key".into()));
        }
        Ok(Self { cluster: stored.cluster, key, certificate: stored.certificate.into() })
    }

    /// The cluster it signs for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of its certificate, as join tokens have it.
    pub fn hash(&self) -> [u8; 32] {
        certificate_hash(&self.certificate)
    }
}

/// Reads a signing request (PKCS #10, DER) and checks its signature.
pub(crate) fn parse_request(
    csr_der: &[u8],
) -> Result<CertificateSigningRequestParams, IdentityError> {
    if csr_der.len() > MAX_REQUEST {
        let why = format!("it has {} bytes, more than {MAX_REQUEST}", csr_der.len());
        return Err(IdentityError::Request(why));
    }
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr_der))
        .map_err(|error| IdentityError::Request(error.to_string()))
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// RFC 5280, section 4.1.2.2: positive and unique for the CA.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeIdentity;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_stored_authority_goes_on_signing() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let restored = CertificateAuthority::from_secret_bytes(&ca.to_secret_bytes()).unwrap();
        assert_eq!(restored.hash(), ca.hash());
        assert_eq!(restored.cluster(), ClusterId(3));
        let key = KeyPair::generate().unwrap();
        let certificate = restored.sign(&key.to_csr().unwrap(), NodeId(1), "a", DAY, 0).unwrap();
        assert!(NodeIdentity::new(&key, certificate, ca.certificate_der().to_vec()).is_ok());
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let mut csr = KeyPair::generate().unwrap().to_csr().unwrap();
        let last = csr.len() - 1;
        csr[last] ^= 1;
        let error = ca.sign(&csr, NodeId(1), "a", DAY, 0).unwrap_err();
        assert!(matches!(error, IdentityError::Request(_)), "{error}");
        assert!(ca.sign(&[0; 5000], NodeId(1), "a", DAY, 0).is_err());
    }

    #[test]
    fn names_in_the_request_do_not_reach_the_certificate() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![PeerIdentity::server_name(NodeId(2))]).unwrap();
        let csr = params.serialize_request(&key.inner).unwrap();
        let certificate = ca.sign(csr.der(), NodeId(1), "a", DAY, 0).unwrap();
        let forged = PeerIdentity::server_name(NodeId(2));
        let found = certificate.windows(forged.len()).any(|part| part == forged.as_bytes());
        assert!(!found, "the certificate carries a name that the request asked for");
    }

    #[test]
    fn the_far_future_does_not_panic() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let csr = KeyPair::generate().unwrap().to_csr().unwrap();
        assert!(ca.sign(&csr, NodeId(1), "a", Duration::MAX, u64::MAX).is_ok());
        assert!(ca.sign(&csr, NodeId(1), "no such/name", DAY, 0).is_err());
    }
}

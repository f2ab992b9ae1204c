//! A certificate for what a node serves to others' clients, signed by the cluster's
//! CA. It names addresses and no node, so that it opens nothing on the mesh.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use rung_proto::encoding;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use crate::authority::BACKDATED;
use crate::error::IdentityError;
use crate::identity::{KeyPair, millis, parse_certificate};

/// What a server's certificate is valid for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerNames {
    pub dns: BTreeSet<String>,
    pub addresses: BTreeSet<IpAddr>,
}

/// Key, certificate and CA of a server.
pub struct ServerCertificate {
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    addresses: BTreeSet<IpAddr>,
    not_before_ms: u64,
    not_after_ms: u64,
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("addresses", &self.addresses)
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
    #[serde(with = "serde_bytes")]
    authority: Vec<u8>,
}

impl ServerCertificate {
    /// Puts a key and the certificate obtained for it together.
    ///
    /// # Errors
    /// When the certificate is not for this key, or was not signed by that CA.
    pub fn new(
        key: &KeyPair,
        certificate_der: Vec<u8>,
        authority_der: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let certificate = parse_certificate(&certificate_der)?;
        let authority = parse_certificate(&authority_der)?;
        let unusable = |why: &str| IdentityError::Certificate(why.to_owned());
        certificate
            .verify_signature(Some(authority.public_key()))
            .map_err(|_| unusable("it was not signed by the cluster's CA"))?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key() {
            return Err(unusable("it is for another key"));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| unusable("its names are malformed"))?
            .ok_or_else(|| unusable("it names nobody"))?;
        let addresses = names.value.general_names.iter().filter_map(address).collect();
        let validity = certificate.validity();
        let not_before_ms = millis(validity.not_before.timestamp());
        let not_after_ms = millis(validity.not_after.timestamp());
        Ok(Self {
            key: key.to_secret_bytes(),
            certificate: certificate_der.into(),
            authority: authority_der.into(),
            addresses,
            not_before_ms,
            not_after_ms,
        })
    }

    /// The addresses that it is valid for.
    pub fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.addresses
    }

    /// When it was signed, milliseconds since 1970.
    pub fn signed_ms(&self) -> u64 {
        self.not_before_ms + BACKDATED.as_millis() as u64
    }

    /// Until when it is valid, milliseconds since 1970.
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// The certificates as TLS sends them.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.authority.clone()]
    }

    /// The private key for TLS.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// Key and certificates, to be kept in a private file.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        encoding::encode(&Stored {
            version: 1,
            key: self.key.clone(),
            certificate: self.certificate.to_vec(),
            authority: self.authority.to_vec(),
        })
    }

    /// Reads [`ServerCertificate::to_secret_bytes`].
    ///
    /// # Errors
    /// When the bytes are something else, or were made by a newer version.
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let what = "server certificate";
        let stored: Stored = encoding::decode(bytes)
            .map_err(|error| IdentityError::Stored { what, why: error.to_string() })?;
        if stored.version != 1 {
            let why = format!("version {} is newer than this program", stored.version);
            return Err(IdentityError::Stored { what, why });
        }
        let key = KeyPair::from_secret_bytes(&stored.key)?;
        Self::new(&key, stored.certificate, stored.authority)
    }
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rung_proto::ClusterId;

    use super::*;
    use crate::authority::CertificateAuthority;
    use crate::identity::NodeIdentity;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn names() -> ServerNames {
        let addresses = ["127.0.0.1", "::1", "10.0.0.7"].map(|text| text.parse().unwrap());
        ServerNames { dns: ["localhost".to_owned()].into(), addresses: addresses.into() }
    }

    #[test]
    fn a_server_certificate_names_its_addresses_and_survives_its_file() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let key = KeyPair::generate().unwrap();
        let now_ms = 1_700_000_000_000;
        let der = ca.sign_server(&key.to_csr().unwrap(), &names(), DAY, now_ms).unwrap();
        let made = ServerCertificate::new(&key, der, ca.certificate_der().to_vec()).unwrap();
        let read = ServerCertificate::from_secret_bytes(&made.to_secret_bytes()).unwrap();
        assert_eq!(read.addresses(), &names().addresses);
        assert_eq!(read.signed_ms(), now_ms);
        assert_eq!(read.not_after_ms(), now_ms + DAY.as_millis() as u64);
        assert_eq!(read.chain()[1].as_ref(), ca.certificate_der());
        assert!(ServerCertificate::from_secret_bytes(b"junk").is_err());
    }

    #[test]
    fn it_is_no_identity_and_of_no_other_key_or_authority() {
        let ca = CertificateAuthority::create(ClusterId(3)).unwrap();
        let key = KeyPair::generate().unwrap();
        let der = ca.sign_server(&key.to_csr().unwrap(), &names(), DAY, 0).unwrap();
        let authority = || ca.certificate_der().to_vec();
        assert!(NodeIdentity::new(&key, der.clone(), authority()).is_err());
        let other = KeyPair::generate().unwrap();
        assert!(ServerCertificate::new(&other, der.clone(), authority()).is_err());
        let other = CertificateAuthority::create(ClusterId(3)).unwrap();
        assert!(ServerCertificate::new(&key, der, other.certificate_der().to_vec()).is_err());
    }
}

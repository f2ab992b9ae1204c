//! Who a node is: its name in a certificate, its key, and both on disk.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use rung_proto::{ClusterId, NodeId, encoding};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::IdentityError;

/// The file in the identity directory that holds key and certificates. It is
/// one file so that a renewal replaces all of it or nothing.
const IDENTITY_FILE: &str = "identity";
/// Where the key is kept until a certificate for it was obtained.
const KEY_FILE: &str = "identity-key";
/// An identity is a few kilobytes; whatever is larger is something else.
const MAX_STORED: u64 = 64 * 1024;

/// A node as its certificate names it, in the URI SAN
/// `spiffe://<cluster>/dc/<dc>/node/<node>`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Its data center, 1 to 63 letters, digits, dots, dashes or underscores.
    pub dc: String,
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/dc/{}/node/{}", self.cluster, self.dc, self.node)
    }
}

impl PeerIdentity {
    /// Reads the URI of a certificate.
    ///
    /// # Errors
    /// When the text does not have exactly the form that [`fmt::Display`] gives.
    pub fn from_uri(uri: &str) -> Result<Self, IdentityError> {
        let malformed =
            || IdentityError::Certificate("its URI is not spiffe://CLUSTER/dc/DC/node/NODE".into());
        let rest = uri.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let parts: Vec<&str> = rest.splitn(6, '/').collect();
        let [cluster, "dc", dc, "node", node] = parts[..] else {
            return Err(malformed());
        };
        check_dc(dc)?;
        let peer = Self {
            cluster: cluster.parse().map_err(|_| malformed())?,
            node: node.parse().map_err(|_| malformed())?,
            dc: dc.to_owned(),
        };
        // The ids also read in capitals, which would be a second name of a node.
        if peer.to_string() == uri { Ok(peer) } else { Err(malformed()) }
    }

    /// Reads who a certificate was made for. It does not verify the certificate.
    ///
    /// # Errors
    /// When the bytes are no certificate, or it does not have exactly one URI.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        peer_of(&parse_certificate(der)?)
    }

    /// The DNS name in the node's certificate, by which one who connects checks
    /// that it met this node and no other.
    pub fn server_name(node: NodeId) -> String {
        format!("{node}.node.rung")
    }
}

/// Whether that is a data center name.
///
/// # Errors
/// When it is empty, longer than 63 bytes, or has other characters than
/// letters, digits, dots, dashes and underscores.
pub fn check_dc(dc: &str) -> Result<(), IdentityError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if dc.is_empty() || dc.len() > 63 || !dc.bytes().all(allowed) {
        return Err(IdentityError::DataCenter(dc.chars().take(80).collect()));
    }
    Ok(())
}

/// SHA-256 of a certificate in DER.
pub fn certificate_hash(der: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, der).as_ref());
    hash
}

pub(crate) fn parse_certificate(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|error| IdentityError::Certificate(format!("it is not X.509: {error}")))?;
    if !rest.is_empty() {
        return Err(IdentityError::Certificate("bytes follow it".into()));
    }
    Ok(certificate)
}

fn peer_of(certificate: &X509Certificate<'_>) -> Result<PeerIdentity, IdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| IdentityError::Certificate(format!("its names are malformed: {error}")))?
        .ok_or_else(|| IdentityError::Certificate("it names nobody".into()))?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => PeerIdentity::from_uri(uri),
        _ => Err(IdentityError::Certificate("it must have exactly one URI".into())),
    }
}

/// A node's private key (ECDSA, P-256), made before the node joins.
pub struct KeyPair {
    pub(crate) inner: rcgen::KeyPair,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(secret)")
    }
}

impl KeyPair {
    /// A new random key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let inner =
            rcgen::KeyPair::generate().map_err(|error| IdentityError::Key(error.to_string()))?;
        Ok(Self { inner })
    }

    /// The key of an interrupted join, or a new one, written to disk before it
    /// is returned: a join that is asked again must come with the same key.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is no key.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(KEY_FILE);
        if let Some(bytes) = read_bounded(&path)? {
            return Self::from_secret_bytes(&bytes);
        }
        let key = Self::generate()?;
        write_secret(&path, &key.to_secret_bytes())?;
        Ok(key)
    }

    /// The key in PKCS #8 DER.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        self.inner.serialize_der()
    }

    /// Reads [`KeyPair::to_secret_bytes`].
    ///
    /// # Errors
    /// When the bytes are no P-256 key.
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let pkcs8 = PrivatePkcs8KeyDer::from(bytes);
        let inner =
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ECDSA_P256_SHA256)
                .map_err(|error| IdentityError::Key(error.to_string()))?;
        Ok(Self { inner })
    }

    /// A certificate signing request (PKCS #10, DER) that proves the possession
    /// of the key. The names in the certificate are the cluster's to choose, so
    /// the request has none.
    ///
    /// # Errors
    /// When signing fails.
    pub fn to_csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&self.inner)
            .map_err(|error| IdentityError::Signing(error.to_string()))?;
        Ok(request.der().to_vec())
    }

    /// The public half as the certificate has it: the uncompressed point.
    pub fn public_key(&self) -> Vec<u8> {
        self.inner.public_key_raw().to_vec()
    }
}

/// The public key that a certificate signing request is for, in the form of
/// [`KeyPair::public_key`]. The request's signature is checked.
///
/// # Errors
/// When the bytes are no request, it is too large, or its signature is wrong.
pub fn csr_public_key(csr_der: &[u8]) -> Result<Vec<u8>, IdentityError> {
    let request = crate::authority::parse_request(csr_der)?;
    Ok(rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec())
}

/// Key, certificate and CA of a node: what it needs to speak on the mesh.
#[derive(Clone)]
pub struct NodeIdentity {
    key: Vec<u8>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    peer: PeerIdentity,
    not_before_ms: u64,
    not_after_ms: u64,
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("peer", &self.peer)
            .field("not_after_ms", &self.not_after_ms)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    version: u32,
    #[serde(with = "serde_bytes")]
    key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
    #[serde(with = "serde_bytes")]
    authority: Vec<u8>,
}

impl NodeIdentity {
    /// Puts a key and the certificate obtained for it together.
    ///
    /// # Errors
    /// When the certificate is not for this key, was not signed by that CA, or
    /// does not name a node.
    pub fn new(
        key: &KeyPair,
        certificate_der: Vec<u8>,
        authority_der: Vec<u8>,
    ) -> Result<Self, IdentityError> {
        let certificate = parse_certificate(&certificate_der)?;
        let authority = parse_certificate(&authority_der)?;
        certificate.verify_signature(Some(authority.public_key())).map_err(|_| {
            IdentityError::Certificate("it was not signed by the cluster's CA".into())
        })?;
        if certificate.public_key().subject_public_key.data.as_ref() != key.inner.public_key_raw() {
            return Err(IdentityError::Certificate("it is for another key".into()));
        }
        let peer = peer_of(&certificate)?;
        let validity = certificate.validity();
        let not_before_ms = millis(validity.not_before.timestamp());
        let not_after_ms = millis(validity.not_after.timestamp());
        Ok(Self {
            key: key.to_secret_bytes(),
            certificate: CertificateDer::from(certificate_der),
            authority: CertificateDer::from(authority_der),
            peer,
            not_before_ms,
            not_after_ms,
        })
    }

    /// Reads the identity of a data directory.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let Some(bytes) = read_bounded(&path)? else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(IdentityError::File { path, source });
        };
        Self::from_secret_bytes(&bytes)
    }

    /// Whether [`NodeIdentity::load`] would find a file.
    pub fn exists(dir: &Path) -> bool {
        dir.join(IDENTITY_FILE).exists()
    }

    /// Writes the identity to a data directory, mode 0600, synced, and replaces
    /// the one there as a whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn store(&self, dir: &Path) -> Result<(), IdentityError> {
        write_secret(&dir.join(IDENTITY_FILE), &self.to_secret_bytes())
    }

    /// Key and certificates as [`NodeIdentity::store`] writes them.
    pub fn to_secret_bytes(&self) -> Vec<u8> {
        encoding::encode(&StoredIdentity {
            version: 1,
            key: self.key.clone(),
            certificate: self.certificate.to_vec(),
            authority: self.authority.to_vec(),
        })
    }

    /// Reads [`NodeIdentity::to_secret_bytes`] and checks that the parts belong
    /// together.
    ///
    /// # Errors
    /// When the bytes are something else, or were made by a newer version.
    pub fn from_secret_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let what = "identity";
        let stored: StoredIdentity = encoding::decode(bytes)
            .map_err(|error| IdentityError::Stored { what, why: error.to_string() })?;
        if stored.version != 1 {
            let why = format!("version {} is newer than this program", stored.version);
            return Err(IdentityError::Stored { what, why });
        }
        let key = KeyPair::from_secret_bytes(&stored.key)?;
        Self::new(&key, stored.certificate, stored.authority)
    }

    /// Who we are.
    pub fn peer(&self) -> PeerIdentity {
        self.peer.clone()
    }

    /// From when the certificate is valid, milliseconds since 1970.
    pub fn not_before_ms(&self) -> u64 {
        self.not_before_ms
    }

    /// When the certificate was signed, milliseconds since 1970. It is valid from
    /// some time before that, for clocks that are behind.
    pub fn signed_ms(&self) -> u64 {
        self.not_before_ms + crate::authority::BACKDATED.as_millis() as u64
    }

    /// Until when the certificate is valid, milliseconds since 1970.
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// SHA-256 of the CA's certificate, as join tokens have it.
    pub fn ca_hash(&self) -> [u8; 32] {
        certificate_hash(&self.authority)
    }

    /// The CA's certificate in DER.
    pub fn ca_certificate(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    /// The node's certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key, for asking for the next certificate.
    ///
    /// # Errors
    /// Never for an identity that was built by this module.
    pub fn key_pair(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::from_secret_bytes(&self.key)
    }

    /// The certificates as TLS sends them: ours, then the CA's, so that a
    /// joining node can compare it with its token.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.authority.clone()]
    }

    /// The private key for TLS.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    pub(crate) fn secret_key(&self) -> &[u8] {
        &self.key
    }
}

pub(crate) fn millis(unix_seconds: i64) -> u64 {
    u64::try_from(unix_seconds).unwrap_or(0).saturating_mul(1000)
}

/// The file's contents, or nothing when there is no such file.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if size > MAX_STORED {
        let why = format!("{} has {size} bytes, more than {MAX_STORED}", path.display());
        return Err(IdentityError::Stored { what: "identity", why });
    }
    fs::read(path).map(Some).map_err(failed)
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary_path(path);
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|error| {
        // Nothing is lost when this fails too: the next write uses another name.
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", rand::random::<u64>()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests;

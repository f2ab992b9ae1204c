//! Certificates by server name.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::LbError;

/// A certificate chain, its key, and the names that it is shown for.
pub struct Certificate {
    /// Host names in lower case; `*.example.test` matches one label.
    pub domains: Vec<String>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

#[derive(Debug, Default)]
pub(crate) struct Certificates {
    current: ArcSwap<ByName>,
}

#[derive(Debug, Default)]
struct ByName {
    names: HashMap<String, Arc<CertifiedKey>>,
    /// For names that have none of their own, and for clients that send none.
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Replaces all certificates; the first serves unknown names.
    pub fn replace(&self, certificates: Vec<Certificate>) -> Result<(), LbError> {
        let mut by_name = ByName::default();
        let provider = provider();
        for certificate in certificates {
            let domain = certificate.domains.first().cloned().unwrap_or_default();
            let key = CertifiedKey::from_der(certificate.chain, certificate.key, &provider)
                .map_err(|source| LbError::Certificate { domain, source })?;
            let key = Arc::new(key);
            for name in certificate.domains {
                by_name.names.insert(name.to_ascii_lowercase(), key.clone());
            }
            by_name.default.get_or_insert(key);
        }
        self.current.store(Arc::new(by_name));
        Ok(())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let Some(name) = hello.server_name() else { return current.default.clone() };
        let name = name.to_ascii_lowercase();
        let wildcard = || current.names.get(&format!("*.{}", name.split_once('.')?.1));
        current.names.get(&name).or_else(wildcard).or(current.default.as_ref()).cloned()
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// TLS 1.2 and 1.3, HTTP/2 preferred over HTTP/1.1.
pub(crate) fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, LbError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|source| LbError::Certificate { domain: "any".into(), source })?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

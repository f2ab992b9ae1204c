//! Certificates: strangers, expiry, renewal.

use std::sync::Arc;
use std::time::Duration;

use rung_transport::{CallError, KeyPair, NodeIdentity};

use crate::support::*;

/// A certificate that was valid for a minute, an hour ago, and the key.
fn expired(cluster: &Cluster, id: u64) -> (KeyPair, NodeIdentity) {
    let key = KeyPair::generate().unwrap();
    let then = now_ms() - 3_600_000;
    let identity = cluster.identity_for(&key, id, "east", Duration::from_secs(60), then);
    (key, identity)
}

fn why(error: &CallError) -> String {
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_with_a_word_on_clocks_until_it_is_renewed() {
    let cluster = Cluster::new();
    let (key, identity) = expired(&cluster, 1);
    let a = cluster.node_with(1, Setup { identity: Some(identity), ..Setup::default() });
    let b = cluster.node(2);
    a.knows(&b);
    b.knows(&a);
    let refused_by_b = why(&a.echo(&b).await.unwrap_err());
    assert!(refused_by_b.contains("clock"), "{refused_by_b}");
    let refused_by_us = why(&b.echo(&a).await.unwrap_err());
    assert!(refused_by_us.contains("clock"), "{refused_by_us}");
    a.mesh.replace_identity(cluster.identity_for(&key, 1, "east", HOUR, now_ms()));
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_from_the_future_is_refused_with_a_word_on_clocks() {
    let cluster = Cluster::new();
    let key = KeyPair::generate().unwrap();
    let identity = cluster.identity_for(&key, 1, "east", HOUR, now_ms() + 7_200_000);
    let a = cluster.node_with(1, Setup { identity: Some(identity), ..Setup::default() });
    let b = cluster.node(2);
    b.knows(&a);
    let refused = why(&b.echo(&a).await.unwrap_err());
    assert!(refused.contains("clock"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_outlive_the_certificate_they_began_with_and_its_renewal() {
    let cluster = Cluster::new();
    let key = KeyPair::generate().unwrap();
    let identity = cluster.identity_for(&key, 1, "east", Duration::from_secs(4), now_ms());
    let not_after = identity.not_after_ms();
    let a = cluster.node_with(1, Setup { identity: Some(identity), ..Setup::default() });
    let (mut b, c) = (cluster.node(2), cluster.node(3));
    a.knows(&b);
    a.knows(&c);
    a.echo(&b).await.unwrap();
    eventually("the certificate expired", || now_ms() > not_after + 1000).await;
    a.echo(&b).await.unwrap();
    let refused = why(&a.echo(&c).await.unwrap_err());
    assert!(refused.contains("clock"), "{refused}");
    a.mesh.replace_identity(cluster.identity_for(&key, 1, "east", HOUR, now_ms()));
    a.echo(&c).await.unwrap();
    a.echo(&b).await.unwrap();
    assert!(b.closed.try_recv().is_err(), "the connection was dropped by the renewal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_identity_of_another_node_is_not_taken() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.mesh.replace_identity(cluster.identity(9, "east", HOUR));
    b.knows(&a);
    b.echo(&a).await.unwrap();
}

/// Trusts everybody, as an attacker's client would.
#[derive(Debug)]
struct TrustAll(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("QUIC has TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client of our own making: any ALPN, and a certificate or none.
fn stranger(alpn: &[u8], identity: Option<&NodeIdentity>) -> quinn::Endpoint {
    let crypto = rustls::crypto::ring::default_provider();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(crypto.clone()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(crypto)));
    let mut tls = match identity {
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain(), identity.private_key()).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint
}

/// Why the node ended the connection after it was greeted.
async fn refusal(endpoint: &quinn::Endpoint, node: &Node) -> quinn::ConnectionError {
    let connecting = endpoint.connect(node.mesh.local_addr(), "any.name").unwrap();
    let connection = match connecting.await {
        Ok(connection) => connection,
        Err(error) => return error,
    };
    if let Ok((mut send, _recv)) = connection.open_bi().await {
        let _ = send.write_all(&[0, 4, 1, 2, 3, 4]).await;
    }
    tokio::time::timeout(LONG, connection.closed()).await.expect("a stranger was let in")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_does_not_get_onto_the_mesh() {
    let node = Cluster::new().node(1);
    let endpoint = stranger(b"rung-mesh/1", None);
    let error = refusal(&endpoint, &node).await.to_string();
    assert!(error.contains("a certificate of the cluster is required"), "{error}");
    assert!(node.mesh.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_with_the_same_names_is_refused() {
    let (ours, forger) = (Cluster::new(), Cluster::new());
    let node = ours.node(1);
    let endpoint = stranger(b"rung-mesh/1", Some(&forger.identity(2, "east", HOUR)));
    let error = refusal(&endpoint, &node).await;
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
    assert!(node.mesh.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_is_none_ends_the_connection_and_nothing_else() {
    let cluster = Cluster::new();
    let (node, other) = (cluster.node(1), cluster.node(3));
    let endpoint = stranger(b"rung-mesh/1", Some(&cluster.identity(2, "east", HOUR)));
    let error = refusal(&endpoint, &node).await.to_string();
    assert!(error.contains("malformed"), "{error}");
    other.knows(&node);
    other.echo(&node).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_protocol_is_refused_in_the_handshake() {
    let node = Cluster::new().node(1);
    let endpoint = stranger(b"h3", None);
    let error = refusal(&endpoint, &node).await;
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_node_itself_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.node(1);
    let endpoint = stranger(b"rung-mesh/1", Some(&cluster.identity(1, "east", HOUR)));
    let error = refusal(&endpoint, &node).await.to_string();
    assert!(error.contains("copy of its data directory"), "{error}");
}

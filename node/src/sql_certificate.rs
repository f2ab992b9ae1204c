//! The certificate that the SQL port shows: the operator's, from `tls/` of the data
//! directory, or one that the cluster's CA has signed for this node's addresses.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rand::RngExt;
use rung_control_plane::state::NodeRecord;
use rung_db::{Server, ServerTls};
use rung_proto::{Code, Failure};
use rung_transport::{KeyPair, ServerCertificate, ServerNames};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::sleep;

use crate::certificates::renewal_ms;
use crate::clock::now_ms;
use crate::node::Node;
use crate::protocol::{LeaderAnswer, LeaderRequest};

/// The operator's files, both PEM.
const OWN: [&str; 2] = ["tls/postgres.crt", "tls/postgres.key"];
/// What the cluster's CA has signed, for starts without a leader.
const ISSUED: &str = "identity/postgres";
/// How soon changed files are noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How soon the leader is asked again while there is nothing to show.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    Nothing,
    /// The operator's certificate.
    Own,
    /// One of the cluster's CA.
    Issued,
}

/// The names by which clients find a node: on it, and from elsewhere.
pub fn names(node: &NodeRecord) -> ServerNames {
    let dns = ["localhost".to_owned(), node.name.clone()].into();
    ServerNames { dns, addresses: addresses(node.mesh.ip(), node.public) }
}

fn addresses(bind: IpAddr, public: IpAddr) -> BTreeSet<IpAddr> {
    [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), bind, public].into()
}

/// A certificate as clients read it.
pub fn pem(der: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let text = BASE64_STANDARD.encode(der);
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// Keeps the server's certificate the right one. Never ends.
pub async fn keep(node: &Node, server: &Server) {
    let mut keeper = Keeper { node, server, files: None, own: false, issued: None, due_ms: 0 };
    keeper.begin();
    loop {
        keeper.look_at_files().await;
        if !keeper.own {
            keeper.renew().await;
        }
        let shown = keeper.shown();
        node.sql.set_shown(shown);
        sleep(if shown == Shown::Nothing { ASK_AGAIN } else { LOOK_AGAIN }).await;
    }
}

/// When the files were written and how long they are; nothing for one that is not
/// there.
type Fingerprint = [Option<(SystemTime, u64)>; 2];

struct Keeper<'a> {
    node: &'a Node,
    server: &'a Server,
    /// The operator's files as they were last looked at.
    files: Option<Fingerprint>,
    /// Whether they are shown.
    own: bool,
    issued: Option<ServerCertificate>,
    /// When the issued one is to be renewed, milliseconds since 1970.
    due_ms: u64,
}

impl Keeper<'_> {
    fn shown(&self) -> Shown {
        match &self.issued {
            _ if self.own => Shown::Own,
            Some(_) => Shown::Issued,
            None => Shown::Nothing,
        }
    }

    /// Takes what a former start was given.
    fn begin(&mut self) {
        let Ok(bytes) = fs::read(self.node.data.join(ISSUED)) else { return };
        match ServerCertificate::from_secret_bytes(&bytes) {
            Ok(stored) => self.take(stored),
            // The leader gives another.
            Err(error) => tracing::warn!(%error, "the stored certificate cannot be used"),
        }
    }

    async fn look_at_files(&mut self) {
        let paths = OWN.map(|name| self.node.data.join(name));
        let (seen, paths) = look(paths).await;
        if self.files.replace(seen) == Some(seen) {
            return;
        }
        let loaded = tokio::task::spawn_blocking(move || load(&paths)).await;
        match loaded.unwrap_or(Ok(None)) {
            Ok(Some(tls)) => {
                tracing::info!(role = "db", "the port shows the certificate in tls/postgres.crt");
                self.server.set_tls(tls);
                self.own = true;
            }
            Ok(None) => self.show_issued(),
            Err(why) => {
                let role = "db";
                tracing::error!(role, why, "the port does not show tls/postgres.crt");
                // One that was good until now may be shown until it is mended.
                if !self.own {
                    self.show_issued();
                }
            }
        }
    }

    fn show_issued(&mut self) {
        self.own = false;
        let Some(issued) = &self.issued else { return };
        match ServerTls::new(issued.chain(), issued.private_key()) {
            Ok(tls) => self.server.set_tls(tls),
            Err(error) => {
                tracing::error!(role = "db", %error, "the issued certificate cannot be used");
                self.issued = None;
            }
        }
    }

    fn take(&mut self, issued: ServerCertificate) {
        let jitter = rand::rng().random_range(0.0..1.0);
        self.due_ms = renewal_ms(issued.signed_ms(), issued.not_after_ms(), jitter);
        self.issued = Some(issued);
        if !self.own {
            self.show_issued();
        }
    }

    /// Asks for a certificate if there is none, or it is old or of other addresses.
    async fn renew(&mut self) {
        let needed = addresses(self.node.settings.bind, self.node.settings.public);
        let good =
            self.issued.as_ref().is_some_and(|issued| issued.addresses().is_superset(&needed));
        if good && now_ms() < self.due_ms {
            return;
        }
        match ask(self.node).await {
            Ok(issued) => {
                let stored = self.node.data.write_private(ISSUED, &issued.to_secret_bytes());
                if let Err(failure) = stored {
                    tracing::warn!(%failure, "the certificate is kept in memory only");
                }
                self.take(issued);
            }
            Err(failure) => {
                tracing::debug!(role = "db", %failure, "no certificate for the port yet");
            }
        }
    }
}

/// Asks the leader for a certificate for a new key.
async fn ask(node: &Node) -> Result<ServerCertificate, Failure> {
    let unusable = |error: rung_transport::IdentityError| {
        Failure::new(Code::Internal, "the certificate cannot be used").because(error)
    };
    let key = KeyPair::generate().map_err(unusable)?;
    let csr = key.to_csr().map_err(unusable)?;
    let request = LeaderRequest::CertifyServer { node: node.id, csr };
    let LeaderAnswer::ServerCertificate(certificate) = node.ask_leader(&request).await? else {
        return Err(Failure::new(Code::Internal, "the leader answered something else"));
    };
    let authority = node.identity().ca_certificate().to_vec();
    ServerCertificate::new(&key, certificate.into_vec(), authority).map_err(unusable)
}

async fn look(paths: [PathBuf; 2]) -> (Fingerprint, [PathBuf; 2]) {
    let seen = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let looked = tokio::task::spawn_blocking(move || {
        let [certificate, key] = &paths;
        ([seen(certificate), seen(key)], paths)
    });
    looked.await.expect("looking at files does not panic")
}

/// Reads the operator's files; nothing when there is no certificate.
fn load([certificate, key]: &[PathBuf; 2]) -> Result<Option<ServerTls>, String> {
    let Ok(chain) = fs::read(certificate) else { return Ok(None) };
    let at = |path: &PathBuf, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| at(certificate, &error))?;
    let secret = fs::read(key).map_err(|error| at(key, &error))?;
    let secret = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| at(key, &error))?;
    ServerTls::new(chain, secret).map(Some).map_err(|error| at(certificate, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_what_other_programs_read() {
        let der: Vec<u8> = (0..=255).collect();
        let read = CertificateDer::from_pem_slice(pem(&der).as_bytes()).unwrap();
        assert_eq!(read.as_ref(), der);
        assert!(pem(&der).lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn the_operators_files_are_taken_as_a_pair_or_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["crt", "key"].map(|name| dir.path().join(name));
        assert!(load(&paths).unwrap().is_none());
        let made = rcgen::generate_simple_self_signed(["db.test".to_owned()]).unwrap();
        fs::write(&paths[0], made.cert.pem()).unwrap();
        assert!(load(&paths).is_err_and(|why| why.contains("key")));
        fs::write(&paths[1], rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(load(&paths).is_err());
        fs::write(&paths[1], made.signing_key.serialize_pem()).unwrap();
        assert!(load(&paths).unwrap().is_some());
    }
}

//! Certificates that the balancer shows to browsers: those that an operator put
//! into `tls/` of the data directory, a self-signed one for the other domains.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rung_lb::{Balancer, Certificate};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::data_dir::DataDir;

/// Where `<domain>.crt` and `<domain>.key` are looked for, both PEM.
const DIRECTORY: &str = "tls";
/// The name of the certificate for clients that ask for none we know.
const FALLBACK: &str = "localhost";

/// What tells that the files of the domains were changed: when each was last
/// written and how long it is; nothing for one that is not there.
pub type Fingerprint = Vec<Option<(SystemTime, u64)>>;

/// The files as they are now. Compare with an earlier one to see whether
/// [`install`] has to be called again.
pub async fn fingerprint(data: &DataDir, domains: &[String]) -> Fingerprint {
    let (directory, domains) = (data.join(DIRECTORY), domains.to_vec());
    // Fails only when the runtime ends.
    tokio::task::spawn_blocking(move || look(&directory, &domains)).await.unwrap_or_default()
}

fn look(directory: &Path, domains: &[String]) -> Fingerprint {
    let seen = |path: PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    domains
        .iter()
        .flat_map(|domain| ["crt", "key"].map(|ending| seen(file(directory, domain, ending))))
        .collect()
}

fn file(directory: &Path, domain: &str, ending: &str) -> PathBuf {
    directory.join(format!("{domain}.{ending}"))
}

/// Gives the balancer a certificate for every domain.
pub async fn install(data: &DataDir, domains: &[String], balancer: &Balancer) {
    let (directory, domains) = (data.join(DIRECTORY), domains.to_vec());
    let loaded = tokio::task::spawn_blocking(move || certificates(&directory, &domains)).await;
    let certificates = match loaded {
        Ok(certificates) => certificates,
        Err(error) => {
            tracing::error!(%error, "loading certificates failed");
            return;
        }
    };
    if let Err(error) = balancer.set_certificates(certificates) {
        tracing::error!(%error, "the certificates were not taken; the last ones are shown");
    }
}

fn certificates(directory: &Path, domains: &[String]) -> Vec<Certificate> {
    let mut certificates = Vec::new();
    let mut uncovered: BTreeSet<String> = domains.iter().cloned().collect();
    for domain in domains {
        match load(directory, domain) {
            Ok(Some(certificate)) => {
                uncovered.remove(domain);
                certificates.push(certificate);
            }
            Ok(None) => {}
            Err(why) => tracing::error!(domain, why, "a certificate cannot be used"),
        }
    }
    uncovered.insert(FALLBACK.to_owned());
    match self_signed(uncovered.into_iter().collect()) {
        Ok(certificate) => certificates.push(certificate),
        Err(error) => tracing::error!(%error, "no self-signed certificate could be made"),
    }
    certificates
}

fn load(directory: &Path, domain: &str) -> Result<Option<Certificate>, String> {
    let file = |ending: &str| file(directory, domain, ending);
    let Ok(chain) = fs::read(file("crt")) else { return Ok(None) };
    let key =
        fs::read(file("key")).map_err(|error| format!("{}: {error}", file("key").display()))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", file("crt").display()))?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("{}: {error}", file("key").display()))?;
    Ok(Some(Certificate { domains: vec![domain.to_owned()], chain, key }))
}

fn self_signed(domains: Vec<String>) -> Result<Certificate, rcgen::Error> {
    let made = rcgen::generate_simple_self_signed(domains.clone())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(Certificate { domains, chain: vec![made.cert.der().clone()], key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_come_change_or_go_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let domains = ["photos.test".to_owned(), "shop.test".to_owned()];
        let mut seen = vec![look(dir.path(), &domains)];
        let mut differs = |what: &str| {
            let now = look(dir.path(), &domains);
            assert_eq!(now, look(dir.path(), &domains), "{what}");
            assert!(!seen.contains(&now), "{what}");
            seen.push(now);
        };
        let certificate = file(dir.path(), "shop.test", "crt");
        fs::write(&certificate, "one").unwrap();
        differs("a new file");
        fs::write(&certificate, "longer").unwrap();
        differs("another length");
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        let opened = fs::File::options().write(true).open(&certificate).unwrap();
        opened.set_modified(later).unwrap();
        differs("another time");
        fs::rename(&certificate, file(dir.path(), "photos.test", "crt")).unwrap();
        differs("another domain");
        fs::remove_file(file(dir.path(), "photos.test", "crt")).unwrap();
        assert_eq!(look(dir.path(), &domains), seen[0]);
    }
}

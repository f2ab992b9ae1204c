use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::authority::CertificateAuthority;

const NOW_MS: u64 = 1_800_000_000_000;

fn signed(ca: &CertificateAuthority, key: &KeyPair, node: NodeId) -> NodeIdentity {
    let csr = key.to_csr().unwrap();
    let certificate = ca.sign(&csr, node, "east", Duration::from_secs(60), NOW_MS).unwrap();
    NodeIdentity::new(key, certificate, ca.certificate_der().to_vec()).unwrap()
}

#[test]
fn a_certificate_names_its_node_and_is_backdated_by_five_minutes() {
    let ca = CertificateAuthority::create(ClusterId(7)).unwrap();
    let identity = signed(&ca, &KeyPair::generate().unwrap(), NodeId(9));
    let expected = PeerIdentity { cluster: ClusterId(7), node: NodeId(9), dc: "east".into() };
    assert_eq!(identity.peer(), expected);
    assert_eq!(PeerIdentity::from_certificate(identity.certificate()).unwrap(), expected);
    assert_eq!(identity.not_before_ms(), NOW_MS - 300_000);
    assert_eq!(identity.not_after_ms(), NOW_MS + 60_000);
    assert_eq!(identity.ca_hash(), ca.hash());
}

#[test]
fn an_identity_is_replaced_as_a_whole_and_only_its_owner_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::create(ClusterId(7)).unwrap();
    assert!(!NodeIdentity::exists(dir.path()));
    for node in [NodeId(1), NodeId(2)] {
        signed(&ca, &KeyPair::generate().unwrap(), node).store(dir.path()).unwrap();
        assert_eq!(NodeIdentity::load(dir.path()).unwrap().peer().node, node);
    }
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 1, "a temporary file was left behind");
    assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_interrupted_join_continues_with_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = KeyPair::load_or_create(dir.path()).unwrap();
    let second = KeyPair::load_or_create(dir.path()).unwrap();
    assert_eq!(first.public_key(), second.public_key());
    assert_eq!(csr_public_key(&second.to_csr().unwrap()).unwrap(), first.public_key());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let ca = CertificateAuthority::create(ClusterId(7)).unwrap();
    let other_ca = CertificateAuthority::create(ClusterId(7)).unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = key.to_csr().unwrap();
    let certificate = ca.sign(&csr, NodeId(1), "east", Duration::from_secs(60), NOW_MS).unwrap();
    let other_key = KeyPair::generate().unwrap();
    let authority = ca.certificate_der().to_vec();
    assert!(NodeIdentity::new(&other_key, certificate.clone(), authority.clone()).is_err());
    let other_authority = other_ca.certificate_der().to_vec();
    assert!(NodeIdentity::new(&key, certificate.clone(), other_authority).is_err());
    assert!(NodeIdentity::new(&key, authority.clone(), authority).is_err());
}

#[test]
fn uris_of_another_form_are_refused() {
    let good = PeerIdentity { cluster: ClusterId(0xa), node: NodeId(2), dc: "east".into() };
    assert_eq!(PeerIdentity::from_uri(&good.to_string()).unwrap(), good);
    let long = "d".repeat(64);
    let bad = [
        String::new(),
        good.to_string().replace("spiffe", "https"),
        good.to_string().replace("/dc/east", ""),
        good.to_string().replace("east", ""),
        good.to_string().replace("east", "ea st"),
        good.to_string().replace("east", "east/west"),
        good.to_string().replace("east", &long),
        good.to_string().replace("000a", "000A"),
        format!("{good}/more"),
        format!("{good}0"),
    ];
    for uri in bad {
        assert!(PeerIdentity::from_uri(&uri).is_err(), "{uri:?} was accepted");
    }
}

proptest! {
    #[test]
    fn reading_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = PeerIdentity::from_certificate(&bytes);
        let _ = NodeIdentity::from_secret_bytes(&bytes);
        let _ = KeyPair::from_secret_bytes(&bytes);
        let _ = csr_public_key(&bytes);
        let _ = CertificateAuthority::from_secret_bytes(&bytes);
    }

    #[test]
    fn a_damaged_certificate_never_panics(at in 0usize..400, value: u8) {
        let ca = CertificateAuthority::create(ClusterId(7)).unwrap();
        let mut der = ca.certificate_der().to_vec();
        let at = at % der.len();
        der[at] = value;
        let _ = PeerIdentity::from_certificate(&der);
    }
}

//! How apps log in to their databases.
//!
//! A database's password is derived from the cluster's key, so that nobody has to
//! keep it. Every node has the verifier, which does not tell the password, and can
//! so let users in while no voter is alive.

use std::net::SocketAddr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac;
use rung_control_plane::sealed::ClusterKey;
use rung_proto::api::DatabaseUrl;

use crate::node::Node;
use crate::sql_certificate::{self, Shown};

/// What the user of a database logs in with: 43 characters that need no escape in
/// a URL.
pub fn password(key: &ClusterKey, database: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let tag = hmac::sign(&key, format!("database password/{database}").as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(tag)
}

/// What servers check a password against.
pub fn verifier(password: &str) -> String {
    rung_db::ScramVerifier::new(password).to_string()
}

/// The URL of a database for programs that reach it at `address`, and the one whose
/// sessions only read.
pub fn urls(database: &str, password: &str, address: SocketAddr) -> (String, String) {
    let url = format!("postgres://{database}:{password}@{address}/{database}");
    let replica_url = format!("{url}?options=-c%20rung.role%3Dreplica");
    (url, replica_url)
}

/// Everything that a program needs to reach a database through this node.
pub fn access(node: &Node, database: &str, password: &str) -> DatabaseUrl {
    let (url, replica_url) = urls(database, password, node.addresses.sql);
    let remote = node.addresses.sql_private.map(|at| urls(database, password, at));
    let (remote_url, remote_replica_url) = remote.unzip();
    let ca_certificate = match node.sql.shown() {
        Shown::Issued => Some(sql_certificate::pem(node.identity().ca_certificate())),
        Shown::Own | Shown::Nothing => None,
    };
    DatabaseUrl { url, replica_url, remote_url, remote_replica_url, ca_certificate }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_depends_on_the_cluster_and_the_database_and_on_nothing_else() {
        let key = ClusterKey::from_bytes([1; 32]);
        assert_eq!(password(&key, "photos"), password(&key, "photos"));
        assert_ne!(password(&key, "photos"), password(&key, "notes"));
        assert_ne!(password(&key, "photos"), password(&ClusterKey::from_bytes([2; 32]), "photos"));
        assert_eq!(password(&key, "photos").len(), 43);
    }

    #[test]
    fn urls_are_those_that_drivers_read() {
        let (url, replica) = urls("photos", "secret", "127.0.0.11:5432".parse().unwrap());
        assert_eq!(url, "postgres://photos:secret@127.0.0.11:5432/photos");
        assert!(replica.ends_with("?options=-c%20rung.role%3Dreplica"));
    }
}

//! Joining, before there is a certificate.

use std::time::Duration;

use bytes::Bytes;
use rung_proto::Code;
use rung_transport::{JoinError, JoinToken, KeyPair, MAX_JOIN_REQUEST, MeshLimits, join_request};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_has_the_token_gets_an_answer() {
    let cluster = Cluster::new();
    let node = cluster.node(1);
    let token: JoinToken = JoinToken::random(cluster.ca.hash()).to_string().parse().unwrap();
    let seed = node.mesh.local_addr();
    let answer = join_request(seed, token.ca_hash, "let me in".into(), LONG).await;
    assert_eq!(answer.unwrap(), "welcome");
    let refused = join_request(seed, token.ca_hash, "open up".into(), LONG).await;
    let Err(JoinError::Refused(failure)) = refused else {
        panic!("expected a refusal, got {refused:?}");
    };
    assert_eq!(failure.code, Code::TokenInvalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_of_another_cluster_gets_to_see_nothing() {
    let node = Cluster::new().node(1);
    let other = Cluster::new();
    let seed = node.mesh.local_addr();
    let error = join_request(seed, other.ca.hash(), "let me in".into(), LONG).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongCluster(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_whose_certificate_is_out_of_date_is_reported_as_a_matter_of_clocks() {
    let cluster = Cluster::new();
    let key = KeyPair::generate().unwrap();
    let then = now_ms() - 3_600_000;
    let identity = cluster.identity_for(&key, 1, "east", Duration::from_secs(60), then);
    let node = cluster.node_with(1, Setup { identity: Some(identity), ..Setup::default() });
    let seed = node.mesh.local_addr();
    let error = join_request(seed, cluster.ca.hash(), "let me in".into(), LONG).await.unwrap_err();
    assert!(matches!(error, JoinError::Clock(_)), "{error}");
    assert!(error.to_string().contains("clocks"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_seed_and_a_request_too_large_are_told_apart() {
    let cluster = Cluster::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let seed = silent.local_addr().unwrap();
    let short = Duration::from_millis(300);
    let error = join_request(seed, cluster.ca.hash(), Bytes::new(), short).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error}");
    let large = Bytes::from(vec![0; MAX_JOIN_REQUEST + 1]);
    let error = join_request(seed, cluster.ca.hash(), large, short).await.unwrap_err();
    assert!(matches!(error, JoinError::TooLarge { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_are_limited_in_rate_and_peers_are_not_held_up_by_them() {
    let cluster = Cluster::new();
    let limits = MeshLimits { joins_per_second: 0.001, ..MeshLimits::default() };
    let node = cluster.node_with(1, Setup { limits, ..Setup::default() });
    let join = || join_request(node.mesh.local_addr(), cluster.ca.hash(), "let me in".into(), LONG);
    join().await.unwrap();
    let Err(JoinError::Refused(failure)) = join().await else {
        panic!("the second join was not refused");
    };
    assert_eq!(failure.code, Code::Overloaded);
    let peer = cluster.node(2);
    peer.knows(&node);
    peer.echo(&node).await.unwrap();
}

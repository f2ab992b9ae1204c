//! Peers that are gone, cut off, restarted, or not who they should be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_proto::{Incarnation, NodeId};
use rung_transport::{CallError, Lane, LinkShape, MeshLimits, StreamKind};

use crate::support::*;

const SHORT: Duration = Duration::from_millis(300);

fn unreachable_because(result: Result<Bytes, CallError>) -> String {
    match result {
        Err(error @ CallError::Unreachable(_)) => {
            assert!(!error.outcome_unknown());
            error.to_string()
        }
        other => panic!("expected that nothing was sent, got {other:?}"),
    }
}

/// Calls until it works.
async fn eventually_answers(a: &Node, b: NodeId) {
    let until = Instant::now() + LONG;
    loop {
        let result = a.mesh.call(b, Lane::Calls, ECHO, "again".into(), SHORT).await;
        match result {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < until, "it never answered: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_an_address_is_unknown() {
    let a = Cluster::new().node(1);
    let nobody = NodeId(9);
    let call = a.mesh.call(nobody, Lane::Calls, ECHO, Bytes::new(), LONG).await;
    assert_eq!(call, Err(CallError::UnknownPeer));
    assert_eq!(a.mesh.post(nobody, Lane::Calls, ECHO, Bytes::new()), Err(CallError::UnknownPeer));
    let stream = a.mesh.open_stream(nobody, StreamKind(1), Bytes::new(), LONG).await;
    assert_eq!(stream.unwrap_err(), CallError::UnknownPeer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_listens_the_caller_knows_that_nothing_was_sent() {
    let cluster = Cluster::new();
    let limits = MeshLimits { connect_timeout: SHORT, ..MeshLimits::default() };
    let a = cluster.node_with(1, Setup { limits, ..Setup::default() });
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.mesh.set_peer(NodeId(2), silent.local_addr().unwrap());
    let ask = |deadline| a.mesh.call(NodeId(2), Lane::Calls, ECHO, Bytes::new(), deadline);
    let why = unreachable_because(ask(LONG).await);
    assert!(why.contains("no answer"), "{why}");
    unreachable_because(ask(Duration::from_millis(20)).await);
    let stream = a.mesh.open_stream(NodeId(2), StreamKind(1), Bytes::new(), LONG).await;
    assert!(matches!(stream, Err(CallError::Unreachable(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_may_not_talk_is_refused_on_both_sides() {
    let cluster = Cluster::new();
    let refuses: Arc<std::sync::Mutex<Vec<NodeId>>> = Arc::default();
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { refuses: refuses.clone(), ..Setup::default() });
    refuses.lock().unwrap().push(a.id);
    a.knows(&b);
    let why = unreachable_because(a.echo(&b).await);
    assert!(why.contains("refused us") && why.contains("removed"), "{why}");
    eventually("the refusal is counted", || b.mesh.counters().connections_refused >= 1).await;
    b.knows(&a);
    let why = unreachable_because(b.echo(&a).await);
    assert!(why.contains("removed"), "{why}");
    // It may talk again as soon as it is let in.
    refuses.lock().unwrap().clear();
    eventually_answers(&a, b.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_at_the_address_of_another_is_not_taken_for_it() {
    let cluster = Cluster::new();
    let (a, y) = (cluster.node(1), cluster.node(2));
    let x = NodeId(3);
    a.mesh.set_peer(x, y.mesh.local_addr());
    let why = unreachable_because(a.mesh.call(x, Lane::Calls, ECHO, Bytes::new(), LONG).await);
    assert!(why.contains("not valid for name"), "{why}");
    assert_eq!(y.seen.started.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_different_authorities_do_not_talk() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (a, b) = (ours.node(1), theirs.node(2));
    a.knows(&b);
    let why = unreachable_because(a.echo(&b).await);
    assert!(why.contains("invalid peer certificate"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_way_end_when_the_peer_shuts_down_and_its_loss_is_hinted() {
    let cluster = Cluster::new();
    let (mut a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let held = a.mesh.call(b.id, Lane::Calls, HELD, Bytes::new(), LONG);
    let closing = async {
        let begun = || b.seen.started.load(std::sync::atomic::Ordering::SeqCst) == 1;
        eventually("the call began", begun).await;
        b.mesh.close().await;
    };
    let (result, ()) = tokio::join!(held, closing);
    assert_eq!(result, Err(CallError::ConnectionLost));
    let hint = tokio::time::timeout(LONG, a.closed.recv()).await.unwrap().unwrap();
    assert_eq!(hint.node, b.id);
    assert!(!a.connected_to(&b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_peer_is_disconnected_and_unknown() {
    let cluster = Cluster::new();
    let (a, mut b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    a.echo(&b).await.unwrap();
    a.mesh.remove_peer(b.id);
    assert_eq!(a.echo(&b).await, Err(CallError::UnknownPeer));
    let hint = tokio::time::timeout(LONG, b.closed.recv()).await.unwrap().unwrap();
    assert_eq!(hint.node, a.id);
}

/// Runs a node in a runtime of its own that can be taken away without a word,
/// as `kill -9` does.
struct Killable {
    runtime: tokio::runtime::Runtime,
    node: Node,
}

impl Killable {
    fn start(cluster: &Cluster, setup: Setup) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let node = cluster.node_with(2, setup);
        drop(entered);
        Self { runtime, node }
    }

    async fn kill(self) {
        let Self { runtime, node } = self;
        tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(LONG);
            drop(node);
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_killed_and_restarted_is_found_again_before_any_timeout() {
    let cluster = Cluster::new();
    // Only the reset that the restarted node sends can end the old connection
    // in time. The shorter timeout of the two sides counts, so both have it.
    let limits = MeshLimits { idle_timeout: Duration::from_secs(600), ..MeshLimits::default() };
    let a = cluster.node_with(1, Setup { limits: limits.clone(), ..Setup::default() });
    let identity = Some(cluster.identity(2, "east", HOUR));
    let setup = Setup { identity, limits, ..Setup::default() };
    let b = Killable::start(&cluster, setup.clone());
    let address: SocketAddr = b.node.mesh.local_addr();
    a.mesh.set_peer(NodeId(2), address);
    eventually_answers(&a, NodeId(2)).await;
    b.kill().await;
    let gone = a.mesh.call(NodeId(2), Lane::Calls, ECHO, Bytes::new(), SHORT).await;
    assert!(gone.unwrap_err().outcome_unknown());
    let again = Setup { incarnation: 2, bind: address, ..setup };
    let b = Killable::start(&cluster, again);
    eventually_answers(&a, NodeId(2)).await;
    assert_eq!(a.mesh.peers()[0].incarnation, Some(Incarnation(2)));
    b.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_that_connects_replaces_its_former_connection() {
    let cluster = Cluster::new();
    let limits = MeshLimits { idle_timeout: Duration::from_secs(600), ..MeshLimits::default() };
    let a = cluster.node_with(1, Setup { limits: limits.clone(), ..Setup::default() });
    let b = Killable::start(&cluster, Setup { limits, ..Setup::default() });
    a.mesh.set_peer(NodeId(2), b.node.mesh.local_addr());
    eventually_answers(&a, NodeId(2)).await;
    let held = tokio::spawn({
        let mesh = a.mesh.clone();
        async move { mesh.call(NodeId(2), Lane::Calls, HELD, Bytes::new(), LONG).await }
    });
    let begun = || b.node.seen.started.load(std::sync::atomic::Ordering::SeqCst) == 2;
    eventually("the call began", begun).await;
    b.kill().await;
    // It comes back at another address, and connects to us.
    let b = cluster.node_with(2, Setup { incarnation: 2, ..Setup::default() });
    b.knows(&a);
    b.echo(&a).await.unwrap();
    assert_eq!(held.await.unwrap(), Err(CallError::ConnectionLost));
    // Without an address of its own, `a` uses the connection that it was given.
    a.echo(&b).await.unwrap();
    // What is left of an older start is refused.
    let old = cluster.node_with(2, Setup { incarnation: 1, ..Setup::default() });
    old.knows(&a);
    let why = unreachable_because(old.echo(&a).await);
    assert!(why.contains("older"), "{why}");
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_fails_calls_and_heals() {
    let cluster = Cluster::new();
    let limits = MeshLimits {
        idle_timeout: Duration::from_secs(1),
        keep_alive: Duration::from_millis(200),
        connect_timeout: SHORT,
        ..MeshLimits::default()
    };
    let mut a = cluster.node_with(1, Setup { limits: limits.clone(), ..Setup::default() });
    let b = cluster.node_with(2, Setup { dc: "west", limits, ..Setup::default() });
    a.knows(&b);
    a.echo(&b).await.unwrap();
    a.mesh.shape("west", Some(LinkShape { cut: true, ..LinkShape::default() }));
    let cut = a.mesh.call(b.id, Lane::Calls, ECHO, Bytes::new(), SHORT).await;
    assert_eq!(cut, Err(CallError::Deadline));
    let hint = tokio::time::timeout(LONG, a.closed.recv()).await.unwrap().unwrap();
    assert_eq!(hint.node, b.id);
    let cut = a.mesh.call(b.id, Lane::Calls, ECHO, Bytes::new(), LONG).await;
    assert!(matches!(cut, Err(CallError::Unreachable(_))), "{cut:?}");
    assert!(a.mesh.counters().packets_shaped_away > 0);
    a.mesh.shape("west", None);
    eventually_answers(&a, b.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_lossy_link_delivers_everything_in_order() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { dc: "west", ..Setup::default() });
    a.knows(&b);
    a.mesh.set_peer_dc(b.id, "west");
    let delay = Duration::from_millis(20);
    let shape = LinkShape { delay_ms: 20, loss: 0.1, ..LinkShape::default() };
    a.mesh.shape("west", Some(shape));
    let begun = Instant::now();
    eventually_answers(&a, b.id).await;
    assert!(begun.elapsed() >= delay, "the simulated delay was not applied");
    for number in 0..300u32 {
        let body = Bytes::copy_from_slice(&number.to_be_bytes());
        a.mesh.post(b.id, Lane::Control, NOTE, body).unwrap();
    }
    let all = || b.seen.notes.lock().unwrap().len() == 300;
    eventually("every post arrived", all).await;
    let expected: Vec<Bytes> =
        (0..300u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
    assert_eq!(*b.seen.notes.lock().unwrap(), expected);
}

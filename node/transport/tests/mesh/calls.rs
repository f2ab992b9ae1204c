//! Calls, posts and datagrams between healthy nodes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rung_proto::{Code, Generation, NodeId};
use rung_transport::{CallError, CallRefusal, Lane, MAX_DATAGRAM, MeshLimits};

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_and_the_callee_may_call_back_without_an_address() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    assert_eq!(a.echo(&b).await.unwrap(), "hello");
    // Only `a` knows an address; `b` answers over the connection it was given.
    let back = b.mesh.call(a.id, Lane::Control, ECHO, "back".into(), LONG).await;
    assert_eq!(back.unwrap(), "back");
    let link = a.mesh.peers().pop().unwrap();
    assert_eq!(link.dc.as_deref(), Some("east"));
    assert!(link.bytes_sent > 0 && link.bytes_received > 0 && link.rtt.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_and_calls_of_one_lane_arrive_in_order() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    // The first of them wait for the connection, the later ones go straight.
    for number in 0..200u32 {
        let body = Bytes::copy_from_slice(&number.to_be_bytes());
        if number % 10 == 9 {
            a.mesh.call(b.id, Lane::Control, NOTE, body, LONG).await.unwrap();
        } else {
            a.mesh.post(b.id, Lane::Control, NOTE, body).unwrap();
        }
    }
    let expected: Vec<Bytes> =
        (0..200u32).map(|number| Bytes::copy_from_slice(&number.to_be_bytes())).collect();
    assert_eq!(*b.seen.notes.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_call_and_post_to_itself() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    assert_eq!(a.echo(&a).await.unwrap(), "hello");
    a.mesh.post(a.id, Lane::Control, NOTE, "note".into()).unwrap();
    assert_eq!(*a.seen.notes.lock().unwrap(), ["note"]);
    let short = Duration::from_millis(30);
    let late = a.mesh.call(a.id, Lane::Calls, HELD, Bytes::new(), short).await;
    assert_eq!(late, Err(CallError::Deadline));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_an_answer_ends_at_its_deadline_with_an_unknown_outcome() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    a.echo(&b).await.unwrap();
    let short = Duration::from_millis(100);
    let error = a.mesh.call(b.id, Lane::Calls, HELD, Bytes::new(), short).await.unwrap_err();
    assert_eq!(error, CallError::Deadline);
    assert!(error.outcome_unknown());
    // The handler was dropped at the deadline, so nobody waits to be released.
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_handler_refuses_reaches_the_caller_with_its_code() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let ask = |service| a.mesh.call(b.id, Lane::Calls, service, Bytes::new(), LONG);
    let Err(CallError::Refused(CallRefusal::Failed(failure))) = ask(FAIL).await else {
        panic!("the call was not refused");
    };
    assert_eq!(failure.code, Code::NoQuorum);
    let unknown = ask(999).await;
    assert_eq!(unknown, Err(CallError::Refused(CallRefusal::UnknownService(999))));
    let crashed = ask(PANIC).await.unwrap_err();
    assert!(crashed.outcome_unknown(), "{crashed}");
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handler_holds_up_neither_its_lane_nor_the_other() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.node(1), cluster.node(2));
    a.knows(&b);
    let held = tokio::spawn({
        let (mesh, to) = (a.mesh.clone(), b.id);
        async move { mesh.call(to, Lane::Calls, HELD, "held".into(), LONG).await }
    });
    eventually("the slow call began", || b.seen.started.load(Ordering::SeqCst) == 1).await;
    for lane in Lane::ALL {
        a.mesh.call(b.id, lane, ECHO, Bytes::new(), LONG).await.unwrap();
    }
    b.seen.release.notify_one();
    assert_eq!(held.await.unwrap().unwrap(), "held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_at_a_time_than_allowed_are_refused_as_overload() {
    let cluster = Cluster::new();
    let limits = MeshLimits { max_calls: 2, ..MeshLimits::default() };
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    let hold = || {
        let (mesh, to) = (a.mesh.clone(), b.id);
        tokio::spawn(async move { mesh.call(to, Lane::Calls, HELD, Bytes::new(), LONG).await })
    };
    let held = [hold(), hold()];
    eventually("both calls began", || b.seen.started.load(Ordering::SeqCst) == 2).await;
    let refused = a.echo(&b).await;
    assert_eq!(refused, Err(CallError::Refused(CallRefusal::Overloaded)));
    assert_eq!(b.mesh.counters().calls_refused, 1);
    // The other lane has places of its own.
    a.mesh.call(b.id, Lane::Control, ECHO, Bytes::new(), LONG).await.unwrap();
    b.seen.release.notify_waiters();
    for call in held {
        call.await.unwrap().unwrap();
    }
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_a_frame_is_refused_on_both_ways() {
    let cluster = Cluster::new();
    let limits = MeshLimits { max_frame: 10_000, ..MeshLimits::default() };
    let a = cluster.node_with(1, Setup { limits: limits.clone(), ..Setup::default() });
    let b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    let body = Bytes::from(vec![0; 10_001]);
    let error = a.mesh.call(b.id, Lane::Calls, ECHO, body.clone(), LONG).await.unwrap_err();
    assert_eq!(error, CallError::TooLarge { size: 10_001, limit: 10_000 });
    assert_eq!(a.mesh.post(b.id, Lane::Calls, NOTE, body), Err(error));
    let answer = |size: &'static str| a.mesh.call(b.id, Lane::Calls, LARGE, size.into(), LONG);
    assert_eq!(answer("10000").await.unwrap().len(), 10_000);
    let too_large = CallRefusal::AnswerTooLarge { size: 10_001, limit: 10_000 };
    assert_eq!(answer("10001").await, Err(CallError::Refused(too_large)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_larger_frames_than_ours_is_disconnected() {
    let cluster = Cluster::new();
    let limits = MeshLimits { max_frame: 10_000, ..MeshLimits::default() };
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    let body = Bytes::from(vec![0; 20_000]);
    let error = a.mesh.call(b.id, Lane::Calls, ECHO, body, LONG).await.unwrap_err();
    assert_eq!(error, CallError::ConnectionLost);
    a.echo(&b).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_without_waiting() {
    let cluster = Cluster::new();
    let limits = MeshLimits { queue_bytes: 1000, queue_frames: 3, ..MeshLimits::default() };
    let a = cluster.node_with(1, Setup { limits, ..Setup::default() });
    // Nobody answers at that address; the posts wait for the attempt to fail.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    a.mesh.set_peer(NodeId(2), silent.local_addr().unwrap());
    let post = |size| a.mesh.post(NodeId(2), Lane::Calls, NOTE, vec![0; size].into());
    assert_eq!(post(900), Ok(()));
    assert_eq!(post(200), Err(CallError::QueueFull));
    assert_eq!(post(10), Ok(()));
    assert_eq!(post(10), Ok(()));
    assert_eq!(post(10), Err(CallError::QueueFull));
    eventually("the posts are given up", || a.mesh.peers()[0].posts_dropped == 3).await;
    assert_eq!(post(900), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_connect_on_demand_and_may_be_as_large_as_promised() {
    let cluster = Cluster::new();
    let (a, mut b) = (cluster.node(1), cluster.node(2));
    let body = Bytes::from(vec![7; MAX_DATAGRAM]);
    a.mesh.send_datagram(b.id, b.mesh.local_addr(), body.clone());
    let datagram = tokio::time::timeout(LONG, b.datagrams.recv()).await.unwrap().unwrap();
    assert_eq!(datagram.body, body);
    assert_eq!(datagram.from.node, a.id);
    assert_eq!(datagram.address, a.mesh.local_addr());
    a.mesh.send_datagram(b.id, b.mesh.local_addr(), vec![7; MAX_DATAGRAM + 1].into());
    assert_eq!(a.mesh.peers()[0].datagrams_dropped, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_meets_a_higher_generation_learns_it() {
    let cluster = Cluster::new();
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { generation: 4, ..Setup::default() });
    let c = cluster.node(3);
    let mut seen_by_a = a.mesh.generation_seen();
    assert_eq!(*seen_by_a.borrow_and_update(), Generation(1));
    a.knows(&b);
    a.echo(&b).await.unwrap();
    assert_eq!(*seen_by_a.borrow_and_update(), Generation(4));
    assert_eq!(*b.mesh.generation_seen().borrow(), Generation(4));
    // The one who is connected to learns it as well.
    let mut seen_by_c = c.mesh.generation_seen();
    b.knows(&c);
    b.echo(&c).await.unwrap();
    assert_eq!(*seen_by_c.borrow_and_update(), Generation(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_connect_to_each_other_at_the_same_moment_both_get_through() {
    let cluster = Cluster::new();
    for _ in 0..10 {
        let (a, b) = (cluster.node(1), cluster.node(2));
        a.knows(&b);
        b.knows(&a);
        let both = tokio::join!(a.echo(&b), b.echo(&a));
        assert_eq!(both, (Ok("hello".into()), Ok("hello".into())));
        for _ in 0..20 {
            let both = tokio::join!(a.echo(&b), b.echo(&a));
            assert_eq!(both, (Ok("hello".into()), Ok("hello".into())));
        }
        tokio::join!(a.mesh.close(), b.mesh.close());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_posts_larger_than_the_number_of_places_arrives_whole() {
    let cluster = Cluster::new();
    let limits = MeshLimits { max_calls: 2, ..MeshLimits::default() };
    let a = cluster.node(1);
    let b = cluster.node_with(2, Setup { limits, ..Setup::default() });
    a.knows(&b);
    for _ in 0..1000 {
        a.mesh.post(b.id, Lane::Calls, NOTE, "note".into()).unwrap();
    }
    eventually("every post arrived", || b.seen.notes.lock().unwrap().len() == 1000).await;
}

//! Calls between nodes over real meshes on the loopback.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt;
use rung_proto::{ClusterId, Code, Failure, Generation, Incarnation, NodeId, Role};
use rung_transport::{
    CertificateAuthority, Handlers, KeyPair, MeshConfig, MeshLimits, NodeIdentity,
};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::*;
use crate::inbox::{Inbox, InboxReceiver};
use crate::router::{ActorRouter, Request};
use crate::services::{ServiceTable, service};

const SERVICE: u16 = 3;
const OPTIONS: CallOptions = CallOptions {
    service: SERVICE,
    lane: Lane::Calls,
    deadline: Duration::from_secs(20),
    retry: Retry::Never,
};

fn mesh(authority: &CertificateAuthority, node: u64, services: &Arc<ServiceTable>) -> Mesh {
    let key = KeyPair::generate().unwrap();
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let (request, lifetime) = (key.to_csr().unwrap(), Duration::from_secs(3600));
    let signed = authority.sign(&request, NodeId(node), "east", lifetime, now_ms as u64).unwrap();
    let ca = authority.certificate_der().to_vec();
    let config = MeshConfig {
        bind: "127.0.0.1:0".parse().unwrap(),
        identity: NodeIdentity::new(&key, signed, ca).unwrap(),
        incarnation: Incarnation(4),
        generation: Generation(1),
        authorise: Arc::new(|_| Ok(())),
        limits: MeshLimits::default(),
    };
    let handlers = Handlers {
        call: services.handler(),
        stream: Arc::new(|_, _, _, _| {}),
        datagram: mpsc::channel(1).0,
        join: Arc::new(|_, _| async { Err(Failure::new(Code::TokenInvalid, "no")) }.boxed()),
        closed: mpsc::channel(1).0,
    };
    Mesh::start(config, handlers).unwrap()
}

#[derive(Serialize, Deserialize)]
struct Double {
    number: u64,
}

/// Doubles even numbers and refuses odd ones; drops zeros.
async fn serve(mut inbox: InboxReceiver<Request<Double, u64>>) {
    while let Some(request) = inbox.recv().await {
        let number = request.message.number;
        if number == 0 {
            continue;
        }
        let even = number % 2 == 0;
        let odd = || Failure::new(Code::Precondition, "the number is odd");
        request.answer(if even { Ok(number * 2) } else { Err(odd()) });
    }
}

fn address(name: &str) -> ActorAddress {
    let (node, incarnation) = (NodeId(2), Incarnation(4));
    ActorAddress { node, incarnation, role: Some(Role::Web), name: name.into() }
}

async fn double(mesh: &Mesh, to: &ActorAddress, number: u64) -> Result<u64, RemoteError> {
    call(mesh, to, &Double { number }, OPTIONS).await
}

fn refused(refusal: ActorRefusal) -> Result<u64, RemoteError> {
    Err(RemoteError::Refused(refusal))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn actors_are_called_across_the_mesh_and_refusals_are_precise() {
    let authority = CertificateAuthority::create(ClusterId(1)).unwrap();
    let services = ServiceTable::new();
    let (here, there) = (mesh(&authority, 1, &ServiceTable::new()), mesh(&authority, 2, &services));
    here.set_peer(NodeId(2), there.local_addr());
    let to = address("doubler");

    let unknown = RemoteError::Mesh(CallError::Refused(CallRefusal::UnknownService(SERVICE)));
    assert_eq!(double(&here, &to, 2).await, Err(unknown));

    let router = ActorRouter::new(Incarnation(4));
    services.register(SERVICE, "actors", router.service()).unwrap();
    let taken = services.register(SERVICE, "other", router.service()).unwrap_err();
    assert_eq!((taken.owner, taken.wanted), ("actors", "other"));
    assert_eq!(double(&here, &to, 2).await, refused(ActorRefusal::UnknownActor));

    let inbox = Inbox::new(2);
    router.route(to.role, &to.name, inbox.clone()).unwrap();
    assert!(router.route(to.role, &to.name, inbox.clone()).is_err(), "the address is taken");
    assert_eq!(double(&here, &to, 2).await, refused(ActorRefusal::NotRunning));
    let serving = tokio::spawn(serve(inbox.attach_task()));
    assert_eq!(double(&here, &to, 21 * 2).await, Ok(84));

    let odd = Failure::new(Code::Precondition, "the number is odd");
    assert_eq!(double(&here, &to, 3).await, refused(ActorRefusal::Failed(odd)));
    let dropped = double(&here, &to, 0).await;
    assert!(dropped.as_ref().unwrap_err().outcome_unknown());
    assert_eq!(dropped, refused(ActorRefusal::NoAnswer));

    let old = ActorAddress { incarnation: Incarnation(3), ..to.clone() };
    let (asked, running) = (Incarnation(3), Incarnation(4));
    let wrong = ActorRefusal::WrongIncarnation { asked, running };
    assert_eq!(double(&here, &old, 2).await, refused(wrong));

    let malformed: Result<u64, _> = call(&here, &to, &"not a number", OPTIONS).await;
    assert!(matches!(malformed, Err(RemoteError::Refused(ActorRefusal::Malformed(_)))));
    let misread: Result<String, _> = call(&here, &to, &Double { number: 2 }, OPTIONS).await;
    assert!(matches!(misread, Err(RemoteError::Malformed(_))));

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    let waiting = inbox.attach_task();
    for number in [2, 4] {
        let (here, to) = (here.clone(), to.clone());
        tokio::spawn(async move { double(&here, &to, number).await });
    }
    let filled = async {
        while inbox.depth() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(OPTIONS.deadline, filled).await.expect("both wait in the inbox");
    let full = ActorRefusal::Overloaded { capacity: 2 };
    assert_eq!(double(&here, &to, 2).await, refused(full));

    // An idempotent call gets through as soon as there is room.
    let again = CallOptions { retry: Retry::Idempotent { attempts: 12 }, ..OPTIONS };
    let (from, target) = (here.clone(), to.clone());
    let request = Double { number: 8 };
    let patient = tokio::spawn(async move { call(&from, &target, &request, again).await });
    tokio::spawn(serve(waiting));
    assert_eq!(patient.await.unwrap(), Ok(16));
    here.close().await;
    there.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_deadline_and_is_not_repeated_then() {
    let authority = CertificateAuthority::create(ClusterId(1)).unwrap();
    let services = ServiceTable::new();
    let (here, there) = (mesh(&authority, 1, &ServiceTable::new()), mesh(&authority, 2, &services));
    here.set_peer(NodeId(2), there.local_addr());
    services.register(SERVICE, "silent", service(|_| std::future::pending())).unwrap();
    let options = CallOptions {
        deadline: Duration::from_millis(300),
        retry: Retry::Idempotent { attempts: 5 },
        ..OPTIONS
    };
    let to = address("doubler");
    let silent = call::<_, u64>(&here, &to, &Double { number: 2 }, options).await.unwrap_err();
    assert_eq!(silent, RemoteError::Mesh(CallError::Deadline));
    assert!(silent.outcome_unknown());
    here.close().await;
    there.close().await;
}

#[test]
fn only_transient_errors_of_idempotent_calls_are_repeated_within_bounds() {
    let left = Duration::from_secs(1);
    let idempotent = Retry::Idempotent { attempts: 3 };
    let lost = RemoteError::Mesh(CallError::ConnectionLost);
    let pause = |retry, attempt, left| pause_before_retry(&lost, retry, attempt, left);
    assert_eq!(pause(Retry::Never, 1, left), None);
    assert_eq!(pause(idempotent, 1, left), Some(FIRST_PAUSE));
    assert_eq!(pause(idempotent, 2, left), Some(FIRST_PAUSE * 2));
    assert_eq!(pause(idempotent, 3, left), None);
    assert_eq!(pause(idempotent, 1, FIRST_PAUSE), None);
    let gone = RemoteError::Refused(ActorRefusal::UnknownActor);
    assert_eq!(pause_before_retry(&gone, idempotent, 1, left), None);
}

#[test]
fn what_an_actor_says_of_the_outcome_is_believed() {
    let failed =
        |code| RemoteError::Refused(ActorRefusal::Failed(Failure::new(code, "an actor says so")));
    let said = |error: RemoteError| (error.outcome_unknown(), error.is_overloaded());
    assert_eq!(said(failed(Code::OutcomeUnknown)), (true, false));
    assert_eq!(said(failed(Code::Overloaded)), (false, true));
    assert_eq!(said(failed(Code::Precondition)), (false, false));
    let full = ActorRefusal::Overloaded { capacity: 1 };
    assert_eq!(said(RemoteError::Refused(full)), (false, true));
    assert_eq!(said(RemoteError::Refused(ActorRefusal::NoAnswer)), (true, false));
    let busy = RemoteError::Mesh(CallError::Refused(CallRefusal::Overloaded));
    assert_eq!(said(busy), (false, true));
    assert_eq!(said(RemoteError::Mesh(CallError::Deadline)), (true, false));
}

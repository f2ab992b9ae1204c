//! Actors of a supervisor whose requests wait at a gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rung_proto::{ClusterId, NodeId};
use tokio::sync::Semaphore;

use super::*;
use crate::actors::Actors;
use crate::router::ActorRefusal;
use crate::supervisor::{ChildSpec, Supervisor};

const PATIENCE: Duration = Duration::from_secs(15);
const SERVING: Serving =
    Serving { at_once: 2, least_time: Duration::from_secs(1), finish: PATIENCE };
const PANIC: u64 = 13;

/// Requests that have begun wait at the gate, each for one permit.
struct Gated {
    inbox: Inbox<Request<u64, u64>>,
    actors: Arc<Actors>,
    supervisor: Supervisor,
    gate: Arc<Semaphore>,
    begun: Arc<AtomicUsize>,
}

impl Gated {
    async fn start(capacity: usize) -> Self {
        let actors = Actors::new();
        let inbox = actors.inbox("gated", None, capacity);
        let supervisor = Supervisor::start(Arc::clone(&actors), |_| {}).await.unwrap();
        let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (served, passed, counted) = (inbox.clone(), Arc::clone(&gate), Arc::clone(&begun));
        let spec = ChildSpec::task("gated", move |shutdown| {
            let (gate, begun) = (Arc::clone(&passed), Arc::clone(&counted));
            serve_requests(served.clone(), SERVING, shutdown, move |number, _from| {
                let gate = Arc::clone(&gate);
                begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    gate.acquire().await.expect("the gate is never closed").forget();
                    assert_ne!(number, PANIC, "a panic on purpose");
                    Ok(number * 2)
                }
            })
        });
        supervisor.add(spec).await.unwrap();
        Self { inbox, actors, supervisor, gate, begun }
    }

    /// Asks with so much time, in a task of its own, once the actor runs.
    async fn ask(&self, number: u64, left: Duration) -> Asked {
        loop {
            let (cluster, node) = (ClusterId(1), NodeId(1));
            let from = PeerIdentity { cluster, node, dc: "east".into() };
            let mut asking = Box::pin(self.inbox.ask(number, from, Instant::now() + left));
            match futures_util::poll!(&mut asking) {
                std::task::Poll::Ready(Err(ActorRefusal::NotRunning)) => {}
                std::task::Poll::Ready(answer) => return tokio::spawn(async move { answer }),
                std::task::Poll::Pending => return tokio::spawn(asking),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Until so many have begun and so many wait.
    async fn settled(&self, begun: usize, waiting: u64) {
        let settled = async {
            while (self.begun.load(Ordering::SeqCst), self.inbox.depth()) != (begun, waiting) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let what = format!("{begun} have begun and {waiting} wait");
        tokio::time::timeout(PATIENCE, settled).await.expect(&what);
    }
}

type Asked = tokio::task::JoinHandle<Result<u64, ActorRefusal>>;

fn code_of(answer: Result<u64, ActorRefusal>) -> Code {
    match answer {
        Err(ActorRefusal::Failed(failure)) => failure.code,
        other => panic!("a failure was expected, not {other:?}"),
    }
}

#[tokio::test]
async fn slow_requests_hold_up_nobody_until_there_are_too_many_and_then_more_are_refused() {
    let gated = Gated::start(3).await;
    let mut asked = Vec::new();
    for number in 0..5 {
        asked.push(gated.ask(number, PATIENCE).await);
        let begun = asked.len().min(2);
        gated.settled(begun, (asked.len() - begun) as u64).await;
    }
    let refused = gated.ask(5, PATIENCE).await.await.unwrap();
    assert_eq!(refused, Err(ActorRefusal::Overloaded { capacity: 3 }));
    let status = gated.actors.status().remove(0);
    assert_eq!((status.depth, status.capacity, status.handled), (3, 3, 2));

    // One that ends makes room for the next.
    gated.gate.add_permits(1);
    gated.settled(3, 2).await;
    gated.gate.add_permits(4);
    for (number, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap(), Ok(number as u64 * 2));
    }
    gated.settled(5, 0).await;
}

#[tokio::test]
async fn a_request_that_panics_has_an_unknown_outcome_and_disturbs_no_other() {
    let gated = Gated::start(3).await;
    let (panics, fine) = (gated.ask(PANIC, PATIENCE).await, gated.ask(1, PATIENCE).await);
    gated.settled(2, 0).await;
    gated.gate.add_permits(3);
    assert_eq!(panics.await.unwrap(), Err(ActorRefusal::NoAnswer));
    assert_eq!(fine.await.unwrap(), Ok(2));
    assert_eq!(gated.ask(2, PATIENCE).await.await.unwrap(), Ok(4));
    assert_eq!(gated.actors.status().remove(0).restarts, 0);
}

#[tokio::test]
async fn what_has_waited_too_long_or_is_not_wanted_any_more_is_not_begun() {
    let gated = Gated::start(3).await;
    let late = gated.ask(1, SERVING.least_time / 2).await;
    assert_eq!(code_of(late.await.unwrap()), Code::Overloaded);
    let running = [gated.ask(1, PATIENCE).await, gated.ask(2, PATIENCE).await];
    gated.settled(2, 0).await;
    let abandoned = gated.ask(3, PATIENCE).await;
    gated.settled(2, 1).await;
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    gated.gate.add_permits(2);
    for running in running {
        running.await.unwrap().unwrap();
    }
    gated.settled(2, 0).await;
}

#[tokio::test]
async fn an_actor_that_stops_finishes_what_has_begun_and_refuses_what_waits() {
    let gated = Gated::start(3).await;
    let running = [gated.ask(1, PATIENCE).await, gated.ask(2, PATIENCE).await];
    gated.settled(2, 0).await;
    let waiting = gated.ask(3, PATIENCE).await;
    gated.settled(2, 1).await;
    let supervisor = gated.supervisor.clone();
    let stopping = tokio::spawn(async move { supervisor.stop(PATIENCE).await });
    assert_eq!(code_of(waiting.await.unwrap()), Code::Unreachable);
    let from = PeerIdentity { cluster: ClusterId(1), node: NodeId(1), dc: "east".into() };
    let after = gated.inbox.ask(4, from, Instant::now() + PATIENCE);
    assert_eq!(after.await, Err(ActorRefusal::NotRunning));
    gated.gate.add_permits(2);
    for (number, running) in (1..).zip(running) {
        assert_eq!(running.await.unwrap(), Ok(number * 2));
    }
    stopping.await.unwrap();
}

//! Supervisors with real actors and tasks; waiting is always for a condition.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;

use super::*;
use crate::inbox::{Envelope, Inbox};
use crate::restart::{Restart, RestartPolicy};

const PATIENCE: Duration = Duration::from_secs(20);

struct Setting {
    supervisor: Supervisor,
    actors: Arc<Actors>,
    events: mpsc::UnboundedReceiver<SupervisorEvent>,
}

impl Setting {
    async fn new() -> Self {
        let actors = Actors::new();
        let (sender, events) = mpsc::unbounded_channel();
        let on_event = move |event| {
            // The receiver ends with the test.
            let _ = sender.send(event);
        };
        let supervisor = Supervisor::start(actors.clone(), on_event).await.unwrap();
        Self { supervisor, actors, events }
    }

    async fn event(&mut self) -> SupervisorEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap()
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn quick(intensity: u32) -> RestartPolicy {
    let min_backoff = Duration::from_millis(1);
    RestartPolicy { min_backoff, intensity, ..RestartPolicy::default() }
}

/// Adds up what it is sent; panics on zero and fails on one.
struct Adder {
    inbox: Inbox<u64>,
    sum: Arc<Mutex<Vec<u64>>>,
}

impl Actor for Adder {
    type Msg = Envelope<u64>;
    type State = u64;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<u64, ActorProcessingErr> {
        self.inbox.attach_actor(myself);
        Ok(0)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        state: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match envelope.open() {
            0 => panic!("a zero"),
            1 => return Err("a one".into()),
            number => *state += number,
        }
        self.sum.lock().unwrap().push(*state);
        Ok(())
    }
}

#[tokio::test]
async fn an_actor_that_panics_is_restarted_and_the_others_never_notice() {
    let mut setting = Setting::new().await;
    let mut adders = Vec::new();
    for name in ["first", "second"] {
        let inbox = setting.actors.inbox(name, Some(Role::Web), 8);
        let sum = Arc::new(Mutex::new(Vec::new()));
        let (to, log) = (inbox.clone(), sum.clone());
        let make = move || (Adder { inbox: to.clone(), sum: log.clone() }, ());
        let spec = ChildSpec::actor(name, make).role(Role::Web).policy(quick(5));
        setting.supervisor.add(spec).await.unwrap();
        until("it runs", || inbox.try_send(10).is_ok()).await;
        until("it handled", || sum.lock().unwrap().len() == 1).await;
        adders.push((inbox, sum));
    }
    let (first, second) = (&adders[0], &adders[1]);

    first.0.try_send(0).unwrap();
    match setting.event().await {
        SupervisorEvent::Restarting { name, role, reason, restarts, .. } => {
            assert_eq!((name.as_str(), role, restarts), ("first", Some(Role::Web), 1));
            assert!(reason.contains("a zero"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    until("it runs again", || first.0.try_send(5).is_ok()).await;
    until("it handled", || first.1.lock().unwrap().last() == Some(&5)).await;
    second.0.try_send(7).unwrap();
    until("the other kept its state", || second.1.lock().unwrap().last() == Some(&17)).await;

    // An error is as good a reason as a panic.
    first.0.try_send(1).unwrap();
    assert!(matches!(setting.event().await, SupervisorEvent::Restarting { restarts: 2, .. }));
    let status = setting.actors.status();
    let of = |name: &str| status.iter().find(|status| status.name == name).unwrap();
    assert_eq!((of("first").restarts, of("second").restarts), (2, 0));
    assert_eq!((of("second").handled, of("second").capacity), (2, 8));
    assert_eq!(of("second").role, Some(Role::Web));
    setting.supervisor.stop(PATIENCE).await;
    assert!(second.0.try_send(2).is_err(), "the actors are gone");
    assert!(setting.actors.status().is_empty());
}

#[tokio::test]
async fn a_task_that_keeps_crashing_is_given_up_and_reported() {
    let mut setting = Setting::new().await;
    let lives = Arc::new(AtomicU32::new(0));
    let counted = lives.clone();
    let spec = ChildSpec::task("crasher", move |_| {
        let life = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if life.is_multiple_of(2) {
                panic!("in life {life}");
            }
            Err("it cannot go on".into())
        }
    });
    setting.supervisor.add(spec.role(Role::Dns).policy(quick(3))).await.unwrap();
    for expected in 1..=3 {
        match setting.event().await {
            SupervisorEvent::Restarting { restarts, .. } => assert_eq!(restarts, expected),
            other => panic!("{other:?}"),
        }
    }
    let gave_up = SupervisorEvent::GaveUp {
        name: "crasher".into(),
        role: Some(Role::Dns),
        reason: "it cannot go on".into(),
    };
    assert_eq!(setting.event().await, gave_up);
    assert_eq!(lives.load(Ordering::SeqCst), 4);
    assert!(setting.actors.status().is_empty());
    // Its name is free again.
    let spec = ChildSpec::task("crasher", |mut shutdown| async move {
        shutdown.requested().await;
        Ok(())
    });
    setting.supervisor.add(spec).await.unwrap();
    setting.supervisor.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_panic_while_starting_counts_as_a_crash() {
    struct NeverStarts;
    impl Actor for NeverStarts {
        type Msg = ();
        type State = ();
        type Arguments = ();
        async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
            panic!("not ready");
        }
    }
    let mut setting = Setting::new().await;
    let spec = ChildSpec::actor("never", || (NeverStarts, ())).policy(quick(1));
    setting.supervisor.add(spec).await.unwrap();
    assert!(matches!(setting.event().await, SupervisorEvent::Restarting { .. }));
    match setting.event().await {
        SupervisorEvent::GaveUp { reason, .. } => assert!(reason.contains("not ready"), "{reason}"),
        other => panic!("{other:?}"),
    }
    let spec = ChildSpec::task("factory", |_| -> std::future::Ready<TaskResult> {
        panic!("the factory itself")
    });
    setting.supervisor.add(spec.policy(quick(0))).await.unwrap();
    match setting.event().await {
        SupervisorEvent::GaveUp { reason, .. } => assert!(reason.contains("the factory itself")),
        other => panic!("{other:?}"),
    }
    setting.supervisor.stop(PATIENCE).await;
}

#[tokio::test]
async fn an_orderly_end_is_final_where_the_policy_says_so() {
    let mut setting = Setting::new().await;
    let policy = RestartPolicy { restart: Restart::OnFailure, ..quick(3) };
    let spec = ChildSpec::task("once", |_| async { Ok(()) }).policy(policy);
    setting.supervisor.add(spec).await.unwrap();
    let finished = SupervisorEvent::Finished { name: "once".into(), role: None };
    assert_eq!(setting.event().await, finished);
    setting.supervisor.stop(PATIENCE).await;
}

#[tokio::test]
async fn children_stop_in_order_the_youngest_first_and_names_are_unique() {
    let setting = Setting::new().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let started = Arc::new(AtomicU32::new(0));
    for name in ["old", "young"] {
        let (order, started) = (order.clone(), started.clone());
        let spec = ChildSpec::task(name, move |mut shutdown| {
            let (order, started) = (order.clone(), started.clone());
            async move {
                started.fetch_add(1, Ordering::SeqCst);
                shutdown.requested().await;
                order.lock().unwrap().push(name);
                Ok(())
            }
        });
        setting.supervisor.add(spec.clone()).await.unwrap();
        let taken = Err(AddError::NameTaken(name.into()));
        assert_eq!(setting.supervisor.add(spec).await, taken);
    }
    until("both run", || started.load(Ordering::SeqCst) == 2).await;
    setting.supervisor.stop(PATIENCE).await;
    assert_eq!(*order.lock().unwrap(), ["young", "old"]);
    let spec = ChildSpec::task("late", |_| async { Ok(()) });
    assert_eq!(setting.supervisor.add(spec).await, Err(AddError::Gone(SupervisorGone)));
}

#[tokio::test]
async fn a_child_that_does_not_stop_is_aborted_and_not_restarted() {
    let mut setting = Setting::new().await;
    let alive = Arc::new(());
    let (held, started) = (alive.clone(), Arc::new(AtomicU32::new(0)));
    let counted = started.clone();
    let spec = ChildSpec::task("stubborn", move |_| {
        let held = held.clone();
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(())
        }
    });
    setting.supervisor.add(spec).await.unwrap();
    until("it runs", || started.load(Ordering::SeqCst) == 1 && Arc::strong_count(&alive) == 3)
        .await;
    assert_eq!(setting.supervisor.remove("nobody", PATIENCE).await, Ok(false));
    assert_eq!(setting.supervisor.remove("stubborn", Duration::from_millis(5)).await, Ok(true));
    until("its future is dropped", || Arc::strong_count(&alive) == 1).await;
    assert_eq!(started.load(Ordering::SeqCst), 1);
    assert!(setting.events.try_recv().is_err(), "being removed is no event");
    setting.supervisor.stop(PATIENCE).await;
}

#[tokio::test]
async fn a_crashed_child_is_restarted_while_another_is_slow_to_stop() {
    let setting = Setting::new().await;
    let (started, crash) = (Arc::new(AtomicU32::new(0)), Arc::new(tokio::sync::Notify::new()));
    let (counted, told) = (started.clone(), crash.clone());
    let spec = ChildSpec::task("crashing", move |mut shutdown| {
        counted.fetch_add(1, Ordering::SeqCst);
        let told = told.clone();
        async move {
            tokio::select! {
                () = told.notified() => Err("it was told to".into()),
                () = shutdown.requested() => Ok(()),
            }
        }
    });
    setting.supervisor.add(spec.policy(quick(5))).await.unwrap();
    // The steps of the other: it runs, it is asked to stop, it may.
    let steps = tokio::sync::watch::Sender::new(0);
    let own = steps.clone();
    let spec = ChildSpec::task("slow", move |mut shutdown| {
        let steps = own.clone();
        async move {
            steps.send_replace(1);
            shutdown.requested().await;
            steps.send_replace(2);
            steps.subscribe().wait_for(|step| *step == 3).await?;
            Ok(())
        }
    });
    setting.supervisor.add(spec).await.unwrap();
    until("both run", || started.load(Ordering::SeqCst) == 1 && *steps.borrow() == 1).await;
    let supervisor = setting.supervisor.clone();
    let removal = tokio::spawn(async move { supervisor.remove("slow", PATIENCE).await });
    until("the second is asked to stop", || *steps.borrow() == 2).await;
    crash.notify_one();
    until("the first is restarted", || started.load(Ordering::SeqCst) == 2).await;
    assert!(!removal.is_finished());
    steps.send_replace(3);
    assert_eq!(removal.await.unwrap(), Ok(true));
    setting.supervisor.stop(PATIENCE).await;
}

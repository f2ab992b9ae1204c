//! What a child is and how one life of it begins and ends.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId};
use rung_proto::Role;
use tokio::sync::watch;

use super::task::{FollowedTask, Shutdown, TaskHandle, TaskResult, panic_text};
use crate::restart::{RestartHistory, RestartPolicy};

type Starting = BoxFuture<'static, Result<Started, String>>;
type Start = Arc<dyn Fn(ActorCell, Shutdown) -> Starting + Send + Sync>;

/// How to start a child, each time anew.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) name: String,
    pub(super) role: Option<Role>,
    pub(super) policy: RestartPolicy,
    start: Start,
}

impl ChildSpec {
    /// A child that is a ractor actor. `make` gives each life its handler and
    /// arguments.
    pub fn actor<A: Actor>(
        name: impl Into<String>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> Self {
        let make = Arc::new(make);
        Self::new(name.into(), move |supervisor, _| {
            let make = make.clone();
            async move {
                let (handler, arguments) = make();
                let started = Actor::spawn_linked(None, handler, arguments, supervisor).await;
                let (actor, _ended) = started.map_err(|error| error.to_string())?;
                Ok(Started::Actor(actor.get_cell()))
            }
            .boxed()
        })
    }

    /// A child that is an async task. It should end soon after `Shutdown` is
    /// requested.
    pub fn task<F>(
        name: impl Into<String>,
        make: impl Fn(Shutdown) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = TaskResult> + Send + 'static,
    {
        let make = Arc::new(make);
        Self::new(name.into(), move |_, shutdown| {
            let make = make.clone();
            async move { Ok(Started::Task(TaskHandle::spawn(make(shutdown)))) }.boxed()
        })
    }

    /// The role that the child serves; it is named in events.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// How it is restarted, if not as by [`RestartPolicy::default`].
    #[must_use]
    pub fn policy(mut self, policy: RestartPolicy) -> Self {
        self.policy = policy;
        self
    }

    fn new(
        name: String,
        start: impl Fn(ActorCell, Shutdown) -> Starting + Send + Sync + 'static,
    ) -> Self {
        Self { name, role: None, policy: RestartPolicy::default(), start: Arc::new(start) }
    }
}

/// A life that has begun.
pub(super) enum Started {
    Actor(ActorCell),
    Task(TaskHandle),
}

pub(super) enum Running {
    Nothing,
    Starting,
    Actor(ActorCell),
    Task(FollowedTask),
}

impl Running {
    pub(super) fn is_actor(&self, id: ActorId) -> bool {
        matches!(self, Running::Actor(actor) if actor.get_id() == id)
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self, Running::Starting)
    }
}

pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) history: RestartHistory,
    pub(super) restarts: u32,
    /// Which life this is; news of former ones is ignored.
    pub(super) life: u64,
    pub(super) running: Running,
    shutdown: watch::Sender<bool>,
}

impl Child {
    pub(super) fn new(spec: ChildSpec) -> Self {
        Self {
            spec,
            history: RestartHistory::default(),
            restarts: 0,
            life: 0,
            running: Running::Nothing,
            shutdown: watch::Sender::new(false),
        }
    }

    /// The next life, and what brings it about. A panic in there is an error.
    pub(super) fn begin(&mut self, supervisor: ActorCell) -> (u64, Starting) {
        self.life += 1;
        self.running = Running::Starting;
        let (start, shutdown) = (self.spec.start.clone(), Shutdown::new(self.shutdown.subscribe()));
        let starting = async move {
            let start = async move { start(supervisor, shutdown).await };
            let result = AssertUnwindSafe(start).catch_unwind().await;
            result.unwrap_or_else(|panic| Err(panic_text(panic.as_ref())))
        };
        (self.life, starting.boxed())
    }

    /// Ends the child, in order if it can within `patience`.
    pub(super) async fn stop(self, patience: Duration) {
        self.shutdown.send_replace(true);
        match self.running {
            // Whoever starts it learns that it is no longer wanted.
            Running::Nothing | Running::Starting => {}
            Running::Actor(actor) => {
                if actor.stop_and_wait(None, Some(patience)).await.is_err() {
                    tracing::warn!(actor = %self.spec.name, ?patience, "did not stop, killed");
                    actor.kill();
                }
            }
            Running::Task(task) => {
                if !task.wait(patience).await {
                    tracing::warn!(actor = %self.spec.name, ?patience, "did not stop, aborted");
                }
            }
        }
    }
}

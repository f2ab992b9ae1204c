//! One for one supervision: a child that crashes is restarted, the others never
//! notice.

mod child;
mod task;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{
    Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, MessagingErr, SupervisionEvent,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::actors::Actors;
use crate::restart::{Decision, Exit};
use child::{Child, Running, Started};
use rung_proto::Role;

pub use child::ChildSpec;
pub use task::{Shutdown, TaskResult};

/// The most children of one supervisor.
const MAX_CHILDREN: usize = 4096;

/// What happened to a child.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SupervisorEvent {
    /// It ended and will be started again after a time.
    Restarting { name: String, role: Option<Role>, reason: String, after: Duration, restarts: u32 },
    /// It ended in order and is not wanted again.
    Finished { name: String, role: Option<Role> },
    /// It crashed too often and is not started again.
    GaveUp { name: String, role: Option<Role>, reason: String },
}

/// Why a child was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    #[error("there is a child named {0:?} already; names are unique within a supervisor")]
    NameTaken(String),
    #[error("a supervisor has at most {MAX_CHILDREN} children")]
    TooMany,
    #[error(transparent)]
    Gone(#[from] SupervisorGone),
}

/// The supervisor was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the supervisor has ended")]
pub struct SupervisorGone;

type OnEvent = Arc<dyn Fn(SupervisorEvent) + Send + Sync>;

/// Runs children and restarts them. Clones are the same supervisor; it lives
/// until [`Supervisor::stop`].
#[derive(Clone)]
pub struct Supervisor {
    actor: ActorRef<Command>,
}

impl Supervisor {
    /// Starts a supervisor without children. `on_event` must not block.
    ///
    /// # Errors
    /// When ractor cannot start an actor.
    pub async fn start(
        actors: Arc<Actors>,
        on_event: impl Fn(SupervisorEvent) + Send + Sync + 'static,
    ) -> Result<Self, ractor::SpawnErr> {
        let setup = Setup { actors, on_event: Arc::new(on_event) };
        // No name: ractor's names are global to the process, and a test may run
        // several nodes in one.
        let (actor, _ended) = Actor::spawn(None, SupervisorActor, setup).await?;
        Ok(Self { actor })
    }

    /// Adds a child and begins to start it.
    ///
    /// # Errors
    /// When its name is taken, there are too many, or the supervisor has ended.
    pub async fn add(&self, spec: ChildSpec) -> Result<(), AddError> {
        self.ask(|reply| Command::Add(Box::new(spec), reply)).await?
    }

    /// Stops a child and forgets it; false if there is none of that name. After
    /// `patience` it is aborted.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub async fn remove(&self, name: &str, patience: Duration) -> Result<bool, SupervisorGone> {
        self.ask(|reply| Command::Remove(name.to_owned(), patience, reply)).await
    }

    /// Stops all children, the youngest first, each in order if it can within
    /// `patience` for all together, and then the supervisor.
    pub async fn stop(&self, patience: Duration) {
        // If it has ended, that is what was wanted.
        let _ = self.ask(|reply| Command::Stop(patience, reply)).await;
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, SupervisorGone> {
        let (reply, answer) = oneshot::channel();
        self.actor.send_message(command(reply)).map_err(|_| SupervisorGone)?;
        answer.await.map_err(|_| SupervisorGone)
    }
}

type ChildId = u64;

enum Command {
    Add(Box<ChildSpec>, oneshot::Sender<Result<(), AddError>>),
    Remove(String, Duration, oneshot::Sender<bool>),
    Stop(Duration, oneshot::Sender<()>),
    Started { child: ChildId, life: u64, result: Result<Started, String> },
    TaskEnded { child: ChildId, life: u64, exit: Exit },
    Restart { child: ChildId, life: u64 },
}

struct Setup {
    actors: Arc<Actors>,
    on_event: OnEvent,
}

struct SupervisorActor;

struct State {
    setup: Setup,
    myself: ActorRef<Command>,
    began: Instant,
    next: ChildId,
    children: BTreeMap<ChildId, Child>,
    /// Removed children that are being stopped.
    stopping: Vec<JoinHandle<()>>,
    /// Actors that ended before we were told that they started.
    ended_early: BTreeMap<ActorId, Exit>,
}

impl Actor for SupervisorActor {
    type Msg = Command;
    type State = State;
    type Arguments = Setup;

    async fn pre_start(
        &self,
        myself: ActorRef<Command>,
        setup: Setup,
    ) -> Result<State, ActorProcessingErr> {
        let (children, ended_early) = (BTreeMap::new(), BTreeMap::new());
        let stopping = Vec::new();
        Ok(State { setup, myself, began: Instant::now(), next: 0, children, stopping, ended_early })
    }

    async fn handle(
        &self,
        myself: ActorRef<Command>,
        command: Command,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match command {
            // Who asked may have stopped waiting; that changes nothing.
            Command::Add(spec, reply) => {
                let _ = reply.send(state.add(*spec));
            }
            Command::Remove(name, patience, reply) => {
                state.remove(&name, patience, reply);
            }
            Command::Stop(patience, reply) => {
                state.stop_all(patience).await;
                myself.stop(None);
                let _ = reply.send(());
            }
            Command::Started { child, life, result } => state.started(child, life, result),
            Command::TaskEnded { child, life, exit } => state.ended(child, life, exit),
            Command::Restart { child, life } => state.restart(child, life),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Command>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(actor, error) => {
                state.actor_ended(&actor, Exit::Failed(error.to_string()));
            }
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                state.actor_ended(&actor, Exit::Finished);
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl State {
    fn add(&mut self, spec: ChildSpec) -> Result<(), AddError> {
        if self.children.values().any(|child| child.spec.name == spec.name) {
            return Err(AddError::NameTaken(spec.name));
        }
        if self.children.len() >= MAX_CHILDREN {
            return Err(AddError::TooMany);
        }
        self.next += 1;
        self.setup.actors.started(&spec.name, spec.role, 0);
        self.children.insert(self.next, Child::new(spec));
        self.begin(self.next);
        Ok(())
    }

    /// Starting may take long, so it happens in a task of its own.
    fn begin(&mut self, id: ChildId) {
        let Some(child) = self.children.get_mut(&id) else { return };
        let (life, starting) = child.begin(self.myself.get_cell());
        let myself = self.myself.clone();
        tokio::spawn(async move {
            let result = starting.await;
            let started = Command::Started { child: id, life, result };
            // A supervisor that has ended wants no children; tasks end when they
            // are dropped.
            if let Err(MessagingErr::SendErr(Command::Started { result, .. })) =
                myself.send_message(started)
                && let Ok(Started::Actor(actor)) = result
            {
                actor.stop(None);
            }
        });
    }

    fn started(&mut self, id: ChildId, life: u64, result: Result<Started, String>) {
        let current = self.children.get_mut(&id).filter(|child| child.life == life);
        let Some(child) = current else {
            // It was removed meanwhile.
            if let Ok(Started::Actor(actor)) = result {
                self.ended_early.remove(&actor.get_id());
                actor.stop(None);
            }
            return;
        };
        match result {
            Err(reason) => self.ended(id, life, Exit::Failed(reason)),
            Ok(Started::Actor(actor)) => {
                child.running = Running::Actor(actor.clone());
                if let Some(exit) = self.ended_early.remove(&actor.get_id()) {
                    self.ended(id, life, exit);
                }
            }
            Ok(Started::Task(task)) => {
                let myself = self.myself.clone();
                child.running = Running::Task(task.follow(move |exit| {
                    // A supervisor that has ended does not care.
                    let _ = myself.send_message(Command::TaskEnded { child: id, life, exit });
                }));
            }
        }
    }

    fn actor_ended(&mut self, actor: &ActorCell, exit: Exit) {
        let id = actor.get_id();
        let child = self.children.iter().find(|(_, child)| child.running.is_actor(id));
        match child.map(|(child_id, child)| (*child_id, child.life)) {
            Some((child, life)) => self.ended(child, life, exit),
            None if self.children.values().any(|child| child.running.is_starting()) => {
                self.ended_early.insert(id, exit);
            }
            None => {}
        }
    }

    fn ended(&mut self, id: ChildId, life: u64, exit: Exit) {
        let now = self.began.elapsed();
        let Some(child) = self.children.get_mut(&id).filter(|child| child.life == life) else {
            return;
        };
        let (name, role) = (child.spec.name.clone(), child.spec.role);
        let reason = match &exit {
            Exit::Finished => "it finished".to_owned(),
            Exit::Failed(reason) => reason.clone(),
        };
        child.running = Running::Nothing;
        let policy = child.spec.policy;
        match child.history.decide(&policy, now, &exit, rand::random()) {
            Decision::Restart { after } => {
                child.restarts = child.restarts.saturating_add(1);
                let restarts = child.restarts;
                tracing::warn!(actor = %name, ?role, %reason, ?after, restarts, "restarting");
                self.setup.actors.started(&name, role, restarts);
                let myself = self.myself.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    // As above.
                    let _ = myself.send_message(Command::Restart { child: id, life });
                });
                self.tell(SupervisorEvent::Restarting { name, role, reason, after, restarts });
            }
            Decision::GiveUp => {
                tracing::error!(
                    actor = %name, ?role, %reason, intensity = policy.intensity,
                    window = ?policy.window, "crashed too often, it is not restarted again"
                );
                self.forget(id);
                self.tell(SupervisorEvent::GaveUp { name, role, reason });
            }
            Decision::Finish => {
                tracing::info!(actor = %name, ?role, %reason, "ended");
                self.forget(id);
                self.tell(SupervisorEvent::Finished { name, role });
            }
        }
    }

    fn tell(&self, event: SupervisorEvent) {
        (self.setup.on_event)(event);
    }

    fn restart(&mut self, id: ChildId, life: u64) {
        if self.children.get(&id).is_some_and(|child| child.life == life) {
            self.begin(id);
        }
    }

    fn forget(&mut self, id: ChildId) {
        if let Some(child) = self.children.remove(&id) {
            self.setup.actors.remove(&child.spec.name);
        }
    }

    /// The child stops in a task of its own, so that meanwhile others are
    /// restarted. Who asked may have stopped waiting; that changes nothing.
    fn remove(&mut self, name: &str, patience: Duration, reply: oneshot::Sender<bool>) {
        let found = self.children.iter().find(|(_, child)| child.spec.name == name);
        let id = found.map(|(id, _)| *id);
        let Some(child) = id.and_then(|id| self.children.remove(&id)) else {
            let _ = reply.send(false);
            return;
        };
        self.setup.actors.remove(&child.spec.name);
        self.stopping.retain(|stopping| !stopping.is_finished());
        self.stopping.push(tokio::spawn(async move {
            child.stop(patience).await;
            let _ = reply.send(true);
        }));
    }

    async fn stop_all(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while let Some((_, child)) = self.children.pop_last() {
            self.setup.actors.remove(&child.spec.name);
            child.stop(deadline.saturating_duration_since(Instant::now())).await;
        }
        // Those that were removed before have deadlines of their own, perhaps
        // later ones. Aborting drops the child, and a task with it.
        for mut stopping in self.stopping.drain(..) {
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, &mut stopping).await.is_err() {
                stopping.abort();
            }
        }
    }
}

#[cfg(test)]
mod tests;

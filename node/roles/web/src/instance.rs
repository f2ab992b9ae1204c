//! One instance: drives its [`Lifecycle`] with real processes, checks and clocks.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use rung_bundle::Manifest;
use rung_proto::soft::{InstanceState, InstanceStatus};
use rung_proto::{Digest, InstanceId};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::gate::{Door, Gate};
use crate::health;
use crate::launch::{LAST_WORDS, Launch, Running, capture};
use crate::lifecycle::{Action, Event, Lifecycle, Millis};
use crate::logs::{self, AppLog, LastLines, LogLine, Source};
use crate::process::{session_gone, signal_session};
use crate::procfs;
use crate::role::Shared;

/// An instance that this node is to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceSpec {
    pub id: InstanceId,
    pub app: String,
    pub release: u32,
    pub digest: Digest,
    pub manifest: Manifest,
    /// The app's variables and secrets from outside its manifest; they win over
    /// those in the manifest.
    pub env: BTreeMap<String, String>,
    /// Whether it is to take nothing new, finish, and stop.
    pub drain: bool,
}

/// Of so many checks of a healthy instance, one looks where it listens.
const LISTENER_CHECK_EVERY: u32 = 10;

/// What an operation in progress ends with.
enum Outcome {
    Event(Event),
    Prepared(Result<PathBuf, String>),
    Launched(Result<Running, String>),
}

type Operation = BoxFuture<'static, Outcome>;

pub(crate) struct Instance {
    shared: Arc<Shared>,
    spec: Arc<InstanceSpec>,
    gate: Arc<Gate>,
    log: Arc<AppLog>,
    last: LastLines,
    lifecycle: Lifecycle,
    started: Instant,
    release_dir: PathBuf,
    running: Option<Running>,
    captures: Vec<JoinHandle<()>>,
    checks: u32,
    /// The operation of the present phase, the health check, and the wait for
    /// the end of the process. Dropping one cancels it.
    work: Option<Operation>,
    check: Option<Operation>,
    exit: Option<Operation>,
    reported: Option<(InstanceState, u64)>,
}

/// Runs an instance until it has stopped. `drain` turns true once.
pub(crate) async fn run(
    shared: Arc<Shared>,
    spec: Arc<InstanceSpec>,
    gate: Arc<Gate>,
    mut drain: watch::Receiver<bool>,
) -> io::Result<()> {
    let log = shared.logs.open(&spec.app)?;
    let mut policy = shared.config.policy.clone();
    policy.drain_timeout = spec.manifest.web.drain_timeout();
    let (mut lifecycle, mut actions) = Lifecycle::new(policy, spec.id.0 ^ shared.config.node.0);
    if *drain.borrow() {
        // Nothing of it runs here after a restart of the node; nothing starts.
        actions = lifecycle.on(Event::Drain, 0);
    }
    let mut instance = Instance {
        shared,
        spec,
        gate,
        log,
        last: LastLines::default(),
        lifecycle,
        started: Instant::now(),
        release_dir: PathBuf::new(),
        running: None,
        captures: Vec::new(),
        checks: 0,
        work: None,
        check: None,
        exit: None,
        reported: None,
    };
    instance.act(actions);
    instance.report();
    let mut draining = false;
    while instance.lifecycle.state() != InstanceState::Stopped {
        let event = tokio::select! {
            outcome = next(&mut instance.exit) => instance.take(outcome),
            outcome = next(&mut instance.work) => instance.take(outcome),
            outcome = next(&mut instance.check) => instance.take(outcome),
            _ = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                Event::Drain
            }
            () = due(instance.lifecycle.deadline(), instance.started) => Event::Tick,
        };
        instance.on(event);
    }
    instance.clean_up();
    instance.shared.tidy(instance.spec.id).await;
    Ok(())
}

async fn next(operation: &mut Option<Operation>) -> Outcome {
    match operation {
        Some(running) => {
            let outcome = running.await;
            *operation = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

async fn due(deadline: Option<Millis>, started: Instant) {
    match deadline {
        Some(at) => {
            let at = started + Duration::from_millis(at);
            tokio::time::sleep_until(at.into()).await;
        }
        None => std::future::pending().await,
    }
}

impl Instance {
    /// Turns an outcome into an event, keeping what belongs to it.
    fn take(&mut self, outcome: Outcome) -> Event {
        match outcome {
            Outcome::Event(Event::Exited(how)) => {
                let session = self.running.as_ref().map_or(0, |running| running.pid);
                let captures = std::mem::take(&mut self.captures);
                let (shared, id) = (Arc::clone(&self.shared), self.spec.id);
                self.exit = Some(Box::pin(async move {
                    session_gone(session).await;
                    // Its last words belong to the problem that is reported. A
                    // pipe that left the session may stay open for ever.
                    let _ = tokio::time::timeout(LAST_WORDS, join_all(captures)).await;
                    shared.tidy(id).await;
                    Outcome::Event(Event::Gone)
                }));
                Event::Exited(how)
            }
            Outcome::Event(event) => event,
            Outcome::Prepared(result) => Event::Prepared(result.map(|dir| self.release_dir = dir)),
            Outcome::Launched(Err(why)) => Event::Launched(Err(why)),
            Outcome::Launched(Ok(mut running)) => {
                if let Some(child) = running.child.take() {
                    self.watch_child(running.pid, child);
                }
                self.running = Some(running);
                Event::Launched(Ok(()))
            }
        }
    }

    fn watch_child(&mut self, pid: u32, mut child: Child) {
        self.captures = capture(&mut child, self.spec.id, &self.log, &self.last);
        self.exit = Some(Box::pin(async move {
            let how = match child.wait().await {
                Ok(status) => format!("process {pid} ended: {status}"),
                Err(error) => format!("process {pid} was lost: {error}"),
            };
            Outcome::Event(Event::Exited(how))
        }));
    }

    fn on(&mut self, event: Event) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let before = self.lifecycle.state();
        if let Event::Exited(how) = &event {
            self.note(how.clone());
        }
        if matches!(event, Event::Checked(Err(_))) {
            self.shared.counters.failed_checks.fetch_add(1, Ordering::Relaxed);
        }
        let gone = event == Event::Gone;
        let actions = self.lifecycle.on(event, now);
        if gone {
            self.clean_up();
        }
        self.set_door();
        self.act(actions);
        if before != self.lifecycle.state() {
            let (app, id) = (&self.spec.app, self.spec.id);
            info!(%app, %id, from = ?before, to = ?self.lifecycle.state(), "instance");
            let problem = self.lifecycle.problem();
            if let Some(problem) = problem {
                warn!(%app, %id, problem, "instance");
            }
        }
        self.report();
    }

    fn set_door(&self) {
        let door = match (self.lifecycle.state(), &self.running) {
            (InstanceState::Healthy, Some(running)) => Door::Open(self.address(running.port)),
            (InstanceState::Draining, _) => Door::Draining,
            _ => Door::Closed,
        };
        self.gate.set(door);
    }

    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.shared.config.host, port)
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Prepare => self.work = Some(self.prepare()),
                Action::Launch => self.work = Some(self.launch()),
                Action::Check => self.check = Some(self.check()),
                Action::AskBalancers => {
                    self.check = None;
                    let drained = (self.shared.drained)(self.spec.id);
                    self.work = Some(Box::pin(async move {
                        drained.await;
                        Outcome::Event(Event::LetGo)
                    }));
                }
                Action::AwaitRequests => self.work = Some(self.await_requests()),
                Action::Terminate => self.signal(Signal::TERM),
                Action::Kill => self.signal(Signal::KILL),
            }
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.check = None;
        self.work = None;
        let Some(running) = &self.running else {
            return;
        };
        signal_session(running.pid, signal);
        // In its first moment the helper has no session of its own yet. It is
        // still ours to wait for, so its id cannot have passed to another.
        let starting = procfs::stat(running.pid).filter(|stat| stat.session != running.pid);
        let is_child = |stat: &procfs::Stat| Some(stat.session) == own_session();
        if starting.as_ref().is_some_and(is_child) {
            let pid = i32::try_from(running.pid).ok().and_then(rustix::process::Pid::from_raw);
            // Fails only if it has ended in this moment.
            let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
        }
    }

    fn prepare(&self) -> Operation {
        let (shared, digest) = (Arc::clone(&self.shared), self.spec.digest);
        Box::pin(async move { Outcome::Prepared(shared.releases.ready(digest).await) })
    }

    fn launch(&self) -> Operation {
        self.shared.counters.starts.fetch_add(1, Ordering::Relaxed);
        let launch = Launch {
            shared: Arc::clone(&self.shared),
            spec: Arc::clone(&self.spec),
            dir: self.release_dir.clone(),
            log: Arc::clone(&self.log),
            last: self.last.clone(),
        };
        Box::pin(async move { Outcome::Launched(launch.run().await) })
    }

    fn check(&mut self) -> Operation {
        let Some(running) = &self.running else {
            return Box::pin(async { Outcome::Event(Event::Checked(Err("not running".into()))) });
        };
        let (address, session) = (self.address(running.port), running.pid);
        let spec = Arc::clone(&self.spec);
        let serving = self.lifecycle.state() == InstanceState::Healthy;
        let look = !serving || self.checks.is_multiple_of(LISTENER_CHECK_EVERY);
        self.checks = self.checks.wrapping_add(1);
        Box::pin(async move {
            let web = &spec.manifest.web;
            let mut result =
                health::check(address, &spec.manifest.domain, web.health.as_deref()).await;
            if result.is_ok() && look {
                result = check_listeners(session, address, web.allow_public_listen).await;
            }
            Outcome::Event(Event::Checked(result))
        })
    }

    /// No stream over the mesh, and no connection straight to the port, which is
    /// how balancers of this node come.
    fn await_requests(&self) -> Operation {
        let gate = Arc::clone(&self.gate);
        let address = self.running.as_ref().map(|running| self.address(running.port));
        Box::pin(async move {
            let mut pause = Duration::from_millis(10);
            loop {
                gate.empty().await;
                let open = match address {
                    Some(address) => has_connections(address).await,
                    None => false,
                };
                if !open {
                    return Outcome::Event(Event::Finished);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(200));
            }
        })
    }

    /// Forgets the process that is gone.
    fn clean_up(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.exit = None;
        self.check = None;
        self.shared.release_port(running.port);
        if self.lifecycle.state() == InstanceState::Starting
            || self.lifecycle.state() == InstanceState::Failed
        {
            self.shared.counters.crashes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line of Rung's own into the app's log.
    fn note(&self, text: String) {
        let line =
            LogLine { at_ms: logs::now_ms(), instance: self.spec.id, source: Source::Rung, text };
        let log = Arc::clone(&self.log);
        tokio::task::spawn_blocking(move || log.append(vec![line]));
    }

    fn report(&mut self) {
        let state = self.lifecycle.state();
        let since_ms = match self.reported {
            Some((before, since)) if before == state => since,
            _ => logs::now_ms(),
        };
        self.reported = Some((state, since_ms));
        let problem = self.lifecycle.problem().map(|why| format!("{why}{}", self.last.text()));
        self.shared.publish(InstanceStatus {
            id: self.spec.id,
            app: self.spec.app.clone(),
            release: self.spec.release,
            state,
            pid: self.running.as_ref().map(|running| running.pid),
            port: self.running.as_ref().map(|running| running.port),
            restarts: self.lifecycle.restarts(),
            since_ms,
            problem,
        });
    }
}

fn own_session() -> Option<u32> {
    procfs::stat(std::process::id()).map(|stat| stat.session)
}

/// Reading `/proc` blocks, if only for a moment.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

async fn check_listeners(session: u32, address: SocketAddr, public: bool) -> Result<(), String> {
    off_thread(move || {
        let own = procfs::socket_inodes(&procfs::session_processes(session));
        procfs::check_listeners(&procfs::sockets(), &own, address, public)
    })
    .await
    .unwrap_or_else(|| Err("the check was interrupted".into()))
}

async fn has_connections(address: SocketAddr) -> bool {
    let open = move |socket: &procfs::Socket| {
        socket.local == address && socket.state == procfs::ESTABLISHED
    };
    off_thread(move || procfs::sockets().iter().any(open)).await.unwrap_or(false)
}

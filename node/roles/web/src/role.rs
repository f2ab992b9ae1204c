//! The web role of one node: which instances run, and their doors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use rung_bundle::Store;
use rung_proto::soft::{InstanceState, InstanceStatus};
use rung_proto::{Code, Digest, Failure, InstanceId};
use rung_transport::MeshStream;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{error, warn};

use crate::gate::{Door, Gate};
use crate::instance::{self, InstanceSpec};
use crate::launch::remove_private;
use crate::logs::{AppLog, Logs, now_ms};
use crate::ports::{self, Ports};
use crate::process::{SessionFile, Spawner, signal_session};
use crate::relay::{self, RelayCounters};
use crate::releases::Releases;
use crate::users::{UserPolicy, Users};
use crate::{Drained, Fetch, WebConfig};

/// Why the role cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}")]
pub struct WebError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl From<WebError> for Failure {
    fn from(error: WebError) -> Self {
        Failure::new(Code::DiskFailed, "the web role cannot start").because(error)
    }
}

fn web_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WebError {
    let path = path.to_owned();
    move |source| WebError { what, path, source }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub starts: AtomicU64,
    pub crashes: AtomicU64,
    pub failed_checks: AtomicU64,
    pub relay: RelayCounters,
}

/// Counts since the role started, and what is open now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Processes started, first starts included.
    pub starts: u64,
    /// Ends that nobody asked for, and starts that did not become healthy.
    pub crashes: u64,
    pub failed_checks: u64,
    pub streams_accepted: u64,
    pub streams_refused: u64,
    pub streams_unreachable: u64,
    /// Of requests over the mesh.
    pub bytes_to_instances: u64,
    pub bytes_from_instances: u64,
    /// Open now.
    pub streams_open: u64,
    pub instances_healthy: u64,
    pub instances: u64,
}

/// What all instances share.
pub(crate) struct Shared {
    pub config: WebConfig,
    pub drained: Drained,
    pub releases: Releases,
    pub logs: Logs,
    pub users: Users,
    pub sessions: SessionFile,
    pub spawner: Spawner,
    pub counters: Counters,
    ports: Mutex<Ports>,
    /// Releases whose test command succeeded since this start.
    passed: Mutex<BTreeSet<Digest>>,
    status: watch::Sender<Vec<InstanceStatus>>,
    held: RwLock<BTreeMap<InstanceId, Held>>,
    /// Set, with `held` locked, when everything is to stop: nothing starts then.
    stopping: AtomicBool,
}

/// An instance as the role holds it.
struct Held {
    digest: Digest,
    gate: Arc<Gate>,
    drain: watch::Sender<bool>,
    /// Whether it was in the last list of wanted ones.
    listed: bool,
    /// Whether its task has ended.
    ended: bool,
    task: AbortHandle,
}

impl Shared {
    pub fn private_dir(&self, id: InstanceId) -> PathBuf {
        self.config.data_dir.join("run").join(id.to_string())
    }

    /// Removes what a process that is gone left: its record and its folder.
    pub async fn tidy(self: &Arc<Self>, id: InstanceId) {
        let shared = Arc::clone(self);
        let work = move || {
            shared.sessions.remove(id);
            remove_private(&shared.private_dir(id));
        };
        // Fails only when the runtime ends.
        let _ = tokio::task::spawn_blocking(work).await;
    }

    pub fn take_port(&self) -> Option<u16> {
        let host = self.config.host;
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.take(Instant::now(), |port| ports::is_free(host, port))
    }

    pub fn release_port(&self, port: u16) {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.release(port, Instant::now());
    }

    pub fn has_passed(&self, digest: Digest) -> bool {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).contains(&digest)
    }

    pub fn set_passed(&self, digest: Digest) {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
    }

    pub fn publish(&self, status: InstanceStatus) {
        self.status.send_if_modified(|all| {
            match all.binary_search_by_key(&status.id, |s| s.id) {
                Ok(at) if all[at] == status => return false,
                Ok(at) => all[at] = status,
                Err(at) => all.insert(at, status),
            }
            true
        });
    }

    fn forget(&self, id: InstanceId) {
        self.status.send_if_modified(|all| {
            let before = all.len();
            all.retain(|status| status.id != id);
            all.len() != before
        });
    }

    fn held(&self) -> RwLockReadGuard<'_, BTreeMap<InstanceId, Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<InstanceId, Held>> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task of an instance has ended: after it stopped, or because it broke.
    /// One that is still listed stays visible until it is not.
    fn ended(&self, spec: &InstanceSpec, problem: Option<String>) {
        if let Some(problem) = problem {
            self.fail(spec, problem);
        }
        let listed = {
            let mut held = self.held_mut();
            let Some(instance) = held.get_mut(&spec.id) else {
                return;
            };
            instance.ended = true;
            instance.gate.set(Door::Closed);
            let listed = instance.listed;
            if !listed {
                held.remove(&spec.id);
            }
            listed
        };
        if !listed {
            self.forget(spec.id);
        }
        self.collect_releases();
    }

    /// Ends what a broken task left running, and says so.
    fn fail(&self, spec: &InstanceSpec, problem: String) {
        error!(app = %spec.app, id = %spec.id, problem, "instance");
        let before = self.status.borrow().iter().find(|status| status.id == spec.id).cloned();
        if let Some(pid) = before.as_ref().and_then(|status| status.pid) {
            signal_session(pid, Signal::KILL);
        }
        self.publish(InstanceStatus {
            id: spec.id,
            app: spec.app.clone(),
            release: spec.release,
            state: InstanceState::Failed,
            pid: None,
            port: None,
            restarts: before.map_or(0, |status| status.restarts),
            since_ms: now_ms(),
            problem: Some(problem),
        });
    }

    /// Removes unpacked releases that no instance uses.
    fn collect_releases(&self) {
        let keep: BTreeSet<Digest> = self.held().values().map(|held| held.digest).collect();
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).retain(|d| keep.contains(d));
        if let Err(error) = self.releases.gc(&keep) {
            warn!(%error, "old releases could not be removed");
        }
    }
}

/// A handle on the web role. Clones share it. It runs until [`WebRole::stop`].
#[derive(Clone)]
pub struct WebRole {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

impl WebRole {
    /// Prepares the directories, ends what a killed node left running, and
    /// starts the role with nothing to run. Needs a tokio runtime with I/O and
    /// time.
    ///
    /// # Errors
    /// When the data directory cannot be used.
    pub async fn start(
        config: WebConfig,
        store: Store,
        fetch: Fetch,
        drained: Drained,
    ) -> Result<Self, WebError> {
        let dir = config.data_dir.clone();
        let opening = tokio::task::spawn_blocking(move || open(config, store, fetch));
        let opened =
            opening.await.map_err(io::Error::other).map_err(web_error("cannot open", &dir))?;
        let Opened { config, releases, users, sessions } = opened?;
        let spawner = Spawner::start().map_err(web_error("cannot start processes for", &dir))?;
        let shared = Shared {
            ports: Mutex::new(Ports::new(config.port_range.clone(), config.node.0)),
            logs: Logs::new(config.data_dir.join("logs")),
            drained,
            releases,
            users,
            sessions,
            spawner,
            counters: Counters::default(),
            passed: Mutex::default(),
            status: watch::channel(Vec::new()).0,
            held: RwLock::default(),
            stopping: AtomicBool::new(false),
            config,
        };
        Ok(Self { shared: Arc::new(shared), runtime: tokio::runtime::Handle::current() })
    }

    /// Makes the instances of this node those of `wanted`: new ones start, those
    /// that are absent or marked are drained and stopped. Returns at once. Does
    /// nothing after [`WebRole::stop`] was called.
    pub fn reconcile(&self, wanted: Vec<InstanceSpec>) {
        let mut held = self.shared.held_mut();
        if !self.shared.stopping.load(Ordering::Relaxed) {
            self.make(&mut held, wanted);
        }
    }

    fn make(&self, held: &mut BTreeMap<InstanceId, Held>, wanted: Vec<InstanceSpec>) {
        let ids: BTreeSet<InstanceId> = wanted.iter().map(|spec| spec.id).collect();
        let absent: Vec<InstanceId> = held.keys().filter(|id| !ids.contains(id)).copied().collect();
        for id in absent {
            let over = held.get_mut(&id).is_some_and(|instance| {
                instance.listed = false;
                instance.drain.send_replace(true);
                instance.ended
            });
            if over {
                held.remove(&id);
                self.shared.forget(id);
            }
        }
        for spec in wanted {
            match held.get_mut(&spec.id) {
                Some(instance) => {
                    instance.listed = true;
                    if spec.drain {
                        instance.drain.send_replace(true);
                    }
                }
                None => {
                    held.insert(spec.id, self.begin(spec));
                }
            }
        }
    }

    fn begin(&self, spec: InstanceSpec) -> Held {
        let gate = Arc::new(Gate::new());
        let (drain, draining) = watch::channel(spec.drain);
        let digest = spec.digest;
        let (shared, spec, door) = (Arc::clone(&self.shared), Arc::new(spec), Arc::clone(&gate));
        let task = self.runtime.spawn(async move {
            let running = instance::run(Arc::clone(&shared), Arc::clone(&spec), door, draining);
            let problem = match AssertUnwindSafe(running).catch_unwind().await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("its log cannot be opened: {error}")),
                Err(_) => Some("the task that runs it panicked; see the node's log".to_owned()),
            };
            // Removes directories, which blocks.
            let _ = tokio::task::spawn_blocking(move || shared.ended(&spec, problem)).await;
        });
        Held { digest, gate, drain, listed: true, ended: false, task: task.abort_handle() }
    }

    /// What every instance does, by id.
    pub fn status(&self) -> watch::Receiver<Vec<InstanceStatus>> {
        self.shared.status.subscribe()
    }

    /// Where an instance listens, if it takes requests now. A balancer of this
    /// node connects there itself, and closes idle connections when it lets go:
    /// an instance that drains waits for every connection to end.
    pub fn local_address(&self, id: InstanceId) -> Option<SocketAddr> {
        let door = self.shared.held().get(&id)?.gate.door();
        match door {
            Door::Open(address) => Some(address),
            Door::Closed | Door::Draining => None,
        }
    }

    /// Serves a stream that a balancer on another node opened; see
    /// [`crate::relay`] for its header and its codes. Returns at once.
    pub fn serve_stream(&self, header: &Bytes, mut stream: MeshStream) {
        let found = relay::parse_stream_header(header).and_then(|(id, long_lived)| {
            let gate = Arc::clone(&self.shared.held().get(&id)?.gate);
            Some((gate, long_lived))
        });
        let Some((gate, long_lived)) = found else {
            self.shared.counters.relay.refused.fetch_add(1, Ordering::Relaxed);
            stream.abort(relay::REFUSED);
            return;
        };
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            relay::relay(stream, &gate, long_lived, &shared.counters.relay).await;
        });
    }

    /// The log of an app that ran on this node.
    pub fn logs(&self, app: &str) -> Option<Arc<AppLog>> {
        self.shared.logs.get(app)
    }

    /// Counts for the metrics page.
    pub fn metrics(&self) -> Metrics {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let held = self.shared.held();
        let open = held.values().filter(|held| matches!(held.gate.door(), Door::Open(_)));
        Metrics {
            starts: read(&counters.starts),
            crashes: read(&counters.crashes),
            failed_checks: read(&counters.failed_checks),
            streams_accepted: read(&counters.relay.accepted),
            streams_refused: read(&counters.relay.refused),
            streams_unreachable: read(&counters.relay.unreachable),
            bytes_to_instances: read(&counters.relay.to_instances),
            bytes_from_instances: read(&counters.relay.from_instances),
            streams_open: held.values().map(|held| held.gate.streams() as u64).sum(),
            instances_healthy: open.count() as u64,
            instances: held.len() as u64,
        }
    }

    /// Drains and stops every instance, and starts none any more. What still
    /// runs after `within` is killed.
    pub async fn stop(&self, within: Duration) {
        {
            let mut held = self.shared.held_mut();
            self.shared.stopping.store(true, Ordering::Relaxed);
            self.make(&mut held, Vec::new());
        }
        let mut status = self.status();
        let all_gone = status.wait_for(|all| all.is_empty());
        if tokio::time::timeout(within, all_gone).await.is_ok() {
            return;
        }
        let left = self.shared.status.borrow().clone();
        for held in self.shared.held().values() {
            held.task.abort();
        }
        for pid in left.iter().filter_map(|status| status.pid) {
            signal_session(pid, Signal::KILL);
        }
    }
}

struct Opened {
    config: WebConfig,
    releases: Releases,
    users: Users,
    sessions: SessionFile,
}

/// Blocks on the disk, and on processes of before that are being ended.
fn open(config: WebConfig, store: Store, fetch: Fetch) -> Result<Opened, WebError> {
    let dir = &config.data_dir;
    // Apps pass through here to their release and to their private folder.
    make_dir(dir, 0o711)?;
    make_dir(&dir.join("releases"), 0o711)?;
    make_dir(&dir.join("run"), 0o711)?;
    make_dir(&dir.join("logs"), 0o700)?;
    let path = dir.join("sessions.json");
    let sessions = SessionFile::open(path.clone()).map_err(web_error("cannot use", &path))?;
    let path = dir.join("run");
    empty_dir(&path).map_err(web_error("cannot empty", &path))?;
    let path = dir.join("users.json");
    let users = Users::open(config.user, path.clone()).map_err(web_error("cannot use", &path))?;
    let path = dir.join("releases");
    let releases =
        Releases::open(path.clone(), store, fetch).map_err(web_error("cannot use", &path))?;
    if config.user != UserPolicy::Same {
        warn_of_closed_parents(dir);
    }
    Ok(Opened { config, releases, users, sessions })
}

fn make_dir(path: &Path, mode: u32) -> Result<(), WebError> {
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().map_err(web_error("cannot create", path))
}

fn empty_dir(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

/// An app that opens its files by absolute path must be able to walk to them.
fn warn_of_closed_parents(dir: &Path) {
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let closed = dir.ancestors().skip(1).find(|parent| {
        fs::metadata(parent).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    });
    if let Some(parent) = closed {
        let parent = parent.display();
        warn!(%parent, "apps cannot pass through this directory; chmod o+x lets them");
    }
}

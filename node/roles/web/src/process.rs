//! Starting, signalling and remembering the processes of instances.
//!
//! Each instance is a session of its own, named by the id of its first process.
//! Sessions are recorded in a file, so that what a killed node left running is
//! ended by its next start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rung_proto::InstanceId;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};

use crate::exec::{EXEC_ARGUMENT, ExecSpec};
use crate::procfs;

/// How long the helper may take to read what it is to become.
const HAND_OVER: Duration = Duration::from_secs(10);
/// How long a start waits for processes of before to be gone.
const REAP: Duration = Duration::from_secs(10);

struct Order {
    program: PathBuf,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A thread that starts processes. The signal that a child gets when its parent
/// dies is tied to the thread that made it, so that thread must live as long as
/// the role does; a worker thread of a runtime need not.
#[derive(Debug)]
pub(crate) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Needs a tokio runtime with I/O enabled.
    pub fn start() -> io::Result<Self> {
        let (orders, mut inbox) = mpsc::channel::<Order>(64);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("web-spawner".into()).spawn(move || {
            let _entered = runtime.enter();
            while let Some(order) = inbox.blocking_recv() {
                let mut command = Command::new(&order.program);
                command
                    .arg(EXEC_ARGUMENT)
                    .env_clear()
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .kill_on_drop(true);
                let _ = order.answer.send(command.spawn());
            }
        })?;
        Ok(Self { orders })
    }

    /// Starts the helper and tells it what to become.
    pub async fn launch(&self, program: &Path, spec: &ExecSpec) -> io::Result<Child> {
        let (answer, answered) = oneshot::channel();
        let order = Order { program: program.to_owned(), answer };
        let ended = || io::Error::other("the thread that starts processes has ended");
        self.orders.send(order).await.map_err(|_| ended())?;
        let mut child = answered.await.map_err(|_| ended())??;
        let bytes = serde_json::to_vec(spec).map_err(io::Error::other)?;
        let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no standard input"))?;
        let hand_over = async {
            stdin.write_all(&bytes).await?;
            stdin.shutdown().await
        };
        match tokio::time::timeout(HAND_OVER, hand_over).await {
            Ok(Ok(())) => Ok(child),
            // It ended early and says why in its log; its exit is noticed soon.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(child),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::Error::other("the exec helper does not read its orders")),
        }
    }
}

/// Sends a signal to every process of a session. A process is held by a
/// descriptor while its session is looked at once more, so that another one
/// that got the same id meanwhile is never hit.
pub(crate) fn signal_session(session: u32, signal: Signal) {
    for process in procfs::session_processes(session) {
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(descriptor) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let same = procfs::stat(process.pid)
            .is_some_and(|now| now.session == session && now.start_time == process.start_time);
        if same {
            // Fails only if it has ended in this moment.
            let _ = rustix::process::pidfd_send_signal(&descriptor, signal);
        }
    }
}

/// Resolves when no process of the session runs.
pub(crate) async fn session_gone(session: u32) {
    let mut pause = Duration::from_millis(5);
    let is_empty = move || procfs::session_processes(session).is_empty();
    while !matches!(tokio::task::spawn_blocking(is_empty).await, Ok(true)) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[derive(Serialize, Deserialize, Default, Debug)]
struct Record {
    boot: String,
    sessions: BTreeMap<u64, Session>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct Session {
    /// Id of the session and of its first process.
    pid: u32,
    start_time: u64,
    /// Its variable `RUNG_APP`.
    app: String,
}

/// The file that lists the running sessions.
#[derive(Debug)]
pub(crate) struct SessionFile {
    path: PathBuf,
    record: Mutex<Record>,
}

impl SessionFile {
    /// Reads the file of the node's life before, ends what still runs of it, and
    /// starts an empty one. Blocks for up to 10 seconds.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let boot = procfs::boot_id();
        let before: Record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the list of sessions is unreadable");
                Record::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(error) => return Err(error),
        };
        if before.boot == boot {
            reap(before.sessions.values());
        }
        let file = Self { path, record: Mutex::new(Record { boot, sessions: BTreeMap::new() }) };
        file.change(|_| {})?;
        Ok(file)
    }

    pub fn add(&self, id: InstanceId, pid: u32, app: &str) -> io::Result<()> {
        let start_time = procfs::stat(pid).map_or(0, |stat| stat.start_time);
        let session = Session { pid, start_time, app: app.to_owned() };
        self.change(|sessions| {
            sessions.insert(id.0, session);
        })
    }

    pub fn remove(&self, id: InstanceId) {
        let removed = self.change(|sessions| {
            sessions.remove(&id.0);
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "the list of sessions could not be written");
        }
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<u64, Session>)) -> io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        edit(&mut record.sessions);
        let bytes = serde_json::to_vec(&*record).map_err(io::Error::other)?;
        // Not synced: after a loss of power there are no processes either.
        let temporary = self.path.with_extension("tmp");
        fs::write(&temporary, bytes)?;
        fs::rename(&temporary, &self.path)
    }
}

/// Ends the recorded sessions that are still what was recorded.
fn reap<'a>(sessions: impl Iterator<Item = &'a Session>) {
    let left: Vec<&Session> = sessions.filter(|session| is_ours(session)).collect();
    let deadline = Instant::now() + REAP;
    for session in &left {
        tracing::info!(app = session.app, session = session.pid, "ending what was left running");
        signal_session(session.pid, Signal::KILL);
    }
    let running = |session: &&Session| !procfs::session_processes(session.pid).is_empty();
    while left.iter().any(running) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
        left.iter().filter(|s| running(s)).for_each(|s| signal_session(s.pid, Signal::KILL));
    }
}

/// Whether the session is the recorded one and not another with its number. The
/// first process proves it by its start time; if that one has ended, some other
/// process must carry the app's name in the environment that we gave it.
fn is_ours(session: &Session) -> bool {
    if let Some(leader) = procfs::stat(session.pid) {
        return leader.start_time == session.start_time;
    }
    let variable = format!("RUNG_APP={}", session.app);
    procfs::session_processes(session.pid).iter().any(|process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        process.start_time >= session.start_time
            && environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
    })
}

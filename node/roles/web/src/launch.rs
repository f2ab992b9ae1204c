//! Starting the process of an instance.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rung_proto::InstanceId;
use rustix::process::Signal;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use crate::exec::ExecSpec;
use crate::instance::InstanceSpec;
use crate::logs::{self, AppLog, LastLines, Source};
use crate::process::signal_session;
use crate::role::Shared;

/// How long the test command of a release may take.
const TEST: Duration = Duration::from_secs(120);
/// How long the pipes of a process that is gone are read on. A process that
/// left its session may hold them for ever.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that runs.
pub(crate) struct Running {
    pub pid: u32,
    pub port: u16,
    /// Taken by whoever waits for its end.
    pub child: Option<Child>,
}

/// All that a start needs.
pub(crate) struct Launch {
    pub shared: Arc<Shared>,
    pub spec: Arc<InstanceSpec>,
    /// Of the unpacked release.
    pub dir: PathBuf,
    pub log: Arc<AppLog>,
    pub last: LastLines,
}

impl Launch {
    /// Starts the process on a fresh port, after the test command of a release
    /// that is new on this node.
    pub async fn run(self) -> Result<Running, String> {
        let port = self.shared.take_port().ok_or("no port of the range is free")?;
        let result = self.run_on(port).await;
        if result.is_err() {
            self.shared.release_port(port);
        }
        result
    }

    async fn run_on(&self, port: u16) -> Result<Running, String> {
        let web = &self.spec.manifest.web;
        if let Some(test) = &web.test
            && !self.shared.has_passed(self.spec.digest)
        {
            self.test(test, port).await?;
            self.shared.set_passed(self.spec.digest);
        }
        let (pid, child) = self.start(&web.command, port).await?;
        Ok(Running { pid, port, child: Some(child) })
    }

    async fn test(&self, command: &str, port: u16) -> Result<(), String> {
        let (pid, mut child) = self.start(command, port).await?;
        let captures = capture(&mut child, self.spec.id, &self.log, &self.last);
        let ended = timeout(TEST, child.wait()).await;
        signal_session(pid, Signal::KILL);
        let _ = timeout(LAST_WORDS, join_all(captures)).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("its test command failed: {status}")),
            Ok(Err(error)) => Err(format!("its test command was lost: {error}")),
            Err(_) => {
                let limit = TEST.as_secs();
                Err(format!("its test command did not end within {limit} s"))
            }
        }
    }

    async fn start(&self, command: &str, port: u16) -> Result<(u32, Child), String> {
        let (shared, spec) = (&self.shared, &self.spec);
        let user =
            shared.users.of(&spec.app).map_err(|error| format!("no user for it: {error}"))?;
        let private = shared.private_dir(spec.id);
        let made = private.clone();
        tokio::task::spawn_blocking(move || make_private(&made, user))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| format!("its folder {} cannot be made: {error}", private.display()))?;
        let exec = ExecSpec {
            parent: std::process::id(),
            user,
            dir: self.dir.clone(),
            command: command.to_owned(),
            env: environment(shared, spec, port, &private),
            open_files: shared.config.open_files,
        };
        let child = shared
            .spawner
            .launch(&shared.config.exec_helper, &exec)
            .await
            .map_err(|error| format!("its process cannot be started: {error}"))?;
        let pid = child.id().ok_or("its process ended at once")?;
        let record = {
            let (shared, spec) = (Arc::clone(shared), Arc::clone(spec));
            move || shared.sessions.add(spec.id, pid, &spec.app)
        };
        tokio::task::spawn_blocking(record)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| format!("its process cannot be recorded: {error}"))?;
        Ok((pid, child))
    }
}

/// Copies what a process prints into the log, until its pipes end.
pub(crate) fn capture(
    child: &mut Child,
    id: InstanceId,
    log: &Arc<AppLog>,
    last: &LastLines,
) -> Vec<JoinHandle<()>> {
    let out = child.stdout.take().map(|pipe| {
        tokio::spawn(logs::capture(pipe, Source::Stdout, id, Arc::clone(log), last.clone()))
    });
    let err = child.stderr.take().map(|pipe| {
        tokio::spawn(logs::capture(pipe, Source::Stderr, id, Arc::clone(log), last.clone()))
    });
    out.into_iter().chain(err).collect()
}

/// The whole environment of a process. What Rung sets cannot be overridden.
fn environment(
    shared: &Shared,
    spec: &InstanceSpec,
    port: u16,
    private: &Path,
) -> BTreeMap<String, String> {
    let config = &shared.config;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOME".to_owned(), private.display().to_string()),
        ("TMPDIR".to_owned(), private.join("tmp").display().to_string()),
    ]);
    env.extend(spec.manifest.env.clone());
    env.extend(spec.env.clone());
    let ours = [
        ("PORT", port.to_string()),
        ("HOST", config.host.to_string()),
        ("RUNG_NODE", config.node_name.clone()),
        ("RUNG_DC", config.dc.clone()),
        ("RUNG_APP", spec.app.clone()),
        ("RUNG_RELEASE", spec.release.to_string()),
        ("RUNG_INSTANCE", spec.id.to_string()),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value)));
    env
}

/// A fresh folder that only the app's user can enter.
fn make_private(path: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    remove_private(path);
    for dir in [path.to_owned(), path.join("tmp")] {
        fs::DirBuilder::new().mode(0o700).create(&dir)?;
    }
    if let Some((uid, gid)) = user {
        // The inner one first: afterwards its parent belongs to the app.
        std::os::unix::fs::lchown(path.join("tmp"), Some(uid), Some(gid))?;
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

pub(crate) fn remove_private(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "a private folder could not be removed");
        }
        _ => {}
    }
}

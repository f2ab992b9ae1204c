//! Starts a node's server and `ctl`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rung_admin::{AdminServer, Limits};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::fake::{Fake, serve};

/// Nothing here takes longer, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub root: TempDir,
    pub fake: Arc<Fake>,
    pub server: AdminServer,
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl World {
    pub async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let fake = Fake::new();
        let server = serve(root.path(), &fake, Limits::default()).await;
        Self { root, fake, server }
    }

    pub fn data(&self) -> &Path {
        self.root.path()
    }

    pub async fn ctl(&self, arguments: &[&str]) -> Ran {
        finish(start(Some(self.data()), arguments)).await
    }

    /// Starts it without waiting for its end.
    pub fn start(&self, arguments: &[&str]) -> Child {
        start(Some(self.data()), arguments)
    }

    pub fn app_folder(&self) -> PathBuf {
        let folder = self.root.path().join("photos");
        std::fs::create_dir_all(&folder).unwrap();
        let manifest =
            "name = \"photos\"\ndomain = \"photos.test\"\n\n[web]\ncommand = \"./run\"\n";
        std::fs::write(folder.join("rung.toml"), manifest).unwrap();
        folder
    }
}

pub fn start(data: Option<&Path>, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctl"));
    command.env_clear().env("USER", "ada").current_dir("/").args(arguments);
    if let Some(data) = data {
        command.env("RUNG_DATA", data);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

pub async fn finish(child: Child) -> Ran {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("ctl hangs").unwrap();
    Ran {
        code: output.status.code().expect("ctl was killed"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

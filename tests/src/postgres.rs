//! A real PostgreSQL server, with which the checks are checked: they must find
//! nothing while it keeps its promises, and find what it does when it is told not
//! to keep them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::network::Network;
use crate::process::{is_running, run};
use crate::sql::Door;
use crate::wait::eventually;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(60);
/// A user that is not root, whom PostgreSQL refuses.
const NOBODY: u32 = 65_534;

/// A server with an address of its own.
#[derive(Debug)]
pub struct Postgres {
    dir: TempDir,
    network: Network,
    server: Option<Child>,
}

/// Why there cannot be a server here, if so.
pub fn missing() -> Option<&'static str> {
    let there = Path::new(PROGRAMS).join("postgres").exists();
    (!there).then_some("PostgreSQL 15 is not installed; it is Debian's postgresql-15")
}

impl Postgres {
    /// Starts a new server with these lines in its configuration.
    ///
    /// # Panics
    /// When it does not start; see [`missing`].
    #[track_caller]
    pub fn start(settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("rung-postgres-").tempdir().expect("a folder");
        let mut this = Self { dir, network: Network::take(), server: None };
        if rustix::process::geteuid().is_root() {
            let nobody = Some(NOBODY);
            std::os::unix::fs::chown(this.dir.path(), nobody, nobody).expect("its owner");
        }
        let data = this.data().display().to_string();
        let words = ["-D", &data, "-A", "trust", "-U", "tests", "-E", "UTF8", "-N"];
        run(this.program("initdb").args(words), PATIENCE).expect(0);
        let address = this.address().to_string();
        let folder = this.dir.path().display().to_string();
        let mut lines = vec![
            format!("listen_addresses = '{address}'"),
            format!("unix_socket_directories = '{folder}'"),
            // Processes are killed here, not machines.
            "fsync = off".to_owned(),
        ];
        lines.extend(settings.iter().map(|&line| line.to_owned()));
        let configuration = this.data().join("postgresql.conf");
        let before = fs::read_to_string(&configuration).expect("its configuration");
        fs::write(&configuration, format!("{before}\n{}\n", lines.join("\n"))).expect("a file");
        let access = format!("host all all {address}/8 trust\n");
        fs::write(this.data().join("pg_hba.conf"), access).expect("a file");
        this.restart();
        this
    }

    fn address(&self) -> Ipv4Addr {
        self.network.address(1)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let program = Path::new(PROGRAMS).join(name);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).current_dir(self.dir.path());
        if rustix::process::geteuid().is_root() {
            let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
            command.args([&user, &group, "--clear-groups"]);
        }
        command.arg(program);
        command
    }

    /// Starts it on its data, and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn restart(&mut self) {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().expect("PostgreSQL starts"));
        let address = self.address().to_string();
        eventually("PostgreSQL takes connections", PATIENCE, || {
            let mut ready = self.program("pg_isready");
            ready.args(["-q", "-h", &address]).stdin(Stdio::null());
            ready.status().is_ok_and(|status| status.success())
        });
    }

    /// Kills all its processes at once.
    ///
    /// # Panics
    /// When it does not run.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let pid = server.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let pids: Vec<u32> = children.split_whitespace().flat_map(str::parse).collect();
        let words = pids.iter().chain([&pid]).map(u32::to_string);
        // A child may have ended by itself meanwhile.
        run(Command::new("kill").arg("-KILL").args(words), PATIENCE);
        server.wait().expect("it ends");
        eventually("its processes have ended", PATIENCE, || {
            pids.iter().all(|pid| !is_running(*pid))
        });
    }

    pub fn door(&self) -> Door {
        Door::new("postgres", &format!("postgres://tests@{}/postgres", self.address()), None)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.kill();
        }
    }
}

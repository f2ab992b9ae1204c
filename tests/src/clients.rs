//! Clients of databases that others wrote, as `scripts/test.sh` installs them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rung_proto::api::DatabaseUrl;

use crate::cluster::{Cluster, SOON};
use crate::process::{Run, run};
use crate::wait::until;

/// They send hundreds of statements, to a cluster on the same processors.
const PATIENCE: Duration = Duration::from_secs(150);
const ATTEMPTS: u32 = 3;

/// What is in `target/test-clients`.
pub fn installed(path: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/test-clients").join(path)
}

/// Why the clients cannot be run here, if so.
pub fn missing() -> Option<&'static str> {
    let there = ["python/bin/python", "node/node_modules/pg"].iter().all(|p| installed(p).exists());
    (!there).then_some("the clients are not installed; scripts/test.sh does it")
}

/// Where Debian puts pgjdbc.
const PGJDBC: &str = "/usr/share/java/postgresql.jar";

/// Why clients in Java cannot be run here, if so.
pub fn missing_java() -> Option<&'static str> {
    // A compiler is needed as well, for programs of one file.
    let there =
        Path::new(PGJDBC).exists() && Command::new("javac").arg("-version").output().is_ok();
    (!there).then_some("there is no JDK or no pgjdbc; scripts/test.sh installs them")
}

/// A Python that has psycopg, SQLAlchemy and Django.
pub fn python() -> PathBuf {
    installed("python/bin/python")
}

impl Cluster {
    /// Where programs on a node find a database.
    ///
    /// # Panics
    /// When the node does not tell.
    #[track_caller]
    pub fn url(&self, node: &str, database: &str) -> String {
        until("the node knows the database's URL", SOON, || {
            let asked = self.ctl_of(node, &["db", "url", database, "-o", "json"]);
            serde_json::from_str::<DatabaseUrl>(&asked.stdout).ok().map(|known| known.url)
        })
    }

    /// Creates a database, and gives its primary and a node that is not.
    #[track_caller]
    pub fn database_with_others(&self, database: &str) -> (String, String) {
        self.ctl(&["db", "create", database]).expect(0);
        self.wait_serving(database, 2);
        let primary = self.primary(database, &[]);
        let other = self.running().into_iter().find(|node| *node != primary);
        (primary, other.expect("another node"))
    }

    /// Runs one of the programs of `tests/clients` on a new database, as a program on
    /// a node that is not its primary. It is run again if the primary changed by
    /// itself, as it may on a busy machine, and that ended it.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run_client(&self, script: &str) -> Run {
        for attempt in 1..=ATTEMPTS {
            let database =
                format!("{}-{attempt}", script.split(['_', '.']).next().expect("a name"))
                    .to_lowercase();
            let (primary, other) = self.database_with_others(&database);
            let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
            let mut command = match path.extension().and_then(|extension| extension.to_str()) {
                Some("js") => Command::new("node"),
                Some("java") => Command::new("java"),
                _ => Command::new(python()),
            };
            if script.ends_with(".java") {
                command.args(["-cp", PGJDBC]);
            }
            command.arg(path).env("DATABASE_URL", self.url(&other, &database));
            command.env("NODE_CLIENTS", installed("node")).env("PYTHONDONTWRITEBYTECODE", "1");
            let ended = run(&mut command, PATIENCE);
            println!("{}", ended.stdout.trim());
            if ended.code == 0 || !ended.says("the primary of the database changed") {
                return ended.expect(0);
            }
            println!("{script}: {primary} was no longer the primary\n{}", ended.stderr);
        }
        panic!("{script}: the primary changed by itself {ATTEMPTS} times");
    }
}

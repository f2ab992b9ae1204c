//! The SQL port of this node: open as soon as there is a database, whether or not
//! a copy is here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rung_control_plane::State;
use rung_db::{Limits, ScramVerifier, Server, ServerConfig, ServerError, UserRecord};
use rung_runtime::{Shutdown, TaskResult};

use crate::node::Node;
use crate::open_files;
use crate::protocol::STREAM_SQL;
use crate::sql_certificate::{self, Shown};

/// How soon a port that is taken is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(2);
/// How long statements may take to end when the node stops.
const FINISH: Duration = Duration::from_secs(5);
/// Where results go that do not fit into memory, under the data directory.
const SPOOL: &str = "db-spool";

/// What others see of the server. Clones are the same.
#[derive(Clone, Default)]
pub struct SqlRole(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    server: Option<Arc<Server>>,
    /// Why there is none.
    problem: Option<String>,
    /// Whose certificate clients see.
    shown: Option<Shown>,
}

impl SqlRole {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server, while it runs.
    pub fn server(&self) -> Option<Arc<Server>> {
        self.lock().server.clone()
    }

    /// Why clients here cannot connect, if there is a reason.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// Whose certificate clients see.
    pub fn shown(&self) -> Shown {
        self.lock().shown.unwrap_or(Shown::Nothing)
    }

    pub fn set_shown(&self, shown: Shown) {
        self.lock().shown = Some(shown);
    }

    fn keep(&self, server: Option<Arc<Server>>) -> Option<Arc<Server>> {
        let mut inner = self.lock();
        inner.problem = None;
        std::mem::replace(&mut inner.server, server)
    }

    /// Says why there is no server, if that is news.
    fn complain(&self, why: String) {
        let mut inner = self.lock();
        if inner.problem.as_ref() != Some(&why) {
            tracing::error!(role = "db", why, "apps here cannot reach their databases");
            inner.problem = Some(why);
        }
    }
}

/// Serves clients until told to stop.
///
/// # Errors
/// When the server cannot be started for a reason that does not pass.
pub async fn run(node: Arc<Node>, mut shutdown: Shutdown) -> TaskResult {
    tokio::select! {
        result = serve(&node) => result,
        () = shutdown.requested() => {
            if let Some(server) = node.sql.keep(None).and_then(Arc::into_inner) {
                server.stop(FINISH).await;
            }
            Ok(())
        }
    }
}

async fn serve(node: &Arc<Node>) -> TaskResult {
    let mut state = node.control.watch_state();
    state.wait_for(|state| !state.databases.is_empty()).await?;
    let server = Arc::new(start(node).await?);
    // A former life of this task may have left one.
    node.sql.keep(Some(Arc::clone(&server)));
    let users = async {
        loop {
            server.set_users(users(&state.borrow_and_update().clone()));
            if let Err(error) = state.changed().await {
                return Err(error.into());
            }
        }
    };
    tokio::select! {
        ended = users => ended,
        () = sql_certificate::keep(node, &server) => Ok(()),
    }
}

/// Starts the server. While something else has its port, it tries again.
async fn start(node: &Node) -> Result<Server, Box<dyn std::error::Error + Send + Sync>> {
    node.data.make_private_dir(SPOOL)?;
    loop {
        let config = ServerConfig {
            listen: node.addresses.sql,
            listen_private: node.addresses.sql_private,
            threads: 0,
            node: node.id,
            node_name: node.name().to_owned(),
            dc: node.dc().to_owned(),
            directory: node.databases.directory(),
            mesh: Some(node.mesh.clone()),
            stream_kind: STREAM_SQL,
            spool: node.data.join(SPOOL),
            limits: Limits {
                connections: open_files::clients(
                    Limits::default().connections,
                    open_files::limit(),
                ),
                slow_statement: node.settings.slow_statement_ms.map(Duration::from_millis),
                ..Limits::default()
            },
        };
        match Server::start(config) {
            Ok(server) => return Ok(server),
            Err(error @ ServerError::Listen { .. }) => {
                node.sql.complain(error.to_string());
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
            Err(error) => return Err(error.to_string().into()),
        }
    }
}

/// Each database has a user of its own name, who may use that one.
fn users(state: &State) -> Vec<UserRecord> {
    let mut users = Vec::new();
    for database in state.databases.values() {
        match database.verifier.parse::<ScramVerifier>() {
            Ok(verifier) => users.push(UserRecord {
                name: database.name.clone(),
                verifier,
                databases: Some(vec![database.name.clone()]),
                is_operator: false,
            }),
            Err(error) => {
                tracing::error!(database = database.name, %error, "nobody can log in");
            }
        }
    }
    users
}

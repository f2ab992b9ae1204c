//! Clients of a database, and what they know of what they asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};

use crate::check::Outcome;

/// Longer than a failover takes.
const ANSWER: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(5);
/// "transaction_resolution_unknown", which is not in every list of codes.
const OUTCOME_UNKNOWN: &str = "08007";

/// Where programs on a node reach a database, as its URL says.
#[derive(Clone, Debug)]
pub struct Door {
    pub node: String,
    config: Config,
    /// The node's machine, if it has one of its own.
    pub namespace: Option<PathBuf>,
    /// Run first on every connection.
    settings: String,
    /// Rises each time the node is killed, which ends the programs on it.
    lives: Arc<AtomicU64>,
}

impl Door {
    /// # Panics
    /// When the URL is none.
    pub fn new(node: &str, url: &str, namespace: Option<PathBuf>) -> Self {
        let mut config: Config =
            url.trim().parse().unwrap_or_else(|error| panic!("the URL {url}: {error}"));
        config.connect_timeout(CONNECT);
        let (settings, lives) = (String::new(), Arc::default());
        Self { node: node.to_owned(), config, namespace, settings, lives }
    }

    /// The same door for connections that begin with these statements.
    #[must_use]
    pub fn with_settings(&self, settings: &str) -> Self {
        Self { settings: settings.to_owned(), ..self.clone() }
    }

    /// Another URL of the same node.
    #[must_use]
    pub fn with_url(&self, url: &str) -> Self {
        let lives = Arc::clone(&self.lives);
        Self { lives, ..Self::new(&self.node, url, self.namespace.clone()) }
    }

    /// Says that the node was killed.
    pub fn was_killed(&self) {
        self.lives.fetch_add(1, Ordering::SeqCst);
    }

    /// How often the node was killed.
    pub fn lives(&self) -> u64 {
        self.lives.load(Ordering::SeqCst)
    }

    /// A new connection. Only where the door's namespace is entered.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn connect(&self) -> Result<Connection, String> {
        let connecting = async {
            let (client, connection) = self.config.connect(NoTls).await?;
            // What ends it is seen by who waits for an answer.
            let task = tokio::spawn(async move { drop(connection.await) });
            let connection = Connection { client, task };
            if !self.settings.is_empty() {
                connection.client.batch_execute(&self.settings).await?;
            }
            Ok::<_, Error>(connection)
        };
        match timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(format!("{}: cannot connect: {}", self.node, told(&error))),
            Err(_) => Err(format!("{}: cannot connect within {CONNECT:?}", self.node)),
        }
    }
}

/// An open connection. It closes when it is dropped.
#[derive(Debug)]
pub struct Connection {
    pub client: Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A server that does not answer would keep it open.
        self.task.abort();
    }
}

/// What an error says, with its causes.
pub fn told(error: &Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} {}: {}", said.severity(), said.code().code(), said.message()),
        None => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                text += &format!(": {inner}");
                cause = inner.source();
            }
            text
        }
    }
}

/// What is known of a statement that was sent and ended so. An error is a promise
/// that nothing was done, unless it says otherwise, or is fatal: such a message is
/// about the connection and may come before the answer.
pub fn outcome_of(error: &Error) -> Outcome {
    let promised = error.as_db_error().is_some_and(|said| {
        *said.code() != SqlState::from_code(OUTCOME_UNKNOWN)
            && !matches!(said.severity(), "FATAL" | "PANIC")
    });
    if promised { Outcome::Refused(told(error)) } else { Outcome::Unknown(told(error)) }
}

/// One client that connects again when it has to, and never repeats anything.
#[derive(Debug)]
pub struct SqlClient {
    door: Door,
    connection: Option<Connection>,
}

impl SqlClient {
    pub fn new(door: Door) -> Self {
        Self { door, connection: None }
    }

    pub fn door(&self) -> &Door {
        &self.door
    }

    async fn connected(&mut self) -> Result<&mut Connection, Outcome> {
        if self.connection.as_ref().is_none_or(|connection| connection.client.is_closed()) {
            self.connection = None;
            // Nothing was sent, so nothing can have been done.
            self.connection = Some(self.door.connect().await.map_err(Outcome::Refused)?);
        }
        self.connection.as_mut().ok_or_else(|| Outcome::Refused("no connection".to_owned()))
    }

    /// Does one thing that the server either does whole or not at all.
    ///
    /// # Errors
    /// What is known of it.
    pub async fn run<T>(
        &mut self,
        send: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Outcome> {
        let connection = self.connected().await?;
        match timeout(ANSWER, send(&connection.client)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.after(&error);
                Err(outcome_of(&error))
            }
            Err(_) => {
                self.connection = None;
                Err(Outcome::Unknown(format!("no answer within {ANSWER:?}")))
            }
        }
    }

    /// A transaction. Until COMMIT is sent every failure means that nothing was done.
    ///
    /// # Errors
    /// What is known of it.
    pub async fn transaction<T>(
        &mut self,
        begin: &str,
        body: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Outcome> {
        let connection = self.connected().await?;
        let client = &connection.client;
        let steps = async {
            client.batch_execute(begin).await?;
            body(client).await
        };
        let value = match timeout(ANSWER, steps).await {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => {
                // The rest of the transaction goes with its connection.
                self.connection = None;
                return Err(Outcome::Refused(told(&error)));
            }
            Err(_) => {
                self.connection = None;
                return Err(Outcome::Refused(format!("not within {ANSWER:?}, and not committed")));
            }
        };
        self.run(async |client| client.batch_execute("COMMIT").await).await?;
        Ok(value)
    }

    fn after(&mut self, error: &Error) {
        let goes_on =
            error.as_db_error().is_some_and(|said| !matches!(said.severity(), "FATAL" | "PANIC"));
        if !goes_on {
            self.connection = None;
        }
    }

    /// The rows of a query, each value as text.
    ///
    /// # Errors
    /// What is known of it.
    pub async fn rows(&mut self, query: &str) -> Result<Vec<Vec<String>>, Outcome> {
        let messages = self.run(async |client| client.simple_query(query).await).await?;
        Ok(texts(&messages))
    }
}

/// The values of the rows among these.
pub fn texts(messages: &[SimpleQueryMessage]) -> Vec<Vec<String>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    rows.map(|row| (0..row.len()).map(|column| text(row.get(column))).collect()).collect()
}

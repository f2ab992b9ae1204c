//! Connections, and what is repeated when the primary changes.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

/// Connections of this process to each of the two URLs, at most.
const CONNECTIONS: usize = 8;
/// How long a visitor waits while there is no primary.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    salt bytea NOT NULL,
    password_hash bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS sessions (
    token_hash bytea PRIMARY KEY,
    account uuid NOT NULL REFERENCES accounts (id),
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS photos (
    id uuid PRIMARY KEY,
    account uuid NOT NULL REFERENCES accounts (id),
    caption text NOT NULL,
    media_type text NOT NULL,
    image bytea NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS photos_of_account ON photos (account, created DESC);
CREATE TABLE IF NOT EXISTS people (
    id integer PRIMARY KEY,
    first_name text NOT NULL,
    last_name text NOT NULL,
    street_address text NOT NULL,
    city text NOT NULL,
    state text NOT NULL,
    postal_code integer NOT NULL
);
CREATE TABLE IF NOT EXISTS phone_numbers (
    person integer NOT NULL REFERENCES people (id) ON DELETE CASCADE,
    place integer NOT NULL,
    number text NOT NULL,
    PRIMARY KEY (person, place)
);
";

/// Why something could not be read or written.
#[derive(Debug)]
pub enum Error {
    /// There was no primary, or it changed, for too long.
    Unavailable(String),
    /// Anything else.
    Database(tokio_postgres::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Unavailable(why) => write!(f, "the database is not available: {why}"),
            Error::Database(error) => match error.as_db_error() {
                Some(error) => write!(f, "{} ({})", error.message(), error.code().code()),
                None => write!(f, "{error}"),
            },
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Database(error)
    }
}

/// Connections that wait to be used again.
struct Pool {
    config: Config,
    idle: Mutex<Vec<Client>>,
    permits: Semaphore,
}

impl Pool {
    fn new(url: &str) -> Result<Self, String> {
        let mut config: Config = url.parse().map_err(|error| format!("the URL: {error}"))?;
        config.connect_timeout(Duration::from_secs(3));
        let permits = Semaphore::new(CONNECTIONS);
        Ok(Self { config, idle: Mutex::default(), permits })
    }

    fn take_idle(&self) -> Option<Client> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        idle.retain(|client| !client.is_closed());
        idle.pop()
    }

    async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        if let Some(client) = self.take_idle() {
            return Ok(client);
        }
        let (client, connection) = self.config.connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection to the database ended: {error}");
            }
        });
        Ok(client)
    }

    fn give_back(&self, client: Client) {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(client);
    }

    /// Does the work with a connection, again and again while the database cannot
    /// do it or it is not known whether it did. So the work must find out by itself
    /// what an earlier attempt has done.
    async fn run<T>(
        &self,
        work: impl AsyncFn(&mut Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = {
                // Never closed.
                let _permit = self.permits.acquire().await.ok();
                let attempt = async {
                    let mut client = self.client().await?;
                    let result = work(&mut client).await?;
                    self.give_back(client);
                    Ok(result)
                };
                match attempt.await {
                    Ok(result) => return Ok(result),
                    Err(error) => error,
                }
            };
            if !may_pass(&error) {
                return Err(Error::Database(error));
            }
            if Instant::now() + PAUSE > deadline {
                return Err(Error::Unavailable(Error::Database(error).to_string()));
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether the same may work a moment later: the primary changed, is not there, or
/// was lost with the answer.
fn may_pass(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        None => true,
        Some(code) => {
            *code == SqlState::T_R_SERIALIZATION_FAILURE
                || *code == SqlState::CANNOT_CONNECT_NOW
                || *code == SqlState::ADMIN_SHUTDOWN
                || code.code().starts_with("08")
        }
    }
}

/// The database, by both of its URLs.
pub struct Database {
    primary: Pool,
    replica: Pool,
}

impl Database {
    pub fn new(url: &str, replica: &str) -> Result<Self, String> {
        Ok(Self { primary: Pool::new(url)?, replica: Pool::new(replica)? })
    }

    /// Creates the tables that are not there.
    pub async fn create_schema(&self) -> Result<(), Error> {
        self.primary.run(async |client| client.batch_execute(SCHEMA).await).await
    }

    /// Reads and writes.
    pub async fn run<T>(
        &self,
        work: impl AsyncFn(&mut Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.primary.run(work).await
    }

    /// Reads what may be a moment old.
    pub async fn read<T>(
        &self,
        work: impl AsyncFn(&mut Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        self.replica.run(work).await
    }
}

//! A client's session: it lives on the node that the client is connected to, and
//! has what it reads and writes done by its [`Backend`], wherever that is.

mod commands;
mod control;
mod cursors;
mod prepared;
mod run;
mod settings;
mod transaction;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rung_shard::Token;
use rung_sql::{Context, Effects, Formats, Parameters, PgType, SqlError, SqlState, Statement};

use prepared::{Cursor, Named, Statements};
pub use prepared::{Portal, Progress};
pub use settings::{Freshness, SERVER_VERSION, Settings};
pub use transaction::{Opened, Phase};
use transaction::{Transaction, is_replica};

use crate::backend::{Backend, Call, Cancellation};
use crate::rows::Rows;
use crate::server::Shared;
use crate::users::{Mark, User};
use crate::wire::{Severity, Status};

/// Seconds between 1970-01-01 and 2000-01-01.
const EPOCH_2000: i64 = 946_684_800;
/// Notices that wait to be sent.
const MAX_NOTICES: usize = 100;

/// What a statement came to.
#[derive(Debug)]
pub enum Outcome {
    /// There was no statement.
    Empty,
    Done {
        tag: String,
    },
    Rows {
        rows: Rows,
        tag: String,
    },
    /// The rows are CopyData messages.
    CopyOut {
        rows: Rows,
        tag: String,
        binary: bool,
        columns: usize,
    },
    /// The client is asked for data, which goes to [`Session::copy_data`].
    CopyIn {
        binary: bool,
        columns: usize,
    },
}

impl Outcome {
    /// What the client is told that was done, with the number of rows.
    fn tag(&self) -> &str {
        match self {
            Outcome::Done { tag } | Outcome::Rows { tag, .. } | Outcome::CopyOut { tag, .. } => tag,
            Outcome::Empty | Outcome::CopyIn { .. } => "",
        }
    }
}

/// What surrounds a statement in what its client sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Surroundings {
    /// Nothing else came with it: it is a transaction of its own.
    Alone,
    /// Others came with it and they are one transaction.
    OneOfSeveral,
}

/// How a statement is given and asked for by the extended protocol.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    pub types: Arc<[Option<PgType>]>,
    pub parameters: Parameters,
    pub formats: Formats,
}

/// A session of a client that has been let in.
pub struct Session {
    shared: Arc<Shared>,
    user: Arc<User>,
    /// What the user has seen of the database.
    mark: Arc<Mark>,
    settings: Settings,
    /// The settings as the client was told them.
    told: Settings,
    context: Context,
    transaction: Transaction,
    statements: Statements,
    portals: Named<Portal>,
    cursors: Named<Cursor>,
    backend: Backend,
    /// The COPY whose data the client sends, and since when.
    copying: Option<(Statement, Instant)>,
    /// A position that the client gave by `SET rung.token`.
    token: Option<Token>,
    notices: Vec<(Severity, SqlError)>,
    /// When the last statement began, in microseconds since 2000.
    now: i64,
}

impl Session {
    /// Begins a session. The settings are those that the client gave at its start.
    pub fn new(
        shared: Arc<Shared>,
        user: Arc<User>,
        database: &str,
        settings: Settings,
        process: i32,
        cancellation: Cancellation,
    ) -> Self {
        let mark = user.mark(database);
        let backend = Backend::new(shared.clone(), database, mark.clone(), cancellation);
        let mut context = Context::new(&user.name, database);
        context.backend_pid = process;
        context.node = shared.config.node_name.as_str().into();
        let mut session = Self {
            shared,
            user,
            mark,
            told: settings.clone(),
            settings,
            context,
            transaction: Transaction::idle(),
            statements: Statements::default(),
            portals: Named::default(),
            cursors: Named::default(),
            backend,
            copying: None,
            token: None,
            notices: Vec::new(),
            now: 0,
        };
        session.settings_changed();
        session
    }

    pub fn status(&self) -> Status {
        self.transaction.status()
    }

    pub fn phase(&self) -> Phase {
        self.transaction.phase
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Settings that changed since the client was told of them.
    pub fn take_reports(&mut self) -> Vec<(&'static str, String)> {
        if self.told == self.settings {
            return Vec::new();
        }
        let changed = self.settings.reported_since(&self.told);
        let changed = changed.map(|(name, value)| (name, value.to_owned())).collect();
        self.told = self.settings.clone();
        changed
    }

    /// Notices that the client has not been sent yet.
    pub fn take_notices(&mut self) -> Vec<(Severity, SqlError)> {
        std::mem::take(&mut self.notices)
    }

    fn notice(&mut self, severity: Severity, state: SqlState, message: &str) {
        let wanted = match self.settings.value("client_min_messages") {
            "error" => false,
            "warning" => severity == Severity::Warning,
            _ => true,
        };
        if wanted && self.notices.len() < MAX_NOTICES {
            self.notices.push((severity, SqlError::new(state, message)));
        }
    }

    /// Takes the settings over into what statements see of the session.
    fn settings_changed(&mut self) {
        self.context.settings = self.settings.values();
        self.context.application_name = self.settings.value("application_name").into();
        self.context.search_path = self.settings.value("search_path").into();
        self.context.time_zone = self.settings.time_zone();
    }

    /// A moment begins at which a client asks for something.
    fn tick(&mut self) {
        self.now = micros_since_2000();
    }

    /// A statement with what the session adds to it.
    fn call(&self, statement: &Statement, arguments: Arguments) -> Arc<Call> {
        let mut context = self.context.clone();
        context.statement_time = self.now;
        let is_idle = self.transaction.phase == Phase::Idle;
        context.transaction_time = if is_idle { self.now } else { self.transaction.time };
        Arc::new(Call {
            statement: statement.clone(),
            types: arguments.types,
            parameters: arguments.parameters,
            formats: arguments.formats,
            context,
        })
    }

    /// Keeps what a statement changed in the session.
    fn keep(&mut self, effects: &Effects) -> Result<(), SqlError> {
        if effects.is_empty() {
            return Ok(());
        }
        self.context.remember_sequences(effects);
        for (name, value, local) in &effects.settings {
            self.set(name, Some(value), *local)?;
        }
        Ok(())
    }

    /// The client is gone, or the server ends.
    pub async fn close(mut self) {
        self.backend.close().await;
    }
}

/// Microseconds since 2000-01-01 UTC.
fn micros_since_2000() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as i64 - EPOCH_2000 * 1_000_000
}

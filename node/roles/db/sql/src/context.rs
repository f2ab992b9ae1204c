//! What a statement knows of the session that it runs for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::types::Value;

use crate::TimeZone;
use crate::tape::Recorder;

/// The session, the moment and the place that a statement runs in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub application_name: Arc<str>,
    /// The name of the node that executes.
    pub node: Arc<str>,
    /// The session's settings (`SET`), by lower-case name, without those that have
    /// their default.
    pub settings: Arc<BTreeMap<String, String>>,
    /// The schemas in which names without a schema are looked for, as `SET
    /// search_path` gave them.
    pub search_path: Arc<str>,
    pub time_zone: TimeZone,
    /// Microseconds since 2000-01-01 UTC when the statement began.
    pub statement_time: i64,
    /// Microseconds since 2000-01-01 UTC when the transaction began: `now()`.
    pub transaction_time: i64,
    /// What `pg_backend_pid()` says.
    pub backend_pid: i32,
    /// Grows with each transaction: `txid_current()`.
    pub transaction_id: u64,
    /// Values of sequences that this session has taken, by sequence: `currval`.
    pub sequence_values: Arc<BTreeMap<String, i64>>,
    /// The sequence that `lastval` is about.
    pub last_sequence: Option<Arc<str>>,
    /// What functions have changed in the session while statements ran.
    pub effects: Effects,
}

/// What a statement changed in its session, to be kept by the session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// By `set_config`: name, value, only for the transaction.
    pub settings: Vec<(String, String, bool)>,
    /// By `nextval` and `setval`: sequence and value, in order.
    pub sequence_values: Vec<(String, i64)>,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.sequence_values.is_empty()
    }
}

impl Context {
    pub fn new(user: &str, database: &str) -> Self {
        Self {
            user: user.into(),
            database: database.into(),
            application_name: "".into(),
            node: "".into(),
            settings: Arc::default(),
            search_path: "\"$user\", public".into(),
            time_zone: TimeZone::utc(),
            statement_time: 0,
            transaction_time: 0,
            backend_pid: 0,
            transaction_id: 0,
            sequence_values: Arc::default(),
            last_sequence: None,
            effects: Effects::default(),
        }
    }

    /// Takes over what a statement changed. Settings are the session's own matter,
    /// since it knows which of them it checks or must undo.
    pub fn remember_sequences(&mut self, effects: &Effects) {
        for (sequence, value) in &effects.sequence_values {
            Arc::make_mut(&mut self.sequence_values).insert(sequence.clone(), *value);
            self.last_sequence = Some(sequence.as_str().into());
        }
    }

    /// Whether names without a schema are looked for in `schema`. The system's own
    /// schema always is.
    pub fn searches(&self, schema: &str) -> bool {
        schema == "pg_catalog"
            || self.search_path.split(',').any(|part| part.trim().trim_matches('"') == schema)
    }
}

/// The context of the statement that a connection runs now, for its functions.
#[derive(Clone, Debug)]
pub struct SharedContext {
    context: Arc<Mutex<Context>>,
    pub(crate) recorder: Recorder,
}

impl SharedContext {
    pub fn new(context: Context) -> Self {
        Self { context: Arc::new(Mutex::new(context)), recorder: Recorder::default() }
    }

    /// Locked only for the time of one function; the connection runs one at a time.
    pub fn lock(&self) -> MutexGuard<'_, Context> {
        self.context.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What differs from one execution to the next, such as the time: the same again, if
    /// a tape is played.
    pub(crate) fn fixed(&self, give: impl FnOnce() -> Value) -> Value {
        self.recorder.next().unwrap_or_else(|| {
            let value = give();
            self.recorder.keep(&value);
            value
        })
    }

    /// Another statement begins.
    pub fn set(&self, context: &Context) {
        self.lock().clone_from(context);
    }
}

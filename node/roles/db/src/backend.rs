//! What a session can have done, and where: on this node's copy, or at the end of a
//! link to the node that has the primary or a copy.

mod failure;
mod local;
mod route;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_shard::{Cancel, Token};
use rung_sql::{Complete, Context, Description, Formats, Parameters, PgType, Statement};
use tokio::sync::watch;

pub use failure::{Failure, outcome_unknown};
pub(crate) use local::LocalSession;
pub use route::Backend;

use crate::rows::Rows;

/// A statement with everything that its execution needs.
#[derive(Debug)]
pub struct Call {
    pub statement: Statement,
    pub types: Arc<[Option<PgType>]>,
    pub parameters: Parameters,
    pub formats: Formats,
    pub context: Context,
}

/// How fresh a read must be, and where it may be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Any,
    Bounded(Duration),
    /// At least as fresh as this, or as what the session's user has seen.
    Session(Option<Token>),
    Linearizable,
    /// At the primary, on what it has settled.
    Primary,
}

/// What must be opened before a statement is run in a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// The transaction is open.
    Nothing,
    Snapshot(Level),
    /// The writer, or a draft if the statement lets it, with so many savepoints set. With
    /// a snapshot open that is no draft it is refused if anything was committed since.
    Writer {
        savepoints: usize,
        /// What the transaction reads must be so when it ends.
        repeatable: bool,
    },
}

/// What a session asks of the node that executes. A description is made in the
/// transaction that is open, if one is; anything but that, [`Operation::Read`],
/// [`Operation::Write`] and [`Operation::Alone`] is about that transaction.
#[derive(Clone, Debug)]
pub enum Operation {
    Describe {
        call: Arc<Call>,
        level: Level,
    },
    /// Also COPY to the client.
    Read {
        call: Arc<Call>,
        level: Level,
    },
    /// As a transaction of its own.
    Write(Arc<Call>),
    /// Outside any transaction, with the database to itself: VACUUM.
    Alone(Arc<Call>),
    Run {
        call: Arc<Call>,
        open: Open,
    },
    /// Savepoints are known by their number, from 0.
    Savepoint(usize),
    Release(usize),
    RollbackTo(usize),
    /// Begins a COPY from the client. The answer's row count is the number of
    /// columns.
    CopyIn {
        call: Arc<Call>,
        open: Open,
    },
    CopyData(Bytes),
    CopyDone,
    Commit,
    Rollback,
}

impl Operation {
    /// Whether it may be done again after an unknown outcome.
    pub fn is_repeatable(&self) -> bool {
        matches!(self, Operation::Describe { .. } | Operation::Read { .. } | Operation::Rollback)
    }
}

/// What came of an operation.
#[derive(Debug)]
pub struct Answer {
    pub complete: Complete,
    pub rows: Rows,
    /// Of [`Operation::Describe`].
    pub description: Option<Description>,
    /// Where it stood.
    pub token: Option<Token>,
}

/// Until when, and whether still.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub deadline: Instant,
    pub cancel: Cancel,
    /// Changes when the client cancels.
    pub canceled: watch::Receiver<u64>,
}

impl Bounds {
    /// The time that is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Ends what a session is doing, from anywhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cancellation(Arc<watch::Sender<u64>>);

impl Default for Cancellation {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Cancellation {
    pub fn cancel(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// Requests that come from now on are seen by the receiver.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

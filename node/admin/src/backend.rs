//! What the admin API asks of the cluster behind it.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use rung_proto::api::{
    ArchiveContent, ArchiveRequest, ArchiveRestore, AuditEntry, BackupDone, BackupRequest,
    BundleStored, ChangeAnswer, ChangeRequest, ClusterRecovered, DatabaseTop, DatabaseUrl, EnvName,
    Event, Finding, LogLine, Operation, RecoverRequest, RestoreDone, ScrubRequested, ScrubStarted,
    Status, Tail, TailPage, TailReplayed, TailRequest, Token, TokenCreated, TokenRequest, Top,
};
use rung_proto::{Failure, OperationId, Role};
use tokio::sync::{mpsc, watch};

/// A future answer or refusal.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// Which log lines are asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogQuery {
    pub app: Option<String>,
    pub role: Option<Role>,
    /// Only those of this node.
    pub node: Option<String>,
    /// How many of the past, newest kept.
    pub lines: usize,
    /// Go on with new lines until the reader is gone.
    pub follow: bool,
}

/// The cluster as a node's admin API sees it.
///
/// Reads may be dropped at any await. Changes run in a task of their own and are
/// never dropped half way, whatever the client does; when one takes longer than
/// its deadline the client is told that the outcome is unknown.
pub trait Backend: Send + Sync + 'static {
    fn status(&self) -> Answer<'_, Status>;

    /// Plans or starts a change. `requested_by` is what the socket proves.
    fn change(&self, request: ChangeRequest) -> Answer<'_, ChangeAnswer>;

    /// An operation, or [`rung_proto::Code::NotFound`].
    fn operation(&self, id: OperationId) -> Answer<'_, Operation>;

    /// Running and recent operations, the newest last.
    fn operations(&self) -> Answer<'_, Vec<Operation>>;

    /// Events after an index, the oldest first. All events of one index are
    /// returned together, or a reader that continues after it misses some.
    fn events(&self, since: u64) -> Answer<'_, Vec<Event>>;

    /// Changes whenever operations or events may have; streams wait on it. The
    /// value itself has no meaning.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Log lines. The stream ends when the sender is dropped, and the sender
    /// must stop when the receiver is.
    fn logs(&self, query: LogQuery) -> Answer<'_, mpsc::Receiver<LogLine>>;

    fn top(&self) -> Answer<'_, Top>;
    fn audit(&self) -> Answer<'_, Vec<AuditEntry>>;
    fn doctor(&self) -> Answer<'_, Vec<Finding>>;

    /// The names of an app's variables; never their values.
    fn env(&self, app: String) -> Answer<'_, Vec<EnvName>>;

    /// What clients of the databases do.
    fn database_top(&self) -> Answer<'_, DatabaseTop>;

    /// Writes a backup of a database to this machine.
    fn back_up(&self, database: String, request: BackupRequest) -> Answer<'_, BackupDone>;

    /// Puts a backup in the place of what a database holds.
    fn restore(&self, database: String, request: BackupRequest) -> Answer<'_, RestoreDone>;

    /// What copies of former generations of a database have left, on all nodes.
    fn tails(&self, database: String) -> Answer<'_, Vec<Tail>>;
    /// One of them, with its first lines.
    fn tail(&self, database: String, file: String) -> Answer<'_, TailPage>;
    /// Brings the rows of one back where nothing else has happened to them.
    fn replay_tail(&self, database: String, request: TailRequest) -> Answer<'_, TailReplayed>;
    /// Makes the control group anew from this node's log.
    fn recover(&self, request: RecoverRequest) -> Answer<'_, ClusterRecovered>;
    /// Puts what a database was at a moment in the place of what it holds.
    fn restore_archive(&self, database: String, request: ArchiveRestore)
    -> Answer<'_, RestoreDone>;

    /// Begins to compare all copies of a database.
    fn scrub(&self, database: String, request: ScrubRequested) -> Answer<'_, ScrubStarted>;

    /// What can be restored from an archive on this machine.
    fn archive(&self, request: ArchiveRequest) -> Answer<'_, ArchiveContent>;

    /// How programs on this node reach a database.
    fn database_url(&self, database: String) -> Answer<'_, DatabaseUrl>;

    fn tokens(&self) -> Answer<'_, Vec<Token>>;
    fn create_token(&self, request: TokenRequest) -> Answer<'_, TokenCreated>;
    fn revoke_token(&self, id: String, requested_by: String) -> Answer<'_, Token>;

    /// Checks and stores an uploaded bundle. The file may be moved away; what is
    /// left of it is removed afterwards.
    fn put_bundle(&self, file: PathBuf) -> Answer<'_, BundleStored>;

    /// Whether this node can do its part, or the reasons why not.
    ///
    /// # Errors
    /// The reasons, one sentence each.
    fn ready(&self) -> Result<(), Vec<String>>;

    /// Appends metrics in the Prometheus text format, see [`crate::prometheus`].
    fn metrics(&self, out: &mut String);
}

//! A replica that this node dropped once and is sent again.
//!
//! What a replica has acknowledged, others count on. One that dropped its log has
//! forgotten it, the changes of the voters among it. While it is sent the log
//! again, the newest membership that it has may be one of the past, in which it
//! was alone, or in which those who have forgotten as much as it did were a
//! majority; they would elect one of them and write another history. So two things
//! are left of a dropped log: its vote, which keeps leaders of the past away, and
//! a mark. A replica with the mark gives no votes and asks for none, and a leader
//! waits until it is gone before it makes the node a voter.
//!
//! The mark goes when the replica has applied everything that a leader had
//! committed, told when that leader had committed an entry of its own term. What
//! was committed in any term before is then below it, the change that let this
//! node drop its log included.
//!
//! A replica that was never here has promised nothing and needs none of this.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftMetrics;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::log::GroupLog;
use crate::raft_types::Types;

/// Whether a replica has yet to return. Clones share it.
#[derive(Clone)]
pub(crate) struct Returning(Arc<watch::Sender<bool>>);

impl Returning {
    pub(crate) fn new(returns: bool) -> Self {
        Self(Arc::new(watch::Sender::new(returns)))
    }

    /// Whether the replica must stay out of elections.
    pub(crate) fn is_true(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it need not any more, and says whether that came in time.
    pub(crate) async fn ends_within(&self, deadline: Duration) -> bool {
        let mut returning = self.0.subscribe();
        let ended = returning.wait_for(|returning| !returning);
        matches!(timeout(deadline, ended).await, Ok(Ok(_)))
    }
}

/// Sees a replica return.
pub(crate) struct Return {
    log: GroupLog,
    returning: Returning,
    /// What must be applied here.
    goal: Option<u64>,
}

impl Return {
    pub(crate) fn new(log: GroupLog, returning: Returning) -> Self {
        Self { log, returning, goal: None }
    }

    /// Looks at a report of the protocol. Says whether the replica is complete
    /// and still has its mark.
    pub(crate) fn is_due(&mut self, report: &RaftMetrics<Types>) -> bool {
        if !self.returning.is_true() {
            return false;
        }
        if self.goal.is_none() && report.vote.is_committed() {
            let term = report.vote.leader_id.term;
            let committed = report.cluster_committed.as_ref();
            self.goal = committed.filter(|id| id.leader_id.term == term).map(|id| id.index);
        }
        let applied = report.last_applied.as_ref().map(|id| id.index);
        self.goal.is_some() && applied >= self.goal
    }

    /// Takes the mark away, first on the disk.
    ///
    /// # Errors
    /// When the log fails, which also stops the group.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        self.log.has_returned().await?;
        self.returning.0.send_replace(false);
        Ok(())
    }
}

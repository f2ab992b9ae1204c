//! One group on this node.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, ForwardReason, LinearizableReadError, RaftError,
};
use openraft::impls::EmptyNode;
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{ChangeMembers, Raft, ServerState};
use rung_proto::{GroupId, NodeId};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::GroupConfig;
use crate::entry;
use crate::error::{ChangeError, ProposeError, ReadError, Refusal};
use crate::log::GroupLog;
use crate::message::{Answer, Ballot, Request};
use crate::peer::Peers;
use crate::raft_types::{RaftEntry, Types, log_id, position};
use crate::replica::{self, Replica, Unused};
use crate::returning::Returning;
use crate::snapshot_store::SnapshotStore;
use crate::state_machine::Landing;
use crate::status::GroupStatus;

/// Between two questions to a replica that does not answer.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A proposal that was committed and applied on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// What the state machine answered.
    pub answer: Bytes,
}

/// One group on this node. Clones are the same group.
#[derive(Clone)]
pub struct Group(pub(crate) Arc<GroupInner>);

pub(crate) struct GroupInner {
    pub(crate) node: NodeId,
    pub(crate) config: GroupConfig,
    pub(crate) raft: Raft<Types, Replica>,
    pub(crate) peers: Peers,
    pub(crate) log: GroupLog,
    pub(crate) store: SnapshotStore,
    pub(crate) status: watch::Receiver<GroupStatus>,
    pub(crate) returning: Returning,
    /// When the leader last sent something.
    pub(crate) heard: Mutex<Option<Instant>>,
    /// Where snapshots land, if not in files.
    pub(crate) landing: Option<Arc<dyn Landing>>,
    pub(crate) machine_in_use: Weak<watch::Sender<()>>,
    pub(crate) machine_unused: Unused,
    pub(crate) files_unused: Unused,
    pub(crate) waiting: Semaphore,
    pub(crate) waiting_bytes: Semaphore,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} {})", self.0.config.group, self.0.config.name)
    }
}

pub(crate) fn known_leader(leader: Option<u64>) -> Option<NodeId> {
    leader.map(NodeId)
}

impl Group {
    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.0.config.group
    }

    /// How it behaves.
    pub fn config(&self) -> &GroupConfig {
        &self.0.config
    }

    /// How the group is doing on this node, now and after every change.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.0.status.clone()
    }

    /// Proposes an entry and waits until it is committed and applied here. Only
    /// the leader can propose. The answer comes when a quorum has the entry on
    /// its disks.
    ///
    /// # Errors
    /// All but [`ProposeError::OutcomeUnknown`] say that the entry was not
    /// proposed. When the deadline passes, or the future is dropped, the entry
    /// may still be applied later.
    pub async fn propose(
        &self,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        let until = Instant::now() + deadline;
        let inner = &*self.0;
        let limit = inner.config.max_payload;
        if payload.len() > limit {
            return Err(ProposeError::TooLarge { bytes: payload.len(), limit });
        }
        self.may_propose()?;
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let _turn = inner.waiting.try_acquire().map_err(|_| ProposeError::Overloaded)?;
        let _room =
            inner.waiting_bytes.try_acquire_many(size).map_err(|_| ProposeError::Overloaded)?;
        let write = inner.raft.client_write(entry::proposal(&payload));
        match timeout_at(until, write).await {
            Ok(Ok(response)) => {
                Ok(Applied { index: response.log_id.index, answer: replica::answer(response.data) })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))))
                if to.reason == ForwardReason::LeaseExpired =>
            {
                let millis = self.0.status.borrow().millis_since_quorum().unwrap_or_default();
                Err(ProposeError::NoQuorum { millis })
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader { leader: known_leader(to.leader_id) })
            }
            // Both when the group stops with the entry in its log and when the
            // entry gave way to another leader's.
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// Refuses early, while it is certain that nothing was proposed.
    fn may_propose(&self) -> Result<(), ProposeError> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        if let Err(fatal) = &metrics.running_state {
            return Err(ProposeError::Stopped(fatal.to_string()));
        }
        if metrics.state != ServerState::Leader {
            return Err(ProposeError::NotLeader { leader: known_leader(metrics.current_leader) });
        }
        Ok(())
    }

    /// Waits until everything that was committed when this was called is
    /// applied here, so that a read of the state machine after it is
    /// linearizable. On a follower or learner the leader is asked. Returns the
    /// index that the read will have seen at least.
    ///
    /// # Errors
    /// When the leader, or its quorum, does not answer in time.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<u64, ReadError> {
        let until = Instant::now() + deadline;
        let index = match self.read_index(deadline).await {
            Err(ReadError::NotLeader { leader: Some(leader) }) if leader != self.0.node => {
                let left = until.saturating_duration_since(Instant::now());
                self.read_index_of(leader, left).await?
            }
            other => other?,
        };
        let Some(index) = index else { return Ok(0) };
        self.wait_until_applied(index, until).await?;
        Ok(index)
    }

    async fn read_index(&self, deadline: Duration) -> Result<Option<u64>, ReadError> {
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(deadline);
        match tokio::time::timeout(deadline, self.0.raft.get_read_linearizer(option)).await {
            Err(_) => Err(ReadError::Deadline),
            Ok(Ok(linearizer)) => Ok(Some(linearizer.read_log_id().index())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader { leader: known_leader(to.leader_id) })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)))) => {
                Err(ReadError::NoQuorum(error.to_string()))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped(fatal.to_string())),
        }
    }

    async fn read_index_of(
        &self,
        leader: NodeId,
        deadline: Duration,
    ) -> Result<Option<u64>, ReadError> {
        match self.0.peers.read_index(leader, deadline).await {
            Ok(Answer::ReadAt(index)) => Ok(index),
            Ok(Answer::NotLeader(leader)) => Err(ReadError::NotLeader { leader }),
            Ok(other) => Err(ReadError::NoQuorum(format!("{other:?}"))),
            Err(error) => Err(ReadError::NoQuorum(error)),
        }
    }

    async fn wait_until_applied(&self, index: u64, until: Instant) -> Result<(), ReadError> {
        let left = until.saturating_duration_since(Instant::now());
        let wait = self.0.raft.wait(Some(left));
        match wait.applied_index_at_least(Some(index), "a read").await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(ReadError::Deadline),
            Err(WaitError::ShuttingDown) => Err(ReadError::Stopped("it was closed".to_owned())),
        }
    }

    /// Lets a node follow the group without voting. It must have opened the
    /// group itself. Returns when the change is committed, not when the node has
    /// caught up: see [`Group::wait_until_caught_up`].
    ///
    /// # Errors
    /// Only the leader can do this.
    pub async fn add_learner(&self, node: NodeId, deadline: Duration) -> Result<(), ChangeError> {
        let change = self.0.raft.add_learner(node.0, EmptyNode {}, false);
        self.changed(tokio::time::timeout(deadline, change).await)
    }

    /// Removes a node that follows without voting.
    ///
    /// # Errors
    /// Only the leader can do this.
    pub async fn remove_learner(
        &self,
        node: NodeId,
        deadline: Duration,
    ) -> Result<(), ChangeError> {
        let members = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let change = self.0.raft.change_membership(members, false);
        self.changed(tokio::time::timeout(deadline, change).await)
    }

    /// Makes exactly these nodes the voters, by way of a joint membership. New
    /// ones must be learners and should have caught up; those who are no voters
    /// any more leave the group.
    ///
    /// # Errors
    /// Only the leader can do this. A change that was interrupted, by the loss
    /// of the leader for example, is finished by asking for the same again.
    pub async fn change_voters(
        &self,
        voters: &BTreeSet<NodeId>,
        deadline: Duration,
    ) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
        let change = self.0.raft.change_membership(voters, false);
        self.changed(tokio::time::timeout(deadline, change).await)
    }

    fn changed<T>(
        &self,
        result: Result<
            Result<T, RaftError<Types, ClientWriteError<Types>>>,
            tokio::time::error::Elapsed,
        >,
    ) -> Result<(), ChangeError> {
        let error = match result {
            Ok(Ok(_)) => return Ok(()),
            Err(_) => return Err(ChangeError::OutcomeUnknown),
            Ok(Err(RaftError::Fatal(fatal))) => {
                return Err(ChangeError::Stopped(fatal.to_string()));
            }
            Ok(Err(RaftError::APIError(error))) => error,
        };
        Err(match error {
            ClientWriteError::ForwardToLeader(to) => {
                ChangeError::NotLeader { leader: known_leader(to.leader_id) }
            }
            ClientWriteError::ChangeMembershipError(
                error @ (ChangeMembershipError::InProgress(_)
                | ChangeMembershipError::UncommittedLeaderLog(_)),
            ) => ChangeError::InProgress(error.to_string()),
            ClientWriteError::ChangeMembershipError(error) => {
                ChangeError::Invalid(error.to_string())
            }
            ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => {
                ChangeError::OutcomeUnknown
            }
        })
    }

    /// Waits until a node has everything on its disk that the log held when this
    /// was called, and may vote.
    ///
    /// # Errors
    /// When this node does not lead, or the deadline passes.
    pub async fn wait_until_caught_up(
        &self,
        node: NodeId,
        deadline: Duration,
    ) -> Result<(), ChangeError> {
        let until = Instant::now() + deadline;
        let mut status = self.0.status.clone();
        let target = status.borrow().last;
        let caught_up = status.wait_for(|status| {
            !status.is_leader()
                || status.matched.get(&node).is_some_and(|matched| *matched >= target)
        });
        match timeout_at(until, caught_up).await {
            Err(_) => return Err(ChangeError::OutcomeUnknown),
            Ok(Err(_)) => return Err(ChangeError::Stopped("it was closed".to_owned())),
            Ok(Ok(status)) if status.is_leader() => {}
            Ok(Ok(status)) => return Err(ChangeError::NotLeader { leader: status.leader }),
        }
        self.wait_until_complete(node, until).await
    }

    async fn wait_until_complete(&self, node: NodeId, until: Instant) -> Result<(), ChangeError> {
        if node == self.0.node {
            return Ok(());
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ChangeError::OutcomeUnknown);
            }
            // A question may be lost, so it is asked again.
            let once = left.min(self.0.config.election_max());
            if self.0.peers.is_complete(node, once).await {
                return Ok(());
            }
            sleep(ASK_AGAIN.min(left)).await;
        }
    }

    /// Hands the leadership to another voter and waits until it leads.
    /// Proposals meanwhile are refused with [`ProposeError::NotLeader`]; none is
    /// lost.
    ///
    /// # Errors
    /// When this node does not lead, `to` does not vote, or it does not lead in
    /// time; the old leader may then go on.
    pub async fn transfer_leader(&self, to: NodeId, deadline: Duration) -> Result<(), ChangeError> {
        let until = Instant::now() + deadline;
        let mut status = self.0.status.clone();
        {
            let now = status.borrow_and_update();
            if !now.is_leader() {
                return Err(ChangeError::NotLeader { leader: now.leader });
            }
            if !now.voters.contains(&to) {
                return Err(ChangeError::Invalid(format!("node {to} does not vote in the group")));
            }
        }
        if to == self.0.node {
            return Ok(());
        }
        let asked = self.0.raft.trigger().transfer_leader(to.0).await;
        asked.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))?;
        let leads = status.wait_for(|status| status.leader == Some(to));
        match timeout_at(until, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ChangeError::Stopped("it was closed".to_owned())),
            Err(_) => Err(ChangeError::OutcomeUnknown),
        }
    }

    /// Bytes of snapshots that this replica has received, verified, taken over or
    /// written since it was opened: while it rises, something is under way.
    pub fn snapshot_bytes(&self) -> u64 {
        self.0.store.handled()
    }

    fn hear(&self) {
        *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The leader that this voter follows, and how long it has sent nothing.
    pub fn silent_leader(&self) -> Option<(NodeId, Duration)> {
        let leader = {
            let status = self.0.status.borrow();
            let votes = status.voters.contains(&self.0.node);
            status.leader.filter(|leader| votes && *leader != self.0.node)?
        };
        let heard = *self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Some((leader, heard?.elapsed()))
    }

    /// A hint that the leader's process has ended. This voter waits for it no longer:
    /// it grants votes at once, and with `stands` it asks for them. A majority that
    /// still hears the leader keeps it, so a hint that is wrong costs a question.
    pub async fn suspect_leader(&self, leader: NodeId, stands: bool) {
        let vote = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(leader.0) || leader == self.0.node {
                return;
            }
            metrics.vote
        };
        // Sent to ourselves and naming another: its only effect is that the lease of
        // this leader is over here.
        let lets_go = TransferLeaderRequest::new(vote, leader.0, None);
        let suspected = self.0.raft.handle_transfer_leader(lets_go).await;
        let suspected = match suspected {
            Ok(_) if stands && !self.0.returning.is_true() => {
                self.0.raft.trigger().elect(true).await
            }
            other => other.map(drop),
        };
        if let Err(error) = suspected {
            tracing::debug!(group = %self.id(), %error, "the group ended before an election");
        }
    }

    /// Makes a snapshot of what is applied now and waits until it is written.
    ///
    /// # Errors
    /// When the deadline passes or the group stops.
    pub async fn snapshot_now(&self, deadline: Duration) -> Result<(), ChangeError> {
        let until = Instant::now() + deadline;
        let mut status = self.0.status.clone();
        let applied = status.borrow().applied;
        let asked = self.0.raft.trigger().snapshot().await;
        asked.map_err(|fatal| ChangeError::Stopped(fatal.to_string()))?;
        let written = status.wait_for(|status| status.snapshot >= applied);
        match timeout_at(until, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ChangeError::Stopped("it was closed".to_owned())),
            Err(_) => Err(ChangeError::OutcomeUnknown),
        }
    }

    /// Works on a request of another replica.
    pub(crate) async fn answer(
        &self,
        from: NodeId,
        request: Request,
        entries: Vec<RaftEntry>,
    ) -> Result<Answer, Refusal> {
        let raft = &self.0.raft;
        let stopped = |error: RaftError<Types>| Refusal::Stopped(error.to_string());
        match request {
            Request::Vote { .. } | Request::PreVote { .. } | Request::Transfer { .. }
                if self.0.returning.is_true() =>
            {
                Err(Refusal::Returning)
            }
            Request::Append { ballot, previous, commit, .. } => {
                speaks_for_itself(from, &ballot)?;
                self.hear();
                let rpc = AppendEntriesRequest {
                    vote: ballot.into(),
                    prev_log_id: previous.map(log_id),
                    entries,
                    leader_commit: commit.map(log_id),
                };
                raft.append_entries(rpc).await.map(append_answer).map_err(stopped)
            }
            Request::Vote { ballot, last, transfer } => {
                speaks_for_itself(from, &ballot)?;
                let rpc = vote_request(ballot, last, transfer);
                raft.vote(rpc).await.map(|vote| vote_answer(&vote)).map_err(stopped)
            }
            Request::PreVote { ballot, last, transfer } => {
                speaks_for_itself(from, &ballot)?;
                let rpc = vote_request(ballot, last, transfer);
                raft.pre_vote(rpc).await.map(|vote| vote_answer(&vote)).map_err(stopped)
            }
            Request::Transfer { ballot, to, last } => {
                speaks_for_itself(from, &ballot)?;
                let rpc = TransferLeaderRequest::new(ballot.into(), to.0, last.map(log_id));
                let answer = raft.handle_transfer_leader(rpc).await;
                let answer = answer.map_err(|fatal| Refusal::Stopped(fatal.to_string()))?;
                Ok(transfer_answer(answer))
            }
            Request::ReadIndex { deadline_ms } => {
                let deadline = Duration::from_millis(u64::from(deadline_ms));
                match self.read_index(deadline).await {
                    Ok(index) => Ok(Answer::ReadAt(index)),
                    Err(ReadError::NotLeader { leader }) => Ok(Answer::NotLeader(leader)),
                    Err(ReadError::Stopped(why)) => Err(Refusal::Stopped(why)),
                    Err(ReadError::NoQuorum(_) | ReadError::Deadline) => Ok(Answer::NoQuorum),
                }
            }
            Request::IsComplete { deadline_ms } => {
                let deadline = Duration::from_millis(u64::from(deadline_ms));
                Ok(Answer::Complete(self.0.returning.ends_within(deadline).await))
            }
        }
    }
}

fn speaks_for_itself(from: NodeId, ballot: &Ballot) -> Result<(), Refusal> {
    if ballot.node == from { Ok(()) } else { Err(Refusal::Impersonation) }
}

fn vote_request(
    ballot: Ballot,
    last: Option<crate::status::Position>,
    transfer: bool,
) -> VoteRequest<Types> {
    let mut request = VoteRequest::new(ballot.into(), last.map(log_id));
    request.leadership_transfer = transfer;
    request
}

fn append_answer(response: AppendEntriesResponse<Types>) -> Answer {
    match response {
        AppendEntriesResponse::Success => Answer::Appended,
        AppendEntriesResponse::PartialSuccess(last) => {
            Answer::AppendedUpTo(last.as_ref().map(position))
        }
        AppendEntriesResponse::Conflict => Answer::Conflict,
        AppendEntriesResponse::HigherVote(vote) => Answer::Higher((&vote).into()),
    }
}

fn vote_answer(response: &VoteResponse<Types>) -> Answer {
    Answer::Vote {
        ballot: (&response.vote).into(),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(position),
    }
}

fn transfer_answer(response: Result<(), TransferLeaderError<Types>>) -> Answer {
    match response {
        Ok(()) => Answer::Transferring,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            Answer::TransferVoteChanged { expected: (&expected).into(), actual: (&actual).into() }
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            Answer::TransferNotFlushed {
                expected: expected.as_ref().map(position),
                actual: actual.as_ref().map(position),
            }
        }
    }
}

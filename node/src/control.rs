//! This node's way to the control group: its own replica if it has one, the
//! leader wherever it is.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rung_consensus::{Consensus, Group, GroupConfig, GroupStatus, OpenError, ProposeError};
use rung_control_plane::sealed::ClusterKey;
use rung_control_plane::{Answer, Command, Outcome, Proposal, State};
use rung_membership::{MemberState, Membership};
use rung_proto::{Code, Failure, GroupId, NodeId, encoding};
use rung_runtime::{ActorAddress, CallOptions, RemoteError, Retry};
use rung_transport::{CallError, Lane, Mesh};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::now_ms;
use crate::control_machine::{ControlMachine, Published};
use crate::data_dir::DataDir;
use crate::protocol::{
    ControlGroupRequest, LeaderAnswer, LeaderReply, LeaderRequest, Leadership, actor, service,
};
use crate::request_actors;

mod generation;

pub use generation::Generations;

/// The control group is the first of a cluster's groups.
pub const GROUP: GroupId = GroupId(0);
/// How long a proposal may wait for its quorum.
pub const PROPOSE: Duration = Duration::from_secs(10);
/// How long one attempt to ask the leader may take.
pub const ASK: Duration = Duration::from_secs(12);
/// How long to look for a leader before giving up.
const FIND_LEADER: Duration = Duration::from_secs(8);
const KEY_FILE: &str = "secrets/cluster.key";

/// Clones are the same handle.
#[derive(Clone)]
pub struct Control {
    node: NodeId,
    consensus: Consensus,
    mesh: Mesh,
    membership: Membership,
    data: Arc<DataDir>,
    published: Published,
    leadership: watch::Sender<Leadership>,
    key: Arc<RwLock<Option<ClusterKey>>>,
    /// Held while the replica is opened or given up.
    replica: Arc<Mutex<()>>,
    generations: watch::Sender<Generations>,
}

fn group_config() -> GroupConfig {
    let mut config = GroupConfig::new(GROUP, "control");
    config.snapshot_entries = 5_000;
    config
}

fn open_failure(error: &OpenError) -> Failure {
    let code = match error {
        OpenError::Damaged { .. } => Code::DataCorrupt,
        OpenError::AlreadyOpen(_) | OpenError::Config { .. } => Code::Internal,
        OpenError::Failed { .. } => Code::DiskFailed,
    };
    Failure::new(code, "the control group could not be opened on this node").because(error)
}

impl Control {
    /// A handle without a replica. `published` holds what is known from before.
    ///
    /// # Errors
    /// When the stored cluster key is damaged.
    pub fn new(
        node: NodeId,
        consensus: Consensus,
        mesh: Mesh,
        membership: Membership,
        data: Arc<DataDir>,
        published: Published,
        generations: Generations,
    ) -> Result<Self, Failure> {
        let stored: Option<[u8; 32]> = match std::fs::read(data.join(KEY_FILE)) {
            Ok(bytes) => Some(bytes.try_into().map_err(|_| {
                Failure::new(Code::DataCorrupt, "the stored cluster key is damaged")
            })?),
            Err(_) => None,
        };
        let key = Arc::new(RwLock::new(stored.map(ClusterKey::from_bytes)));
        let leadership = watch::Sender::new(Leadership::default());
        Ok(Self {
            node,
            consensus,
            mesh,
            membership,
            data,
            published,
            leadership,
            key,
            replica: Arc::default(),
            generations: watch::Sender::new(generations),
        })
    }

    pub fn state(&self) -> Arc<State> {
        self.published.current()
    }

    pub fn watch_state(&self) -> watch::Receiver<Arc<State>> {
        self.published.state.subscribe()
    }

    pub fn published(&self) -> &Published {
        &self.published
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Records who votes and leads, as a peer that follows more closely says.
    pub fn learn_leadership(&self, learned: Leadership) {
        self.leadership.send_if_modified(|known| {
            let age = |it: &Leadership| (it.generation, it.term, it.leader.is_some());
            let newer = age(&learned) >= age(known);
            let differs = *known != learned;
            if newer && differs {
                *known = learned;
            }
            newer && differs
        });
    }

    /// This node's replica, if it has one that works.
    pub fn group(&self) -> Option<Group> {
        self.consensus.group(GROUP)
    }

    pub fn cluster_key(&self) -> Option<ClusterKey> {
        match self.key.read() {
            Ok(key) => key.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }

    /// Keeps the key that opens the control group's secrets.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keep_key(&self, key: ClusterKey) -> Result<(), Failure> {
        self.data.write_private(KEY_FILE, key.as_bytes())?;
        match self.key.write() {
            Ok(mut kept) => *kept = Some(key),
            Err(poisoned) => *poisoned.into_inner() = Some(key),
        }
        Ok(())
    }

    /// Makes the control group, with this node as its only voter.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub async fn create(&self) -> Result<(), Failure> {
        let machine = ControlMachine::new(self.published.clone());
        let group = self
            .consensus
            .create(group_config(), machine, &BTreeSet::from([self.node]))
            .await
            .map_err(|error| open_failure(&error))?;
        self.follow_group(group);
        Ok(())
    }

    /// Opens this node's replica, or makes an empty one for the leader to fill.
    ///
    /// # Errors
    /// When the log is damaged or cannot be written.
    pub async fn open(&self) -> Result<(), Failure> {
        let _alone = self.replica.lock().await;
        if self.group().is_some() {
            return Ok(());
        }
        self.open_replica().await
    }

    /// With the lock held.
    async fn open_replica(&self) -> Result<(), Failure> {
        self.refuse_sealed()?;
        let machine = ControlMachine::new(self.published.clone());
        let group = self
            .consensus
            .open(group_config(), machine)
            .await
            .map_err(|error| open_failure(&error))?;
        self.follow_group(group);
        Ok(())
    }

    /// Gives this node's replica up. The leader says so once it votes no more.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn leave_group(&self) -> Result<(), Failure> {
        let _alone = self.replica.lock().await;
        self.drop_replica().await?;
        tracing::info!("this node votes in the control group no more");
        Ok(())
    }

    /// With the lock held.
    async fn drop_replica(&self) -> Result<(), Failure> {
        self.consensus.remove(GROUP).await.map_err(|error| open_failure(&error))?;
        // Who does not vote has no business with secrets.
        match self.published.secrets.write() {
            Ok(mut secrets) => *secrets = Default::default(),
            Err(poisoned) => *poisoned.into_inner() = Default::default(),
        }
        match self.key.write() {
            Ok(mut key) => *key = None,
            Err(poisoned) => *poisoned.into_inner() = None,
        }
        self.data.remove(KEY_FILE)
    }

    /// Keeps the leadership up to date from the replica, until it is closed.
    fn follow_group(&self, group: Group) {
        let leadership = self.leadership.clone();
        let generation = self.generation();
        let mut status = group.status();
        tokio::spawn(async move {
            loop {
                let now = leadership_of(&status.borrow_and_update(), generation);
                leadership.send_if_modified(|known| {
                    // An empty replica knows nothing yet.
                    let useful = !now.voters.is_empty();
                    let differs = useful && *known != now;
                    if differs {
                        known.clone_from(&now);
                    }
                    differs
                });
                if status.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Proposes a command on this node, which must lead.
    ///
    /// # Errors
    /// The refusal of the state machine, or why it was not committed.
    pub async fn propose(
        &self,
        command: Command,
        by: &str,
        if_index: Option<u64>,
    ) -> Result<Answer, ProposeFailure> {
        let Some(group) = self.group() else {
            return Err(ProposeFailure::NotLeader(self.leadership().leader));
        };
        let proposal = Proposal { at_ms: now_ms(), if_index, by: by.to_owned(), command };
        let payload = Bytes::from(encoding::encode(&proposal));
        match group.propose(payload, PROPOSE).await {
            Ok(applied) => {
                let outcome: Outcome = encoding::decode(&applied.answer).map_err(|error| {
                    let failure = Failure::new(Code::Internal, "an outcome cannot be read");
                    ProposeFailure::Refused(failure.because(error))
                })?;
                outcome.map_err(ProposeFailure::Refused)
            }
            Err(ProposeError::NotLeader { leader }) => Err(ProposeFailure::NotLeader(leader)),
            Err(error) => Err(ProposeFailure::Refused(Failure::from(&error))),
        }
    }

    /// Asks the leader, wherever it is; looks for it for a while when nobody
    /// leads. `ask_here` asks this node itself.
    ///
    /// # Errors
    /// The leader's refusal, `no-quorum` when none is found, `overloaded` when it
    /// has too much to do, `outcome-unknown` when it was asked and did not answer.
    pub async fn ask_leader<F, Fut>(
        &self,
        request: &LeaderRequest,
        ask_here: F,
    ) -> Result<LeaderAnswer, Failure>
    where
        F: Fn(LeaderRequest) -> Fut,
        Fut: Future<Output = Result<LeaderReply, RemoteError>>,
    {
        let give_up = Instant::now() + FIND_LEADER;
        let mut hint = self.answering_leader();
        let mut tried = BTreeSet::new();
        let mut last = String::from("nobody is known to lead the control group");
        loop {
            let target = hint.or_else(|| self.next_to_ask(&tried));
            if let Some(target) = target {
                tried.insert(target);
                let reply = if target == self.node {
                    ask_here(request.clone()).await
                } else {
                    self.ask_node(target, request).await
                };
                hint = None;
                match reply {
                    Ok(LeaderReply::Answer(answer)) => return Ok(*answer),
                    Ok(LeaderReply::Refused(failure)) => return Err(failure),
                    Ok(LeaderReply::NotLeader { leader }) => {
                        hint = leader.filter(|leader| *leader != target && self.answers(*leader));
                    }
                    // Looking for another leader would add to its load.
                    Err(error) if error.is_overloaded() => return Err(overloaded(&error)),
                    Err(error) if error.outcome_unknown() && !request.is_idempotent() => {
                        return Err(unknown_outcome(&error));
                    }
                    Err(error) => {
                        last = format!("{}: {error}", self.state().node_name(target));
                    }
                }
            } else {
                tried.clear();
            }
            if Instant::now() >= give_up {
                return Err(no_leader(&last));
            }
            if hint.is_none() {
                self.wait_for_leader().await;
                hint = self.answering_leader().filter(|leader| !tried.contains(leader));
            }
        }
    }

    /// The known leader, unless it is suspected: what is asked of a node that
    /// does not answer has an unknown outcome, and another may lead already.
    fn answering_leader(&self) -> Option<NodeId> {
        self.leadership().leader.filter(|leader| self.answers(*leader))
    }

    /// Whether nothing speaks against asking a node.
    pub fn answers(&self, node: NodeId) -> bool {
        let state = self.membership.view().state(node);
        state.is_none_or(|state| state == MemberState::Alive)
    }

    /// A voter that was not asked yet in this round.
    fn next_to_ask(&self, tried: &BTreeSet<NodeId>) -> Option<NodeId> {
        let untried = |voter: &NodeId| !tried.contains(voter) && self.answers(*voter);
        self.leadership().voters.into_iter().find(untried)
    }

    /// Returns once a node is suspected or worse.
    pub async fn stops_answering(&self, node: NodeId) {
        let mut members = self.membership.watch();
        let doubted = members
            .wait_for(|view| view.state(node).is_some_and(|state| state != MemberState::Alive));
        // An error means that this node is ending.
        let _ = doubted.await;
    }

    /// Until the leadership changes, or a moment has passed.
    async fn wait_for_leader(&self) {
        let mut changes = self.leadership.subscribe();
        changes.mark_unchanged();
        // Both ends of this wait are followed by another look.
        let _ = timeout(Duration::from_millis(100), changes.changed()).await;
    }

    async fn ask_node(
        &self,
        node: NodeId,
        request: &LeaderRequest,
    ) -> Result<LeaderReply, RemoteError> {
        self.call_actor(node, actor::LEADER_REQUESTS, request, ASK).await
    }

    /// Calls an actor of the role control on another node, in the newest start of
    /// that node that is known here. After a restart it refuses, and nothing was
    /// done, until membership has told of it.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer in time, or refuses.
    pub async fn call_actor<Req: Serialize, Resp: DeserializeOwned>(
        &self,
        node: NodeId,
        name: &str,
        request: &Req,
        deadline: Duration,
    ) -> Result<Resp, RemoteError> {
        let seen = self.membership.view().members.get(&node).map(|member| member.incarnation);
        let recorded = self.state().nodes.get(&node).map(|record| record.incarnation);
        let to = ActorAddress {
            node,
            incarnation: seen.max(recorded).unwrap_or_default(),
            role: Some(request_actors::ROLE),
            name: name.to_owned(),
        };
        let (service, lane, retry) = (service::ACTORS, Lane::Calls, Retry::Never);
        let options = CallOptions { service, lane, deadline, retry };
        rung_runtime::call(&self.mesh, &to, request, options).await
    }

    /// Asks a node, and whom it names as the leader, who takes part in the
    /// control group. This node's own idea of that may be an old one.
    pub async fn ask_member(&self, node: NodeId) -> Option<Vec<NodeId>> {
        let mut target = node;
        for _ in 0..2 {
            match self.ask_node(target, &LeaderRequest::Members).await.ok()? {
                LeaderReply::Answer(answer) => match *answer {
                    LeaderAnswer::Members(members) => return Some(members),
                    _ => return None,
                },
                LeaderReply::NotLeader { leader } => {
                    target = leader.filter(|leader| *leader != self.node)?;
                }
                LeaderReply::Refused(_) => return None,
            }
        }
        None
    }

    /// Tells a node to open its replica of the control group or to give it up.
    ///
    /// # Errors
    /// When it cannot be reached, does not answer, or fails.
    pub async fn tell_member(
        &self,
        node: NodeId,
        request: &ControlGroupRequest,
    ) -> Result<(), CallError> {
        let body = Bytes::from(encoding::encode(request));
        let deadline = Duration::from_secs(5);
        self.mesh.call(node, Lane::Calls, service::CONTROL_GROUP, body, deadline).await.map(|_| ())
    }

    /// Lets another voter lead if this node does, before it stops.
    pub async fn step_down(&self) {
        let Some(group) = self.group() else { return };
        let status = group.status().borrow().clone();
        if !status.is_leader() {
            return;
        }
        for voter in status.voters.iter().filter(|voter| **voter != self.node) {
            if group.transfer_leader(*voter, Duration::from_secs(2)).await.is_ok() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Why a proposal was not applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProposeFailure {
    /// Nothing was proposed; that node may lead.
    NotLeader(Option<NodeId>),
    /// Refused, or the outcome is unknown, as the failure's code says.
    Refused(Failure),
}

impl From<ProposeFailure> for LeaderReply {
    fn from(failure: ProposeFailure) -> Self {
        match failure {
            ProposeFailure::NotLeader(leader) => LeaderReply::NotLeader { leader },
            ProposeFailure::Refused(failure) => LeaderReply::Refused(failure),
        }
    }
}

fn leadership_of(status: &GroupStatus, generation: u64) -> Leadership {
    Leadership {
        voters: status.voters.iter().copied().collect(),
        leader: status.leader,
        term: status.term,
        generation,
    }
}

fn overloaded(error: &RemoteError) -> Failure {
    Failure::new(Code::Overloaded, "the leader has as much to do as it takes; nothing was done")
        .because(error)
        .next("try again in a moment")
}

fn unknown_outcome(error: &RemoteError) -> Failure {
    Failure::new(Code::OutcomeUnknown, "the leader did not answer; it may have done it")
        .because(error)
        .next("`ctl op ls` and `ctl status` tell whether it was done")
}

fn no_leader(last: &str) -> Failure {
    Failure::new(Code::NoQuorum, "no leader of the control group answers; nothing was changed")
        .because(last)
        .next(
            "`ctl status` shows the voters; start enough of them that a majority is alive; if \
             they are gone for good, `ctl recover` says what would be lost",
        )
}

//! What the protocol reports of a group, as the group's users see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::{Instant as _, Raft, RaftMetrics, ServerState};
use rung_proto::NodeId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::group::known_leader;
use crate::raft_types::{Types, position};
use crate::replica::Replica;
use crate::returning::Return;
use crate::status::{GroupRole, GroupStatus};

fn node_ids(ids: impl Iterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.map(NodeId).collect()
}

/// What the protocol reports, as our users see it.
pub(crate) fn status_of(metrics: &RaftMetrics<Types>) -> GroupStatus {
    let membership = metrics.membership_config.membership();
    let voters = node_ids(membership.voter_ids());
    let role = match (&metrics.running_state, metrics.state) {
        (Err(fatal), _) => GroupRole::Stopped(fatal.to_string()),
        (Ok(()), ServerState::Leader) => GroupRole::Leader,
        (Ok(()), ServerState::Candidate) => GroupRole::Candidate,
        (Ok(()), ServerState::Follower) => GroupRole::Follower,
        (Ok(()), ServerState::Learner) => GroupRole::Learner,
        (Ok(()), ServerState::Shutdown) => GroupRole::Stopped("it was closed".to_owned()),
    };
    let matched: BTreeMap<NodeId, Option<u64>> = metrics
        .replication
        .iter()
        .flatten()
        .map(|(id, matched)| (NodeId(*id), matched.as_ref().map(|id| id.index)))
        .collect();
    GroupStatus {
        role,
        term: metrics.current_term,
        leader: known_leader(metrics.current_leader),
        learners: node_ids(membership.learner_ids()),
        voters,
        changing: membership.get_joint_config().len() > 1
            || metrics.membership_config != metrics.committed_membership_config,
        last: metrics.last_log_index,
        committed: metrics.local_committed.as_ref().map(position),
        applied: metrics.last_applied.as_ref().map(position),
        snapshot: metrics.snapshot.as_ref().map(position),
        purged: metrics.purged.as_ref().map(position),
        matched,
        quorum_acknowledged: metrics
            .last_quorum_acked
            .as_ref()
            .map(|heard| Instant::now().checked_sub(heard.elapsed()).unwrap_or_else(Instant::now)),
    }
}

/// Has a leader tell its followers that it lives, until the group ends.
pub(crate) async fn keep_beating(
    raft: Raft<Types, Replica>,
    mut status: watch::Receiver<GroupStatus>,
    every: Duration,
) {
    let matters =
        |status: &GroupStatus| status.is_leader() || matches!(status.role, GroupRole::Stopped(_));
    loop {
        match status.wait_for(matters).await {
            Ok(status) if status.is_leader() => {}
            _ => return,
        }
        if raft.trigger().heartbeat().await.is_err() {
            return;
        }
        tokio::time::sleep(every).await;
    }
}

/// Translates the protocol's reports, asks for snapshots and sees the replica
/// return, until the group ends.
pub(crate) async fn watch_group(
    raft: Raft<Types, Replica>,
    mut returns: Return,
    status: watch::Sender<GroupStatus>,
    snapshot_due: Arc<Notify>,
) {
    let mut metrics = raft.metrics();
    loop {
        let (now, complete) = {
            let report = metrics.borrow_and_update();
            (status_of(&report), returns.is_due(&report))
        };
        let stopped = matches!(now.role, GroupRole::Stopped(_));
        if complete {
            match returns.finish().await {
                Ok(()) => raft.runtime_config().elect(true),
                // The protocol meets the same error and stops.
                Err(error) => tracing::warn!(%error, "a replica stays out of elections"),
            }
        }
        status.send_replace(now);
        if stopped {
            return;
        }
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() {
                let why = "it was closed".to_owned();
                status.send_modify(|status| status.role = GroupRole::Stopped(why));
                return;
            },
            () = snapshot_due.notified() => {
                let asked: Result<(), Fatal<Types>> = raft.trigger().snapshot().await;
                if let Err(error) = asked {
                    tracing::debug!(%error, "the group ended before its snapshot");
                }
            }
        }
    }
}

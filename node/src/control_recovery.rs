//! `ctl recover`: the control group made anew from this node's log, when a majority of
//! its voters is lost for good. The one change of the cluster that no log agrees on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rung_control_plane::generation::{self, Told};
use rung_control_plane::{Command, State};
use rung_proto::api::{ClusterRecovered, RecoverRequest};
use rung_proto::soft::LogPlace;
use rung_proto::{Code, Failure, NodeId, encoding};
use rung_runtime::TaskResult;
use rung_transport::Lane;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use crate::control::Control;
use crate::node::Node;
use crate::protocol::{ControlGroupRequest, service};

/// A node that does not tell of itself for so long counts as lost.
const SURVEY: Duration = Duration::from_secs(3);
/// How long a survivor may take to stop.
const SEAL: Duration = Duration::from_secs(10);
/// How long the new group may take to begin.
const BEGIN: Duration = Duration::from_secs(20);
const ADOPT_AGAIN: Duration = Duration::from_secs(1);

/// Begins a new generation of the cluster from this node's log.
///
/// # Errors
/// See [`generation::plan`]; `unreachable` when a survivor does not stop.
pub async fn recover(
    node: &Arc<Node>,
    request: RecoverRequest,
) -> Result<ClusterRecovered, Failure> {
    let state = node.control.state();
    let told = survey(node).await?;
    let plan = generation::plan(node.id, &told, request.consent, &state)?;
    let sealing = plan.survivors.iter().map(|survivor| seal(node, *survivor, plan.generation));
    let stopped: BTreeMap<NodeId, LogPlace> =
        join_all(sealing).await.into_iter().collect::<Result<_, Failure>>()?;
    generation::check(node.id, &stopped, &state)?;
    node.control.found(plan.generation).await?;
    begin(&node.control, node.id, plan.generation, &request.requested_by).await?;
    let from = stopped.get(&node.id).copied().unwrap_or(LogPlace { term: 0, index: 0 });
    Ok(ClusterRecovered {
        generation: plan.generation,
        node: node.name().to_owned(),
        entry: from.index,
        term: from.term,
    })
}

/// What every node that answers tells of its part in the control group.
async fn survey(node: &Node) -> Result<BTreeMap<NodeId, Told>, Failure> {
    let mut told = BTreeMap::from([(node.id, node.control.tell().await?)]);
    let others = node.control.state();
    let others = others.nodes.keys().copied().filter(|other| *other != node.id);
    let asked = others.map(|other| async move {
        let answer = ask::<Told>(node, other, &ControlGroupRequest::Survey, SURVEY).await;
        answer.ok().map(|answer| (other, answer))
    });
    told.extend(join_all(asked).await.into_iter().flatten());
    Ok(told)
}

async fn seal(
    node: &Node,
    survivor: NodeId,
    generation: u64,
) -> Result<(NodeId, LogPlace), Failure> {
    let last = if survivor == node.id {
        node.control.seal(generation).await
    } else {
        ask(node, survivor, &ControlGroupRequest::Seal { generation }, SEAL).await
    };
    let last = last.map_err(|failure| {
        let name = node.control.state().node_name(survivor);
        Failure::new(Code::Unreachable, format!("{name} did not stop for the new generation"))
            .because(failure)
            .next("`ctl recover` again; nothing can be changed meanwhile")
    })?;
    Ok((survivor, last))
}

async fn ask<T: DeserializeOwned>(
    node: &Node,
    other: NodeId,
    request: &ControlGroupRequest,
    deadline: Duration,
) -> Result<T, Failure> {
    let body = Bytes::from(encoding::encode(request));
    let answer = node.mesh.call(other, Lane::Calls, service::CONTROL_GROUP, body, deadline).await;
    let answer = answer.map_err(|error| {
        Failure::new(Code::Unreachable, "a node does not answer").because(error)
    })?;
    encoding::decode(&answer)
        .map_err(|error| Failure::new(Code::Internal, "an answer cannot be read").because(error))
}

/// Waits until the new group has said what it is.
async fn begin(control: &Control, me: NodeId, generation: u64, by: &str) -> Result<(), Failure> {
    let not_begun = |why: String| {
        Failure::new(Code::OutcomeUnknown, "the new generation does not answer yet")
            .because(why)
            .next("`ctl status`, then `ctl recover` again")
    };
    let group = control.group().ok_or_else(|| not_begun("it is not open".to_owned()))?;
    let mut status = group.status();
    let leads = status.wait_for(|status| status.is_leader());
    match timeout(BEGIN, leads).await {
        Ok(Ok(_)) => {}
        _ => return Err(not_begun("it has no leader".to_owned())),
    }
    let command = Command::BeginGeneration { generation, node: me };
    let proposed = control.propose(command, by, None).await;
    proposed.map_err(|failure| not_begun(format!("{failure:?}")))?;
    let mut state = control.watch_state();
    let known = state.wait_for(|state: &Arc<State>| state.generation >= generation);
    match timeout(BEGIN, known).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(not_begun("its state is not known".to_owned())),
    }
}

/// Goes over to every generation that this node hears of, and tells of it.
pub async fn follow_generations(node: Arc<Node>) -> TaskResult {
    let mut met = node.mesh.generation_seen();
    let mut others = node.soft.watch_others();
    let mut state = node.control.watch_state();
    let mut mine = node.control.watch_generation();
    loop {
        let current = mine.borrow_and_update().current;
        node.soft.update(|mine| mine.generation = current);
        let told = others.borrow_and_update().values().map(|other| other.generation).max();
        let followed = state.borrow_and_update().generation;
        let newest = met.borrow_and_update().0.max(told.unwrap_or(0)).max(followed);
        if newest > current {
            match node.control.adopt(newest).await {
                Ok(()) => node.report_mended(rung_proto::Role::Control),
                Err(failure) => {
                    tracing::error!(%failure, "this node cannot go over to a new generation");
                    sleep(ADOPT_AGAIN).await;
                }
            }
            continue;
        }
        tokio::select! {
            changed = met.changed() => changed?,
            changed = others.changed() => changed?,
            changed = state.changed() => changed?,
            changed = mine.changed() => changed?,
        }
    }
}

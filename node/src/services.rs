//! What other nodes may call on this one.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rung_control_plane::sealed::ClusterKey;
use rung_proto::soft::NodeSoftState;
use rung_proto::{Code, Failure, encoding};
use rung_runtime::{ActorRouter, ServiceTable, ServiceTaken, service as handler};
use rung_transport::{CallRefusal, IncomingCall, JoinHandler};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::leader_requests::check_clock;
use crate::node::{Node, NodeCell, found};
use crate::protocol::{
    ControlGroupRequest, FetchBundle, JoinRequest, LeaderAnswer, LeaderRequest, service,
};
use crate::{database_scrub, database_top, tail};

/// Bundles that peers make this node fetch at once.
const FETCHES: usize = 4;

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CallRefusal> {
    encoding::decode(body).map_err(|error| {
        Failure::new(Code::Usage, "a call of another node cannot be read").because(error).into()
    })
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(encoding::encode(value))
}

/// Registers every service of a node.
///
/// # Errors
/// When two have one number.
pub fn register(
    node: &Arc<Node>,
    table: &ServiceTable,
    actors: &Arc<ActorRouter>,
) -> Result<(), ServiceTaken> {
    let consensus = node.consensus.clone();
    table.register(
        service::RAFT,
        "raft",
        Arc::new(move |call: IncomingCall| {
            let answer = consensus.handle(call.from.node, call.body);
            async move {
                answer
                    .await
                    .map_err(|refusal| Failure::new(Code::Precondition, refusal.to_string()).into())
            }
            .boxed()
        }),
    )?;
    let membership = node.membership.clone();
    table.register(
        service::MEMBERSHIP,
        "membership",
        handler(move |call: IncomingCall| {
            let answer = membership.exchange(&call.from, &call.body);
            async move {
                answer.map_err(|error| Failure::new(Code::Usage, error.to_string()).into())
            }
        }),
    )?;
    let here = Arc::clone(node);
    table.register(
        service::SOFT_STATE,
        "soft-state",
        handler(move |call: IncomingCall| soft_state(Arc::clone(&here), call)),
    )?;
    table.register(service::ACTORS, "actors", actors.service())?;
    let here = Arc::clone(node);
    table.register(
        service::DATABASE_TOP,
        "database-top",
        handler(move |_: IncomingCall| {
            let here = Arc::clone(&here);
            async move { Ok(encode(&database_top::here(&here))) }
        }),
    )?;
    let here = Arc::clone(node);
    table.register(
        service::TAILS,
        "tails",
        handler(move |call: IncomingCall| tails(Arc::clone(&here), call)),
    )?;
    let here = Arc::clone(node);
    table.register(
        service::DATABASE_SCRUB,
        "database-scrub",
        handler(move |call: IncomingCall| {
            let here = Arc::clone(&here);
            async move { database_scrub::serve(&here, call).await }
        }),
    )?;
    let here = Arc::clone(node);
    let places = Arc::new(Semaphore::new(FETCHES));
    table.register(
        service::FETCH_BUNDLE,
        "fetch-bundle",
        handler(move |call: IncomingCall| {
            fetch_bundle(Arc::clone(&here), Arc::clone(&places), call)
        }),
    )?;
    Ok(())
}

/// Registers the service by which the leader opens and closes this node's
/// replica. It comes last: a start that is not over yet must not be told to
/// forget its vote.
///
/// # Errors
/// When it is there already.
pub fn register_control_group(node: &Arc<Node>, table: &ServiceTable) -> Result<(), ServiceTaken> {
    let here = Arc::clone(node);
    table.register(
        service::CONTROL_GROUP,
        "control-group",
        handler(move |call: IncomingCall| control_group(Arc::clone(&here), call)),
    )
}

/// Tells of the tails here.
async fn tails(node: Arc<Node>, call: IncomingCall) -> Result<Bytes, CallRefusal> {
    let question: tail::everywhere::Question = decode(&call.body)?;
    let answered = tokio::task::spawn_blocking(move || tail::everywhere::answer(&node, &question));
    let answer = answered.await.map_err(|error| Failure::new(Code::Internal, error.to_string()))?;
    Ok(encode(&answer?))
}

/// Takes in a peer's soft state. The answer means that this node routes by it.
async fn soft_state(node: Arc<Node>, call: IncomingCall) -> Result<Bytes, CallRefusal> {
    let told: NodeSoftState = decode(&call.body)?;
    let (incarnation, version) = (told.incarnation, told.version);
    if incarnation != call.from_incarnation {
        return Err(Failure::new(Code::Usage, "the state is of another start of that node").into());
    }
    node.soft.learn(call.from.node, told);
    if node.lb.routes_by(call.from.node, incarnation, version).await {
        return Ok(Bytes::new());
    }
    Err(Failure::new(Code::Overloaded, "the balancer has not taken the change in yet").into())
}

async fn control_group(node: Arc<Node>, call: IncomingCall) -> Result<Bytes, CallRefusal> {
    let request: ControlGroupRequest = decode(&call.body)?;
    match &request {
        ControlGroupRequest::Survey => return Ok(encode(&node.control.tell().await?)),
        ControlGroupRequest::Seal { generation } => {
            return Ok(encode(&node.control.seal(*generation).await?));
        }
        ControlGroupRequest::Open { .. } | ControlGroupRequest::Leave => {}
    }
    let from = call.from.node;
    let leadership = node.control.leadership();
    // Anybody in the cluster could ask; only a voter, as far as is known, may.
    // Who knows of no voter yet refuses, and is asked again.
    if !leadership.voters.contains(&from) {
        let failure = Failure::new(Code::Precondition, "only a voter may change who votes");
        return Err(failure.into());
    }
    match request {
        ControlGroupRequest::Open { cluster_key } => {
            let key: [u8; 32] = cluster_key
                .try_into()
                .map_err(|_| Failure::new(Code::Usage, "a cluster key has 32 bytes"))?;
            if node.is_broken(rung_proto::Role::Control) {
                node.control.leave_group().await?;
                node.report_mended(rung_proto::Role::Control);
            }
            // Afterwards: who leaves forgets the key.
            node.control.keep_key(ClusterKey::from_bytes(key))?;
            node.control.open().await?;
        }
        ControlGroupRequest::Leave => {
            // A farewell that was under way for long may be about an earlier time.
            if node.is_member().await != Some(false) {
                let failure = Failure::new(Code::Precondition, "no leader confirms the removal");
                return Err(failure.into());
            }
            node.control.leave_group().await?;
            node.report_mended(rung_proto::Role::Control);
        }
        ControlGroupRequest::Survey | ControlGroupRequest::Seal { .. } => {}
    }
    Ok(Bytes::new())
}

async fn fetch_bundle(
    node: Arc<Node>,
    places: Arc<Semaphore>,
    call: IncomingCall,
) -> Result<Bytes, CallRefusal> {
    let Ok(_place) = places.try_acquire() else { return Err(CallRefusal::Overloaded) };
    let request: FetchBundle = decode(&call.body)?;
    node.bundles.fetch(request.digest).await.map_err(|why| {
        CallRefusal::from(
            Failure::new(Code::Unreachable, "the bundle was not fetched").because(why),
        )
    })?;
    Ok(Bytes::new())
}

/// What a joiner may ask: to be admitted, or for a new certificate.
pub fn join_handler(cell: NodeCell) -> JoinHandler {
    Arc::new(move |body, address| -> BoxFuture<'static, Result<Bytes, Failure>> {
        let node = found(&cell);
        async move {
            let node =
                node.ok_or_else(|| Failure::new(Code::Unreachable, "the node is starting"))?;
            let request: JoinRequest = encoding::decode(&body).map_err(|error| {
                Failure::new(Code::Usage, "the join request cannot be read").because(error)
            })?;
            tracing::info!(%address, "a node asks to join");
            let request = match request {
                JoinRequest::Join(joiner) => {
                    check_clock(joiner.now_ms)?;
                    LeaderRequest::Admit(joiner)
                }
                JoinRequest::Renew { node, csr, now_ms } => {
                    check_clock(now_ms)?;
                    LeaderRequest::Renew { node, csr }
                }
            };
            match node.ask_leader(&request).await? {
                LeaderAnswer::Welcome(welcome) => Ok(encode(&*welcome)),
                _ => Err(Failure::new(Code::Internal, "the leader answered something else")),
            }
        }
        .boxed()
    })
}

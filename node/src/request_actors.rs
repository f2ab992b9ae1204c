//! The actors that answer requests of other nodes, and of this one: what only the
//! leader of the control group does, and the variables of apps.
//!
//! Their inboxes bound what a storm of requests can take. What finds no place is
//! refused before anything was done, so that it can be repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rung_proto::{Code, Failure, NodeId, Role};
use rung_runtime::{
    ActorRouter, Actors, AddError, ChildSpec, Inbox, RemoteError, Request, RouteTaken, Serving,
    serve_requests,
};
use rung_transport::{CallError, PeerIdentity};
use tokio::time::timeout;

use crate::control::{ASK, PROPOSE};
use crate::node::Node;
use crate::protocol::{EnvAnswer, EnvRequest, LeaderReply, LeaderRequest, actor};

/// Both belong to the role control; nodes without a replica refuse by saying so.
pub const ROLE: Role = Role::Control;
/// Requests of each kind that wait; more are refused.
const WAITING: usize = 64;
/// Each may wait for a quorum, so they are worked on beside each other. What they
/// propose is written to the log together.
const LEADER: Serving =
    Serving { at_once: 16, least_time: PROPOSE, finish: Duration::from_secs(2) };
/// Answered from memory, without waiting.
const APP_ENV: Serving =
    Serving { at_once: 4, least_time: Duration::ZERO, finish: Duration::from_secs(1) };

/// The ways in.
pub struct RequestActors {
    leader: Inbox<Request<LeaderRequest, LeaderReply>>,
    app_env: Inbox<Request<EnvRequest, EnvAnswer>>,
}

impl RequestActors {
    /// Inboxes that nobody reads before [`start`].
    pub fn new(actors: &Actors) -> Self {
        Self {
            leader: actors.inbox(actor::LEADER_REQUESTS, Some(ROLE), WAITING),
            app_env: actors.inbox(actor::APP_ENV, Some(ROLE), WAITING),
        }
    }

    /// Lets other nodes reach the actors.
    ///
    /// # Errors
    /// When there is one of that name already.
    pub fn route(&self, router: &ActorRouter) -> Result<(), RouteTaken> {
        router.route(Some(ROLE), actor::LEADER_REQUESTS, self.leader.clone())?;
        router.route(Some(ROLE), actor::APP_ENV, self.app_env.clone())
    }

    /// Asks this node's own leader actor, on the same terms as other nodes.
    ///
    /// # Errors
    /// As a call from another node.
    pub async fn ask_leader_here(
        &self,
        me: PeerIdentity,
        request: LeaderRequest,
    ) -> Result<LeaderReply, RemoteError> {
        match timeout(ASK, self.leader.ask(request, me, Instant::now() + ASK)).await {
            Ok(answer) => answer.map_err(RemoteError::Refused),
            Err(_) => Err(RemoteError::Mesh(CallError::Deadline)),
        }
    }
}

/// Adds the actors to the node's supervisor.
///
/// # Errors
/// When the supervisor has ended, or an actor has the name of another.
pub async fn start(node: &Arc<Node>) -> Result<(), AddError> {
    let here = Arc::clone(node);
    let leader = ChildSpec::task(actor::LEADER_REQUESTS, move |shutdown| {
        let inbox = here.request_actors.leader.clone();
        let here = Arc::clone(&here);
        serve_requests(inbox, LEADER, shutdown, move |request, from| {
            serve_leader(Arc::clone(&here), request, from)
        })
    });
    node.supervisor.add(leader.role(ROLE)).await?;
    let here = Arc::clone(node);
    let app_env = ChildSpec::task(actor::APP_ENV, move |shutdown| {
        let inbox = here.request_actors.app_env.clone();
        let here = Arc::clone(&here);
        serve_requests(inbox, APP_ENV, shutdown, move |request, from| {
            std::future::ready(app_env(&here, &request, &from))
        })
    });
    node.supervisor.add(app_env.role(ROLE)).await
}

async fn serve_leader(
    node: Arc<Node>,
    mut request: LeaderRequest,
    from: PeerIdentity,
) -> Result<LeaderReply, Failure> {
    let from = from.node;
    if let LeaderRequest::Change(change) = &mut request
        && from != node.id
    {
        let via = node.control.state().node_name(from);
        change.requested_by = format!("{} via {via}", change.requested_by);
    }
    // A renewal or an admission may be forwarded by a seed: it proves itself by
    // its key or token. A start is told by the node that started, and a server's
    // certificate is for who asks.
    if let LeaderRequest::Started { node: about, .. }
    | LeaderRequest::CertifyServer { node: about, .. } = &request
        && *about != from
    {
        return Err(speaks_for(from, *about));
    }
    Ok(node.leader_requests.serve(request).await)
}

fn speaks_for(from: NodeId, about: NodeId) -> Failure {
    Failure::new(Code::IdentityRefused, format!("node {from} speaks for node {about}"))
}

/// Gives an app's variables to a node that runs it, and to no other.
fn app_env(node: &Node, request: &EnvRequest, from: &PeerIdentity) -> Result<EnvAnswer, Failure> {
    let state = node.control.state();
    let runs_it = state.instances_of(&request.app).any(|instance| instance.node == from.node);
    if !runs_it {
        let why = "the node runs no instance of that app";
        return Err(Failure::new(Code::Precondition, why));
    }
    node.leader_requests.env_answer(&request.app)
}

#[cfg(test)]
mod tests {
    use rung_proto::{ClusterId, Incarnation};

    use super::*;

    fn me() -> PeerIdentity {
        PeerIdentity { cluster: ClusterId(1), node: NodeId(1), dc: "east".into() }
    }

    #[tokio::test]
    async fn this_node_asks_its_own_leader_actor_on_the_terms_of_the_others() {
        let actors = Actors::new();
        let requests = RequestActors::new(&actors);
        requests.route(&ActorRouter::new(Incarnation(1))).expect("two actors of two names");
        let asleep = requests.ask_leader_here(me(), LeaderRequest::Members).await.unwrap_err();
        assert!(!asleep.outcome_unknown() && !asleep.is_overloaded(), "{asleep}");

        let receiver = requests.leader.attach_task();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| requests.leader.ask(LeaderRequest::Members, me(), Instant::now() + ASK))
            .collect();
        let status = actors.status();
        let status = status.iter().find(|actor| actor.name == actor::LEADER_REQUESTS).unwrap();
        assert_eq!((status.depth, status.capacity), (WAITING as u64, WAITING as u64));
        assert_eq!(status.role, Some(ROLE));
        let refused = requests.ask_leader_here(me(), LeaderRequest::Members).await.unwrap_err();
        assert!(refused.is_overloaded() && !refused.outcome_unknown(), "{refused}");

        // What dies with the actor may have been done.
        drop(receiver);
        for waiting in waiting {
            let ended = RemoteError::Refused(waiting.await.unwrap_err());
            assert!(ended.outcome_unknown(), "{ended}");
        }
    }
}

//! The actors of this node that other nodes may call.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rung_proto::encoding::{self, DecodeError};
use rung_proto::{Failure, Incarnation, Role};
use rung_transport::{IncomingCall, PeerIdentity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::inbox::{Inbox, SendError};
use crate::services::ServiceHandler;

/// A call to an actor as it crosses the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ActorCall {
    pub incarnation: Incarnation,
    #[serde(default)]
    pub role: Option<Role>,
    pub name: String,
    pub body: Bytes,
}

/// What comes back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ActorAnswer {
    Done(Bytes),
    Refused(ActorRefusal),
}

/// Why an actor did not do what it was asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum ActorRefusal {
    /// The node was restarted since the address was learnt; nothing was done.
    #[error("the actor belonged to incarnation {asked} of the node, which is now at {running}")]
    WrongIncarnation { asked: Incarnation, running: Incarnation },
    /// Nothing was done.
    #[error("there is no such actor on the node")]
    UnknownActor,
    /// Nothing was done.
    #[error("the actor's inbox is full with {capacity} messages")]
    Overloaded { capacity: u64 },
    /// It crashed and is about to be restarted; nothing was done.
    #[error("the actor is not running now")]
    NotRunning,
    /// Nothing was done.
    #[error("the actor does not understand the message: {0}")]
    Malformed(String),
    /// It took the message and ended before it answered. It may have been done.
    #[error("the actor ended before it answered; it may have been done")]
    NoAnswer,
    /// The actor says why.
    #[error(transparent)]
    Failed(Failure),
}

type Reply<Resp> = oneshot::Sender<Result<Resp, Failure>>;

/// A message that wants an answer.
#[derive(Debug)]
pub struct Request<Req, Resp> {
    pub message: Req,
    pub from: PeerIdentity,
    /// When the caller gives up.
    pub deadline: Instant,
    reply: Reply<Resp>,
}

impl<Req, Resp> Request<Req, Resp> {
    /// A request and where its answer arrives; for callers on this node.
    pub fn new(
        message: Req,
        from: PeerIdentity,
        deadline: Instant,
    ) -> (Self, oneshot::Receiver<Result<Resp, Failure>>) {
        let (reply, answer) = oneshot::channel();
        (Self { message, from, deadline, reply }, answer)
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    pub(crate) fn into_parts(self) -> (Req, PeerIdentity, Reply<Resp>) {
        (self.message, self.from, self.reply)
    }

    /// Answers; whether anybody still waits.
    pub fn answer(self, answer: Result<Resp, Failure>) -> bool {
        self.reply.send(answer).is_ok()
    }
}

impl<Req: Send + 'static, Resp: Send + 'static> Inbox<Request<Req, Resp>> {
    /// Puts a request in at once, and waits for its answer. It waits for as long
    /// as the actor takes: `deadline` is what the actor is told, not a limit.
    ///
    /// # Errors
    /// When the actor did not do it, with the exception of
    /// [`ActorRefusal::NoAnswer`].
    pub fn ask(
        &self,
        message: Req,
        from: PeerIdentity,
        deadline: Instant,
    ) -> impl Future<Output = Result<Resp, ActorRefusal>> + Send + use<Req, Resp> {
        let (request, answer) = Request::new(message, from, deadline);
        let sent = self.try_send(request).map_err(|refused| match refused {
            SendError::Full { capacity, .. } => ActorRefusal::Overloaded { capacity },
            SendError::NotRunning(_) => ActorRefusal::NotRunning,
        });
        async move {
            sent?;
            match answer.await {
                Ok(answer) => answer.map_err(ActorRefusal::Failed),
                Err(_) => Err(ActorRefusal::NoAnswer),
            }
        }
    }
}

type Answering = BoxFuture<'static, Result<Bytes, ActorRefusal>>;
type Route = Arc<dyn Fn(PeerIdentity, Instant, &[u8]) -> Answering + Send + Sync>;
type RouteKey = (Option<Role>, String);

/// Two actors want one address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is an actor {name:?} of that role already; names are unique within a role")]
pub struct RouteTaken {
    pub role: Option<Role>,
    pub name: String,
}

/// Finds the actors of this start of this node for calls from others.
pub struct ActorRouter {
    incarnation: Incarnation,
    routes: RwLock<BTreeMap<RouteKey, Route>>,
}

impl ActorRouter {
    pub fn new(incarnation: Incarnation) -> Arc<Self> {
        Arc::new(Self { incarnation, routes: RwLock::default() })
    }

    /// Lets other nodes send requests to an inbox.
    ///
    /// # Errors
    /// When there is an actor of that role and name.
    pub fn route<Req, Resp>(
        &self,
        role: Option<Role>,
        name: &str,
        inbox: Inbox<Request<Req, Resp>>,
    ) -> Result<(), RouteTaken>
    where
        Req: DeserializeOwned + Send + 'static,
        Resp: Serialize + Send + 'static,
    {
        let route: Route =
            Arc::new(move |from, deadline, body| deliver(&inbox, from, deadline, body));
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let key = (role, name.to_owned());
        if routes.contains_key(&key) {
            return Err(RouteTaken { role, name: key.1 });
        }
        routes.insert(key, route);
        Ok(())
    }

    /// Other nodes no longer reach the actor; whether they did before.
    pub fn unroute(&self, role: Option<Role>, name: &str) -> bool {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        routes.remove(&(role, name.to_owned())).is_some()
    }

    /// The service that carries calls to actors.
    pub fn service(self: &Arc<Self>) -> ServiceHandler {
        let router = self.clone();
        Arc::new(move |call| {
            // The message is put into the inbox right here, not in the future, so
            // that messages of one lane keep their order.
            let answering = router.dispatch(call);
            async move {
                let answer = match answering.await {
                    Ok(body) => ActorAnswer::Done(body),
                    Err(refusal) => ActorAnswer::Refused(refusal),
                };
                Ok(Bytes::from(encoding::encode(&answer)))
            }
            .boxed()
        })
    }

    fn dispatch(&self, call: IncomingCall) -> Answering {
        let found = decode_call(&call.body)
            .map_err(|error| ActorRefusal::Malformed(error.to_string()))
            .and_then(|(asked, role, name, body)| {
                if asked != self.incarnation {
                    let running = self.incarnation;
                    return Err(ActorRefusal::WrongIncarnation { asked, running });
                }
                let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
                let route = routes.get(&(role, name)).cloned();
                route.map(|route| (route, body)).ok_or(ActorRefusal::UnknownActor)
            });
        match found {
            Ok((route, body)) => route(call.from, call.deadline, &body),
            Err(refusal) => async move { Err(refusal) }.boxed(),
        }
    }
}

/// Reads a call as it crosses the mesh: incarnation, role, name, body.
///
/// # Errors
/// When the bytes are not one.
pub fn decode_call(
    bytes: &[u8],
) -> Result<(Incarnation, Option<Role>, String, Bytes), DecodeError> {
    let call: ActorCall = encoding::decode(bytes)?;
    Ok((call.incarnation, call.role, call.name, call.body))
}

fn deliver<Req, Resp>(
    inbox: &Inbox<Request<Req, Resp>>,
    from: PeerIdentity,
    deadline: Instant,
    body: &[u8],
) -> Answering
where
    Req: DeserializeOwned + Send + 'static,
    Resp: Serialize + Send + 'static,
{
    let asked = encoding::decode(body)
        .map(|message| inbox.ask(message, from, deadline))
        .map_err(|error| ActorRefusal::Malformed(error.to_string()));
    async move { Ok(Bytes::from(encoding::encode(&asked?.await?))) }.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_reads_back_and_nonsense_is_refused() {
        let call = ActorCall {
            incarnation: Incarnation(3),
            role: Some(Role::Web),
            name: "agent".into(),
            body: Bytes::from_static(b"\x00\xff"),
        };
        let bytes = encoding::encode(&call);
        let expected = (Incarnation(3), Some(Role::Web), "agent".to_owned(), call.body);
        assert_eq!(decode_call(&bytes).unwrap(), expected);
        assert!(decode_call(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_call(b"").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..120)) {
            let _ = decode_call(&bytes);
        }
    }
}

//! Calling an actor on another node.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_proto::{Code, encoding};
use rung_transport::{CallError, CallRefusal, Lane, Mesh};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::ActorAddress;
use crate::router::{ActorAnswer, ActorCall, ActorRefusal};

/// Before the first repetition of a call; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Whether a call that failed may be made again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// At most once, which is all that can be said of most messages.
    Never,
    /// Doing it twice is the same as doing it once; at most so many attempts,
    /// the first included, all of them before the deadline.
    Idempotent { attempts: u32 },
}

/// How to call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallOptions {
    /// The number under which [`crate::ActorRouter::service`] is registered.
    pub service: u16,
    pub lane: Lane,
    /// For everything together.
    pub deadline: Duration,
    pub retry: Retry,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RemoteError {
    /// The node or its actor did not do it, unless
    /// [`RemoteError::outcome_unknown`] says otherwise.
    #[error("the actor was not asked or refused: {0}")]
    Refused(ActorRefusal),
    #[error(transparent)]
    Mesh(CallError),
    /// The answer is not of the expected type. It was done.
    #[error("the actor's answer cannot be read: {0}")]
    Malformed(String),
}

impl RemoteError {
    /// Whether it may have been done.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            RemoteError::Refused(ActorRefusal::NoAnswer) => true,
            RemoteError::Refused(ActorRefusal::Failed(failure)) => {
                failure.code == Code::OutcomeUnknown
            }
            RemoteError::Refused(_) => false,
            RemoteError::Mesh(error) => error.outcome_unknown(),
            RemoteError::Malformed(_) => true,
        }
    }

    /// Whether the actor, or its node, has as much to do as it takes. Nothing
    /// was done.
    pub fn is_overloaded(&self) -> bool {
        match self {
            RemoteError::Refused(ActorRefusal::Overloaded { .. })
            | RemoteError::Mesh(CallError::Refused(CallRefusal::Overloaded)) => true,
            RemoteError::Refused(ActorRefusal::Failed(failure)) => failure.code == Code::Overloaded,
            _ => false,
        }
    }

    /// Whether the same call may go better a moment later.
    fn is_transient(&self) -> bool {
        match self {
            _ if self.is_overloaded() => true,
            RemoteError::Refused(refusal) => {
                matches!(refusal, ActorRefusal::NotRunning | ActorRefusal::NoAnswer)
            }
            RemoteError::Mesh(error) => match error {
                CallError::QueueFull | CallError::Unreachable(_) | CallError::ConnectionLost => {
                    true
                }
                // A peer that is slow is not helped by being asked twice, and
                // the deadline has passed anyway.
                CallError::Refused(_)
                | CallError::UnknownPeer
                | CallError::TooLarge { .. }
                | CallError::Deadline => false,
            },
            RemoteError::Malformed(_) => false,
        }
    }
}

/// Calls an actor and waits for its answer.
///
/// # Errors
/// See [`RemoteError`]; [`RemoteError::outcome_unknown`] says whether it may
/// have been done.
pub async fn call<Req: Serialize, Resp: DeserializeOwned>(
    mesh: &Mesh,
    to: &ActorAddress,
    request: &Req,
    options: CallOptions,
) -> Result<Resp, RemoteError> {
    let frame = ActorCall {
        incarnation: to.incarnation,
        role: to.role,
        name: to.name.clone(),
        body: Bytes::from(encoding::encode(request)),
    };
    let frame = Bytes::from(encoding::encode(&frame));
    let began = Instant::now();
    let mut attempt = 1;
    loop {
        let left = options.deadline.saturating_sub(began.elapsed());
        let error = match attempt_call(mesh, to, frame.clone(), options, left).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let left = options.deadline.saturating_sub(began.elapsed());
        let Some(pause) = pause_before_retry(&error, options.retry, attempt, left) else {
            return Err(error);
        };
        tracing::debug!(actor = %to, %error, attempt, ?pause, "calling again");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

async fn attempt_call<Resp: DeserializeOwned>(
    mesh: &Mesh,
    to: &ActorAddress,
    frame: Bytes,
    options: CallOptions,
    deadline: Duration,
) -> Result<Resp, RemoteError> {
    let answer = mesh
        .call(to.node, options.lane, options.service, frame, deadline)
        .await
        .map_err(RemoteError::Mesh)?;
    let malformed = |why: encoding::DecodeError| RemoteError::Malformed(why.to_string());
    match encoding::decode(&answer).map_err(malformed)? {
        ActorAnswer::Done(body) => encoding::decode(&body).map_err(malformed),
        ActorAnswer::Refused(refusal) => Err(RemoteError::Refused(refusal)),
    }
}

/// How long to wait before the next attempt; `None` if there is to be none.
fn pause_before_retry(
    error: &RemoteError,
    retry: Retry,
    attempt: u32,
    left: Duration,
) -> Option<Duration> {
    let Retry::Idempotent { attempts } = retry else { return None };
    if attempt >= attempts || !error.is_transient() {
        return None;
    }
    let pause = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(10));
    (pause < left).then_some(pause)
}

#[cfg(test)]
mod tests;

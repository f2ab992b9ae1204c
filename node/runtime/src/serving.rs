//! Actors whose requests may wait for something, such as a quorum or a disk.
//!
//! They are worked on beside each other, so that a slow one holds up nobody, but
//! only so many at once: what comes then waits in the inbox, and what does not
//! fit there is refused.

use std::future::Future;
use std::time::{Duration, Instant};

use rung_proto::{Code, Failure};
use rung_transport::PeerIdentity;
use tokio::task::{JoinError, JoinSet};

use crate::inbox::Inbox;
use crate::router::Request;
use crate::supervisor::{Shutdown, TaskResult};

/// How an actor works on its requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Serving {
    /// Requests that are worked on at once, at least 1.
    pub at_once: usize,
    /// One that has less time left when its turn comes is refused instead of
    /// begun: its caller would give up half way and not know what was done.
    pub least_time: Duration,
    /// How long what has begun may go on once the actor shall end. What is cut
    /// off then has an unknown outcome.
    pub finish: Duration,
}

/// The body of a supervised actor: gives each request to `handle` until the
/// actor shall end. A panic of `handle` ends that request with an unknown outcome
/// and no other.
///
/// # Errors
/// None; the type is that of a supervised task.
pub async fn serve_requests<Req, Resp, F>(
    inbox: Inbox<Request<Req, Resp>>,
    serving: Serving,
    mut shutdown: Shutdown,
    handle: impl Fn(Req, PeerIdentity) -> F,
) -> TaskResult
where
    Req: Send + 'static,
    Resp: Send + 'static,
    F: Future<Output = Result<Resp, Failure>> + Send + 'static,
{
    let mut receiver = inbox.attach_task();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            Some(ended) = running.join_next() => tell_panic(ended),
            request = receiver.recv(), if running.len() < serving.at_once => match request {
                Some(request) => {
                    if let Some(request) = worth_beginning(request, serving.least_time) {
                        let (message, from, reply) = request.into_parts();
                        let answering = handle(message, from);
                        running.spawn(async move {
                            // Who does not wait any more does not mind.
                            let _ = reply.send(answering.await);
                        });
                    }
                }
                // Another life has taken the inbox over.
                None => break,
            },
        }
    }
    receiver.close();
    while let Some(request) = receiver.recv().await {
        request.answer(Err(stopping()));
    }
    let finished = async {
        while let Some(ended) = running.join_next().await {
            tell_panic(ended);
        }
    };
    // What is left is aborted when `running` is dropped.
    let _ = tokio::time::timeout(serving.finish, finished).await;
    Ok(())
}

/// The request, unless nobody waits for it any more or its time has nearly run
/// out; nothing was done then.
fn worth_beginning<Req, Resp>(
    request: Request<Req, Resp>,
    least_time: Duration,
) -> Option<Request<Req, Resp>> {
    if request.is_abandoned() {
        return None;
    }
    if request.deadline.saturating_duration_since(Instant::now()) < least_time {
        request.answer(Err(waited_too_long()));
        return None;
    }
    Some(request)
}

fn tell_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request of an actor panicked; its outcome is not known");
    }
}

fn waited_too_long() -> Failure {
    Failure::new(Code::Overloaded, "the request waited too long for its turn; nothing was done")
        .next("try again in a moment")
}

fn stopping() -> Failure {
    Failure::new(Code::Unreachable, "the node is stopping; nothing was done")
        .next("try again; another node answers")
}

#[cfg(test)]
mod tests;

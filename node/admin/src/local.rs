//! The unix socket: every endpoint, for operators.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use rung_proto::api::{ChangeRequest, RecoverRequest, SessionLink, TokenRequest};
use rung_proto::{Code, Failure};
use serde::de::DeserializeOwned;

use crate::backend::{Backend, LogQuery};
use crate::query::{Query, decode};
use crate::respond::{self, Reply};
use crate::server::{Shared, browser_address, within};
use crate::upload::{self, Upload};
use crate::{follow, peer, public, read, session};

/// Lines of the past that `logs` gives when not told, and at most.
const LOG_LINES: usize = 100;
const MAX_LOG_LINES: usize = 10_000;

/// Answers one request of the user that the socket proves.
pub async fn handle(shared: &Arc<Shared>, user: &str, request: Request<Incoming>) -> Reply {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let (path, query) = (uri.path(), uri.query().unwrap_or(""));
    let started = Instant::now();
    let reply = match path.strip_prefix("/api/v1/") {
        Some(rest) => {
            let segments: Vec<&str> = rest.split('/').collect();
            let known = read::answer(shared, read::Asker::Operator, &method, &segments, query);
            let answered = match known.await {
                Some(answered) => answered,
                None => route(shared, user, &method, &segments, query, request.into_body()).await,
            };
            match answered {
                Ok(reply) => reply,
                Err(failure) => respond::failure(&failure),
            }
        }
        None => public::probe(shared, path).unwrap_or_else(|| respond::not_found(path)),
    };
    let (status, took) = (reply.status().as_u16(), started.elapsed());
    tracing::debug!(%method, path, user, status, ?took, "admin request");
    reply
}

async fn route(
    shared: &Arc<Shared>,
    user: &str,
    method: &Method,
    path: &[&str],
    query: &str,
    body: Incoming,
) -> Result<Reply, Failure> {
    // `logs` alone has a query here.
    if path != ["logs"] {
        Query::parse(query, &[])?;
    }
    match (method.as_str(), path) {
        ("POST", ["operations"]) => change(shared, user, body).await,
        ("PUT", ["bundles"]) => put_bundle(shared, body).await,
        ("GET", ["logs"]) => logs(shared, query).await,
        ("GET", ["audit"]) => Ok(respond::json(&ask(shared, shared.backend.audit()).await?)),
        ("GET", ["doctor"]) => Ok(respond::json(&ask(shared, shared.backend.doctor()).await?)),
        ("GET", ["apps", app, "env"]) => {
            let app = segment(app)?;
            Ok(respond::json(&ask(shared, shared.backend.env(app)).await?))
        }
        ("GET", ["databases"]) => {
            Ok(respond::json(&ask(shared, shared.backend.database_top()).await?))
        }
        ("POST", ["databases", name, "backup"]) => {
            let (name, request) = (segment(name)?, read_json(shared, body).await?);
            let work =
                |backend: Arc<dyn Backend>| async move { backend.back_up(name, request).await };
            Ok(respond::json(&run_change(shared, shared.config.limits.backup, work).await?))
        }
        ("POST", ["databases", name, "restore"]) => {
            let (name, request) = (segment(name)?, read_json(shared, body).await?);
            let work =
                |backend: Arc<dyn Backend>| async move { backend.restore(name, request).await };
            Ok(respond::json(&run_change(shared, shared.config.limits.backup, work).await?))
        }
        ("GET", ["databases", name, "tails"]) => {
            let name = segment(name)?;
            Ok(respond::json(&ask(shared, shared.backend.tails(name)).await?))
        }
        ("POST", ["databases", name, "tails", "replay"]) => {
            let (name, request) = (segment(name)?, read_json(shared, body).await?);
            let work =
                |backend: Arc<dyn Backend>| async move { backend.replay_tail(name, request).await };
            Ok(respond::json(&run_change(shared, shared.config.limits.backup, work).await?))
        }
        ("GET", ["databases", name, "tails", file]) => {
            let (name, file) = (segment(name)?, segment(file)?);
            Ok(respond::json(&ask(shared, shared.backend.tail(name, file)).await?))
        }
        ("POST", ["databases", name, "restore-archive"]) => {
            let (name, request) = (segment(name)?, read_json(shared, body).await?);
            let work = |backend: Arc<dyn Backend>| async move {
                backend.restore_archive(name, request).await
            };
            Ok(respond::json(&run_change(shared, shared.config.limits.backup, work).await?))
        }
        ("POST", ["databases", name, "scrub"]) => {
            let (name, request) = (segment(name)?, read_json(shared, body).await?);
            let work =
                |backend: Arc<dyn Backend>| async move { backend.scrub(name, request).await };
            Ok(respond::json(&run_change(shared, shared.config.limits.change, work).await?))
        }
        ("POST", ["recover"]) => recover(shared, user, body).await,
        ("POST", ["archives"]) => {
            let request = read_json(shared, body).await?;
            Ok(respond::json(&ask(shared, shared.backend.archive(request)).await?))
        }
        ("GET", ["databases", name, "url"]) => {
            let name = segment(name)?;
            Ok(respond::json(&ask(shared, shared.backend.database_url(name)).await?))
        }
        ("GET", ["tokens"]) => Ok(respond::json(&ask(shared, shared.backend.tokens()).await?)),
        ("POST", ["tokens"]) => create_token(shared, user, body).await,
        ("DELETE", ["tokens", id]) => revoke_token(shared, user, segment(id)?).await,
        ("POST", ["sessions"]) => Ok(open_session(shared)),
        (_, path) => Ok(match allowed(path) {
            Some(methods) => respond::method_not_allowed(methods),
            None => respond::not_found(&format!("/api/v1/{}", path.join("/"))),
        }),
    }
}

/// The methods of a path that exists.
fn allowed(path: &[&str]) -> Option<&'static str> {
    Some(match path {
        ["operations"] => "GET, POST",
        ["tokens"] => "GET, POST",
        ["status" | "events" | "top" | "logs" | "audit" | "doctor" | "databases"] => "GET",
        ["operations", _] | ["apps", _, "env"] | ["databases", _, "url" | "tails"] => "GET",
        ["databases", _, "backup" | "restore" | "restore-archive" | "scrub"]
        | ["databases", _, "tails", "replay"]
        | ["archives"]
        | ["recover"] => "POST",
        ["databases", _, "tails", _] => "GET",
        ["tokens", _] => "DELETE",
        ["bundles"] => "PUT",
        ["sessions"] => "POST",
        _ => return None,
    })
}

fn segment(text: &str) -> Result<String, Failure> {
    decode(text)
        .filter(|decoded| !decoded.is_empty())
        .ok_or_else(|| Failure::new(Code::Usage, "the path is badly encoded"))
}

async fn ask<T>(
    shared: &Shared,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    within(shared.config.limits.read, answer).await
}

/// Runs a change in its own task, so that a client that goes away does not end it
/// half way.
async fn run_change<T, F>(
    shared: &Shared,
    deadline: Duration,
    make: impl FnOnce(Arc<dyn Backend>) -> F,
) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let permit = Arc::clone(&shared.changes).try_acquire_owned().map_err(|_| {
        Failure::new(Code::Overloaded, "nothing was changed: too many changes at once")
            .next("wait for some to finish, then try again")
    })?;
    let work = make(Arc::clone(&shared.backend));
    let task = tokio::spawn(async move {
        let result = work.await;
        drop(permit);
        result
    });
    match tokio::time::timeout(deadline, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(unknown("the node failed while it worked on it")),
        Err(_) => Err(unknown(&format!("no answer within {} s", deadline.as_secs()))),
    }
}

fn unknown(why: &str) -> Failure {
    Failure::new(Code::OutcomeUnknown, "it is not known whether the change was made")
        .because(why)
        .next("see `ctl op ls` and `ctl status` before you try again")
}

async fn change(shared: &Arc<Shared>, user: &str, body: Incoming) -> Result<Reply, Failure> {
    let mut request: ChangeRequest = read_json(shared, body).await?;
    request.requested_by = peer::requester(user, &request.requested_by);
    let work = |backend: Arc<dyn Backend>| async move { backend.change(request).await };
    Ok(respond::json(&run_change(shared, shared.config.limits.change, work).await?))
}

async fn recover(shared: &Arc<Shared>, user: &str, body: Incoming) -> Result<Reply, Failure> {
    let mut request: RecoverRequest = read_json(shared, body).await?;
    request.requested_by = peer::requester(user, &request.requested_by);
    let work = |backend: Arc<dyn Backend>| async move { backend.recover(request).await };
    Ok(respond::json(&run_change(shared, shared.config.limits.backup, work).await?))
}

async fn create_token(shared: &Arc<Shared>, user: &str, body: Incoming) -> Result<Reply, Failure> {
    let mut request: TokenRequest = read_json(shared, body).await?;
    request.requested_by = peer::requester(user, &request.requested_by);
    let work = |backend: Arc<dyn Backend>| async move { backend.create_token(request).await };
    Ok(respond::json(&run_change(shared, shared.config.limits.change, work).await?))
}

async fn revoke_token(shared: &Arc<Shared>, user: &str, id: String) -> Result<Reply, Failure> {
    let user = user.to_owned();
    let work = |backend: Arc<dyn Backend>| async move { backend.revoke_token(id, user).await };
    Ok(respond::json(&run_change(shared, shared.config.limits.change, work).await?))
}

async fn put_bundle(shared: &Arc<Shared>, mut body: Incoming) -> Result<Reply, Failure> {
    let upload = match receive_bundle(shared, &mut body).await {
        Ok(upload) => upload,
        Err(failure) => {
            upload::discard(&mut body).await;
            return Err(failure);
        }
    };
    let work = |backend: Arc<dyn Backend>| async move {
        // The file lives as long as the work on it.
        let upload = upload;
        backend.put_bundle(upload.path().to_owned()).await
    };
    let stored = run_change(shared, shared.config.limits.store, work).await;
    // A bundle alone changes nothing that runs, so nothing is left in the dark.
    let stored = stored.map_err(|failure| match failure.code {
        Code::OutcomeUnknown => Failure::new(Code::Unreachable, "the bundle was not stored")
            .because(failure.why)
            .next("nothing was changed; try again"),
        _ => failure,
    })?;
    Ok(respond::json(&stored))
}

async fn receive_bundle(shared: &Shared, body: &mut Incoming) -> Result<Upload, Failure> {
    let limits = &shared.config.limits;
    let Ok(_permit) = shared.uploads.try_acquire() else {
        return Err(Failure::new(Code::Overloaded, "other bundles are being uploaded")
            .next("try again when they are done"));
    };
    let directory = &shared.config.upload_dir;
    upload::receive(directory, body, limits.bundle_bytes, limits.stalled).await
}

async fn logs(shared: &Arc<Shared>, query: &str) -> Result<Reply, Failure> {
    let query = Query::parse(query, &["app", "role", "node", "lines", "follow"])?;
    let wanted = LogQuery {
        app: query.text("app"),
        role: query.value("role")?,
        node: query.text("node"),
        lines: query.value("lines")?.unwrap_or(LOG_LINES),
        follow: query.flag("follow")?,
    };
    if wanted.lines > MAX_LOG_LINES {
        return Err(Failure::new(Code::Usage, "so many lines are not given at once")
            .because(format!("{} asked for, at most {MAX_LOG_LINES}", wanted.lines)));
    }
    let (writer, reply) = shared.streams.open()?;
    let lines = ask(shared, shared.backend.logs(wanted)).await?;
    tokio::spawn(follow::logs(lines, writer));
    Ok(reply)
}

fn open_session(shared: &Shared) -> Reply {
    let ticket = shared.with_sessions(|sessions| sessions.issue_ticket(Instant::now()));
    let address = browser_address(shared.tcp);
    respond::json(&SessionLink {
        url: format!("http://{address}/ui?ticket={ticket}"),
        expires_ms: now_ms().saturating_add(millis(session::TICKET_LIFE)),
    })
}

async fn read_json<T: DeserializeOwned>(shared: &Shared, body: Incoming) -> Result<T, Failure> {
    let limits = &shared.config.limits;
    let whole =
        tokio::time::timeout(limits.stalled, Limited::new(body, limits.body_bytes).collect());
    let bytes = whole
        .await
        .map_err(|_| Failure::new(Code::Usage, "the request's body did not come in time"))?
        .map_err(|error| {
            Failure::new(Code::Usage, "the request's body cannot be read").because(error)
        })?
        .to_bytes();
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(Code::Usage, "the request is malformed").because(error))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

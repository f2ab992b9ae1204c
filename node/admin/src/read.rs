//! The questions that the unix socket and the dashboard share.

use std::sync::Arc;

use http::Method;
use rung_proto::{Failure, OperationId};

use crate::follow;
use crate::query::Query;
use crate::respond::{self, Reply};
use crate::server::{Shared, within};

/// Where a question comes from: only operators may follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    Operator,
    Dashboard,
}

impl Asker {
    fn parameters<'a>(self, all: &'a [&'a str]) -> &'a [&'a str] {
        match self {
            Asker::Operator => all,
            // `follow` is the last one wherever there is one.
            Asker::Dashboard => &all[..all.len() - 1],
        }
    }
}

/// Answers `GET /api/v1/{status,events,operations,operations/N,top}`; nothing for
/// any other request.
pub async fn answer(
    shared: &Arc<Shared>,
    asker: Asker,
    method: &Method,
    path: &[&str],
    query: &str,
) -> Option<Result<Reply, Failure>> {
    if *method != Method::GET && *method != Method::HEAD {
        return None;
    }
    Some(match path {
        ["status"] => status(shared, query).await,
        ["top"] => top(shared, query).await,
        ["operations"] => operations(shared, query).await,
        ["operations", id] => operation(shared, asker, id, query).await,
        ["events"] => events(shared, asker, query).await,
        _ => return None,
    })
}

async fn status(shared: &Shared, query: &str) -> Result<Reply, Failure> {
    Query::parse(query, &[])?;
    let status = within(shared.config.limits.read, shared.backend.status()).await?;
    Ok(respond::json(&status))
}

async fn top(shared: &Shared, query: &str) -> Result<Reply, Failure> {
    Query::parse(query, &[])?;
    let top = within(shared.config.limits.read, shared.backend.top()).await?;
    Ok(respond::json(&top))
}

async fn operations(shared: &Shared, query: &str) -> Result<Reply, Failure> {
    Query::parse(query, &[])?;
    let operations = within(shared.config.limits.read, shared.backend.operations()).await?;
    Ok(respond::json(&operations))
}

async fn operation(
    shared: &Arc<Shared>,
    asker: Asker,
    id: &str,
    query: &str,
) -> Result<Reply, Failure> {
    let query = Query::parse(query, asker.parameters(&["follow"]))?;
    let id: OperationId = id.parse().map_err(|_| {
        Failure::new(rung_proto::Code::Usage, format!("{id:?} is not the number of an operation"))
    })?;
    // Subscribed before the first look, so that no change falls in between.
    let changed = shared.backend.changed();
    let deadline = shared.config.limits.read;
    let first = within(deadline, shared.backend.operation(id)).await?;
    if !query.flag("follow")? {
        return Ok(respond::json(&first));
    }
    let (writer, reply) = shared.streams.open()?;
    let backend = Arc::clone(&shared.backend);
    tokio::spawn(follow::operation(backend, deadline, changed, first, writer));
    Ok(reply)
}

async fn events(shared: &Arc<Shared>, asker: Asker, query: &str) -> Result<Reply, Failure> {
    let query = Query::parse(query, asker.parameters(&["since", "follow"]))?;
    let since = query.value("since")?.unwrap_or(0);
    let deadline = shared.config.limits.read;
    if !query.flag("follow")? {
        let events = within(deadline, shared.backend.events(since)).await?;
        return Ok(respond::json_lines(&events));
    }
    let (writer, reply) = shared.streams.open()?;
    tokio::spawn(follow::events(Arc::clone(&shared.backend), deadline, since, writer));
    Ok(reply)
}

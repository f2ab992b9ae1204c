//! Tails of all nodes: each lists and shows its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use rung_proto::api::{Tail, TailPage, TailReplayed};
use rung_proto::{Code, Failure, NodeId, encoding};
use rung_transport::Lane;
use serde::{Deserialize, Serialize};

use super::{DIRECTORY, list, page, replay};
use crate::node::Node;
use crate::protocol::service;

const ASK: Duration = Duration::from_secs(5);
/// Lines that are shown.
const LINES: usize = 1_000;

/// What nodes ask each other about their tails.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    List,
    Show { file: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Tails(Vec<Tail>),
    Page(Box<TailPage>),
}

/// Answers a question about the tails here. It reads files.
///
/// # Errors
/// When there is no such tail.
pub fn answer(node: &Node, question: &Question) -> Result<Answer, Failure> {
    let dir = node.data.join(DIRECTORY);
    match question {
        Question::List => Ok(Answer::Tails(list(&dir, node.name()))),
        Question::Show { file } => {
            let mut page = page(&dir, file, LINES)?;
            node.name().clone_into(&mut page.tail.node);
            Ok(Answer::Page(Box::new(page)))
        }
    }
}

async fn here(node: &Arc<Node>, question: Question) -> Result<Answer, Failure> {
    let here = Arc::clone(node);
    let answered = tokio::task::spawn_blocking(move || answer(&here, &question)).await;
    answered.unwrap_or_else(|error| {
        Err(Failure::new(Code::Internal, "the tails could not be read").because(error))
    })
}

/// The tails of a database on all nodes that answer.
///
/// # Errors
/// When those here cannot be read.
pub async fn of_database(node: &Arc<Node>, database: &str) -> Result<Vec<Tail>, Failure> {
    let Answer::Tails(mut tails) = here(node, Question::List).await? else {
        return Ok(Vec::new());
    };
    let members = node.membership.view();
    let others = members.active().map(|member| member.node).filter(|other| *other != node.id);
    for told in join_all(others.map(|other| ask(node, other, Question::List))).await {
        if let Some(Answer::Tails(told)) = told {
            tails.extend(told);
        }
    }
    tails.retain(|tail| tail.database == database);
    Ok(tails)
}

/// What a tail consists of, wherever it is.
///
/// # Errors
/// When no node that answers has it.
pub async fn show(node: &Arc<Node>, database: &str, file: &str) -> Result<TailPage, Failure> {
    let tails = of_database(node, database).await?;
    let Some(tail) = tails.iter().find(|tail| tail.file == file) else {
        let what = format!("no node that answers has a tail {file} of {database}");
        return Err(Failure::new(Code::NotFound, what).next("`ctl db tail ls` lists them"));
    };
    let question = Question::Show { file: file.to_owned() };
    if tail.node == node.name() {
        return match here(node, question).await? {
            Answer::Page(page) => Ok(*page),
            Answer::Tails(_) => Err(Failure::new(Code::Internal, "another answer was given")),
        };
    }
    let owner = node.control.state().node_named(&tail.node).map(|node| node.id);
    let answered = match owner {
        Some(owner) => ask(node, owner, question).await,
        None => None,
    };
    match answered {
        Some(Answer::Page(page)) => Ok(*page),
        _ => Err(Failure::new(Code::Unreachable, format!("{} did not show it", tail.node))
            .next("try again, or ask that node")),
    }
}

async fn ask(node: &Node, other: NodeId, question: Question) -> Option<Answer> {
    let body = Bytes::from(encoding::encode(&question));
    match node.mesh.call(other, Lane::Calls, service::TAILS, body, ASK).await {
        Ok(answer) => encoding::decode(&answer).ok(),
        Err(error) => {
            tracing::debug!(%other, %error, "a node did not tell of its tails");
            None
        }
    }
}

/// Replays a tail that is on this node's machine; the primary must be here as well.
///
/// # Errors
/// See [`replay`].
pub async fn replay_here(
    node: &Arc<Node>,
    database: &str,
    file: &str,
) -> Result<TailReplayed, Failure> {
    let shard = crate::database_backup::local_shard(node, database)?;
    replay(node, shard, database, file).await
}

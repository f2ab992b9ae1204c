//! A session's hands on another node: a stream of the mesh to the node that has the
//! primary or a copy, where the same operations are done as here.
//!
//! One stream serves one session, and one operation at a time. It is opened when it
//! is needed and used again. What is known not to have been done is reported so;
//! what was sent and not answered is unknown, unless nothing of it can stay.

mod forms;
mod frames;
mod serve;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rung_proto::NodeId;
use rung_sql::SqlState;
use tokio::sync::watch;

use forms::{AnswerForm, CallForms, Header, Purpose, Request};
use frames::{FrameError, Frames, Kind};
pub(crate) use serve::serve;

use crate::backend::{Answer, Bounds, Failure, Operation, outcome_unknown};
use crate::directory::Directory;
use crate::rows::Rows;
use crate::server::{ServerConfig, Shared};

/// What reads bytes of other nodes, for the fuzzer: none of them may make it panic,
/// pieces do not matter, and what is read is written and read again the same.
pub fn parse_link(bytes: &[u8]) {
    frames::parse_any(bytes);
    forms::parse_any(bytes);
}

/// A stream was not taken: the node is starting, or has no copy of the database.
const CODE_REFUSED: u32 = 1;
/// The session has ended, or has lost its way.
const CODE_ENDED: u32 = 2;
/// Opening a stream takes no longer.
const OPEN: Duration = Duration::from_secs(3);
/// The node that executes keeps to the deadline by itself; its answer is waited for
/// so much longer.
const GRACE: Duration = Duration::from_secs(3);
/// Another node became the primary: the former one, if it lives, answers what it had
/// begun within that time.
const FORMER_PRIMARY: Duration = Duration::from_millis(200);
/// A cancel request is told to another node, or lost, within that time.
const CANCEL: Duration = Duration::from_secs(3);

/// The link of one session to one node.
pub(crate) struct Link {
    shared: Arc<Shared>,
    node: NodeId,
    database: String,
    stream: Option<Open>,
    has_transaction: bool,
}

/// An open stream.
struct Open {
    frames: Frames,
    /// What the other side knows of the session already.
    known: CallForms,
}

/// What came of an exchange.
enum Exchanged {
    Answered(Box<Result<Answer, Failure>>),
    /// The request cannot have been taken as a whole.
    NotSent(String),
    /// The request may have been done.
    NotAnswered(String),
}

impl Exchanged {
    fn answered(answer: Result<Answer, Failure>) -> Self {
        Exchanged::Answered(Box::new(answer))
    }
}

impl Link {
    pub fn new(shared: Arc<Shared>, node: NodeId, database: &str) -> Self {
        Self { shared, node, database: database.to_owned(), stream: None, has_transaction: false }
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Whether a transaction is open at the other end.
    pub fn has_transaction(&self) -> bool {
        self.has_transaction
    }

    /// Has it done by the other node.
    pub async fn perform(
        &mut self,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Answer, Failure> {
        let was_open = self.has_transaction;
        let exchanged = match self.ready(bounds).await {
            Ok(mut open) => {
                let exchanged = self.exchange(&mut open, &operation, bounds).await;
                if matches!(exchanged, Exchanged::Answered(_)) {
                    self.stream = Some(open);
                } else {
                    open.frames.abort(CODE_ENDED);
                }
                exchanged
            }
            Err(why) => Exchanged::NotSent(why),
        };
        match exchanged {
            Exchanged::Answered(answer) => *answer,
            Exchanged::NotSent(why) => {
                self.has_transaction = false;
                Err(Failure::not_done(why, None))
            }
            Exchanged::NotAnswered(why) => {
                self.has_transaction = false;
                tracing::debug!(node = %self.node, why, "a link to the database broke");
                Err(match operation {
                    // What was not committed is gone with the stream.
                    Operation::Write(_) | Operation::Alone(_) => unknown(),
                    Operation::Commit if was_open => unknown(),
                    _ => Failure::not_done(why, None),
                })
            }
        }
    }

    /// The stream, opened if need be. An idle one that has ended is replaced.
    async fn ready(&mut self, bounds: &Bounds) -> Result<Open, String> {
        if let Some(mut open) = self.stream.take() {
            if open.frames.is_quiet() {
                return Ok(open);
            }
            if self.has_transaction {
                return Err("the node that had the transaction was lost".to_owned());
            }
        }
        let Some(mesh) = &self.shared.config.mesh else {
            return Err("this node has no connection to others".to_owned());
        };
        let purpose = Purpose::Session { database: self.database.clone() };
        let left = bounds.deadline.saturating_duration_since(Instant::now());
        let kind = self.shared.config.stream_kind;
        let header = Header { purpose }.encode();
        let opened = tokio::select! {
            opened = mesh.open_stream(self.node, kind, header, OPEN.min(left)) => {
                opened.map_err(|error| error.to_string())
            }
            why = gone(self.shared.config.directory.clone(), &self.database, self.node) => {
                Err(why.to_owned())
            }
        };
        let stream = opened.map_err(|why| format!("node {} of the database: {why}", self.node))?;
        Ok(Open { frames: Frames::new(stream), known: CallForms::default() })
    }

    async fn exchange(
        &mut self,
        open: &mut Open,
        operation: &Operation,
        bounds: &Bounds,
    ) -> Exchanged {
        let left = bounds.deadline.saturating_duration_since(Instant::now());
        let sent = match operation {
            Operation::CopyData(data) => {
                open.frames.send(Kind::CopyData, &[&forms::deadline(left), data]).await
            }
            operation => {
                let request = Request::new(operation, &mut open.known);
                match request.encode() {
                    Ok(request) => {
                        open.frames.send(Kind::Request, &[&forms::deadline(left), &request]).await
                    }
                    Err(error) => {
                        return Exchanged::answered(Err(Failure::sql(
                            SqlState::INTERNAL,
                            format!("a request to another node could not be written: {error}"),
                        )));
                    }
                }
            }
        };
        if let Err(error) = sent {
            return Exchanged::NotSent(error.to_string());
        }
        let answer = self.answer(open, bounds);
        match tokio::time::timeout(left + GRACE, answer).await {
            Ok(exchanged) => exchanged,
            Err(_) => Exchanged::NotAnswered("no answer before the deadline".to_owned()),
        }
    }

    async fn answer(&mut self, open: &mut Open, bounds: &Bounds) -> Exchanged {
        let mut rows = Rows::new(&self.shared.spool);
        let mut canceled = bounds.canceled.clone();
        let mut has_canceled = false;
        // A result that is too large here is read to its end, so that the stream
        // can go on being used.
        let mut too_large = None;
        let (directory, node) = (self.shared.config.directory.clone(), self.node);
        let gone = async {
            let why = gone(directory, &self.database, node).await;
            tokio::time::sleep(FORMER_PRIMARY).await;
            why
        };
        tokio::pin!(gone);
        loop {
            let frame = tokio::select! {
                frame = open.frames.next() => frame,
                why = &mut gone => return Exchanged::NotAnswered(why.to_owned()),
                _ = canceled.changed(), if !has_canceled => {
                    has_canceled = true;
                    if let Err(error) = open.frames.send(Kind::Cancel, &[]).await {
                        return Exchanged::NotAnswered(error.to_string());
                    }
                    continue;
                }
            };
            match frame {
                Ok((Kind::Rows, messages)) => {
                    if too_large.is_none() {
                        too_large = rows.append(&messages, 0).err();
                    }
                }
                Ok((Kind::Answer, form)) => {
                    let Some(form) = AnswerForm::decode(&form) else {
                        return Exchanged::NotAnswered("its answer could not be read".to_owned());
                    };
                    self.has_transaction = form.has_transaction;
                    if let Some(error) = too_large {
                        return Exchanged::answered(Err(error.into()));
                    }
                    return Exchanged::answered(form.into_answer(rows));
                }
                Ok(_) => return Exchanged::NotAnswered("it sent something else".to_owned()),
                Err(FrameError::Refused) => {
                    let node = self.node;
                    return Exchanged::NotSent(format!("node {node} serves no copy of it now"));
                }
                Err(error) => return Exchanged::NotAnswered(error.to_string()),
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(open) = &mut self.stream {
            open.frames.abort(CODE_ENDED);
        }
    }
}

/// Returns when a node can no longer be expected to answer: long before the mesh
/// notices that nobody is there.
async fn gone(
    mut directory: watch::Receiver<Arc<Directory>>,
    database: &str,
    node: NodeId,
) -> &'static str {
    let primaries = |directory: &Directory| {
        let shards = directory.databases.get(database).map(|database| &database.shards);
        let shards = shards.into_iter().flat_map(|shards| shards.values());
        shards.filter_map(|shard| shard.primary).collect::<Vec<_>>()
    };
    let was_primary = primaries(&directory.borrow_and_update()).contains(&node);
    loop {
        let now = directory.borrow_and_update().clone();
        if !now.nodes.is_empty() && !now.nodes.contains(&node) {
            return "the node is down";
        }
        let primaries = primaries(&now);
        if was_primary && !primaries.is_empty() && !primaries.contains(&node) {
            return "another node became the primary";
        }
        if directory.changed().await.is_err() {
            // Nobody tells any more: only the stream and the deadline can end it.
            return std::future::pending().await;
        }
    }
}

fn unknown() -> Failure {
    Failure::Unknown(Box::new(outcome_unknown()))
}

/// Tells another node of a cancel request that is for one of its clients.
pub(crate) async fn forward_cancel(config: &ServerConfig, node: NodeId, process: i32, secret: i32) {
    let Some(mesh) = &config.mesh else {
        return;
    };
    let header = Header { purpose: Purpose::Cancel { process, secret } }.encode();
    let forwarded = async {
        let stream = mesh.open_stream(node, config.stream_kind, header, CANCEL).await?;
        let mut frames = Frames::new(stream);
        // It ends when it was taken.
        let _ = frames.next().await;
        Ok::<_, rung_transport::CallError>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(CANCEL, forwarded).await {
        tracing::debug!(%node, %error, "a cancel request was not passed on");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            kind in 0u8..8,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let length = (bytes.len() as u32).to_be_bytes();
            parse_link(&[&length[..], &[kind], &bytes, &more].concat());
            parse_link(&bytes);
            let request = Request::Savepoint { number: u32::from(kind) }.encode().unwrap();
            parse_link(&request);
            let at = bytes.len() % request.len();
            parse_link(&[&request[..at], &more, &request[at..]].concat());
        }
    }
}

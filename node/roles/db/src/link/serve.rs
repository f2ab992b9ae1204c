//! The other end of a link: a session of another node has its operations done here.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use lru::LruCache;
use rung_shard::Cancel;
use rung_sql::{SqlError, SqlState, Statement};
use rung_transport::{MeshStream, PeerIdentity};
use tokio::sync::watch;

use super::forms::{AnswerForm, CallForm, CallForms, Header, Purpose, Request, split_deadline};
use super::frames::{FrameError, Frames, Kind};
use super::{CODE_ENDED, CODE_REFUSED};
use crate::backend::{Answer, Bounds, Call, Failure, LocalSession, Operation};
use crate::server::Shared;
use crate::statistics::count;

/// Parsed statements that a session keeps: it sends the same ones again.
const PARSED: NonZeroUsize = NonZeroUsize::new(64).expect("it is not zero");
/// Statements over that are not kept.
const MAX_PARSED: usize = 16 * 1024;
/// Rows travel in pieces of that size.
const PIECE: usize = 256 * 1024;

/// Serves a stream that another node has opened.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    peer: PeerIdentity,
    header: Bytes,
    mut stream: MeshStream,
) {
    match Header::decode(&header).map(|header| header.purpose) {
        Some(Purpose::Cancel { process, secret }) => {
            shared.cancel_here(process, secret);
            let _ = stream.send.finish();
        }
        Some(Purpose::Session { database }) => {
            let local = shared.local_shard(&database);
            let Some(shard) = local else {
                stream.abort(CODE_REFUSED);
                return;
            };
            let mut session = Served {
                local: LocalSession::new(shard, shared.spool.clone()),
                shared,
                database,
                frames: Frames::new(stream),
                known: CallForms::default(),
                parsed: LruCache::new(PARSED),
            };
            if let Err(error) = session.run().await {
                tracing::debug!(peer = %peer.node, %error, "a link of the database ended");
            }
            session.local.rollback().await;
            session.frames.abort(CODE_ENDED);
        }
        None => stream.abort(CODE_REFUSED),
    }
}

/// A session of another node.
struct Served {
    shared: Arc<Shared>,
    database: String,
    local: LocalSession,
    frames: Frames,
    known: CallForms,
    parsed: LruCache<String, Statement>,
}

impl Served {
    /// Answers until the other node ends the stream.
    async fn run(&mut self) -> Result<(), FrameError> {
        let mut shutdown = self.shared.shutdown.subscribe();
        loop {
            let (kind, body) = tokio::select! {
                frame = self.frames.next() => frame?,
                _ = shutdown.wait_for(|ends| *ends) => return Ok(()),
            };
            if kind == Kind::Cancel {
                // It came after what it was meant for had ended.
                continue;
            }
            let Some((left, body)) = split_deadline(&body) else {
                return Err(FrameError::Malformed(body.len()));
            };
            let operation = match kind {
                Kind::CopyData => Ok(Operation::CopyData(body)),
                Kind::Request => {
                    let request =
                        Request::decode(&body).ok_or(FrameError::Malformed(body.len()))?;
                    match request.into_operation(|form| self.call(form)) {
                        Ok(Some(operation)) => Ok(operation),
                        Ok(None) => return Err(FrameError::Malformed(body.len())),
                        Err(error) => Err(error),
                    }
                }
                _ => return Err(FrameError::Malformed(body.len())),
            };
            count(&self.shared.statistics.counters.served_for_others);
            let done = match operation {
                Ok(operation) => {
                    let bounds = Bounds {
                        deadline: Instant::now() + left,
                        cancel: Cancel::new(),
                        canceled: never(),
                    };
                    self.perform(operation, &bounds).await?
                }
                Err(error) => Err(error.into()),
            };
            self.answer(&done).await?;
        }
    }

    fn call(&mut self, form: CallForm) -> Result<Arc<Call>, SqlError> {
        let malformed = |what: &str| SqlError::new(SqlState::INTERNAL, what);
        let context = self
            .known
            .context(&form, &self.database)
            .ok_or_else(|| malformed("a session was not told before its first call"))?;
        let statement = match self.parsed.get(form.text()) {
            Some(statement) => statement.clone(),
            None => {
                let mut statements = rung_sql::parse(form.text())?;
                let statement =
                    statements.pop().ok_or_else(|| malformed("a call without a statement"))?;
                if form.text().len() <= MAX_PARSED {
                    self.parsed.put(form.text().to_owned(), statement.clone());
                }
                statement
            }
        };
        Ok(Arc::new(form.into_call(statement, context)))
    }

    /// Does it, unless the other node takes it back.
    async fn perform(
        &mut self,
        operation: Operation,
        bounds: &Bounds,
    ) -> Result<Result<Answer, Failure>, FrameError> {
        let work = self.local.perform(operation, bounds);
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => Ok(done),
            frame = self.frames.next() => {
                // Whatever comes, or that nothing can come any more, ends it.
                bounds.cancel.cancel();
                let done = work.await;
                match frame {
                    Ok((Kind::Cancel, _)) => Ok(done),
                    Ok((_, body)) => Err(FrameError::Malformed(body.len())),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn answer(&mut self, done: &Result<Answer, Failure>) -> Result<(), FrameError> {
        if let Ok(answer) = done {
            let mut offset = 0;
            let mut piece = Vec::new();
            loop {
                piece.clear();
                let read = answer.rows.read(offset, PIECE, &mut piece);
                let count = read.map_err(|error| FrameError::Broken(error.to_string()))?;
                if count == 0 {
                    break;
                }
                self.frames.send(Kind::Rows, &[&piece]).await?;
                offset += count as u64;
            }
        }
        let form = AnswerForm::new(done, self.local.has_transaction());
        let form = form.encode().map_err(|error| FrameError::Broken(error.to_string()))?;
        self.frames.send(Kind::Answer, &[&form]).await
    }
}

/// Nobody cancels by this way here.
fn never() -> watch::Receiver<u64> {
    watch::channel(0).1
}

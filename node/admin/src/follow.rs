//! Streams of lines that go on: a bounded number, each ended when its client is
//! gone, does not read for long, or the server stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rung_proto::api::{LogLine, Operation};
use rung_proto::{Code, Failure, OperationId};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::backend::Backend;
use crate::respond::{self, BrokenOff, Reply};
use crate::server::{stopped, within};

/// Lines that wait for a slow reader.
const BUFFER: usize = 64;

/// Hands out streams.
pub struct Streams {
    permits: Arc<Semaphore>,
    /// How long a reader may leave a full buffer alone.
    stalled: Duration,
    stop: watch::Receiver<bool>,
}

/// The writing end of a stream.
pub struct Writer {
    lines: mpsc::Sender<Result<Bytes, BrokenOff>>,
    stalled: Duration,
    stop: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// The reader is gone, or as good as gone.
struct Gone;

impl Streams {
    pub fn new(limit: usize, stalled: Duration, stop: watch::Receiver<bool>) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), stalled, stop }
    }

    /// A new stream and the response that carries it.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when there are as many as there may be.
    pub fn open(&self) -> Result<(Writer, Reply), Failure> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            Failure::new(Code::Overloaded, "this node streams to as many readers as it may")
                .next("end some of the commands that follow, or ask another node")
        })?;
        let (sender, receiver) = mpsc::channel(BUFFER);
        let writer = Writer {
            lines: sender,
            stalled: self.stalled,
            stop: self.stop.clone(),
            _permit: permit,
        };
        Ok((writer, respond::lines(receiver)))
    }
}

impl Writer {
    async fn write<T: Serialize>(&self, value: &T) -> Result<(), Gone> {
        let line = Bytes::from(respond::json_line(value));
        match tokio::time::timeout(self.stalled, self.lines.send(Ok(line))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Ends the stream so that the reader sees that it is not complete.
    async fn break_off(self, failure: Failure) {
        let broken = self.lines.send(Err(BrokenOff(failure)));
        // A reader that does not take even this loses the connection anyway.
        let _ = tokio::time::timeout(self.stalled, broken).await;
    }

    /// Waits for something new. An error is the reason to end the stream; none
    /// means that the reader is gone.
    async fn wait(&mut self, changed: &mut watch::Receiver<u64>) -> Result<(), Option<Failure>> {
        tokio::select! {
            result = changed.changed() => result.map_err(|_| Some(stopping())),
            () = self.lines.closed() => Err(None),
            () = stopped(&mut self.stop) => Err(Some(stopping())),
        }
    }
}

fn stopping() -> Failure {
    Failure::new(Code::Unreachable, "the node is stopping")
}

/// Follows an operation to its end. `changed` must have been taken before `first`
/// was read.
pub async fn operation(
    backend: Arc<dyn Backend>,
    deadline: Duration,
    mut changed: watch::Receiver<u64>,
    first: Operation,
    mut writer: Writer,
) {
    let id: OperationId = first.id;
    let mut last = first;
    if writer.write(&last).await.is_err() {
        return;
    }
    while !last.state.is_finished() {
        if let Err(reason) = writer.wait(&mut changed).await {
            if let Some(failure) = reason {
                writer.break_off(failure).await;
            }
            return;
        }
        let now = match within(deadline, backend.operation(id)).await {
            Ok(now) => now,
            Err(failure) => return writer.break_off(failure).await,
        };
        if now != last {
            if writer.write(&now).await.is_err() {
                return;
            }
            last = now;
        }
    }
}

/// Follows events after an index until the reader is gone.
pub async fn events(
    backend: Arc<dyn Backend>,
    deadline: Duration,
    mut since: u64,
    mut writer: Writer,
) {
    let mut changed = backend.changed();
    loop {
        changed.mark_unchanged();
        let new = match within(deadline, backend.events(since)).await {
            Ok(new) => new,
            Err(failure) => return writer.break_off(failure).await,
        };
        for event in new {
            if writer.write(&event).await.is_err() {
                return;
            }
            since = since.max(event.index);
        }
        if let Err(reason) = writer.wait(&mut changed).await {
            if let Some(failure) = reason {
                writer.break_off(failure).await;
            }
            return;
        }
    }
}

/// Passes log lines on until they end or the reader is gone.
pub async fn logs(mut lines: mpsc::Receiver<LogLine>, mut writer: Writer) {
    loop {
        let line = tokio::select! {
            line = lines.recv() => match line {
                Some(line) => line,
                None => return,
            },
            () = writer.lines.closed() => return,
            () = stopped(&mut writer.stop) => break,
        };
        if writer.write(&line).await.is_err() {
            return;
        }
    }
    writer.break_off(stopping()).await;
}

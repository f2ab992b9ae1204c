//! What is done with what arrives on a connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rung_proto::{Code, Failure};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{CallError, CallRefusal};
use crate::frame::{Frame, MAX_STREAM_HEADER, take_frame};
use crate::lane::{Lane, PushError};
use crate::link::{CloseCode, Link};
use crate::mesh::{Datagram, Handlers, IncomingCall, Inner, MeshLimits};
use crate::peer::Peer;
use crate::stream::{MeshStream, StreamKind};

/// How much is read from a lane at a time.
const READ_SIZE: usize = 32 * 1024;
/// How long a stream may take to say what it is for.
const STREAM_START: Duration = Duration::from_secs(10);
/// The code with which streams are given up that do not say what they are for.
const BAD_STREAM: u32 = 1;
/// How long a lane waits for a place for a post before the post is dropped.
const POST_PATIENCE: Duration = Duration::from_millis(50);

type Answer = Result<Bytes, CallRefusal>;

/// Reads a lane until the connection ends.
pub(crate) async fn read_lane(
    mesh: Arc<Inner>,
    peer: Arc<Peer>,
    link: Arc<Link>,
    lane: Lane,
    mut stream: quinn::RecvStream,
) {
    let slots = Arc::new(Semaphore::new(mesh.limits.max_calls));
    let server = LaneServer { mesh, peer, link, lane, slots };
    let mut buffer = BytesMut::with_capacity(READ_SIZE);
    loop {
        if let Err(why) = server.take_all(&mut buffer).await {
            tracing::warn!(peer = %server.link.identity, %why, "malformed lane");
            server.link.close(CloseCode::Protocol, &why);
            return;
        }
        buffer.reserve(READ_SIZE);
        match stream.read_buf(&mut buffer).await {
            Ok(0) => {
                server.link.close(CloseCode::Protocol, "a lane was ended");
                return;
            }
            Ok(_) => {}
            // The watcher of the connection knows and cleans up.
            Err(_) => return,
        }
    }
}

struct LaneServer {
    mesh: Arc<Inner>,
    peer: Arc<Peer>,
    link: Arc<Link>,
    lane: Lane,
    /// One for each call of this lane that is being worked on.
    slots: Arc<Semaphore>,
}

impl LaneServer {
    async fn take_all(&self, buffer: &mut BytesMut) -> Result<(), String> {
        while let Some(frame) =
            take_frame(buffer, self.mesh.limits.max_frame).map_err(|error| error.to_string())?
        {
            self.dispatch(frame).await;
        }
        Ok(())
    }

    async fn dispatch(&self, frame: Frame) {
        let (peer, serial) = (&self.peer, self.link.serial);
        match frame {
            Frame::Answer { id, body } => peer.complete(self.lane, serial, id, Ok(body)),
            Frame::Refusal { id, refusal } => {
                peer.complete(self.lane, serial, id, Err(CallError::Refused(refusal)));
            }
            Frame::Post { service, body } => self.post(service, body).await,
            Frame::Request { id, service, remaining_ms, body } => {
                self.request(id, service, remaining_ms, body);
            }
        }
    }

    fn incoming(
        &self,
        service: u16,
        body: Bytes,
        deadline: Instant,
        one_way: bool,
    ) -> IncomingCall {
        IncomingCall {
            from: self.link.identity.clone(),
            from_incarnation: self.link.incarnation,
            lane: self.lane,
            service,
            body,
            deadline,
            one_way,
        }
    }

    async fn post(&self, service: u16, body: Bytes) {
        // Nobody would learn of a refusal, so the lane is read more slowly
        // instead, which the sender feels as a full queue.
        let slot = tokio::time::timeout(POST_PATIENCE, self.slots.clone().acquire_owned()).await;
        let Ok(Ok(slot)) = slot else {
            self.mesh.counters.calls_refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let deadline = Instant::now() + self.mesh.limits.post_timeout;
        let call = self.incoming(service, body, deadline, true);
        if let Work::Going(work) = poll_once(begin(&self.mesh.handlers, call)) {
            tokio::spawn(async move {
                finish(work, deadline).await;
                drop(slot);
            });
        }
    }

    fn request(&self, id: u64, service: u16, remaining_ms: u32, body: Bytes) {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            self.mesh.counters.calls_refused.fetch_add(1, Ordering::Relaxed);
            let refusal = Frame::Refusal { id, refusal: CallRefusal::Overloaded };
            // Waiting for room here could make two nodes wait for each other;
            // without an answer the caller has its deadline.
            let _ = self.link.outbox(self.lane).push(&refusal, 0);
            return;
        };
        let deadline = Instant::now() + Duration::from_millis(remaining_ms.into());
        let call = self.incoming(service, body, deadline, false);
        let work = match poll_once(begin(&self.mesh.handlers, call)) {
            Work::Going(work) => work,
            Work::Done(result) if self.answer_at_once(id, &result) => return,
            Work::Done(result) => Box::pin(std::future::ready(result)),
        };
        let (link, lane, limit) = (self.link.clone(), self.lane, self.mesh.limits.max_frame);
        tokio::spawn(answer(work, deadline, link, lane, id, limit, slot));
    }

    /// False when there is no room for the answer now.
    fn answer_at_once(&self, id: u64, result: &Answer) -> bool {
        let (frame, size) = answer_frame(id, result.clone(), self.mesh.limits.max_frame);
        self.link.outbox(self.lane).push(&frame, size) != Err(PushError::Full)
    }
}

async fn answer(
    work: BoxFuture<'static, Answer>,
    deadline: Instant,
    link: Arc<Link>,
    lane: Lane,
    id: u64,
    limit: usize,
    slot: OwnedSemaphorePermit,
) {
    // Past the deadline nobody waits for an answer.
    let Some(result) = finish(work, deadline).await else {
        return;
    };
    let (frame, size) = answer_frame(id, result, limit);
    // The slot is held until the answer has a place, which bounds answers too.
    let outbox = link.outbox(lane);
    let pushed = tokio::time::timeout_at(deadline.into(), outbox.push_when_room(&frame, size));
    let _ = pushed.await;
    drop(slot);
}

/// The frame for a result, and the size of its body.
fn answer_frame(id: u64, result: Answer, limit: usize) -> (Frame, usize) {
    match result {
        Ok(body) if body.len() > limit => {
            let (size, limit) = (body.len() as u64, limit as u64);
            (Frame::Refusal { id, refusal: CallRefusal::AnswerTooLarge { size, limit } }, 0)
        }
        Ok(body) => {
            let size = body.len();
            (Frame::Answer { id, body }, size)
        }
        Err(refusal) => (Frame::Refusal { id, refusal }, 0),
    }
}

/// What a handler returned, after it was polled once.
enum Work {
    Done(Answer),
    Going(BoxFuture<'static, Answer>),
}

/// Polls once where the frame was read. Most handlers hand the call to an actor
/// or answer at once: they need neither a task nor a timer of their own then,
/// and a burst of posts takes their places one after the other.
fn poll_once(mut work: BoxFuture<'static, Answer>) -> Work {
    let mut context = Context::from_waker(Waker::noop());
    let poll = AssertUnwindSafe(|| work.poll_unpin(&mut context));
    match std::panic::catch_unwind(poll) {
        Ok(Poll::Ready(result)) => Work::Done(result),
        Ok(Poll::Pending) => Work::Going(work),
        Err(_) => Work::Done(Err(panicked())),
    }
}

/// Calls the handler. A panic in it costs that call and nothing else.
fn begin(handlers: &Handlers, call: IncomingCall) -> BoxFuture<'static, Answer> {
    std::panic::catch_unwind(AssertUnwindSafe(|| (handlers.call)(call)))
        .unwrap_or_else(|_| Box::pin(std::future::ready(Err(panicked()))))
}

/// Calls the handler on the mesh's runtime, whatever runtime the caller is on.
fn begin_on(mesh: &Inner, call: IncomingCall) -> BoxFuture<'static, Answer> {
    let _entered = mesh.runtime.enter();
    begin(&mesh.handlers, call)
}

/// Runs what the handler returned; nothing when the deadline came first.
async fn finish(work: BoxFuture<'static, Answer>, deadline: Instant) -> Option<Answer> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let result = tokio::time::timeout_at(deadline.into(), work).await.ok()?;
    Some(result.unwrap_or_else(|_| Err(panicked())))
}

fn panicked() -> CallRefusal {
    tracing::error!("a call handler panicked");
    CallRefusal::Failed(
        Failure::new(Code::OutcomeUnknown, "the handler of the call crashed")
            .next("look into the log of the node that was called"),
    )
}

/// Calls and posts of a node to itself.
pub(crate) struct LocalServer {
    slots: [Arc<Semaphore>; 2],
}

impl LocalServer {
    pub(crate) fn new(limits: &MeshLimits) -> Self {
        let slots = || Arc::new(Semaphore::new(limits.max_calls));
        Self { slots: [slots(), slots()] }
    }

    fn incoming(
        mesh: &Inner,
        lane: Lane,
        service: u16,
        body: Bytes,
        deadline: Instant,
        one_way: bool,
    ) -> IncomingCall {
        let from = mesh.me.clone();
        let from_incarnation = mesh.incarnation;
        IncomingCall { from, from_incarnation, lane, service, body, deadline, one_way }
    }

    pub(crate) async fn call(
        &self,
        mesh: &Arc<Inner>,
        lane: Lane,
        service: u16,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let Ok(slot) = self.slots[lane.index()].clone().try_acquire_owned() else {
            return Err(CallError::Refused(CallRefusal::Overloaded));
        };
        let call = Self::incoming(mesh, lane, service, body, deadline, false);
        let work = begin_on(mesh, call);
        // A task of its own, as for a remote caller: dropping the call does not
        // stop what was begun.
        let task = mesh.runtime.spawn(async move {
            let result = finish(work, deadline).await;
            drop(slot);
            result
        });
        match task.await {
            Ok(Some(result)) => result.map_err(CallError::Refused),
            Ok(None) => Err(CallError::Deadline),
            Err(_) => Err(CallError::ConnectionLost),
        }
    }

    pub(crate) fn post(
        &self,
        mesh: &Arc<Inner>,
        lane: Lane,
        service: u16,
        body: Bytes,
    ) -> Result<(), CallError> {
        let Ok(slot) = self.slots[lane.index()].clone().try_acquire_owned() else {
            return Err(CallError::QueueFull);
        };
        let deadline = Instant::now() + mesh.limits.post_timeout;
        let call = Self::incoming(mesh, lane, service, body, deadline, true);
        let work = begin_on(mesh, call);
        mesh.runtime.spawn(async move {
            finish(work, deadline).await;
            drop(slot);
        });
        Ok(())
    }
}

/// Hands datagrams on until the connection ends.
pub(crate) async fn read_datagrams(mesh: Arc<Inner>, link: Arc<Link>) {
    while let Ok(body) = link.connection.read_datagram().await {
        let datagram = Datagram {
            from: link.identity.clone(),
            address: link.connection.remote_address(),
            body,
        };
        if mesh.handlers.datagram.try_send(datagram).is_err() {
            mesh.counters.datagrams_dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Hands streams on until the connection ends. How many there are at a time is
/// bounded by the limit that QUIC enforces on the peer.
pub(crate) async fn accept_streams(mesh: Arc<Inner>, link: Arc<Link>) {
    while let Ok((send, recv)) = link.connection.accept_bi().await {
        let mut stream = MeshStream { send, recv };
        let (handler, identity) = (mesh.handlers.stream.clone(), link.identity.clone());
        tokio::spawn(async move {
            let start = tokio::time::timeout(STREAM_START, read_stream_start(&mut stream)).await;
            match start {
                Ok(Ok((kind, header))) => handler(identity, kind, header, stream),
                _ => stream.abort(BAD_STREAM),
            }
        });
    }
}

async fn read_stream_start(stream: &mut MeshStream) -> Result<(StreamKind, Bytes), String> {
    let broken = |error: quinn::ReadExactError| error.to_string();
    let mut start = [0; 3];
    stream.recv.read_exact(&mut start).await.map_err(broken)?;
    let length = usize::from(u16::from_be_bytes([start[1], start[2]]));
    if length > MAX_STREAM_HEADER {
        return Err(format!("a stream header of {length} bytes is over {MAX_STREAM_HEADER}"));
    }
    let mut header = vec![0; length];
    stream.recv.read_exact(&mut header).await.map_err(broken)?;
    Ok((StreamKind(start[0]), header.into()))
}

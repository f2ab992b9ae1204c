//! One replica's connection to another, as the protocol uses it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{
    NetworkError as RaftNetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::impls::EmptyNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use rung_proto::encoding;
use rung_proto::{Generation, GroupId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Sleep, sleep};

use crate::message::{Answer, Header, Request, SnapshotHeader, encode_request};
use crate::network::{ByteStream, Network, NetworkError};
use crate::raft_types::{RaftEntry, RaftLogId, RaftVote, Types, log_id, position};
use crate::replica::{LiveSnapshot, RaftSnapshot, SnapshotData};
use crate::snapshot_store::blocking;

/// The largest answer at the end of a snapshot's stream, in bytes.
pub(crate) const MAX_STREAM_ANSWER: u32 = 4 << 10;
const PIECE: usize = 256 << 10;

/// Connects the replicas of one group.
#[derive(Clone)]
pub(crate) struct Peers {
    pub network: Arc<dyn Network>,
    /// That of the node, which changes when a new one has begun.
    pub generation: Arc<AtomicU64>,
    pub group: GroupId,
    pub window: usize,
    /// How long a message with entries may take, the follower's disk included.
    pub append_deadline: Duration,
}

/// One replica's connection to another.
pub(crate) struct Peer {
    peers: Peers,
    to: NodeId,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Peer {
        Peer { peers: self.clone(), to: NodeId(target) }
    }
}

type Rpc<T> = Result<T, RPCError<Types>>;

fn rpc_error(error: &NetworkError) -> RPCError<Types> {
    match error {
        // The protocol asks again at once after these, and waits after the others.
        NetworkError::NoAnswer(..) => RPCError::Network(RaftNetworkError::new(error)),
        NetworkError::Unreachable(..) | NetworkError::Refused(..) => {
            RPCError::Unreachable(Unreachable::new(error))
        }
    }
}

fn strange(answer: &Answer) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::from_string(format!(
        "an answer to another question: {answer:?}"
    )))
}

fn decode_answer(bytes: &[u8]) -> Rpc<Answer> {
    encoding::decode(bytes).map_err(|error| RPCError::Unreachable(Unreachable::from_string(error)))
}

impl Peers {
    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    fn call(
        &self,
        to: NodeId,
        request: Request,
        entries: &[RaftEntry],
        deadline: Duration,
    ) -> BoxFuture<'static, Rpc<Answer>> {
        let header = Header { generation: self.generation(), group: self.group, request };
        let body = encode_request(&header, entries);
        let answer = self.network.call(to, body, deadline);
        async move {
            let bytes: Bytes = answer.await.map_err(|error| rpc_error(&error))?;
            decode_answer(&bytes)
        }
        .boxed()
    }

    /// Asks the leader which index a linearizable read must have seen.
    pub(crate) async fn read_index(
        &self,
        leader: NodeId,
        deadline: Duration,
    ) -> Result<Answer, String> {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        self.call(leader, Request::ReadIndex { deadline_ms }, &[], deadline)
            .await
            .map_err(|error| error.to_string())
    }

    /// Asks a replica whether it takes part in elections, and lets it wait for that
    /// for half of the deadline.
    pub(crate) async fn is_complete(&self, node: NodeId, deadline: Duration) -> bool {
        let deadline_ms = u32::try_from(deadline.as_millis() / 2).unwrap_or(u32::MAX);
        let answer = self.call(node, Request::IsComplete { deadline_ms }, &[], deadline).await;
        matches!(answer, Ok(Answer::Complete(true)))
    }
}

fn append_request(rpc: &AppendEntriesRequest<Types>) -> Request {
    Request::Append {
        ballot: (&rpc.vote).into(),
        previous: rpc.prev_log_id.as_ref().map(position),
        commit: rpc.leader_commit.as_ref().map(position),
        entries: u32::try_from(rpc.entries.len()).expect("a message has at most 4096 entries"),
    }
}

fn append_response(answer: Answer) -> Rpc<AppendEntriesResponse<Types>> {
    Ok(match answer {
        Answer::Appended => AppendEntriesResponse::Success,
        Answer::AppendedUpTo(last) => AppendEntriesResponse::PartialSuccess(last.map(log_id)),
        Answer::Conflict => AppendEntriesResponse::Conflict,
        Answer::Higher(ballot) => AppendEntriesResponse::HigherVote(ballot.into()),
        other => return Err(strange(&other)),
    })
}

fn vote_response(answer: Answer) -> Rpc<VoteResponse<Types>> {
    match answer {
        Answer::Vote { ballot, granted, last } => {
            Ok(VoteResponse::new(RaftVote::from(ballot), last.map(log_id), granted))
        }
        other => Err(strange(&other)),
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let deadline = self.peers.append_deadline;
        let call = self.peers.call(self.to, append_request(&rpc), &rpc.entries, deadline);
        append_response(call.await?)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let mut pipeline = Pipeline {
            peer: self,
            input: Some(input),
            under_way: VecDeque::new(),
            last: None,
            held: None,
            answered: 0,
            ended: false,
        };
        let answers = futures_util::stream::poll_fn(move |context| pipeline.poll_next(context));
        async move { Ok(answers.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let request = Request::Vote {
            ballot: (&rpc.vote).into(),
            last: rpc.last_log_id.as_ref().map(position),
            transfer: rpc.leadership_transfer,
        };
        vote_response(self.peers.call(self.to, request, &[], option.hard_ttl()).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        let request = Request::PreVote {
            ballot: (&rpc.vote).into(),
            last: rpc.last_log_id.as_ref().map(position),
            transfer: rpc.leadership_transfer,
        };
        vote_response(self.peers.call(self.to, request, &[], option.hard_ttl()).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let transfer =
            tokio::time::timeout(option.hard_ttl(), self.send_snapshot(&vote, snapshot.snapshot));
        let cancel = std::pin::pin!(cancel);
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            sent = transfer => match sent {
                Ok(sent) => sent.map_err(|error| rpc_error(&error).into()),
                Err(_) => {
                    let error = NetworkError::NoAnswer(self.to, "the snapshot took too long".to_owned());
                    Err(rpc_error(&error).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let request = Request::Transfer {
            ballot: rpc.from_leader().into(),
            to: NodeId(*rpc.to_node_id()),
            last: rpc.last_log_id().map(position),
        };
        match self.peers.call(self.to, request, &[], option.hard_ttl()).await? {
            Answer::Transferring => Ok(Ok(())),
            Answer::TransferVoteChanged { expected, actual } => {
                Ok(Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                }))
            }
            Answer::TransferNotFlushed { expected, actual } => {
                Ok(Err(TransferLeaderError::LogNotFlushed {
                    expected: expected.map(log_id),
                    actual: actual.map(log_id),
                }))
            }
            other => Err(strange(&other)),
        }
    }
}

impl Peer {
    async fn send_snapshot(
        &self,
        vote: &RaftVote,
        data: SnapshotData,
    ) -> Result<SnapshotResponse<Types>, NetworkError> {
        let bytes = match &data {
            SnapshotData::File(file) => Some(file.bytes),
            SnapshotData::Live(_) => None,
            SnapshotData::Nothing | SnapshotData::Landed(_) => {
                let why = "the state machine has no snapshot to send yet".to_owned();
                return Err(NetworkError::Unreachable(self.to, why));
            }
        };
        let lost = |error: std::io::Error| NetworkError::NoAnswer(self.to, error.to_string());
        let header = SnapshotHeader {
            generation: self.peers.generation(),
            group: self.peers.group,
            ballot: vote.into(),
            bytes,
        };
        let header = Bytes::from(encoding::encode(&header));
        let stream = self.peers.network.open_stream(self.to, header, self.peers.append_deadline);
        let ByteStream { mut send, mut receive } = stream.await?;
        let mut sent = None;
        match data {
            SnapshotData::File(file) => {
                let mut offset = 0;
                while offset < file.bytes {
                    let piece = file.piece(offset, PIECE).map_err(lost)?;
                    send.write_all(&piece).await.map_err(lost)?;
                    offset += piece.len() as u64;
                }
            }
            SnapshotData::Live(live) => {
                let LiveSnapshot { mut encoder, sending } = *live;
                while let Some(piece) = blocking(|| encoder.next_piece()).map_err(lost)? {
                    send.write_all(&piece).await.map_err(lost)?;
                }
                sent = Some(sending);
            }
            SnapshotData::Nothing | SnapshotData::Landed(_) => {}
        }
        send.shutdown().await.map_err(lost)?;
        let size = receive.read_u32().await.map_err(lost)?;
        if size > MAX_STREAM_ANSWER {
            return Err(NetworkError::Refused(self.to, format!("an answer of {size} bytes")));
        }
        let mut answer = vec![0; size as usize];
        receive.read_exact(&mut answer).await.map_err(lost)?;
        drop(sent);
        match encoding::decode(&answer) {
            Ok(Answer::SnapshotInstalled(ballot)) => Ok(SnapshotResponse::new(ballot.into())),
            Ok(other) => Err(NetworkError::Refused(self.to, format!("{other:?}"))),
            Err(error) => Err(NetworkError::Refused(self.to, error.to_string())),
        }
    }
}

enum Sent {
    Waiting(BoxFuture<'static, Rpc<Answer>>),
    Answered(Rpc<Answer>),
}

struct UnderWay {
    previous: Option<RaftLogId>,
    last: Option<RaftLogId>,
    sent: Sent,
}

/// Messages with entries, several under way, answered in their order.
struct Pipeline<'s, S> {
    peer: &'s Peer,
    input: Option<S>,
    under_way: VecDeque<UnderWay>,
    /// The last entry that was sent.
    last: Option<RaftLogId>,
    /// A message that says no more than that entries are committed, and how long it waits
    /// for the next one that has some.
    held: Option<(AppendEntriesRequest<Types>, Pin<Box<Sleep>>)>,
    answered: u64,
    ended: bool,
}

/// For so long a follower does not learn that the last entries are committed, if it could
/// learn it from the next ones. A message by itself, and its answer, cost as much as those
/// that carry entries, and while something is written the next entries are seldom later.
const HELD: Duration = Duration::from_millis(1);

impl<S> Pipeline<'_, S>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
{
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Rpc<StreamAppendResult<Types>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.send_more(context);
        let Some(first) = self.under_way.front_mut() else {
            return if self.input.is_none() { Poll::Ready(None) } else { Poll::Pending };
        };
        let answer = match &mut first.sent {
            Sent::Answered(answer) => std::mem::replace(answer, Ok(Answer::Appended)),
            Sent::Waiting(call) => match call.poll_unpin(context) {
                Poll::Ready(answer) => answer,
                Poll::Pending => return Poll::Pending,
            },
        };
        let UnderWay { previous, last, .. } =
            self.under_way.pop_front().expect("the first was just seen");
        // There is room for one more now, and nothing else would wake us for it.
        self.send_more(context);
        let result = self.result(answer, previous, last);
        self.answered += 1;
        self.ended = !matches!(result, Ok(Ok(acknowledged)) if acknowledged == last);
        Poll::Ready(Some(result))
    }

    /// Sends until the window is full. Each call is polled once here, so that
    /// the messages are queued in their order.
    fn send_more(&mut self, context: &mut Context<'_>) {
        while self.under_way.len() < self.peer.peers.window {
            let Some(input) = &mut self.input else { break };
            match input.poll_next_unpin(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.input = None,
                // The next one says what it says.
                Poll::Ready(Some(request)) if self.says_only_what_is_committed(&request) => {
                    let until = self.held.take().map(|(_, until)| until);
                    let until = until.unwrap_or_else(|| Box::pin(sleep(HELD)));
                    self.held = Some((request, until));
                }
                Poll::Ready(Some(request)) => {
                    self.held = None;
                    self.push(&request, context);
                }
            }
        }
        if let Some((request, mut until)) = self.held.take() {
            let is_due = self.input.is_none() || until.poll_unpin(context).is_ready();
            if is_due && self.under_way.len() < self.peer.peers.window {
                self.push(&request, context);
            } else {
                self.held = Some((request, until));
            }
        }
    }

    fn says_only_what_is_committed(&self, request: &AppendEntriesRequest<Types>) -> bool {
        request.entries.is_empty() && self.last.is_some() && request.prev_log_id == self.last
    }

    fn push(&mut self, request: &AppendEntriesRequest<Types>, context: &mut Context<'_>) {
        let sent = self.send(request, context);
        let last = request.entries.last().map(|entry| entry.log_id);
        self.last = last.or(self.last);
        let (previous, last) = (request.prev_log_id, last.or(request.prev_log_id));
        self.under_way.push_back(UnderWay { previous, last, sent });
    }

    fn send(&self, request: &AppendEntriesRequest<Types>, context: &mut Context<'_>) -> Sent {
        // Whoever sends a heartbeat waits for less. A message without entries on a busy
        // stream may come to its turn behind many that have some.
        let Peer { peers, to } = self.peer;
        let deadline = peers.append_deadline;
        let mut call = peers.call(*to, append_request(request), &request.entries, deadline);
        match call.poll_unpin(context) {
            Poll::Ready(answer) => Sent::Answered(answer),
            Poll::Pending => Sent::Waiting(call),
        }
    }

    fn result(
        &self,
        answer: Rpc<Answer>,
        previous: Option<RaftLogId>,
        last: Option<RaftLogId>,
    ) -> Rpc<StreamAppendResult<Types>> {
        let response = append_response(answer?)?;
        if response.is_conflict() && previous.is_none() {
            return Err(strange(&Answer::Conflict));
        }
        let result = response.into_stream_result(previous, last);
        // The follower had accepted the messages before this one when it answered
        // them, so it misses `previous` only because this one overtook them. That
        // says nothing about its log, and the protocol would take it for a loss.
        if self.answered > 0 && matches!(result, Err(StreamAppendError::Conflict(_))) {
            return Err(RPCError::Network(RaftNetworkError::from_string(
                "a message overtook an earlier one",
            )));
        }
        Ok(result)
    }
}

/// An answer to a snapshot, as it ends the stream.
pub(crate) fn stream_answer(answer: &Answer) -> Vec<u8> {
    let encoded = encoding::encode(answer);
    let size = u32::try_from(encoded.len()).expect("an answer has a few hundred bytes");
    [&size.to_be_bytes()[..], &encoded].concat()
}

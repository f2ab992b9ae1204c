//! How messages and snapshots reach the other replicas.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rung_proto::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a message was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NetworkError {
    /// It was not delivered.
    #[error("node {0} cannot be reached: {1}")]
    Unreachable(NodeId, String),
    /// It may have been delivered.
    #[error("node {0} did not answer: {1}")]
    NoAnswer(NodeId, String),
    /// It was delivered and refused.
    #[error("node {0} refused: {1}")]
    Refused(NodeId, String),
}

/// A stream of bytes in both directions, of which a snapshot uses one and its
/// answer the other.
pub struct ByteStream {
    /// To the peer.
    pub send: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// From the peer.
    pub receive: Box<dyn AsyncRead + Send + Sync + Unpin>,
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByteStream")
    }
}

/// How messages and snapshots reach the other replicas: the mesh, or a simulation.
pub trait Network: Send + Sync + 'static {
    /// Asks `to`, which hands `body` to its [`crate::Consensus::handle`]. Calls
    /// to one node should arrive in the order in which the returned futures were
    /// first polled; another order costs time, not correctness.
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>>;

    /// Opens a stream to `to`, which hands `header` and its end of the stream to
    /// its [`crate::Consensus::serve_stream`].
    fn open_stream(
        &self,
        to: NodeId,
        header: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetworkError>>;
}

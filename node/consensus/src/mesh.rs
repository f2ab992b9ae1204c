//! The mesh as the network of groups.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use rung_proto::{Code, Failure, NodeId};
use rung_transport::{CallError, CallRefusal, Lane, Mesh, MeshStream, StreamKind};

use crate::error::Refusal;
use crate::network::{ByteStream, Network, NetworkError};

/// The kind of the mesh's streams that carry snapshots.
pub const SNAPSHOT_STREAM: StreamKind = StreamKind(2);

/// The mesh as the network of groups: messages are calls of one service on the
/// control lane, snapshots are streams of [`SNAPSHOT_STREAM`].
#[derive(Clone)]
pub struct MeshNetwork {
    mesh: Mesh,
    service: u16,
}

impl MeshNetwork {
    /// Calls `service` of the other nodes. Their call handlers must pass the
    /// bodies of that service to [`crate::Consensus::handle`] in the order of
    /// their arrival, and their stream handlers [`SNAPSHOT_STREAM`] to
    /// [`crate::Consensus::serve_stream`].
    pub fn new(mesh: Mesh, service: u16) -> Self {
        Self { mesh, service }
    }
}

impl From<MeshStream> for ByteStream {
    fn from(stream: MeshStream) -> Self {
        Self { send: Box::new(stream.send), receive: Box::new(stream.recv) }
    }
}

impl From<Refusal> for CallRefusal {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::Malformed(_) | Refusal::Impersonation => Code::IdentityRefused,
            Refusal::Generation => Code::WrongCluster,
            Refusal::UnknownGroup(_) => Code::NotFound,
            Refusal::Stopped(_) => Code::DiskFailed,
            Refusal::Returning => Code::NoQuorum,
            Refusal::Snapshot(_) => Code::Overloaded,
        };
        let what = "a message between replicas was refused";
        CallRefusal::Failed(Failure::new(code, what).because(refusal))
    }
}

fn network_error(to: NodeId, error: &CallError) -> NetworkError {
    let what = error.to_string();
    match error {
        CallError::Refused(_) => NetworkError::Refused(to, what),
        CallError::Deadline | CallError::ConnectionLost => NetworkError::NoAnswer(to, what),
        CallError::UnknownPeer
        | CallError::QueueFull
        | CallError::TooLarge { .. }
        | CallError::Unreachable(_) => NetworkError::Unreachable(to, what),
    }
}

impl Network for MeshNetwork {
    fn call(
        &self,
        to: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, NetworkError>> {
        let Self { mesh, service } = self.clone();
        async move {
            let answer = mesh.call(to, Lane::Control, service, body, deadline).await;
            answer.map_err(|error| network_error(to, &error))
        }
        .boxed()
    }

    fn open_stream(
        &self,
        to: NodeId,
        header: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<ByteStream, NetworkError>> {
        let mesh = self.mesh.clone();
        async move {
            let stream = mesh.open_stream(to, SNAPSHOT_STREAM, header, deadline).await;
            stream.map(ByteStream::from).map_err(|error| network_error(to, &error))
        }
        .boxed()
    }
}

//! Connections to instances: TCP on this machine, mesh streams elsewhere.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use rung_proto::InstanceId;
use rung_transport::{CallError, Mesh, StreamKind};
use tokio::net::TcpStream;

use crate::buffer::{ReadBuffer, WriteBuffer};
use crate::instance::{Idle, Instance};
use crate::stream::Stream;
use crate::table::Place;

/// Mesh streams that carry HTTP/1.1 connections to instances.
///
/// The opener sends [`stream_header`]; the owner maps the stream to one TCP
/// connection to that instance and copies bytes both ways.
pub const PROXY_STREAM: StreamKind = StreamKind(1);
/// The opener gave the stream up.
pub const CANCELLED: u32 = 0x20;
/// The owner does not have the instance, or it is draining; nothing was
/// forwarded.
pub const REFUSED: u32 = 0x21;
/// The owner could not connect to the instance; nothing was forwarded.
pub const UNREACHABLE: u32 = 0x22;

/// Flag of [`stream_header`]: the stream may live long, it is for an upgrade.
pub const LONG_LIVED: u8 = 1;

/// The header of a proxy stream: the instance, 8 bytes big-endian, and flags.
pub fn stream_header(instance: InstanceId, flags: u8) -> Bytes {
    let mut header = BytesMut::with_capacity(9);
    header.put_u64(instance.0);
    header.put_u8(flags);
    header.freeze()
}

/// Reads the header of a proxy stream. Never panics, whatever the bytes.
pub fn parse_stream_header(header: &[u8]) -> Option<(InstanceId, u8)> {
    let (id, flags) = header.split_first_chunk::<8>()?;
    match flags {
        [flags] => Some((InstanceId(u64::from_be_bytes(*id)), *flags)),
        _ => None,
    }
}

/// A connection to an instance; at most one request at a time.
pub(crate) struct Connection {
    pub stream: Stream,
    pub input: ReadBuffer,
    pub output: WriteBuffer,
    /// It has served a request before, so it may have been closed by the
    /// instance meanwhile.
    pub reused: bool,
    /// When an idle one is closed.
    pub idle_limit: Duration,
}

/// Why there is no connection. Nothing was sent in any case.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Failed(#[from] io::Error),
    #[error("{0}")]
    Mesh(#[from] CallError),
    #[error("this node has no mesh")]
    NoMesh,
}

impl Connection {
    /// Connects to `instance`.
    pub async fn open(
        instance: &Instance,
        mesh: Option<&Mesh>,
        flags: u8,
        limit: Duration,
        idle_limit: Duration,
    ) -> Result<Box<Connection>, ConnectError> {
        let stream = match instance.place {
            Place::Local { address } => {
                let connected = tokio::time::timeout(limit, TcpStream::connect(address)).await;
                let stream = connected.map_err(|_| ConnectError::Timeout(limit))??;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Place::Remote => {
                let mesh = mesh.ok_or(ConnectError::NoMesh)?;
                let header = stream_header(instance.id, flags);
                Stream::Mesh(mesh.open_stream(instance.node, PROXY_STREAM, header, limit).await?)
            }
        };
        Ok(Box::new(Connection {
            stream,
            input: ReadBuffer::default(),
            output: WriteBuffer::default(),
            reused: false,
            idle_limit,
        }))
    }

    /// Takes an idle connection that is still open.
    pub fn take_idle(
        instance: &Instance,
        thread: usize,
        now: Instant,
        careful: bool,
    ) -> Option<Box<Connection>> {
        while let Some(Idle { mut connection, since }) = instance.take_idle(thread) {
            let idle = now.saturating_duration_since(since);
            if idle >= connection.idle_limit {
                continue;
            }
            // The reactor knows of an end only once it has been asked; a request
            // that cannot be sent twice asks the kernel.
            let closed = careful && idle > Duration::from_millis(20) && connection.has_news();
            if !closed && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Whether neither bytes nor an end came, as far as the reactor knows.
    fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.input.poll_fill(&mut cx, &mut self.stream).is_pending()
    }

    /// Whether the kernel has bytes or an end for us, which an idle connection
    /// must not have.
    fn has_news(&self) -> bool {
        let Stream::Tcp(stream) = &self.stream else { return false };
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !matches!(
            socket2::SockRef::from(stream).peek(&mut byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        )
    }

    /// Keeps it for the next request to `instance`.
    pub fn keep(
        mut self: Box<Self>,
        instance: &Instance,
        thread: usize,
        now: Instant,
        most: usize,
    ) {
        self.reused = true;
        self.input.shrink();
        self.output.shrink();
        if !instance.retired.load(Relaxed) {
            instance.keep_idle(thread, Idle { connection: self, since: now }, most);
        }
    }

    /// Whether an idle connection is past its time, or was ended by the other
    /// side.
    pub fn is_over(idle: &mut Idle, now: Instant) -> bool {
        now.saturating_duration_since(idle.since) >= idle.connection.idle_limit
            || !idle.connection.is_quiet()
    }

    /// Writes what is waiting.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_flush(cx, &mut self.stream)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A mesh stream would otherwise end as if it were complete.
        if let Stream::Mesh(stream) = &mut self.stream {
            stream.abort(CANCELLED);
        }
    }
}

/// Whether the owner of an instance said that it forwarded nothing.
pub(crate) fn nothing_was_forwarded(error: &io::Error) -> Option<NotForwarded> {
    match rung_transport::abort_code(error)? {
        REFUSED => Some(NotForwarded::Refused),
        UNREACHABLE => Some(NotForwarded::Unreachable),
        _ => None,
    }
}

/// Why the owner of an instance forwarded nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotForwarded {
    /// It does not have the instance, or drains it.
    Refused,
    /// The instance does not take connections.
    Unreachable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_header_names_the_instance_and_reads_back() {
        let header = stream_header(InstanceId(0x0102), LONG_LIVED);
        assert_eq!(&header[..], [0, 0, 0, 0, 0, 0, 1, 2, 1]);
        assert_eq!(parse_stream_header(&header), Some((InstanceId(0x0102), 1)));
        assert_eq!(parse_stream_header(&header[..8]), None);
        assert_eq!(parse_stream_header(&[0; 10]), None);
    }
}

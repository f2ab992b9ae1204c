//! A byte stream of its own between two nodes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a stream is for. The numbers are given out by the crates that use them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamKind(pub u8);

/// A stream in both directions. It may be used from any tokio runtime, also
/// another one than the mesh's.
///
/// Dropping the sending half ends it *as if it were complete*, which is how QUIC
/// streams of quinn behave; whoever gives up in the middle must call
/// [`MeshStream::abort`].
#[derive(Debug)]
pub struct MeshStream {
    pub send: quinn::SendStream,
    pub recv: quinn::RecvStream,
}

impl MeshStream {
    /// Gives the stream up in both directions. The peer's reads and writes fail
    /// with that code.
    pub fn abort(&mut self, code: u32) {
        // Both fail only when that direction has already ended.
        let _ = self.send.reset(code.into());
        let _ = self.recv.stop(code.into());
    }

    /// Reading and writing apart.
    pub fn into_parts(self) -> (quinn::SendStream, quinn::RecvStream) {
        (self.send, self.recv)
    }
}

/// The code with which the peer gave the stream up, if that is what a read or
/// write through [`AsyncRead`] or [`AsyncWrite`] failed with.
pub fn abort_code(error: &io::Error) -> Option<u32> {
    let inner = error.get_ref()?;
    let code = match inner.downcast_ref::<quinn::ReadError>() {
        Some(quinn::ReadError::Reset(code)) => *code,
        _ => match inner.downcast_ref::<quinn::WriteError>() {
            Some(quinn::WriteError::Stopped(code)) => *code,
            _ => return None,
        },
    };
    u32::try_from(code.into_inner()).ok()
}

impl AsyncRead for MeshStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buffer)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

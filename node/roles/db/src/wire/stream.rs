//! A client's connection as bytes: in the clear or in TLS, with bounded buffers.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::frontend::{First, HEADER, Header, ProtocolError};

/// How much is read at once.
const READ: usize = 8 * 1024;
/// A message longer than that is read in larger pieces.
const READ_LARGE: usize = 256 * 1024;
/// Output over that is sent before more is produced.
pub const FLUSH_AT: usize = 64 * 1024;
/// Capacity that a buffer keeps between messages. A connection that waits for its
/// client keeps none.
const KEEP: usize = 64 * 1024;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The client went away, or the network broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error("the client took nothing for {0:?}")]
    SlowClient(Duration),
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Reads messages and collects answers.
pub struct WireStream {
    transport: Transport,
    input: BytesMut,
    /// Answers that are not sent yet.
    pub output: BytesMut,
    /// The longest time without any progress while answers are sent.
    slow_client: Duration,
}

impl WireStream {
    pub fn plain(stream: TcpStream, slow_client: Duration) -> Self {
        Self::new(Transport::Plain(stream), slow_client)
    }

    pub fn tls(stream: TlsStream<TcpStream>, slow_client: Duration) -> Self {
        Self::new(Transport::Tls(Box::new(stream)), slow_client)
    }

    fn new(transport: Transport, slow_client: Duration) -> Self {
        Self { transport, input: BytesMut::new(), output: BytesMut::new(), slow_client }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    /// What both sides of TLS agreed to speak (ALPN).
    pub fn protocol(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Agrees to TLS, and gives the connection in the clear for its handshake.
    ///
    /// # Errors
    /// When it is encrypted already, or the client has sent bytes ahead of the
    /// handshake: these would pass for encrypted ones.
    pub async fn agree_to_tls(mut self) -> Result<TcpStream, WireError> {
        if self.has_input() {
            return Err(ProtocolError::Startup("bytes came ahead of the TLS handshake").into());
        }
        self.output.extend_from_slice(b"S");
        self.flush().await?;
        match self.transport {
            Transport::Plain(stream) => Ok(stream),
            Transport::Tls(_) => Err(ProtocolError::Startup("it is encrypted already").into()),
        }
    }

    /// The first message of the connection.
    ///
    /// # Errors
    /// When the client goes away, or sends something else.
    pub async fn first(&mut self) -> Result<BytesMut, WireError> {
        loop {
            if let Some(length) = First::length(&self.input)? {
                return Ok(self.input.split_to(length));
            }
            self.fill(READ).await?;
        }
    }

    /// The next header, left where it is. It waits for the client without a buffer.
    ///
    /// # Errors
    /// As for [`WireStream::first`].
    pub async fn header(&mut self) -> Result<Header, WireError> {
        loop {
            if let Some(header) = Header::parse(&self.input)? {
                return Ok(header);
            }
            self.fill(READ).await?;
        }
    }

    /// The header of the message after this one, if that has arrived.
    pub fn peek(&self, after: usize) -> Option<Header> {
        Header::parse(self.input.get(after..)?).ok().flatten()
    }

    /// Takes a whole message off the input and gives its body.
    ///
    /// # Errors
    /// As for [`WireStream::first`].
    pub async fn body(&mut self, header: Header) -> Result<BytesMut, WireError> {
        let length = HEADER + header.body;
        while self.input.len() < length {
            let missing = length - self.input.len();
            self.fill(missing.clamp(READ, READ_LARGE)).await?;
        }
        let mut message = self.input.split_to(length);
        message.advance(HEADER);
        Ok(message)
    }

    /// Takes the header alone off the input. The body is then read in pieces.
    pub fn skip_header(&mut self) {
        self.input.advance(HEADER);
    }

    /// The next piece of a body of which `remaining` bytes are still to come.
    ///
    /// # Errors
    /// As for [`WireStream::first`].
    pub async fn piece(&mut self, remaining: usize) -> Result<BytesMut, WireError> {
        if self.input.is_empty() {
            self.fill(remaining.clamp(READ, READ_LARGE)).await?;
        }
        let length = self.input.len().min(remaining);
        Ok(self.input.split_to(length))
    }

    /// Whether bytes of the client wait in the buffer.
    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    async fn fill(&mut self, room: usize) -> Result<(), WireError> {
        let count = if self.input.is_empty() {
            // No memory is held while an idle client thinks.
            self.input = BytesMut::new();
            let input = &mut self.input;
            match &mut self.transport {
                Transport::Plain(stream) if room > READ => {
                    stream.readable().await?;
                    input.reserve(room);
                    stream.read_buf(input).await?
                }
                transport => poll_fn(|cx| poll_first(transport, cx, input)).await?,
            }
        } else {
            self.input.reserve(room);
            self.transport.read_buf(&mut self.input).await?
        };
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// When the client goes away, or takes no byte for too long.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        if let Transport::Plain(stream) = &self.transport
            && !self.output.is_empty()
        {
            // Nearly always the socket takes everything at once, without a timer.
            match stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        while !self.output.is_empty() {
            let write = self.transport.write_buf(&mut self.output);
            let written = tokio::time::timeout(self.slow_client, write).await;
            if written.map_err(|_| WireError::SlowClient(self.slow_client))?? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        if self.is_tls() {
            let flush = tokio::time::timeout(self.slow_client, self.transport.flush()).await;
            flush.map_err(|_| WireError::SlowClient(self.slow_client))??;
        }
        if self.output.capacity() > KEEP || !self.has_input() {
            self.output = BytesMut::new();
        }
        Ok(())
    }

    /// Sends what was collected once that is enough to be worth it. Whoever
    /// produces much calls this, so that output waits for a slow client.
    ///
    /// # Errors
    /// As for [`WireStream::flush`].
    pub async fn flush_if_full(&mut self) -> Result<(), WireError> {
        if self.output.len() < FLUSH_AT { Ok(()) } else { self.flush().await }
    }

    /// Sends what is left and ends the connection in order.
    pub async fn close(mut self) {
        if self.flush().await.is_ok() {
            let _ = tokio::time::timeout(self.slow_client, self.transport.shutdown()).await;
        }
    }
}

/// Reads what has arrived. Until then the buffer is one on the stack.
fn poll_first(
    transport: &mut Transport,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut bytes = [MaybeUninit::uninit(); READ];
    let mut buffer = ReadBuf::uninit(&mut bytes);
    ready!(Pin::new(transport).poll_read(cx, &mut buffer))?;
    input.extend_from_slice(buffer.filled());
    Poll::Ready(Ok(buffer.filled().len()))
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

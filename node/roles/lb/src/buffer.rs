//! Byte buffers of a connection, bounded by their users.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const FIRST_SIZE: usize = 8 * 1024;
/// Most bytes that one read takes.
const LARGEST_READ: usize = 64 * 1024;

/// Bytes that were read and not yet consumed.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Gives back memory that only a large message needed.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.data.len() > FIRST_SIZE {
            self.data = Vec::new();
        }
    }

    /// Reads once; 0 bytes are the end of the stream.
    pub fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut spare = ReadBuf::new(&mut self.data[self.end..]);
        ready!(Pin::new(stream).poll_read(cx, &mut spare))?;
        let count = spare.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    fn make_room(&mut self) {
        if self.data.is_empty() {
            self.data.resize(FIRST_SIZE, 0);
        }
        if self.data.len() - self.end >= self.data.len() / 2 {
            return;
        }
        if self.start > 0 {
            self.data.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        // The last read filled it: the next ones may be larger.
        if self.data.len() - self.end < self.data.len() / 2 {
            let size = (self.data.len() * 2).min(self.data.len() + LARGEST_READ);
            self.data.resize(size, 0);
        }
    }

    /// Lets the next reads be large: a body is coming.
    pub fn expect_much(&mut self) {
        if self.data.len() < LARGEST_READ {
            self.data.resize(LARGEST_READ, 0);
        }
    }
}

/// Bytes that are still to be written.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    data: Vec<u8>,
    start: usize,
}

impl WriteBuffer {
    pub fn len(&self) -> usize {
        self.data.len() - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.data.len()
    }

    /// The place to append to.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    pub fn clear(&mut self) {
        self.data.clear();
        self.start = 0;
    }

    /// Gives back memory that only a large message needed.
    pub fn shrink(&mut self) {
        if self.is_empty() && self.data.capacity() > FIRST_SIZE {
            *self = WriteBuffer::default();
        }
    }

    /// Writes until it is empty.
    pub fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = ready!(Pin::new(&mut *stream).poll_write(cx, &self.data[self.start..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += count;
        }
        self.clear();
        // TLS keeps records back.
        Pin::new(stream).poll_flush(cx)
    }
}

//! An HTTP/1 client's connection during a request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use crate::body::{BodyDecoder, BodyFraming};
use crate::buffer::{ReadBuffer, WriteBuffer};
use crate::client::{ClientError, ResponseContext};
use crate::head::BodyLength;
use crate::request_body::RequestBody;
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::rewrite::{ResponseExtras, response_framing, write_interim, write_response};
use crate::stream::Stream;

/// Data up to this size is copied behind the head, so that both go out in one
/// call; larger data is written from where it was read.
const COPY: usize = 16 * 1024;
/// Most data in one chunk.
const CHUNK: usize = 64 * 1024;

pub(crate) struct Http1Client {
    pub stream: Stream,
    pub input: ReadBuffer,
    pub output: WriteBuffer,
    decoder: BodyDecoder,
    /// The client waits for `100 Continue` before it sends the body.
    continue_due: bool,
    framing: BodyFraming,
    /// The connection serves another request after this one.
    pub keep_alive: bool,
    /// The response was cut off.
    pub aborted: bool,
}

impl Http1Client {
    pub fn new(stream: Stream) -> Http1Client {
        Http1Client {
            stream,
            input: ReadBuffer::default(),
            output: WriteBuffer::default(),
            decoder: BodyDecoder::new(BodyLength::Empty),
            continue_due: false,
            framing: BodyFraming::Plain,
            keep_alive: false,
            aborted: false,
        }
    }

    /// Gets ready for the body of `request`, whose head was consumed.
    pub fn begin(&mut self, request: &RequestHead) {
        self.decoder = BodyDecoder::new(request.body());
        self.continue_due = request.expect_continue;
        self.keep_alive = request.keep_alive;
        if let BodyLength::Known(16_384..) | BodyLength::Chunked = request.body() {
            self.input.expect_much();
        }
    }

    /// Whether the request was read to its end.
    pub fn request_ended(&self) -> bool {
        self.decoder.is_done()
    }

    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ClientError>> {
        if self.input.is_empty() && !self.decoder.is_done() {
            if self.continue_due {
                self.continue_due = false;
                self.output.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            if !self.output.is_empty() {
                // What does not go out now goes out with the response.
                let _ = self.poll_flush(cx)?;
            }
            match ready!(self.input.poll_fill(cx, &mut self.stream)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(ClientError::Gone)),
                Ok(_) => {}
            }
        }
        // A body that comes without being asked for needs no permission.
        self.continue_due = false;
        let input = self.input.filled();
        let step = self.decoder.decode(input).map_err(ClientError::BadBody)?;
        body.take(&input[step.skip..step.skip + step.data], out);
        self.input.consume(step.skip + step.data);
        if step.done {
            body.end(out);
        }
        Poll::Ready(Ok(()))
    }

    pub fn interim(&mut self, response: &ResponseHead) {
        write_interim(response, self.output.tail());
    }

    pub fn start_response(&mut self, response: &ResponseHead, context: &ResponseContext<'_>) {
        self.continue_due = false;
        let http10 = context.request.http10;
        let (framing, until_close) = response_framing(response, http10);
        self.framing = framing;
        self.keep_alive &= context.request_ended && !context.stopping && !until_close;
        let extras = ResponseExtras {
            id: context.id,
            cookie: context.cookie,
            keep_alive: self.keep_alive,
            http10,
        };
        write_response(response, &extras, self.output.tail());
    }

    pub fn poll_write_body(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, ClientError>> {
        if self.output.len() + data.len() <= COPY {
            self.framing.write(data, self.output.tail());
            return Poll::Ready(Ok(data.len()));
        }
        ready!(self.poll_flush(cx))?;
        match self.framing {
            BodyFraming::Plain => match ready!(Pin::new(&mut self.stream).poll_write(cx, data)) {
                Ok(0) | Err(_) => Poll::Ready(Err(ClientError::Gone)),
                Ok(count) => Poll::Ready(Ok(count)),
            },
            BodyFraming::Chunked => {
                let count = data.len().min(CHUNK);
                self.framing.write(&data[..count], self.output.tail());
                Poll::Ready(Ok(count))
            }
        }
    }

    pub fn finish_response(&mut self) {
        self.framing.finish(self.output.tail());
    }

    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.output.poll_flush(cx, &mut self.stream).map_err(|_| ClientError::Gone)
    }

    pub fn abort_response(&mut self) {
        self.keep_alive = false;
        self.aborted = true;
        self.stream.abort();
    }
}

//! The client's side of an exchange, HTTP/1 or HTTP/2.

use std::task::{Context, Poll};

use crate::body::BadBody;
use crate::http1_client::Http1Client;
use crate::http2_client::Http2Client;
use crate::request_body::RequestBody;
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::trace::RequestId;

/// What went wrong on the client's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientError {
    /// It closed or reset the connection or stream.
    Gone,
    /// Its request body breaks its framing.
    BadBody(BadBody),
}

/// What a response to the client carries beyond the instance's own.
pub(crate) struct ResponseContext<'a> {
    pub request: &'a RequestHead,
    pub id: &'a RequestId,
    pub cookie: Option<&'a str>,
    /// The request body has come completely, so that the connection may go on.
    pub request_ended: bool,
    /// The balancer is being stopped.
    pub stopping: bool,
}

pub(crate) enum Client {
    Http1(Http1Client),
    Http2(Box<Http2Client>),
}

impl Client {
    /// Moves request body that has come to `out`, framed for the instance.
    /// Ready with some progress, or with the end in `body`.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ClientError>> {
        match self {
            Client::Http1(client) => client.poll_body(cx, body, out),
            Client::Http2(client) => client.poll_body(cx, body, out),
        }
    }

    /// Passes an interim response on where the client understands it.
    pub fn interim(&mut self, response: &ResponseHead, request: &RequestHead) {
        match self {
            Client::Http1(client) if !request.http10 => client.interim(response),
            Client::Http1(_) => {}
            Client::Http2(client) => client.interim(response),
        }
    }

    /// Begins the response.
    pub fn start_response(
        &mut self,
        response: &ResponseHead,
        context: &ResponseContext<'_>,
    ) -> Result<(), ClientError> {
        match self {
            Client::Http1(client) => client.start_response(response, context),
            Client::Http2(client) => client.start_response(response, context)?,
        }
        Ok(())
    }

    /// Takes the beginning of `data` as body of the response; the number of
    /// bytes taken is zero only for empty `data`.
    pub fn poll_write_body(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, ClientError>> {
        match self {
            Client::Http1(client) => client.poll_write_body(cx, data),
            Client::Http2(client) => client.poll_write_body(cx, data),
        }
    }

    /// Ends the body of the response.
    pub fn finish_response(&mut self) -> Result<(), ClientError> {
        match self {
            Client::Http1(client) => client.finish_response(),
            Client::Http2(client) => client.finish_response()?,
        }
        Ok(())
    }

    /// Sends what is buffered.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        match self {
            Client::Http1(client) => client.poll_flush(cx),
            Client::Http2(client) => client.poll_flush(cx),
        }
    }

    /// Shows the client that the response it is getting is cut off.
    pub fn abort_response(&mut self) {
        match self {
            Client::Http1(client) => client.abort_response(),
            Client::Http2(client) => client.abort_response(),
        }
    }

    pub fn protocol(&self) -> &'static str {
        match self {
            Client::Http1(_) => "h1",
            Client::Http2(_) => "h2",
        }
    }
}

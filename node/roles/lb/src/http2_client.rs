//! An HTTP/2 client's stream during a request.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::body::BadBody;
use crate::client::{ClientError, ResponseContext};
use crate::error_page::{ErrorPage, PageStyle};
use crate::head::BodyLength;
use crate::request_body::RequestBody;
use crate::response_head::ResponseHead;
use crate::rewrite::response_field_goes_on;
use crate::trace::RequestId;

/// Most data handed to the connection at once.
const PIECE: usize = 32 * 1024;
const TOO_LONG: ClientError = ClientError::BadBody(BadBody("more body than content-length says"));
const TOO_SHORT: ClientError = ClientError::BadBody(BadBody("less body than content-length says"));

pub(crate) struct Http2Client {
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    /// The response has no body, so its head was its end.
    finished: bool,
    continue_due: bool,
    /// The client gave the stream up before it had the response.
    pub reset: bool,
}

impl Http2Client {
    pub fn new(
        receive: RecvStream,
        respond: SendResponse<Bytes>,
        expect_continue: bool,
    ) -> Http2Client {
        Http2Client {
            receive,
            respond,
            send: None,
            finished: false,
            continue_due: expect_continue,
            reset: false,
        }
    }

    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut RequestBody,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), ClientError>> {
        if self.continue_due {
            self.continue_due = false;
            let mut proceed = Response::new(());
            *proceed.status_mut() = StatusCode::CONTINUE;
            self.respond.send_informational(proceed).map_err(|_| ClientError::Gone)?;
        }
        match ready!(self.receive.poll_data(cx)) {
            Some(Ok(data)) => {
                if body.missing().is_some_and(|missing| missing < data.len() as u64) {
                    return Poll::Ready(Err(TOO_LONG));
                }
                body.take(&data, out);
                // The window opens again only as the instance takes the data:
                // the caller bounds `out`.
                self.receive
                    .flow_control()
                    .release_capacity(data.len())
                    .map_err(|_| ClientError::Gone)?;
            }
            Some(Err(_)) => return Poll::Ready(Err(ClientError::Gone)),
            None if body.missing().is_some_and(|missing| missing > 0) => {
                return Poll::Ready(Err(TOO_SHORT));
            }
            None => body.end(out),
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the client gave the stream up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let gone = match &mut self.send {
            Some(send) => send.poll_reset(cx).map(drop),
            None => self.respond.poll_reset(cx).map(drop),
        };
        self.reset |= gone.is_ready();
        gone
    }

    pub fn interim(&mut self, response: &ResponseHead) {
        // An interim response is advice: one that cannot be sent is dropped.
        if let Some(interim) = translate(response, None) {
            let _ = self.respond.send_informational(interim);
        }
    }

    pub fn start_response(
        &mut self,
        response: &ResponseHead,
        context: &ResponseContext<'_>,
    ) -> Result<(), ClientError> {
        self.continue_due = false;
        self.finished = matches!(response.body(), BodyLength::Empty | BodyLength::Known(0));
        let head = translate(response, Some(context)).ok_or(ClientError::Gone)?;
        let send = self.respond.send_response(head, self.finished);
        self.send = Some(send.map_err(|_| ClientError::Gone)?);
        Ok(())
    }

    pub fn poll_write_body(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, ClientError>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Err(ClientError::Gone)) };
        send.reserve_capacity(data.len().min(PIECE));
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(ClientError::Gone)),
            }
        }
        let count = send.capacity().min(data.len()).min(PIECE);
        send.send_data(Bytes::copy_from_slice(&data[..count]), false)
            .map_err(|_| ClientError::Gone)?;
        Poll::Ready(Ok(count))
    }

    pub fn finish_response(&mut self) -> Result<(), ClientError> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        let Some(send) = &mut self.send else { return Err(ClientError::Gone) };
        send.send_data(Bytes::new(), true).map_err(|_| ClientError::Gone)
    }

    /// The connection's own task writes; here is only seen whether the client
    /// still wants it.
    pub fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }

    pub fn abort_response(&mut self) {
        match &mut self.send {
            Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
            None => self.respond.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    /// Answers with a page of the balancer's own.
    pub fn send_page(&mut self, page: &ErrorPage, style: &PageStyle, id: &RequestId) {
        let (content_type, body) = page.body(style.json, id);
        let mut response = Response::builder()
            .status(page.status)
            .header("content-type", content_type)
            .header("cache-control", "no-store")
            .header("content-length", body.len())
            .header("date", httpdate::fmt_http_date(std::time::SystemTime::now()))
            .header("x-request-id", id.as_str());
        if let Some(seconds) = page.retry_after {
            response = response.header("retry-after", seconds);
        }
        let Ok(response) = response.body(()) else { return };
        // A client that is gone needs no answer.
        if let Ok(mut send) = self.respond.send_response(response, style.head_only)
            && !style.head_only
        {
            let _ = send.send_data(body.into(), true);
        }
        self.finished = true;
        // A request body that nobody will read is not wanted any more (RFC 9113,
        // 8.1).
        if !self.receive.is_end_stream() {
            self.respond.send_reset(Reason::NO_ERROR);
        }
    }
}

/// The head of a response for HTTP/2 (RFC 9113, 8.2). `None` when a value
/// cannot be expressed, which strict reading makes impossible.
fn translate(
    response: &ResponseHead,
    context: Option<&ResponseContext<'_>>,
) -> Option<Response<()>> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(response.status).ok()?;
    let headers = head.headers_mut();
    headers.reserve(response.fields.len() + 2);
    for field in response.fields.iter().filter(|field| response_field_goes_on(field.kind)) {
        let name = HeaderName::from_bytes(response.bytes(field.name)).ok()?;
        headers.append(name, HeaderValue::from_bytes(response.bytes(field.value)).ok()?);
    }
    let Some(context) = context else { return Some(head) };
    if let Some(length) = response.content_length.filter(|_| response.status != 204) {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    if let Some(cookie) = context.cookie {
        headers.append(http::header::SET_COOKIE, HeaderValue::from_str(cookie).ok()?);
    }
    headers.insert("x-request-id", HeaderValue::from_bytes(context.id.as_bytes()).ok()?);
    Some(head)
}

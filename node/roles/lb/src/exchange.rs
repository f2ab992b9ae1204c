//! One request and its response, between a client and one connection to an
//! instance: both directions at once, bounded buffers, no body kept whole.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::body::BodyDecoder;
use crate::client::{Client, ClientError, ResponseContext};
use crate::config::Timeouts;
use crate::deadline::Deadline;
use crate::fields::list_elements;
use crate::head::{HeadLimits, HeadScanner};
use crate::request_body::RequestBody;
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::trace::RequestId;
use crate::upstream::{Connection, NotForwarded, nothing_was_forwarded};

/// Request body that waits for the instance to take it.
const WAITING: usize = 64 * 1024;
/// Interim responses before the final one.
const MAX_INTERIM: u32 = 16;
/// How often a request that waits looks whether its node is suspected.
const SUSPICION_TICK: Duration = Duration::from_millis(200);

/// How an exchange ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finish {
    /// The client has the whole response; whether the connection to the
    /// instance may be used again.
    Response { reusable: bool },
    /// The instance changed the protocol, and the client was told.
    Tunnel,
}

/// How it ended otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// The owner of the instance says that it got nothing.
    NotForwarded(NotForwarded),
    /// The instance closed the connection before the first byte of a response.
    Closed,
    /// The instance's node is suspected to be dead.
    Suspected,
    /// No response in time.
    NoResponse,
    /// The instance does not take the body.
    Stalled,
    BadResponse(&'static str),
    /// The instance broke off or paused too long in the middle of a response.
    CutOff,
    Client(ClientError),
    /// The client sends its body, or reads the response, too slowly.
    ClientSlow,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Going,
    Done,
    /// The instance takes no more, but may have answered.
    Broken,
}

enum Phase {
    Head(HeadScanner),
    Body(BodyDecoder),
    /// The whole response is in the client's buffer.
    Flush(Finish),
}

/// What an exchange needs to know and does not change.
pub(crate) struct ExchangeContext<'a> {
    pub request: &'a RequestHead,
    pub id: &'a RequestId,
    pub cookie: Option<&'a str>,
    pub stopping: &'a AtomicBool,
    pub limits: &'a HeadLimits,
    pub timeouts: &'a Timeouts,
    /// Set when the instance's node is suspected, and the request may go
    /// elsewhere.
    pub suspected: Option<&'a AtomicBool>,
    pub started: Instant,
}

pub(crate) struct Exchange<'a> {
    context: ExchangeContext<'a>,
    client: &'a mut Client,
    connection: &'a mut Connection,
    body: &'a mut RequestBody,
    response: &'a mut ResponseHead,
    deadline: &'a mut Deadline,
    sending: Sending,
    /// The send side waits for the client rather than for the instance.
    wants_client: bool,
    phase: Phase,
    interims: u32,
    /// Data of the response at the start of the connection's input.
    pending: usize,
    polled: bool,
    progress: bool,
    last: Instant,
    tick: Instant,
    /// The client was sent something of the final response.
    pub responding: bool,
    /// Bytes of the response's body.
    pub sent: u64,
    pub first_byte_at: Option<Instant>,
}

impl<'a> Exchange<'a> {
    /// `connection.output` holds the head of the request, and what is replayed
    /// of its body.
    pub fn new(
        context: ExchangeContext<'a>,
        client: &'a mut Client,
        connection: &'a mut Connection,
        body: &'a mut RequestBody,
        response: &'a mut ResponseHead,
        deadline: &'a mut Deadline,
    ) -> Exchange<'a> {
        let started = context.started;
        Exchange {
            context,
            client,
            connection,
            body,
            response,
            deadline,
            sending: Sending::Going,
            wants_client: false,
            phase: Phase::Head(HeadScanner::default()),
            interims: 0,
            pending: 0,
            polled: false,
            progress: false,
            last: started,
            tick: started + SUSPICION_TICK,
            responding: false,
            sent: 0,
            first_byte_at: None,
        }
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Finish, Failure>> {
        self.progress = false;
        if let Client::Http2(client) = &mut *self.client
            && client.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Err(Failure::Client(ClientError::Gone)));
        }
        if self.sending == Sending::Going {
            self.send(cx)?;
        }
        if let Some(finish) = self.receive(cx)? {
            return Poll::Ready(Ok(finish));
        }
        // The clock was read just before the first poll.
        if self.progress && self.polled {
            self.last = Instant::now();
        }
        self.polled = true;
        self.poll_deadline(cx)
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<Finish, Failure>> {
        let timeouts = self.context.timeouts;
        let (limit, failure) = match (&self.phase, self.sending) {
            (Phase::Head(_), Sending::Going) if self.wants_client => {
                (timeouts.body_idle, Failure::ClientSlow)
            }
            (Phase::Head(_), Sending::Going) => (timeouts.body_idle, Failure::Stalled),
            (Phase::Head(_), _) => (timeouts.first_byte, Failure::NoResponse),
            (Phase::Body(_), _) => (timeouts.body_idle, Failure::CutOff),
            (Phase::Flush(_), _) => (timeouts.body_idle, Failure::ClientSlow),
        };
        let end = self.last + limit;
        let waits_for_head = matches!(self.phase, Phase::Head(_)) && !self.responding;
        let Some(suspected) = self.context.suspected.filter(|_| waits_for_head) else {
            return self.deadline.poll_at(cx, end).map(|()| Err(failure));
        };
        loop {
            if suspected.load(Relaxed) {
                return Poll::Ready(Err(Failure::Suspected));
            }
            if self.deadline.poll_at(cx, end.min(self.tick)).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now >= end {
                return Poll::Ready(Err(failure));
            }
            self.tick = now + SUSPICION_TICK;
        }
    }

    /// Client to instance.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        loop {
            self.wants_client = false;
            while !self.body.has_ended() && self.connection.output.len() < WAITING {
                let out = self.connection.output.tail();
                match self.client.poll_body(cx, self.body, out) {
                    Poll::Ready(result) => result.map_err(Failure::Client)?,
                    Poll::Pending => {
                        self.wants_client = true;
                        break;
                    }
                }
                self.progress = true;
            }
            let waiting = self.connection.output.len();
            match self.connection.poll_flush(cx) {
                Poll::Ready(Ok(())) => self.progress |= waiting > 0,
                Poll::Ready(Err(error)) => return self.sending_broke(&error),
                Poll::Pending => {
                    self.progress |= self.connection.output.len() < waiting;
                    self.wants_client = false;
                    return Ok(());
                }
            }
            if self.body.has_ended() {
                self.sending = Sending::Done;
                return Ok(());
            }
            if self.wants_client {
                return Ok(());
            }
        }
    }

    fn sending_broke(&mut self, error: &io::Error) -> Result<(), Failure> {
        if let Some(why) = nothing_was_forwarded(error) {
            return Err(Failure::NotForwarded(why));
        }
        self.sending = Sending::Broken;
        Ok(())
    }

    /// Instance to client. `None`: it waits.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<Option<Finish>, Failure> {
        loop {
            let went_on = match &self.phase {
                Phase::Head(_) => self.receive_head(cx)?,
                Phase::Body(_) => self.receive_body(cx)?,
                Phase::Flush(finish) => {
                    let finish = *finish;
                    return match self.client.poll_flush(cx) {
                        Poll::Ready(Ok(())) => Ok(Some(finish)),
                        Poll::Ready(Err(error)) => Err(Failure::Client(error)),
                        Poll::Pending => Ok(None),
                    };
                }
            };
            if !went_on {
                return Ok(None);
            }
            self.progress = true;
        }
    }

    /// Reads more from the instance; false when there is nothing yet.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        match self.connection.input.poll_fill(cx, &mut self.connection.stream) {
            Poll::Ready(Ok(0)) => self.ended(None).map(|()| true),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => self.ended(Some(&error)).map(|()| true),
            Poll::Pending => {
                // The client should not wait for what is here.
                if let Poll::Ready(Err(error)) = self.client.poll_flush(cx) {
                    return Err(Failure::Client(error));
                }
                Ok(false)
            }
        }
    }

    /// The connection ended, with an error or without.
    fn ended(&mut self, error: Option<&io::Error>) -> Result<(), Failure> {
        match &self.phase {
            Phase::Body(decoder) if error.is_none() && decoder.may_end_by_close() => {
                self.client.finish_response().map_err(Failure::Client)?;
                self.phase = Phase::Flush(Finish::Response { reusable: false });
                Ok(())
            }
            Phase::Body(_) | Phase::Flush(_) => Err(Failure::CutOff),
            Phase::Head(_) => {
                if let Some(why) = error.and_then(nothing_was_forwarded) {
                    return Err(Failure::NotForwarded(why));
                }
                if self.connection.input.is_empty() && self.interims == 0 {
                    return Err(Failure::Closed);
                }
                Err(Failure::BadResponse("the connection ended within the head of the response"))
            }
        }
    }

    fn receive_head(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        let Phase::Head(scanner) = &mut self.phase else { return Ok(true) };
        let input = self.connection.input.filled();
        let end = scanner.find_end(input).map_err(|bad| Failure::BadResponse(bad.reason))?;
        let Some(end) = end else {
            if input.len() > self.context.limits.head_bytes {
                return Err(Failure::BadResponse("the head of the response is too large"));
            }
            return self.fill(cx);
        };
        self.response
            .read(&input[..end], self.context.request.method, self.context.limits)
            .map_err(|bad| Failure::BadResponse(bad.reason))?;
        self.connection.input.consume(end);
        if self.response.is_interim() {
            return self.interim();
        }
        self.first_byte_at = Some(if self.polled { Instant::now() } else { self.context.started });
        if self.response.status == 101 {
            self.check_upgrade()?;
        }
        let context = ResponseContext {
            request: self.context.request,
            id: self.context.id,
            cookie: self.context.cookie,
            request_ended: self.body.has_ended(),
            stopping: self.context.stopping.load(Relaxed),
        };
        self.responding = true;
        self.client.start_response(self.response, &context).map_err(Failure::Client)?;
        self.phase = if self.response.status == 101 {
            Phase::Flush(Finish::Tunnel)
        } else {
            Phase::Body(BodyDecoder::new(self.response.body()))
        };
        Ok(true)
    }

    fn interim(&mut self) -> Result<bool, Failure> {
        self.interims += 1;
        if self.interims > MAX_INTERIM {
            return Err(Failure::BadResponse("too many interim responses"));
        }
        // The balancer itself has answered the client's expectation.
        if self.response.status != 100 {
            self.client.interim(self.response, self.context.request);
        }
        self.phase = Phase::Head(HeadScanner::default());
        Ok(true)
    }

    /// An instance may only change to a protocol that the client asked for.
    fn check_upgrade(&self) -> Result<(), Failure> {
        let asked = self.context.request.upgrade.map(|span| self.context.request.bytes(span));
        let (Some(asked), Some(given)) = (asked, self.response.upgrade) else {
            return Err(Failure::BadResponse("101 to a request that asked for no other protocol"));
        };
        let given = self.response.bytes(given);
        let known = |token: &[u8]| list_elements(asked).any(|one| one.eq_ignore_ascii_case(token));
        if given.is_empty() || !list_elements(given).all(known) || self.sending != Sending::Done {
            return Err(Failure::BadResponse("101 for a protocol that was not asked for"));
        }
        Ok(())
    }

    fn receive_body(&mut self, cx: &mut Context<'_>) -> Result<bool, Failure> {
        let Phase::Body(decoder) = &mut self.phase else { return Ok(true) };
        if self.pending > 0 {
            let data = &self.connection.input.filled()[..self.pending];
            return match self.client.poll_write_body(cx, data) {
                Poll::Ready(Ok(count)) => {
                    self.connection.input.consume(count);
                    self.pending -= count;
                    self.sent += count as u64;
                    Ok(true)
                }
                Poll::Ready(Err(error)) => Err(Failure::Client(error)),
                Poll::Pending => Ok(false),
            };
        }
        let step = decoder
            .decode(self.connection.input.filled())
            .map_err(|bad| Failure::BadResponse(bad.0))?;
        self.connection.input.consume(step.skip);
        self.pending = step.data;
        if step.data > 0 {
            return Ok(true);
        }
        if !step.done {
            if step.skip > 0 {
                return Ok(true);
            }
            // More than one buffer of body: larger reads pay.
            if self.sent > 4096 {
                self.connection.input.expect_much();
            }
            return self.fill(cx);
        }
        self.client.finish_response().map_err(Failure::Client)?;
        let reusable = self.sending == Sending::Done
            && self.response.keep_alive
            && self.connection.input.is_empty();
        self.phase = Phase::Flush(Finish::Response { reusable });
        Ok(true)
    }
}

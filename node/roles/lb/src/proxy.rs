//! A request from its head to its log line.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::access_log::Entry;
use crate::client::Client;
use crate::deadline::Deadline;
use crate::error_page::{ErrorPage, PageStyle};
use crate::forwarding::{Forwarding, Record, Refusal};
use crate::instance::InFlight;
use crate::random::Random;
use crate::request_head::RequestHead;
use crate::response_head::ResponseHead;
use crate::rewrite::ForwardedBy;
use crate::shared::{Counted, Worker};
use crate::trace::RequestId;
use crate::upstream::Connection;

/// In logs and counters: the client went away before there was a response.
const CLIENT_GONE: u16 = 0;

/// What is known of the client, and memory that its requests use again.
pub(crate) struct Session {
    pub client: IpAddr,
    pub forwarded: Arc<ForwardedBy>,
    /// The host name that the client asked for in TLS.
    pub server_name: Option<Arc<str>>,
    pub deadline: Deadline,
    pub random: Random,
    pub response: ResponseHead,
}

impl Session {
    pub fn new(
        client: IpAddr,
        forwarded: Arc<ForwardedBy>,
        server_name: Option<Arc<str>>,
    ) -> Session {
        Session {
            client,
            forwarded,
            server_name,
            deadline: Deadline::new(Instant::now()),
            random: Random::new(),
            response: ResponseHead::default(),
        }
    }
}

/// How a request ended.
pub(crate) enum Served {
    /// The client has a response, or is gone. When it ended.
    Response(Instant),
    /// Bytes now pass both ways.
    Tunnel(Box<Connection>, InFlight),
}

/// Serves one request, whose head is `request`, and logs it.
pub(crate) async fn serve(
    worker: &Worker,
    session: &mut Session,
    client: &mut Client,
    request: &RequestHead,
) -> Served {
    let started = Instant::now();
    let shared = &worker.shared;
    let _active = Counted::new(&shared.active);
    let id = RequestId::of(request, &mut session.random);
    let mut record = Record {
        app: None,
        instance: None,
        status: CLIENT_GONE,
        attempts: 0,
        received: 0,
        sent: 0,
        problem: "",
        ended: None,
    };
    let mut forwarding = Forwarding { worker, session, client, request, id: &id, started };
    let result = forwarding.run(&mut record).await;
    let tunnel = match result {
        Ok(tunnel) => tunnel,
        Err(Refusal::Page(page)) => {
            record.status = page.status;
            record.problem = page.what;
            let Forwarding { session, client, .. } = forwarding;
            send_page(worker, session, client, request, &page, &id).await;
            None
        }
        Err(Refusal::Abort) => {
            client.abort_response();
            None
        }
    };
    let ended = record.ended.unwrap_or_else(Instant::now);
    finish(worker, session, client, request, &id, &record, ended - started);
    match tunnel {
        Some((connection, in_flight)) => Served::Tunnel(connection, in_flight),
        None => Served::Response(ended),
    }
}

/// Counts and logs a request.
fn finish(
    worker: &Worker,
    session: &Session,
    client: &Client,
    request: &RequestHead,
    id: &RequestId,
    record: &Record,
    took: Duration,
) {
    let took_us = took.as_micros() as u64;
    if let Some(app) = &record.app {
        let counters = &app.lasting.counters[worker.index];
        counters.request(record.status, took_us, record.received, record.sent);
    }
    if let Some(instance) = &record.instance {
        let counters = &instance.counters[worker.index];
        counters.request(record.status, took_us, record.received, record.sent);
    }
    let Some(sender) = &worker.shared.log else { return };
    let entry = Entry {
        app: record.app.as_ref().map_or("", |app| &app.name),
        client: session.client,
        protocol: client.protocol(),
        method: request.bytes(request.method_name),
        host: request.bytes(request.host),
        path: request.path(),
        status: record.status,
        received: record.received,
        sent: record.sent,
        took_us,
        instance: record.instance.as_ref().map_or(0, |instance| instance.id.0),
        attempts: record.attempts,
        id: id.as_bytes(),
        user_agent: request.named(b"user-agent").unwrap_or_default(),
        problem: record.problem,
    };
    worker.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(&entry, sender);
}

/// Answers with a page of the balancer's own.
async fn send_page(
    worker: &Worker,
    session: &mut Session,
    client: &mut Client,
    request: &RequestHead,
    page: &ErrorPage,
    id: &RequestId,
) {
    let stopping = worker.shared.stopping.load(Relaxed);
    match client {
        Client::Http1(client) => {
            client.keep_alive &= client.request_ended() && !stopping;
            let style = PageStyle::of(request, client.keep_alive);
            page.write(&style, id, client.output.tail());
        }
        Client::Http2(client) => client.send_page(page, &PageStyle::of(request, true), id),
    }
    flush(worker, session, client).await;
}

/// Sends what is buffered for the client, within the time for it.
pub(crate) async fn flush(worker: &Worker, session: &mut Session, client: &mut Client) {
    let end = Instant::now() + worker.shared.config.timeouts.body_idle;
    let flushed = poll_fn(|cx| match client.poll_flush(cx) {
        std::task::Poll::Pending => session.deadline.poll_at(cx, end).map(|()| false),
        ready => ready.map(|result| result.is_ok()),
    });
    if !flushed.await
        && let Client::Http1(client) = client
    {
        client.keep_alive = false;
    }
}

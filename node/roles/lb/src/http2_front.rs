//! An HTTP/2 client's connection (RFC 9113). A request is written as an HTTP/1.1
//! head and read by the same strict reader as any other, so that there is one
//! set of rules.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use http::request::Parts;

use crate::client::Client;
use crate::deadline::Deadline;
use crate::error_page::{ErrorPage, PageStyle};
use crate::head::{BadHead, bad, refused};
use crate::http2_client::Http2Client;
use crate::metrics::count;
use crate::proxy::{Session, serve};
use crate::rate_limit::Bucket;
use crate::request_head::RequestHead;
use crate::rewrite::{ForwardedBy, write_field};
use crate::shared::Worker;
use crate::stream::Stream;
use crate::table::RateLimit;
use crate::trace::RequestId;

/// Request body that a client may send ahead of the instance, for a stream and
/// for a connection.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Response body that waits for a stream's client.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams that the client reset and that are still remembered or still waiting
/// to be taken up.
const RESETS: usize = 32;
/// Requests that a client may give up before it has the response. More is what
/// the "rapid reset" attack does (CVE-2023-44487), and ends the connection.
const GIVEN_UP: RateLimit = RateLimit { per_second: 10.0, burst: 200 };

/// Serves the connection until it ends.
pub(crate) async fn run(
    worker: Arc<Worker>,
    client: std::net::IpAddr,
    forwarded: Arc<ForwardedBy>,
    server_name: Option<Arc<str>>,
    stream: Stream,
) {
    let limits = &worker.shared.config.limits;
    let timeouts = &worker.shared.config.timeouts;
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(limits.http2_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(limits.head.head_bytes as u32)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(4 * RESETS))
        .reset_stream_duration(Duration::from_secs(5))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(stream);
    let Ok(Ok(mut connection)) = tokio::time::timeout(timeouts.client_head, handshake).await else {
        return;
    };
    // One clone for each stream that is being served; it counts those that the
    // client gave up.
    let open = Arc::new(AtomicU64::new(0));
    let (mut resets, mut bucket) = (0, Bucket::full(&GIVEN_UP, worker.shared.ms(Instant::now())));
    let mut deadline = Deadline::new(Instant::now());
    let mut last = Instant::now();
    let mut closing = false;
    loop {
        let accepted = poll_fn(|cx| {
            if worker.is_stopping() && !closing {
                closing = true;
                connection.graceful_shutdown();
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(accepted.and_then(Result::ok));
            }
            if Arc::strong_count(&open) > 1 {
                last = Instant::now();
            }
            let idle = if closing { timeouts.body_idle } else { timeouts.client_idle };
            // Woken too early when streams are open: then the time starts again.
            if deadline.poll_at(cx, last + idle).is_ready() {
                if closing {
                    return Poll::Ready(None);
                }
                closing = true;
                last = Instant::now();
                connection.graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        let Some((request, respond)) = accepted else { return };
        last = Instant::now();
        while resets < open.load(Relaxed) {
            resets += 1;
            if !bucket.take(&GIVEN_UP, worker.shared.ms(last)) {
                count(&worker.shared.totals.bad_requests);
                tracing::info!(role = "lb", %client, "an HTTP/2 client that resets too many streams is cut off");
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let closed = poll_fn(|cx| connection.poll_closed(cx));
                // It may refuse to read why.
                let _ = tokio::time::timeout(timeouts.client_head, closed).await;
                return;
            }
        }
        let session = Session::new(client, forwarded.clone(), server_name.clone());
        let (worker, open) = (worker.clone(), open.clone());
        tokio::spawn(async move {
            if serve_stream(&worker, session, request, respond).await {
                open.fetch_add(1, Relaxed);
            }
        });
    }
}

/// Serves one request. Whether the client gave it up.
async fn serve_stream(
    worker: &Worker,
    mut session: Session,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> bool {
    let (parts, receive) = request.into_parts();
    let mut head = RequestHead::default();
    let read = write_head(&parts, receive.is_end_stream())
        .and_then(|bytes| head.read(&bytes, &worker.shared.config.limits.head));
    let mut http2 = Http2Client::new(receive, respond, head.expect_continue);
    if let Err(bad) = read {
        count(&worker.shared.totals.bad_requests);
        let id = RequestId::new(&mut session.random);
        let style = PageStyle { keep_alive: true, ..PageStyle::UNREADABLE };
        http2.send_page(&ErrorPage::new(bad.status, bad.reason), &style, &id);
        return false;
    }
    let mut client = Client::Http2(Box::new(http2));
    serve(worker, &mut session, &mut client, &head).await;
    matches!(client, Client::Http2(client) if client.reset)
}

/// The head as HTTP/1.1.
fn write_head(parts: &Parts, without_body: bool) -> Result<Vec<u8>, BadHead> {
    if parts.method == http::Method::CONNECT {
        return Err(refused(405, "CONNECT is not served here"));
    }
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = parts.headers.get(http::header::HOST);
    match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if !same(authority.as_str(), host.as_bytes()) => {
            return Err(bad("Host and :authority name different hosts"));
        }
        (Some(authority), _) => write_field(b"host", authority.as_str().as_bytes(), &mut out),
        (None, Some(_)) => {
            for host in parts.headers.get_all(http::header::HOST) {
                write_field(b"host", host.as_bytes(), &mut out);
            }
        }
        (None, None) => {}
    }
    let mut cookie: Vec<u8> = Vec::new();
    for (name, value) in &parts.headers {
        match name.as_str() {
            "host" => {}
            // RFC 9113, 8.2.3: a client may split its cookies.
            "cookie" => {
                if !cookie.is_empty() {
                    cookie.extend_from_slice(b"; ");
                }
                cookie.extend_from_slice(value.as_bytes());
            }
            // The reader has refused these; nothing of the sort may slip through
            // into the framing below.
            "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => {
                return Err(bad("a field that HTTP/2 does not have"));
            }
            name => write_field(name.as_bytes(), value.as_bytes(), &mut out),
        }
    }
    if !cookie.is_empty() {
        write_field(b"cookie", &cookie, &mut out);
    }
    if !without_body && !parts.headers.contains_key(http::header::CONTENT_LENGTH) {
        write_field(b"transfer-encoding", b"chunked", &mut out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

fn same(authority: &str, host: &[u8]) -> bool {
    authority.as_bytes().eq_ignore_ascii_case(host)
}

//! An HTTP/1 client's connection: request after request.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::client::Client;
use crate::error_page::{ErrorPage, PageStyle};
use crate::fields::is_token;
use crate::head::{BadHead, HeadScanner, bad, refused};
use crate::http1_client::Http1Client;
use crate::metrics::count;
use crate::proxy::{Served, Session, flush, serve};
use crate::request_head::{RequestHead, leading_empty_lines};
use crate::shared::Worker;
use crate::stream::Stream;
use crate::trace::RequestId;
use crate::tunnel;

/// After the last response a client may still be sending: so long, and so much,
/// is read and thrown away, since closing at once could destroy the response on
/// its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// What came instead of a request, or with it.
enum Next {
    Request,
    /// The client is done, or was idle for too long.
    Closed,
    TimedOut,
    Bad(BadHead),
}

/// Serves the connection until it ends.
pub(crate) async fn run(worker: Arc<Worker>, mut session: Session, stream: Stream) {
    let mut client = Client::Http1(Http1Client::new(stream));
    let mut request = RequestHead::default();
    let mut since = Instant::now();
    loop {
        let Client::Http1(http1) = &mut client else { return };
        match read_head(&worker, &mut session, http1, &mut request, since).await {
            Next::Request => {}
            Next::Closed => return,
            Next::TimedOut => {
                let late = refused(408, "The head of the request came too slowly");
                return refuse(&worker, &mut session, client, late).await;
            }
            Next::Bad(bad) => return refuse(&worker, &mut session, client, bad).await,
        }
        http1.begin(&request);
        match serve(&worker, &mut session, &mut client, &request).await {
            Served::Response(ended) => since = ended,
            Served::Tunnel(mut connection, _in_flight) => {
                let Client::Http1(http1) = &mut client else { return };
                let idle = worker.shared.config.timeouts.tunnel_idle;
                tunnel::run(http1, &mut connection, &mut session.deadline, idle).await;
                return;
            }
        }
        let Client::Http1(http1) = &mut client else { return };
        if http1.aborted {
            return;
        }
        if !http1.keep_alive {
            return linger(&mut session, http1).await;
        }
        http1.output.shrink();
        http1.input.shrink();
    }
}

async fn read_head(
    worker: &Worker,
    session: &mut Session,
    client: &mut Http1Client,
    request: &mut RequestHead,
    since: Instant,
) -> Next {
    let config = &worker.shared.config;
    let mut scanner = HeadScanner::default();
    let mut begun: Option<Instant> = None;
    let mut skipped_line = false;
    poll_fn(|cx| {
        loop {
            if !skipped_line {
                let skip = leading_empty_lines(client.input.filled());
                client.input.consume(skip);
                skipped_line = skip > 0;
            }
            let input = client.input.filled();
            if let Some(first) = input.first()
                && *first != b'\r'
                && !is_token(&[*first])
            {
                return Poll::Ready(Next::Bad(bad("the request line is not well formed")));
            }
            match scanner.find_end(input) {
                Ok(Some(end)) => {
                    let read = request.read(&input[..end], &config.limits.head);
                    client.input.consume(end);
                    return Poll::Ready(read.map_or_else(Next::Bad, |()| Next::Request));
                }
                Ok(None) if input.len() > config.limits.head.head_bytes => {
                    let large = refused(431, "the head of the request is too large");
                    return Poll::Ready(Next::Bad(large));
                }
                Ok(None) => {}
                Err(bad) => return Poll::Ready(Next::Bad(bad)),
            }
            let idle = input.is_empty();
            match client.input.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Closed),
                Poll::Ready(Ok(_)) => continue,
                Poll::Pending => {}
            }
            // The time for the head runs from its first byte; for a client that
            // never sent one, from the connection.
            let end = if idle {
                since + config.timeouts.client_idle
            } else {
                *begun.get_or_insert_with(Instant::now) + config.timeouts.client_head
            };
            return session
                .deadline
                .poll_at(cx, end)
                .map(|()| if idle { Next::Closed } else { Next::TimedOut });
        }
    })
    .await
}

/// Answers what is no request, and closes.
async fn refuse(worker: &Worker, session: &mut Session, mut client: Client, bad: BadHead) {
    count(&worker.shared.totals.bad_requests);
    let id = RequestId::new(&mut session.random);
    if let Client::Http1(client) = &mut client {
        ErrorPage::new(bad.status, bad.reason).write(
            &PageStyle::UNREADABLE,
            &id,
            client.output.tail(),
        );
    }
    tracing::debug!(role = "lb", client = %session.client, status = bad.status, reason = bad.reason, id = id.as_str(), "bad request");
    flush(worker, session, &mut client).await;
    if let Client::Http1(client) = &mut client {
        linger(session, client).await;
    }
}

/// Ends the connection without destroying what was sent.
async fn linger(session: &mut Session, client: &mut Http1Client) {
    let end = Instant::now() + LINGER;
    if tokio::time::timeout(LINGER, client.stream.shutdown()).await.is_err() {
        return;
    }
    let mut left = LINGER_BYTES;
    poll_fn(|cx| {
        loop {
            let waiting = client.input.len();
            client.input.consume(waiting);
            match client.input.poll_fill(cx, &mut client.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(count)) if count >= left => return Poll::Ready(()),
                Poll::Ready(Ok(count)) => left -= count,
                Poll::Pending => return session.deadline.poll_at(cx, end),
            }
        }
    })
    .await;
}

impl Worker {
    /// Whether new requests should be the last on their connection.
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }
}

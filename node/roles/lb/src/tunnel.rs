//! Bytes both ways after an upgrade.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;

use crate::buffer::ReadBuffer;
use crate::deadline::Deadline;
use crate::http1_client::Http1Client;
use crate::stream::Stream;
use crate::upstream::Connection;

/// Bytes that passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Passed {
    pub to_instance: u64,
    pub to_client: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// The source ended; what is buffered is still to be passed.
    Ending,
    Closed,
}

/// Passes bytes until both sides have ended, one broke, or nothing passed for
/// `idle`.
pub(crate) async fn run(
    client: &mut Http1Client,
    connection: &mut Connection,
    deadline: &mut Deadline,
    idle: Duration,
) -> Passed {
    let mut passed = Passed::default();
    let (mut up, mut down) = (Way::Open, Way::Open);
    let mut last = Instant::now();
    let result = poll_fn(|cx| {
        let before = (passed, up == Way::Closed, down == Way::Closed);
        let (there, here) = (&mut *connection, &mut *client);
        let one = pass(
            cx,
            &mut here.stream,
            &mut here.input,
            &mut there.stream,
            &mut up,
            &mut passed.to_instance,
        );
        let two = pass(
            cx,
            &mut there.stream,
            &mut there.input,
            &mut here.stream,
            &mut down,
            &mut passed.to_client,
        );
        match (one, two) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                return Poll::Ready(Err(error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
            _ => {}
        }
        if before != (passed, up == Way::Closed, down == Way::Closed) {
            last = Instant::now();
        }
        ready!(deadline.poll_at(cx, last + idle));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    if result.is_err() {
        // Neither side should take what it has for everything.
        client.stream.abort();
        connection.stream.abort();
    }
    passed
}

/// One direction; ready when it has ended.
fn pass(
    cx: &mut Context<'_>,
    from: &mut Stream,
    buffer: &mut ReadBuffer,
    to: &mut Stream,
    way: &mut Way,
    passed: &mut u64,
) -> Poll<io::Result<()>> {
    loop {
        while !buffer.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, buffer.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffer.consume(count);
            *passed += count as u64;
        }
        match way {
            Way::Open => match buffer.poll_fill(cx, from) {
                Poll::Ready(count) => {
                    if count? == 0 {
                        *way = Way::Ending;
                    }
                }
                Poll::Pending => {
                    ready!(Pin::new(&mut *to).poll_flush(cx))?;
                    return Poll::Pending;
                }
            },
            Way::Ending => {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                *way = Way::Closed;
            }
            Way::Closed => return Poll::Ready(Ok(())),
        }
    }
}

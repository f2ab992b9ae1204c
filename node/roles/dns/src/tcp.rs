//! DNS over TCP (RFC 7766): queries in a row on one connection, each after its
//! length, answered in their order.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::{Counters, count};
use crate::respond::{self, Asker, Transport};
use crate::server::{Shared, unix_seconds};

/// Answers are written at the latest when so many bytes of them wait.
const FLUSH: usize = 64 * 1024;
/// A longer query is no question to us; its connection is closed, so that a
/// connection holds little memory.
const LONGEST_QUERY: usize = 4096;
/// How long accepting pauses when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the server stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    listener: TcpListener,
    mut stopping: watch::Receiver<bool>,
) {
    let open = Arc::new(Open::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, client)) => {
                let client = SocketAddr::new(client.ip().to_canonical(), client.port());
                match Admitted::new(&shared, &open, client.ip()) {
                    Some(admitted) => {
                        tokio::spawn(serve(admitted, stream, client));
                    }
                    None => count(&shared.tcp_counters().tcp_refused, 1),
                }
            }
            Err(error) => {
                tracing::warn!(role = "dns", %error, "a TCP connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// How many connections each client has.
#[derive(Default)]
struct Open(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is counted while this lives.
struct Admitted {
    shared: Arc<Shared>,
    open: Arc<Open>,
    client: IpAddr,
}

impl Admitted {
    fn new(shared: &Arc<Shared>, open: &Arc<Open>, client: IpAddr) -> Option<Self> {
        let mut counts = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let own = counts.get(&client).copied().unwrap_or(0);
        let limits = &shared.limits;
        if total >= limits.tcp_connections || own >= limits.tcp_per_client {
            return None;
        }
        counts.insert(client, own + 1);
        shared.tcp_counters().tcp_open.store(total as u64 + 1, Ordering::Relaxed);
        Some(Self { shared: shared.clone(), open: open.clone(), client })
    }

    fn counters(&self) -> &Counters {
        self.shared.tcp_counters()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = counts.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.client);
            }
        }
        let total: usize = counts.values().sum();
        self.counters().tcp_open.store(total as u64, Ordering::Relaxed);
    }
}

async fn serve(admitted: Admitted, stream: TcpStream, client: SocketAddr) {
    // A connection that breaks or idles is the client's affair.
    if let Err(error) = converse(&admitted, stream, client).await {
        tracing::debug!(role = "dns", %client, %error, "a TCP connection ended");
    }
}

async fn converse(
    admitted: &Admitted,
    mut stream: TcpStream,
    client: SocketAddr,
) -> io::Result<()> {
    let limits = &admitted.shared.limits;
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(512);
    let mut answers = Vec::with_capacity(512);
    let mut deadline = Instant::now() + limits.tcp_idle;
    loop {
        let progress = answer_all(admitted, client.ip(), &mut received, &mut answers);
        if !answers.is_empty() {
            timeout(limits.tcp_write, stream.write_all(&answers)).await??;
            answers.clear();
        }
        match progress {
            Progress::Hangup => return Ok(()),
            Progress::More => continue,
            Progress::Wait { answered: true } => deadline = Instant::now() + limits.tcp_idle,
            // A query must come whole within the idle time, or a client could
            // hold its connection with a byte now and then.
            Progress::Wait { answered: false } => {}
        }
        received.reserve(512);
        if timeout_at(deadline, stream.read_buf(&mut received)).await?? == 0 {
            return Ok(());
        }
    }
}

enum Progress {
    /// More bytes are needed; whether queries were answered.
    Wait { answered: bool },
    /// The answers are to be written before more queries are read.
    More,
    /// What came must not be answered, or is no question to us.
    Hangup,
}

/// Answers the whole queries at the start of `received` and removes them.
fn answer_all(
    admitted: &Admitted,
    client: IpAddr,
    received: &mut Vec<u8>,
    answers: &mut Vec<u8>,
) -> Progress {
    let shared = &admitted.shared;
    let snapshot = shared.snapshot.load();
    let mut out = Vec::new();
    let mut at = 0;
    let progress = loop {
        let query = match next_query(&received[at..]) {
            Next::Query(query) => query,
            Next::Part => break Progress::Wait { answered: at > 0 },
            Next::TooLong => break Progress::Hangup,
        };
        at += 2 + query.len();
        count(&admitted.counters().queries, 1);
        let asker = Asker {
            address: client,
            transport: Transport::Tcp,
            now: unix_seconds(),
            ticket: shared.next_tcp_ticket(),
        };
        let Some(outcome) = respond::respond_into(&snapshot, query, &asker, &mut out) else {
            count(&admitted.counters().ignored, 1);
            break Progress::Hangup;
        };
        admitted.counters().answer(&outcome);
        // An answer has at most 65,535 bytes, or it was truncated.
        answers.extend_from_slice(&(out.len() as u16).to_be_bytes());
        answers.extend_from_slice(&out);
        if answers.len() >= FLUSH {
            break Progress::More;
        }
    };
    received.drain(..at);
    progress
}

/// What is at the start of the bytes that came.
#[derive(PartialEq, Eq, Debug)]
enum Next<'a> {
    /// A whole query.
    Query(&'a [u8]),
    /// The start of one.
    Part,
    /// One that is longer than we read.
    TooLong,
}

fn next_query(bytes: &[u8]) -> Next<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Next::Part };
    let length = usize::from(u16::from_be_bytes(*length));
    match rest.get(..length) {
        _ if length > LONGEST_QUERY => Next::TooLong,
        Some(query) => Next::Query(query),
        None => Next::Part,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_from_their_parts_and_from_what_is_too_long() {
        assert_eq!(next_query(&[]), Next::Part);
        assert_eq!(next_query(&[0]), Next::Part);
        assert_eq!(next_query(&[0, 2, 7]), Next::Part);
        assert_eq!(next_query(&[0, 2, 7, 8, 9]), Next::Query(&[7, 8]));
        assert_eq!(next_query(&[0, 0]), Next::Query(&[]));
        assert_eq!(next_query(&[0x10, 1]), Next::TooLong);
    }
}

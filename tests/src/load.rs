//! Steady load: keep-alive connections that send safe requests and count what
//! becomes of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Longer than any deadline of the load balancer.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_ANSWER: usize = 1024 * 1024;
/// Failures that are kept with their circumstances.
const KEPT: usize = 10;

/// What the load is.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub connections: usize,
    /// From one request of a connection to the next, if the first is answered by
    /// then; at once if it is nothing.
    pub every: Option<Duration>,
}

#[derive(Default, Debug)]
struct Counts {
    ok: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
}

/// Load that goes on until it is stopped.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What became of the requests.
#[derive(Clone, Debug)]
pub struct Report {
    pub ok: u64,
    /// Answered by something else than 2xx, or not at all.
    pub failed: u64,
    /// Cut off after the first byte of the answer.
    pub cut: u64,
    pub p99: Duration,
    pub max: Duration,
    pub took: Duration,
    /// The first failures and cuts.
    pub failures: Vec<String>,
}

impl Report {
    /// Prints the figures and insists that nothing failed.
    ///
    /// # Panics
    /// When a request failed, or there were none.
    #[track_caller]
    pub fn expect_no_failure(&self, what: &str) {
        println!(
            "{what}: {} ok, {} failed, {} cut in {:.1} s; p99 {:.0} ms, longest {:.0} ms",
            self.ok,
            self.failed,
            self.cut,
            self.took.as_secs_f64(),
            self.p99.as_secs_f64() * 1e3,
            self.max.as_secs_f64() * 1e3,
        );
        assert!(self.ok > 0, "no request was made during: {what}");
        assert_eq!(self.failed, 0, "requests failed during: {what}: {:#?}", self.failures);
    }
}

enum Outcome {
    Ok { close: bool },
    Failed(String),
    Cut(String),
}

impl Load {
    /// Starts sending `GET /` for a host to a load balancer.
    ///
    /// # Panics
    /// When there is no thread for it.
    pub fn start(target: SocketAddr, host: &str, plan: Plan) -> Self {
        let counts = Arc::new(Counts::default());
        let stop = Arc::new(AtomicBool::new(false));
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\r\n");
        let (for_thread, stopped) = (Arc::clone(&counts), Arc::clone(&stop));
        let start = Instant::now();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the load");
            runtime.block_on(async move {
                let connections: Vec<_> = (0..plan.connections)
                    .map(|_| {
                        tokio::spawn(connection(
                            target,
                            request.clone(),
                            plan.every,
                            start,
                            Arc::clone(&for_thread),
                            Arc::clone(&stopped),
                        ))
                    })
                    .collect();
                for connection in connections {
                    connection.await.expect("a connection's task");
                }
            });
        });
        Self { start, counts, stop, thread: Some(thread) }
    }

    /// How many requests were answered well so far.
    pub fn answered(&self) -> u64 {
        self.counts.ok.load(Ordering::Relaxed)
    }

    /// Lets so many more requests be answered.
    ///
    /// # Panics
    /// When they are not within a minute.
    #[track_caller]
    pub fn go_on_for(&self, requests: u64) {
        let goal = self.answered() + requests;
        crate::until("more requests are answered", PATIENCE, || {
            (self.answered() >= goal).then_some(())
        });
    }

    /// Ends the load after the requests that are under way.
    ///
    /// # Panics
    /// When the load itself failed.
    pub fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load's thread");
        }
        let lock =
            |list: &Mutex<Vec<String>>| list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut latencies =
            self.counts.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        latencies.sort_unstable();
        Report {
            ok: self.counts.ok.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            cut: self.counts.cut.load(Ordering::Relaxed),
            p99: latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default(),
            max: latencies.last().copied().unwrap_or_default(),
            took: self.start.elapsed(),
            failures: lock(&self.counts.failures),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn connection(
    target: SocketAddr,
    request: String,
    every: Option<Duration>,
    start: Instant,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
) {
    let mut stream: Option<TcpStream> = None;
    let mut pace = every.map(interval);
    if let Some(pace) = &mut pace {
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    while !stop.load(Ordering::Relaxed) {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let begun = Instant::now();
        let outcome = match timeout(PATIENCE, exchange(&mut stream, target, &request)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed("no answer".to_owned()),
        };
        let took = begun.elapsed();
        let (counter, note) = match outcome {
            Outcome::Ok { close } => {
                if close {
                    stream = None;
                }
                counts.ok.fetch_add(1, Ordering::Relaxed);
                counts.latencies.lock().unwrap_or_else(PoisonError::into_inner).push(took);
                continue;
            }
            Outcome::Failed(why) => (&counts.failed, why),
            Outcome::Cut(why) => (&counts.cut, format!("cut: {why}")),
        };
        stream = None;
        counter.fetch_add(1, Ordering::Relaxed);
        let mut failures = counts.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < KEPT {
            let at = start.elapsed().as_secs_f64();
            failures.push(format!("after {at:.2} s, took {took:?}: {note}"));
        }
    }
}

async fn exchange(stream: &mut Option<TcpStream>, target: SocketAddr, request: &str) -> Outcome {
    if stream.is_none() {
        match TcpStream::connect(target).await {
            Ok(connected) => *stream = Some(connected),
            Err(error) => return Outcome::Failed(format!("cannot connect: {error}")),
        }
    }
    let Some(stream) = stream else { return Outcome::Failed("no connection".to_owned()) };
    if let Err(error) = stream.write_all(request.as_bytes()).await {
        return Outcome::Failed(format!("cannot send: {error}"));
    }
    let mut answer = Vec::new();
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) if answer.is_empty() => return Outcome::Failed("closed unanswered".to_owned()),
            Err(error) if answer.is_empty() => return Outcome::Failed(error.to_string()),
            Ok(0) => return Outcome::Cut("closed".to_owned()),
            Err(error) => return Outcome::Cut(error.to_string()),
            Ok(_) if answer.len() > MAX_ANSWER => return Outcome::Failed("too long".to_owned()),
            Ok(_) => {}
        }
        if let Some(outcome) = judge(&answer) {
            return outcome;
        }
    }
}

/// What an answer is, once it is whole.
fn judge(answer: &[u8]) -> Option<Outcome> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    let field = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value.trim())
    };
    let whole = match field("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) => body.len() >= length,
        Some(Err(_)) => return Some(Outcome::Failed(format!("a bad length: {head}"))),
        None => body.ends_with(b"0\r\n\r\n"),
    };
    if !whole {
        return None;
    }
    if head.get(9..10) == Some("2") {
        return Some(Outcome::Ok { close: field("connection") == Some("close") });
    }
    Some(Outcome::Failed(format!("{head}\n{}", String::from_utf8_lossy(body))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_once_it_is_whole_and_only_if_it_is_good() {
        assert!(judge(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na").is_none());
        let good = judge(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab");
        assert!(matches!(good, Some(Outcome::Ok { close: false })));
        let last = judge(b"HTTP/1.1 204 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        assert!(matches!(last, Some(Outcome::Ok { close: true })));
        let bad = judge(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        assert!(matches!(bad, Some(Outcome::Failed(_))));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        assert!(judge(&chunked[..chunked.len() - 2]).is_none());
        assert!(matches!(judge(chunked), Some(Outcome::Ok { .. })));
    }
}

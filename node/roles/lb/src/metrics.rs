//! Counters. Each thread writes its own, so that counting costs no more than
//! an addition; reading adds them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rung_proto::{InstanceId, NodeId};

/// Upper bounds of the latency buckets, in microseconds; one more bucket takes
/// what is above.
pub const LATENCY_BOUNDS_US: [u64; 16] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// One thread's counters of an app or an instance, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    /// By the hundreds of the status.
    status: [AtomicU64; 6],
    latency: [AtomicU64; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_us: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    retries: AtomicU64,
    connect_failures: AtomicU64,
    shed: AtomicU64,
}

/// Adds to a counter that only this thread writes.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

impl Counters {
    pub fn request(&self, status: u16, took_us: u64, received: u64, sent: u64) {
        add(&self.status[usize::from(status / 100).min(5)], 1);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < took_us);
        add(&self.latency[bucket], 1);
        add(&self.latency_sum_us, took_us);
        add(&self.received, received);
        add(&self.sent, sent);
    }

    pub fn retry(&self) {
        add(&self.retries, 1);
    }

    pub fn connect_failure(&self) {
        add(&self.connect_failures, 1);
    }

    pub fn shed(&self) {
        add(&self.shed, 1);
    }
}

/// What was counted of an app or an instance since it became known.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestMetrics {
    /// Responses by the hundreds of their status; the first is for requests
    /// that got none because the client went away.
    pub by_status: [u64; 6],
    /// Requests by duration, see [`LATENCY_BOUNDS_US`]; not cumulative.
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub latency_sum_us: u64,
    /// Body bytes from clients and to clients.
    pub received: u64,
    pub sent: u64,
    pub retries: u64,
    pub connect_failures: u64,
    /// Requests answered 503 because too many were in flight.
    pub shed: u64,
    pub in_flight: usize,
}

impl RequestMetrics {
    pub fn requests(&self) -> u64 {
        self.by_status.iter().sum()
    }

    pub(crate) fn of(threads: &[Counters], in_flight: usize) -> RequestMetrics {
        let mut all = RequestMetrics { in_flight, ..RequestMetrics::default() };
        for one in threads {
            let get = |counter: &AtomicU64| counter.load(Relaxed);
            for (sum, counter) in all.by_status.iter_mut().zip(&one.status) {
                *sum += get(counter);
            }
            for (sum, counter) in all.latency.iter_mut().zip(&one.latency) {
                *sum += get(counter);
            }
            all.latency_sum_us += get(&one.latency_sum_us);
            all.received += get(&one.received);
            all.sent += get(&one.sent);
            all.retries += get(&one.retries);
            all.connect_failures += get(&one.connect_failures);
            all.shed += get(&one.shed);
        }
        all
    }
}

/// One app.
#[derive(Clone, PartialEq, Debug)]
pub struct AppMetrics {
    pub name: String,
    pub requests: RequestMetrics,
}

/// One instance.
#[derive(Clone, PartialEq, Debug)]
pub struct InstanceMetrics {
    pub id: InstanceId,
    pub app: String,
    pub node: NodeId,
    pub requests: RequestMetrics,
    pub ejected: bool,
    pub ejections: u64,
    /// Moving average of the time to the first byte.
    pub latency_us: u64,
    pub idle_connections: usize,
}

/// Everything that a balancer counts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LbMetrics {
    /// Of the table that is in force.
    pub table_version: u64,
    pub connections: usize,
    pub connections_accepted: u64,
    /// Closed at once because there were too many.
    pub connections_refused: u64,
    /// Requests that broke the protocol or a limit of it.
    pub bad_requests: u64,
    /// Requests for a host or path that no app has.
    pub unrouted: u64,
    pub rate_limited: u64,
    pub tls_failures: u64,
    /// Lines that the access log could not take in time.
    pub log_lines_dropped: u64,
    /// Requests that wait for a healthy instance now.
    pub waiting: usize,
    pub apps: Vec<AppMetrics>,
    pub instances: Vec<InstanceMetrics>,
}

/// Rare events, counted by all threads together.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub bad_requests: AtomicU64,
    pub unrouted: AtomicU64,
    pub rate_limited: AtomicU64,
    pub tls_failures: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

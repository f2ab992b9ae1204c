//! Counters of a server. Each UDP thread has its own, so that none waits for
//! another's cache line; a report adds them up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::respond::{Outcome, rcode};

/// What a server has done since its start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DnsMetrics {
    /// The version of the zones that answers are given from.
    pub zones_version: u64,
    /// Datagrams that came.
    pub udp_queries: u64,
    /// Queries over TCP.
    pub tcp_queries: u64,
    /// Answers by response code.
    pub answers: AnswersByCode,
    /// Answers written from prepared ones; the others took the slow path.
    pub prepared: u64,
    /// Answers cut because the client could not take them whole.
    pub truncated: u64,
    /// Queries with a valid server cookie.
    pub cookies_valid: u64,
    /// Answers not sent because their network had had its share.
    pub rate_dropped: u64,
    /// Answers sent truncated for the same reason.
    pub rate_slipped: u64,
    /// Datagrams that are never answered: too short, responses, from port 0.
    pub ignored: u64,
    /// Answers that the kernel did not take.
    pub unsent: u64,
    /// TCP connections open now.
    pub tcp_open: u64,
    /// TCP connections closed at once because there were too many.
    pub tcp_refused: u64,
}

/// Numbers of answers by response code.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AnswersByCode {
    pub no_error: u64,
    pub format_error: u64,
    pub server_failure: u64,
    pub name_error: u64,
    pub not_implemented: u64,
    pub refused: u64,
    pub other: u64,
}

/// Atomic counters with one writer or few.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) queries: AtomicU64,
    pub(crate) prepared: AtomicU64,
    pub(crate) truncated: AtomicU64,
    pub(crate) cookies_valid: AtomicU64,
    pub(crate) rate_dropped: AtomicU64,
    pub(crate) rate_slipped: AtomicU64,
    pub(crate) ignored: AtomicU64,
    pub(crate) unsent: AtomicU64,
    pub(crate) tcp_open: AtomicU64,
    pub(crate) tcp_refused: AtomicU64,
    codes: [AtomicU64; 7],
}

/// Adds to a counter that has one writer: cheaper than a locked addition.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

impl Counters {
    /// Counts an answer.
    pub(crate) fn answer(&self, outcome: &Outcome) {
        count(&self.prepared, u64::from(outcome.prepared));
        count(&self.truncated, u64::from(outcome.truncated));
        count(&self.cookies_valid, u64::from(outcome.cookie_valid));
        let index = match outcome.rcode {
            rcode::NO_ERROR => 0,
            rcode::FORMAT_ERROR => 1,
            rcode::SERVER_FAILURE => 2,
            rcode::NAME_ERROR => 3,
            rcode::NOT_IMPLEMENTED => 4,
            rcode::REFUSED => 5,
            _ => 6,
        };
        count(&self.codes[index], 1);
    }

    /// Adds these counters to a report, apart from the number of queries.
    pub(crate) fn add_to(&self, report: &mut DnsMetrics) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        report.prepared += read(&self.prepared);
        report.truncated += read(&self.truncated);
        report.cookies_valid += read(&self.cookies_valid);
        report.rate_dropped += read(&self.rate_dropped);
        report.rate_slipped += read(&self.rate_slipped);
        report.ignored += read(&self.ignored);
        report.unsent += read(&self.unsent);
        report.tcp_open += read(&self.tcp_open);
        report.tcp_refused += read(&self.tcp_refused);
        let codes = &mut report.answers;
        let totals = [
            &mut codes.no_error,
            &mut codes.format_error,
            &mut codes.server_failure,
            &mut codes.name_error,
            &mut codes.not_implemented,
            &mut codes.refused,
            &mut codes.other,
        ];
        for (total, counter) in totals.into_iter().zip(&self.codes) {
            *total += read(counter);
        }
    }
}

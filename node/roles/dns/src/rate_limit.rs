//! Response rate limiting: what one network may be sent a second, so that a
//! forged source address does not turn us into an amplifier. A table of fixed
//! size, shared by all threads, without locks.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::locations;
use crate::respond::Subject;

/// Entries of the table; 512 KiB. A flood from more networks than that is not
/// an amplification attack on any of them.
const ENTRIES: usize = 1 << 16;
/// An entry's upper bits name its network, the lower ones are a time in
/// microseconds since the start, which last for 8 years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// How the answers to one network are limited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// Answers a second to one network about one zone, or of errors; 0 is no
    /// limit.
    pub per_second: u32,
    /// How many seconds' worth may come at once.
    pub burst_seconds: u32,
    /// Every so many limited answers one is sent truncated instead of none, so
    /// that a true client comes again over TCP; 0 is never.
    pub slip: u32,
    /// Leading bits of an IPv4 address that make a network.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 address that make a network.
    pub prefix_v6: u8,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self { per_second: 500, burst_seconds: 2, slip: 2, prefix_v4: 24, prefix_v6: 56 }
    }
}

/// What to do with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Send,
    /// Send it truncated.
    Slip,
    Drop,
}

/// The counters of all networks, by the generic cell rate algorithm: an entry is
/// the time at which its network would have used up nothing.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    limit: RateLimit,
    /// Microseconds that one answer uses up.
    interval: u64,
    /// Microseconds that may be used up in advance.
    tolerance: u64,
    hash: RandomState,
    entries: Box<[AtomicU64]>,
}

impl RateLimiter {
    /// `None` when nothing is to be limited.
    pub(crate) fn new(limit: RateLimit) -> Option<Self> {
        let interval = 1_000_000u64.checked_div(u64::from(limit.per_second))?.max(1);
        let tolerance = u64::from(limit.burst_seconds.max(1)) * 1_000_000 - interval;
        let entries = (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
        Some(Self { limit, interval, tolerance, hash: RandomState::new(), entries })
    }

    /// Counts an answer. `since_start` is the time since the server started.
    pub(crate) fn judge(
        &self,
        client: IpAddr,
        subject: Subject,
        since_start: Duration,
        ticket: u64,
    ) -> Verdict {
        let length = match client {
            IpAddr::V4(_) => self.limit.prefix_v4.min(32),
            IpAddr::V6(_) => self.limit.prefix_v6.min(128),
        };
        let network = locations::mask(client, length);
        let hash = self.hash.hash_one((network, subject));
        let now = (since_start.as_micros() as u64) & TIME_MASK;
        if self.take(hash, now) {
            return Verdict::Send;
        }
        match ticket.checked_rem(u64::from(self.limit.slip)) {
            Some(0) => Verdict::Slip,
            _ => Verdict::Drop,
        }
    }

    /// Whether the network behind a hash may be sent another answer now. Two
    /// networks that fall on one entry take turns in it, each with a fresh
    /// allowance, so a stranger's flood never limits a client.
    fn take(&self, hash: u64, now: u64) -> bool {
        let entry = &self.entries[hash as usize % ENTRIES];
        let owner = hash >> TIME_BITS;
        let mut seen = entry.load(Ordering::Relaxed);
        loop {
            let used_up = if seen >> TIME_BITS == owner { seen & TIME_MASK } else { 0 };
            let start = used_up.max(now);
            if start - now > self.tolerance {
                return false;
            }
            let next = owner << TIME_BITS | ((start + self.interval) & TIME_MASK);
            match entry.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: Subject = Subject::Records { zone: 0 };

    fn limiter(per_second: u32, slip: u32) -> RateLimiter {
        RateLimiter::new(RateLimit { per_second, burst_seconds: 1, slip, ..RateLimit::default() })
            .unwrap()
    }

    fn sent(limiter: &RateLimiter, client: &str, at: Duration, count: u64) -> usize {
        let client = client.parse().unwrap();
        (0..count).filter(|n| limiter.judge(client, RECORDS, at, *n) == Verdict::Send).count()
    }

    #[test]
    fn a_network_gets_its_rate_and_others_are_not_touched() {
        let limiter = limiter(10, 0);
        assert_eq!(sent(&limiter, "192.0.2.1", Duration::ZERO, 50), 10);
        assert_eq!(sent(&limiter, "192.0.2.200", Duration::ZERO, 5), 0, "the same /24");
        assert_eq!(sent(&limiter, "192.0.3.1", Duration::ZERO, 50), 10);
        assert_eq!(sent(&limiter, "2001:db8::1", Duration::ZERO, 50), 10);
        assert_eq!(sent(&limiter, "2001:db8:0:ff::1", Duration::ZERO, 50), 0, "the same /56");
        assert_eq!(sent(&limiter, "192.0.2.1", Duration::from_millis(500), 50), 5);
        assert_eq!(sent(&limiter, "192.0.2.1", Duration::from_secs(60), 50), 10);
    }

    #[test]
    fn errors_and_records_have_limits_of_their_own() {
        let limiter = limiter(3, 0);
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(sent(&limiter, "192.0.2.1", Duration::ZERO, 9), 3);
        let error = limiter.judge(client, Subject::Error, Duration::ZERO, 0);
        assert_eq!(error, Verdict::Send);
    }

    #[test]
    fn every_second_limited_answer_slips_through_truncated() {
        let limiter = limiter(1, 2);
        let client = "192.0.2.1".parse().unwrap();
        let verdicts: Vec<Verdict> =
            (0..5).map(|n| limiter.judge(client, RECORDS, Duration::ZERO, n)).collect();
        use Verdict::{Drop, Send, Slip};
        assert_eq!(verdicts, [Send, Drop, Slip, Drop, Slip]);
    }

    #[test]
    fn no_rate_means_no_limiter() {
        assert!(RateLimiter::new(RateLimit { per_second: 0, ..RateLimit::default() }).is_none());
    }
}

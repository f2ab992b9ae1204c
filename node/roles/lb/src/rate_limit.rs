//! Token buckets for client addresses.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use crate::table::RateLimit;

const SHARDS: usize = 64;
/// Most addresses remembered in one shard. Beyond that the ones with full
/// buckets are forgotten, which changes nothing for them.
const ADDRESSES: usize = 4096;
const CLEAR_EVERY_MS: u64 = 1000;

pub(crate) struct RateLimiter {
    limit: RateLimit,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Default)]
struct Shard {
    buckets: HashMap<IpAddr, Bucket>,
    /// When the full buckets were last forgotten.
    cleared_ms: u64,
}

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    at_ms: u64,
}

impl Bucket {
    pub fn full(limit: &RateLimit, now_ms: u64) -> Bucket {
        Bucket { tokens: f64::from(limit.burst.max(1)), at_ms: now_ms }
    }

    /// Takes one; false when there is none.
    pub fn take(&mut self, limit: &RateLimit, now_ms: u64) -> bool {
        self.refill(limit, now_ms);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    fn refill(&mut self, limit: &RateLimit, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        self.tokens = (self.tokens + passed * limit.per_second).min(f64::from(limit.burst.max(1)));
        self.at_ms = self.at_ms.max(now_ms);
    }
}

impl RateLimiter {
    pub fn new(limit: RateLimit) -> RateLimiter {
        RateLimiter {
            limit,
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Whether a request of `client` may go on; otherwise the seconds after
    /// which the next one may.
    pub fn admit(&self, client: IpAddr, now_ms: u64) -> Result<(), u32> {
        let key = client_key(client);
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.buckets.len() >= ADDRESSES && !shard.buckets.contains_key(&key) {
            shard.make_room(&self.limit, now_ms);
        }
        let full = Bucket::full(&self.limit, now_ms);
        let bucket = shard.buckets.entry(key).or_insert(full);
        if bucket.take(&self.limit, now_ms) {
            return Ok(());
        }
        let wait = (1.0 - bucket.tokens) / self.limit.per_second.max(0.001);
        Err(wait.ceil().clamp(1.0, 3600.0) as u32)
    }
}

impl Shard {
    fn make_room(&mut self, limit: &RateLimit, now_ms: u64) {
        // Looking through all of them for each new address would be work for an
        // attacker to give.
        if now_ms >= self.cleared_ms + CLEAR_EVERY_MS {
            self.cleared_ms = now_ms;
            let full = f64::from(limit.burst.max(1));
            self.buckets.retain(|_, bucket| {
                bucket.refill(limit, now_ms);
                bucket.tokens < full
            });
        }
        // All of them are busy: a flood of addresses. Forgetting one of them
        // keeps the memory bounded.
        if self.buckets.len() >= ADDRESSES
            && let Some(any) = self.buckets.keys().next().copied()
        {
            self.buckets.remove(&any);
        }
    }
}

/// Who owns one IPv6 address owns its /64.
fn client_key(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let limiter = RateLimiter::new(RateLimit { per_second: 2.0, burst: 3 });
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let admitted = |now_ms| (0..10).filter(|_| limiter.admit(client, now_ms).is_ok()).count();
        assert_eq!(admitted(0), 3);
        assert_eq!(limiter.admit(client, 0), Err(1));
        assert_eq!(admitted(1000), 2);
        assert_eq!(limiter.admit("192.0.2.2".parse().unwrap(), 1000), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_bucket() {
        let limiter = RateLimiter::new(RateLimit { per_second: 0.1, burst: 1 });
        assert!(limiter.admit("2001:db8::1".parse().unwrap(), 0).is_ok());
        assert_eq!(limiter.admit("2001:db8::2".parse().unwrap(), 0), Err(10));
        assert!(limiter.admit("2001:db8:0:1::1".parse().unwrap(), 0).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_takes_bounded_memory() {
        let limiter = RateLimiter::new(RateLimit { per_second: 0.1, burst: 1 });
        for address in 0..400_000_u32 {
            assert!(limiter.admit(IpAddr::V4(address.into()), 0).is_ok());
        }
        let kept: usize =
            limiter.shards.iter().map(|shard| shard.lock().unwrap().buckets.len()).sum();
        assert!(kept <= SHARDS * ADDRESSES);
    }
}

//! The retry budget of an app: retries are a share of its requests, so that
//! they cannot multiply the load of instances that already fail.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Thousandths of a retry that each request earns: 20%.
const EARNED: i64 = 200;
const COST: i64 = 1000;
/// What is there at the start and again every ten seconds, however little the
/// traffic: the requests that one dying instance leaves behind.
const FLOOR: i64 = 128 * COST;
const MOST: i64 = 2_000 * COST;

#[derive(Debug)]
pub(crate) struct RetryBudget {
    balance: AtomicI64,
    floor_period: AtomicU64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { balance: AtomicI64::new(FLOOR), floor_period: AtomicU64::new(0) }
    }
}

impl RetryBudget {
    /// A request came.
    pub fn earn(&self) {
        // A load first: at the top, the usual state, nothing is written.
        if self.balance.load(Relaxed) < MOST {
            self.balance.fetch_add(EARNED, Relaxed);
        }
    }

    /// Pays for a retry; false when that cannot be afforded.
    pub fn spend(&self, now_ms: u64) -> bool {
        let period = now_ms / 10_000;
        if self.floor_period.swap(period, Relaxed) != period {
            self.balance.fetch_max(FLOOR, Relaxed);
        }
        self.balance
            .fetch_update(Relaxed, Relaxed, |balance| (balance >= COST).then_some(balance - COST))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_once_the_floor_is_spent() {
        let budget = RetryBudget::default();
        let floor = (0..1000).filter(|_| budget.spend(5)).count();
        assert_eq!(floor, 128);
        for _ in 0..100 {
            budget.earn();
        }
        assert_eq!((0..1000).filter(|_| budget.spend(5)).count(), 20);
        assert_eq!((0..1000).filter(|_| budget.spend(10_005)).count(), 128, "the floor is back");
    }
}

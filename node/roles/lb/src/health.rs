//! Passive health: leaving out an instance that fails, and taking it back.
//!
//! Ejected, an instance gets nothing until its time is over; then one request
//! at a time is a probe, and its outcome decides. Whether an instance may be
//! ejected at all (never more than half of an app's) is for the caller to say.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::config::HealthConfig;

/// Whether an instance may get a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Good,
    /// Its ejection is over; one request may try it. Since when, in
    /// milliseconds of the balancer's clock.
    ProbeDue {
        since_ms: u64,
    },
    Ejected,
}

/// What became of a request to an instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Good,
    /// No connection, or one that broke before a response.
    Unreachable,
    /// A status of 500 or more, or a response that breaks the protocol.
    Bad,
    /// Says nothing about the instance: the client went away.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Health {
    unreachable: AtomicU32,
    bad: AtomicU32,
    /// Zero: not ejected.
    ejected_until_ms: AtomicU64,
    /// Ejections without a success between them.
    in_a_row: AtomicU32,
    /// Of all time.
    ejections: AtomicU64,
    probing: AtomicBool,
    returned_ms: AtomicU64,
}

impl Health {
    pub fn standing(&self, now_ms: u64) -> Standing {
        match self.ejected_until_ms.load(Relaxed) {
            0 => Standing::Good,
            until if now_ms < until || self.probing.load(Relaxed) => Standing::Ejected,
            until => Standing::ProbeDue { since_ms: until },
        }
    }

    /// Takes the only probe; false when somebody else has it.
    pub fn start_probe(&self) -> bool {
        !self.probing.swap(true, Relaxed)
    }

    /// When it came back from an ejection; zero when it never did.
    pub fn returned_ms(&self) -> u64 {
        self.returned_ms.load(Relaxed)
    }

    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Records an outcome. True when the instance should be ejected.
    pub fn record(
        &self,
        outcome: Outcome,
        was_probe: bool,
        now_ms: u64,
        config: &HealthConfig,
    ) -> bool {
        let eject = match outcome {
            Outcome::Good => {
                // Stores that change nothing would bounce the cache line
                // between cores.
                if self.unreachable.load(Relaxed) != 0 {
                    self.unreachable.store(0, Relaxed);
                }
                if self.bad.load(Relaxed) != 0 {
                    self.bad.store(0, Relaxed);
                }
                if was_probe {
                    self.in_a_row.store(0, Relaxed);
                    self.returned_ms.store(now_ms.max(1), Relaxed);
                    self.ejected_until_ms.store(0, Relaxed);
                }
                false
            }
            Outcome::Unreachable => {
                self.unreachable.fetch_add(1, Relaxed) + 1 >= config.connect_failures || was_probe
            }
            Outcome::Bad => self.bad.fetch_add(1, Relaxed) + 1 >= config.bad_responses || was_probe,
            Outcome::Unknown => false,
        };
        if was_probe {
            self.probing.store(false, Relaxed);
        }
        eject
    }

    /// Leaves the instance out, longer each time.
    pub fn eject(&self, now_ms: u64, config: &HealthConfig) {
        let until = self.ejected_until_ms.load(Relaxed);
        if until > now_ms {
            return;
        }
        let before = self.in_a_row.fetch_add(1, Relaxed).min(16);
        let length = ejection_length(before, config);
        self.ejected_until_ms.store(now_ms + length.as_millis() as u64, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.unreachable.store(0, Relaxed);
        self.bad.store(0, Relaxed);
    }
}

fn ejection_length(before: u32, config: &HealthConfig) -> Duration {
    config.eject.saturating_mul(1 << before).min(config.eject_longest).max(Duration::from_millis(1))
}

/// The share, 0.1 to 1, that an instance deserves `age_ms` after it became
/// ready: a cold one gets less at first.
pub(crate) fn slow_start_weight(age_ms: u64, config: &HealthConfig) -> f64 {
    let whole = config.slow_start.as_millis() as f64;
    if whole <= 0.0 { 1.0 } else { (age_ms as f64 / whole).clamp(0.1, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HealthConfig {
        HealthConfig {
            connect_failures: 2,
            bad_responses: 3,
            eject: Duration::from_secs(2),
            eject_longest: Duration::from_secs(5),
            ..HealthConfig::default()
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let (health, config) = (Health::default(), config());
        assert!(!health.record(Outcome::Bad, false, 0, &config));
        assert!(!health.record(Outcome::Bad, false, 0, &config));
        assert!(!health.record(Outcome::Good, false, 0, &config));
        assert!(!health.record(Outcome::Bad, false, 0, &config));
        assert!(!health.record(Outcome::Unreachable, false, 0, &config));
        assert!(health.record(Outcome::Unreachable, false, 0, &config));
    }

    #[test]
    fn an_ejected_instance_comes_back_by_one_probe_at_a_time() {
        let (health, config) = (Health::default(), config());
        health.eject(1000, &config);
        assert_eq!(health.standing(2999), Standing::Ejected);
        assert_eq!(health.standing(3000), Standing::ProbeDue { since_ms: 3000 });
        assert!(health.start_probe());
        assert!(!health.start_probe());
        assert_eq!(health.standing(3000), Standing::Ejected);
        assert!(health.record(Outcome::Unreachable, true, 3000, &config));
        health.eject(3000, &config);
        assert_eq!(health.standing(6999), Standing::Ejected, "twice as long");
        assert!(health.start_probe());
        assert!(!health.record(Outcome::Good, true, 7000, &config));
        assert_eq!(health.standing(7000), Standing::Good);
        assert_eq!(health.returned_ms(), 7000);
        assert_eq!(health.ejections(), 2);
    }

    #[test]
    fn ejections_grow_up_to_a_bound() {
        let config = config();
        let lengths: Vec<u64> =
            (0..4).map(|before| ejection_length(before, &config).as_secs()).collect();
        assert_eq!(lengths, [2, 4, 5, 5]);
    }

    #[test]
    fn a_new_instance_starts_with_a_tenth() {
        let config = HealthConfig { slow_start: Duration::from_secs(10), ..config() };
        assert_eq!(slow_start_weight(0, &config), 0.1);
        assert_eq!(slow_start_weight(5_000, &config), 0.5);
        assert_eq!(slow_start_weight(50_000, &config), 1.0);
    }
}

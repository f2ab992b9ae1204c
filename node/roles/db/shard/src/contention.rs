//! What was seen to conflict, so that it is not tried on a snapshot again at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The writer is held for so long at most where transactions meet again and again.
const LONGEST: Duration = Duration::from_secs(600);
/// A conflict within so many times that length after its end doubles it.
const SOON: u32 = 8;
/// So much is remembered at most.
const MOST: usize = 1024;

/// Parts of transactions whose outcome was changed by others, by their keys.
pub(crate) struct Contention {
    held: HashMap<u64, Held>,
    /// For so long the writer is held after a first conflict: two happened to meet.
    first: Duration,
}

#[derive(Clone, Copy)]
struct Held {
    since: Instant,
    length: Duration,
}

impl Held {
    fn until(self) -> Instant {
        self.since + self.length
    }

    /// Whether another conflict would still be a matter of the same contention.
    fn counts(self, now: Instant) -> bool {
        now < self.until() + self.length * SOON
    }
}

impl Contention {
    pub fn new(first: Duration) -> Self {
        Self { held: HashMap::new(), first }
    }

    /// Whether it shall not be tried without the writer now.
    pub fn has(&self, key: u64, now: Instant) -> bool {
        self.held.get(&key).is_some_and(|held| now < held.until())
    }

    /// It was tried, and failed.
    pub fn add(&mut self, key: u64, now: Instant) {
        let before = self.held.get(&key).copied().filter(|held| held.counts(now));
        let length = match before {
            // Of those that were begun before it was noted.
            Some(held) if now < held.until() => return,
            Some(held) => (held.length * 2).min(LONGEST),
            None => self.first,
        };
        if self.held.len() >= MOST {
            self.held.retain(|_, held| held.counts(now));
        }
        if self.held.len() >= MOST
            && let Some(oldest) = self.held.iter().min_by_key(|(_, held)| held.since)
        {
            let oldest = *oldest.0;
            self.held.remove(&oldest);
        }
        self.held.insert(key, Held { since: now, length });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(250);
    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_conflict_by_chance_is_forgotten_soon() {
        let start = Instant::now();
        let mut contention = Contention::new(FIRST);
        for minute in 0..5 {
            let now = start + Duration::from_secs(60) * minute;
            contention.add(7, now);
            assert!(contention.has(7, now + FIRST - MILLISECOND));
            assert!(!contention.has(7, now + FIRST));
        }
        assert!(!contention.has(8, start));
    }

    #[test]
    fn what_conflicts_whenever_it_is_tried_is_tried_ever_less() {
        let mut now = Instant::now();
        let end = now + Duration::from_secs(3600);
        let mut contention = Contention::new(FIRST);
        let mut conflicts = 0;
        while now < end {
            if !contention.has(7, now) {
                contention.add(7, now);
                // Another that was under way.
                contention.add(7, now + MILLISECOND);
                conflicts += 1;
            }
            now += 10 * MILLISECOND;
        }
        assert!((10..25).contains(&conflicts), "{conflicts} in an hour");
    }

    #[test]
    fn it_remembers_so_much() {
        let start = Instant::now();
        let mut contention = Contention::new(FIRST);
        for key in 0..=MOST as u64 {
            contention.add(key, start + Duration::from_micros(key));
        }
        assert_eq!(contention.held.len(), MOST);
        assert!(!contention.has(0, start + MILLISECOND), "the oldest makes room");
        assert!(contention.has(1, start + MILLISECOND));
    }
}

//! What was seen to conflict, so that it is not tried on a snapshot again at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For so long the writer is held for it.
const REMEMBERED: Duration = Duration::from_secs(600);
/// So much is remembered at most.
const MOST: usize = 1024;

/// Parts of transactions whose outcome was changed by others, by their keys.
#[derive(Default)]
pub(crate) struct Contention(HashMap<u64, Instant>);

impl Contention {
    pub fn has(&self, key: u64, now: Instant) -> bool {
        self.0.get(&key).is_some_and(|since| now < *since + REMEMBERED)
    }

    pub fn add(&mut self, key: u64, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, since| now < *since + REMEMBERED);
        }
        if self.0.len() >= MOST
            && let Some(oldest) = self.0.iter().min_by_key(|(_, since)| **since)
        {
            let oldest = *oldest.0;
            self.0.remove(&oldest);
        }
        self.0.insert(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_for_a_while_and_so_much() {
        let start = Instant::now();
        let mut contention = Contention::default();
        for key in 0..=MOST as u64 {
            contention.add(key, start + Duration::from_millis(key));
        }
        let later = start + Duration::from_secs(60);
        assert!(!contention.has(0, later), "the oldest makes room");
        assert!(contention.has(1, later));
        assert!(!contention.has(1, start + REMEMBERED + Duration::from_secs(1)));
        assert_eq!(contention.0.len(), MOST);
    }
}

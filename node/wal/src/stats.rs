//! Counters for people and metrics.

use std::time::Duration;

/// How often something took how long. Bucket `n` counts what took less than
/// `2^n` microseconds and no less than half of that; the last one also counts
/// what took longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// The counts.
    pub buckets: [u64; 24],
    /// The sum, in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.buckets[bucket.min(self.buckets.len() - 1)] += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper end of the bucket below which a share (0 to 1) of all lies, in
    /// microseconds; zero if nothing was counted.
    pub fn quantile_micros(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (power, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && wanted > 0 {
                return 1 << power;
            }
        }
        0
    }
}

/// What the log did since it was opened and what it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Segment files.
    pub segments: u64,
    /// The length of all segment files.
    pub disk_bytes: u64,
    /// What the entries that groups still have take in them.
    pub live_bytes: u64,
    /// Entries that groups still have, as far as written.
    pub live_entries: u64,
    /// Bytes waiting to be written.
    pub queued_bytes: u64,
    /// Bytes of written entries kept in memory.
    pub cached_bytes: u64,
    /// Calls of `write` that became durable.
    pub writes: u64,
    /// Batches written.
    pub batches: u64,
    /// Entries written.
    pub entries: u64,
    /// Entries copied out of sparse segments.
    pub copied_entries: u64,
    /// Bytes written, copies included.
    pub written_bytes: u64,
    /// The time of each sync.
    pub syncs: Histogram,
    /// Writes refused because the disk was full.
    pub refused_full: u64,
    /// The last attempt to make a segment found no space.
    pub disk_full: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_finds_its_quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_micros(0.5), 0);
        for micros in [3, 3, 3, 3, 3, 3, 3, 3, 3, 900] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(histogram.count(), 10);
        assert_eq!(histogram.quantile_micros(0.5), 4);
        assert_eq!(histogram.quantile_micros(1.0), 1024);
        histogram.add(Duration::MAX);
        assert_eq!(histogram.count(), 11);
    }
}

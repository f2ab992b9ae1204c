//! Whether a commit waits for transactions that are under way, to become one entry with
//! them. An entry costs every copy the same, whatever it carries: with three copies that is
//! most of what a short transaction costs. They end within the time of a few statements,
//! unless their clients think; those are not waited for. Waiting in vain makes waits rarer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// More than there can be, nearly always: two that share a place may be taken for one.
const PLACES: usize = 256;

/// When drafts have last executed something. It is asked and told by all without a lock.
pub(crate) struct UnderWay {
    since: Instant,
    /// In microseconds after `since`, by their numbers; 0 for none.
    last: [AtomicU64; PLACES],
}

impl UnderWay {
    pub fn new() -> Self {
        Self { since: Instant::now(), last: [const { AtomicU64::new(0) }; PLACES] }
    }

    fn place(&self, number: u64) -> &AtomicU64 {
        &self.last[usize::try_from(number % PLACES as u64).unwrap_or(0)]
    }

    /// A draft executes something.
    pub fn acts(&self, number: u64) {
        let micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.place(number).store(micros.max(1), Ordering::Relaxed);
    }

    /// A draft was executed by the writer, has ended, or waits for somebody.
    pub fn rests(&self, number: u64) {
        self.place(number).store(0, Ordering::Relaxed);
    }

    /// Until when it is likely that one ends: for so long after it executed something.
    pub fn until(&self, window: Duration) -> Option<Instant> {
        let last = self.last.iter().map(|last| last.load(Ordering::Relaxed)).max();
        let last = last.filter(|last| *last > 0)?;
        let until = self.since + Duration::from_micros(last) + window;
        (until > Instant::now()).then_some(until)
    }
}

/// After so many waits in vain, one commit in 64 waits.
const MOST_VAIN: u32 = 6;

/// What a shard's commits wait for.
#[derive(Default)]
pub(crate) struct Gathering {
    is_on: bool,
    /// Waits in a row that nobody came for.
    vain: u32,
    /// So many commits do not wait, after that.
    skipped: u32,
}

impl Gathering {
    /// Whether others are waited for.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Something was committed that could become an entry, and others are under way or not.
    /// Says whether it waits for them.
    pub fn begins(&mut self, others: bool) -> bool {
        self.is_on = others && self.skipped == 0;
        if others {
            self.skipped = self.skipped.saturating_sub(1);
        }
        self.is_on
    }

    /// Somebody waits to see it settled.
    pub fn stops(&mut self) {
        self.is_on = false;
    }

    /// It became an entry, with what others have committed meanwhile or alone.
    pub fn ends(&mut self, alone: bool) {
        if !std::mem::take(&mut self.is_on) {
            return;
        }
        self.vain = if alone { (self.vain + 1).min(MOST_VAIN) } else { 0 };
        self.skipped = (1 << self.vain) - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_executed_something_a_moment_ago_is_under_way() {
        let (under_way, long) = (UnderWay::new(), Duration::from_secs(60));
        assert_eq!(under_way.until(long), None);
        under_way.acts(7);
        assert!(under_way.until(long).is_some());
        assert_eq!(under_way.until(Duration::ZERO), None);
        under_way.acts(8 + PLACES as u64);
        under_way.rests(7);
        assert!(under_way.until(long).is_some());
        under_way.rests(8 + PLACES as u64);
        assert_eq!(under_way.until(long), None);
    }

    /// How many of so many commits wait.
    fn waits(gathering: &mut Gathering, commits: u32, alone: bool) -> u32 {
        let one = |_: &u32| {
            let begins = gathering.begins(true);
            gathering.ends(alone);
            begins
        };
        u32::try_from((0..commits).filter(one).count()).unwrap()
    }

    #[test]
    fn commits_wait_while_others_come() {
        let mut gathering = Gathering::default();
        assert!(!gathering.begins(false), "nobody is under way");
        assert_eq!(waits(&mut gathering, 100, false), 100);
    }

    #[test]
    fn who_waits_in_vain_waits_ever_less_often() {
        let mut gathering = Gathering::default();
        assert_eq!(waits(&mut gathering, 127, true), 7);
        assert_eq!(waits(&mut gathering, 640, true), 10);
        // Once somebody comes all wait again.
        let later = (0..64).filter(|_| waits(&mut gathering, 1, false) == 1).count();
        assert!((1..=64).contains(&later));
        assert_eq!(waits(&mut gathering, 100, false), 100);
    }

    #[test]
    fn commits_while_nobody_is_under_way_do_not_count() {
        let mut gathering = Gathering::default();
        waits(&mut gathering, 1, true);
        assert!((0..10).all(|_| !gathering.begins(false)));
        assert!(!gathering.begins(true) && gathering.begins(true));
    }
}

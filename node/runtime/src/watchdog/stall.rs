//! The decision, without clocks and threads.

use std::time::Duration;

/// Times of the watchdog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchdogConfig {
    /// How often it looks.
    pub interval: Duration,
    /// A loop that stands still for longer is reported.
    pub budget: Duration,
    /// A loop that matters for the node and stands still for longer ends the
    /// process.
    pub fatal: Duration,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            budget: Duration::from_secs(1),
            fatal: Duration::from_secs(15),
        }
    }
}

impl WatchdogConfig {
    /// How long the process must have stood still, given how long the watchdog
    /// itself slept: nobody can be blamed for that time.
    pub fn pause(&self, slept: Duration) -> Option<Duration> {
        (slept > self.interval * 3).then(|| slept - self.interval)
    }
}

/// How a loop does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Fine,
    /// It stood still over the budget; said once for each stall.
    Stalled {
        stalled: Duration,
    },
    /// It goes on after such a stall.
    Recovered {
        stalled: Duration,
    },
    /// The process must end.
    Fatal {
        stalled: Duration,
    },
}

/// What is remembered of a loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoopState {
    fatal: bool,
    count: u64,
    /// When the count was first seen; `None` before the first look.
    since: Option<Duration>,
    reported: bool,
}

impl LoopState {
    /// A loop; `fatal` if the node cannot do without it.
    pub fn new(fatal: bool) -> Self {
        Self { fatal, count: 0, since: None, reported: false }
    }

    /// Looks at the number of ticks so far, at a time that never goes back.
    pub fn look(
        &mut self,
        config: &WatchdogConfig,
        now: Duration,
        pause: Option<Duration>,
        count: u64,
    ) -> Verdict {
        let since = self.since.map_or(now, |since| since + pause.unwrap_or_default());
        let stalled = now.saturating_sub(since);
        if count != self.count {
            let was_reported = std::mem::take(&mut self.reported);
            self.count = count;
            self.since = Some(now);
            return if was_reported { Verdict::Recovered { stalled } } else { Verdict::Fine };
        }
        self.since = Some(since);
        if self.fatal && stalled >= config.fatal {
            return Verdict::Fatal { stalled };
        }
        if stalled >= config.budget && !std::mem::replace(&mut self.reported, true) {
            return Verdict::Stalled { stalled };
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_stall_is_said_once_and_then_that_it_is_over() {
        let config = WatchdogConfig::default();
        let mut state = LoopState::new(false);
        let mut look = |millis, count| state.look(&config, at(millis), None, count);
        assert_eq!(look(0, 1), Verdict::Fine);
        assert_eq!(look(900, 1), Verdict::Fine);
        assert_eq!(look(1000, 1), Verdict::Stalled { stalled: at(1000) });
        assert_eq!(look(60_000, 1), Verdict::Fine);
        assert_eq!(look(60_100, 2), Verdict::Recovered { stalled: at(60_100) });
        assert_eq!(look(60_200, 2), Verdict::Fine);
        assert_eq!(look(61_200, 2), Verdict::Stalled { stalled: at(1100) });
    }

    #[test]
    fn only_a_loop_that_matters_ends_the_process() {
        let config = WatchdogConfig::default();
        let mut state = LoopState::new(true);
        state.look(&config, at(0), None, 5);
        state.look(&config, at(2000), None, 5);
        assert_eq!(state.look(&config, at(14_900), None, 5), Verdict::Fine);
        let stalled = at(15_000);
        assert_eq!(state.look(&config, at(15_000), None, 5), Verdict::Fatal { stalled });
    }

    #[test]
    fn a_pause_of_the_process_is_nobodys_stall() {
        let config = WatchdogConfig::default();
        assert_eq!(config.pause(at(250)), None);
        let pause = config.pause(at(3_600_100));
        assert_eq!(pause, Some(at(3_600_000)));
        let mut state = LoopState::new(true);
        state.look(&config, at(0), None, 5);
        assert_eq!(state.look(&config, at(3_600_100), pause, 5), Verdict::Fine);
        // A stall that was under way goes on after the pause.
        let stalled = at(1000);
        assert_eq!(state.look(&config, at(3_601_000), None, 5), Verdict::Stalled { stalled });
    }

    proptest! {
        #[test]
        fn a_loop_that_ticks_is_never_blamed_whatever_the_clock_does(
            gaps in proptest::collection::vec(1u64..1_000_000, 1..100),
        ) {
            let config = WatchdogConfig::default();
            let mut state = LoopState::new(true);
            let mut now = Duration::ZERO;
            for (count, gap) in gaps.into_iter().enumerate() {
                now += at(gap);
                let verdict = state.look(&config, now, config.pause(at(gap)), count as u64 + 1);
                prop_assert_eq!(verdict, Verdict::Fine);
            }
        }

        #[test]
        fn pauses_alone_never_make_a_stall(
            gaps in proptest::collection::vec(301u64..1_000_000, 1..9),
        ) {
            let config = WatchdogConfig::default();
            let mut state = LoopState::new(true);
            let mut now = Duration::ZERO;
            state.look(&config, now, None, 1);
            for gap in gaps {
                now += at(gap);
                let verdict = state.look(&config, now, config.pause(at(gap)), 1);
                prop_assert_eq!(verdict, Verdict::Fine);
            }
        }
    }
}

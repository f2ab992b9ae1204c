//! Whether and when a child that ended is started again. Pure: the time and the
//! jitter are given.

use std::collections::VecDeque;
use std::time::Duration;

/// Which ends of a child are followed by a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// All: it is meant to run as long as the node.
    Always,
    /// Errors and panics; an orderly end is final.
    OnFailure,
    /// None.
    Never,
}

/// How a child is restarted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestartPolicy {
    pub restart: Restart,
    /// Before the first restart; doubles with each further one.
    pub min_backoff: Duration,
    pub max_backoff: Duration,
    /// So many restarts are allowed ...
    pub intensity: u32,
    /// ... within this time. A child that needs one more is given up.
    pub window: Duration,
}

impl Default for RestartPolicy {
    /// Always, after 100 ms doubling to 10 s, at most 5 times in a minute.
    fn default() -> Self {
        Self {
            restart: Restart::Always,
            min_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            intensity: 5,
            window: Duration::from_secs(60),
        }
    }
}

/// How a child ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// In order, by itself.
    Finished,
    /// It could not be started, returned an error, or panicked; the text says
    /// which.
    Failed(String),
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Start it again after this time.
    Restart { after: Duration },
    /// It crashed too often.
    GiveUp,
    /// It has done its work.
    Finish,
}

/// The restarts of one child that still count.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestartHistory {
    restarts: VecDeque<Duration>,
}

impl RestartHistory {
    /// Decides about an end at `now`, a time that never goes back. `jitter`, 0.0
    /// to 1.0, shortens the wait by up to a quarter, so that children that fell
    /// together do not rise together.
    pub fn decide(
        &mut self,
        policy: &RestartPolicy,
        now: Duration,
        exit: &Exit,
        jitter: f64,
    ) -> Decision {
        let wanted = match (policy.restart, exit) {
            (Restart::Always, _) | (Restart::OnFailure, Exit::Failed(_)) => true,
            (Restart::OnFailure, Exit::Finished) | (Restart::Never, _) => false,
        };
        if !wanted {
            return Decision::Finish;
        }
        let counts = |at: &Duration| now.saturating_sub(*at) < policy.window;
        while self.restarts.front().is_some_and(|at| !counts(at)) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= policy.intensity as usize {
            return Decision::GiveUp;
        }
        let doublings = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX).min(31);
        let backoff = policy.min_backoff.saturating_mul(1 << doublings).min(policy.max_backoff);
        self.restarts.push_back(now);
        Decision::Restart { after: backoff.mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failed() -> Exit {
        Exit::Failed("it broke".into())
    }

    #[test]
    fn the_wait_doubles_until_the_child_is_given_up() {
        let policy = RestartPolicy::default();
        let mut history = RestartHistory::default();
        for expected in [100, 200, 400, 800, 1600] {
            let after = Duration::from_millis(expected);
            let decision = history.decide(&policy, SECOND, &failed(), 0.0);
            assert_eq!(decision, Decision::Restart { after });
        }
        assert_eq!(history.decide(&policy, SECOND, &failed(), 0.0), Decision::GiveUp);
    }

    #[test]
    fn restarts_of_long_ago_do_not_count() {
        let policy = RestartPolicy::default();
        let mut history = RestartHistory::default();
        for minute in 0..100 {
            let now = SECOND * 60 * minute;
            let decision = history.decide(&policy, now, &failed(), 0.0);
            assert_eq!(decision, Decision::Restart { after: policy.min_backoff });
        }
    }

    #[test]
    fn an_orderly_end_is_final_unless_the_child_must_always_run() {
        let mut history = RestartHistory::default();
        let policy = |restart| RestartPolicy { restart, ..RestartPolicy::default() };
        let mut decide = |restart, exit: &Exit| history.decide(&policy(restart), SECOND, exit, 0.0);
        assert_eq!(decide(Restart::OnFailure, &Exit::Finished), Decision::Finish);
        assert_eq!(decide(Restart::Never, &failed()), Decision::Finish);
        assert!(matches!(decide(Restart::OnFailure, &failed()), Decision::Restart { .. }));
        assert!(matches!(decide(Restart::Always, &Exit::Finished), Decision::Restart { .. }));
    }

    proptest! {
        #[test]
        fn restarts_keep_to_the_intensity_and_the_backoff_to_its_bounds(
            gaps in proptest::collection::vec(0u64..30_000, 1..60),
            intensity in 0u32..10,
            jitter in 0.0f64..=1.0,
        ) {
            let policy = RestartPolicy { intensity, ..RestartPolicy::default() };
            let mut history = RestartHistory::default();
            let mut now = Duration::ZERO;
            let mut granted: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                let recent = granted.iter().filter(|at| now - **at < policy.window).count();
                match history.decide(&policy, now, &failed(), jitter) {
                    Decision::Restart { after } => {
                        prop_assert!(recent < intensity as usize);
                        prop_assert!(after <= policy.max_backoff);
                        prop_assert!(after >= policy.min_backoff.mul_f64(0.75));
                        granted.push(now);
                    }
                    Decision::GiveUp => prop_assert_eq!(recent, intensity as usize),
                    Decision::Finish => prop_assert!(false, "a failure is never an end"),
                }
            }
        }
    }
}

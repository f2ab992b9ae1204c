//! The life of one instance as a pure state machine: state, event and time in,
//! actions out. It starts no process and reads no clock, so that every order of
//! events can be tried.
//!
//! ```text
//! Preparing -> Launching -> Checking -> Serving -> Letting go -> Finishing -> Terminating -> Stopped
//!     ^                        |           |                                     |
//!     +------- Waiting <-------+-----------+  (crash, never healthy)             +-> Failed
//! ```

use std::time::Duration;

use rung_proto::soft::InstanceState;

/// Milliseconds on the caller's monotonic clock.
pub type Millis = u64;

/// Times and counts that a life is ruled by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Between two health checks of an instance that serves.
    pub health_interval: Duration,
    /// Before the second check of a new instance; doubles up to the interval.
    pub first_check: Duration,
    /// Good checks in a row that a new instance needs.
    pub healthy_after: u32,
    /// Failed checks in a row after which an instance is started again.
    pub unhealthy_after: u32,
    /// How long a new instance may take to be healthy.
    pub start_deadline: Duration,
    /// Crashes in a row, without having been healthy, that end in Failed.
    pub crashes_until_failed: u32,
    pub backoff_first: Duration,
    pub backoff_max: Duration,
    /// An instance that was healthy for this long is started again after
    /// `quick_restart` when it crashes.
    pub proven_after: Duration,
    pub quick_restart: Duration,
    /// How long the balancers may take to let go. They have a bound of their
    /// own; this one holds should that never come back.
    pub let_go_timeout: Duration,
    /// How long requests in progress may take once the balancers let go.
    pub drain_timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    pub term_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            health_interval: Duration::from_secs(1),
            first_check: Duration::from_millis(50),
            healthy_after: 2,
            unhealthy_after: 3,
            start_deadline: Duration::from_secs(30),
            crashes_until_failed: 5,
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            proven_after: Duration::from_secs(5),
            quick_restart: Duration::from_millis(50),
            let_go_timeout: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(30),
            term_grace: Duration::from_secs(10),
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The release directory is there, or not.
    Prepared(Result<(), String>),
    /// The process runs, or could not be started.
    Launched(Result<(), String>),
    /// The first process ended; others of its session may remain.
    Exited(String),
    /// Nothing of its session is left.
    Gone,
    /// The answer to [`Action::Check`].
    Checked(Result<(), String>),
    /// The instance is not wanted any longer.
    Drain,
    /// No balancer sends new requests.
    LetGo,
    /// No request is in progress.
    Finished,
    /// A deadline passed; see [`Lifecycle::deadline`].
    Tick,
}

/// What the caller does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Fetch and unpack the release; answer [`Event::Prepared`].
    Prepare,
    /// Start the process on a fresh port; answer [`Event::Launched`], and later
    /// [`Event::Exited`] and [`Event::Gone`].
    Launch,
    /// Check its health; answer [`Event::Checked`].
    Check,
    /// Answer [`Event::LetGo`] when the balancers have acknowledged.
    AskBalancers,
    /// Answer [`Event::Finished`] when no request is in progress.
    AwaitRequests,
    /// Ask every process of the session to end.
    Terminate,
    /// End every process of the session.
    Kill,
}

/// What follows once the processes are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Stop,
    Restart,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Preparing,
    Launching { stop: bool },
    Checking { good: u32, until: Millis, gap: Duration, next: Option<Millis> },
    Serving { bad: u32, since: Millis, next: Option<Millis> },
    LettingGo { until: Millis },
    Finishing { until: Millis },
    Terminating { then: Then, kill_at: Millis },
    Waiting { until: Millis },
    Failed,
    Stopped,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    policy: Policy,
    phase: Phase,
    /// Crashes since it was last healthy.
    crashes: u32,
    /// Doublings of the backoff.
    level: u32,
    /// Whether it served long enough, before the crash at hand, to be started
    /// again at once.
    proven: bool,
    restarts: u32,
    problem: Option<String>,
    random: u64,
}

const RETRY_KILL: Millis = 1000;

impl Lifecycle {
    /// A new instance and what to do first. `seed` spreads the backoff.
    pub fn new(policy: Policy, seed: u64) -> (Self, Vec<Action>) {
        let random = seed ^ 0x9e37_79b9_7f4a_7c15;
        let phase = Phase::Preparing;
        let fresh = Self {
            policy,
            phase,
            crashes: 0,
            level: 0,
            proven: false,
            restarts: 0,
            problem: None,
            random,
        };
        (fresh, vec![Action::Prepare])
    }

    /// As others see it.
    pub fn state(&self) -> InstanceState {
        match self.phase {
            Phase::Preparing
            | Phase::Launching { .. }
            | Phase::Checking { .. }
            | Phase::Waiting { .. }
            | Phase::Terminating { then: Then::Restart, .. } => InstanceState::Starting,
            Phase::Serving { .. } => InstanceState::Healthy,
            Phase::LettingGo { .. }
            | Phase::Finishing { .. }
            | Phase::Terminating { then: Then::Stop, .. } => InstanceState::Draining,
            Phase::Failed => InstanceState::Failed,
            Phase::Stopped => InstanceState::Stopped,
        }
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Why it is not healthy, or why it last was not.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        match self.phase {
            Phase::Preparing | Phase::Launching { .. } | Phase::Failed | Phase::Stopped => None,
            Phase::Checking { until, next, .. } => Some(next.map_or(until, |next| next.min(until))),
            Phase::Serving { next, .. } => next,
            Phase::LettingGo { until } | Phase::Finishing { until } | Phase::Waiting { until } => {
                Some(until)
            }
            Phase::Terminating { kill_at, .. } => Some(kill_at),
        }
    }

    /// Takes an event and says what to do. Events that do not belong to the
    /// present phase (an answer that came too late) change nothing.
    pub fn on(&mut self, event: Event, now: Millis) -> Vec<Action> {
        match event {
            Event::Prepared(result) => self.on_prepared(result, now),
            Event::Launched(result) => self.on_launched(result, now),
            Event::Exited(how) => self.on_exited(how, now),
            Event::Gone => self.on_gone(now),
            Event::Checked(result) => self.on_checked(result, now),
            Event::Drain => self.on_drain(now),
            Event::LetGo => self.on_let_go(now),
            Event::Finished if matches!(self.phase, Phase::Finishing { .. }) => {
                self.terminate(Then::Stop, now)
            }
            Event::Finished => Vec::new(),
            Event::Tick => self.on_tick(now),
        }
    }

    fn on_prepared(&mut self, result: Result<(), String>, now: Millis) -> Vec<Action> {
        if self.phase != Phase::Preparing {
            return Vec::new();
        }
        match result {
            Ok(()) => {
                self.phase = Phase::Launching { stop: false };
                vec![Action::Launch]
            }
            // A bundle that no peer could give now may be there later, so this
            // is never final.
            Err(why) => {
                self.problem = Some(why);
                self.wait(now);
                Vec::new()
            }
        }
    }

    fn on_launched(&mut self, result: Result<(), String>, now: Millis) -> Vec<Action> {
        let Phase::Launching { stop } = self.phase else {
            return Vec::new();
        };
        match result {
            Ok(()) if stop => self.terminate(Then::Stop, now),
            Ok(()) => {
                self.phase = Phase::Checking {
                    good: 0,
                    until: now + millis(self.policy.start_deadline),
                    gap: self.policy.first_check,
                    next: None,
                };
                vec![Action::Check]
            }
            Err(_) if stop => {
                self.phase = Phase::Stopped;
                Vec::new()
            }
            Err(why) => {
                self.problem = Some(why);
                self.crashed(now);
                Vec::new()
            }
        }
    }

    fn on_exited(&mut self, how: String, now: Millis) -> Vec<Action> {
        let then = match self.phase {
            Phase::Checking { .. } => Then::Restart,
            Phase::Serving { since, .. } => {
                self.remember_service(since, now);
                Then::Restart
            }
            Phase::LettingGo { .. } | Phase::Finishing { .. } => Then::Stop,
            // Its children still have the grace that they were given.
            _ => return Vec::new(),
        };
        if then == Then::Restart {
            self.problem = Some(how);
        }
        self.phase = Phase::Terminating { then, kill_at: now + RETRY_KILL };
        vec![Action::Kill]
    }

    fn on_gone(&mut self, now: Millis) -> Vec<Action> {
        match self.phase {
            Phase::Terminating { then: Then::Stop, .. } => self.phase = Phase::Stopped,
            Phase::Terminating { then: Then::Restart, .. } => self.crashed(now),
            _ => {}
        }
        Vec::new()
    }

    fn on_checked(&mut self, result: Result<(), String>, now: Millis) -> Vec<Action> {
        match (self.phase, result) {
            (Phase::Checking { good, .. }, Ok(())) if good + 1 >= self.policy.healthy_after => {
                self.crashes = 0;
                self.problem = None;
                let next = Some(now + millis(self.policy.health_interval));
                self.phase = Phase::Serving { bad: 0, since: now, next };
            }
            (Phase::Checking { good, until, gap, .. }, result) => {
                let good = if result.is_ok() { good + 1 } else { 0 };
                self.problem = result.err().or(self.problem.take());
                let next = Some(now + millis(gap));
                let gap = (gap * 2).min(self.policy.health_interval);
                self.phase = Phase::Checking { good, until, gap, next };
            }
            (Phase::Serving { since, .. }, Ok(())) => {
                self.problem = None;
                let next = Some(now + millis(self.policy.health_interval));
                self.phase = Phase::Serving { bad: 0, since, next };
            }
            (Phase::Serving { bad, since, .. }, Err(why)) => {
                let bad = bad + 1;
                if bad >= self.policy.unhealthy_after {
                    self.problem = Some(format!("failed {bad} health checks in a row: {why}"));
                    self.remember_service(since, now);
                    return self.terminate(Then::Restart, now);
                }
                self.problem = Some(why);
                let next = Some(now + millis(self.policy.health_interval));
                self.phase = Phase::Serving { bad, since, next };
            }
            _ => {}
        }
        Vec::new()
    }

    fn on_drain(&mut self, now: Millis) -> Vec<Action> {
        match self.phase {
            Phase::Preparing | Phase::Waiting { .. } | Phase::Failed => {
                self.phase = Phase::Stopped;
                Vec::new()
            }
            Phase::Launching { .. } => {
                self.phase = Phase::Launching { stop: true };
                Vec::new()
            }
            // It takes no requests, so there is nobody to ask.
            Phase::Checking { .. } => self.terminate(Then::Stop, now),
            Phase::Serving { .. } => {
                self.phase = Phase::LettingGo { until: now + millis(self.policy.let_go_timeout) };
                vec![Action::AskBalancers]
            }
            Phase::Terminating { kill_at, .. } => {
                self.phase = Phase::Terminating { then: Then::Stop, kill_at };
                Vec::new()
            }
            Phase::LettingGo { .. } | Phase::Finishing { .. } | Phase::Stopped => Vec::new(),
        }
    }

    fn on_let_go(&mut self, now: Millis) -> Vec<Action> {
        if !matches!(self.phase, Phase::LettingGo { .. }) {
            return Vec::new();
        }
        self.phase = Phase::Finishing { until: now + millis(self.policy.drain_timeout) };
        vec![Action::AwaitRequests]
    }

    fn on_tick(&mut self, now: Millis) -> Vec<Action> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        match self.phase {
            Phase::Checking { until, .. } if now >= until => {
                let last = self.problem.take().unwrap_or_else(|| "no check succeeded".into());
                let limit = self.policy.start_deadline.as_secs_f32();
                self.problem = Some(format!("not healthy within {limit} s: {last}"));
                self.terminate(Then::Restart, now)
            }
            Phase::Checking { good, until, gap, .. } => {
                self.phase = Phase::Checking { good, until, gap, next: None };
                vec![Action::Check]
            }
            Phase::Serving { bad, since, .. } => {
                self.phase = Phase::Serving { bad, since, next: None };
                vec![Action::Check]
            }
            Phase::LettingGo { .. } => self.on_let_go(now),
            Phase::Finishing { .. } => self.terminate(Then::Stop, now),
            Phase::Terminating { then, .. } => {
                self.phase = Phase::Terminating { then, kill_at: now + RETRY_KILL };
                vec![Action::Kill]
            }
            Phase::Waiting { .. } => {
                self.phase = Phase::Preparing;
                vec![Action::Prepare]
            }
            Phase::Preparing | Phase::Launching { .. } | Phase::Failed | Phase::Stopped => {
                Vec::new()
            }
        }
    }

    fn terminate(&mut self, then: Then, now: Millis) -> Vec<Action> {
        self.phase = Phase::Terminating { then, kill_at: now + millis(self.policy.term_grace) };
        vec![Action::Terminate]
    }

    fn remember_service(&mut self, since: Millis, now: Millis) {
        self.proven = now.saturating_sub(since) >= millis(self.policy.proven_after);
    }

    fn crashed(&mut self, now: Millis) {
        self.crashes += 1;
        if self.crashes >= self.policy.crashes_until_failed {
            let last = self.problem.take().unwrap_or_default();
            self.problem =
                Some(format!("{} starts in a row failed, the last: {last}", self.crashes));
            self.phase = Phase::Failed;
            return;
        }
        self.restarts = self.restarts.saturating_add(1);
        if std::mem::take(&mut self.proven) {
            self.level = 0;
            self.phase = Phase::Waiting { until: now + millis(self.policy.quick_restart) };
        } else {
            self.wait(now);
        }
    }

    /// Waits for the backoff: doubling, 20% around it, never outside its bounds.
    fn wait(&mut self, now: Millis) {
        let first = millis(self.policy.backoff_first);
        let max = millis(self.policy.backoff_max);
        let doubled = first.saturating_mul(1 << self.level.min(20)).min(max);
        self.level = (self.level + 1).min(20);
        let spread = 800 + self.next_random() % 401;
        let delay = (doubled.saturating_mul(spread) / 1000).clamp(first.min(max), max);
        self.phase = Phase::Waiting { until: now.saturating_add(delay) };
    }

    /// SplitMix64: enough to keep instances from starting in step.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;

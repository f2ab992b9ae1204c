//! Waiting for a condition, never for a length of time.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks until there is an answer.
///
/// # Panics
/// When there is none in time.
#[track_caller]
pub fn until<T>(what: &str, patience: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "gave up after {patience:?} waiting until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Asks until the answer is yes, and says how long that took.
///
/// # Panics
/// When it is not in time.
#[track_caller]
pub fn eventually(what: &str, patience: Duration, mut ask: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    until(what, patience, || ask().then_some(()));
    start.elapsed()
}

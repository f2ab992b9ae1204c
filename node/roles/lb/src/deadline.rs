//! A timer for waits that nearly always end in time.
//!
//! Arming a timer for each wait of each request would cost more than the wait.
//! This one stays armed at the earliest time that it was ever asked for, and
//! when it fires looks whether the present deadline has come.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

pub(crate) struct Deadline {
    /// Allocated by the first wait.
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Instant,
}

impl Deadline {
    pub fn new(now: Instant) -> Deadline {
        Deadline { sleep: None, armed: now }
    }

    /// Ready when `at` has passed; otherwise wakes the task by then at the
    /// latest.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else {
            self.armed = at;
            let mut sleep = Box::pin(tokio::time::sleep_until(at.into()));
            let polled = sleep.as_mut().poll(cx);
            self.sleep = Some(sleep);
            return polled;
        };
        if at < self.armed {
            self.armed = at;
            sleep.as_mut().reset(at.into());
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if at <= self.armed {
                return Poll::Ready(());
            }
            self.armed = at;
            sleep.as_mut().reset(at.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_fires_at_the_present_deadline_and_not_at_an_older_one() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut deadline = Deadline::new(start);
        let pending = poll_fn(|cx| Poll::Ready(deadline.poll_at(cx, at(60)).is_pending())).await;
        assert!(pending);
        poll_fn(|cx| deadline.poll_at(cx, at(120))).await;
        assert!(start.elapsed() >= Duration::from_millis(120));
        poll_fn(|cx| deadline.poll_at(cx, at(180))).await;
        assert!(start.elapsed() >= Duration::from_millis(180));
        let far = start + Duration::from_secs(600);
        let pending = poll_fn(|cx| Poll::Ready(deadline.poll_at(cx, far).is_pending())).await;
        assert!(pending);
        poll_fn(|cx| deadline.poll_at(cx, at(240))).await;
        assert!(start.elapsed() < Duration::from_secs(60), "it fired before the far time");
    }
}

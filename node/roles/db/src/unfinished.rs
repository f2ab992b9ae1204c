//! Connections that have not proved who they are yet: so many at most at each
//! address, and strangers cannot keep the places from others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// A connection that took longer gives its place to another when none is left.
const GRACE: Duration = Duration::from_secs(1);

/// The places of one address.
pub(crate) struct Unfinished {
    limit: usize,
    inner: Mutex<Inner>,
    left: Notify,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// By the order of coming. Dropping the sender puts the connection out.
    there: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// A place, given back when dropped.
pub(crate) struct Entry {
    places: Arc<Unfinished>,
    number: u64,
    put_out: oneshot::Receiver<()>,
}

impl Unfinished {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, inner: Mutex::default(), left: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place: until somebody has proved who it is or has gone, or until
    /// the one who is at it for longest has had its time.
    pub async fn enter(self: &Arc<Self>) -> Entry {
        loop {
            // Asked for before looking, so that nobody who leaves is missed.
            let left = self.left.notified();
            match self.try_enter() {
                Ok(entry) => return entry,
                Err(until) => drop(timeout_at(until, left).await),
            }
        }
    }

    /// A place, or when the oldest one may be taken.
    fn try_enter(self: &Arc<Self>) -> Result<Entry, Instant> {
        let now = Instant::now();
        let mut inner = self.lock();
        if inner.there.len() >= self.limit
            && let Some(oldest) = inner.there.first_entry()
        {
            let until = oldest.get().0 + GRACE;
            if now < until {
                return Err(until);
            }
            oldest.remove();
        }
        let number = inner.next;
        inner.next += 1;
        let (sender, put_out) = oneshot::channel();
        inner.there.insert(number, (now, sender));
        drop(inner);
        Ok(Entry { places: Arc::clone(self), number, put_out })
    }
}

impl Entry {
    /// Ends when another needs the place.
    pub async fn put_out(&mut self) {
        // An error says that the sender is gone, which is what is waited for.
        let _ = (&mut self.put_out).await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.places.lock().there.remove(&self.number);
        self.places.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn a_place_is_given_back_and_the_next_one_gets_it() {
        run(async {
            let places = Unfinished::new(2);
            let first = places.enter().await;
            let _second = places.enter().await;
            assert!(places.try_enter().is_err());
            let begun = Instant::now();
            let (_third, ()) = tokio::join!(places.enter(), async { drop(first) });
            assert!(begun.elapsed() < GRACE);
        });
    }

    #[test]
    fn whoever_dawdles_is_put_out_for_another_and_nobody_else_is() {
        run(async {
            let places = Unfinished::new(2);
            let mut oldest = places.enter().await;
            let mut second = places.enter().await;
            let begun = Instant::now();
            let third = places.enter().await;
            assert!(begun.elapsed() >= GRACE / 2);
            oldest.put_out().await;
            assert!(
                second.put_out.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty)
            );
            // Its place is another's already.
            drop(oldest);
            assert_eq!(places.lock().there.len(), 2);
            drop((second, third));
            assert!(places.lock().there.is_empty());
        });
    }
}

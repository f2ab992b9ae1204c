//! The right to change the file. It goes from thread to thread with the writer, so
//! it may be given back on another thread than it was taken on.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Who may change the file. Clones are the same lock.
#[derive(Clone, Default)]
pub(crate) struct WriteLock(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_held: Mutex<bool>,
    freed: Condvar,
}

/// The right itself. It is given back when this is dropped, on whatever thread.
pub(crate) struct Held(Arc<Inner>);

impl WriteLock {
    /// Waits for it.
    pub fn take(&self) -> Held {
        let held = self.0.is_held();
        let waited = self.0.freed.wait_while(held, |is_held| *is_held);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Held(Arc::clone(&self.0))
    }

    /// Takes it if nobody has it.
    pub fn take_at_once(&self) -> Option<Held> {
        let mut is_held = self.0.is_held();
        if *is_held {
            return None;
        }
        *is_held = true;
        Some(Held(Arc::clone(&self.0)))
    }
}

impl Inner {
    fn is_held(&self) -> MutexGuard<'_, bool> {
        self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.is_held() = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_at_a_time_and_may_give_it_back_elsewhere() {
        let lock = WriteLock::default();
        let held = lock.take();
        assert!(lock.take_at_once().is_none());
        let waits = std::thread::spawn({
            let lock = lock.clone();
            move || drop(lock.take())
        });
        std::thread::spawn(move || drop(held)).join().unwrap();
        waits.join().unwrap();
        assert!(lock.take_at_once().is_some());
    }
}

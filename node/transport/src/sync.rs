//! Locks of the standard library without their poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A panic elsewhere while it was locked does not matter: what these
/// locks guard is consistent after every single statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

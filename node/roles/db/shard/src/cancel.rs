//! How a caller takes a piece of work back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Cancels the read or write that it was given to. Clones cancel the same. Make a
/// new one for each statement: it cannot be taken back.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    canceled: AtomicBool,
    wakes: Notify,
}

impl Cancel {
    /// One that was not used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the work if it has not been done. It then answers
    /// [`ShardError::Canceled`](crate::ShardError::Canceled); what is committed
    /// already stays, and is answered as if nothing had happened.
    pub fn cancel(&self) {
        self.0.canceled.store(true, Ordering::Release);
        self.0.wakes.notify_waiters();
    }

    /// Whether it was used.
    pub fn is_canceled(&self) -> bool {
        self.0.canceled.load(Ordering::Acquire)
    }

    /// Returns when it is used.
    pub(crate) async fn canceled(&self) {
        let mut woken = std::pin::pin!(self.0.wakes.notified());
        woken.as_mut().enable();
        if !self.is_canceled() {
            woken.await;
        }
    }
}

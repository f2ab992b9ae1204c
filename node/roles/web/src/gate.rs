//! Whether an instance takes requests, and how many streams it has.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// The door of one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// It has no process that is healthy.
    Closed,
    Open(SocketAddr),
    /// What has begun is finished, nothing new begins.
    Draining,
}

/// Shared by the instance and by all streams to it.
#[derive(Debug)]
pub(crate) struct Gate {
    door: watch::Sender<Door>,
    streams: AtomicUsize,
    left: Notify,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            door: watch::channel(Door::Closed).0,
            streams: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }

    pub fn set(&self, door: Door) {
        self.door.send_if_modified(|now| std::mem::replace(now, door) != door);
    }

    pub fn door(&self) -> Door {
        *self.door.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Door> {
        self.door.subscribe()
    }

    /// Counts a stream in. To be called before the door is looked at, so that
    /// whoever closes the door and then counts misses none.
    pub fn enter(&self) -> Entered<'_> {
        self.streams.fetch_add(1, Ordering::SeqCst);
        Entered(self)
    }

    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::SeqCst)
    }

    /// Resolves when there is no stream.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.streams() == 0 {
                return;
            }
            left.await;
        }
    }
}

/// A stream that is counted until this is dropped.
pub(crate) struct Entered<'a>(&'a Gate);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.left.notify_waiters();
        }
    }
}

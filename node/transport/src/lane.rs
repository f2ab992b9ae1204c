//! One ordered lane of a connection: frames are collected in a bounded buffer
//! and written many at a time.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use crate::frame::{Frame, MAX_HEADER, put_frame};
use crate::sync::lock;

/// The two lanes to a peer. Each is in order; a slow one does not hold up the
/// other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lane {
    /// Consensus, leases, membership: small and urgent.
    Control,
    /// Everything else.
    Calls,
}

impl Lane {
    /// Both, in the order of [`Lane::index`].
    pub const ALL: [Lane; 2] = [Lane::Control, Lane::Calls];

    /// Its place in arrays of one entry for each lane, and its number on the
    /// wire.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushError {
    /// The buffer is full; nothing was taken.
    Full,
    /// The connection has ended; nothing was taken.
    Closed,
}

/// The frames on their way to one lane of one connection.
pub(crate) struct Outbox {
    state: Mutex<OutboxState>,
    /// Bytes that may wait; one frame may exceed it when nothing waits.
    limit: usize,
    filled: Notify,
    drained: Notify,
}

struct OutboxState {
    bytes: BytesMut,
    closed: bool,
}

impl Outbox {
    pub(crate) fn new(limit: usize) -> Self {
        let state = OutboxState { bytes: BytesMut::new(), closed: false };
        Self { state: Mutex::new(state), limit, filled: Notify::new(), drained: Notify::new() }
    }

    /// Appends a frame whose body has `body` bytes, without waiting.
    pub(crate) fn push(&self, frame: &Frame, body: usize) -> Result<(), PushError> {
        let was_empty = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(PushError::Closed);
            }
            let was_empty = state.bytes.is_empty();
            if !was_empty && state.bytes.len() + body + MAX_HEADER > self.limit {
                return Err(PushError::Full);
            }
            put_frame(frame, &mut state.bytes);
            was_empty
        };
        // The writer sleeps only while there is nothing to write.
        if was_empty {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Appends a frame, waiting for room. False when the connection has ended.
    pub(crate) async fn push_when_room(&self, frame: &Frame, body: usize) -> bool {
        loop {
            let drained = self.drained.notified();
            let mut drained = std::pin::pin!(drained);
            // Registered before the attempt, so that a drain between the two is
            // not missed.
            drained.as_mut().enable();
            match self.push(frame, body) {
                Ok(()) => return true,
                Err(PushError::Closed) => return false,
                Err(PushError::Full) => drained.await,
            }
        }
    }

    /// Everything that waits; nothing when the connection has ended.
    async fn take(&self) -> Option<Bytes> {
        loop {
            {
                let mut state = lock(&self.state);
                if state.closed {
                    return None;
                }
                if !state.bytes.is_empty() {
                    let batch = state.bytes.split().freeze();
                    drop(state);
                    self.drained.notify_waiters();
                    return Some(batch);
                }
            }
            self.filled.notified().await;
        }
    }

    /// Refuses everything from now on and drops what waits.
    pub(crate) fn close(&self) {
        {
            let mut state = lock(&self.state);
            state.closed = true;
            state.bytes = BytesMut::new();
        }
        self.filled.notify_one();
        self.drained.notify_waiters();
    }

    /// Bytes waiting, for metrics.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).bytes.len()
    }

    /// Writes what is pushed until the connection ends.
    pub(crate) async fn write_to(&self, mut stream: quinn::SendStream) {
        while let Some(batch) = self.take().await {
            if stream.write_chunk(batch).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(body: &'static [u8]) -> Frame {
        Frame::Post { service: 1, body: Bytes::from_static(body) }
    }

    #[test]
    fn a_full_outbox_takes_one_frame_when_nothing_waits_and_none_beside_it() {
        let outbox = Outbox::new(20);
        let large = post(&[0; 100]);
        assert_eq!(outbox.push(&large, 100), Ok(()));
        assert_eq!(outbox.push(&post(b"x"), 1), Err(PushError::Full));
        outbox.close();
        assert_eq!(outbox.push(&post(b"x"), 1), Err(PushError::Closed));
    }

    #[tokio::test]
    async fn one_who_waits_for_room_goes_on_when_the_outbox_is_drained_or_closed() {
        let outbox = std::sync::Arc::new(Outbox::new(20));
        assert_eq!(outbox.push(&post(b"first"), 5), Ok(()));
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move {
                let second = post(&[0; 100]);
                let taken = outbox.push_when_room(&second, 100).await;
                (taken, outbox.push_when_room(&second, 100).await)
            }
        });
        let first = outbox.take().await.unwrap();
        let second = outbox.take().await.unwrap();
        assert!(first.len() < second.len());
        outbox.close();
        let (taken, _) = waiting.await.unwrap();
        assert!(taken);
        assert_eq!(outbox.take().await, None);
    }
}

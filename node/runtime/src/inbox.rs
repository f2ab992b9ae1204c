//! Bounded inboxes in front of unbounded mailboxes.
//!
//! A message takes a place of its inbox until it has been handled or dropped, so
//! that what waits in the mailbox behind it is bounded too. The inbox outlives
//! the actor: a restarted one attaches itself again. What waited for the former
//! life is lost, as messages are delivered at most once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::ActorRef;
use tokio::sync::mpsc;

/// Why a message was not taken; it is given back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError<M> {
    #[error("the inbox is full with {capacity} messages; try again later")]
    Full { message: M, capacity: u64 },
    #[error("the actor is not running now")]
    NotRunning(M),
}

impl<M> SendError<M> {
    /// The message.
    pub fn into_message(self) -> M {
        match self {
            SendError::Full { message, .. } | SendError::NotRunning(message) => message,
        }
    }
}

/// How full an inbox is.
#[derive(Debug)]
pub(crate) struct Gauge {
    capacity: u64,
    depth: AtomicU64,
    handled: AtomicU64,
}

impl Gauge {
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn depth(&self) -> u64 {
        self.depth.load(Ordering::Relaxed)
    }

    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    fn take_place(self: &Arc<Self>) -> Option<Place> {
        let free = |depth| (depth < self.capacity).then_some(depth + 1);
        self.depth.fetch_update(Ordering::AcqRel, Ordering::Relaxed, free).ok()?;
        Some(Place { gauge: self.clone() })
    }
}

/// A place in an inbox, given back when dropped.
#[derive(Debug)]
struct Place {
    gauge: Arc<Gauge>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.depth.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A message and the place it takes.
#[derive(Debug)]
pub struct Envelope<M> {
    message: M,
    place: Place,
}

impl<M> Envelope<M> {
    /// Takes the message out; it counts as handled and its place is free.
    pub fn open(self) -> M {
        self.place.gauge.handled.fetch_add(1, Ordering::Relaxed);
        self.message
    }
}

/// Where an inbox delivers to.
enum Target<M> {
    Nobody,
    Actor(ActorRef<Envelope<M>>),
    Task(mpsc::UnboundedSender<Envelope<M>>),
}

/// The bounded entrance of an actor or task. Clones are the same inbox.
pub struct Inbox<M> {
    gauge: Arc<Gauge>,
    target: Arc<Mutex<Target<M>>>,
}

impl<M> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Self { gauge: self.gauge.clone(), target: self.target.clone() }
    }
}

/// What a task reads its inbox with.
pub struct InboxReceiver<M> {
    receiver: mpsc::UnboundedReceiver<Envelope<M>>,
}

impl<M> InboxReceiver<M> {
    /// The next message; `None` when another life has taken over the inbox or
    /// the inbox is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<M> {
        self.receiver.recv().await.map(Envelope::open)
    }

    /// From now on senders are told that the actor is not running; what waits
    /// already can still be received.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

impl<M: Send + 'static> Inbox<M> {
    /// An inbox of `capacity` messages that nobody reads yet.
    pub fn new(capacity: usize) -> Self {
        let (depth, handled) = (AtomicU64::new(0), AtomicU64::new(0));
        let gauge = Arc::new(Gauge { capacity: capacity as u64, depth, handled });
        Self { gauge, target: Arc::new(Mutex::new(Target::Nobody)) }
    }

    /// From now on messages go to this actor; called in its `pre_start`.
    pub fn attach_actor(&self, actor: ActorRef<Envelope<M>>) {
        self.attach(Target::Actor(actor));
    }

    /// From now on messages go to the task that holds the receiver.
    pub fn attach_task(&self) -> InboxReceiver<M> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.attach(Target::Task(sender));
        InboxReceiver { receiver }
    }

    fn attach(&self, target: Target<M>) {
        let former = {
            let mut current = self.target.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, target)
        };
        drop(former);
    }

    /// Puts a message in, without waiting.
    ///
    /// # Errors
    /// When the inbox is full or its actor is not running.
    pub fn try_send(&self, message: M) -> Result<(), SendError<M>> {
        let Some(place) = self.gauge.take_place() else {
            return Err(SendError::Full { message, capacity: self.gauge.capacity });
        };
        let envelope = Envelope { message, place };
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match &*target {
            Target::Nobody => Some(envelope),
            Target::Task(sender) => sender.send(envelope).err().map(|error| error.0),
            Target::Actor(actor) => match actor.send_message(envelope) {
                Ok(()) => None,
                Err(ractor::MessagingErr::SendErr(envelope)) => Some(envelope),
                // The envelope was dropped, which does not happen to a typed
                // reference of the right type.
                Err(_) => None,
            },
        };
        refused.map_or(Ok(()), |envelope| Err(SendError::NotRunning(envelope.message)))
    }

    /// Messages that wait or are being handled.
    pub fn depth(&self) -> u64 {
        self.gauge.depth()
    }

    pub(crate) fn gauge(&self) -> Arc<Gauge> {
        self.gauge.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_inbox_refuses_and_gives_the_message_back() {
        let inbox = Inbox::new(2);
        assert_eq!(inbox.try_send(0), Err(SendError::NotRunning(0)));
        assert_eq!(inbox.depth(), 0, "a refused message takes no place");
        let mut receiver = inbox.attach_task();
        inbox.try_send(1).unwrap();
        inbox.try_send(2).unwrap();
        assert_eq!(inbox.try_send(3), Err(SendError::Full { message: 3, capacity: 2 }));
        assert_eq!(receiver.recv().await, Some(1));
        inbox.try_send(3).unwrap();
        assert_eq!((inbox.depth(), inbox.gauge().handled()), (2, 1));
        // A new life does not see what waited for the former one.
        let mut next = inbox.attach_task();
        assert_eq!((receiver.recv().await, receiver.recv().await), (Some(2), Some(3)));
        assert_eq!(receiver.recv().await, None);
        inbox.try_send(4).unwrap();
        assert_eq!(next.recv().await, Some(4));
        inbox.try_send(5).unwrap();
        drop(next);
        assert_eq!(inbox.depth(), 0, "what died with its reader takes no place");
        assert_eq!(inbox.try_send(6).unwrap_err().into_message(), 6);
    }
}

//! The supervised actors of a node, for `ctl top`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rung_proto::Role;
use rung_proto::soft::ActorStatus;

use crate::inbox::{Gauge, Inbox};

/// Every supervised child by name, with its inbox if it has one.
#[derive(Default)]
pub struct Actors {
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    role: Option<Role>,
    gauge: Option<Arc<Gauge>>,
    restarts: u32,
}

impl Actors {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// An inbox of `capacity` messages for the child of that name. It outlives
    /// the lives of the child.
    pub fn inbox<M: Send + 'static>(
        &self,
        name: &str,
        role: Option<Role>,
        capacity: usize,
    ) -> Inbox<M> {
        let inbox = Inbox::new(capacity);
        self.change(name, |entry| {
            entry.role = role;
            entry.gauge = Some(inbox.gauge());
        });
        inbox
    }

    /// What `ctl top` shows, by name.
    pub fn status(&self) -> Vec<ActorStatus> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|(name, entry)| entry.status(name)).collect()
    }

    pub(crate) fn started(&self, name: &str, role: Option<Role>, restarts: u32) {
        self.change(name, |entry| {
            entry.role = role;
            entry.restarts = restarts;
        });
    }

    pub(crate) fn remove(&self, name: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        change(entries.entry(name.to_owned()).or_default());
    }
}

impl Entry {
    fn status(&self, name: &str) -> ActorStatus {
        let gauge = self.gauge.as_deref();
        ActorStatus {
            name: name.to_owned(),
            role: self.role,
            depth: gauge.map_or(0, Gauge::depth),
            capacity: gauge.map_or(0, Gauge::capacity),
            handled: gauge.map_or(0, Gauge::handled),
            restarts: self.restarts,
        }
    }
}

//! The control group's state machine: applies proposals and tells those who follow.

use std::io::{self, Read};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use rung_consensus::{Committed, SnapshotSource, StateMachine};
use rung_control_plane::secrets::Secrets;
use rung_control_plane::{Delta, Machine, Outcome, Proposal, State};
use rung_proto::{Code, Failure, encoding};
use tokio::sync::{broadcast, watch};

/// Deltas that a slow follower may be behind before it is sent the whole state.
const DELTAS: usize = 256;
/// The largest snapshot of the control state that is read.
const MAX_SNAPSHOT: u64 = 256 << 20;

/// What the state machine publishes.
#[derive(Clone)]
pub struct Published {
    /// The newest state that this node knows, by its own log or by following.
    pub state: watch::Sender<Arc<State>>,
    /// What each entry changed; only where the log is.
    pub deltas: broadcast::Sender<Arc<Delta>>,
    /// Only where the log is.
    pub secrets: Arc<RwLock<Secrets>>,
}

impl Published {
    pub fn new(state: State) -> Self {
        Self {
            state: watch::Sender::new(Arc::new(state)),
            deltas: broadcast::Sender::new(DELTAS),
            secrets: Arc::default(),
        }
    }

    /// The newest state.
    pub fn current(&self) -> Arc<State> {
        self.state.borrow().clone()
    }
}

/// The control group's replica on this node.
pub struct ControlMachine {
    machine: Machine,
    published: Published,
}

impl ControlMachine {
    pub fn new(published: Published) -> Self {
        Self { machine: Machine::default(), published }
    }

    fn publish(&self) {
        match self.published.secrets.write() {
            Ok(mut secrets) => secrets.clone_from(&self.machine.secrets),
            Err(poisoned) => poisoned.into_inner().clone_from(&self.machine.secrets),
        }
        // A node that joins the group may already know more by following than
        // the log that it is just being sent; the state never goes back.
        self.published.state.send_if_modified(|state| {
            let newer = self.machine.state.is_newer_than(state);
            if newer {
                *state = Arc::new(self.machine.state.clone());
            }
            newer
        });
    }
}

impl StateMachine for ControlMachine {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let outcome: Outcome = match encoding::decode::<Proposal>(&entry.payload) {
                Ok(proposal) => {
                    let (outcome, delta) = self.machine.apply(entry.index, &proposal);
                    // Nobody follows, or they take the whole state when they do.
                    let _ = self.published.deltas.send(Arc::new(delta));
                    outcome
                }
                Err(error) => Err(Failure::new(
                    Code::DataNewer,
                    "an entry of the control log is not understood",
                )
                .because(error)
                .next("upgrade this node")),
            };
            answers.push(Bytes::from(encoding::encode(&outcome)));
        }
        self.publish();
        Ok(answers)
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        Ok(Box::new(io::Cursor::new(encoding::encode(&self.machine))))
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        source.take(MAX_SNAPSHOT).read_to_end(&mut bytes)?;
        let machine: Machine = encoding::decode(&bytes).map_err(io::Error::other)?;
        if machine.state.format > rung_control_plane::state::FORMAT {
            return Err(io::Error::other(format!(
                "the control state has format {}, newer than this build",
                machine.state.format
            )));
        }
        self.machine = machine;
        self.publish();
        Ok(())
    }
}

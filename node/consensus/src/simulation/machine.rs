//! What the simulated group replicates: registers, and a witness of the order
//! in which entries were applied.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rung_proto::encoding;
use serde::{Deserialize, Serialize};

use super::checker::Ledger;
use crate::state_machine::{
    Arrival, Committed, Landed, Landing, OwnCopy, SnapshotSource, StateMachine,
};
use crate::status::Position;

/// A write of a value that no other write has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Command {
    pub key: u64,
    /// Names the proposal; it is never used twice.
    pub id: u64,
}

/// The state: the last write of each key, and a digest of all that was applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Registers {
    /// The id and the index of the last write of each key.
    pub last: BTreeMap<u64, (u64, u64)>,
    /// The index of the last command.
    pub index: u64,
    /// The term of the last command.
    pub term: u64,
    /// A hash over all commands in their order.
    pub digest: u64,
    /// Makes snapshots larger than one chunk from time to time.
    padding: Vec<u8>,
}

fn mix(digest: u64, value: u64) -> u64 {
    let mixed = (digest ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

impl Registers {
    fn apply(&mut self, index: u64, term: u64, command: Command) {
        self.last.insert(command.key, (command.id, index));
        self.index = index;
        self.term = term;
        for value in [index, term, command.key, command.id] {
            self.digest = mix(self.digest, value);
        }
    }
}

/// The registers of one node, readable by its clients.
pub(super) type Shared = Arc<Mutex<Registers>>;

/// How many commands a machine that keeps its state applies between two savings.
const UNSAVED: u64 = 25;

/// What a machine that keeps its state by itself has on its disk.
pub(super) type Saved = Arc<Mutex<(Registers, Option<Position>)>>;

/// The state that a machine keeps by itself.
pub(super) struct Own {
    saved: Saved,
    current: Option<Position>,
    unsaved: u64,
    /// A node that has crashed saves nothing any more.
    alive: Arc<AtomicBool>,
    /// What it has only applied it calls durable.
    lies: bool,
}

impl Own {
    pub(super) fn new(saved: Saved, alive: Arc<AtomicBool>, lies: bool) -> Self {
        let current = saved.lock().unwrap().1;
        Self { saved, current, unsaved: 0, alive, lies }
    }

    fn applied(&mut self, state: &Registers, at: Position) {
        self.current = Some(at);
        self.unsaved += 1;
        if self.unsaved >= UNSAVED {
            self.save(state);
        }
    }

    fn save(&mut self, state: &Registers) {
        self.unsaved = 0;
        if self.alive.load(Ordering::Relaxed) {
            *self.saved.lock().unwrap() = (state.clone(), self.current);
        }
    }

    fn copy(&self) -> OwnCopy {
        let durable = if self.lies { self.current } else { self.saved.lock().unwrap().1 };
        OwnCopy { durable, current: self.current }
    }
}

/// Applies commands and tells the ledger what it applied.
pub(super) struct Machine {
    pub state: Shared,
    pub ledger: Arc<Mutex<Ledger>>,
    pub own: Option<Own>,
}

impl StateMachine for Machine {
    fn apply(&mut self, entries: &[Committed]) -> io::Result<Vec<Bytes>> {
        let mut state = self.state.lock().unwrap();
        let mut ledger = self.ledger.lock().unwrap();
        let mut answers = Vec::new();
        for entry in entries {
            let command: Command = encoding::decode(&entry.payload).map_err(io::Error::other)?;
            state.apply(entry.index, entry.term, command);
            ledger.applied(entry.index, entry.term, command, state.digest);
            if let Some(own) = &mut self.own {
                own.applied(&state, Position { term: entry.term, index: entry.index });
            }
            answers.push(Bytes::from(encoding::encode(&command.id)));
        }
        Ok(answers)
    }

    fn snapshot(&mut self) -> io::Result<SnapshotSource> {
        let copy = encoding::encode(&*self.state.lock().unwrap());
        Ok(Box::new(io::Cursor::new(copy)))
    }

    fn restore(&mut self, source: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        self.replace(&bytes)
    }

    fn own_copy(&self) -> Option<OwnCopy> {
        self.own.as_ref().map(Own::copy)
    }

    fn landing(&self) -> Option<Arc<dyn Landing>> {
        self.own.as_ref().map(|_| Arc::new(Field) as Arc<dyn Landing>)
    }

    fn take_over(&mut self, landed: Landed) -> io::Result<()> {
        let bytes = landed.downcast::<Vec<u8>>().map_err(|_| io::Error::other("not a state"))?;
        self.replace(&bytes)
    }
}

/// Where states land: nowhere in particular, since a crash leaves nothing of them.
struct Field;

impl Landing for Field {
    fn begin(&self) -> io::Result<Box<dyn Arrival>> {
        Ok(Box::new(Bytewise(Vec::new())))
    }
}

struct Bytewise(Vec<u8>);

impl Arrival for Bytewise {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<Landed> {
        Ok(Box::new(self.0))
    }
}

impl Machine {
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let restored: Registers = encoding::decode(bytes).map_err(io::Error::other)?;
        self.ledger.lock().unwrap().restored(&restored);
        if let Some(own) = &mut self.own {
            own.current = Some(Position { term: restored.term, index: restored.index });
            own.save(&restored);
        }
        *self.state.lock().unwrap() = restored;
        Ok(())
    }
}

//! What the simulated group replicates: registers, and a witness of the order
//! in which entries were applied.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rung_proto::encoding;
use serde::{Deserialize, Serialize};

use super::checker::Ledger;
use crate::state_machine::{Committed, SnapshotSource, StateMachine};

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
        for value in [index, term, command.key, command.id] {
            self.digest = mix(self.digest, value);
        }
    }
}

/// The registers of one node, readable by its clients.
pub(super) type Shared = Arc<Mutex<Registers>>;

/// Applies commands and tells the ledger what it applied.
pub(super) struct Machine {
    pub state: Shared,
    pub ledger: Arc<Mutex<Ledger>>,
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
        let restored: Registers = encoding::decode(&bytes).map_err(io::Error::other)?;
        self.ledger.lock().unwrap().restored(&restored);
        *self.state.lock().unwrap() = restored;
        Ok(())
    }
}

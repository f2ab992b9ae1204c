//! What clocks, chance and sequences gave while something was executed, so that it can be
//! executed once more with the same.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;

use crate::{SqlError, SqlState};

/// What was given, in the order in which it was asked for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tape {
    values: VecDeque<Value>,
    /// Something was asked for that cannot be taken back.
    refused: bool,
}

impl Tape {
    /// Whether something was asked for that cannot be executed twice: it failed.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

/// What happens to what functions ask for.
#[derive(Debug, Default)]
enum Mode {
    /// Nothing: it is executed once.
    #[default]
    Off,
    Records(Tape),
    Plays(Tape),
}

/// The tape of what a connection executes now, for its functions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Mode>>);

/// Ends recording or playing, also when what is executed panics.
pub(crate) struct Running(Recorder);

impl Recorder {
    fn change(&self, to: Mode) -> Mode {
        let mut mode = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut mode, to)
    }

    pub fn record(&self) -> Running {
        self.change(Mode::Records(Tape::default()));
        Running(self.clone())
    }

    pub fn play(&self, tape: &Tape) -> Running {
        self.change(Mode::Plays(tape.clone()));
        Running(self.clone())
    }

    /// The next value of the tape, if one is played. Where it has none left, what is
    /// executed goes another way than when it was recorded, and is not kept.
    pub fn next(&self) -> Option<Value> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Mode::Plays(tape) => tape.values.pop_front(),
            Mode::Off | Mode::Records(_) => None,
        }
    }

    /// Keeps what was given, if it is recorded.
    pub fn keep(&self, value: &Value) {
        if let Mode::Records(tape) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            tape.values.push_back(value.clone());
        }
    }

    /// What has effects that nobody can take back is not executed while it is recorded.
    pub fn once(&self) -> Result<(), SqlError> {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Mode::Records(tape) => {
                tape.refused = true;
                Err(SqlError::new(SqlState::INTERNAL, "this cannot be executed twice"))
            }
            Mode::Off | Mode::Plays(_) => Ok(()),
        }
    }
}

impl Running {
    /// What was recorded, or is left of what was played.
    pub fn end(self) -> Tape {
        match self.0.change(Mode::Off) {
            Mode::Records(tape) | Mode::Plays(tape) => tape,
            Mode::Off => Tape::default(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(Mode::Off);
    }
}

//! What a transaction has done in its draft, and how that is done again.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rung_sql::{Executor, SqlError, Tape};

use crate::changes::{ChangeLog, Changed, Changes, Row};
use crate::core::Core;
use crate::error::ShardError;

/// A part that was executed.
pub(crate) struct Step {
    pub key: u64,
    pub tape: Tape,
    pub outcome: Result<u64, Box<SqlError>>,
    /// It changed nothing, and need not come to the same again if nobody has changed what the
    /// transaction has.
    pub is_let_go: bool,
    /// The rows that it has changed, of those that were not new to the transaction, in order.
    pub changed: Vec<Row>,
    /// Never locked: it makes what holds a transaction `Sync`.
    pub again: Mutex<Box<Again>>,
}

pub(crate) type Again = dyn FnMut(&mut Executor) -> Result<u64, Box<SqlError>> + Send;

/// What was executed on the snapshot, to be executed by the writer.
pub(crate) struct Steps {
    core: Arc<Core>,
    steps: Vec<Step>,
    /// How long it took.
    pub spent: Duration,
    /// Rows that were changed, of those that were there before, and those that were not.
    changed: HashSet<Row>,
    inserted: HashSet<Row>,
    /// What was changed depends on what others may change, or cannot be claimed: what is
    /// read from now on must come to the same again.
    is_open: bool,
    /// In a later snapshot it came to other rows: nothing is let go.
    is_shaken: bool,
    claim: Arc<Claim>,
    _open: Open,
}

/// Counts drafts that have not ended, for whom a hand-over waits.
struct Open {
    core: Arc<Core>,
    number: u64,
}

impl Open {
    fn new(core: &Arc<Core>, number: u64) -> Self {
        core.drafts.fetch_add(1, Ordering::SeqCst);
        Self { core: Arc::clone(core), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.under_way.rests(self.number);
        self.core.drafts.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The claims of one transaction, until this is dropped.
pub(crate) struct Claim {
    core: Arc<Core>,
    number: u64,
}

impl Claim {
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.core.claims.release(self.number);
    }
}

impl Steps {
    pub fn new(core: &Arc<Core>) -> Self {
        let number = core.claims.register();
        let claim = Claim { core: Arc::clone(core), number };
        Self {
            core: Arc::clone(core),
            steps: Vec::new(),
            spent: Duration::ZERO,
            changed: HashSet::new(),
            inserted: HashSet::new(),
            is_open: false,
            is_shaken: false,
            claim: Arc::new(claim),
            _open: Open::new(core, number),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// What it has claimed, to be held until its changes are where others find them.
    pub fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Rows that were changed and were there before.
    pub fn changed(&self) -> &HashSet<Row> {
        &self.changed
    }

    /// Of the rows that a part has changed, those that were there before.
    pub fn old_rows(&self, changes: &Changes) -> Option<Vec<Row>> {
        let Changed::Rows(rows) = &changes.changed else { return None };
        let is_old = |row: &Row| !self.inserted.contains(row) && !changes.inserted.contains(row);
        let mut rows: Vec<Row> = rows.iter().copied().filter(is_old).collect();
        rows.sort_unstable();
        Some(rows)
    }

    /// All will be done in another draft, where other rows are new.
    pub fn forget_inserted(&mut self) {
        self.inserted.clear();
    }

    /// Notes what a part has changed in the draft. Gives the rows that are not new, in order.
    pub fn note(&mut self, changes: Changes) -> Vec<Row> {
        let rows = self.old_rows(&changes);
        self.inserted.extend(changes.inserted);
        self.is_open |= changes.misses || rows.is_none();
        let rows = rows.unwrap_or_default();
        self.changed.extend(&rows);
        rows
    }

    /// What was written depends on more than the rows that were changed.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// Whether what is read from now on may be let go, with what was changed being claimed.
    pub fn may_let_go(&self) -> bool {
        !self.is_open && !self.repeats_all()
    }

    fn repeats_all(&self) -> bool {
        self.is_shaken || self.core.claims.is_broken(self.claim.number)
    }

    /// Executes all of it once more, in a transaction of the writer's or in a new draft.
    /// What was let go is left out, while what is changed is what was changed before
    /// and nobody else has changed it since it was claimed: then they are what they were, in
    /// all that is the transaction's own.
    ///
    /// # Errors
    /// [`ShardError::Changed`], or the error that a statement has only now.
    pub fn again(&mut self, executor: &mut Executor, log: &ChangeLog) -> Result<(), ShardError> {
        let mut repeats = self.repeats_all();
        for step in &mut self.steps {
            if step.is_let_go && !repeats {
                continue;
            }
            let mark = log.mark();
            let again = step.again.get_mut().unwrap_or_else(PoisonError::into_inner);
            let outcome = executor.playing(&step.tape, again);
            if outcome != step.outcome && !self.core.config.skips_validation() {
                self.core.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                self.core.contention().add(step.key, Instant::now());
                return Err(match outcome {
                    Err(error) => ShardError::Refused(error),
                    Ok(_) => ShardError::Changed,
                });
            }
            repeats |= log.since(mark).as_ref() != Some(&step.changed);
        }
        self.is_shaken = repeats;
        Ok(())
    }
}

//! Every copy's side: committed entries take effect, or are skipped.

use crate::entry::Entry;
use crate::error::PagesError;
use crate::overlay::{MOST_IMAGES, Overlay};
use crate::plan::{Decision, Plan};
use crate::position::Position;
use crate::spool::Pending;
use crate::store::PageStore;
use crate::write::write_commit;

/// What became of an entry. It is the same on every copy, but for `Settled`, which
/// the others know as `Applied`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It took effect.
    Applied(Position),
    /// It took effect; this copy had captured it.
    Settled(Position),
    /// It had no effect and never will: it starts from another position. If it is
    /// this copy's own, its clients' transactions are lost.
    Skipped,
    /// A part of a commit that takes effect with its last part.
    Part,
}

/// An entry and what is to be done with it.
struct Step<'a> {
    index: u64,
    entry: Entry<'a>,
    bytes: &'a [u8],
    decision: Decision,
    /// What is in flight must be undone first.
    undo: bool,
    /// The position, and the parts kept, after it.
    position: Position,
    pending: Option<Pending>,
}

impl PageStore {
    /// Applies committed entries, given with their log indexes, in the order of the
    /// log; every entry of the group on every copy, the primary's included. What
    /// this copy has captured itself is settled; the first thing that takes its
    /// place undoes all that is in flight. Many entries at once are cheaper than
    /// one by one.
    ///
    /// Nothing may commit on the writer's connection meanwhile.
    ///
    /// # Errors
    /// After [`PagesError::WriterBusy`] nothing has changed. After
    /// [`PagesError::DiskFull`] those up to [`PageStore::applied_index`] were
    /// applied, and the rest can be given again. After the others this copy cannot
    /// go on.
    pub fn apply(&mut self, entries: &[(u64, &[u8])]) -> Result<Vec<Outcome>, PagesError> {
        self.usable()?;
        let steps = match self.plan(entries) {
            Err(error @ PagesError::OutOfOrder { .. }) => return Err(error),
            other => self.breaking(other)?,
        };
        let writes = |step: &Step<'_>| step.undo || matches!(step.decision, Decision::Write { .. });
        if steps.iter().any(writes) {
            Overlay::begin(&self.applier, &self.index, &self.images)?;
        }
        let done = self.carry_out(&steps);
        match done {
            Err(error @ (PagesError::WriterBusy | PagesError::DiskFull(_))) => Err(error),
            other => self.breaking(other),
        }?;
        Ok(steps.iter().map(Step::outcome).collect())
    }

    /// Whether applying these entries writes no more than so many pages, beside settling what
    /// this copy has captured, which neither reads nor writes a file.
    pub fn writes_at_most(&self, pages: usize, entries: &[(u64, &[u8])]) -> bool {
        let Ok(steps) = self.plan(entries) else { return false };
        let is_plain = |step: &Step<'_>| {
            !step.undo && matches!(step.decision, Decision::Settle | Decision::Write { .. })
        };
        self.usable().is_ok()
            && steps.iter().all(is_plain)
            && steps.iter().map(Step::pages).sum::<usize>() <= pages
    }

    fn plan<'a>(&self, entries: &[(u64, &'a [u8])]) -> Result<Vec<Step<'a>>, PagesError> {
        let captured = self.in_flight.iter().filter_map(|one| one.entry.as_ref());
        let in_flight = captured.map(|entry| entry.position).collect();
        let failed = self.in_flight.back().is_some_and(|last| last.entry.is_none());
        let uncaptured = failed || self.deferred;
        let mut plan = Plan::new(self.position, self.spool.pending, in_flight, uncaptured);
        plan.unchecked = self.faults().skip_parent_check;
        let mut applied = self.applied_index;
        let mut steps = Vec::with_capacity(entries.len());
        for &(index, bytes) in entries {
            if index <= applied {
                return Err(PagesError::OutOfOrder { index, applied });
            }
            applied = index;
            let entry =
                Entry::decode(bytes).map_err(|source| PagesError::Entry { index, source })?;
            let (decision, undo) = plan.decide(index, &entry, bytes);
            let (position, pending) = (plan.position, plan.pending);
            steps.push(Step { index, entry, bytes, decision, undo, position, pending });
        }
        Ok(steps)
    }

    /// Carries steps out, in as few transactions as memory allows.
    fn carry_out(&mut self, steps: &[Step<'_>]) -> Result<(), PagesError> {
        let (mut start, mut weight) = (0, 0);
        for (at, step) in steps.iter().enumerate() {
            let more = step.pages();
            if step.undo || (weight > 0 && weight + more > MOST_IMAGES) {
                self.carry_out_together(&steps[start..at])?;
                (start, weight) = (at, 0);
            }
            if step.undo {
                self.undo()?;
            }
            weight += more;
        }
        self.carry_out_together(&steps[start..])
    }

    fn carry_out_together(&mut self, steps: &[Step<'_>]) -> Result<(), PagesError> {
        let Some(last) = steps.last() else { return Ok(()) };
        let mut overlay = None;
        for step in steps {
            match (step.decision, &step.entry) {
                (Decision::Keep, Entry::Pages(part)) => self
                    .spool
                    .add(part.part, step.pending.map_or(0, |one| one.first_index), step.bytes)
                    .map_err(PagesError::io("keep a part of a commit in", &self.dir))?,
                (Decision::Write { kept }, Entry::Pages(part)) => {
                    let overlay = match &mut overlay {
                        Some(overlay) => overlay,
                        none => {
                            none.insert(Overlay::begin(&self.applier, &self.index, &self.images)?)
                        }
                    };
                    write_commit(overlay, part, &self.spool, kept)?;
                }
                _ => {}
            }
        }
        let wrote = overlay.is_some();
        overlay.map_or(Ok(()), Overlay::commit)?;
        let settled = steps.iter().filter(|step| step.decision == Decision::Settle);
        let settled = self.in_flight.drain(..settled.count()).next_back();
        self.position = last.position;
        self.applied_index = last.index;
        self.spool.set(last.pending);
        if wrote {
            let committed = self.after_write();
            return self.breaking(committed);
        }
        let settled = settled.and_then(|one| Some(one.entry?.snapshot));
        self.set_gate(settled.or_else(|| self.gate.state().snapshot.clone()));
        Ok(())
    }

    /// Takes in what was just written, and lets readers see it.
    pub(crate) fn after_write(&mut self) -> Result<(), PagesError> {
        self.absorb()?;
        self.writer.0 += 1;
        let snapshot = self.take_snapshot()?;
        self.set_gate(Some(snapshot));
        Ok(())
    }
}

impl Step<'_> {
    /// About how many pages it writes.
    fn pages(&self) -> usize {
        match (&self.entry, self.decision) {
            (Entry::Pages(part), Decision::Write { kept: None }) => part.pages.len(),
            (Entry::Pages(part), Decision::Write { .. }) => {
                part.parts as usize * crate::MAX_PART_PAGES
            }
            _ => 0,
        }
    }

    fn outcome(&self) -> Outcome {
        match self.decision {
            Decision::Skip => Outcome::Skipped,
            Decision::Keep => Outcome::Part,
            Decision::Settle => Outcome::Settled(self.position),
            Decision::Write { .. } | Decision::Barrier => Outcome::Applied(self.position),
        }
    }
}

//! Commands that start operations and move them on.

use rung_proto::api::{OperationState, StepState};
use rung_proto::{Code, Failure, OperationId};

use super::{Attempt, refuse};
use crate::command::{Answer, Command, Outcome};
use crate::operation::{NewOperation, OperationRecord, StepUpdate};
use crate::state::{MAX_FINISHED_OPERATIONS, Update};

impl Attempt<'_> {
    pub(super) fn start_operation(&mut self, new: &NewOperation, depth: usize) -> Outcome {
        let busy = self.machine.state.operations.values().find(|running| {
            !running.state.is_finished()
                && running.subjects.iter().any(|subject| new.subjects.contains(subject))
        });
        if let Some(busy) = busy {
            return Err(Failure::new(
                Code::OperationRunning,
                format!("operation {} is changing the same thing", busy.id),
            )
            .because(busy.summary.clone())
            .next(format!("`ctl op watch {}`, then try again", busy.id)));
        }
        for command in &new.initial {
            self.command(command, depth + 1)?;
        }
        let id = OperationId(self.next_id());
        let mut record = OperationRecord {
            id,
            kind: new.kind.clone(),
            summary: new.summary.clone(),
            subjects: new.subjects.clone(),
            state: OperationState::Running,
            steps: new.steps.clone(),
            compensation: new.compensation.clone(),
            undoing: false,
            requested_by: self.proposal.by.clone(),
            created_ms: self.proposal.at_ms,
            finished_ms: None,
            failure: None,
        };
        self.finish_if_over(&mut record);
        let summary = record.summary.clone();
        self.put(Update::Operation(id, Some(Box::new(record))));
        self.event("operation-started", format!("operation {id}: {summary}"), None, None);
        self.trim_operations();
        Ok(Answer::Operation(id))
    }

    /// Forgets the oldest finished operations.
    pub(super) fn trim_operations(&mut self) {
        let finished: Vec<OperationId> = self
            .machine
            .state
            .operations
            .values()
            .filter(|operation| operation.state.is_finished())
            .map(|operation| operation.id)
            .collect();
        let excess = finished.len().saturating_sub(MAX_FINISHED_OPERATIONS);
        for id in finished.into_iter().take(excess) {
            self.put(Update::Operation(id, None));
        }
    }

    pub(super) fn advance(
        &mut self,
        id: OperationId,
        update: &StepUpdate,
        depth: usize,
    ) -> Result<(), Failure> {
        let Some(mut record) = self.machine.state.operations.get(&id).cloned() else {
            return refuse(Code::NotFound, format!("there is no operation {id}"));
        };
        let now = self.proposal.at_ms;
        let expected = record.current_step().map(|(index, step)| (index, step.state));
        let seen = (update.step, update.from);
        if record.state.is_finished() || record.undoing != update.undoing || expected != Some(seen)
        {
            return refuse(Code::IndexChanged, format!("operation {id} has moved on"));
        }
        let mut failure = update.failure.clone();
        if let Err(refused) = self.all_or_none(&update.commands, depth) {
            failure = Some(refused);
        }
        let steps = if record.undoing { &mut record.compensation } else { &mut record.steps };
        let Some(step) = steps.get_mut(update.step) else {
            return refuse(Code::Internal, "a step that is not there");
        };
        if step.state == StepState::Waiting {
            step.started_ms = now;
        }
        if update.reached > step.reached {
            (step.reached, step.reached_ms) = (update.reached, now);
        }
        step.note.clone_from(&update.note);
        step.state = if failure.is_some() { StepState::Failed } else { update.to };
        if let Some(failure) = failure {
            self.fail(&mut record, failure);
        }
        self.finish_if_over(&mut record);
        self.put(Update::Operation(id, Some(Box::new(record))));
        Ok(())
    }

    /// Runs a step's commands; a refusal undoes those before it but not the
    /// entry, which goes on to record the failure.
    pub(super) fn all_or_none(
        &mut self,
        commands: &[Command],
        depth: usize,
    ) -> Result<(), Failure> {
        let before = self.machine.clone();
        let updates = self.updates.len();
        for command in commands {
            if let Err(refused) = self.command(command, depth + 1) {
                *self.machine = before;
                self.updates.truncate(updates);
                return Err(refused);
            }
        }
        Ok(())
    }

    pub(super) fn fail(&mut self, record: &mut OperationRecord, failure: Failure) {
        if record.undoing {
            // What else can be undone is; both reasons are left to read.
            let first = record.failure.take().map_or_else(String::new, |f| f.to_string());
            record.failure = Some(failure.because(format!("while undoing: {first}")));
            return;
        }
        for step in &mut record.steps {
            if step.state == StepState::Waiting {
                step.state = StepState::Skipped;
            }
        }
        record.failure = Some(failure);
        record.undoing = !record.compensation.is_empty();
    }

    pub(super) fn finish_if_over(&mut self, record: &mut OperationRecord) {
        if record.state.is_finished() || record.current_step().is_some() {
            return;
        }
        let undone =
            record.undoing && record.compensation.iter().all(|step| step.state == StepState::Done);
        record.state = match (&record.failure, undone) {
            (None, _) => OperationState::Done,
            (Some(_), true) => OperationState::RolledBack,
            (Some(_), false) => OperationState::Failed,
        };
        record.finished_ms = Some(self.proposal.at_ms);
        let word = match record.state {
            OperationState::Done => "done",
            OperationState::RolledBack => "rolled back",
            OperationState::Failed | OperationState::Running => "failed",
        };
        let message = format!("operation {} {word}: {}", record.id, record.summary);
        self.event("operation-finished", message, None, None);
    }
}

//! Operations as tables and as a page.

use rung_proto::api::{Operation, OperationState, StepState};

use super::table::{Cell, Table, Tone};
use super::text::clean;
use super::time;

/// The word and tone of a state.
pub fn state(state: OperationState) -> (&'static str, Tone) {
    match state {
        OperationState::Running => ("running", Tone::Warning),
        OperationState::Done => ("done", Tone::Good),
        OperationState::Failed => ("failed", Tone::Bad),
        OperationState::RolledBack => ("rolled-back", Tone::Bad),
    }
}

pub fn step_word(state: StepState) -> (&'static str, Tone) {
    match state {
        StepState::Waiting => ("waiting", Tone::Soft),
        StepState::Running => ("running", Tone::Warning),
        StepState::Done => ("done", Tone::Good),
        StepState::Failed => ("failed", Tone::Bad),
        StepState::Skipped => ("skipped", Tone::Soft),
    }
}

/// The list of `ctl op ls`.
pub fn table(operations: &[Operation], wide: bool, now_ms: u64) -> Table {
    let mut headings = vec!["ID", "KIND", "STATE", "AGE", "SUMMARY"];
    if wide {
        headings.extend(["BY", "STARTED", "TOOK", "STEPS"]);
    }
    let mut table = Table::new(&headings);
    for operation in operations {
        let (word, tone) = state(operation.state);
        let done = operation.steps.iter().filter(|s| s.state == StepState::Done).count();
        let mut row: Vec<Cell> = vec![
            operation.id.to_string().into(),
            operation.kind.as_str().into(),
            Cell::toned(word, tone),
            time::ago(operation.created_ms, now_ms).into(),
            operation.summary.as_str().into(),
        ];
        if wide {
            let took = operation.finished_ms.map(|end| end.saturating_sub(operation.created_ms));
            row.extend([
                operation.requested_by.as_str().into(),
                time::long(operation.created_ms).into(),
                took.map_or_else(|| "-".to_owned(), time::took).into(),
                format!("{done}/{}", operation.steps.len()).into(),
            ]);
        }
        table.row(row);
    }
    table
}

/// All of one operation, for `ctl op show` and `ctl explain`.
pub fn page(operation: &Operation, color: bool) -> String {
    let (word, tone) = state(operation.state);
    let mut out = format!(
        "operation {} {}: {}\n  {}\n  asked for by {} at {}\n",
        operation.id,
        clean(&operation.kind),
        tone.paint(word, color),
        clean(&operation.summary),
        clean(&operation.requested_by),
        time::long(operation.created_ms),
    );
    if let Some(end) = operation.finished_ms {
        let took = time::took(end.saturating_sub(operation.created_ms));
        out.push_str(&format!("  finished at {}, after {took}\n", time::long(end)));
    }
    out.push_str("steps\n");
    for (number, step) in operation.steps.iter().enumerate() {
        let (word, tone) = step_word(step.state);
        let word = tone.paint(&format!("{word:<7}"), color);
        out.push_str(&format!("  {}. {word}  {}", number + 1, clean(&step.name)));
        if !step.note.is_empty() {
            out.push_str(&format!(": {}", clean(&step.note)));
        }
        out.push('\n');
    }
    if let Some(result) = &operation.result {
        out.push_str(&format!("result\n  {}\n", clean(result)));
    }
    if let Some(failure) = &operation.failure {
        out.push_str(&super::text::failure(failure, color));
    }
    out
}

//! The steps of an operation as lines: each one once, when it changes.

use rung_proto::api::{Operation, StepState};

use crate::render::operation::step_word;
use crate::render::text::clean;

/// What was shown of an operation.
#[derive(Default)]
pub struct Progress {
    shown: Vec<(StepState, String)>,
}

/// How lines look.
#[derive(Clone, Copy)]
pub struct Style {
    /// Marks instead of words.
    pub marks: bool,
    pub color: bool,
}

impl Progress {
    /// The lines for what changed since the last call.
    pub fn lines(&mut self, operation: &Operation, style: Style) -> Vec<String> {
        let mut lines = Vec::new();
        for (at, step) in operation.steps.iter().enumerate() {
            let now = (step.state, step.note.clone());
            let before = self.shown.get(at);
            let news = before != Some(&now) && step.state != StepState::Waiting;
            if news {
                lines.push(line(step.state, &step.name, &step.note, style));
            }
            match self.shown.get_mut(at) {
                Some(shown) => *shown = now,
                None => self.shown.push(now),
            }
        }
        lines
    }
}

fn line(state: StepState, name: &str, note: &str, style: Style) -> String {
    let (word, tone) = step_word(state);
    let head = if style.marks {
        let mark = match state {
            StepState::Done => "✓",
            StepState::Failed => "✗",
            StepState::Skipped => "–",
            StepState::Running | StepState::Waiting => "…",
        };
        tone.paint(mark, style.color)
    } else {
        tone.paint(&format!("{word:<7}"), style.color)
    };
    let note = if note.is_empty() { String::new() } else { format!(": {}", clean(note)) };
    format!("  {head} {}{note}", clean(name))
}

#[cfg(test)]
mod tests {
    use rung_proto::OperationId;
    use rung_proto::api::{OperationState, Step};

    use super::*;

    fn operation(steps: &[(&str, StepState, &str)]) -> Operation {
        let step = |(name, state, note): &(&str, StepState, &str)| Step {
            name: (*name).to_owned(),
            state: *state,
            note: (*note).to_owned(),
        };
        Operation {
            id: OperationId(7),
            kind: "drain".to_owned(),
            summary: "drain n2".to_owned(),
            state: OperationState::Running,
            steps: steps.iter().map(step).collect(),
            requested_by: String::new(),
            created_ms: 0,
            finished_ms: None,
            result: None,
            failure: None,
        }
    }

    #[test]
    fn a_step_is_shown_when_it_changes_and_only_then() {
        let plain = Style { marks: false, color: false };
        let mut progress = Progress::default();
        let first = operation(&[("a", StepState::Running, "waits"), ("b", StepState::Waiting, "")]);
        assert_eq!(progress.lines(&first, plain), ["  running a: waits"]);
        assert!(progress.lines(&first, plain).is_empty());
        let second = operation(&[("a", StepState::Done, ""), ("b", StepState::Failed, "no room")]);
        assert_eq!(progress.lines(&second, plain), ["  done    a", "  failed  b: no room"]);
    }

    #[test]
    fn a_terminal_gets_marks() {
        let style = Style { marks: true, color: false };
        let steps = operation(&[("a", StepState::Done, ""), ("b", StepState::Running, "1 of 2")]);
        assert_eq!(Progress::default().lines(&steps, style), ["  ✓ a", "  … b: 1 of 2"]);
    }
}

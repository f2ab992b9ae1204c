//! Changes: sends one, streams the operation that it became, and tells how far
//! it was seen to come.

use std::time::{Duration, Instant};

use http::Method;
use rung_proto::api::{Change, ChangeAnswer, ChangeRequest, Operation, OperationState};
use rung_proto::{Code, Failure, OperationId};

use crate::args::ChangeOptions;
use crate::client::{Client, Lines};
use crate::output::{Exit, Screen, Trouble};
use crate::progress::{Progress, Style};
use crate::render::text::clean;
use crate::render::time;

/// How long a node may be away, for example to start again, before we give up
/// on an operation that it was asked about.
const ABSENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(500);

/// Makes a change, or plans it.
///
/// # Errors
/// A refusal, a failed operation, or an unknown outcome.
pub async fn run(
    screen: &Screen,
    client: &Client,
    change: Change,
    options: &ChangeOptions,
) -> Result<Exit, Trouble> {
    let deadline = Instant::now() + options.patience.timeout;
    let request = ChangeRequest {
        change,
        dry_run: options.dry_run,
        if_index: options.if_index,
        requested_by: requested_by(),
    };
    let answer = tokio::select! {
        answer = client.change(Method::POST, "/api/v1/operations", &request) => answer?,
        () = interrupted() => return Err(given_up(&request, "interrupted before the answer").into()),
        () = tokio::time::sleep_until(deadline.into()) => {
            let waited = format!("no answer within {} s", options.patience.timeout.as_secs());
            return Err(given_up(&request, &waited).into());
        }
    };
    match answer {
        ChangeAnswer::Nothing { index } => {
            let nothing = ChangeAnswer::Nothing { index };
            screen.show(&nothing, |_| Vec::new(), |_| format!("nothing to do (index {index})\n"));
            Ok(Exit::Done)
        }
        ChangeAnswer::Plan { .. } => Ok(show_plan(screen, &answer)),
        ChangeAnswer::Started { operation } => {
            screen.note(&format!("operation {}: {}", operation.id, clean(&operation.summary)));
            follow(screen, client, operation.id, Some(operation), deadline).await
        }
    }
}

/// Streams an operation to its end, across restarts of the node.
///
/// # Errors
/// When the operation fails, or when nothing is heard of it for too long.
pub async fn follow(
    screen: &Screen,
    client: &Client,
    id: OperationId,
    first: Option<Operation>,
    deadline: Instant,
) -> Result<Exit, Trouble> {
    let mut watch = Watch::new(screen, client, id, first);
    let ended = tokio::select! {
        ended = watch.watch_to_end() => Some(ended?),
        () = interrupted() => None,
        () = tokio::time::sleep_until(deadline.into()) => None,
    };
    match ended {
        Some(operation) => finish(screen, &operation),
        None => {
            screen.note(&format!("operation {id} goes on; see how it ends with"));
            screen.note(&format!("  ctl op watch {id}"));
            if let (true, Some(last)) = (screen.is_json(), &watch.last) {
                screen.json(last);
            }
            Ok(Exit::NotConverged)
        }
    }
}

/// The watching of one operation.
struct Watch<'a> {
    screen: &'a Screen,
    client: &'a Client,
    id: OperationId,
    progress: Progress,
    last: Option<Operation>,
}

impl<'a> Watch<'a> {
    fn new(
        screen: &'a Screen,
        client: &'a Client,
        id: OperationId,
        first: Option<Operation>,
    ) -> Self {
        let mut watch = Self { screen, client, id, progress: Progress::default(), last: None };
        if let Some(first) = first {
            watch.see(first);
        }
        watch
    }

    fn see(&mut self, operation: Operation) {
        let style =
            Style { marks: self.screen.error_is_terminal(), color: self.screen.error_color() };
        for line in self.progress.lines(&operation, style) {
            self.screen.note(&line);
        }
        self.last = Some(operation);
    }

    fn ended(&self) -> Option<Operation> {
        self.last.clone().filter(|operation| operation.state.is_finished())
    }

    async fn watch_to_end(&mut self) -> Result<Operation, Trouble> {
        let path = format!("/api/v1/operations/{}?follow=true", self.id);
        let mut away: Option<Instant> = None;
        loop {
            if let Some(ended) = self.ended() {
                return Ok(ended);
            }
            let failure = match self.client.lines(&path).await {
                Ok(lines) => {
                    away = None;
                    self.read(lines).await
                }
                Err(failure) => Some(failure),
            };
            let Some(failure) = failure else { continue };
            // Only what is known to exist is worth waiting for.
            let may_come_back = matches!(failure.code, Code::Unreachable | Code::Overloaded);
            if self.last.is_none() || !may_come_back {
                return Err(self.unknown(failure));
            }
            let since = *away.get_or_insert_with(|| {
                self.screen.note("  the node is away; trying again");
                Instant::now()
            });
            if since.elapsed() > ABSENCE {
                return Err(self.unknown(failure));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads a stream; the error is why it ended early.
    async fn read(&mut self, mut lines: Lines<Operation>) -> Option<Failure> {
        loop {
            match lines.next().await {
                Ok(Some(operation)) => self.see(operation),
                Ok(None) if self.ended().is_some() => return None,
                Ok(None) => {
                    return Some(Failure::new(
                        Code::Unreachable,
                        "the node ended the stream early",
                    ));
                }
                Err(failure) => return Some(failure),
            }
        }
    }

    /// An operation that was accepted has not failed because nobody tells of it.
    fn unknown(&self, failure: Failure) -> Trouble {
        if self.last.is_none() {
            return failure.into();
        }
        let id = self.id;
        Failure::new(Code::OutcomeUnknown, format!("how operation {id} ends is not known"))
            .because(failure)
            .next(format!("it was accepted and goes on; ask again with `ctl op watch {id}`"))
            .into()
    }
}

fn finish(screen: &Screen, operation: &Operation) -> Result<Exit, Trouble> {
    let id = operation.id;
    if operation.state == OperationState::Done {
        screen.show(
            operation,
            |operation| vec![operation.id.to_string()],
            |operation| {
                let result = operation.result.as_ref().unwrap_or(&operation.summary);
                let took = operation
                    .finished_ms
                    .map(|end| time::took(end.saturating_sub(operation.created_ms)));
                let took = took.map_or_else(String::new, |took| format!(" ({took})"));
                format!("done: {}{took}\n", clean(result))
            },
        );
        return Ok(Exit::Done);
    }
    if screen.is_json() {
        screen.json(operation);
    }
    let failure = operation.failure.clone().unwrap_or_else(|| {
        let code = match operation.state {
            OperationState::RolledBack => Code::AppFailed,
            _ => Code::Internal,
        };
        Failure::new(code, format!("operation {id} failed"))
            .next(format!("see its steps with `ctl op show {id}`"))
    });
    Err(Trouble { failure, exit: Exit::Failed as u8 })
}

fn show_plan(screen: &Screen, answer: &ChangeAnswer) -> Exit {
    let ChangeAnswer::Plan { index, summary, steps } = answer else { return Exit::Done };
    screen.show(
        answer,
        |_| vec![index.to_string()],
        |_| {
            let mut out = format!("plan: {}\n", clean(summary));
            for (number, step) in steps.iter().enumerate() {
                out.push_str(&format!("  {}. {}\n", number + 1, clean(step)));
            }
            if steps.is_empty() {
                out.push_str("  nothing to do\n");
            }
            out.push_str(&format!(
                "made at index {index}; add --if-index {index} to do just this\n"
            ));
            out
        },
    );
    if steps.is_empty() { Exit::Done } else { Exit::PlanHasChanges }
}

fn given_up(request: &ChangeRequest, why: &str) -> Failure {
    if request.dry_run {
        return Failure::new(Code::Unreachable, "the plan was not made")
            .because(why)
            .next("nothing was changed; try again");
    }
    Failure::new(Code::OutcomeUnknown, "it is not known whether the change was made")
        .because(why)
        .next("see `ctl op ls` and `ctl status` before you try again")
}

/// The person at the keyboard; the node adds what the socket proves.
pub fn requested_by() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_default()
}

/// Returns at Ctrl-C, or never where signals cannot be caught.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

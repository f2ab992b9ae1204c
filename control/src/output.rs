//! What a run ends with, and the two streams it writes: data to standard output,
//! progress and errors to standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use rung_proto::{Code, Failure};
use serde::Serialize;

use crate::render::table::Table;
use crate::render::text;

/// How a run ends when it is not an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    PlanHasChanges = 3,
    NotConverged = 4,
}

/// An error and the exit code it means here: a refusal that is 5 when it answers
/// a request is 1 when it is the end of an accepted operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    pub failure: Failure,
    pub exit: u8,
}

impl Trouble {
    pub fn internal(what: &str, why: impl Display) -> Self {
        Failure::new(Code::Internal, what).because(why).into()
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let exit = failure.code.exit_code();
        Self { failure, exit }
    }
}

/// The form of what goes to standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    // Not doc comments: clap would repeat them in the help of every command.
    Table,
    Wide,
    Json,
    Name,
}

/// Where output goes and how.
pub struct Screen {
    pub format: Format,
    /// Colours and cursor movements may be used on standard output.
    pub color: bool,
    /// Standard output is read by a person.
    pub terminal: bool,
    error_color: bool,
    error_terminal: bool,
}

/// The widest table that is not asked to be wide.
const COLUMNS: usize = 80;

impl Screen {
    pub fn new(format: Format) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let terminal = io::stdout().is_terminal();
        let error_terminal = io::stderr().is_terminal();
        Self {
            format,
            color: wanted && terminal,
            terminal,
            error_color: wanted && error_terminal,
            error_terminal,
        }
    }

    /// Writes to standard output. A reader that is gone ends the program, like
    /// any other filter.
    pub fn print(&self, text: &str) {
        let mut out = io::stdout().lock();
        if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            if error.kind() == io::ErrorKind::BrokenPipe {
                std::process::exit(0);
            }
            self.note(&format!("cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }

    pub fn line(&self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// A line of progress on standard error. Nobody may be reading there.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Progress for people: left out where a script reads.
    pub fn error_is_terminal(&self) -> bool {
        self.error_terminal
    }

    pub fn error_color(&self) -> bool {
        self.error_color
    }

    /// One whole answer as JSON.
    pub fn json<T: Serialize>(&self, value: &T) {
        self.line(&serde_json::to_string_pretty(value).expect("the API's own types encode"));
    }

    /// One object of a stream as JSON.
    pub fn json_line<T: Serialize>(&self, value: &T) {
        self.line(&serde_json::to_string(value).expect("the API's own types encode"));
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    pub fn is_wide(&self) -> bool {
        self.format == Format::Wide
    }

    /// The columns that a table has, if it is bounded.
    pub fn columns(&self) -> Option<usize> {
        (!self.is_wide()).then_some(COLUMNS)
    }

    pub fn table(&self, table: &Table) -> String {
        table.render(self.columns(), self.color)
    }

    /// Prints an answer as JSON, as names, or as a person reads it.
    pub fn show<T: Serialize>(
        &self,
        value: &T,
        names: impl FnOnce(&T) -> Vec<String>,
        people: impl FnOnce(&T) -> String,
    ) {
        match self.format {
            Format::Json => self.json(value),
            Format::Name => {
                let lines: String = names(value).iter().map(|name| format!("{name}\n")).collect();
                self.print(&lines);
            }
            Format::Table | Format::Wide => self.print(&people(value)),
        }
    }

    /// Reports an error: what, why, what next, and its code.
    pub fn report(&self, failure: &Failure) {
        if self.is_json() {
            let line = serde_json::to_string(failure).expect("a failure encodes");
            self.note(&line);
        } else {
            self.note(text::failure(failure, self.error_color).trim_end());
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

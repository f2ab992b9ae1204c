//! Errors as a person reads them: what happened, why, what was seen, what to do
//! next, and a code that never changes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stable code. `ctl explain <code>` tells more about each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    // Asked for wrongly.
    Usage,
    NotFound,
    AlreadyExists,
    InvalidManifest,
    InvalidBundle,
    // Refused by a precondition.
    IndexChanged,
    Precondition,
    NoCandidate,
    OperationRunning,
    /// What was asked for loses data, and nobody has accepted that.
    DataLoss,
    /// A majority of the copies is there, so nothing needs to be lost.
    MajorityReachable,
    /// Another copy has more than the one that was chosen.
    SurvivorBehind,
    // The cluster cannot decide now.
    NoQuorum,
    Unreachable,
    OutcomeUnknown,
    Overloaded,
    // Joining and identity.
    TokenInvalid,
    TokenExpired,
    TokenSpent,
    WrongCluster,
    NameTaken,
    ClockSkew,
    IdentityRefused,
    // The machine under a node.
    DataInUse,
    DataNewer,
    DataCorrupt,
    DiskFull,
    DiskFailed,
    PortTaken,
    Config,
    // Archives of databases.
    ArchiveUnusable,
    // Apps.
    AppFailed,
    Internal,
}

impl Code {
    /// The code as it is printed, for example `no-quorum`.
    pub fn name(self) -> String {
        let json = serde_json::to_string(&self).expect("a unit variant encodes");
        json.trim_matches('"').to_owned()
    }

    /// The code of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(name.to_owned())).ok()
    }

    /// The exit code of `ctl` for this error: 1 failed, 2 usage, 5 refused by a
    /// precondition, 6 no quorum or unreachable.
    pub fn exit_code(self) -> u8 {
        match self {
            Code::Usage | Code::InvalidManifest | Code::InvalidBundle => 2,
            Code::NotFound
            | Code::AlreadyExists
            | Code::IndexChanged
            | Code::Precondition
            | Code::NoCandidate
            | Code::OperationRunning
            | Code::DataLoss
            | Code::MajorityReachable
            | Code::SurvivorBehind
            | Code::NameTaken => 5,
            Code::NoQuorum | Code::Unreachable | Code::OutcomeUnknown | Code::Overloaded => 6,
            _ => 1,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

/// An error for a person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{what}{}{}", why_suffix(.why), next_suffix(.next))]
pub struct Failure {
    /// Its stable code.
    pub code: Code,
    /// What happened, one sentence without a full stop.
    pub what: String,
    /// Why, or what was seen; may be empty.
    #[serde(default)]
    pub why: String,
    /// What to do next; may be empty.
    #[serde(default)]
    pub next: String,
}

fn why_suffix(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}

fn next_suffix(next: &str) -> String {
    if next.is_empty() { String::new() } else { format!(" (next: {next})") }
}

impl Failure {
    /// An error with its code and what happened.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: String::new(), next: String::new() }
    }

    /// Adds why it happened, or what was seen.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = why.to_string();
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_and_read_back() {
        assert_eq!(Code::NoQuorum.name(), "no-quorum");
        assert_eq!(Code::from_name("no-quorum"), Some(Code::NoQuorum));
        assert_eq!(Code::from_name("nonsense"), None);
    }

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let failure = Failure::new(Code::NoQuorum, "the change was not made")
            .because("1 of 3 control voters answers")
            .next("start n4 or n5");
        assert_eq!(
            failure.to_string(),
            "the change was not made: 1 of 3 control voters answers (next: start n4 or n5)"
        );
    }
}

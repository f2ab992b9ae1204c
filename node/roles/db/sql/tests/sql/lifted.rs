//! Statements are executed without their literals where that can be: the answers must
//! be those that they have with them. A comment keeps literals where they are.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::case::Case;
use crate::session::Session;

/// Literals that take the place of others.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "10",
    "-1",
    "32767",
    "32768",
    "40000",
    "2147483647",
    "2147483648",
    "3000000000",
    "9223372036854775807",
    "9223372036854775808",
    "0.5",
    "1.50",
    "100.0",
    "1e2",
    "00012",
];
const STRINGS: &[&str] = &[
    "''",
    "'a'",
    "'abc'",
    "'x'",
    "'it''s'",
    "'%a%'",
    "'_b'",
    "'1'",
    "' 2 '",
    "'1.5'",
    "'-3'",
    "'true'",
    "'f'",
    "'2024-02-29'",
    "'2024-01-01 10:00:00+02'",
    "'now'",
    "'today'",
    "'1 day'",
    "'{1,2}'",
    "'{\"a\": 1}'",
    "'[1]'",
    "'null'",
    "'day'",
    "'UTC'",
    "'é'",
    "'a long one, really'",
    "'NaN'",
    "'infinity'",
    "'99999999999'",
];

/// Where numbers and strings are in a text.
fn places(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        if bytes[at] == b'\'' || bytes[at] == b'"' {
            let rest = &text[at + 1..];
            at = rest.find(bytes[start] as char).map_or(bytes.len(), |end| start + end + 2);
            if bytes[start] == b'\'' {
                found.push((start, at));
            }
        } else if is_part(bytes[at]) {
            at += bytes[at..].iter().position(|b| !is_part(*b)).unwrap_or(bytes.len() - at);
            if bytes[start].is_ascii_digit() {
                found.push((start, at));
            }
        } else {
            at += 1;
        }
    }
    found
}

/// The text with other literals at some of its places.
fn changed(text: &str, choices: &[(prop::sample::Index, prop::sample::Index)]) -> String {
    let mut text = text.to_owned();
    for (place, literal) in choices {
        let places = places(&text);
        if places.is_empty() {
            break;
        }
        let (start, end) = *place.get(&places);
        let among = if text[start..].starts_with('\'') { STRINGS } else { NUMBERS };
        text.replace_range(start..end, literal.get::<&str>(among));
    }
    text
}

/// Both ways; the answer must be one.
struct Sessions {
    lifted: Session,
    whole: Session,
}

impl Sessions {
    fn new() -> Self {
        Self { lifted: Session::new(), whole: Session::new() }
    }

    fn check(&mut self, text: &str) -> Result<(), TestCaseError> {
        let lifted = self.lifted.answer(text);
        let whole = self.whole.answer(&format!("/* */ {text}"));
        prop_assert_eq!(lifted, whole, "{}", text);
        Ok(())
    }
}

/// What gives another answer each time, what others need, what may take for ever.
const UNSTEADY: &[&str] = &[
    "random",
    "uuid",
    "clock_timestamp",
    "drop ",
    "alter ",
    "begin",
    "commit",
    "rollback",
    "generate_series",
    "recursive",
    "repeat",
    "pad(",
];

/// Whether a statement gives another answer each time, or ends what others need.
fn is_unsteady(text: &str) -> bool {
    let lower = text.to_lowercase();
    UNSTEADY.iter().any(|word| lower.contains(word))
}

/// Every statement of a file, and the same with other literals.
fn check(name: &str, rounds: u32) {
    let case = Case::read(name);
    let mut sessions = Sessions::new();
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let choices = prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..5);
    for step in &case.steps {
        let result = sessions.check(&step.statement);
        result.unwrap_or_else(|error| panic!("{error}"));
        if is_unsteady(&step.statement) {
            continue;
        }
        for _ in 0..rounds {
            let choices = choices.new_tree(&mut runner).expect("choices").current();
            let result = sessions.check(&changed(&step.statement, &choices));
            result.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn answers_are_the_same_without_literals() {
    for name in Case::files() {
        check(&name, 4);
    }
}

#[test]
fn answers_to_clients_are_the_same_without_literals() {
    for name in ["pgbench", "psql", "sqlalchemy", "psycopg", "django"] {
        check(&format!("../clients/{name}.txt"), 1);
    }
}

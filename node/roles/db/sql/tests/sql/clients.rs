//! What well-known clients send, and what PostgreSQL 15 answers to it.
//!
//! Oids differ from one database to another, so they stand as `@name@`: of a table,
//! index or sequence, or `@con:name@` of a constraint.

use std::collections::BTreeMap;

use rung_sql::Context;

use crate::case::Case;
use crate::session::Session;

/// Oids by name, as the database has them now.
fn oids(session: &mut Session) -> BTreeMap<String, String> {
    let lines = session.answer(
        "SELECT oid, relname FROM pg_class WHERE oid >= 16384 \
         UNION ALL SELECT oid, 'con:' || conname FROM pg_constraint",
    );
    let pairs = lines.iter().filter_map(|line| line.split_once('|'));
    pairs.map(|(oid, name)| (name.to_owned(), oid.to_owned())).collect()
}

fn with_oids(statement: &str, oids: &BTreeMap<String, String>) -> String {
    let mut text = statement.to_owned();
    for (name, oid) in oids {
        text = text.replace(&format!("@{name}@"), oid);
    }
    text
}

/// Whole words that are oids become names.
fn with_names(line: &str, oids: &BTreeMap<String, String>) -> String {
    let names: BTreeMap<&str, &str> =
        oids.iter().map(|(name, oid)| (oid.as_str(), name.as_str())).collect();
    let mut text = String::new();
    let mut digits = String::new();
    for character in line.chars().chain(std::iter::once('\n')) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        match names.get(digits.as_str()) {
            Some(name) => text.push_str(&format!("@{name}@")),
            None => text.push_str(&digits),
        }
        digits.clear();
        text.push(character);
    }
    text.pop();
    text
}

/// Rows without ORDER BY may come in any order.
fn in_any_order(statement: &str, lines: &[String]) -> Vec<String> {
    let mut lines = lines.to_vec();
    if !statement.to_lowercase().contains("order by") {
        lines.sort();
    }
    lines
}

fn check(name: &str) {
    let case = Case::read(&format!("../clients/{name}"));
    let mut session = Session::new();
    session.context = Context::new("postgres", "cases");
    let mut failures = Vec::new();
    for step in &case.steps {
        let before = oids(&mut session);
        let answer = session.answer(&with_oids(&step.statement, &before));
        let after = oids(&mut session);
        let answer: Vec<String> = answer.iter().map(|line| with_names(line, &after)).collect();
        if in_any_order(&step.statement, &answer) != in_any_order(&step.statement, &step.expected) {
            failures.push(format!(
                "{}\n  expected:\n    {}\n  answered:\n    {}",
                step.statement,
                step.expected.join("\n    "),
                answer.join("\n    ")
            ));
        }
    }
    let (failed, all) = (failures.len(), case.steps.len());
    assert!(failures.is_empty(), "{failed} of {all} answers differ\n\n{}", failures.join("\n\n"));
}

#[test]
fn pgbench_makes_its_tables_and_runs() {
    check("pgbench.txt");
}

#[test]
fn psql_describes_tables() {
    check("psql.txt");
}

#[test]
fn sqlalchemy_reflects_and_creates_tables() {
    check("sqlalchemy.txt");
}

#[test]
fn psycopg_looks_up_types() {
    check("psycopg.txt");
}

#[test]
fn django_migrates_and_inspects() {
    check("django.txt");
}

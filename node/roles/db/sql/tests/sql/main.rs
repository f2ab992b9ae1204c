//! Statements and what PostgreSQL 15 answers.
//!
//! Each file in `cases` is a session: statements on lines that begin with `> `, then
//! the answer: names of columns, rows, the command tag or the error. Nulls are
//! written NULL. The answers were taken from PostgreSQL 15, except for those in
//! `differences.txt`, which say what this database does not do.

// Errors are as large as what they tell; these are tests.
#![allow(clippy::result_large_err)]

mod case;
mod clients;
mod copy;
mod interface;
mod lifted;
mod robustness;
mod session;

use case::Case;

fn check(name: &str) {
    let case = Case::read(name);
    let mut session = session::Session::new();
    let mut failures = Vec::new();
    for step in &case.steps {
        let answer = session.answer(&step.statement);
        if answer != step.expected {
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

macro_rules! cases {
    ($($test:ident $file:literal;)*) => {
        $(#[test]
        fn $test() {
            check($file);
        })*

        #[test]
        fn every_case_file_is_run() {
            let known = [$($file),*];
            for name in Case::files() {
                assert!(known.contains(&name.as_str()), "{name} is not run");
            }
        }
    };
}

cases! {
    selects_answer_as_postgresql_does "select.txt";
    changes_answer_as_postgresql_does "changes.txt";
    more_selects_answer_as_postgresql_does "more.txt";
    what_is_not_done_is_refused "differences.txt";
    changes_of_the_schema_answer_as_postgresql_does "schema.txt";
    rows_as_values_answer_as_postgresql_does "records.txt";
}

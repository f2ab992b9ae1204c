//! Texts of SQL: parsed, analyzed against a small schema, translated and prepared by
//! SQLite. What is accepted is a statement that SQLite understands.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use rung_sql::{Context, Executor, Formats, Parameters, ResultColumn, RowSink, parse};

struct Nobody;

impl RowSink for Nobody {
    fn columns(&mut self, _: &[ResultColumn]) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }

    fn row(&mut self, _: &[u8], _: usize) -> std::ops::ControlFlow<()> {
        std::ops::ControlFlow::Continue(())
    }
}

const SCHEMA: &str = "CREATE TABLE a (id bigserial PRIMARY KEY, n integer, t text UNIQUE, \
    v numeric(10,2), f double precision, d date, z timestamptz, b boolean, y bytea, j jsonb, \
    u uuid, l int[]); CREATE TABLE c (id int GENERATED ALWAYS AS IDENTITY, \
    a bigint REFERENCES a (id)); CREATE VIEW w AS SELECT n, count(*) AS m FROM a GROUP BY n";

fn executor() -> (RefCell<Executor>, Context) {
    let connection = rusqlite::Connection::open_in_memory().expect("a database in memory");
    let mut executor = Executor::new(connection).expect("an executor");
    executor.install().expect("the catalog's tables");
    let context = Context::new("rung", "fuzz");
    for statement in parse(SCHEMA).expect("the schema") {
        let (parameters, formats) = (Parameters::default(), Formats::default());
        let done = executor.execute(&statement, &[], &parameters, &formats, &context, &mut Nobody);
        done.expect("the schema is made");
    }
    (RefCell::new(executor), context)
}

thread_local!(static EXECUTOR: (RefCell<Executor>, Context) = executor());

fuzz_target!(|text: &str| {
    let Ok(statements) = parse(text) else { return };
    EXECUTOR.with(|(executor, context)| {
        for statement in &statements {
            let described = executor.borrow_mut().describe(statement, &[], context);
            if let Err(error) = described {
                assert!(!error.message.is_empty() && error.state.0.len() == 5, "{error:?}");
                // A text that SQLite does not understand is our mistake.
                assert_ne!(error.state.0, "XX000", "{text:?}: {error:?}");
            }
        }
    });
});

//! Cost of one statement from its text to its rows, as pgbench's select-only sends it:
//! prepared, with parameters but parsed each time, with constants, and with constants
//! that stay where they are since a comment is there.
//! `cargo bench -p rung-sql --bench statements`.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rung_sql::{Context, Executor, Formats, Parameters, ResultColumn, RowSink, Statement, parse};

const LEAST: Duration = Duration::from_millis(500);
const ROWS: u64 = 100_000;

struct Nothing;

impl RowSink for Nothing {
    fn columns(&mut self, columns: &[ResultColumn]) -> ControlFlow<()> {
        black_box(columns);
        ControlFlow::Continue(())
    }

    fn row(&mut self, data: &[u8], _: usize) -> ControlFlow<()> {
        black_box(data);
        ControlFlow::Continue(())
    }
}

struct Session {
    executor: Executor,
    context: Context,
}

impl Session {
    fn new() -> Self {
        let connection = rusqlite::Connection::open_in_memory().expect("a database in memory");
        let mut executor = Executor::new(connection).expect("an executor");
        executor.install().expect("the catalog's tables");
        Self { executor, context: Context::new("", "") }
    }

    fn execute(&mut self, statement: &Statement, values: Vec<Option<Bytes>>) {
        let parameters = Parameters { values, formats: Formats::default() };
        let formats = Formats::default();
        self.executor
            .execute(statement, &[], &parameters, &formats, &self.context, &mut Nothing)
            .expect("a right statement");
    }

    fn text(&mut self, text: &str) {
        let statement = parse(text).expect("a right statement").remove(0);
        self.execute(&statement, Vec::new());
    }
}

fn measure(name: &str, mut statement: impl FnMut(u64)) {
    // Keys far from each other, the same for each way.
    let key = |number: u64| number.wrapping_mul(7919) % ROWS + 1;
    (0..1000).for_each(|number| statement(key(number)));
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < LEAST {
        (0..100).for_each(|number| statement(key(count + number)));
        count += 100;
    }
    let took = start.elapsed().as_nanos() as f64 / count as f64;
    println!("{name}: {:.2} us a statement", took / 1000.0);
}

fn main() {
    let mut session = Session::new();
    session.text("CREATE TABLE accounts (aid integer PRIMARY KEY, bid integer, abalance integer)");
    session.text(&format!("INSERT INTO accounts SELECT g, 1, 0 FROM generate_series(1, {ROWS}) g"));
    let select = "SELECT abalance FROM accounts WHERE aid =";
    let value = |key: u64| vec![Some(Bytes::from(key.to_string()))];
    let prepared = parse(&format!("{select} $1")).expect("a right statement").remove(0);
    measure("prepared", |key| session.execute(&prepared, value(key)));
    measure("parameters, parsed each time", |key| {
        let statement = parse(&format!("{select} $1")).expect("a right statement").remove(0);
        session.execute(&statement, value(key));
    });
    measure("constants", |key| session.text(&format!("{select} {key};")));
    measure("constants that stay", |key| session.text(&format!("/* */ {select} {key};")));
}
